"""The pixel lattice the encoders look through, and the windows of it that a set of places needs.

For every context scale of the encoders there is one lattice of pixels for the whole world: pixel edges lie at
multiples of the pixel size from the CRS origin. Places (cell centres or points) have fractional positions on
it. `windows` covers the pixels that places need with few, cheap rectangles: one for cells that lie close, one
per place for places that lie far apart. It follows from the positions alone, so the same places always give
the same windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray
from odc.geo import CRS
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError
from scipy.sparse import csr_array

from geomap.grid import Grid, Window

WORLD_LATTICE = CRS("EPSG:6933")
AREA_TOLERANCE = 0.1  # how far a CRS's area scale may be from 1 for chips in it to keep their size

Index = NDArray[np.intp]


class Limits(NamedTuple):
    """The longest side of a window without its margin, and the cost of one more window [pixels]."""

    side: int
    overhead: int


class Box(NamedTuple):
    """A window of the lattice in pixels from the CRS origin; rows count southwards."""

    row: int
    col: int
    height: int
    width: int

    def within(self, other: Box) -> tuple[slice, slice]:
        """This box as slices into an array that covers `other`."""
        y, x = self.row - other.row, self.col - other.col
        return slice(y, y + self.height), slice(x, x + self.width)


@dataclass(frozen=True)
class Lattice:
    """Square pixels of `pixel` metres in a CRS, their edges at multiples of the size."""

    crs: CRS
    pixel: float

    def positions(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 2) fractional row, col of points (n, 2) x, y [m]; a pixel's centre has whole numbers."""
        return np.stack([-xy[:, 1], xy[:, 0]], axis=1) / self.pixel - 0.5

    def geobox(self, box: Box) -> GeoBox:
        """The box as pixels on the map."""
        transform = Affine(self.pixel, 0, box.col * self.pixel, 0, -self.pixel, -box.row * self.pixel)
        return GeoBox((box.height, box.width), transform, self.crs)


