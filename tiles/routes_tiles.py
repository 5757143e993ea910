"""The routes of tiles: colours, values, and two species compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Path

from geomap.colour import DEFAULT
from tiles.cuts import cut_of
from tiles.errors import QueryError, refusals
from tiles.lean import WHAT, LeanRoute, LeanTiles, Plan, band_of, parse_species, parse_tile
from tiles.maps import About
from tiles.parameters import (
    MAXZOOM,
    TMS,
    Colormap,
    GridName,
    GroupName,
    Layer,
    Species,
    Threshold,
    Version,
)  # fmt: skip
from tiles.routes_species import check_version
from tiles.served import Served

COLOURED = frozenset({"grid", "group", "layer", "colormap", "threshold", "v"})
MEDIA = {"png": "image/png", "webp": "image/webp"}
Tms = Annotated[str, Path(pattern=f"^({'|'.join(TMS)})$", description="Tile matrix set", examples=[TMS[0]])]
Zoom = Annotated[int, Path(ge=0, le=MAXZOOM, description="Zoom level", examples=[6])]
Column = Annotated[int, Path(ge=0, lt=2 ** (MAXZOOM + 1), description="Column from the west", examples=[10])]
Row = Annotated[int, Path(ge=0, lt=2**MAXZOOM, description="Row from the north", examples=[24])]
Format = Annotated[str, Path(pattern=f"^({'|'.join(MEDIA)})$", description="File format", examples=["png"])]


def pictures(*media: str) -> dict[int | str, dict[str, Any]]:
    """The statuses of a route of tiles for its `responses=`."""
    content = {each: {"schema": {"type": "string", "format": "binary"}} for each in media}
    return {
        200: {"description": "The tile, clear where there is no data", "content": content},
        304: {"description": "The client has it already"},
        **refusals(404, 422, 503),
    }


def add_tiles(app: FastAPI, served: Served) -> None:
    """Add the routes before all others, since they are asked for most."""
    routes = [
        LeanRoute(
            "/species/{species}/tiles/{tms}/{z}/{x}/{y}/value", value_tile,
            LeanTiles(served, _values(served), frozenset({"grid", "group", "layer", "v"})),
            summary="Tile of values", responses=pictures("image/png"), tags=["tiles"],
        ),
        LeanRoute(
            "/species/{species}/tiles/{tms}/{z}/{x}/{y}.{format}", colour_tile,
            LeanTiles(served, _colours(served), COLOURED),
            summary="Tile in colours", responses=pictures(*MEDIA.values()), tags=["tiles"],
        ),
    ]  # fmt: skip
    app.router.routes[:0] = routes


def colour_tile(
    species: Species, tms: Tms, z: Zoom, x: Column, y: Row, format: Format, grid: GridName = None,
    group: GroupName = None, layer: Layer = None, colormap: Colormap = DEFAULT,
    threshold: Threshold = None, v: Version = None,
) -> None:  # fmt: skip
    """A tile of 256 x 256 pixels with the colours of the legend, clear where there is no data.

    With a threshold, cells below it take the lightest colour, as on the page: no data stays another thing.
    With the current version `v` in its address it stays true for ever; with an old one it is not found.
    """


def value_tile(
    species: Species, tms: Tms, z: Zoom, x: Column, y: Row,
    grid: GridName = None, group: GroupName = None, layer: Layer = None, v: Version = None,
) -> None:  # fmt: skip
    """A grey PNG of 256 x 256 pixels: 0..250 from the low to the high end of the layer, 255 without data."""


def _colours(served: Served) -> Any:
    def plan(path: Mapping[str, str], query: Mapping[str, str]) -> Plan:
        kind = path["format"]
        if kind not in MEDIA:
            raise QueryError(WHAT, f"format {kind[:20]!r}", f"Ask for .{' or .'.join(MEDIA)}.")
        colormap = query.get("colormap", DEFAULT)
        about, tile, band = _asked(served, path, query)
        cut = cut_of(about, band, query.get("threshold"))

        def draw() -> bytes:
            from tiles import paint

            chosen = served.shown.map_of(about)
            levels = paint.tile_levels(chosen, *tile, band, 256, cut)
            return (
                paint.encode_png(levels, colormap) if kind == "png" else paint.encode_webp(levels, colormap)
            )

        return Plan(_identity(about, tile, band, colormap, kind, cut), draw, MEDIA[kind], "v" in query)

    return plan


def _values(served: Served) -> Any:
    def plan(path: Mapping[str, str], query: Mapping[str, str]) -> Plan:
        about, tile, band = _asked(served, path, query)

        def draw() -> bytes:
            from tiles import paint

            return paint.encode_value(paint.tile_levels(served.shown.map_of(about), *tile, band))

        return Plan(_identity(about, tile, band, "value"), draw, MEDIA["png"], "v" in query)

    return plan


def _asked(
    served: Served, path: Mapping[str, str], query: Mapping[str, str]
) -> tuple[About, tuple[str, int, int, int], int]:
    """The map, the tile and the layer that are asked for.

    Raises:
        QueryError: Something has not the form that it must have.
        NotServedError: There is no such map, layer, version or tile.
    """
    species, tile = parse_species(path["species"]), parse_tile(path)
    about = served.shown.choose(species, query.get("grid"), query.get("group"))
    check_version(about, query.get("v"))
    return about, tile, band_of(about, query.get("layer"))


def _identity(about: About, *parts: object) -> str:
    return repr((about.id, about.grid, about.group, about.version, *parts))
