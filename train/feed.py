"""The batches of a run: which observations each step sees, whatever the workers, ranks and interruptions.

The order of an epoch follows from (seed, epoch) and the randomness of a batch from (seed, epoch, rows), so a
run that is resumed at step k sees what the uninterrupted one would have seen, without any generator's state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from train.batch import Batch, Observations
from train.data.table import batch_of
from train.errors import SpecError


def seed_of(*parts: int) -> int:
    """A seed of 63 bits from several numbers; neighbours share nothing."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_generators(seed: int, device: torch.device | None = None) -> None:
    """Seeds the generators that a step draws from: the CPU's, and the device's where it is a GPU.

    `torch.manual_seed` looks for every kind of device each time, a tenth of a small model's step.
    """
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        torch.cuda.manual_seed(seed)


class _Seeded(Dataset[Batch]):
    """Batches of (epoch, row) keys, each with randomness of its own; a loader asks for all keys at once."""

    def __init__(self, data: Observations, seed: int) -> None:
        self.data, self.seed = data, seed

    def __getitems__(self, keys: list[tuple[int, int]]) -> Batch:
        rows = [row for _, row in keys]
        with torch.random.fork_rng(devices=[]):
            seed_generators(seed_of(self.seed, keys[0][0], *rows))
            return batch_of(self.data, np.array(rows))


def _whole(batch: Batch) -> Batch:
    """What a loader does with a batch that is one already."""
    return batch


class Feed:
    """Steps of a run; a step is a batch of the whole world of ranks.

    Args:
        data: Observations.
        batch: Observations of a step, over all ranks and accumulated parts.
        parts: Parts that a rank accumulates in a step.
        seed: Of order and augmentation.
        rank: This process, 0..world-1.
        world: Number of processes.

    Raises:
        SpecError: fewer observations than a batch, or a batch that ranks and parts do not divide.
    """

    def __init__(
        self, data: Observations, batch: int, parts: int = 1, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        if len(data) < batch:
            found = f"{len(data)} observations for a batch of {batch}"
            raise SpecError("cannot train", found, "Give more observations or a smaller training.batch.")
        if batch % (parts * world) or batch // (parts * world) < 2:
            found = f"a batch of {batch} over {world} processes and {parts} accumulated parts"
            raise SpecError("cannot train", found, "Give a batch that both divide, with 2 or more in a part.")
        self.data, self.batch, self.parts, self.seed = data, batch, parts, seed
        self.rank, self.world = rank, world
        self.steps_of_epoch = len(data) // batch

    def order(self, epoch: int) -> Tensor:
        """Rows of an epoch (n,), shuffled; the rest that makes no whole batch is left to other epochs."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, epoch))
        return torch.randperm(len(self.data), generator=generator)

    def rows(self, step: int) -> Tensor:
        """Rows of a step (batch,), over all ranks."""
        epoch, inside = divmod(step, self.steps_of_epoch)
        return self.order(epoch)[inside * self.batch : (inside + 1) * self.batch]

    def keys(self, first: int, last: int) -> Iterator[list[tuple[int, int]]]:
        """(epoch, row) of this rank's parts of the steps first..last-1.

        Part p of a step is a slice of the batch, and a rank's share a slice of the part: embeddings gathered
        from all ranks lie in the order of one process.
        """
        share = self.batch // (self.parts * self.world)
        for epoch in range(first // self.steps_of_epoch, -(-last // self.steps_of_epoch)):
            order = self.order(epoch).tolist()
            start = epoch * self.steps_of_epoch
            for step in range(max(first, start), min(last, start + self.steps_of_epoch)):
                rows = order[(step - start) * self.batch :][: self.batch]
                for part in range(self.parts):
                    at = (part * self.world + self.rank) * share
                    yield [(epoch, row) for row in rows[at : at + share]]

    def batches(self, first: int, last: int, workers: int, pin: bool) -> Iterator[Batch]:
        """The parts of the steps first..last-1, loaded by `workers` processes ahead of their use."""
        loader: DataLoader[Batch] = DataLoader(
            _Seeded(self.data, self.seed),
            batch_sampler=_Keys(self, first, last),
            collate_fn=_whole,  # type: ignore[arg-type]  # the data set gives whole batches
            num_workers=workers,
            pin_memory=pin,
        )
        return iter(loader)


class _Keys:
    """`Feed.keys` as something that can be iterated once more by a loader."""

    def __init__(self, feed: Feed, first: int, last: int) -> None:
        self.feed, self.first, self.last = feed, first, last

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.feed.keys(self.first, self.last)

    def __len__(self) -> int:
        return (self.last - self.first) * self.feed.parts
