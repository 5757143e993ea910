"""A map as an array that is computed when it is looked at: xarray over Dask, a task for each unit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import rioxarray  # noqa: F401  # gives DataArray its .rio
import xarray
from numpy.typing import NDArray

from geomap.catalog import Catalog, bundle_path
from geomap.cog import to_values
from geomap.entries import SpeciesEntry
from geomap.field import EmbeddingField
from geomap.grid import Grid, Window, named_grid
from geomap.heads import SpeciesHeads
from geomap.mapfile import map_tags
from geomap.rendering import choose, require_encoders
from geomap.scores import score_cells
from geomap.target import FieldOptions, Target, find_target

# Tags of a map file that an array carries too, under these names.
SAID = {
    "SPECIES": "species", "VERNACULAR": "vernacular_name", "MEANING": "meaning", "MODEL": "model",
    "RECORDS": "records", "GRID": "grid", "DATA_CREDIT": "data_credit", "LICENCE": "licence",
    "IMAGERY_CREDIT": "imagery_credit", "THRESHOLD": "default_threshold", "VERSION": "geomap_version",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scene:
    """Species on a grid.

    Attributes:
        catalog: Where the heads are.
        entries: The species asked for, each once.
        target: Cells and embeddings, checked against the heads.
    """

    catalog: Catalog
    entries: list[SpeciesEntry]
    target: Target


def scene_of(
    species: Sequence[str],
    grid: str | Grid | None,
    heads: str | Path | SpeciesHeads | None,
    field: str | Path | EmbeddingField | None,
) -> Scene:
    """Find species, heads, cells and embeddings; arguments as in `geomap.api.render`."""
    catalog = catalog_of(heads)
    entries = choose(catalog, tuple(species))
    path = field.path if isinstance(field, EmbeddingField) else None if field is None else Path(field)
    if not isinstance(grid, Grid):
        grid = None if grid is None and path is not None else named_grid(grid or "california")
    target = find_target(grid, FieldOptions(path), catalog)
    require_encoders(catalog, entries, target)
    if target.gap:
        warnings.warn(f"{target.gap}.", stacklevel=3)  # where geomap.render was called
    return Scene(catalog, entries, target)


def catalog_of(heads: str | Path | SpeciesHeads | None) -> Catalog:
    """The bundle, a group of it, a folder of heads, or heads in memory as a catalogue."""
    if isinstance(heads, SpeciesHeads):
        return Catalog(bundle_path(), {heads.name: Path(heads.name)}, {heads.name: heads})
    return Catalog.open(heads)


def lazy_map(scene: Scene) -> xarray.DataArray:
    """The map of the first species of a scene, not yet computed; see `geomap.api.render`."""
    entry, target = scene.entries[0], scene.target
    heads = scene.catalog.heads(entry.group)
    tags = map_tags(entry, heads, target)
    grid, (height, width) = target.grid, target.grid.shape
    scorer = Scorer(target, only(heads, entry.index))
    values = dask.array.map_blocks(
        score_block,
        scorer=scorer,
        name=f"geomap-{sha256((tags['GEOMAP_INPUTS'] + entry.slug).encode()).hexdigest()[:32]}",
        chunks=tuple(
            tuple(min(grid.unit, side - at) for at in range(0, side, grid.unit)) for side in (height, width)
        ),
        dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
    )
    x = grid.transform.c + grid.transform.a * (np.arange(width) + 0.5)
    y = grid.transform.f + grid.transform.e * (np.arange(height) + 0.5)
    plain = xarray.DataArray(values, {"y": y, "x": x}, ("y", "x"), entry.meaning, attributes(entry, tags))
    georeferenced: xarray.DataArray = (
        plain.rio.write_crs(str(grid.crs)).rio.write_transform(grid.transform).rio.write_coordinate_system()
    )
    marked: xarray.DataArray = georeferenced.rio.write_nodata(np.nan, encoded=True)
    return marked


def attributes(entry: SpeciesEntry, tags: dict[str, str]) -> dict[str, Any]:
    """What an array says about itself, in text and numbers that every format of xarray can write."""
    said: dict[str, Any] = {"long_name": f"{entry.title}: {entry.meaning}", "units": "1"}
    said |= {name: tags[f"GEOMAP_{tag}"] for tag, name in SAID.items() if f"GEOMAP_{tag}" in tags}
    said["records"] = entry.records
    for key, threshold in entry.thresholds.items():
        said |= {f"threshold_{key}": threshold.value, f"omission_{key}": threshold.omission}
    for key, score in entry.scores.items():
        said |= {key: score.value, f"null_{key}": score.null}
    return {
        name: value for name, value in said.items() if not (isinstance(value, float) and math.isnan(value))
    }


def only(heads: SpeciesHeads, index: int) -> SpeciesHeads:
    """Heads with one species, so that a task does not carry thousands."""
    return replace(
        heads,
        weights=heads.weights[[index]],
        bias=heads.bias[[index]],
        calibration=heads.calibration[[index]],
        species=heads.species.iloc[[index]].reset_index(drop=True),
    )


@dataclass(frozen=True, eq=False)
class Scorer:
    """What a task needs: embeddings and the heads of one species."""

    target: Target
    heads: SpeciesHeads


def score_block(scorer: Scorer, block_info: Any = None) -> NDArray[np.float32]:
    """Values (h, w) float32 of a block, NaN where there is no data; runs in a task."""
    (top, bottom), (left, right) = block_info[None]["array-location"]
    features, valid = scorer.target.read(Window(top, left, bottom - top, right - left))
    values = np.full(valid.shape, np.nan, np.float32)
    if valid.any():
        values[valid] = to_values(score_cells(features[valid], scorer.heads, [0])[0])
    return values
