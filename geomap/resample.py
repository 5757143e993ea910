"""Resampling of a raster onto a geobox, pixel by pixel: a pixel never depends on the window it is read with.

A pixel's value is the mean of bilinear samples spread evenly over it, at most 1.25 raster pixels apart: plain
bilinear interpolation where the geobox is finer than the raster, an area mean where it is coarser.
Positions are transformed exactly, at every corner of every pixel. Where the raster's CRS repeats
(projection.world_width) positions are brought to the turn of the world on which the raster lies, and a raster
that covers the whole world is read around its seam.

GDAL's warper is not used: it chooses overviews and approximates positions by the window asked for, and leaves
seams at the antimeridian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy.sparse import csr_matrix

from geomap.projection import project, world_width

BLOCK = 512  # pixels of the geobox that are resampled at a time, each way
FURTHEST = 1.25  # raster pixels between samples; each sample blends two
MOST_SAMPLES = 64  # samples across a pixel, each way
VALID_SHARE = 0.5 - 1e-6  # of a pixel's samples must be valid

Floats = NDArray[np.float64]
Read = Callable[[int, int, int, int], tuple[NDArray[np.float32], NDArray[np.bool_]]]


@dataclass(frozen=True)
class Pixels:
    """The pixel lattice of a raster; `closed`: its columns close around the world."""

    crs: str
    transform: Affine
    shape: tuple[int, int]
    closed: bool

    @property
    def period(self) -> float | None:
        """Columns around the world; None where the CRS does not repeat."""
        width = world_width(self.crs)
        upright = self.transform.b == 0 and self.transform.d == 0
        return width / abs(self.transform.a) if width is not None and upright else None

    def colrow(self, xy: Floats) -> tuple[Floats, Floats]:
        """Fractional columns and rows of points (n, 2) x, y; 0 is the outer edge of the first pixel."""
        back = ~self.transform
        x, y = xy[:, 0], xy[:, 1]
        return back.a * x + back.b * y + back.c, back.d * x + back.e * y + back.f

    def nearest_turn(self, col: Floats, to: Floats | float | None = None) -> Floats:
        """Columns moved by whole worlds as near as can be to others (default: the raster's middle)."""
        if self.period is None:
            return col
        to = self.shape[1] / 2 if to is None else to
        return np.asarray(col - self.period * np.round((col - to) / self.period))


def resample(
    read: Read, pixels: Pixels, bands: int, geobox: GeoBox
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Reads a raster onto a geobox.

    Args:
        read: `read(row, col, height, width)` gives values (bands, h, w) float32 and valid (h, w) of raster
            pixels; it is only asked for pixels inside the raster.
        pixels: The raster's lattice.
        bands: Number of bands.
        geobox: The pixels wanted, in any CRS.

    Returns:
        Values (bands, h, w) float32, 0 where not valid, and valid (h, w) bool.
    """
    height, width = int(geobox.height), int(geobox.width)
    values, valid = np.zeros((bands, height, width), np.float32), np.zeros((height, width), bool)
    source = _Window(read, pixels, bands)
    for rows, cols in _blocks(height, width):
        part = geobox[rows, cols]
        lines = _line_edges(part, pixels)
        total, weight = source.along_lines(*lines) if lines is not None else source.at_corners(part)
        valid[rows, cols] = weight >= VALID_SHARE
        np.divide(total, weight, out=total, where=valid[rows, cols])
        values[:, rows, cols] = np.where(valid[rows, cols], total, 0)
    return values, valid


def _blocks(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    for row in range(0, height, BLOCK):
        for col in range(0, width, BLOCK):
            yield slice(row, min(row + BLOCK, height)), slice(col, min(col + BLOCK, width))


def _line_edges(geobox: GeoBox, pixels: Pixels) -> tuple[Floats, Floats] | None:
    """Raster columns (w, 2) and rows (h, 2) of the edges of the geobox's columns and rows, if straight.

    They are where both CRSs are cylindrical; then only h + w positions need to be found. None elsewhere.
    """
    affine, crs = geobox.affine, str(geobox.crs)
    if pixels.period is None or world_width(crs) is None or affine.b or affine.d:
        return None
    x = affine.c + affine.a * np.arange(int(geobox.width) + 1)
    y = affine.f + affine.e * np.arange(int(geobox.height) + 1)
    col = pixels.colrow(project(np.stack([x, np.zeros_like(x)], axis=1), crs, pixels.crs))[0]
    row = pixels.colrow(project(np.stack([np.zeros_like(y), y], axis=1), crs, pixels.crs))[1]
    left = pixels.nearest_turn(col[:-1])
    return np.stack([left, pixels.nearest_turn(col[1:], left)], axis=1), np.stack([row[:-1], row[1:]], axis=1)


def _samples_across(length: Floats) -> NDArray[np.intp]:
    """Samples for pixels that are `length` raster pixels long: never more than 1.25 raster pixels apart."""
    count = np.ceil(np.nan_to_num(length, nan=1.0) / FURTHEST - 1e-6)
    return np.clip(count, 1, MOST_SAMPLES).astype(np.intp)


@dataclass(frozen=True)
class _Window:
    """Sums over samples of a raster of which only the needed window is read."""

    read: Read
    pixels: Pixels
    bands: int

    def along_lines(self, cols: Floats, rows: Floats) -> tuple[Floats, Floats]:
        """Sums of samples (bands, h, w), weight (h, w) of pixels between columns (w, 2) and rows (h, 2)."""
        if self.pixels.closed:  # one turn for the whole window, read around the seam
            middle = cols[len(cols) // 2, 0]
            cols = cols + (self.pixels.nearest_turn(cols[:, 0], middle) - cols[:, 0])[:, None]
        top, left, values, valid = self._fetch(rows, cols)
        across, down = _line_weights(cols, left, valid.shape[1]), _line_weights(rows, top, valid.shape[0])
        weight = down @ (across @ valid.T.astype(np.float64)).T
        total = [down @ (across @ band.T.astype(np.float64)).T for band in values]
        return np.stack(total).reshape(self.bands, *weight.shape), weight

    def at_corners(self, geobox: GeoBox) -> tuple[Floats, Floats]:
        """The same for any geobox, from the positions of all corners of its pixels."""
        col, row = self._corners(geobox)
        ends = col[0, 0], col[0, 1], col[1, 0], col[1, 1]
        shape = ends[0].shape
        total, weight = np.zeros((self.bands, *shape)), np.zeros(shape)
        top, left, values, valid = self._fetch(row, col)
        if not valid.any():
            return total, weight
        image = _Image(values, valid)
        across = _samples_across(np.hypot(col[0, 1] - col[0, 0], row[0, 1] - row[0, 0]))
        down = _samples_across(np.hypot(col[1, 0] - col[0, 0], row[1, 0] - row[0, 0]))
        known = np.isfinite(col + row).all(axis=(0, 1))
        for n_across, n_down in sorted({*zip(across[known].tolist(), down[known].tolist(), strict=True)}):
            at = known & (across == n_across) & (down == n_down)
            rows, cols = row[..., at] - (top + 0.5), col[..., at] - (left + 0.5)
            sums = np.zeros((self.bands + 1, int(at.sum())))
            for place in _spread(n_across, n_down):
                sums += image.at(_between(rows, *place), _between(cols, *place))
            total[:, at], weight[at] = sums[:-1] / (n_across * n_down), sums[-1] / (n_across * n_down)
        return total, weight

    def _corners(self, geobox: GeoBox) -> tuple[Floats, Floats]:
        """Raster columns and rows (2, 2, h, w) of pixels' corners [lower, right], each pixel on one turn."""
        height, width = int(geobox.height), int(geobox.width)
        col, row = np.meshgrid(np.arange(width + 1.0), np.arange(height + 1.0))
        affine = geobox.affine
        x = affine.a * col + affine.b * row + affine.c
        y = affine.d * col + affine.e * row + affine.f
        xy = project(np.column_stack([x.ravel(), y.ravel()]), str(geobox.crs), self.pixels.crs)
        cols, rows = (_four(at.reshape(height + 1, width + 1)) for at in self.pixels.colrow(xy))
        first = cols[0, 0]
        middle = first[height // 2, width // 2]
        first = self.pixels.nearest_turn(
            first, middle if self.pixels.closed and np.isfinite(middle) else None
        )
        return self.pixels.nearest_turn(cols, first), rows

    def _fetch(self, rows: Floats, cols: Floats) -> tuple[int, int, NDArray[np.float32], NDArray[np.bool_]]:
        """First row, column, values and valid of the raster pixels around positions; 1 x 1 if none."""
        height, width = self.pixels.shape
        top, bottom = _span(rows, height)
        left, right = _span(cols, None if self.pixels.closed else width)
        if bottom <= top or right <= left:
            return 0, 0, np.zeros((self.bands, 1, 1), np.float32), np.zeros((1, 1), bool)
        pieces, col = [], left
        while col < right:
            start = col % width
            wide = min(right - col, width - start)
            pieces.append(self.read(top, start, bottom - top, wide))
            col += wide
        values, valid = (np.concatenate([piece[k] for piece in pieces], axis=-1) for k in (0, 1))
        return top, left, np.where(valid, values, np.float32(0)), valid


def _span(at: Floats, size: int | None) -> tuple[int, int]:
    """First and last + 1 raster pixel that samples at positions touch, inside 0..size unless that is None."""
    if not np.isfinite(at).any():
        return 0, 0
    first, last = np.nanmin(at) - 0.5, np.nanmax(at) + 0.5
    if size is None:
        return int(np.floor(first)), int(np.floor(last)) + 1
    return int(np.clip(np.floor(first), 0, size)), int(np.clip(np.floor(last) + 1, 0, size))


def _line_weights(edges: Floats, first: int, size: int) -> csr_matrix:
    """Matrix (n, size): weights of raster pixels first..first+size in n stretches between edges (n, 2)."""
    count = _samples_across(np.abs(edges[:, 1] - edges[:, 0]))
    line = np.repeat(np.arange(len(edges)), count)
    step = np.arange(len(line)) - np.repeat(np.cumsum(count) - count, count)
    n = count[line]
    at = edges[line, 0] + (step + 0.5) / n * (edges[line, 1] - edges[line, 0]) - 0.5
    ok = np.isfinite(at)
    line, at, n = line[ok], at[ok], n[ok]
    low = np.floor(at)
    pixel = np.concatenate([low, low + 1]).astype(np.intp) - first
    weight = np.concatenate([1 - (at - low), at - low]) / np.concatenate([n, n])
    line = np.concatenate([line, line])
    inside = (pixel >= 0) & (pixel < size) & (weight > 0)
    return csr_matrix((weight[inside], (line[inside], pixel[inside])), shape=(len(edges), size))


def _spread(n_across: int, n_down: int) -> Iterator[tuple[float, float]]:
    """Places inside a pixel, 0..1 from its left and from its top edge, spread evenly."""
    for k in range(n_down):
        for i in range(n_across):
            yield (i + 0.5) / n_across, (k + 0.5) / n_down


def _between(corners: Floats, u: float, v: float) -> Floats:
    """The place (u, v) between corners (2, 2, n)."""
    upper = corners[0, 0] + u * (corners[0, 1] - corners[0, 0])
    lower = corners[1, 0] + u * (corners[1, 1] - corners[1, 0])
    return np.asarray(upper + v * (lower - upper))


class _Image:
    """Values and valid of a window with a border of nothing, to take bilinear samples from."""

    def __init__(self, values: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        both = np.concatenate([values, valid[None]]).astype(np.float64)
        self.width = valid.shape[1] + 2
        self.last = valid.shape[0] + 1.0, valid.shape[1] + 1.0
        padded = np.pad(both, ((0, 0), (1, 1), (1, 1)))
        self.pixels = np.ascontiguousarray(np.moveaxis(padded, 0, -1)).reshape(-1, len(both))

    def at(self, row: Floats, col: Floats) -> Floats:
        """Samples (bands + 1, n) at rows and columns, whole numbers at pixel centres; 0 outside."""
        row, col = np.clip(row + 1, 0, self.last[0]), np.clip(col + 1, 0, self.last[1])
        low, left = np.minimum(np.floor(row), self.last[0] - 1), np.minimum(np.floor(col), self.last[1] - 1)
        first = (low * self.width + left).astype(np.intp)
        down, across = (row - low)[:, None], (col - left)[:, None]
        upper = self._line(first, across)
        return np.asarray((upper + down * (self._line(first + self.width, across) - upper)).T)

    def _line(self, first: NDArray[np.intp], across: Floats) -> Floats:
        start = self.pixels.take(first, axis=0)
        return np.asarray(start + across * (self.pixels.take(first + 1, axis=0) - start))


def _four(corner: Floats) -> Floats:
    """Corners (h + 1, w + 1) as (2, 2, h, w): [lower, right] of each pixel."""
    return np.stack([[corner[:-1, :-1], corner[:-1, 1:]], [corner[1:, :-1], corner[1:, 1:]]])
