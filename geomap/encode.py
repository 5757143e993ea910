"""From imagery to embeddings: the block function of the sweep, and the same for single points.

Neighbouring cells share most of the pixels of their chips, so chips are never cut out one by one: imagery is
read onto windows of a pixel lattice (geomap.lattice), the encoder turns a window into one context vector per
pixel in one dense pass, and the contexts are interpolated bilinearly to the cell centres. Where a cell centre
is a lattice pixel's centre (the California grid at 1 km/pixel) this is exactly the encoding of the chip
around the cell.

Which windows are encoded follows from the positions of the cells alone, and torch runs on one thread, so that
a unit of a grid gives the same bytes whichever process encodes it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from odc.geo import CRS

from geomap.errors import GridError
from geomap.grid import Grid, Window
from geomap.imagery import ImagerySource
from geomap.lattice import (
    WORLD_LATTICE,
    Index,
    Lattice,
    Limits,
    bilinear,
    coverage,
    keeps_size,
    lattice_crs,
    mix,
    mixture,
    windows,
)
from geomap.projection import WGS84, project
from train.encoders.pair import Encoders
from train.threads import one_thread

COVERED = 0.5 - 1e-6  # share of the 3 x 3 pixels around a cell that must have imagery
EMBED_ROWS = 2048  # cells joined with their location at once: the layers' outputs stay in the cache
POINT_ROWS = 65536  # points encoded at once: bounds the memory of encode_points

# Opening and warping a window costs about as much as reading 140 x 140 pixels of it.
READ = Limits(side=1024, overhead=20_000)
# With 256 pixels the peak memory of the dense pass stays in the tens of MB.
ENCODE = Limits(side=256, overhead=200)


def encode_unit(
    encoders: Encoders, source: ImagerySource, grid: Grid, window: Window
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Embeddings of the land cells of a window of a grid.

    Args:
        encoders: The pair of encoders.
        source: Imagery with the bands the encoders eat.
        grid: The grid.
        window: The cells, in the sweep one processing unit of the grid. The bytes of a result depend on the
            window (by rounding in the last bits only), so that a reproducible field always uses the grid's
            units.

    Returns:
        embedding (h, w, D) float32 with rows of length 1, 0 where not valid; valid (h, w) bool: on land, and
        at least half of the 3 x 3 pixels around the cell have imagery.

    Raises:
        ImageryError: The imagery cannot be read.
    """
    centres = grid.cell_lonlat(window)
    land = grid.land_mask(window, centres)
    cells = np.flatnonzero(land)
    embedding = np.zeros((land.size, encoders.dim), np.float32)
    valid = np.zeros(land.size, np.bool_)
    for found, part in encode_cells(encoders, source, grid, window, land, centres[land]):
        embedding[cells[found]], valid[cells[found]] = part, True
    return embedding.reshape(*land.shape, encoders.dim), valid.reshape(land.shape)


def encode_cells(
    encoders: Encoders,
    source: ImagerySource,
    grid: Grid,
    window: Window,
    cells: NDArray[np.bool_],
    lonlat: NDArray[np.float64],
) -> Iterator[tuple[Index, NDArray[np.float32]]]:
    """`encode_unit` for the chosen cells of a window, some thousand at a time.

    Args:
        encoders: The pair of encoders.
        source: Imagery with the bands the encoders eat.
        grid: The grid.
        window: Some cells of it.
        cells: (h, w) bool: which of them.
        lonlat: (n, 2) centres of those chosen, in degrees.

    Yields:
        Which of the chosen cells, counted row by row, (k,), and their embeddings (k, D) float32. Cells that
        are not valid do not occur.
    """
    if not cells.any():
        return
    crs = lattice_crs(grid)
    xy = _centres(grid, window)[cells] if crs == grid.crs else project(lonlat, WGS84, crs.to_wkt())
    yield from _encode(encoders, source, crs, xy, lonlat)


