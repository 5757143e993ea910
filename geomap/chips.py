"""Cut aerial chips around records, for training on them.

    python -m geomap.chips --records R.csv --imagery mosaic.tif --out chips --metres 10 --pixels 64

The folder (`train.data.chip_folder` reads it) has one chip per place: records within one pixel share it.
Chips lie on the pixel lattice that the sweep reads, so an encoder sees in training what it will see on the
map; give the CRS of that map with --crs. Stopped halfway, the same command with --resume does the rest; the
result has the same bytes as one that was never stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from geomap.cli import run
from geomap.report import print_json

EPILOG = """
Examples:

    geomap chips --records R.csv --imagery mosaic.tif --out chips
    geomap chips --records R.csv --imagery deep.tif --out deep --dtype uint16
    geomap chips --records R.csv --imagery mosaic.tif --out chips --resume

The last one, with the options of the run that was stopped, does the rest.
"""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def chips(
    records: Annotated[Path, typer.Option(help="Table of records: CSV, TSV, DwC-A zip, GeoParquet ...")],
    imagery: Annotated[
        str, typer.Option(help="Raster, VRT or COG (path or URL), or a STAC catalogue or API.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    metres: Annotated[float, typer.Option(help="Side of a pixel [m].")] = 10.0,
    pixels: Annotated[int, typer.Option(min=1, help="Side of a chip [pixels].")] = 64,
    bands: Annotated[str | None, typer.Option(help="Bands to read, as 1,2,3; default: all.")] = None,
    dtype: Annotated[
        Literal["uint8", "uint16", "float32"], typer.Option(help="Type of the stored values.")
    ] = "uint8",
    crs: Annotated[
        str, typer.Option(help="CRS of the pixels, in metres; that of the map to come.")
    ] = "EPSG:6933",
    max_uncertainty: Annotated[
        float | None, typer.Option(help="Largest coordinate uncertainty [m]; default: half a chip.")
    ] = None,
    sea: Annotated[bool, typer.Option(help="Keep records at sea.")] = False,
    duplicates: Annotated[bool, typer.Option(help="Keep records of one species, place and day.")] = False,
    credit: Annotated[str, typer.Option(help="Credit line of the imagery, kept in the card.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Finish a run that was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing chips.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the card of the chips as JSON.")] = False,
) -> None:
    """Cut aerial chips around records."""
    from geomap.checks import Checks
    from geomap.chipplaces import Shape, numbers
    from geomap.cutting import cut
    from geomap.imagery import open_imagery
    from geomap.records import read_records

    shape = Shape(metres, pixels, dtype, crs)
    uncertainty = metres * pixels / 2 if max_uncertainty is None else max_uncertainty
    checks = Checks(max_uncertainty_m=uncertainty, land_only=not sea, duplicates=not duplicates)
    source = open_imagery(imagery, numbers(bands))
    table = read_records(records, checks)
    console = Console(stderr=True)
    started = time.monotonic()
    speed = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("cutting"), BarColumn(), TaskProgressColumn(), speed, TimeRemainingColumn())
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("cutting", total=None, rate="")
            first: list[tuple[float, int]] = []  # what an earlier run had cut does not count for the rate

            def show(done: int, total: int) -> None:
                first.append((time.monotonic(), done))
                passed = first[-1][0] - first[0][0]
                rate = f"{(done - first[0][1]) / passed:,.0f} chips/s" if passed > 0 else ""
                bar.update(task, completed=done, total=total, rate=rate)

            card = cut(
                table,
                source,
                shape,
                out,
                resume=resume,
                overwrite=overwrite,
                credit=credit,
                progress=show,
            )
    except KeyboardInterrupt:
        console.print(f"{out} is unfinished: the same command with --resume does the rest.", soft_wrap=True)
        raise
    if as_json:
        print_json(card)
        return
    told = ", ".join(f"{rows:,} {reason}" for reason, rows in card["dropped"].items()) or "none"
    Console(highlight=False).print(
        f"{out}: {card['chips']:,} chips of {pixels} x {pixels} pixels, {card['records']:,} records of "
        f"{len(card['species']):,} species, dropped: {told}, {time.monotonic() - started:,.0f} s",
        soft_wrap=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    return run(app, argv)


if __name__ == "__main__":
    sys.exit(main())
