"""Pre-trains the pair of encoders without species labels, by the CSP objective.

    python -m train.pretrain CHIPS.npz --out RUN [--epochs 4] [--batch 512] [--seed 0]

CHIPS.npz is a chip set (train.chips), which `geomap.bundle` cuts from imagery. RUN gets the checkpoint and
`losses.csv`.

Two stages: all towers together; then, as CSP freezes its image encoder, the aerial tower is frozen and the
location tower, which is cheap, goes on alone against the frozen chips and the seasons of all places.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.chips import Arrays, batch_of, card_for, check_chips, read_chips
from train.encoders.aerial import AerialEncoder
from train.encoders.location import LocationEncoder
from train.encoders.pair import Encoders, build, save_encoders
from train.errors import DivergedError, SpecError, ThreePartError
from train.objectives.csp import LogScale, pair_losses
from train.spec import EncoderCard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainConfig:
    """The whole configuration of a run."""

    epochs: int = 3  # passes over the places, all towers together
    batch: int = 512  # places of a step; also the number of candidates in the contrast
    location_epochs: int = 20  # passes over all places, location tower alone
    location_batch: int = 1024  # places of such a step
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
        self.scales = nn.ModuleDict(
            {f"{a}|{b}": LogScale() for i, a in enumerate(names) for b in names[i + 1 :]}
        )

    def forward(
        self, chips: list[Tensor], valid: list[Tensor], lonlat: Tensor, season: Tensor
    ) -> dict[str, Tensor]:
        """Losses of a batch: every pair of views and their mean, `loss`."""
        views = {
            "aerial": self.aerial(chips, valid),
            "location": self.location(lonlat),
            "season": self.embed_season(season),
        }
        return pair_losses(views, self.scales)

    def embed_season(self, season: Tensor) -> Tensor:
        """(n, k) monthly values -> (n, d) of unit length."""
        return nn.functional.normalize(self.season(season), dim=1)


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
    check_chips(arrays, card)
    torch.manual_seed(config.seed)
    towers = Towers(card, arrays["season"].shape[1])
    losses = list(_train(towers, arrays, card, config))
    losses.extend(_refine(towers, arrays, config))
    out.mkdir(parents=True, exist_ok=True)
    _write_losses(losses, out / "losses.csv")
    encoders = _freeze(towers.aerial, towers.location, card, arrays, config, losses[-1])
    save_encoders(encoders, out)
    return encoders


def _train(
    towers: Towers, arrays: Arrays, card: EncoderCard, config: PretrainConfig
) -> Iterator[dict[str, Any]]:
    """All towers together; yields the mean losses of each epoch."""
    places = len(arrays["lonlat"])
    optimise = _optimiser(towers, places, config.epochs, config.batch, config)
    generator = torch.Generator().manual_seed(config.seed)
    towers.train()
    for epoch in range(config.epochs):
        total: dict[str, float] = {}
        for rows in _epoch(places, config.batch, generator):
            losses = towers(*batch_of(arrays, card, rows, config.gain, generator))
            optimise(losses["loss"])
            _add(total, losses, places // config.batch)
        yield _logged("joint", epoch, total)


def _refine(towers: Towers, arrays: Arrays, config: PretrainConfig) -> Iterator[dict[str, Any]]:
    """The location tower alone, against frozen chips where there are chips and the seasons of all places."""
    empty = {"extra_lonlat": arrays["lonlat"][:0], "extra_season": arrays["season"][:0]}
    extra = {**empty, **{k: arrays[k] for k in empty if k in arrays}}
    lonlat = torch.from_numpy(np.concatenate([arrays["lonlat"], extra["extra_lonlat"]]))
    season = torch.from_numpy(np.concatenate([arrays["season"], extra["extra_season"]]))
    chips = _frozen_chips(towers.aerial, arrays)
    towers.aerial.requires_grad_(False)
    optimise = _optimiser(towers, len(lonlat), config.location_epochs, config.location_batch, config)
    generator = torch.Generator().manual_seed(config.seed + 1)
    for epoch in range(config.location_epochs):
        total: dict[str, float] = {}
        for rows in _epoch(len(lonlat), config.location_batch, generator):
            views = {"location": towers.location(lonlat[rows]), "season": towers.embed_season(season[rows])}
            losses = pair_losses(views, towers.scales)
            with_chip = torch.from_numpy(np.flatnonzero(rows < len(chips)))
            if len(with_chip) > 1:
                pair = {"aerial": chips[rows[with_chip]], "location": views["location"][with_chip]}
                seen = pair_losses(pair, towers.scales)
                losses = {**losses, **seen, "loss": losses["loss"] + seen["loss"]}
            optimise(losses["loss"])
            _add(total, losses, len(lonlat) // config.location_batch)
        yield _logged("location", epoch, total)


def _frozen_chips(aerial: AerialEncoder, arrays: Arrays) -> Tensor:
    """(n, d) embeddings of all chips, in evaluation mode."""
    aerial.eval()
    levels = range(len(aerial.contexts))
    parts = []
    with torch.no_grad():
        for start in range(0, len(arrays["lonlat"]), 512):
            rows = slice(start, start + 512)
            chips = [torch.from_numpy(arrays[f"chips_{level}"][rows]).float() for level in levels]
            parts.append(
                aerial(chips, [torch.from_numpy(arrays[f"valid_{level}"][rows]) for level in levels])
            )
    return torch.cat(parts)


def _epoch(places: int, batch: int, generator: torch.Generator) -> Iterator[NDArray[np.int64]]:
    """Whole batches of shuffled places, so every contrast has as many candidates; the rest is left out."""
    if places < batch:
        raise SpecError(
            "cannot pre-train", f"{places} places for batches of {batch}", "Give a smaller batch."
        )
    order = torch.randperm(places, generator=generator).numpy()
    for step in range(places // batch):
        yield np.sort(order[step * batch : (step + 1) * batch])


def _optimiser(
    towers: Towers, places: int, epochs: int, batch: int, config: PretrainConfig
) -> Callable[[Tensor], None]:
    """AdamW under a one-cycle schedule, as a function that takes one step down a loss."""
    learnt = [p for p in towers.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    steps = max(epochs * (places // batch), 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=steps, pct_start=0.1
    )

    def step(loss: Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            raise DivergedError(
                "cannot go on training", f"a loss of {float(loss)}", "Lower the learning rate."
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()

    return step


def _add(total: dict[str, float], losses: dict[str, Tensor], count: int) -> None:
    for name, value in losses.items():
        total[name] = total.get(name, 0.0) + float(value.detach()) / count


def _logged(stage: str, epoch: int, total: dict[str, float]) -> dict[str, Any]:
    log.info("%s epoch %d: %s", stage, epoch + 1, {k: round(v, 3) for k, v in total.items()})
    return {"stage": stage, "epoch": epoch + 1, **total}


def _freeze(
    aerial: AerialEncoder,
    location: LocationEncoder,
    card: EncoderCard,
    arrays: Arrays,
    config: PretrainConfig,
    last: dict[str, Any],
) -> Encoders:
    """The pair in evaluation mode, with the quantisation steps that its own embeddings need."""
    rough = Encoders(card, aerial, location)
    sample = np.linspace(0, len(arrays["lonlat"]) - 1, min(2048, len(arrays["lonlat"]))).astype(np.int64)
    values = _embed(rough, arrays, sample)
    step = np.quantile(np.abs(values), 0.9999, axis=0) * 1.05 / 127
    scale = tuple(float(s) for s in np.maximum(step, 1e-4).astype(np.float32))
    notes = {
        **card.training,
        "objective": "csp",
        "config": asdict(config),
        "places": len(arrays["lonlat"]),
        "last": last,
    }
    return Encoders(replace(card, quant_scale=scale, training=notes), aerial, location)


def _embed(encoders: Encoders, arrays: Arrays, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    contexts = []
    for number in range(len(encoders.levels)):
        chips, valid = arrays[f"chips_{number}"][rows], arrays[f"valid_{number}"][rows]
        pairs = zip(chips, valid, strict=True)
        contexts.append(np.stack([encoders.context(number, chip, ok)[:, 0, 0] for chip, ok in pairs]))
    return encoders.embed(contexts, np.asarray(arrays["lonlat"][rows], np.float64))


def _write_losses(losses: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(losses[0]), restval="")
        writer.writeheader()
        writer.writerows(losses)


def main(argv: list[str] | None = None) -> int:
    """The command; exit code 2 for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m train.pretrain", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("chips", type=Path, help="chip set cut by geomap.pretraining")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--epochs", type=int, default=PretrainConfig.epochs)
    parser.add_argument("--batch", type=int, default=PretrainConfig.batch)
    parser.add_argument("--seed", type=int, default=PretrainConfig.seed)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = PretrainConfig(epochs=options.epochs, batch=options.batch, seed=options.seed)
    try:
        arrays = read_chips(options.chips)
        encoders = pretrain(arrays, card_for(arrays), config, options.out)
    except ThreePartError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    log.info("encoders %s in %s", encoders.hash[:12], options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