def lattice_crs(grid: Grid) -> CRS:
    """CRS of the pixel lattice of a grid: its own if chips keep their size in metres there, else EPSG:6933.

    A CRS keeps the size when it is projected in metres and its area scale at the grid's centre is within 10 %
    of 1.
    """
    centre = grid.cell_lonlat(Window(grid.shape[0] // 2, grid.shape[1] // 2, 1, 1))[0, 0]
    return grid.crs if keeps_size(grid.crs, centre) else WORLD_LATTICE


def windows(at: NDArray[np.float64], members: Index, margin: int, limits: Limits) -> list[tuple[Box, Index]]:
    """Windows that hold every pixel some places need, each with the places it serves.

    Args:
        at: (n, 2) fractional row, col of all places.
        members: Indices into `at` of the places to serve.
        margin: Pixels that an encoder needs around each pixel.
        limits: How far a window may reach, and what it costs.

    Returns:
        Windows with their margins, and for each the indices into `at` of its places; every member occurs
        once.
    """
    return _cheapest(at, members, margin, limits)[1]


def _cheapest(
    at: NDArray[np.float64], members: Index, margin: int, limits: Limits
) -> tuple[int, list[tuple[Box, Index]]]:
    """Cost [pixels] and windows of the cheaper: one window for all, or two halves of it, recursively."""
    box = _box(at[members], margin)
    cost = box.height * box.width + limits.overhead
    inner_height, inner_width = box.height - 2 * margin, box.width - 2 * margin
    too_long = max(inner_height, inner_width) > limits.side
    if not too_long and (inner_height * inner_width <= 4 * len(members) or _filled(at[members], margin)):
        return cost, [(box, members)]  # nearly all of its pixels are needed: no cut can save much
    axis = 0 if box.height >= box.width else 1
    middle = (at[members, axis].min() + at[members, axis].max()) / 2
    low = at[members, axis] <= middle
    if low.all():
        return cost, [(box, members)]
    halves = [_cheapest(at, members[half], margin, limits) for half in (low, ~low)]
    cut = sum(half[0] for half in halves)
    return (cut, halves[0][1] + halves[1][1]) if too_long or cut < cost else (cost, [(box, members)])


def _filled(at: NDArray[np.float64], margin: int) -> bool:
    """Whether places leave no gap: one in every square of side `margin`, so that their margins meet."""
    squares = ((at - at.min(axis=0)) / margin).astype(np.intp)
    rows, cols = (squares.max(axis=0) + 1).tolist()
    if rows * cols > len(at):
        return False
    found = np.zeros((rows, cols), np.bool_)
    found[squares[:, 0], squares[:, 1]] = True
    return bool(found.all())


def _box(at: NDArray[np.float64], margin: int) -> Box:
    """The pixels around fractional positions, and a margin."""
    top, left = (math.floor(v) - margin for v in at.min(axis=0))
    bottom, right = (math.ceil(v) + margin for v in at.max(axis=0))
    return Box(top, left, bottom - top + 1, right - left + 1)


def coverage(has_image: NDArray[np.bool_], margin: int) -> NDArray[np.float32]:
    """Share of the 3 x 3 pixels around each inner pixel that have imagery.

    Args:
        has_image: (H, W) bool.
        margin: Pixels m >= 1 to leave out on every side.

    Returns:
        (1, H - 2m, W - 2m) float32.
    """
    height, width = (n - 2 * margin for n in has_image.shape)
    shifts = [(y, x) for y in (margin - 1, margin, margin + 1) for x in (margin - 1, margin, margin + 1)]
    total = sum(has_image[y : y + height, x : x + width].astype(np.float32) for y, x in shifts)
    return np.asarray(total, np.float32)[None] / np.float32(9)


def bilinear(maps: NDArray[np.float32], at: NDArray[np.float64]) -> NDArray[np.float32]:
    """Maps (F, H, W) at fractional row, col (n, 2) inside them: (n, F) float32; exact at whole numbers."""
    height, width = maps.shape[1:]
    corners, shares = mixture(at, (height, width))
    return mix(np.ascontiguousarray(maps.reshape(len(maps), height * width).T), corners, shares)


def mixture(at: NDArray[np.float64], shape: tuple[int, int]) -> tuple[Index, NDArray[np.float32] | None]:
    """The pixels that places are interpolated from.

    Args:
        at: (n, 2) fractional row, col inside a map.
        shape: (H, W) of the map.

    Returns:
        Numbers of pixels, row by row, and their shares: both (n, 4); or (n, 1) and None where every place is
        a pixel's centre.
    """
    height, width = shape
    low = np.floor(at).astype(np.intp)
    part = (at - low).astype(np.float32)
    if not part.any():
        return low[:, :1] * width + low[:, 1:], None
    high = np.minimum(low + 1, (height - 1, width - 1))
    rows, cols = (np.stack([low[:, axis], high[:, axis]], axis=1) for axis in (0, 1))  # (n, 2)
    row_share, col_share = (np.stack([1 - part[:, axis], part[:, axis]], axis=1) for axis in (0, 1))
    corners = rows[:, :, None] * width + cols[:, None, :]  # (n, 2, 2)
    shares = row_share[:, :, None] * col_share[:, None, :]
    return corners.reshape(-1, 4), shares.reshape(-1, 4)


def mix(
    pixels: NDArray[np.float32], corners: Index, shares: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """Features of pixels (P, F) at places of a `mixture`: (n, F) float32."""
    if shares is None:
        each = corners[:, 0]
        in_order = len(each) == len(pixels) and np.array_equal(each, np.arange(len(each)))
        return pixels if in_order else pixels[each]
    starts = np.arange(0, corners.size + 1, corners.shape[1])
    interpolate = csr_array((shares.ravel(), corners.ravel(), starts), shape=(len(corners), len(pixels)))
    mixed: NDArray[np.float32] = (
        interpolate @ pixels
    )  # one pass over the pixels, where gathers would make four
    return mixed


def keeps_size(crs: CRS, lonlat: NDArray[np.float64]) -> bool:
    """Whether a CRS is projected in metres with an area scale within 10 % of 1 at a point (2,) lon, lat."""
    proj = pyproj.CRS(crs.to_wkt())
    if not proj.is_projected or any(axis.unit_name not in ("metre", "meter") for axis in proj.axis_info[:2]):
        return False
    try:
        scale = pyproj.Proj(proj).get_factors(*lonlat).areal_scale
    except ProjError:  # outside the domain of the projection
        return False
    return bool(abs(scale - 1) <= AREA_TOLERANCE)
