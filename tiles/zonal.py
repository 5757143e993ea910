"""Sums over the cells of a map: inside a polygon, or all of them, with true areas on the ellipsoid.

A cell counts where its centre lies inside. A polygon that lies between the centres gets the one cell at its
middle, and the answer says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geomap.cog import GAP, SCALE, to_values
from geomap.colour import STEPS
from geomap.errors import GridError
from geomap.grid import Window
from geomap.projection import areas_km2, crossings_lonlat, world_width
from tiles.cuts import first_step, value_of
from tiles.lru import Lru
from tiles.maps import Band, SpeciesMap
from tiles.paint import cell_at, cells_of, level_table
from tiles.positions import exact
from tiles.pyramid import level_shape, level_transform
from tiles.stored import LARGEST
from tiles.warp import SLACK, Cells

BINS = 50
STRIP = 256  # rows that are read at once
PIECES = (
    64  # pieces at least that the longer side of a polygon's box is cut into: straight edges become curves
)
Floats = NDArray[np.float64]
# Areas of a strip's cells depend on the grid alone.
_areas: Lru[Floats] = Lru(64 << 20, lambda areas: areas.nbytes)


def summarise(
    map: SpeciesMap, polygon: shapely.Geometry, band: int = 0, threshold: str | None = None
) -> dict[str, Any]:
    """Sums over the cells whose centre lies in a polygon.

    Args:
        map: The map.
        polygon: Polygon or multipolygon, longitude and latitude in degrees WGS 84; longitudes may run on
            beyond 180.
        band: Number of the layer.
        threshold: One besides those of the map, by its value; see tiles.cuts.

    Returns:
        `cells` with data, their `area_km2`, `nodata_km2` of cells inside that have none, `mean` weighted by
        area, `min` and `max` (None without data), `unit`, `above`: threshold -> value, area_km2 and share of
        the area with data, and `representative`: whether one cell stands for a polygon that holds no centre.

    Raises:
        GridError: No polygon, an empty one, or not on earth.
        QueryError: The layer has no such threshold.
        MapError: The file is missing or corrupt.
        FieldError: The embedding field is damaged.
    """
    _require(polygon)
    where = cells_of(map)
    sums = _Sums(map, band)
    if threshold is not None:
        sums.limits[threshold] = value_of(map.about, band, threshold)
    for part in _on_grid(polygon, where):
        for window in _strips(_box(part, where)):
            inside = _centres_in(part, where, window)
            if inside.any():
                sums.add(map.steps(window, 0, band)[inside], cell_areas(map, window)[inside])
    representative = not sums.cells and not sums.nodata_km2
    if representative:
        middle = polygon.representative_point()
        lon = (middle.x + 180.0) % 360.0 - 180.0
        cell = cell_at(map, lon, middle.y)
        if cell is not None:
            window = Window(*cell, 1, 1)
            sums.add(map.steps(window, 0, band).ravel(), cell_areas(map, window).ravel())
    return {**sums.summary(), "representative": representative}


def statistics(map: SpeciesMap, band: int = 0) -> dict[str, Any]:
    """Sums over all cells of a map.

    A map of more than 16 million cells is summed on the overview that has fewer, and says so by `level`.

    Args:
        map: The map.
        band: Number of the layer.

    Returns:
        What `summarise` gives, `histogram`: `edges` (51) and `area_km2` (50), `curve`: area_km2 of the cells
        that reach each of the 251 palette entries, and `level`: overview level that was summed.

    Raises:
        MapError: The file is missing or corrupt.
        FieldError: The embedding field is damaged.
    """
    level = 0
    while math.prod(level_shape(map.shape, level)) > LARGEST:
        level += 1
    sums = _Sums(map, band)
    for window in _strips(Window(0, 0, *level_shape(map.shape, level))):
        sums.add(map.steps(window, level, band).ravel(), cell_areas(map, window, level).ravel())
    return {**sums.summary(), **sums.histogram(), "level": level}


def cell_areas(map: SpeciesMap, window: Window, level: int = 0) -> Floats:
    """True areas (h, w) [km²] of cells of an overview level; 0 where a cell is no place on earth."""
    crs, transform = map.crs, level_transform(map.transform, map.shape, level)

    row, col, height, width = window
    upright = world_width(crs) is not None  # every cell of a row is as large as its neighbour
    row_edges, col_edges = row + np.arange(height + 1.0), col + np.arange((1 if upright else width) + 1.0)

    def made() -> Floats:
        x, y = transform.c + transform.a * col_edges, transform.f + transform.e * row_edges
        return np.nan_to_num(areas_km2(crossings_lonlat(x, y, crs, clip=True)))

    key = crs, transform, window._replace(col=0, width=1) if upright else window
    return np.broadcast_to(_areas.get(key, made), (height, width))


class _Sums:
    """Area and cells by step."""

    def __init__(self, map: SpeciesMap, band: int) -> None:
        self.band: Band = map.about.bands[band]
        # Thresholds are of the species' own scores, which are the first layer.
        own = map.about.thresholds if band == 0 else {}
        self.limits = {key: each.value for key, each in own.items() if not math.isnan(each.value)}
        self.count, self.area = np.zeros(SCALE + 1, np.int64), np.zeros(SCALE + 1)
        self.nodata_km2 = 0.0

    @property
    def cells(self) -> int:
        return int(self.count.sum())

    def add(self, steps: NDArray[np.uint16], areas: Floats) -> None:
        """Count cells (n,) with their areas (n,) [km²]."""
        there = steps != GAP
        self.count += np.bincount(steps[there], minlength=SCALE + 1)
        self.area += np.bincount(steps[there], weights=areas[there], minlength=SCALE + 1)
        self.nodata_km2 += float(areas[~there].sum())

    def summary(self) -> dict[str, Any]:
        present = np.flatnonzero(self.count)
        total = float(self.area.sum())
        mean = float((self._values() * self.area).sum() / total) if total else None
        ends = (present[0], present[-1]) if present.size else (None, None)
        low, high = (None if end is None else round(float(self._values()[end]), 6) for end in ends)
        return {
            "cells": self.cells,
            "area_km2": round(total, 3),
            "nodata_km2": round(self.nodata_km2, 3),
            "mean": None if mean is None else round(mean, 6),
            "min": low,
            "max": high,
            "unit": self.band.unit,
            "above": {key: self._above(value, total) for key, value in self.limits.items()},
        }

    def histogram(self) -> dict[str, Any]:
        per_bin = SCALE // BINS
        bins = np.append(self.area[:-1].reshape(BINS, per_bin).sum(axis=1), 0.0)
        bins[BINS - 1] += self.area[-1]  # the highest value belongs to the last bin
        edges = np.linspace(self.band.low, self.band.high, BINS + 1)
        levels = level_table()[: SCALE + 1]
        by_level = np.bincount(levels, weights=self.area, minlength=STEPS + 1)
        reached = by_level[::-1].cumsum()[::-1]
        return {
            "histogram": {"edges": edges.round(6).tolist(), "area_km2": bins[:BINS].round(3).tolist()},
            "curve": reached.round(3).tolist(),
        }

    def _values(self) -> Floats:
        span = self.band.high - self.band.low
        if (self.band.low, span) == (0.0, 1.0):
            return to_values(np.arange(SCALE + 1, dtype=np.uint16)).astype(np.float64)
        return self.band.low + np.arange(SCALE + 1, dtype=np.float64) * (span / SCALE)

    def _above(self, value: float, total: float) -> dict[str, float]:
        area = float(self.area[first_step(value, self.band) :].sum())
        return {"value": value, "area_km2": round(area, 3), "share": round(area / total, 6) if total else 0.0}


def _require(polygon: shapely.Geometry) -> None:
    what = "cannot sum over the area"
    if polygon.geom_type not in ("Polygon", "MultiPolygon") or polygon.is_empty:
        raise GridError(what, f"a {polygon.geom_type}", "Give a Polygon or a MultiPolygon with points.")
    west, south, east, north = polygon.bounds
    if west < -540 or east > 540 or south < -90 or north > 90:
        change = "Give longitude, then latitude, in degrees."
        raise GridError(what, f"a box of {polygon.bounds}", change)


def _on_grid(polygon: shapely.Geometry, cells: Cells) -> Iterator[shapely.Geometry]:
    """Parts of a polygon in the CRS of a grid; edges follow straight lines in degrees, cut at the seam."""
    _, south, _, north = cells.bbox
    for turn in (-360.0, 0.0, 360.0):
        shifted = shapely.transform(polygon, lambda xy, by=turn: xy + np.array([by, 0.0]))
        for west, east in _spans(cells):
            box = shapely.box(west, max(-90.0, south - SLACK), east, min(90.0, north + SLACK))
            for piece in shapely.get_parts(shapely.intersection(shifted, box)):
                if piece.geom_type == "Polygon" and not piece.is_empty:
                    yield from _projected(piece, cells)


def _spans(cells: Cells) -> list[tuple[float, float]]:
    """Ranges of longitude within which x runs on without a jump, and which the grid may reach into."""
    west, _, east, _ = cells.bbox
    seam = seam_of(cells.crs)
    if seam is not None:
        return [(-180.0, seam), (seam, 180.0)]
    if world_width(cells.crs) is None and west <= east:  # the far side of the earth may be folded onto it
        return [(max(-180.0, west - SLACK), min(180.0, east + SLACK))]
    return [(-180.0, 180.0)]


@lru_cache(maxsize=64)
def seam_of(crs: str) -> float | None:
    """Longitude at which x jumps in a CRS where the world repeats; None if that is the antimeridian."""
    if world_width(crs) is None:
        return None
    lon = np.linspace(-179.5, 179.5, 360)
    x = exact(crs, np.stack([lon, np.zeros(360)], axis=1))[:, 0]
    jump = int(np.argmin(np.diff(x)))
    return None if np.diff(x)[jump] > 0 else round(float(lon[jump] + lon[jump + 1]) / 2, 6)


def _projected(piece: shapely.Geometry, cells: Cells) -> Iterator[shapely.Geometry]:
    left, bottom, right, top = piece.bounds
    dense = shapely.segmentize(piece, max(right - left, top - bottom) / PIECES or 1.0)
    xy = shapely.transform(dense, lambda points: exact(cells.crs, _off_the_seam(points, piece, cells)))
    if np.isfinite(shapely.get_coordinates(xy)).all():
        shapely.prepare(xy)
        yield xy


def _off_the_seam(points: Floats, piece: shapely.Geometry, cells: Cells) -> Floats:
    """Points a hair inside of the edges of the span that a piece lies in, where x has two answers."""
    middle = (piece.bounds[0] + piece.bounds[2]) / 2
    west, east = next(span for span in _spans(cells) if span[0] <= middle <= span[1])
    inside: Floats = np.clip(points[:, 0], west + 1e-9, east - 1e-9)
    return np.column_stack([inside, points[:, 1]])


def _box(part: shapely.Geometry, cells: Cells) -> Window:
    """The cells that the bounding box of a part touches, within the grid; columns as `_columns` has them."""
    left, bottom, right, top = part.bounds
    size = cells.transform.a
    height, width = cells.shape
    first = max(0, math.floor((cells.transform.f - top) / size))
    last = min(height, math.ceil((cells.transform.f - bottom) / size))
    if world_width(cells.crs) is not None:
        return Window(first, 0, max(0, last - first), width)
    start = max(0, math.floor((left - cells.transform.c) / size))
    stop = min(width, math.ceil((right - cells.transform.c) / size))
    return Window(first, start, max(0, last - first), max(0, stop - start))


def _strips(window: Window) -> Iterator[Window]:
    """A window in strips of whole rows."""
    for row in range(window.row, window.row + window.height, STRIP):
        if window.width:
            yield window._replace(row=row, height=min(STRIP, window.row + window.height - row))


def _centres_in(part: shapely.Geometry, cells: Cells, window: Window) -> NDArray[np.bool_]:
    """Whether the centres of cells (h, w) lie inside or on the edge of a part."""
    row, col, height, width = window
    x = cells.transform.c + cells.transform.a * (col + np.arange(width) + 0.5)
    y = cells.transform.f + cells.transform.e * (row + np.arange(height) + 0.5)
    turn = world_width(cells.crs)
    if turn is not None:  # cells that hang over the seam lie on the other side
        x = (x + turn / 2) % turn - turn / 2
    inside: NDArray[np.bool_] = np.zeros((height, width), np.bool_)
    left, bottom, right, top = part.bounds
    rows = np.flatnonzero((y >= bottom) & (y <= top))
    cols = np.flatnonzero((x >= left) & (x <= right))
    if rows.size and cols.size:
        mesh = np.meshgrid(x[cols], y[rows])
        inside[np.ix_(rows, cols)] = shapely.intersects_xy(part, *(each.ravel() for each in mesh)).reshape(
            rows.size, cols.size
        )
    return inside
