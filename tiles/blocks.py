"""The adapter's output for blocks of cells, computed once for all species of a group and kept.

What an embedding costs on its way to a species is the adapter, 0.26 million multiplications a cell. It is
the same for every species of a group; after it a species is one dot product. So its output z is kept, block
by block of `SIDE` x `SIDE` cells, in a file (see tiles.blockfile), or in memory as far as its bound goes
where the file cannot be written.

z is float16: with float32 the file is twice as large and a dot product takes half the time (2.4 against 4.8
ms for 65,536 cells, before columns that are zero throughout a block are left out, which are more than half).
z is never negative, so the bits of a float16 shifted into a float32 are the number times 2**-112, which the
weights take back: no conversion is needed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geomap.errors import MapError
from geomap.field import EmbeddingField
from geomap.grid import Window
from geomap.heads import SpeciesHeads
from tiles.blockfile import SIDE, Block, BlockFile
from tiles.lru import Lru
from tiles.pyramid import level_shape

logger = logging.getLogger(__name__)
ROWS = 4096  # cells sent through the adapter at once: the activations stay in the cache
TINY = np.float32(2**-14)  # smaller ones are subnormal float16, which would make the products slow
LARGEST = 65_504.0  # of float16
Features = tuple[NDArray[np.float32], NDArray[np.bool_]]


class Source(Protocol):
    """Where embeddings come from."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""

    @property
    def unit(self) -> int:
        """Side of the squares of cells that are read at once most cheaply."""

    def read(self, window: Window) -> Features:
        """Embeddings (h, w, D) float32 and valid (h, w) bool of a window of cells."""


