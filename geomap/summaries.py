"""Sums over polygons: how much of each is above a species' threshold, with true areas on the ellipsoid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geomap.cog import SCALE
from geomap.entries import SpeciesEntry
from geomap.errors import GridError
from geomap.field import EmbeddingField
from geomap.grid import Grid
from geomap.heads import SpeciesHeads
from geomap.lazymap import Scene, scene_of
from geomap.projection import WGS84, project, world_width
from geomap.scores import score_cells

if TYPE_CHECKING:
    import geopandas as gpd

WHAT = "cannot sum over the polygons"


def summary(
    polygons: gpd.GeoDataFrame | gpd.GeoSeries,
    species: str | Sequence[str],
    grid: str | Grid | None = None,
    heads: str | Path | SpeciesHeads | None = None,
    field: str | Path | EmbeddingField | None = None,
) -> pd.DataFrame:
    """Areas and means of species in polygons.

    A cell counts where its centre lies in or on the edge of a polygon, whose edges are straight in its own
    CRS. Polygons may overlap; none is held against the others.

    Args:
        polygons: Polygons in any CRS.
        species: One or more names, or "all".
        grid: As in `geomap.render`.
        heads: As in `geomap.render`.
        field: As in `geomap.render`.

    Returns:
        One row per polygon and species, polygons in their order: polygon (its index value), scientificName,
        meaning, cells (with data), area_km2 of these, mean (weighted by area), threshold (the default, P10),
        area_above_km2 (at or above it) and share_above of area_km2. Without a cell that has data, areas are
        0, mean and share NaN; where the threshold is not known, area_above_km2 and share_above are NaN.

    Raises:
        GridError: No polygons, without a CRS, or a grid that makes no sense.
        NameNotFoundError, HeadsError, FieldError: As `geomap.render`.
    """
    shapes = _shapes(polygons)
    names = [species] if isinstance(species, str) else list(species)
    scene = scene_of(names, grid, heads, field)
    sums = _Sums(len(shapes), scene.entries)
    for window in scene.target.grid.units():
        # Where the cells lie is found before their embeddings are read: most units hold no polygon.
        lonlat = scene.target.grid.cell_lonlat(window).reshape(-1, 2)
        held = {k: rows for k, rows in _held(shapes, polygons.crs, lonlat) if rows.size}
        if held:
            features, valid = scene.target.read(window)
            cells = _any_of(held.values(), valid.reshape(-1))
            if cells.size:
                area = scene.target.grid.cell_area_km2(window).reshape(-1)[cells]
                sums.add(_among(cells, held), area, _steps(scene, features.reshape(len(lonlat), -1)[cells]))
    return sums.table(polygons.index)


def _shapes(polygons: Any) -> NDArray[Any]:
    """The polygons, valid and prepared; None where there is none."""
    crs = getattr(polygons, "crs", None) if hasattr(type(polygons), "crs") else None
    if crs is None:
        found = f"a {type(polygons).__name__} without a CRS"
        raise GridError(WHAT, found, "Give a GeoDataFrame with its CRS (set_crs)")
    shapes = polygons.geometry.to_numpy()
    kinds = {each.geom_type for each in shapes if each is not None} - {"Polygon", "MultiPolygon"}
    if kinds or not len(shapes):
        raise GridError(WHAT, ", ".join(sorted(kinds)) or "no row", "Give a table of polygons only")
    valid: NDArray[Any] = shapely.make_valid(shapes)
    shapely.prepare(valid)
    return valid


def _held(
    shapes: NDArray[Any], crs: Any, lonlat: NDArray[np.float64]
) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Number of each polygon, and which points (n, 2) in degrees lie in it."""
    name = crs.to_string()
    xy = project(lonlat, WGS84, name)
    # Polygons in degrees may be drawn beyond 180.
    turns = (0.0, -360.0, 360.0) if world_width(name) == 360.0 else (0.0,)
    for k, (left, bottom, right, top) in enumerate(shapely.bounds(shapes)):
        inside = np.zeros(len(xy), np.bool_)
        for turn in turns:
            x, y = xy[:, 0] + turn, xy[:, 1]
            near = np.flatnonzero((x >= left) & (x <= right) & (y >= bottom) & (y <= top))
            inside[near] |= shapely.intersects_xy(shapes[k], x[near], y[near])
        yield k, np.flatnonzero(inside)


def _any_of(held: Iterable[NDArray[np.intp]], valid: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The valid cells among those that any polygon holds, each once."""
    cells: NDArray[np.intp] = np.unique(np.concatenate(list(held)))
    return cells[valid[cells]]


def _among(
    cells: NDArray[np.intp], held: Mapping[int, NDArray[np.intp]]
) -> list[tuple[int, NDArray[np.intp]]]:
    """The cells of each polygon as positions among `cells`."""
    return [(k, np.flatnonzero(np.isin(cells, rows))) for k, rows in held.items()]


def _steps(scene: Scene, features: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Steps (S, n) of all species of a scene at embeddings (n, D)."""
    steps = np.empty((len(scene.entries), len(features)), np.uint16)
    order = sorted(range(len(scene.entries)), key=lambda k: scene.entries[k].group)
    for group, members in groupby(order, key=lambda k: scene.entries[k].group):
        mine = list(members)
        chosen = [scene.entries[k].index for k in mine]
        steps[mine] = score_cells(features, scene.catalog.heads(group), chosen)
    return steps


class _Sums:
    """Sums of P polygons and S species."""

    def __init__(self, polygons: int, entries: Sequence[SpeciesEntry]) -> None:
        self.entries = entries
        self.cells, self.area = np.zeros(polygons, np.int64), np.zeros(polygons)
        self.value, self.above = (np.zeros((polygons, len(entries))) for _ in range(2))
        self.limits = np.array([each.thresholds[each.default_threshold].value for each in entries])

    def add(
        self,
        held: list[tuple[int, NDArray[np.intp]]],
        area: NDArray[np.float64],
        steps: NDArray[np.uint16],
    ) -> None:
        """Add the cells `held` by each polygon, of area (n,) [km²], with steps (S, n)."""
        first = np.ceil(np.nan_to_num(self.limits, nan=2.0) * SCALE - 1e-6)  # as MapFacts.area_above
        for k, rows in held:
            self.cells[k] += rows.size
            self.area[k] += area[rows].sum()
            self.value[k] += steps[:, rows] @ area[rows] / SCALE
            self.above[k] += (steps[:, rows] >= first[:, None]) @ area[rows]

    def table(self, index: pd.Index) -> pd.DataFrame:
        """One row per polygon and species."""
        rows = []
        for k, polygon in enumerate(index):
            area = float(self.area[k]) or math.nan  # 0: shares and means do not exist
            for s, entry in enumerate(self.entries):
                above = math.nan if math.isnan(self.limits[s]) else float(self.above[k, s])
                rows.append(
                    {
                        "polygon": polygon,
                        "scientificName": entry.scientific,
                        "meaning": entry.meaning,
                        "cells": int(self.cells[k]),
                        "area_km2": float(self.area[k]),
                        "mean": float(self.value[k, s]) / area,
                        "threshold": float(self.limits[s]),
                        "area_above_km2": above,
                        "share_above": above / area,
                    }
                )
        return pd.DataFrame(rows)
