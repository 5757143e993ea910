"""Fits species heads on frozen encoders: minutes on two cores, from one species to thousands.

    python -m geomap.fit --records plants.csv --out heads/my-plants            # presence-only: suitability
    python -m geomap.fit --surveys routes.csv --out heads/my-birds             # complete surveys: probability

With both tables the species of the surveys are fitted, the records add presences, and the surveys alone
calibrate and score.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from rich.console import Console

from geomap import api
from geomap.background import extent_of
from geomap.callable_module import make_callable
from geomap.catalog import Catalog, bundle_path
from geomap.checks import Checks
from geomap.checks import lonlat_of as lonlat_columns
from geomap.cli import run
from geomap.crossval import Progress, assign_folds, block_degrees, block_ids
from geomap.errors import OutputError
from geomap.field import EmbeddingField, open_field
from geomap.fitcard import card_of, summary, told
from geomap.fitrequest import FitRequest, refuse_nonsense
from geomap.fitting import Group, fit_species
from geomap.gather import Gathered, combined, record_sites, survey_sites, with_background, without_rare
from geomap.heads import SpeciesHeads, require_free, save_heads
from geomap.pointsource import PointSource, best_bundled_field, point_source
from geomap.records import Records, read_records, read_surveys
from geomap.report import print_json
from geomap.workers import stages_shown

if TYPE_CHECKING:
    from train.species import FitConfig

EPILOG = """
Examples:

    geomap fit --records mine.csv --out heads/mine
    geomap fit --records mine.csv --out heads/mine --keep-records
    geomap fit --surveys routes.csv --grid north-america --out heads/routes

`geomap records mine.csv` says before what would be dropped. Presence-only records give suitability, complete
surveys probability.
"""

app = typer.Typer(add_completion=False)
RECORDS_FILE = "records.parquet"  # beside the heads
UNSAVED = "fitted"  # name of heads that no folder gives a name
SHOWN_COLUMNS = (
    "scientificName", "vernacularName", "decimalLongitude", "decimalLatitude", "eventDate",
    "coordinateUncertaintyInMeters", "license",
)  # fmt: skip


@app.command(epilog=EPILOG)
def fit(
    out: Annotated[Path, typer.Option(help="Folder for the heads.")],
    records: Annotated[Path | None, typer.Option(help="Presence-only records.")] = None,
    surveys: Annotated[Path | None, typer.Option(help="Complete surveys: visits and detections.")] = None,
    field: Annotated[
        Path | None, typer.Option(help="Embedding field. Default: the shipped one that fits.")
    ] = None,
    grid: Annotated[str | None, typer.Option(help="Name of a shipped field.")] = None,
    imagery: Annotated[str | None, typer.Option(help="Imagery for what the field does not have.")] = None,
    encoders: Annotated[
        Path | None, typer.Option(help="Encoders for the imagery. Default: the shipped ones.")
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation.", min=2)] = 5,
    block_degrees: Annotated[
        float | None, typer.Option(help="Side of a block. Default: 0.5 within 12 x 12 degrees, else 5.")
    ] = None,
    min_records: Annotated[int, typer.Option(help="Fewest cells or locations with a species.", min=1)] = 10,
    max_uncertainty: Annotated[
        float | None, typer.Option(help="Largest coordinate uncertainty [m]. Default: the side of a cell.")
    ] = None,
    background: Annotated[
        int, typer.Option(help="Random land cells for presence-only records.", min=1)
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
    credit: Annotated[str, typer.Option(help="Credit of the records, kept in the heads.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the records, kept in the heads.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing heads.")] = False,
    keep_records: Annotated[
        bool, typer.Option("--keep-records", help="Keep the records beside the heads, for the tile server.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Fit species heads on records or surveys, with cross-validated scores beside those of a null model."""
    request = FitRequest(
        out, records, surveys, field, grid, imagery, encoders, folds, block_degrees, min_records,
        max_uncertainty, background, seed, credit, licence, overwrite, keep_records=keep_records,
    )  # fmt: skip
    started, console = time.perf_counter(), Console(stderr=as_json)
    with stages_shown(console, folds + 5) as progress:
        heads = fit_heads(request, progress=progress)
    seconds = time.perf_counter() - started
    if as_json:
        print_json(told(heads, out, seconds))
        return
    console.print(summary(heads))
    console.print(f"{out}: {len(heads)} species, {heads.meaning}, in {seconds:.0f} s")


