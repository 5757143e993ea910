"""One process or several: what torchrun started, and what ranks must agree on.

Source of the scheme: torch's DistributedDataParallel. Each rank takes a slice of the global batch, embeddings
are gathered before the contrast (train.objectives.contrast.gather), and DDP averages the gradients.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Means over ranks of each value; collective."""
        if self.size == 1:
            return values
        tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return dict(zip(values, (tensor / self.size).tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; collective."""
        if self.size == 1:
            return flag
        tensor = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return bool(tensor)

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world() -> Iterator[World]:
    """The process group that torchrun's environment describes, or this process alone.

    NCCL where there are GPUs (one per local rank), else gloo.
    """
    cuda = torch.cuda.is_available()
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        yield World(0, 1, device)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    yield World(rank, size, device)
    # Not after an error: its traceback holds the wrapped model, which must not outlive the group.
    gc.collect()
    dist.destroy_process_group()
