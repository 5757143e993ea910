"""Maps of species that no file holds: scores of heads on a field, computed where a tile needs them.

The adapter's output is shared by all species of a group (see tiles.blocks). A species' steps are filled into
one array of its grid block by block as tiles ask for them, and the array is kept as long as the memory
allows; overviews need all of it and are averaged as in a rendered file.

A grid of more than `LARGEST` cells is never held. Each of its overview levels is a decimation instead: one
cell in the middle of every 2**k x 2**k cells is scored, so a coarse tile costs no more than a fine one once
its blocks are there. Decimated values differ from averaged ones; each is the value of a cell that exists.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely.geometry
from affine import Affine
from numpy.typing import NDArray

from geomap.adapter import sigmoid
from geomap.cog import GAP, to_steps
from geomap.field import EmbeddingField
from geomap.footprint import footprint
from geomap.grid import Window
from geomap.heads import SpeciesHeads
from geomap.onethread import keep_one_thread
from tiles.blockfile import SIDE, Block, lift
from tiles.blocks import BlockStore, FieldSource
from tiles.lru import Lru
from tiles.maps import About, BBox, Steps
from tiles.pyramid import overviews
from tiles.windows import check_window, cut, moved, place

logger = logging.getLogger(__name__)
LARGEST = 16_000_000  # cells of a grid whose maps are held whole


class LiveGroup:
    """A group of heads on a field.

    Attributes:
        heads: The heads.
        field: A field of the same encoders.
        version: 12 hexadecimal digits of both.
    """

    def __init__(
        self,
        heads: SpeciesHeads,
        field: EmbeddingField,
        folder: Path | None,
        steps: Lru[Filled],
        levels: Lru[tuple[Steps, ...]],
        memory: Lru[Block],
    ) -> None:
        """Join heads and field.

        Args:
            heads: The heads.
            field: The field.
            folder: Cache folder of the adapter's output; None keeps it in memory.
            steps: Keeps the maps of species.
            levels: Keeps their overviews.
            memory: Keeps the adapter's output where there is no folder.
        """
        self.heads, self.field, self._folder = heads, field, folder
        self.steps, self.levels, self._memory = steps, levels, memory
        self._stores: dict[int, BlockStore] = {}
        self._lock = threading.Lock()
        files = sorted((name, str(entry["sha256"])) for name, entry in field.files.items())
        self._field_hash = hashlib.sha256(json.dumps([files, field.grid.to_dict()]).encode()).hexdigest()
        self.version = hashlib.sha256(f"{heads.hash} {self._field_hash}".encode()).hexdigest()[:12]

    @property
    def home(self) -> str:
        """Name of the grid that the heads were fitted on; "" where they do not tell."""
        return str(self.heads.card.get("grid") or "")

    @property
    def whole(self) -> bool:
        """Whether maps of the grid are held whole: four of them at least fit into the memory for them."""
        height, width = self.field.grid.shape
        return height * width <= min(LARGEST, self.steps.limit // 8)

    def store(self, level: int = 0) -> BlockStore:
        """The adapter's output on the cells of a level."""
        with self._lock:
            if level not in self._stores:
                name = f"{self.heads.hash[:16]}-{self._field_hash[:16]}-{level}"
                source = FieldSource(self.field, level)
                self._stores[level] = BlockStore(self.heads, source, name, self._folder, self._memory)
            return self._stores[level]

    def score(self, row: int, numbers: Sequence[int], level: int = 0) -> list[tuple[Block, Steps]]:
        """Blocks with the steps (n,) of their valid cells for species `row`, in the order of the numbers."""
        keep_one_thread()
        blocks = self.store(level).blocks(numbers)
        found = [blocks[number] for number in numbers]
        weights = lift(self.heads.weights[row])
        logits = np.concatenate([np.zeros(0, np.float32), *(block.logits(weights) for block in found)])
        scale, shift = self.heads.calibration[row]
        values = sigmoid((logits + self.heads.bias[row]) * scale + shift)
        steps = to_steps(values, np.ones(len(values), np.bool_))
        ends = np.cumsum([len(block.z) for block in found])
        return list(zip(found, np.split(steps, ends[:-1]), strict=True)) if found else []

    def cell(self, row: int, col: int) -> NDArray[np.float32] | None:
        """Values (S,) of all species in a cell of the grid; None where it has no data."""
        keep_one_thread()
        store = self.store()
        number = store.numbers(Window(row, col, 1, 1))[0]
        block, window = store.blocks([number])[number], store.window(number)
        place = (row - window.row) * window.width + col - window.col
        if not block.valid[place]:
            return None
        z = np.zeros((1, self.heads.adapter.width), np.float32)
        z[0, block.columns] = block.z[np.count_nonzero(block.valid[:place])].view(np.float16)
        predicted: NDArray[np.float32] = self.heads.predict_transformed(z)[0]
        return predicted


