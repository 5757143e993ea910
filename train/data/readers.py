"""How one view of an observation is read: a picture file, a row of an array on disk or in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from train.data.images import read_picture
from train.errors import SpecError


class Reader(Protocol):
    """Gives one view of an observation; picklable and small, as every worker of a loader gets one."""

    def __call__(self, row: int) -> NDArray[Any]:
        """The view of a row, without the first axis of a batch."""


@dataclass(frozen=True)
class PictureFiles:
    """Picture files, decoded when asked for.

    Attributes:
        paths: One for each row.
        pixels: Side of the square that comes out.
    """

    paths: tuple[str, ...]
    pixels: int

    def __call__(self, row: int) -> NDArray[np.uint8]:
        """(3, pixels, pixels) uint8 RGB."""
        return read_picture(self.paths[row], self.pixels)


@dataclass(frozen=True)
class TileFiles:
    """Picture files from above: the middle is cut out at their own resolution, so pixels keep their size.

    Attributes:
        paths: One for each row.
        pixels: Side of the square that comes out.
        resize: Scale the whole picture instead.
    """

    paths: tuple[str, ...]
    pixels: int
    resize: bool = False

    def __call__(self, row: int) -> NDArray[np.uint8]:
        """(3, pixels, pixels) uint8 RGB."""
        return read_picture(self.paths[row], self.pixels, crop=not self.resize)


@dataclass(frozen=True)
class ArrayFile:
    """Rows of an .npy file, read through a memory map that each process opens for itself.

    Attributes:
        path: The file; its first axis counts what `rows` points to.
        rows: (n,) int64, the entry of each observation.
        pixels: Cut out the middle of the last two axes; 0 keeps them.
    """

    path: str
    rows: NDArray[np.int64]
    pixels: int = 0
    _open: list[NDArray[Any]] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, row: int) -> NDArray[Any]:
        """The entry of a row, copied, float32 unless it is uint8; a value that is not finite is refused."""
        if not self._open:
            self._open.append(np.load(self.path, mmap_mode="r", allow_pickle=False))
        value = np.array(centre(self._open[0][self.rows[row]], self.pixels))
        if value.dtype != np.uint8:
            value = value.astype(np.float32, copy=False)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            found = f"{self.path}, entry {self.rows[row]}: NaN or infinity"
            raise SpecError("cannot use an array", found, "Mend the entry, or leave its row out.")
        return value

    def __getstate__(self) -> dict[str, Any]:
        """Without the map: pickled, it would be the whole file."""
        return {"path": self.path, "rows": self.rows, "pixels": self.pixels, "_open": []}


@dataclass(frozen=True)
class Held:
    """Rows of an array in memory.

    Attributes:
        array: Its first axis counts what `rows` points to.
        rows: (n,) int64, the entry of each observation.
    """

    array: NDArray[Any]
    rows: NDArray[np.int64]

    def __call__(self, row: int) -> NDArray[Any]:
        """The entry of a row, copied."""
        return np.array(self.array[self.rows[row]])

    def many(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The entries of rows under each other."""
        return np.asarray(self.array[self.rows[rows]])


def centre(image: NDArray[Any], pixels: int) -> NDArray[Any]:
    """The middle (..., pixels, pixels) of an image (..., h, w); all of it where `pixels` is 0.

    Raises:
        SpecError: The image is smaller.
    """
    if not pixels:
        return image
    height, width = image.shape[-2:]
    if min(height, width) < pixels:
        found = f"{height} x {width} pixels, {pixels} wanted"
        raise SpecError("cannot cut out the middle of an image", found, "Ask for fewer pixels.")
    top, left = (height - pixels) // 2, (width - pixels) // 2
    return image[..., top : top + pixels, left : left + pixels]
