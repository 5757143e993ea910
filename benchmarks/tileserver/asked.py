"""What the clients ask for: random tiles in California, as paths at our server and at stock TiTiler."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from pyproj import Transformer
from pyproj.enums import TransformDirection

GRIDS = {"3857": "california-3857", "3310": "california"}  # CRS -> folder of maps
BOX = (-370_000.0, -600_000.0, 536_000.0, 446_000.0)  # within the grid: west, south, east, north [m]
HALF = 20_037_508.342789244  # half the side of the world in Web Mercator [m]
ZOOMS = range(5, 11)
COLOURS = ".png?rescale=0,1&colormap_name=ylorbr"  # of stock: those that ours has without being asked
Pair = tuple[str, tuple[int, int, int]]  # a species and a tile


@cache
def tiles_of(zoom: int) -> list[tuple[int, int, int]]:
    """Tiles of Web Mercator that meet the box; stock has no others in EPSG:3310."""
    back = Transformer.from_crs("EPSG:3857", "EPSG:3310", always_xy=True)
    west, south, east, north = back.transform_bounds(*BOX, direction=TransformDirection.INVERSE)
    side = 2 * HALF / 2**zoom
    found = []
    for x in range(int((west + HALF) / side), int((east + HALF) / side) + 1):
        for y in range(int((HALF - north) / side), int((HALF - south) / side) + 1):
            left, top = x * side - HALF, HALF - y * side
            bounds = back.transform_bounds(left, top - side, left + side, top)
            if bounds[0] < BOX[2] and bounds[2] > BOX[0] and bounds[1] < BOX[3] and bounds[3] > BOX[1]:
                found.append((zoom, x, y))
    return found


def draw(
    species: Sequence[str], count: int, rng: np.random.Generator, zooms: Sequence[int] = ZOOMS
) -> list[Pair]:
    """Random pairs of a species and a tile, none twice; zooms in turn, a zoom until it has no more pairs."""
    pools: list[list[Pair]] = []
    for zoom in zooms:
        pairs = [(slug, tile) for slug in species for tile in tiles_of(zoom)]
        pools.append([pairs[k] for k in rng.permutation(len(pairs))[:count].tolist()])
    drawn: list[Pair] = []
    while len(drawn) < count and any(pools):
        drawn += [pool.pop() for pool in pools if pool]
    return drawn[:count]


def at_ours(pairs: Sequence[Pair], grid: str = GRIDS["3310"], what: str = ".png") -> list[str]:
    """Paths of tiles at our server."""
    form = "/species/{}/tiles/WebMercatorQuad/{}/{}/{}{}?grid={}"
    return [form.format(slug, *tile, what, grid) for slug, tile in pairs]


def at_stock(pairs: Sequence[Pair], grid: str, what: str = COLOURS) -> list[str]:
    """Paths of the same tiles at stock TiTiler."""
    form = "/{}/{}/tiles/WebMercatorQuad/{}/{}/{}{}"
    return [form.format(grid, slug, *tile, what) for slug, tile in pairs]
