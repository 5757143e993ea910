"""Overviews of a map: averages of valid cells, the same numbers as in the files that geomap.render writes.

GDAL's COG driver halves a map again and again, n cells to n // 2. Of an odd number of cells an overview cell
is thus a little wider than two, and its value the mean of the valid cells below, weighted by the share of
each that lies inside. Where no cell below is valid the overview has no data either.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from geomap.cog import GAP, SCALE

Steps = NDArray[np.uint16]
Floats = NDArray[np.float32]


def level_shape(shape: tuple[int, int], level: int) -> tuple[int, int]:
    """Rows and columns of overview `level` of a grid."""
    return max(1, shape[0] >> level), max(1, shape[1] >> level)


def level_transform(transform: Affine, shape: tuple[int, int], level: int) -> Affine:
    """From column, row of overview `level` to x, y: the overview covers the same ground as the grid."""
    rows, cols = level_shape(shape, level)
    scaled: Affine = transform @ Affine.scale(shape[1] / cols, shape[0] / rows)
    return scaled


def deepest(shape: tuple[int, int]) -> int:
    """The last overview level: the smaller side has one cell left."""
    return max(0, min(shape).bit_length() - 1)


def overviews(steps: Steps) -> tuple[Steps, ...]:
    """Every overview of a map.

    Args:
        steps: (H, W) uint16, 0..10000, `GAP` for nodata.

    Returns:
        Levels 1, 2, ... up to `deepest`, read-only (h, w) uint16.
    """
    valid = steps != GAP
    weight = valid.astype(np.float32)
    values = np.where(valid, steps, 0).astype(np.float32) / np.float32(SCALE)
    levels = []
    for _ in range(deepest((steps.shape[0], steps.shape[1]))):
        values, weight = halved(values, weight)
        level = np.where(weight > 0, np.rint(values * np.float32(SCALE)), GAP).astype(np.uint16)
        level.flags.writeable = False
        levels.append(level)
    return tuple(levels)


def halved(values: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """The next overview.

    Args:
        values: (h, w) float32, 0 where there is no data.
        weight: (h, w) float32, 1 where there is data, else 0.

    Returns:
        The same of half as many rows and columns.
    """
    total, share = (_along_columns(_along_rows(each)) for each in (values, weight))
    there = share > 0
    mean = np.divide(total, share, out=np.zeros_like(total), where=there)
    return mean, there.astype(np.float32)


def _along_rows(cells: Floats) -> Floats:
    count = len(cells)
    if count % 2 == 0:
        return cells[0::2] + cells[1::2]
    if count == 1:
        return cells
    first, weights = _parts(count)
    summed = cells[first]
    summed *= weights[:, 0, None]
    for k in _taps(count):
        part = cells[np.minimum(first + k, count - 1)]
        part *= weights[:, k, None]
        summed += part
    return summed


def _along_columns(cells: Floats) -> Floats:
    count = cells.shape[1]
    if count % 2 == 0:
        return cells[:, 0::2] + cells[:, 1::2]
    if count == 1:
        return cells
    first, weights = _parts(count)
    summed = np.take(cells, first, axis=1)
    summed *= weights[:, 0]
    for k in _taps(count):
        part = np.take(cells, np.minimum(first + k, count - 1), axis=1)
        part *= weights[:, k]
        summed += part
    return summed


def _taps(count: int) -> list[int]:
    """Which of the second to fourth cell below an overview cell count for any of them."""
    return [k for k in (1, 2, 3) if _parts(count)[1][:, k].any()]


@lru_cache(maxsize=64)
def _parts(count: int) -> tuple[NDArray[np.intp], Floats]:
    """Of an odd number of cells: the first one below each overview cell; weights of it and the next three."""
    half = count // 2
    edges = np.arange(half + 1) * (count / half)
    first = np.floor(edges[:-1] + 1e-9).astype(np.intp)
    cells = first[:, None] + np.arange(4)
    inside = np.minimum(cells + 1, edges[1:, None]) - np.maximum(cells, edges[:-1, None])
    weights = np.where(inside > 1e-9, inside, 0).astype(np.float32)
    return first, weights
