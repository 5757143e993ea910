"""Observations whose columns lie in memory and whose images are read row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from train.batch import VIEWS, Batch, Observations
from train.data.columns import Sieve
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


@dataclass(eq=False, repr=False)
class ObservationTable(Dataset[Batch]):
    """Observations, as `train.batch.Observations` describes them.

    Attributes:
        classes: Names of the classes.
        label: (n,) int64, -1 where there is none.
        place: (n, 2) float64 degrees, longitude first; NaN where unknown.
        date: (n, 2) float32 month and day; NaN where unknown.
        tile: (n,) int64; -1 where unknown.
        readers: "ground", "aerial", "feature" -> how to read it.
        dropped: Reason -> rows left out.
        digest: sha256 of the tables.
        further: Further integer columns that items carry, (n,) int64 each (BirdSAT's `cluster`).
        views: Views that the items carry: those with a reader, and places and dates where any is known.
    """

    classes: tuple[str, ...]
    label: NDArray[np.int64]
    place: NDArray[np.float64]
    date: NDArray[np.float32]
    tile: NDArray[np.int64]
    readers: Mapping[str, Reader]
    dropped: dict[str, int]
    digest: str
    further: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)

    views: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Find the views."""
        columns: dict[str, NDArray[Any]] = {"lonlat": self.place, "date": self.date}
        known = {view for view, values in columns.items() if bool(np.isfinite(values).all(axis=1).any())}
        self.views = tuple(view for view in VIEWS if view in known or view in self.readers)

    def __len__(self) -> int:
        """Number of observations."""
        return len(self.label)

    def __getitem__(self, row: int) -> Batch:
        """One observation.

        Raises:
            IndexError: There is no such row.
            SpecError: A picture is missing or damaged.
        """
        if not 0 <= row < len(self):
            raise IndexError(row)
        item = {view: torch.from_numpy(reader(row)) for view, reader in self.readers.items()}
        if "lonlat" in self.views:
            item["lonlat"] = torch.from_numpy(self.place[row].copy())
        if "date" in self.views:
            item["date"] = torch.from_numpy(self.date[row].copy())
        numbers = {"label": self.label, "tile": self.tile, **self.further}
        item |= {name: torch.tensor(int(column[row])) for name, column in numbers.items()}
        return {**item, "row": torch.tensor(row)}

    def labels(self) -> Tensor:
        """(n,) int64 labels."""
        return torch.from_numpy(self.label.copy())

    def lonlat(self) -> Tensor:
        """(n, 2) float64 degrees; NaN where unknown."""
        return torch.from_numpy(self.place.copy())


def table_of(
    sieve: Sieve,
    classes: tuple[str, ...],
    readers: Mapping[str, Reader],
    digest: str,
    further: Sequence[str] = (),
) -> ObservationTable:
    """The observations that a sieve leaves.

    Args:
        sieve: Columns label, lon, lat; month, day and tile where known.
        classes: Names of the classes.
        readers: Readers of the rows that are left.
        digest: sha256 of the tables.
        further: Integer columns for the items.

    Raises:
        SpecError: Nothing is left.
    """
    sieve.require_rows()
    frame = sieve.frame
    nan = np.full(len(frame), np.nan, np.float32)
    return ObservationTable(
        classes=classes,
        label=frame["label"].to_numpy(np.int64),
        place=frame[["lon", "lat"]].to_numpy(np.float64),
        date=np.stack([np.asarray(frame.get(name, nan), np.float32) for name in ("month", "day")], axis=1),
        tile=np.asarray(frame.get("tile", np.full(len(frame), -1)), np.int64),
        readers=dict(readers),
        dropped=dict(sieve.dropped),
        digest=digest,
        further={name: frame[name].to_numpy(np.int64) for name in further},
    )


class Selection(Dataset[Batch]):
    """Some rows of observations, in the given order; `row` counts from 0 again.

    Args:
        of: The observations.
        rows: (n,) rows of them.

    Raises:
        SpecError: No row, or a row that does not exist.
    """

    def __init__(self, of: Observations, rows: NDArray[np.int64] | Tensor | Sequence[int]) -> None:
        self.of = of
        self.rows = np.asarray(rows, dtype=np.int64)
        if self.rows.size == 0 or self.rows.min() < 0 or self.rows.max() >= len(of):
            found = (
                f"{self.rows.size} rows, of {len(of)}"
                if self.rows.size == 0
                else f"rows {self.rows.min()}..{self.rows.max()}, of {len(of)}"
            )
            raise SpecError("cannot select observations", found, "Give at least one row that exists.")
        self.classes, self.views = of.classes, of.views
        self.dropped, self.digest = of.dropped, of.digest

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, row: int) -> Batch:
        """One observation."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        return {**self.of[int(self.rows[row])], "row": torch.tensor(row)}

    def labels(self) -> Tensor:
        """(n,) int64 labels."""
        return self.of.labels()[torch.from_numpy(self.rows)]

    def lonlat(self) -> Tensor:
        """(n, 2) float64 degrees; NaN where unknown."""
        return self.of.lonlat()[torch.from_numpy(self.rows)]
