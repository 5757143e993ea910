"""Pre-trains the pair of encoders without species labels, by the CSP objective.

    python -m train.pretrain CHIPS.npz --out RUN [--epochs 4] [--batch 512] [--seed 0]

CHIPS.npz holds what a place looks like at every scale of context (`geomap.pretraining` cuts it from imagery): `lonlat`
(n, 2) degrees; `chips_L` (n, bands, pixels, pixels) uint8 and `valid_L` (n, pixels, pixels) bool for each level L;
`season` (n, k) float32. RUN gets the checkpoint and `losses.csv`.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.encoders.aerial import AerialEncoder
from train.encoders.location import LocationEncoder
from train.encoders.pair import Encoders, build, save_encoders
from train.errors import DivergedError, SpecError, ThreePartError
from train.objectives.csp import LogScale, pair_losses
from train.spec import EncoderCard

log = logging.getLogger(__name__)
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class PretrainConfig:
    """The whole configuration of a run."""

    epochs: int = 4  # passes over the places
    batch: int = 512  # places of a step; also the number of candidates in the contrast
    learning_rate: float = 2e-3  # peak of the one-cycle schedule
    weight_decay: float = 1e-2  # on matrices, not on biases and norms
    gain: float = 0.15  # brightness and contrast jitter of the chips, relative
    seed: int = 0


class Towers(nn.Module):
    """The three views of a place: aerial chip, location, and monthly composites (in training only)."""

    def __init__(self, card: EncoderCard, season_width: int) -> None:
        super().__init__()
        self.aerial, self.location = build(card)
        if card.aerial.dim != card.location.dim:
            found = f"widths {card.aerial.dim} and {card.location.dim}"
            raise SpecError("cannot contrast the encoders", found, "Give both embeddings the same width.")
        width = card.aerial.dim
        self.season = nn.Sequential(
            nn.BatchNorm1d(season_width), nn.Linear(season_width, 256), nn.GELU(), nn.Linear(256, width)
        )
        names = ("aerial", "location", "season")
        self.scales = nn.ModuleDict({f"{a}|{b}": LogScale() for i, a in enumerate(names) for b in names[i + 1 :]})

    def forward(self, chips: list[Tensor], valid: list[Tensor], lonlat: Tensor, season: Tensor) -> dict[str, Tensor]:
        """Losses of a batch: every pair of views and their mean, `loss`."""
        views = {
            "aerial": self.aerial(chips, valid),
            "location": self.location(lonlat),
            "season": nn.functional.normalize(self.season(season), dim=1),
        }
        return pair_losses(views, self.scales)


def pretrain(arrays: Arrays, card: EncoderCard, config: PretrainConfig, out: Path) -> Encoders:
    """Trains, writes the checkpoint and the losses, and returns the frozen pair.

    Args:
        arrays: The chip set, see the module.
        card: Shape of the encoders; its quantisation steps and training notes are filled in here.
        config: The run.
        out: Folder of the run.

    Raises:
        SpecError: when the chips do not fit the card.
        DivergedError: when a loss is not finite.
    """
    _check(arrays, card)
    torch.manual_seed(config.seed)
    towers = Towers(card, arrays["season"].shape[1])
    losses = list(_train(towers, arrays, card, config))
    out.mkdir(parents=True, exist_ok=True)
    _write_losses(losses, out / "losses.csv")
    encoders = _freeze(towers.aerial, towers.location, card, arrays, config, losses[-1])
    save_encoders(encoders, out)
    return encoders


def _check(arrays: Arrays, card: EncoderCard) -> None:
    for number, level in enumerate(card.aerial.levels):
        shape = arrays[f"chips_{number}"].shape
        if shape[1:] != (level.bands, level.pixels, level.pixels):
            wanted = f"Cut chips of {level.pixels} pixels and {level.bands} bands."
            raise SpecError("cannot pre-train on these chips", f"chips_{number} of shape {shape}", wanted)


def _train(
    towers: Towers, arrays: Arrays, card: EncoderCard, config: PretrainConfig
) -> Iterator[dict[str, float]]:
    places = len(arrays["lonlat"])
    steps = config.epochs * (places // config.batch)
    if steps == 0:
        raise SpecError("cannot pre-train", f"{places} places for batches of {config.batch}", "Give a smaller batch.")
    matrices = [p for p in towers.parameters() if p.ndim > 1]
    others = [p for p in towers.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(config.seed)
    towers.train()
    for epoch in range(config.epochs):
        order = torch.randperm(places, generator=generator).numpy()
        totals: dict[str, float] = {}
        count = places // config.batch
        for step in range(count):
            rows = np.sort(order[step * config.batch : (step + 1) * config.batch])
            losses = towers(*_batch(arrays, card, rows, config.gain, generator))
            if not bool(torch.isfinite(losses["loss"])):
                found = f"loss {float(losses['loss'])} in epoch {epoch}, step {step}"
                raise DivergedError("cannot go on training", found, "Lower the learning rate.")
            optimiser.zero_grad()
            losses["loss"].backward()
            optimiser.step()
            schedule.step()
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value.detach()) / count
        log.info("epoch %d: %s", epoch + 1, {k: round(v, 3) for k, v in totals.items()})
        yield {"epoch": float(epoch + 1), **totals}


def _batch(
    arrays: Arrays, card: EncoderCard, rows: NDArray[np.int64], gain: float, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Chips (one brightness and contrast jitter per place, flipped at random), validity, locations, seasons."""
    n = len(rows)
    bright, contrast = (1.0 + gain * (2.0 * torch.rand(2, n, 1, 1, 1, generator=generator) - 1.0)).unbind(0)
    flips = [axis for axis in (-1, -2) if float(torch.rand(1, generator=generator)) < 0.5]
    chips, valid = [], []
    for number in range(len(card.aerial.levels)):
        pixels = torch.from_numpy(arrays[f"chips_{number}"][rows]).float()
        middle = pixels.mean(dim=(2, 3), keepdim=True)
        chips.append(((pixels - middle) * contrast + middle * bright).flip(flips))
        valid.append(torch.from_numpy(arrays[f"valid_{number}"][rows]).flip(flips))
    lonlat = torch.from_numpy(arrays["lonlat"][rows])
    return chips, valid, lonlat, torch.from_numpy(arrays["season"][rows])


