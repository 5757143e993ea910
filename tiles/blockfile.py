"""A file of the adapter's output, block by block, that several processes share.

    header       one page: what the file is of; a file that says anything else is made anew
    records      16 bytes per block: state, valid cells, columns kept, CRC-32 of the block's slot
    slots        per block: which cells are valid, which columns of z are not zero throughout, and z itself

The file is sparse and mapped into memory. A record is written after its block and holds its checksum, so a
torn block is computed again; processes that write the same block write the same bytes. Files that nobody
opened for `UNUSED_DAYS` days are removed.
"""

from __future__ import annotations

import logging
import mmap
import os
import time
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from geomap.grid import Window

logger = logging.getLogger(__name__)
SIDE = 64
PAGE = 4096
FORMAT = "geomap-z/1"
RECORD = np.dtype([("state", "<u4"), ("cells", "<u4"), ("columns", "<u4"), ("crc", "<u4")])
DONE = 0x7A5AFE01
UNUSED_DAYS = 60
LIFT = 2.0**112  # what a float16's bits, shifted into a float32, lack


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

    def logits(self, lifted: NDArray[np.float32]) -> NDArray[np.float32]:
        """Dot products (n,) float32 of z with the weights (M,) of one species, `lift`-ed."""
        lifted = lifted[self.columns]
        out = np.empty(len(self.z), np.float32)
        bits = np.empty((min(512, len(self.z)), self.z.shape[1]), np.uint32)
        for first in range(0, len(self.z), 512):  # what is shifted stays in the processor's cache
            part = self.z[first : first + 512]
            np.left_shift(part, 13, out=bits[: len(part)], dtype=np.uint32)
            np.matmul(bits[: len(part)].view(np.float32), lifted, out=out[first : first + len(part)])
        return out


def lift(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights (M,) of a species for `Block.logits`: times 2**112."""
    return (weights.astype(np.float64) * LIFT).astype(np.float32)


class BlockFile:
    """The sparse file of a `tiles.blocks.BlockStore`; made by `open`."""

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
    def open(cls, folder: Path, name: str, count: int, width: int) -> BlockFile | None:
        """The file of that name, made if it is missing or is none of ours; None where that cannot be done."""
        path = folder / f"{name}.z"
        header = f"{FORMAT} {name} {SIDE} {count} {width}\n".encode().ljust(PAGE, b"\0")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            if not cls._is_ours(path, header, count, width):
                cls._make(path, header, count, width)
            file = cls(path, os.open(path, os.O_RDWR), count, width)
            os.utime(path)
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


def _sweep(folder: Path) -> None:
    """Remove files of ours that nobody opened for long; what others removed meanwhile is gone as well."""
    for path in [*folder.glob("*.z"), *folder.glob(".*.z.*")]:
        try:
            if time.time() - path.stat().st_mtime > UNUSED_DAYS * 86_400:
                path.unlink()
        except FileNotFoundError:
            continue


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _put(handle: int, data: bytes, start: int) -> None:
    """Write at a place; not by the memory map, where a full disk is a signal that kills."""
    view = memoryview(data)
    while len(view):
        written = os.pwrite(handle, view, start)
        view, start = view[written:], start + written
