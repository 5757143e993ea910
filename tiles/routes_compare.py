"""Two species on one tile: where only the one, only the other, or both reach their thresholds.

A colour stands for one side of a threshold each, so the legend has four entries and none of them is a blend
that readers would have to guess at. Lightness tells them apart as well as hue does.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import APIRouter, FastAPI, Request, Response
from numpy.typing import NDArray

from geomap.colour import CLEAR, STEPS
from tiles.describe import default_threshold, root
from tiles.errors import NotServedError, QueryError, refusals
from tiles.headers import digest, kept_json
from tiles.lean import LeanRoute, LeanTiles, Plan, parse_species, parse_tile
from tiles.maps import About
from tiles.parameters import TMS, GridName, Species, Version
from tiles.routes_tiles import Column, Row, Tms, Zoom, pictures
from tiles.served import Served
from tiles.shown import Shown

NEITHER, ONLY_A, ONLY_B, BOTH, NOTHING = range(5)
COLORS = ((255, 255, 229, 255), (230, 159, 0, 230), (148, 84, 190, 230), (48, 20, 52, 240), (0, 0, 0, 0))


def add_compare_tiles(app: FastAPI, served: Served) -> None:
    """Add the route of tiles that compare two species."""
    answers = LeanTiles(served, _planner(served), frozenset({"grid", "v"}))
    route = LeanRoute(
        "/compare/{a}/{b}/tiles/{tms}/{z}/{x}/{y}.png", compare_tile, answers,
        summary="Tile of two species", responses=pictures("image/png"), tags=["compare"],
    )  # fmt: skip
    app.router.routes.insert(0, route)


def compare_tile(
    a: Species, b: Species, tms: Tms, z: Zoom, x: Column, y: Row, grid: GridName = None, v: Version = None
) -> None:
    """A tile in four colours: neither, only a, only b, both, each at its own default threshold."""


def router(served: Served) -> APIRouter:
    """The legend of the comparison."""
    api = APIRouter(tags=["compare"])

    @api.get(
        "/compare/{a}/{b}/legend.json", summary="Legend of two species", responses=refusals(404, 422, 503)
    )
    async def legend(request: Request, a: Species, b: Species, grid: GridName = None) -> Response:
        """Colours, thresholds, and the address of the tiles."""

        def work() -> dict[str, Any]:
            one, other = pair(served.shown, a, b, grid)
            return compare_legend(one, other, root(request))

        return kept_json(request, await served.gate.run(work))

    return api


def pair(shown: Shown, a: str, b: str, grid: str | None) -> tuple[About, About]:
    """The maps of two species on one grid: the one asked for, or the finest that both have.

    Raises:
        NotServedError: There is no such species, or no grid has both.
        QueryError: A map has no threshold.
    """
    if grid is None:
        common = [each.grid for each in shown.of(a) if each.grid in {other.grid for other in shown.of(b)}]
        if not common:
            raise NotServedError("cannot compare", f"no grid has both {a} and {b}", "Choose two of one grid.")
        first = shown.choose(a)
        grid = first.grid if first.grid in common else common[0]
    maps = shown.choose(a, grid), shown.choose(b, grid)
    for about in maps:
        if default_threshold(about) is None:
            raise QueryError("cannot compare", f"{about.id} has no threshold", "Choose a map of a species.")
    return maps


def compare_legend(a: About, b: About, base: str) -> dict[str, Any]:
    """What the colours of a comparison mean."""
    names = {NEITHER: "neither", ONLY_A: "only a", ONLY_B: "only b", BOTH: "both"}
    titles = {
        NEITHER: "Below the threshold of either",
        ONLY_A: f"Only {a.scientific}",
        ONLY_B: f"Only {b.scientific}",
        BOTH: "Both",
    }
    version = _version(a, b)
    tiles = f"{base}/compare/{a.id}/{b.id}/tiles/{TMS[0]}/{{z}}/{{x}}/{{y}}.png?grid={a.grid}&v={version}"
    return {
        "a": _side(a),
        "b": _side(b),
        "grid": a.grid,
        "version": version,
        "classes": [{"name": names[k], "title": titles[k], "color": _hex(COLORS[k])} for k in names],
        "tiles": tiles,
    }


def classes(a: NDArray[np.uint8], b: NDArray[np.uint8], limit_a: float, limit_b: float) -> NDArray[np.uint8]:
    """Which of two species reach their thresholds.

    Args:
        a: (h, w) uint8 palette entries of the one, `CLEAR` without data.
        b: (h, w) the same of the other.
        limit_a: Threshold of the one in palette entries.
        limit_b: Threshold of the other.

    Returns:
        (h, w) uint8: `NEITHER`, `ONLY_A`, `ONLY_B`, `BOTH`; `NOTHING` where neither has data.
    """
    has_a, has_b = a != CLEAR, b != CLEAR
    found = (has_a & (a >= limit_a)).astype(np.uint8) + 2 * (has_b & (b >= limit_b)).astype(np.uint8)
    return np.where(has_a | has_b, found, NOTHING).astype(np.uint8)


def encode(found: NDArray[np.uint8]) -> bytes:
    """A PNG of classes (h, w) in their colours."""
    from PIL import Image

    picture = Image.fromarray(found, mode="P")
    picture.putpalette([part for color in COLORS for part in color[:3]])
    file = io.BytesIO()
    alphas = bytes(color[3] for color in COLORS)
    picture.save(file, format="PNG", compress_level=1, transparency=alphas)
    return file.getvalue()


def _planner(served: Served) -> Any:
    def plan(path: Mapping[str, str], query: Mapping[str, str]) -> Plan:
        ids, tile = (parse_species(path["a"]), parse_species(path["b"])), parse_tile(path)
        a, b = pair(served.shown, *ids, query.get("grid"))
        version = _version(a, b)
        if query.get("v", version) != version:
            raise NotServedError(
                "cannot compare", f"version {query['v']}", f"They are now of version {version}."
            )

        def draw() -> bytes:
            from tiles import paint

            one, other = (paint.tile_levels(served.shown.map_of(about), *tile, 0) for about in (a, b))
            return encode(classes(one, other, limit(a), limit(b)))

        identity = repr(("compare", a.id, b.id, a.group, b.group, version, tile))
        return Plan(identity, draw, "image/png", "v" in query)

    return plan


def limit(about: About) -> float:
    """The default threshold of a map in palette entries, rounded like the entries themselves."""
    key = default_threshold(about)
    value = about.thresholds[key].value if key else math.inf
    band = about.bands[0]
    return float(np.rint((value - band.low) / (band.high - band.low) * STEPS))


def _side(about: About) -> dict[str, Any]:
    key = default_threshold(about)
    return {
        "id": about.id,
        "scientificName": about.scientific,
        "vernacularName": about.vernacular,
        "group": about.group,
        "meaning": about.meaning,
        "threshold": key,
        "value": about.thresholds[key].value if key else None,
    }


def _version(a: About, b: About) -> str:
    return digest(a.version, b.version, a.group, b.group)[:12]


def _hex(color: tuple[int, ...]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color[:3])
