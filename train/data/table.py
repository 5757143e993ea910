"""Observations whose columns lie in memory and whose images are read row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from train.batch import VIEWS, Batch, Observations, collate
from train.data.columns import Sieve
from train.data.readers import Held, Reader
from train.errors import SpecError


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

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Several observations at once: what collating their items gives, and much quicker from memory.

        Args:
            rows: (k,) rows.
        """
        images = {
            view: reader.many(rows)
            if isinstance(reader, Held)
            else np.stack([reader(int(row)) for row in rows])
            for view, reader in self.readers.items()
        }
        columns: dict[str, NDArray[Any]] = {"lonlat": self.place, "date": self.date}
        columns = {view: values for view, values in columns.items() if view in self.views}
        columns |= {"label": self.label, "tile": self.tile, **self.further}
        found = images | {name: values[rows] for name, values in columns.items()}
        return {name: torch.from_numpy(values) for name, values in found.items()} | {
            "row": torch.tensor(rows)
        }

    def labels(self) -> Tensor:
        """(n,) int64 labels."""
        return torch.from_numpy(self.label.copy())

    def lonlat(self) -> Tensor:
        """(n, 2) float64 degrees; NaN where unknown."""
        return torch.from_numpy(self.place.copy())

    def tiles(self) -> Tensor:
        """(n,) int64, equal where observations belong together: by tile, or else by place; -1 for neither."""
        known = (self.tile < 0) & np.isfinite(self.place).all(axis=1)
        together = self.tile.copy()
        places = np.unique(self.place[known], axis=0, return_inverse=True)[1].ravel()
        together[known] = places + self.tile.max(initial=-1) + 1
        return torch.from_numpy(together)


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

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Several observations at once, as `ObservationTable.batch`."""
        return {**batch_of(self.of, self.rows[rows]), "row": torch.tensor(rows)}

    def labels(self) -> Tensor:
        """(n,) int64 labels."""
        return self.of.labels()[torch.from_numpy(self.rows)]

    def lonlat(self) -> Tensor:
        """(n, 2) float64 degrees; NaN where unknown."""
        return self.of.lonlat()[torch.from_numpy(self.rows)]

    def tiles(self) -> Tensor:
        """(n,) int64, equal where observations belong together; see `ObservationTable.tiles`."""
        return tiles_of(self.of)[torch.from_numpy(self.rows)]


def batch_of(data: Observations, rows: NDArray[np.int64]) -> Batch:
    """Rows of any observations as a batch, by their own quick way where they have one."""
    quick = getattr(data, "batch", None)
    batch: Batch = collate([data[int(row)] for row in rows]) if quick is None else quick(rows)
    return batch


def tiles_of(data: Observations) -> Tensor:
    """(n,) int64 tiles of any observations, -1 where they say nothing of them."""
    own = getattr(data, "tiles", None)
    return torch.full((len(data),), -1) if own is None else torch.as_tensor(own())
