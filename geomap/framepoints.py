"""Predictions at the points of a table in memory, by the same steps as for a file (geomap.predict)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geomap.catalog import Catalog
from geomap.cog import to_steps, to_values
from geomap.errors import RecordsError
from geomap.heads import SpeciesHeads
from geomap.pointsource import PointSource
from geomap.pointtable import Counts, coordinate_columns, coordinates
from geomap.predict import CHUNK, predict_points, refuse_unusable

NAMED = Path("in the table")  # what stands for a file's name in messages
HEADER = ["decimalLongitude", "decimalLatitude"]


def predict_frame(
    points: pd.DataFrame,
    catalog: Catalog,
    choose: bool,
    species: Sequence[str] | None,
    source_of: Callable[[SpeciesHeads], PointSource],
) -> pd.DataFrame:
    """See `geomap.api.predict`.

    Args:
        points: The table.
        catalog: The heads.
        choose: Whether every species is looked for in all groups; then species must be given.
        species: Names; all of the heads if None.
        source_of: Embeddings for a group of heads.
    """
    if species is None and choose:
        raise RecordsError("cannot predict", "neither heads nor species", "Give one of them, or both")
    entries = catalog.entries() if species is None else [catalog.find_entry(name) for name in species]
    entries = list({entry.scientific: entry for entry in entries}.values())
    clash = sorted({str(column) for column in points.columns} & {entry.scientific for entry in entries})
    if clash:
        found = f"it has a column {clash[0]!r}"
        raise RecordsError("cannot add predictions to the table", found, "Rename that column")
    counts = Counts()
    lonlat = lonlat_of(points, counts)
    columns: dict[str, NDArray[np.float32]] = {}
    for group, members in groupby(sorted(entries, key=lambda e: e.group), key=lambda e: e.group):
        mine, heads = list(members), catalog.heads(group)
        counts.outside = 0
        scores = values_at(heads, [entry.index for entry in mine], source_of(heads), lonlat, counts)
        refuse_unusable("the points", counts)
        columns |= {entry.scientific: scores[:, k] for k, entry in enumerate(mine)}
    return points.assign(**{entry.scientific: columns[entry.scientific] for entry in entries})


def lonlat_of(points: pd.DataFrame, counts: Counts) -> NDArray[np.float64]:
    """Longitude and latitude (n, 2) of a table, NaN where there is none; from its geometry if it has one.

    Raises:
        RecordsError: The columns are not told apart, or the geometries are no points or have no CRS.
    """
    if hasattr(type(points), "crs"):  # of GeoPandas; a column may have that name, too
        pairs = _of_geometry(points)
    else:
        lon, lat = coordinate_columns(NAMED, [str(column) for column in points.columns])
        pairs = points.iloc[:, [lon, lat]].astype(object).to_numpy()
    texts = [[str(value) for value in pair] for pair in pairs]
    empty = np.zeros((0, 2))
    lonlat = coordinates(NAMED, texts, HEADER, (0, 1), counts) if texts else empty
    refuse_unusable("the points", counts)
    return lonlat


def _of_geometry(points: pd.DataFrame) -> NDArray[np.float64]:
    what = "cannot read the points in the table"
    if getattr(points, "crs", None) is None:
        raise RecordsError(what, "geometries without a CRS", "Set it: points.set_crs(...)")
    kinds = sorted(set(points.geom_type.dropna()) - {"Point"})
    if kinds:
        raise RecordsError(what, f"geometries of type {', '.join(kinds)}", "Give points")
    degrees = points.geometry.to_crs("EPSG:4326")
    return np.column_stack([degrees.x.to_numpy(), degrees.y.to_numpy()])


def values_at(
    heads: SpeciesHeads,
    species: Sequence[int],
    source: PointSource,
    lonlat: NDArray[np.float64],
    counts: Counts,
) -> NDArray[np.float32]:
    """Values (n, s) float32 of species at points, in steps of 1/10000 as maps have them; NaN without data."""
    values = np.full((len(lonlat), len(species)), np.nan, np.float32)
    for first in range(0, len(lonlat), CHUNK):
        part = slice(first, first + CHUNK)
        scores = predict_points(heads, species, source, lonlat[part], counts)
        known = np.isfinite(scores)
        values[part] = np.where(known, to_values(to_steps(scores, known)), np.nan)
    return values
