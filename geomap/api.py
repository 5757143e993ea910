"""What a person calls from Python: open, render, fit and predict; summary and plot stand in their own files.

Nothing is kept between calls. Every function refuses with a `GeomapError` of three parts, as the commands do.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import xarray

    from geomap.catalog import Catalog
    from geomap.field import EmbeddingField
    from geomap.grid import Grid
    from geomap.heads import SpeciesHeads
    from train.species import FitConfig


def open(what: str | Path | None = None) -> Catalog | SpeciesHeads | EmbeddingField:
    """Open the bundle, heads or an embedding field, to look at it.

    Args:
        what: None: the shipped bundle. Name of a group of heads or of a grid in it, a folder written by
            geomap.fit, a field (`.zarr`, `.zarr.zip`), or the folder of another bundle.

    Returns:
        A Catalog (bundle) or SpeciesHeads, each with a table `.species`, or an EmbeddingField. All show
        themselves in a notebook.

    Raises:
        HeadsError: There is nothing of the kind, or the heads are damaged.
        FieldError: The field is unfinished or damaged.
    """
    from geomap.catalog import Catalog, bundle_groups, bundle_path
    from geomap.errors import HeadsError
    from geomap.field import open_field
    from geomap.heads import load_heads

    if what is None:
        return Catalog.open()
    shipped, path = Catalog(bundle_path(), bundle_groups(bundle_path())), Path(what)
    if str(what) in shipped.folders:
        return shipped.heads(str(what))
    if str(what) in shipped.field_paths:
        return shipped.field(str(what))
    if path.name.endswith((".zarr", ".zarr.zip")):
        return open_field(path)
    if path.is_dir():
        return Catalog.open(bundle=path) if bundle_groups(path) else load_heads(path)
    names = [*shipped.folders, *shipped.field_paths]
    near = difflib.get_close_matches(str(what), names, n=3, cutoff=0.3) or names
    found = f"{str(what)!r} is no group or grid of the bundle, no folder and no field"
    raise HeadsError(f"cannot open {what}", found, f"use {' or '.join([*near, 'a path'])}")


def render(
    species: str,
    grid: str | Grid | None = None,
    heads: str | Path | SpeciesHeads | None = None,
    field: str | Path | EmbeddingField | None = None,
) -> xarray.DataArray:
    """The map of a species, computed when it is looked at.

    Args:
        species: Scientific name, synonym or common name, in any case.
        grid: "california", "north-america", "global", or a Grid (`geomap.grid.grid_from_bbox(...)`). None:
            the cells of `field`, or california where no field is given.
        heads: Group of the bundle, folder written by geomap.fit, or heads in memory. None: the best of all
            groups of the bundle.
        field: Embedding field. None: one of the bundle.

    Returns:
        (y, x) float32 in 0..1, NaN where there is no data; y falls, x rises, both at the centres of cells.
        A Dask array with one task per unit of the grid. Its values are those of the map file that
        `geomap render` writes: steps of 1/10000. `.rio.crs` is the CRS; `attrs` hold long_name, units,
        meaning, thresholds with their omission, scores beside the null model's, credits.

    Raises:
        NameNotFoundError: No heads carry the species.
        GridError, HeadsError, FieldError: These cannot be used, or do not fit each other.
    """
    from geomap.lazymap import lazy_map, scene_of

    return lazy_map(scene_of([species], grid, heads, field))


def fit(
    records: str | Path | pd.DataFrame | None = None,
    surveys: str | Path | pd.DataFrame | None = None,
    *,
    out: str | Path | None = None,
    field: str | Path | EmbeddingField | None = None,
    grid: str | None = None,
    imagery: str | None = None,
    encoders: str | Path | None = None,
    folds: int = 5,
    block_degrees: float | None = None,
    min_records: int = 10,
    max_uncertainty: float | None = None,
    background: int = 10_000,
    seed: int = 0,
    credit: str = "",
    licence: str = "",
    overwrite: bool = False,
    config: FitConfig | None = None,
) -> SpeciesHeads:
    """Fit species heads on records or surveys; `geomap fit` in Python, with the same numbers.

    Args:
        records: Presence-only records: a table with scientificName, decimalLongitude and decimalLatitude
            (the spellings of `geomap.columns` are known), a GeoDataFrame of points in any CRS, or a file.
        surveys: Complete surveys: a table with locationID, visits and detections besides, or a file.
        out: Folder to save the heads in; its name becomes theirs. None: they are not saved.
        field: Embedding field. None: the shipped one that fits the records.
        grid: Name of a shipped field.
        imagery: Imagery for what the field does not have.
        encoders: Folder of encoders for the imagery. None: the shipped ones.
        folds: Folds of the cross-validation.
        block_degrees: Side of its blocks. None: 0.5 within 12 x 12 degrees, else 5.
        min_records: Cells or locations with a species; one with fewer is left out and listed in the card.
        max_uncertainty: Metres. None: the side of a cell, at least 1 km.
        background: Random land cells of a presence-only fit.
        seed: Seed of everything random.
        credit: Credit of the records, kept in the heads.
        licence: Licence of the records, kept in the heads.
        overwrite: Replace what is in `out`.
        config: Settings of the trainer.

    Returns:
        The heads; `.species` has the scores beside the null model's, `.card` what was left out.

    Raises:
        RecordsError, FieldError, ImageryError, HeadsError: Something given cannot be used.
        OutputError: `out` exists, or cannot be written.
    """
    from geomap.fit import fit_heads
    from geomap.fitrequest import FitRequest

    request = FitRequest(
        _path(out), _table(records), _table(surveys), _field(field), grid, imagery,
        _path(encoders), folds, block_degrees, min_records, max_uncertainty, background, seed, credit,
        licence, overwrite,
    )  # fmt: skip
    return fit_heads(request, config)


def predict(
    points: pd.DataFrame,
    heads: str | Path | SpeciesHeads | None = None,
    species: str | Sequence[str] | None = None,
    *,
    field: str | Path | EmbeddingField | None = None,
    grid: str | None = None,
    imagery: str | None = None,
    encoders: str | Path | None = None,
) -> pd.DataFrame:
    """Predict species at points; `geomap predict` in Python.

    Args:
        points: A table with longitude and latitude in degrees (decimalLongitude, longitude, lon ...), or a
            GeoDataFrame of points in any CRS.
        heads: Group of the bundle, folder written by geomap.fit, or heads in memory. None: for each species
            the best of all groups of the bundle.
        species: One or more names. None: all of `heads`.
        field: Embedding field. None: that of the heads' own grid.
        grid: Name of a shipped field.
        imagery: Imagery for points outside of the field.
        encoders: Folder of encoders for the imagery. None: the shipped ones.

    Returns:
        A copy of `points` with a column for each species, named by its scientific name: float32 in steps of
        1/10000, NaN where there is no embedding.

    Raises:
        RecordsError: The table, or all of its points, cannot be used; a column has the name of a species; or
            neither heads nor species are given.
        NameNotFoundError: No heads carry a species.
        FieldError, HeadsError, ImageryError: These cannot be used, or do not fit each other.
    """
    from geomap.framepoints import predict_frame
    from geomap.lazymap import catalog_of
    from geomap.predict import source_of

    names = [species] if isinstance(species, str) else species
    at = _field(field)
    return predict_frame(
        points,
        catalog_of(heads),
        heads is None,
        names,
        lambda fitted: source_of(fitted, at, grid, imagery, _path(encoders)),
    )


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _field(given: str | Path | EmbeddingField | None) -> Path | None:
    return _path(given) if given is None or isinstance(given, str | Path) else given.path


def _table(given: str | Path | pd.DataFrame | None) -> Path | pd.DataFrame | None:
    return Path(given) if isinstance(given, str) else given
