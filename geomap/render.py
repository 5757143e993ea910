"""Renders maps: one cloud-optimised GeoTIFF per species, a STAC Item beside each, a Collection over all.

    python -m geomap.render --species "Eschscholzia californica"
    python -m geomap.render --species all --heads north-america-birds --grid north-america --workers 2

With no option but the species, the shipped bundle and the California grid are used. A render that was
stopped goes on where it was when it is called again: maps that are there and were made of the same are kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from geomap import api
from geomap.callable_module import make_callable
from geomap.cli import run

EPILOG = """
Examples:

    geomap render --species "Eschscholzia californica"
    geomap render --species all --grid california --workers 2
    geomap render --heads heads/mine --species all --png
    geomap render --species Wrentit --json | jq -r '.maps[].file'

Stopped halfway, the same command does the rest. Each map says whether its values are suitability, a relative
score, or probability, calibrated on complete surveys.
"""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def render(
    species: Annotated[
        list[str] | None,
        typer.Option(help="Scientific or common name, in any case; or `all`. Repeat for more."),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(help="Group of the bundle, or a folder made by geomap.fit. Default: all groups."),
    ] = None,
    grid: Annotated[str | None, typer.Option(help="Named grid; california if no area is given.")] = None,
    bbox: Annotated[
        tuple[float, float, float, float] | None, typer.Option(help="Area in degrees.", metavar="W S E N")
    ] = None,
    region: Annotated[Path | None, typer.Option(help="Area: a file of polygons.")] = None,
    resolution: Annotated[float | None, typer.Option(help="Side of a cell in units of the CRS.")] = None,
    crs: Annotated[str | None, typer.Option(help="CRS of the grid, for example EPSG:6933.")] = None,
    field: Annotated[Path | None, typer.Option(help="Embedding field. Default: one of the bundle.")] = None,
    imagery: Annotated[
        str | None, typer.Option(help="Imagery to encode the grid from, where no field has it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the maps.")] = Path("maps"),
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing maps.")] = False,
    png: Annotated[bool, typer.Option("--png", help="Draw a PNG beside each map.")] = False,
    photo: Annotated[
        list[Path] | None, typer.Option(help="Photo of a species: maps where the land looks like it. Repeat.")
    ] = None,
    encoders: Annotated[
        Path | None, typer.Option(help="Run of train.pretrain with photos and chips, for --photo.")
    ] = None,
    month: Annotated[
        list[int] | None, typer.Option(min=1, max=12, help="Month, for --photo and a -meta run. Repeat.")
    ] = None,
    metres: Annotated[
        float | None, typer.Option(help="Metres per pixel of the run's chips, where it does not say it.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the map of --photo.")] = "photos",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
) -> None:
    """Render one map per species, or a map of where the land looks like photos."""
    from geomap.grid import grid_from_options
    from geomap.rendering import Request, render_maps
    from geomap.report import maps_told, print_json, print_maps
    from geomap.target import FieldOptions

    if photo:
        from geomap.photorender import render_photo_option

        where_to = grid_from_options(grid, bbox, region, resolution, crs)
        render_photo_option(
            photo, species, encoders, imagery, where_to, out, name, month, heads, metres, workers, overwrite,
            as_json,
        )  # fmt: skip
        return
    if not species:
        raise typer.BadParameter("give --species, or --photo", param_hint="--species")
    anywhere = grid is None and bbox is None and region is None and resolution is None and crs is None
    cells = None if anywhere and field is not None else grid_from_options(grid, bbox, region, resolution, crs)
    where = FieldOptions(field, imagery, out / ".fields", workers)
    outcome = render_maps(Request(tuple(species), out, heads, cells, where, workers, overwrite, png))
    made = (outcome.folder, outcome.items.values(), outcome.kept, outcome.also)
    if as_json:
        print_json(maps_told(*made))
    else:
        print_maps(*made)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    return run(app, argv)


make_callable(__name__, api.render)

if __name__ == "__main__":
    sys.exit(main())
