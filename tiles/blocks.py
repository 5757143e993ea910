"""The adapter's output for blocks of cells, computed once for all species of a group and kept in a file.

What an embedding costs on its way to a species is the adapter, 0.26 million multiplications a cell. It is
the same for every species of a group; after it a species is one dot product. So its output z is kept, block
by block of `SIDE` x `SIDE` cells, in a sparse file of the cache folder that is mapped into memory:

    header       one page: what the file is of; a file that says anything else is made anew
    records      16 bytes per block: state, valid cells, columns kept, CRC-32 of the block's slot
    slots        per block: which cells are valid, which columns of z are not zero throughout, and z itself

z is float16: with float32 the file is twice as large and a dot product takes half the time (2.4 against 4.8
ms for 65,536 cells), and either is below a millisecond a tile. z is never negative, so the bits of a float16
shifted into a float32 are the number times 2**-112, which the weights take back: no conversion is needed.
A record is written after its block and holds its checksum, so a torn block is computed again. Several
processes may share a file: they write the same bytes. Where the folder cannot be written, or the disk is
full, blocks are kept in memory as far as its bound goes.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from geomap.errors import MapError
from geomap.grid import Window
from geomap.heads import SpeciesHeads
from geomap.scores import ROWS
from tiles.lru import Lru

logger = logging.getLogger(__name__)
SIDE = 64
PAGE = 4096
FORMAT = "geomap-z/1"
RECORD = np.dtype([("state", "<u4"), ("cells", "<u4"), ("columns", "<u4"), ("crc", "<u4")])
DONE = 0x7A5AFE01
TINY = np.float32(2**-14)  # smaller ones are subnormal float16, which would make the products slow
LIFT = 2.0**112  # what a float16's bits, shifted into a float32, lack
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


@dataclass(frozen=True, eq=False)
class Block:
    """The adapter's output on a block of cells.

    Attributes:
        valid: (h * w,) bool.
        columns: (M,) bool, the columns of z that are kept; the others are zero on all of the block.
        z: (n, m) uint16, the bits of float16, a row for each valid cell.
    """

    valid: NDArray[np.bool_]
    columns: NDArray[np.bool_]
    z: NDArray[np.uint16]

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return self.valid.nbytes + self.columns.nbytes + self.z.nbytes

    def logits(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """Dot products (n,) float32 of z with the weights (M,) of one species."""
        lifted = (weights[self.columns].astype(np.float64) * LIFT).astype(np.float32)
        out = np.empty(len(self.z), np.float32)
        bits = np.empty((min(512, len(self.z)), self.z.shape[1]), np.uint32)
        for first in range(0, len(self.z), 512):  # what is shifted stays in the processor's cache
            part = self.z[first : first + 512]
            np.left_shift(part, 13, out=bits[: len(part)], dtype=np.uint32)
            np.matmul(bits[: len(part)].view(np.float32), lifted, out=out[first : first + len(part)])
        return out


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
        self._file = None if folder is None else _File.open(folder, name, self.rows * self.cols, self._width)
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


class _File:
    """The sparse file of a store."""

    def __init__(self, path: Path, handle: int, count: int, width: int) -> None:
        self.path, self._handle, self._count, self._width = path, handle, count, width
        self._flags, self._mask = SIDE * SIDE // 8, -(-width // 8)
        self._slot = _pages(self._flags + self._mask + 2 * width * SIDE * SIDE)
        self._first = PAGE + _pages(count * RECORD.itemsize)
        self.size = self._first + count * self._slot
        self._map: mmap.mmap | None = None

    def __del__(self) -> None:
        os.close(self._handle)

    @classmethod
    def open(cls, folder: Path, name: str, count: int, width: int) -> _File | None:
        """The file of that name, made if it is missing or is none of ours; None where that cannot be done."""
        path = folder / f"{name}.z"
        header = f"{FORMAT} {name} {SIDE} {count} {width}\n".encode().ljust(PAGE, b"\0")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not cls._is_ours(path, header, count, width):
                cls._make(path, header, count, width)
            file = cls(path, os.open(path, os.O_RDWR), count, width)
            file._map = mmap.mmap(file._handle, file.size, prot=mmap.PROT_READ)
        except OSError as error:
            logger.warning("%s cannot be used (%s): blocks stay in memory", path, error)
            return None
        return file

    @classmethod
    def _is_ours(cls, path: Path, header: bytes, count: int, width: int) -> bool:
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        file = cls(path, handle, count, width)
        whole = os.fstat(handle).st_size == file.size and os.pread(handle, PAGE, 0) == header
        if not whole:
            logger.warning("%s is not what its name says and is made anew", path)
        return whole

    @classmethod
    def _make(cls, path: Path, header: bytes, count: int, width: int) -> None:
        """An empty file under a passing name, renamed: a file that others have mapped is never cut."""
        passing = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        file = cls(passing, os.open(passing, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644), count, width)
        try:
            _put(file._handle, header, 0)
            os.ftruncate(file._handle, file.size)
            os.replace(passing, path)
        except OSError:
            passing.unlink(missing_ok=True)
            raise

    def done(self) -> int:
        """Number of blocks with a record."""
        return int((self._records()["state"] == DONE).sum())

    def read(self, number: int, window: Window, check: bool) -> Block | None:
        """A block, or None where it is not there, or torn."""
        assert self._map is not None
        record = self._records()[number]
        cells, columns = int(record["cells"]), int(record["columns"])
        if record["state"] != DONE or cells > window.height * window.width or columns > self._width:
            return None
        start, head = self._first + number * self._slot, self._flags + self._mask
        length = head + 2 * cells * columns
        if check and zlib.crc32(memoryview(self._map)[start : start + length]) != record["crc"]:
            logger.warning("block %d of %s is torn and is computed again", number, self.path)
            return None
        raw = np.frombuffer(self._map, np.uint8, length, start)
        flags, mask = raw[: self._flags], raw[self._flags : head]
        valid = np.unpackbits(flags, count=window.height * window.width).view(np.bool_)
        z = raw[head:].view(np.uint16).reshape(cells, columns)
        return Block(valid, np.unpackbits(mask, count=self._width).view(np.bool_), z)

    def write(self, number: int, block: Block) -> None:
        """Keep a block; its record is written last."""
        flags = np.packbits(block.valid).tobytes().ljust(self._flags, b"\0")
        mask = np.packbits(block.columns).tobytes().ljust(self._mask, b"\0")
        data = flags + mask + block.z.tobytes()
        _put(self._handle, data, self._first + number * self._slot)
        record = np.array([(DONE, *block.z.shape, zlib.crc32(data))], RECORD)
        _put(self._handle, record.tobytes(), PAGE + number * RECORD.itemsize)

    def _records(self) -> NDArray[np.void]:
        assert self._map is not None
        return np.frombuffer(self._map, RECORD, self._count, PAGE)


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _put(handle: int, data: bytes, start: int) -> None:
    """Write at a place; not by the memory map, where a full disk is a signal that kills."""
    view = memoryview(data)
    while len(view):
        written = os.pwrite(handle, view, start)
        view, start = view[written:], start + written
