"""Which cell of a grid lies under each pixel of a tile.

The answer depends on the grid and the tile only, so all species of a grid share it, and nothing of it is
asked of PROJ more than once (see tiles.positions).

One overview level serves all tiles of a zoom, chosen where the grid lies: if every tile chose its own,
neighbours of different levels would meet with a seam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from geomap.grid import Window
from geomap.projection import world_width
from tiles.lru import Lru
from tiles.positions import TMS, BBox, Floats, Tile, exact, pixels, turned
from tiles.pyramid import deepest, level_shape, level_transform

SLACK = 1.0  # degrees: edges of a grid are curved, and its box is taken from points on them


class Cells(NamedTuple):
    """The cells of a grid; those of an overview have its level's shape and transform."""

    crs: str
    transform: Affine
    shape: tuple[int, int]
    bbox: BBox


@dataclass(frozen=True, eq=False)
class Warp:
    """Cells under the pixels of a tile.

    Attributes:
        level: Overview level that the cells are of.
        window: The cells of the level that the tile needs, or None where it meets none.
        index: (size, size) int32, row * window.width + column in the window, -1 off the grid; None without
            window.
    """

    level: int
    window: Window | None
    index: NDArray[np.int32] | None

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return 256 + (0 if self.index is None else self.index.nbytes)

    def take(self, cells: NDArray[np.generic], outside: int) -> NDArray[np.generic]:
        """The cells of the window (h, w) as pixels (size, size) of the tile, `outside` off the grid."""
        assert self.index is not None
        pixels = np.take(np.ascontiguousarray(cells).reshape(-1), self.index, mode="wrap")
        pixels[self.index < 0] = outside
        return pixels


class Warps:
    """Warps of tiles, kept up to a number of bytes and shared by all maps."""

    def __init__(self, limit: int = 64 << 20) -> None:
        """Keep up to `limit` bytes."""
        self._kept: Lru[Warp] = Lru(limit, lambda warp: warp.bytes)

    def get(self, cells: Cells, tile: Tile) -> Warp:
        """The warp of a tile of a grid.

        Raises:
            GridError: There is no such tile.
        """
        tile.check()
        return self._kept.get((cells, tile), lambda: make_warp(cells, tile))

    @property
    def bytes(self) -> int:
        """Memory of what is kept."""
        return self._kept.bytes


def make_warp(cells: Cells, tile: Tile, level: int | None = None) -> Warp:
    """The cells of a grid under the pixels of a tile.

    Args:
        cells: The grid at full resolution.
        tile: A tile that exists.
        level: Overview level; the one of the zoom if None.
    """
    level = level_of(cells, tile.tms, tile.z, tile.size) if level is None else level
    columns, lines = _within(tile, cells.bbox)
    if not (columns.any() and lines.any()):
        return Warp(level, None, None)
    shape = level_shape(cells.shape, level)
    transform = level_transform(cells.transform, cells.shape, level)
    col, row = pixels(cells.crs, transform, shape[1], tile)
    whole = _all_inside(col, row, shape) if columns.all() and lines.all() else None
    if whole is not None:
        return Warp(level, *whole)
    inside = (row >= 0) & (row < shape[0]) & (col >= 0) & (col < shape[1])  # False for NaN
    inside &= columns & lines[:, None]
    if not inside.any():
        return Warp(level, None, None)
    rows, cols = np.floor(row[inside]).astype(np.int64), np.floor(col[inside]).astype(np.int64)
    top, left = int(rows.min()), int(cols.min())
    window = Window(top, left, int(rows.max()) - top + 1, int(cols.max()) - left + 1)
    index = np.full(inside.shape, -1, np.int32)
    index[inside] = (rows - top) * window.width + (cols - left)
    index.flags.writeable = False
    return Warp(level, window, index)


