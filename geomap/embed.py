"""Encode the imagery under a grid into an embedding field.

    python -m geomap.embed --grid california --imagery mosaic.tif --out california.zarr --workers 2

Stopped halfway (Ctrl-C, kill -9, a full disk), the same command with --resume does the rest; the result has
the same bytes as one that was never stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from geomap.cli import run
from geomap.report import print_json

if TYPE_CHECKING:
    from geomap.field import EmbeddingField
    from geomap.grid import Grid
    from geomap.sweep import Progress as SweepProgress

EPILOG = """
Examples:

    geomap embed --grid california --imagery mosaic.tif --out mine.zarr
    geomap embed --bbox -121 37 -120 38 --imagery mosaic.tif --out box.zarr
    geomap embed --grid california --imagery mosaic.tif --out mine.zarr --resume

The last one finishes what Ctrl-C, a crash or a full disk stopped; the bytes are those of a run in one go.
"""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def embed(
    imagery: Annotated[
        str, typer.Option(help="Raster, VRT or COG (path or URL), or a STAC catalogue or API.")
    ],
    out: Annotated[Path, typer.Option(help="Field to write: a folder, by custom named *.zarr.")],
    grid: Annotated[str | None, typer.Option(help="Named grid; california if no area is given.")] = None,
    bbox: Annotated[
        tuple[float, float, float, float] | None, typer.Option(help="Area in degrees.", metavar="W S E N")
    ] = None,
    region: Annotated[Path | None, typer.Option(help="Area: a file of polygons.")] = None,
    resolution: Annotated[float | None, typer.Option(help="Side of a cell in units of the CRS.")] = None,
    crs: Annotated[str | None, typer.Option(help="CRS of the grid, for example EPSG:6933.")] = None,
    encoders: Annotated[
        Path | None,
        typer.Option(help="Folder of encoders, or a run of train.pretrain; default: the bundle's."),
    ] = None,
    month: Annotated[
        int | None, typer.Option(min=1, max=12, help="Month, for encoders of a run that were told dates.")
    ] = None,
    metres: Annotated[
        float | None, typer.Option(help="Metres per pixel of a run's chips, where the run does not say it.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Dask processes; 0 and 1 work without Dask.")] = 1,
    scheduler: Annotated[str | None, typer.Option(help="Running Dask scheduler: tcp://…")] = None,
    chunk: Annotated[int | None, typer.Option(min=1, help="Side of a task in cells.")] = None,
    credit: Annotated[str, typer.Option(help="Credit line of the imagery, kept in the field.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Finish a sweep that was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing field.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Encode a grid's imagery into an embedding field."""
    from geomap.grid import grid_from_options

    cells = grid_from_options(grid, bbox, region, resolution, crs)
    started = time.monotonic()
    try:
        field = sweep_with_bar(
            encoders or _bundled_encoders(),
            imagery,
            cells,
            out,
            workers=workers,
            scheduler=scheduler,
            chunk=chunk,
            resume=resume,
            overwrite=overwrite,
            credit=credit,
            month=month,
            metres=metres,
        )
    except KeyboardInterrupt:
        console = Console(stderr=True)
        console.print(f"{out} is unfinished: the same command with --resume does the rest.", soft_wrap=True)
        raise
    _summarise(field, time.monotonic() - started, as_json)


def sweep_with_bar(encoders: Path, imagery: str, grid: Grid, out: Path, **options: Any) -> EmbeddingField:
    """`geomap.sweep.sweep` with a progress bar on stderr."""
    from geomap.sweep import sweep  # imported here: torch is slow to load

    with _bar(Console(stderr=True)) as bar:
        return sweep(encoders, imagery, grid, out, progress=bar, **options)


class _Bar:
    """A progress bar on stderr: cells looked at of all, land cells per second, time left."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.task = bar.add_task("encoding", total=None, rate="")
        self.start: tuple[float, int] | None = None

    def __call__(self, state: SweepProgress) -> None:
        now = time.monotonic()
        self.start = self.start or (now, state.land)
        passed = now - self.start[0]
        rate = f"{(state.land - self.start[1]) / passed:,.0f} land cells/s" if passed > 0 else ""
        self.bar.update(self.task, total=state.total, completed=state.done, rate=rate)


@contextmanager
def _bar(console: Console) -> Iterator[_Bar]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield _Bar(bar)


def _bundled_encoders() -> Path:
    from geomap.catalog import bundle_path

    return bundle_path() / "encoders"


def _summarise(field: EmbeddingField, seconds: float, as_json: bool) -> None:
    size = sum(entry["size"] for entry in field.files.values())
    if as_json:
        told = {
            "field": str(field.path), "grid": field.grid.name, "encoder_hash": field.encoder_hash,
            "valid_cells": field.valid_cells, "land_cells": field.land_cells, "features": field.dim,
            "bytes": size, "seconds": round(seconds, 3),
        }  # fmt: skip
        print_json(told)
        return
    Console(highlight=False).print(
        f"{field.path}: {field.valid_cells:,} of {field.land_cells:,} land cells, {field.dim} features, "
        f"{size / 1e6:,.1f} MB, {seconds:,.0f} s",
        soft_wrap=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    return run(app, argv)


if __name__ == "__main__":
    sys.exit(main())
