"""Scores of many species on one grid, unit by unit, kept on disk until each becomes a map.

The embeddings of a unit are read and sent through the adapter once, then every species is one column of a
matrix product. A score is kept as a uint16 step of 1/10000 (see geomap.cog), valid cells only, so a species
of the California grid takes 0.9 MB and any number of species needs the memory of one unit. Units have a
fixed place in the
files: several processes may write them in any order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from geomap.cog import BLOCK, GAP, cannot_write, to_steps
from geomap.errors import MapError
from geomap.grid import Grid, Window
from geomap.heads import SpeciesHeads
from geomap.onethread import ONE_THREAD
from geomap.target import Target

Scalar = TypeVar("Scalar", bound=np.generic)
ROWS = 4096  # cells sent through the adapter at once: the activations stay in the cache
# Species are scored in columns of this many, the last filled up, so that the shapes of the products, and with
# them the last bits of the scores, do not depend on which species are asked for together.
COLUMNS = 16


@dataclass(frozen=True)
class ScoreStore:
    """Scores of some species on a grid, in a folder.

    Attributes:
        folder: An empty folder.
        grid: The cells.
        species: Number of species.
    """

    folder: Path
    grid: Grid
    species: int

    @cached_property
    def units(self) -> list[Window]:
        """The units of the grid."""
        return self.grid.units()

    @cached_property
    def starts(self) -> list[int]:
        """Number of cells before each unit."""
        sizes = [unit.height * unit.width for unit in self.units]
        return [0, *np.cumsum(sizes).tolist()[:-1]]

    def write(
        self, k: int, valid: NDArray[np.bool_], area_km2: NDArray[np.float64], steps: NDArray[np.uint16]
    ) -> None:
        """Keep a unit.

        Args:
            k: Number of the unit.
            valid: (h, w) bool.
            area_km2: (n,) area of the valid cells [km²].
            steps: (species, n) uint16 scores of the valid cells.

        Raises:
            OutputError: The disk is full.
        """
        start = self.starts[k]
        self._put("valid", start, valid)
        self._put("area", 8 * start, area_km2)
        self._put("steps", 2 * start * self.species, steps)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """(H, W) bool: the cells with scores; of units not yet written, False."""
        mask = np.zeros(self.grid.shape, np.bool_)
        for k, (row, col, height, width) in enumerate(self.units):
            flags = self._get("valid", self.starts[k], height * width, np.dtype(np.bool_))
            mask[row : row + height, col : col + width] = flags.reshape(height, width)
        return mask

    @cached_property
    def counts(self) -> list[int]:
        """Number of valid cells of each unit."""
        return [int(np.count_nonzero(self.valid[r : r + h, c : c + w])) for r, c, h, w in self.units]

    def parts(self, species: int) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.float64]]]:
        """Steps (n,) and areas (n,) [km²] of a species' valid cells, unit by unit."""
        for k, area in enumerate(self._areas):
            yield self._steps(species, k), area

    def strips(self, species: int) -> Iterator[tuple[int, NDArray[np.uint16]]]:
        """First row and (h, W) steps of a species, in strips of whole units of at least 512 rows."""
        (height, width), side = self.grid.shape, self.strip_rows
        for top in range(0, height, side):
            strip = np.full((min(side, height - top), width), GAP, np.uint16)
            for k, (row, col, h, w) in enumerate(self.units):
                if top <= row < top + side and self.counts[k]:
                    part = strip[row - top : row - top + h, col : col + w]
                    part[self.valid[row : row + h, col : col + w]] = self._steps(species, k)
            yield top, strip

    @property
    def strip_rows(self) -> int:
        """Rows of a strip."""
        return self.grid.unit * max(1, BLOCK // self.grid.unit)

    @cached_property
    def _areas(self) -> list[NDArray[np.float64]]:
        return [
            self._get("area", 8 * start, count, np.dtype(np.float64))
            for start, count in zip(self.starts, self.counts, strict=True)
        ]

    def _steps(self, species: int, k: int) -> NDArray[np.uint16]:
        count = self.counts[k]
        start = 2 * (self.starts[k] * self.species + species * count)
        return self._get("steps", start, count, np.dtype(np.uint16))

    def _put(self, name: str, start: int, values: NDArray[np.generic]) -> None:
        """Write at a place; not by a memory map, where a full disk is a signal that kills."""
        data = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        with cannot_write(self.folder / name):
            target = os.open(self.folder / name, os.O_RDWR | os.O_CREAT)
            try:
                while len(data):
                    written = os.pwrite(target, data, start)
                    data, start = data[written:], start + written
            finally:
                os.close(target)

    def _get(self, name: str, start: int, count: int, dtype: np.dtype[Scalar]) -> NDArray[Scalar]:
        if count == 0:
            return np.zeros(0, dtype)
        values = np.fromfile(self.folder / name, dtype, count, offset=start)
        if values.size != count:
            raise MapError("cannot read the scores", f"{name} ends early", "render again")
        return values


def score_unit(store: ScoreStore, target: Target, heads: SpeciesHeads, chosen: Sequence[int], k: int) -> None:
    """Score the species on a unit of a grid and keep the result.

    Args:
        store: Where it is kept.
        target: Embeddings of the grid.
        heads: Heads of the same encoders.
        chosen: Rows of the species in the heads, as many as the store has.
        k: Number of the unit.

    Raises:
        FieldError: A chunk of the field is damaged.
        MapError: A score is not finite.
        OutputError: The disk is full.
    """
    window = store.units[k]
    features, valid = target.read(window)
    if not valid.any():
        store.write(k, valid, np.zeros(0), np.zeros((len(chosen), 0), np.uint16))
        return
    area = store.grid.cell_area_km2(window)[valid]
    store.write(k, valid, area, score_cells(features[valid], heads, chosen))


def score_cells(
    features: NDArray[np.float32], heads: SpeciesHeads, chosen: Sequence[int]
) -> NDArray[np.uint16]:
    """Scores of species at embeddings, the same bytes whatever runs beside it.

    Args:
        features: (n, D) float32.
        heads: Heads of the same encoders.
        chosen: (S,) rows of the species in the heads.

    Returns:
        (S, n) uint16 steps of 1/10000.
    """
    filled = [*chosen, *[chosen[-1]] * (-len(chosen) % COLUMNS)]
    steps = np.empty((len(filled), len(features)), np.uint16)
    everywhere = np.ones((ROWS, COLUMNS), np.bool_)
    with ONE_THREAD:
        for first in range(0, len(features), ROWS):
            z = heads.transform(features[first : first + ROWS])
            for column in range(0, len(filled), COLUMNS):
                scores = heads.predict_transformed(z, filled[column : column + COLUMNS])
                part = to_steps(scores, everywhere[: len(scores)])
                steps[column : column + COLUMNS, first : first + ROWS] = part.T
    return steps[: len(chosen)]
