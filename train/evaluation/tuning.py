"""Training on labels with everything chosen on validation rows: learning rate, and when to stop.

Both arms of a comparison (pre-trained, from scratch) go through the very same choice; methods section 7.3
shows why: with a short fixed budget a head start looks like better features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from train.errors import DivergedError, SpecError


@dataclass(frozen=True)
class TuningConfig:
    """How a network is fitted to labels."""

    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)  # to choose from, of the encoders
    head_factor: float = 10.0  # the new head learns this much faster
    weight_decay: float = 1e-2  # on matrices
    batch: int = 64
    round_steps: int = 20  # a round is an epoch, or this many steps where the labels are few
    rounds: int = 60  # at most
    patience: int = 6  # rounds without a better validation loss before stopping
    workers: int = 0  # processes that load data

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("batch", "round_steps", "rounds", "patience")}
        bad = [f"{name} = {value}" for name, value in counts.items() if value < 1]
        bad += [f"learning rate {rate}" for rate in self.learning_rates if not 0 < rate < math.inf]
        if bad or not self.learning_rates:
            found = bad[0] if bad else "no learning rate"
            raise SpecError("cannot fine-tune", found, "Give numbers above 0, and a learning rate.")


class Fit(Protocol):
    """Something to be fitted: how to start it, its training losses, and its validation loss."""

    def start(self) -> nn.Module:
        """A fresh network; the pre-trained weights, if any, are copied into it."""

    def head(self, network: nn.Module) -> nn.Module:
        """The part that no pre-training has touched."""

    def losses(self, network: nn.Module) -> Iterator[Callable[[], Tensor]]:
        """Endless steps; each gives the loss of the next batch when called."""

    def validation(self, network: nn.Module) -> float:
        """Log loss on the validation rows."""


@dataclass(frozen=True)
class Fitted:
    """A network at its best round.

    Attributes:
        network: In evaluation mode.
        learning_rate: The one chosen.
        rounds: Rounds until the best one; 0 is the start.
        loss: Its validation loss.
        at_edge: Whether the rate is the least or the greatest of several, or the rounds ran out: a wider
            search might do better.
    """

    network: nn.Module
    learning_rate: float
    rounds: int
    loss: float
    at_edge: bool

    def chosen(self) -> dict[str, float]:
        """What validation chose, for the report."""
        return {
            "learning_rate": self.learning_rate,
            "rounds": self.rounds,
            "validation_loss": self.loss,
            "at_edge": float(self.at_edge),
        }


def tune(fit: Fit, config: TuningConfig, round_length: int, seed: int) -> Fitted:
    """Fits once for each learning rate and keeps the network with the least validation loss.

    Args:
        fit: What to fit.
        config: How.
        round_length: Steps of a round.
        seed: Of the head's start and the order of the batches; the caller's generator is left alone.

    Raises:
        DivergedError: when the loss is not finite for any learning rate.
    """
    best: Fitted | None = None
    for rate in sorted(config.learning_rates):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                fitted = _fit(fit, config, rate, round_length)
            except DivergedError:  # the weights of this rate predict nothing that is finite
                fitted = None
        if fitted is not None and (best is None or fitted.loss < best.loss):
            best = fitted
    if best is None:
        found = f"a loss that is not finite at every learning rate of {config.learning_rates}"
        raise DivergedError("cannot fine-tune", found, "Give smaller learning rates, and look at the data.")
    return best


def _fit(fit: Fit, config: TuningConfig, rate: float, round_length: int) -> Fitted | None:
    """One learning rate; None when it diverges."""
    network = fit.start()
    optimiser = torch.optim.AdamW(_groups(network, fit.head(network), config, rate))
    best, best_round, kept = fit.validation(network), 0, _state(network)
    steps = fit.losses(network)
    number = 0
    for number in range(1, config.rounds + 1):
        for _ in range(round_length):
            network.train()
            loss = next(steps)()
            if not bool(torch.isfinite(loss)):
                return None
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
        loss_now = fit.validation(network)
        if loss_now < best:
            best, best_round, kept = loss_now, number, _state(network)
        if number - best_round >= config.patience:
            break
    network.load_state_dict(kept)
    rates = config.learning_rates
    edge = (len(rates) > 2 and rate in (min(rates), max(rates))) or number - best_round < config.patience
    return Fitted(network.eval(), rate, best_round, best, edge) if math.isfinite(best) else None


def _groups(
    network: nn.Module, head: nn.Module, config: TuningConfig, rate: float
) -> list[dict[str, object]]:
    fresh = {id(parameter) for parameter in head.parameters()}
    groups: list[dict[str, object]] = []
    for is_head in (False, True):
        for matrix in (False, True):
            chosen = [
                p
                for p in network.parameters()
                if p.requires_grad and (id(p) in fresh) == is_head and (p.ndim > 1) == matrix
            ]
            if chosen:
                decay = config.weight_decay if matrix else 0.0
                scaled = rate * config.head_factor if is_head else rate
                groups.append({"params": chosen, "lr": scaled, "weight_decay": decay})
    return groups


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
