"""Where the pixel centres of a tile lie on a grid, in fractional columns and rows.

Where a grid's columns are meridians and its rows parallels, one look along either axis is exact. Elsewhere
exact points on a lattice over the tile are joined bilinearly; the lattice gets denser until points between
differ by less than `TOLERANCE` cells, and ends in exact pixels.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from geomap.errors import GridError
from geomap.projection import WGS84, project, world_width

TOLERANCE = 0.05  # cells
TMS = {"WebMercatorQuad": 1, "WorldCRS84Quad": 2}  # columns of tiles at zoom 0, where both have one row
MAXZOOM = 24
FIRST = 16  # pixels between points of the first lattice
Floats = NDArray[np.float64]
BBox = tuple[float, float, float, float]


class Tile(NamedTuple):
    """A tile of one of the two tile matrix sets, `size` pixels wide."""

    tms: str
    z: int
    x: int
    y: int
    size: int = 256

    def check(self) -> None:
        """Refuse a tile that does not exist.

        Raises:
            GridError: No such matrix set, zoom, column or row.
        """
        there = self.tms in TMS and 0 <= self.z <= MAXZOOM
        if not (there and 0 <= self.x < TMS[self.tms] << self.z and 0 <= self.y < 1 << self.z):
            found = f"{self.tms} {self.z}/{self.x}/{self.y}"
            change = f"z goes from 0 to {MAXZOOM}, x and y from 0 to the last tile of that zoom."
            raise GridError("cannot draw the tile", found, change)

    @property
    def pixel(self) -> float:
        """Width of a pixel [degrees of longitude]."""
        return 360.0 / (TMS[self.tms] << self.z) / self.size

    def lon(self, columns: Floats) -> Floats:
        """Longitudes [degrees] of pixel columns; 0 is the western edge, `size` the eastern."""
        return -180.0 + self.pixel * (self.x * self.size + columns)

    def lat(self, rows: Floats) -> Floats:
        """Latitudes [degrees] of pixel rows; 0 is the northern edge, `size` the southern."""
        down = self.y * self.size + rows
        if self.tms == "WorldCRS84Quad":
            return 90.0 - self.pixel * down
        return mercator_lat(180.0 - self.pixel * down)


def mercator_lat(y: Floats) -> Floats:
    """Latitudes [degrees] at heights in Web Mercator, in degrees of longitude at the equator."""
    return np.degrees(np.arctan(np.sinh(np.radians(y))))


def pixels(crs: str, transform: Affine, width: int, tile: Tile) -> tuple[Floats, Floats]:
    """Fractional columns and rows (size, size) of the pixel centres of a tile, NaN where there is no answer.

    Args:
        crs: CRS of a grid.
        transform: From column, row to x, y.
        width: Columns of the grid; where the world repeats, columns off it are sought on its other side.
        tile: The tile.
    """
    if world_width(crs) is None:
        return _by_lattice(crs, transform, tile)
    return _by_axis(crs, transform, width, tile)


def exact(crs: str, lonlat: Floats) -> Floats:
    """Points (n, 2) lon, lat in degrees as x, y of a CRS; NaN where there is no answer.

    One thread asks PROJ for everybody: each thread of its own would first spend 10 ms on looking up the
    transformation.
    """
    xy: Floats = _asker().submit(project, lonlat, WGS84, crs).result()
    return xy


@lru_cache(maxsize=1)
def _asker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "geomap-proj")


os.register_at_fork(after_in_child=_asker.cache_clear)  # a thread is not inherited


def _by_axis(crs: str, transform: Affine, width: int, tile: Tile) -> tuple[Floats, Floats]:
    """Columns and rows (size, size) of pixel centres where x depends on longitude alone and y on latitude."""
    centres = np.arange(tile.size, dtype=np.float64) + 0.5
    lon, lat = tile.lon(centres), tile.lat(centres)
    xy = exact(crs, np.concatenate([_points(lon, 0.0), _points(0.0, lat)]))
    col = (xy[: tile.size, 0] - transform.c) / transform.a
    row = (xy[tile.size :, 1] - transform.f) / transform.e
    col = turned(col, crs, transform, width)
    return np.broadcast_to(col, (tile.size, tile.size)), np.broadcast_to(row[:, None], (tile.size, tile.size))


def turned(col: Floats, crs: str, transform: Affine, width: int) -> Floats:
    """Columns off the grid, once round the world where that brings them onto it, as `Grid.rowcol` has it."""
    turn = world_width(crs)
    for step in () if turn is None else (turn / transform.a, -turn / transform.a):
        other = col + step
        col = np.where(((col < 0) | (col >= width)) & (other >= 0) & (other < width), other, col)
    return col


def _points(lon: Floats | float, lat: Floats | float) -> Floats:
    return np.stack(np.broadcast_arrays(lon, lat), axis=1)


def _by_lattice(crs: str, transform: Affine, tile: Tile) -> tuple[Floats, Floats]:
    """Columns and rows (size, size) of pixel centres in any CRS; NaN where there is no answer."""
    step = FIRST
    while step > 1:
        # Every second point is left out and compared with what its neighbours say: the lattice that is used
        # has half that distance, and a quarter of that error.
        fine = _on_lattice(crs, transform, tile, step // 2)
        coarse = fine[:, ::2, ::2]
        error = np.abs(_between(coarse, 2) - fine).max()  # NaN anywhere is no answer either
        if error < TOLERANCE:
            col, row = _centres(fine, step // 2)
            return col, row
        step //= 4
    centres = np.arange(tile.size, dtype=np.float64) + 0.5
    lon, lat = np.meshgrid(tile.lon(centres), tile.lat(centres))
    col, row = _cells(crs, transform, lon, lat)
    return col, row


def _on_lattice(crs: str, transform: Affine, tile: Tile, step: int) -> Floats:
    """Columns and rows (2, n + 1, n + 1) at pixel corners 0, step, 2 step, ... size."""
    corners = np.arange(0, tile.size + 1, step, dtype=np.float64)
    lon, lat = np.meshgrid(tile.lon(corners), tile.lat(corners))
    return _cells(crs, transform, lon, lat)


def _cells(crs: str, transform: Affine, lon: Floats, lat: Floats) -> Floats:
    """Fractional columns and rows (2, h, w) of points (h, w)."""
    xy = exact(crs, np.stack([lon.ravel(), lat.ravel()], axis=1))
    inverse = ~transform
    col = inverse.a * xy[:, 0] + inverse.b * xy[:, 1] + inverse.c
    row = inverse.d * xy[:, 0] + inverse.e * xy[:, 1] + inverse.f
    return np.stack([col, row]).reshape(2, *lon.shape)


def _between(coarse: Floats, factor: int) -> Floats:
    """A lattice (2, n + 1, n + 1) made `factor` times denser by bilinear interpolation."""
    weights = _weights(coarse.shape[1], factor, 0.0)
    return weights @ coarse @ weights.T


def _centres(lattice: Floats, step: int) -> Floats:
    """Values (2, size, size) at pixel centres from a lattice at corners `step` pixels apart."""
    weights = _weights(lattice.shape[1], step, 0.5)
    return weights @ lattice @ weights.T


@lru_cache(maxsize=64)
def _weights(points: int, factor: int, first: float) -> Floats:
    """Weights (m, points) of lattice points for linear values at `first`, `first` + 1, ... of `factor`."""
    count = (points - 1) * factor + (first == 0)
    at = (np.arange(count) + first) / factor
    low = np.minimum(at.astype(np.intp), points - 2)
    weights = np.zeros((count, points))
    weights[np.arange(count), low] = 1 - (at - low)
    weights[np.arange(count), low + 1] += at - low
    return weights