def _all_inside(col: Floats, row: Floats, shape: tuple[int, int]) -> tuple[Window, NDArray[np.int32]] | None:
    """Window and index of pixels that are all on a grid, in a third of the time; None where some are not."""
    col, row = _once(col, 0), _once(row, 1)
    top, left, bottom, right = (float(end) for end in (row.min(), col.min(), row.max(), col.max()))
    if not (top >= 0 and left >= 0 and bottom < shape[0] and right < shape[1]):  # False for NaN
        return None
    window = Window(int(top), int(left), int(bottom) - int(top) + 1, int(right) - int(left) + 1)
    rows, cols = row.astype(np.int32), col.astype(np.int32)  # rounds down, as none is negative
    index = (rows - window.row) * window.width + (cols - window.col)
    index.flags.writeable = False
    return window, index


def _once(values: Floats, axis: int) -> Floats:
    """One row or column of values that are the same along an axis by broadcasting; all of others."""
    return values.take([0], axis) if values.strides[axis] == 0 else values


def rowcol(cells: Cells, lonlat: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns (n,) of the cells that hold points (n, 2) lon, lat in degrees; -1 off the grid."""
    inverse, (height, width) = ~cells.transform, cells.shape
    xy = exact(cells.crs, lonlat)
    col, row = inverse.a * xy[:, 0] + inverse.c, inverse.e * xy[:, 1] + inverse.f
    col = turned(col, cells.crs, cells.transform, width)
    inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
    west, south, east, north = cells.bbox
    if world_width(cells.crs) is None and west <= east:
        near = (lonlat >= np.array([west, south]) - SLACK) & (lonlat <= np.array([east, north]) + SLACK)
        inside &= near.all(axis=1)
    rows, cols = (np.where(inside, np.floor(at), -1).astype(np.intp) for at in (row, col))
    return rows, cols


@lru_cache(maxsize=4096)
def level_of(cells: Cells, tms: str, z: int, size: int) -> int:
    """Overview level for a zoom: the coarsest whose cells are no larger than a pixel where the grid lies."""
    pixels = cells_per_pixel(cells, tms) * 2.0**-z * (256 / size)
    level = math.floor(math.log2(max(pixels, 1.0)) + 1e-3)  # a pixel a hair below 2**k cells counts as 2**k
    return min(level, deepest(cells.shape))


@lru_cache(maxsize=256)
def cells_per_pixel(cells: Cells, tms: str) -> float:
    """Cells that a pixel of zoom 0 with 256 pixels a tile spans, the median over the grid."""
    west, south, east, north = cells.bbox
    east += 360.0 if west > east else 0.0
    lon, lat = np.meshgrid(np.linspace(west, east, 23)[1:-1], np.linspace(south, north, 23)[1:-1])
    step = 1e-4  # degrees
    stretch = 1 / np.cos(np.radians(lat)) if tms == "WebMercatorQuad" else np.ones_like(lat)
    corners = [(lon, lat), (lon + step, lat), (lon, lat + step / stretch)]
    points = np.concatenate([np.stack([a.ravel(), b.ravel()], axis=1) for a, b in corners])
    origin, right, up = np.split(exact(cells.crs, points), 3)
    along, across = (right - origin) / step, (up - origin) / step
    area = np.abs(along[:, 0] * across[:, 1] - along[:, 1] * across[:, 0]) / abs(cells.transform.determinant)
    area = area[np.isfinite(area) & (area > 0)]
    return float(np.sqrt(np.median(area))) * 360.0 / TMS[tms] / 256 if area.size else 1.0


def _within(tile: Tile, bbox: BBox) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which pixel columns and rows (size,) of a tile lie in a box, widened by a pixel and by `SLACK`.

    A projection may fold the other side of the earth onto a grid: what lies outside the box is none of it.
    """
    west, south, east, north = bbox
    centres = np.arange(tile.size, dtype=np.float64) + 0.5
    lon, lat, slack = tile.lon(centres), tile.lat(centres), SLACK + tile.pixel
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    columns = np.any([(lon >= w - slack) & (lon <= e + slack) for w, e in spans], axis=0)
    return columns, (lat >= south - slack) & (lat <= north + slack)
