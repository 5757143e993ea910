"""A small objective and data set, for tests of the loop; run as a script it is one process of several.

torchrun --nproc-per-node 2 tests/small_run.py RUN STEPS
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from train.checkpoint import save_model
from train.distributed import world
from train.loop import train
from train.objectives.contrast import LogScale, gather, info_nce
from train.recipe import TrainingConfig


class Pairs:
    """Two noisy linear views of hidden vectors."""

    classes, views, dropped, digest = ("a", "b"), ("feature", "lonlat"), {}, "pairs"

    def __init__(self, count=64, seed=0, noise=0.1):
        self.noise = noise
        generator = torch.Generator().manual_seed(seed)
        hidden = torch.randn(count, 4, generator=generator)
        mix = torch.randn(4, 6, generator=torch.Generator().manual_seed(9))
        self.feature = hidden @ mix
        self.place = hidden[:, :2].double()

    def __len__(self):
        return len(self.feature)

    def __getitem__(self, row):
        return {"feature": self.feature[row] + self.noise * torch.randn(6), "lonlat": self.place[row]}

    def labels(self):
        return torch.zeros(len(self), dtype=torch.int64)

    def lonlat(self):
        return self.place


class Towers(nn.Module):
    """Two linear towers and InfoNCE between them."""

    views = ("feature", "lonlat")

    def __init__(self, dropout=0.0):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(2, 8)
        self.dropout, self.scale = nn.Dropout(dropout), LogScale()

    def forward(self, batch):
        one = nn.functional.normalize(self.first(self.dropout(batch["feature"])), dim=1)
        two = nn.functional.normalize(self.second(batch["lonlat"].float()), dim=1)
        return {"loss": info_nce(gather(one), gather(two), self.scale())}


def config(**changes):
    values = {"epochs": 4, "batch": 16, "learning_rate": 1e-2, "log_every": 1, "save_every": 5, **changes}
    return TrainingConfig(**values)


def fresh(dropout=0.0):
    torch.manual_seed(0)
    return Towers(dropout)


if __name__ == "__main__":
    run = Path(sys.argv[1])
    with world() as here:
        run.mkdir(exist_ok=True)
        model = fresh()
        losses = train(
            model, Pairs(noise=0), Pairs(32, 1, 0), config(), {"objective": "small"}, run, here, False
        )
        save_model(model, {"objective": "small", **losses}, run / f"rank-{here.rank}")
