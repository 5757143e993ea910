"""Pre-trains the pair of encoders without species labels, by the CSP objective.

    python -m train.pretrain_pair CHIPS.npz --out RUN [--epochs 8] [--batch 512] [--seed 0]

CHIPS.npz is a chip set (train.chips), which geomap.pretraining cuts from imagery. RUN gets the checkpoint:
card.json, weights.safetensors and losses.csv.

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
from torch import Tensor

from train.chips import Arrays, batch_of, card_for, check_chips, digest, read_chips
from train.encoders.aerial import AerialEncoder
from train.encoders.location import LocationEncoder
from train.encoders.pair import Encoders, save_encoders
from train.errors import DivergedError, SpecError, ThreePartError
from train.objectives.views import pair_losses
from train.schedule import one_cycle
from train.spec import EncoderCard
from train.threads import one_thread
from train.towers import Towers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PretrainConfig:
    """The whole configuration of a run."""

    epochs: int = 8  # passes over the places, all towers together
    batch: int = 512  # places of a step; also the number of candidates in the contrast
    location_epochs: int = 15  # passes over all places, location tower alone
    location_batch: int = 1024  # places of such a step
    learning_rate: float = 2e-3  # peak of the one-cycle schedule
    weight_decay: float = 1e-2  # on matrices, not on biases and norms
    gain: float = 0.15  # brightness and contrast jitter of the chips, relative
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.location_epochs < 0 or min(self.batch, self.location_batch) < 2:
            found = f"{self.epochs} and {self.location_epochs} epochs"
            found += f" in batches of {self.batch} and {self.location_batch}"
            raise SpecError("cannot pre-train", found, "Give at least 1 epoch and batches of at least 2.")


def pretrain(arrays: Arrays, card: EncoderCard, config: PretrainConfig, out: Path) -> Encoders:
    """Trains, writes the checkpoint and the losses, and returns the frozen pair.

    Args:
        arrays: The chip set, see the module.
        card: Shape of the encoders; its quantisation steps and training notes are filled in here.
        config: The run.
        out: Folder of the run.

    Raises:
        SpecError: when the chips do not fit the card or are fewer than a batch.
        DivergedError: when a loss is not finite.
    """
    check_chips(arrays, card)
    _require_places(arrays, config)
    _require_folder(out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        towers = Towers(card, arrays["season"].shape[1])
        losses = list(_train(towers, arrays, card, config))
        chips = _frozen_chips(towers.aerial, arrays)
        with one_thread():  # small layers: a second thread waits more than it works
            losses.extend(_refine(towers, arrays, chips, config))
    out.mkdir(parents=True, exist_ok=True)
    _write_losses(losses, out / "losses.csv")
    encoders = _freeze(towers.aerial, towers.location, card, arrays, config, losses[-1])
    save_encoders(encoders, out)
    return encoders


def _require_places(arrays: Arrays, config: PretrainConfig) -> None:
    """Refuses, before any work, places too few for one whole batch of either stage."""
    places = len(arrays["lonlat"])
    if places < config.batch:
        found = f"{places} places for batches of {config.batch}"
        raise SpecError("cannot pre-train", found, "Give more places or a smaller --batch.")
    places += len(arrays.get("extra_lonlat", ()))
    if config.location_epochs and places < config.location_batch:
        found = f"{places} places for batches of {config.location_batch} of the location tower"
        raise SpecError("cannot pre-train", found, "Give more places or a smaller --location-batch.")


def _require_folder(out: Path) -> None:
    if next(path for path in (out, *out.parents) if path.exists()).is_dir():
        return
    raise SpecError("cannot write the encoders", f"{out} lies in or is a file", "Give another folder.")


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


def _refine(
    towers: Towers, arrays: Arrays, chips: Tensor, config: PretrainConfig
) -> Iterator[dict[str, Any]]:
    """The location tower alone, against frozen chips where there are chips and the seasons of all places."""
    empty = {"extra_lonlat": arrays["lonlat"][:0], "extra_season": arrays["season"][:0]}
    extra = {**empty, **{k: arrays[k] for k in empty if k in arrays}}
    lonlat = torch.from_numpy(np.concatenate([arrays["lonlat"], extra["extra_lonlat"]]))
    season = torch.from_numpy(np.concatenate([arrays["season"], extra["extra_season"]]))
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
    schedule = one_cycle(optimiser, config.learning_rate, epochs * (places // batch))

    def step(loss: Tensor) -> None:
        if not bool(torch.isfinite(loss)):
            change = "Lower the learning rate, and look for values in the chip set that are not finite."
            raise DivergedError("cannot go on training", f"a loss of {loss.item()}", change)
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
        "chips_sha256": digest(arrays),
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


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m train.pretrain_pair", description=(__doc__ or "").split("\n")[0]
    )
    made.add_argument("chips", type=Path, help="chip set cut by geomap.pretraining")
    made.add_argument("--out", type=Path, required=True, help="folder of the run")
    for name, what in (
        ("epochs", "passes over the places, all towers together"),
        ("batch", "places of a step"),
        ("location_epochs", "passes over the places, location tower alone"),
        ("location_batch", "places of such a step"),
        ("seed", "seed of everything random"),
    ):
        default = getattr(PretrainConfig, name)
        option = f"--{name.replace('_', '-')}"
        made.add_argument(option, type=int, default=default, help=f"{what}; default {default}")
    made.add_argument("--credit", default="", help="who is to be credited for the imagery")
    return made


def main(argv: list[str] | None = None) -> int:
    """The command; exit code 2 for what the user can mend."""
    options = vars(parser().parse_args(argv))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chips, out, credit = (options.pop(name) for name in ("chips", "out", "credit"))
    try:
        config = PretrainConfig(**options)
        arrays = read_chips(chips)
        encoders = pretrain(arrays, card_for(arrays, credit=credit), config, out)
    except (ThreePartError, OSError) as error:  # an OSError names the file and what is wrong with it
        sys.stderr.write(f"{error}\n")
        return 2
    log.info("encoders %s in %s", encoders.hash[:12], out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
