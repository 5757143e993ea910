"""A bundle as small as one can be, for tests of what reads a bundle: real fields and heads, made in a second.

    bundle = make_bundle(tmp_path / "bundle")
    monkeypatch.setenv("GEOMAP_BUNDLE", str(bundle))

Its embeddings are smooth functions of longitude and latitude, its heads random numbers from a fixed seed,
its thresholds the quantiles of made-up presences (the fifth of the cells with the highest scores).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geomap.field import EmbeddingField, open_field, quantise
from geomap.fieldstore import FORMAT, chunk_files, metadata_files, pack_field
from geomap.grid import Grid, named_grid
from geomap.heads import THRESHOLDS, Adapter, Meaning, SpeciesHeads, save_heads
from geomap.sweepstore import alone, finish, prepare, unit_counts, unit_window, write_unit

DIM = 6
ENCODER_HASH = "e" * 64
SCALE = np.full(DIM, 1 / 127, np.float32)
QUANTILES = {"mtp": 0.0, "p10": 0.1, "lpt5": 0.05, "maxsss": 0.3}
GROUPS: dict[str, tuple[Meaning, tuple[tuple[str, str, str], ...]]] = {
    "california-plants": (
        "suitability",
        (
            ("Eschscholzia californica", "California Poppy", ""),
            ("Quercus lobata", "Valley Oak", "Quercus hindsii"),
            ("Sequoia sempervirens", "Coast Redwood", ""),
        ),
    ),
    "north-america-birds": (
        "probability",
        (("Carduelis lawrencei", "Lawrence's Goldfinch", ""), ("Chamaea fasciata", "Wrentit", "")),
    ),
    "world-birds": (
        "suitability",
        (("Spinus lawrencei", "Lawrence's Goldfinch", ""), ("Aptenodytes forsteri", "Emperor Penguin", "")),
    ),
}


def small_california(resolution: float = 20_000.0) -> Grid:
    """The State of California in cells of 20 km, under the name of the shipped grid."""
    return replace(named_grid("california", resolution), name="california")


def make_bundle(folder: Path, grids: Sequence[Grid] | None = None, home: str | None = None) -> Path:
    """Write a bundle of fields and three groups of heads, without encoders.

    Args:
        folder: Where to.
        grids: One field each; `small_california()` if None. The heads are fitted on the first.
        home: Name of the grid that the heads say they were fitted on; that of the first if None.

    Returns:
        The folder.
    """
    grids = [small_california()] if grids is None else grids
    (folder / "fields").mkdir(parents=True)
    for grid in grids:
        write_field(folder / "plain.zarr", grid)
        pack_field(folder / "plain.zarr", folder / "fields" / f"{grid.name}.zarr.zip")
        shutil.rmtree(folder / "plain.zarr")
    first = open_field(folder / "fields" / f"{grids[0].name}.zarr.zip")
    for seed, (name, (meaning, species)) in enumerate(GROUPS.items()):
        heads = make_heads(name, meaning, species, first, seed)
        if home is not None:
            heads = replace(heads, card={**heads.card, "grid": home})
        save_heads(heads, folder / "heads" / name)
    return folder


def smooth_embedding(lonlat: NDArray[np.float64]) -> NDArray[np.float32]:
    """Embeddings (n, 6) in -1..1 of points (n, 2): waves along lon and lat of some degrees' length."""
    lon, lat = np.nan_to_num(lonlat).T
    waves = [lon / 3, lat / 3, (lon + lat) / 5, (lon - lat) / 7, lon / 11, lat / 13]
    embedding: NDArray[np.float32] = np.sin(np.stack(waves, axis=1)).astype(np.float32)
    return embedding


def write_field(path: Path, grid: Grid, encoder_hash: str = ENCODER_HASH) -> EmbeddingField:
    """Write a finished field of `smooth_embedding` on the land of a grid, as the sweep stores it."""
    attributes = {
        "format": FORMAT, "grid": grid.to_dict(), "lattice": grid.crs.to_wkt(), "encoder_hash": encoder_hash,
        "imagery_id": "i" * 64, "scale": SCALE.astype(float).tolist(), "credit": "made up",
    }  # fmt: skip
    rows, cols = unit_counts(grid)
    with alone(path):
        prepare(path, metadata_files(grid.shape, grid.unit, DIM, attributes), overwrite=False)
        for unit in [(i, j) for i in range(rows) for j in range(cols)]:
            window = unit_window(grid, unit)
            land = grid.land_mask(window)
            values = smooth_embedding(grid.cell_lonlat(window).reshape(-1, 2)).reshape(*land.shape, DIM)
            steps = quantise(np.where(land[..., None], values, np.float32(0)), SCALE)
            files = chunk_files(*unit, steps, land, grid.unit) if land.any() else {}
            write_unit(path, unit, files, land=int(land.sum()), valid=int(land.sum()))
        finish(path, rows * cols)
    return open_field(path)


def make_heads(
    name: str,
    meaning: Meaning,
    species: Sequence[tuple[str, str, str]],
    home: EmbeddingField,
    seed: int = 0,
) -> SpeciesHeads:
    """Random heads whose thresholds fit a field.

    Args:
        name: Name of the group.
        meaning: "suitability" or "probability".
        species: (scientific name, common name, synonym) of each.
        home: The field that the thresholds are taken from.
        seed: Seed of the random numbers.
    """
    rng = np.random.default_rng(seed)

    def draw(*shape: int, spread: float = 1.0) -> NDArray[np.float32]:
        return rng.normal(0, spread, shape).astype(np.float32)

    members = tuple((draw(home.dim, 12), draw(12), draw(12, 8, spread=1 / 3), draw(8)) for _ in range(2))
    adapter = Adapter(np.zeros(home.dim, np.float32), np.ones(home.dim, np.float32), members)
    weights, bias = draw(len(species), 16, spread=0.5), draw(len(species))
    calibration = np.tile(np.array([1.5, -0.5], np.float32), (len(species), 1))
    table = pd.DataFrame(species, columns=["scientificName", "vernacularName", "synonyms"])
    table = table.assign(records=100 + 10 * np.arange(len(species)), cells=80, prevalence=0.2, n_test=50)
    card = {"grid": home.grid.name, "data": {"credit": f"Made up for {name}", "licence": "CC-BY-NC-4.0"}}
    heads = SpeciesHeads(name, meaning, home.encoder_hash, adapter, weights, bias, calibration, table, card)
    values, valid = home.read(home.grid.whole)
    return replace(heads, species=table.assign(**_scores(heads.predict(values[valid]), seed)))


def _scores(predicted: NDArray[np.float32], seed: int) -> Mapping[str, NDArray[np.float64]]:
    """Columns of thresholds, omissions and scores for predictions (n, S)."""
    presences = np.sort(predicted, axis=0)[-len(predicted) // 5 :]
    columns = {}
    for key in THRESHOLDS:
        columns[key] = np.floor(np.quantile(presences, QUANTILES[key], axis=0) * 1e4) / 1e4
        columns[f"omission_{key}"] = np.full(presences.shape[1], QUANTILES[key])
        columns[f"area_km2_{key}"] = np.full(presences.shape[1], np.nan)
    for k, key in enumerate(("auc", "ap", "brier", "boyce")):
        columns[key] = 0.9 - 0.1 * k - 0.01 * seed - 0.001 * np.arange(presences.shape[1])
        columns[f"null_{key}"] = columns[key] - 0.05
    return columns