def within(field: EmbeddingField, home: EmbeddingField | None) -> bool:
    """Whether a field lies in the area that heads were fitted on, to a degree; True where that is not known.

    Beyond it a map is extrapolation without any record: `geomap render` makes one for who asks for it, but
    none is offered to everybody who looks.
    """
    if home is None:
        return True
    area, inner = (shapely.geometry.shape(footprint(each.grid.geobox)[0]) for each in (home, field))
    return bool(area.buffer(1.0).contains(inner))


class Filled:
    """Steps of a species on its grid, as far as they were asked for."""

    def __init__(self, shape: tuple[int, int], blocks: int) -> None:
        """Start with nothing."""
        self.array = np.full(shape, GAP, np.uint16)
        self.have = np.zeros(blocks, np.bool_)
        self.lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class LiveMap:
    """A species that is scored when it is looked at; see `tiles.maps.SpeciesMap`.

    Attributes:
        about: What is known of it.
        group: Its heads and field.
        row: Its row in the heads.
    """

    about: About
    group: LiveGroup
    row: int

    @property
    def crs(self) -> str:
        """CRS of the grid."""
        return str(self.group.field.grid.crs)

    @property
    def transform(self) -> Affine:
        """From column, row to x, y."""
        return self.group.field.grid.transform

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return self.group.field.grid.shape

    @cached_property
    def bbox(self) -> BBox:
        """West, south, east, north in degrees."""
        west, south, east, north = footprint(self.group.field.grid.geobox)[1]
        return west, south, east, north

    def steps(self, window: Window, level: int = 0, band: int = 0) -> Steps:
        """Cells of a window; see `tiles.maps.SpeciesMap.steps`.

        Raises:
            FieldError: The field is damaged.
            GridError: No such window, level or band.
            MapError: A score is not finite.
        """
        check_window(self.shape, window, level, band, 1)
        if self.group.whole and level > 0:
            levels = self.group.levels.get(
                self._key, lambda: overviews(self._filled(self.group.field.grid.whole))
            )
            return cut(levels[level - 1], window)
        if self.group.whole:
            return cut(self._filled(window), window)
        return self._window(window, level)

    @property
    def _key(self) -> tuple[str, int]:
        return self.group.version, self.row

    def _filled(self, window: Window) -> Steps:
        """The array of the grid, with data at least in the window."""
        store = self.group.store()
        count = store.rows * store.cols
        filled = self.group.steps.get(self._key, lambda: Filled(self.shape, count))
        numbers = store.numbers(window)
        if not filled.have[numbers].all():
            with filled.lock:
                missing = [number for number in numbers if not filled.have[number]]
                for number, (block, steps) in zip(missing, self.group.score(self.row, missing), strict=True):
                    place(filled.array, store.window(number), block, steps)
                    filled.have[number] = True
        return filled.array

    def _window(self, window: Window, level: int) -> Steps:
        """Steps of a window alone."""
        store = self.group.store(level)
        numbers = store.numbers(window)
        top, left = (side // SIDE * SIDE for side in (window.row, window.col))
        height, width = window.row + window.height - top, window.col + window.width - left
        array = np.full((-(-height // SIDE) * SIDE, -(-width // SIDE) * SIDE), GAP, np.uint16)
        for number, (block, steps) in zip(numbers, self.group.score(self.row, numbers, level), strict=True):
            there = store.window(number)
            place(array, moved(there, top, left), block, steps)
        return cut(array, moved(window, top, left))