def encode_points(
    encoders: Encoders, source: ImagerySource, lonlat: NDArray[np.float64], crs: CRS | str | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Embeddings of single points, with the same value as a field of the same lattice at a cell centre.

    Points near each other share their windows, so a table of many points is read in few pieces.

    Args:
        encoders: The pair of encoders.
        source: Imagery with the bands the encoders eat.
        lonlat: (n, 2) degrees WGS 84; rows that are not finite or leave the globe come back not valid.
        crs: CRS of the pixel lattice; the world-wide EPSG:6933 if not given. For values as in a field give
            its `lattice`, or `lattice_crs(grid)`.

    Returns:
        embedding (n, D) float32 with rows of length 1, 0 where not valid; valid (n,) bool: at least half of
        the 3 x 3 pixels around the point have imagery.

    Raises:
        GridError: Chips in this CRS would not have their size in metres.
        ImageryError: The imagery cannot be read.
    """
    lonlat = np.asarray(lonlat, np.float64).reshape(-1, 2)
    embedding = np.zeros((len(lonlat), encoders.dim), np.float32)
    valid = np.zeros(len(lonlat), np.bool_)
    rows = np.flatnonzero(np.isfinite(lonlat).all(axis=1) & (np.abs(lonlat) <= (360, 90)).all(axis=1))
    if len(rows) == 0:
        return embedding, valid
    lattice = WORLD_LATTICE if crs is None else _checked_lattice(CRS(crs), lonlat[rows])
    xy = project(lonlat[rows], WGS84, lattice.to_wkt())
    rows, xy = rows[np.isfinite(xy).all(axis=1)], xy[np.isfinite(xy).all(axis=1)]
    tile = np.floor(xy / (ENCODE.side * encoders.levels[0].metres_per_pixel))
    order = np.lexsort((tile[:, 0], tile[:, 1]))
    for start in range(0, len(order), POINT_ROWS):
        part = order[start : start + POINT_ROWS]
        at = rows[part]
        for found, piece in _encode(encoders, source, lattice, xy[part], lonlat[at]):
            embedding[at[found]], valid[at[found]] = piece, True
    return embedding, valid


def _encode(
    encoders: Encoders,
    source: ImagerySource,
    crs: CRS,
    xy: NDArray[np.float64],
    lonlat: NDArray[np.float64],
) -> Iterator[tuple[Index, NDArray[np.float32]]]:
    """Which of n places have imagery (k,), and their embeddings (k, D), some thousand at a time.

    The places are given as (n, 2) x, y in the lattice's CRS and as lonlat.
    """
    with one_thread():
        covered, finest = _contexts(encoders, source, crs, 0, xy)
        if len(covered) == 0:
            return
        rest = range(1, len(encoders.levels))
        levels = [finest, *(_contexts(encoders, source, crs, level, xy[covered])[1] for level in rest)]
    for start in range(0, len(covered), EMBED_ROWS):
        rows = covered[start : start + EMBED_ROWS]
        with one_thread():  # not around the yield: what is done with the embeddings has threads of its own
            embedding = encoders.embed(
                [context[start : start + EMBED_ROWS] for context in levels], lonlat[rows]
            )
        yield rows, embedding


def _contexts(
    encoders: Encoders, source: ImagerySource, crs: CRS, level: int, xy: NDArray[np.float64]
) -> tuple[Index, NDArray[np.float32]]:
    """Context vectors of one scale at places (n, 2) x, y [m].

    Returns:
        rows (k,) of the places that have one, in order, and contexts (k, F) float32. At the finest level
        these are the covered places; at the coarser ones, all.
    """
    spec = encoders.levels[level]
    lattice = Lattice(crs, spec.metres_per_pixel)
    at = lattice.positions(xy)
    rows: list[Index] = []
    pieces: list[NDArray[np.float32]] = []
    for outer, members in windows(at, np.arange(len(at)), spec.margin, READ):
        image, has_image = source.read(lattice.geobox(outer))
        for box, inside in windows(at, members, spec.margin, ENCODE):
            view = box.within(outer)
            local = at[inside] - (box.row + spec.margin, box.col + spec.margin)
            if level == 0:
                enough = bilinear(coverage(has_image[view], spec.margin), local)[:, 0] >= COVERED
                inside, local = inside[enough], local[enough]
            if len(inside):
                rows.append(inside)
                pieces.append(_at(encoders, level, image[(slice(None), *view)], has_image[view], local))
    return _in_order(rows, pieces)


def _at(
    encoders: Encoders,
    level: int,
    image: NDArray[np.float32],
    has_image: NDArray[np.bool_],
    local: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Contexts (n, F) at places (n, 2) row, col of the interior of a window (bands, h, w)."""
    margin = encoders.levels[level].margin
    height, width = (side - 2 * margin for side in has_image.shape)
    corners, shares = mixture(local, (height, width))
    needed = np.zeros(height * width, np.bool_)
    needed[corners] = True
    found = encoders.context_at(level, image, has_image, *np.divmod(np.flatnonzero(needed), width))
    return mix(found, (np.cumsum(needed) - 1)[corners], shares)


def _in_order(rows: list[Index], pieces: list[NDArray[np.float32]]) -> tuple[Index, NDArray[np.float32]]:
    """Pieces of contexts, each with the places it is of, as one table by place."""
    if len(rows) == 0:
        return np.empty(0, np.intp), np.empty((0, 0), np.float32)
    joined = np.concatenate(rows)
    order = np.argsort(joined)
    if len(rows) == 1 and np.array_equal(order, np.arange(len(order))):
        return joined, pieces[0]  # the usual case; spares a copy of the largest array there is
    return joined[order], np.concatenate(pieces)[order]


def _centres(grid: Grid, window: Window) -> NDArray[np.float64]:
    """(h, w, 2) x, y of cell centres in the grid's CRS."""
    x = grid.transform.c + grid.resolution * (window.col + np.arange(window.width) + 0.5)
    y = grid.transform.f - grid.resolution * (window.row + np.arange(window.height) + 0.5)
    return np.stack(np.meshgrid(x, y), axis=-1)


def _checked_lattice(crs: CRS, lonlat: NDArray[np.float64]) -> CRS:
    """The CRS if chips keep their size there, near the middle of the points."""
    if not keeps_size(crs, np.median(lonlat, axis=0)):
        raise GridError(
            "cannot cut chips in this CRS",
            f"{crs} is not in metres or its area scale near the points is off by more than 10 %",
            "give geomap.encode.lattice_crs(grid), or no CRS",
        )
    return crs