def fit_heads(
    request: FitRequest, config: FitConfig | None = None, progress: Progress = lambda stage: None
) -> SpeciesHeads:
    """Read, fit, score and, where a folder is given, save a group of species.

    Args:
        request: What to fit on, and where to.
        config: Settings of the trainer; its seed is replaced by the request's.
        progress: Told about each stage.

    Returns:
        The heads, as saved.

    Raises:
        RecordsError, FieldError, ImageryError, HeadsError: Something given cannot be used.
        OutputError: The output exists, or cannot be written.
    """
    refuse_nonsense(request)
    if request.out is not None:
        require_free(request.out, request.overwrite)
    progress("reading the records")
    tables = read_tables(request)
    source = source_of(request, np.concatenate([lonlat_of(table) for table in tables]))
    progress("embedding the places")
    degrees, gathered = gather(request, tables, source)
    fold = assign_folds(block_ids(gathered.sites.lonlat, degrees), request.folds, request.seed)

    from train.species import FitConfig  # imported here: torch is slow to load

    config = replace(config or FitConfig(), seed=request.seed)
    card = card_of(request, tables, source, gathered, degrees, config)
    name = UNSAVED if request.out is None else request.out.resolve().name
    group = Group(name, gathered.taxa, source.encoder_hash, card)
    heads = fit_species(gathered.sites, group, fold, config, source.field, progress)
    if request.out is not None:
        progress("saving")
        save_heads(heads, request.out, request.overwrite)
        if request.keep_records:
            keep_records(tables, heads, request.out)
    return heads


def read_tables(request: FitRequest) -> list[Records]:
    """The surveys, then the presence-only records, as far as they are given.

    Uncertainty is judged later, when the size of a cell is known.
    """
    checks = Checks(max_uncertainty_m=None)
    tables = [] if request.surveys is None else [read_surveys(request.surveys, checks)]
    return tables if request.records is None else [*tables, read_records(request.records, checks)]


def lonlat_of(table: Records) -> NDArray[np.float64]:
    """Places of a table (n, 2): all visited ones of surveys, those of the rows of records."""
    if table.locations is None:
        return table.lonlat
    return lonlat_columns(table.locations)


def source_of(request: FitRequest, lonlat: NDArray[np.float64]) -> PointSource:
    """Where embeddings come from: the named field, imagery, or the shipped field that fits the records."""
    field: EmbeddingField | None = None
    if request.field is not None:
        field = open_field(request.field)
    elif request.grid is not None:
        field = Catalog(bundle_path(), {}).field(request.grid)
    elif request.imagery is None:
        field = best_bundled_field(lonlat)
    return point_source(field, request.imagery, request.encoders)


def gather(request: FitRequest, tables: list[Records], source: PointSource) -> tuple[float, Gathered]:
    """Side of the blocks [degrees], and the sites of all tables with background."""
    parts = []
    for table in tables:
        if table.kind == "survey":
            parts.append(survey_sites(table, source))
        else:
            parts.append(record_sites(table, source, request.max_uncertainty))
    places = np.concatenate([part.sites.lonlat for part in parts])
    degrees = request.block_degrees or block_degrees(places)
    parts[0] = without_rare(parts[0], request.min_records)
    if request.records is not None:
        extent = extent_of(places, margin=degrees)
        parts[-1] = with_background(parts[-1], extent, source, request.background, request.seed)
    return degrees, parts[0] if len(parts) == 1 else combined(parts[0], parts[1])


def keep_records(tables: Sequence[Records], heads: SpeciesHeads, folder: Path) -> None:
    """Write places, dates and licences of the records of the fitted species to FOLDER/records.parquet.

    Rows whose coordinates were blurred on purpose were dropped on reading, so none of them gets there.

    Raises:
        OutputError: The file cannot be written.
    """
    kept = []
    for table in tables:
        rows = table.table
        met = rows[rows["detections"] > 0] if "detections" in rows else rows
        kept.append(met[[column for column in SHOWN_COLUMNS if column in met]])
    joined = pd.concat(kept, ignore_index=True)
    joined = joined[joined["scientificName"].isin(heads.species["scientificName"])]
    target, scratch = folder / RECORDS_FILE, folder / f".{RECORDS_FILE}"
    try:
        joined.to_parquet(scratch, index=False)
        scratch.replace(target)
    except OSError as error:
        raise OutputError(
            f"cannot write {target}", error.strerror or str(error), "Free some space"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(app, argv)


make_callable(__name__, api.fit)

if __name__ == "__main__":
    sys.exit(main())
