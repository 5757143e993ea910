"""What flows from data to models: a dictionary of tensors whose keys name the views of an observation.

| key | shape, dtype | meaning |
|---|---|---|
| ground | (n, 3, h, w) uint8 | photo taken on the ground, RGB |
| aerial | (n, bands, h, w) uint8 or float32 | chip from above, in the imagery's own units; NaN is refused |
| feature | (n, k) float32 | features of the photo, computed beforehand by a frozen network |
| lonlat | (n, 2) float64 | degrees WGS 84, longitude first |
| date | (n, 2) float32 | month 1..12 and day of the month 1..31; NaN where unknown |
| label | (n,) int64 | class of the observation, -1 where it has none |
| tile | (n,) int64 | which aerial tile; observations of one tile are not each other's negatives |
| row | (n,) int64 | row in the data set |

Pixels are normalised once, inside the encoder that eats them, with the mean and deviation of its card.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import default_collate

Batch = dict[str, Tensor]
VIEWS = ("ground", "aerial", "feature", "lonlat", "date")


class Observations(Protocol):
    """A data set of observations, as every loader of train.data gives it.

    Attributes:
        classes: Names of the classes; `label` counts along them.
        views: Which of `VIEWS` its items carry, beside `label`, `tile` and `row`.
        dropped: Reason -> number of rows that were left out.
        digest: sha256 of the tables it was read from, for the card.
    """

    classes: tuple[str, ...]
    views: tuple[str, ...]
    dropped: dict[str, int]
    digest: str

    def __len__(self) -> int:
        """Number of observations."""

    def __getitem__(self, row: int) -> Batch:
        """One observation; tensors without the first axis."""

    def labels(self) -> Tensor:
        """(n,) int64 labels without reading an image."""

    def lonlat(self) -> Tensor:
        """(n, 2) float64 degrees without reading an image; NaN where unknown."""


def collate(items: Sequence[Batch]) -> Batch:
    """Items under each other."""
    batch: Batch = default_collate(list(items))
    return batch


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; images in channels-last memory order where that is faster."""
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    if device.type != "cuda":
        return moved
    return {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in moved.items()
    }