def _freeze(
    aerial: AerialEncoder,
    location: LocationEncoder,
    card: EncoderCard,
    arrays: Arrays,
    config: PretrainConfig,
    last: dict[str, float],
) -> Encoders:
    """The pair in evaluation mode, with the quantisation steps that its own embeddings need."""
    rough = Encoders(card, aerial, location)
    sample = np.linspace(0, len(arrays["lonlat"]) - 1, min(2048, len(arrays["lonlat"]))).astype(np.int64)
    values = _embed(rough, arrays, sample)
    step = np.quantile(np.abs(values), 0.9999, axis=0) * 1.05 / 127
    scale = tuple(float(s) for s in np.maximum(step, 1e-4).astype(np.float32))
    notes = {**card.training, "objective": "csp", "config": asdict(config), "places": len(arrays["lonlat"]), "last": last}
    return Encoders(replace(card, quant_scale=scale, training=notes), aerial, location)


def _embed(encoders: Encoders, arrays: Arrays, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    contexts = []
    for number in range(len(encoders.levels)):
        chips, valid = arrays[f"chips_{number}"][rows], arrays[f"valid_{number}"][rows]
        pairs = zip(chips, valid, strict=True)
        contexts.append(np.stack([encoders.context(number, chip, ok)[:, 0, 0] for chip, ok in pairs]))
    return encoders.embed(contexts, np.asarray(arrays["lonlat"][rows], np.float64))


def _write_losses(losses: list[dict[str, float]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(losses[0]))
        writer.writeheader()
        writer.writerows(losses)