class FieldSource:
    """An embedding field, every cell or one in the middle of every 2**level x 2**level."""

    def __init__(self, field: EmbeddingField, level: int = 0) -> None:
        """Read from a field at a level."""
        self.field, self.level = field, level
        self.shape = level_shape(field.grid.shape, level)
        self.unit = max(SIDE, field.grid.unit >> level)

    def read(self, window: Window) -> Features:
        """Embeddings (h, w, D) float32 and valid (h, w) bool of a window of cells of the level."""
        if self.level == 0:
            return self.field.read(window)
        rows = self._cells(0)[window.row : window.row + window.height]
        cols = self._cells(1)[window.col : window.col + window.width]
        features = np.zeros((len(rows), len(cols), self.field.dim), np.float32)
        valid = np.zeros((len(rows), len(cols)), np.bool_)
        unit = self.field.grid.unit
        for i in np.unique(rows // unit).tolist():
            for j in np.unique(cols // unit).tolist():
                if (block := self._stored.get((i, j))) is None:
                    continue
                here, there = np.flatnonzero(rows // unit == i), np.flatnonzero(cols // unit == j)
                values, flags = self.field.read(block)
                inside = np.ix_(rows[here] - block.row, cols[there] - block.col)
                features[np.ix_(here, there)], valid[np.ix_(here, there)] = values[inside], flags[inside]
        return features, valid

    def _cells(self, axis: int) -> NDArray[np.intp]:
        """Row or column of the grid that each one of the level is."""
        count, whole = self.shape[axis], self.field.grid.shape[axis]
        return ((np.arange(count) + 0.5) * whole / count).astype(np.intp)

    @cached_property
    def _stored(self) -> dict[tuple[int, int], Window]:
        unit = self.field.grid.unit
        return {(w.row // unit, w.col // unit): w for w in self.field.blocks(stored=True)}


class BlockStore:
    """Blocks of one group's heads on one source of embeddings."""

    def __init__(
        self, heads: SpeciesHeads, source: Source, name: str, folder: Path | None, memory: Lru[Block]
    ) -> None:
        """Open the file, or make it.

        Args:
            heads: Their adapter is used.
            source: The embeddings.
            name: Says what heads and what embeddings these are; other ones must have another name.
            folder: Folder of the file; None keeps blocks in memory only.
            memory: Keeps blocks where there is no file.
        """
        self.heads, self.source, self.name, self._memory = heads, source, name, memory
        height, width = source.shape
        self.rows, self.cols = -(-height // SIDE), -(-width // SIDE)
        self._file = (
            None if folder is None else BlockFile.open(folder, name, self.rows * self.cols, self._width)
        )
        self._checked = np.zeros(self.rows * self.cols, np.bool_)
        self._locks = [threading.Lock() for _ in range(64)]

    @property
    def _width(self) -> int:
        return self.heads.adapter.width

    def numbers(self, window: Window) -> list[int]:
        """Numbers of the blocks that a window touches."""
        row, col, height, width = window
        rows = range(row // SIDE, -(-(row + height) // SIDE))
        return [i * self.cols + j for i in rows for j in range(col // SIDE, -(-(col + width) // SIDE))]

    def window(self, number: int) -> Window:
        """The cells of a block."""
        (i, j), (height, width) = divmod(number, self.cols), self.source.shape
        return Window(i * SIDE, j * SIDE, min(SIDE, height - i * SIDE), min(SIDE, width - j * SIDE))

    def blocks(self, numbers: Sequence[int]) -> dict[int, Block]:
        """Blocks by number; those that are nowhere yet are computed, those of one unit together.

        Raises:
            FieldError: The field is damaged.
        """
        found = {number: block for number in numbers if (block := self._kept(number)) is not None}
        missing = [number for number in numbers if number not in found]
        for unit, members in self._units(missing).items():
            with self._locks[hash(unit) % len(self._locks)]:
                late = {n: block for n in members if (block := self._kept(n)) is not None}
                found |= late | self._compute([n for n in members if n not in late])
        return found

    def done(self) -> int:
        """Number of blocks that are in the file."""
        return 0 if self._file is None else self._file.done()

    def parts(self) -> list[list[int]]:
        """All blocks in groups that are computed together."""
        return list(self._units(range(self.rows * self.cols)).values())

    def _units(self, numbers: Sequence[int]) -> dict[tuple[int, int], list[int]]:
        """Blocks by unit of the source, so that each unit is read once."""
        side = max(1, self.source.unit // SIDE)
        units: dict[tuple[int, int], list[int]] = {}
        for number in numbers:
            i, j = divmod(number, self.cols)
            units.setdefault((i // side, j // side), []).append(number)
        return units

    def _kept(self, number: int) -> Block | None:
        if self._file is not None:
            block = self._file.read(number, self.window(number), check=not self._checked[number])
            if block is not None:
                self._checked[number] = True
                return block
        return self._memory.peek((self.name, number))

    def _compute(self, numbers: list[int]) -> dict[int, Block]:
        if not numbers:
            return {}
        windows = [self.window(number) for number in numbers]
        top, left = min(w.row for w in windows), min(w.col for w in windows)
        bottom, right = max(w.row + w.height for w in windows), max(w.col + w.width for w in windows)
        features, valid = self.source.read(Window(top, left, bottom - top, right - left))
        made = {}
        for number, window in zip(numbers, windows, strict=True):
            part = np.s_[window.row - top :, window.col - left :]
            inside = np.s_[: window.height, : window.width]
            made[number] = self._keep(number, _pack(self.heads, features[part][inside], valid[part][inside]))
        return made

    def _keep(self, number: int, block: Block) -> Block:
        if self._file is not None:
            try:
                self._file.write(number, block)
            except OSError as error:
                logger.warning("%s cannot be written (%s): blocks stay in memory", self._file.path, error)
                self._file = None
            else:
                self._checked[number] = True
                return block
        return self._memory.get((self.name, number), lambda: block)


def _pack(heads: SpeciesHeads, features: NDArray[np.float32], valid: NDArray[np.bool_]) -> Block:
    """The block of some cells (h, w, D) and their flags (h, w)."""
    cells = features[valid]
    z = np.empty((len(cells), heads.adapter.width), np.float32)
    for first in range(0, len(cells), ROWS):
        z[first : first + ROWS] = heads.transform(cells[first : first + ROWS])
    if not (z <= LARGEST).all():  # False for NaN
        found = f"an adapter that gives {z.max()}"
        raise MapError("cannot score the cells", found, "check the heads: their numbers must be finite")
    z[z < TINY] = 0
    columns = (z != 0).any(axis=0)
    return Block(valid.reshape(-1), columns, z[:, columns].astype(np.float16).view(np.uint16))
