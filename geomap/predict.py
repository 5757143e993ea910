"""Predicts species at points: the rows of a table as they came, and one column more for each species.

    python -m geomap.predict --heads california-plants --points plots.csv --out predicted.csv

Values are suitability or probability, 0..1, as the heads say; empty where there is no embedding.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from geomap import api
from geomap.callable_module import make_callable
from geomap.catalog import Catalog, bundle_path
from geomap.cli import run
from geomap.errors import OutputError, RecordsError
from geomap.field import open_field
from geomap.heads import SpeciesHeads
from geomap.pointsource import PointSource, point_source
from geomap.pointtable import (
    Counts,
    as_text,
    coordinate_columns,
    coordinates,
    reading,
    table_of,
    written_whole,
)
from geomap.report import print_json

CHUNK = 20_000  # rows held at once

EPILOG = """
Examples:

    geomap predict --heads heads/mine --points sites.csv --out sites-mine.csv
    geomap predict --heads world-birds --points p.csv --out p-birds.csv

The rows come as they are, with a column more for each species; a point without an embedding has an empty
cell.
"""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def predict(
    heads: Annotated[str, typer.Option(help="Name of shipped heads, or a folder made by geomap.fit.")],
    points: Annotated[Path, typer.Option(help="CSV or TSV with decimalLongitude and decimalLatitude.")],
    out: Annotated[Path, typer.Option(help="CSV to write.")],
    field: Annotated[
        Path | None, typer.Option(help="Embedding field. Default: that of the heads' own grid.")
    ] = None,
    grid: Annotated[str | None, typer.Option(help="Name of a shipped field.")] = None,
    imagery: Annotated[str | None, typer.Option(help="Imagery for points outside the field.")] = None,
    encoders: Annotated[
        Path | None, typer.Option(help="Encoders for the imagery. Default: the shipped ones.")
    ] = None,
    species: Annotated[
        list[str] | None, typer.Option(help="Species to predict; repeat for more. Default: all.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what became of the rows as JSON.")] = False,
) -> None:
    """Predict species at points."""
    if out.exists() and not overwrite:
        raise OutputError(
            f"cannot write {out}", "it exists already", "Choose another --out or give --overwrite"
        )
    fitted = find_heads(heads)
    chosen = [fitted.index(name) for name in species] if species else list(range(len(fitted)))
    source = source_of(fitted, field, grid, imagery, encoders)
    counts = predict_table(fitted, chosen, source, points, out)
    if as_json:
        print_json(told(fitted, chosen, counts, out))
    else:
        report(fitted, chosen, counts, out)


def find_heads(name: str) -> SpeciesHeads:
    """Shipped heads of this name, or those in a folder.

    Raises:
        HeadsError: Neither is there, or they are corrupt.
    """
    catalog = Catalog.open(name)
    return catalog.heads(catalog.groups[0])


def source_of(
    heads: SpeciesHeads, field: Path | None, grid: str | None, imagery: str | None, encoders: Path | None
) -> PointSource:
    """The source of embeddings for the points, checked against the heads.

    Raises:
        RecordsError: Both a field and a grid are named.
        FieldError, ImageryError: They cannot be read.
        HeadsError: The heads belong to other encoders.
    """
    if field is not None and grid is not None:
        raise RecordsError(
            "cannot choose the field", f"--field {field} and --grid {grid}", "Give one of them"
        )
    own = heads.card.get("grid")
    if field is not None:
        opened = open_field(field)
    elif grid is not None or own is not None:
        opened = Catalog(bundle_path(), {}).field(grid or str(own))
    else:
        opened = None  # fitted on imagery alone
    source = point_source(opened, imagery, encoders)
    heads.require_encoder(
        source.encoder_hash, f"the field {opened.path}" if opened else "the imagery's encoders"
    )
    return source


def predict_table(
    heads: SpeciesHeads, species: Sequence[int], source: PointSource, points: Path, out: Path
) -> Counts:
    """Read, predict and write chunk by chunk; the output appears when it is whole.

    Args:
        heads: Species heads.
        species: Indices of those to predict, a column each.
        source: Embeddings of points.
        points: CSV or TSV, plain or gzipped, UTF-8.
        out: File to write, with the delimiter of the input; gzipped when its name ends in .gz.

    Returns:
        What became of the rows.

    Raises:
        RecordsError: The table cannot be used.
        OutputError: The output cannot be written.
    """
    columns = [str(name) for name in heads.species["scientificName"].iloc[list(species)]]
    counts = Counts()
    with reading(points) as lines, written_whole(out) as target:
        delimiter, header, rows = table_of(points, lines)
        where = coordinate_columns(points, header)
        clash = sorted(set(header) & set(columns))
        if clash:
            raise RecordsError(
                f"cannot add predictions to {points.name}",
                f"it has a column {clash[0]!r}",
                "Rename that column",
            )
        writer = csv.writer(target, delimiter=delimiter, lineterminator="\n")
        writer.writerow([*header, *columns])
        while chunk := list(islice(rows, CHUNK)):
            lonlat = coordinates(points, chunk, header, where, counts)
            scores = predict_points(heads, species, source, lonlat, counts)
            writer.writerows([*row, *texts] for row, texts in zip(chunk, as_text(scores), strict=True))
        refuse_unusable(points, counts)
    return counts


def predict_points(
    heads: SpeciesHeads,
    species: Sequence[int],
    source: PointSource,
    lonlat: NDArray[np.float64],
    counts: Counts,
) -> NDArray[np.float32]:
    """Scores (n, s) of points, NaN where a point has no embedding."""
    scores = np.full((len(lonlat), len(species)), np.nan, np.float32)
    placed = np.flatnonzero(np.isfinite(lonlat).all(axis=1))
    features, found = source.embed(lonlat[placed])
    counts.outside += int((~found).sum())
    scores[placed[found]] = heads.predict(features[found], species)
    return scores


def refuse_unusable(path: Path | str, counts: Counts) -> None:
    """Refuse a table without rows, with coordinates the wrong way round, or with no point to predict at."""
    if counts.rows == 0:
        raise RecordsError(f"cannot predict at {path}", "the table has no rows", "Give at least one point")
    if counts.swapped > counts.rows / 2:
        found = f"{counts.swapped} of {counts.rows} latitudes beyond 90 degrees"
        raise RecordsError(f"cannot predict at {path}", found, "Swap longitude and latitude")
    if counts.outside == counts.rows - counts.unplaced and counts.outside:
        found = f"none of {counts.outside} points has an embedding"
        change = "Give a --field or --imagery that covers them, and check that the columns are not swapped"
        raise RecordsError(f"cannot predict at {path}", found, change)
    if counts.unplaced == counts.rows:
        found = "not one row with coordinates in degrees"
        raise RecordsError(
            f"cannot predict at {path}", found, "Give decimalLongitude and decimalLatitude, WGS 84"
        )


def report(heads: SpeciesHeads, species: Sequence[int], counts: Counts, out: Path) -> None:
    """Say what was written, and how many rows came back empty."""
    done = counts.rows - counts.unplaced - counts.outside
    Console().print(f"{out}: {heads.meaning} of {len(species)} species at {done} of {counts.rows} points")
    for number_of, why in (
        (counts.unplaced, "no usable coordinates"),
        (counts.outside, "no embedding there"),
    ):
        if number_of:
            Console(stderr=True).print(f"Warning: {number_of} of {counts.rows} rows are empty: {why}.")


def told(heads: SpeciesHeads, species: Sequence[int], counts: Counts, out: Path) -> dict[str, Any]:
    """The same in plain values."""
    return {
        "file": str(out), "heads": heads.name, "meaning": heads.meaning,
        "species": [str(name) for name in heads.species["scientificName"].iloc[list(species)]],
        "rows": counts.rows, "predicted": counts.rows - counts.unplaced - counts.outside,
        "without_coordinates": counts.unplaced, "without_embedding": counts.outside,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(app, argv)


make_callable(__name__, api.predict)

if __name__ == "__main__":
    sys.exit(main())
