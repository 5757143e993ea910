"""Fits species heads on frozen features: a small adapter shared by a group, one linear head per species.

The adapter is an ensemble of two-layer perceptrons; a species is a weight vector over their concatenated
outputs, so one more species costs a logistic regression and, on the map, a dot product.

    fit_group       adapter and heads together, from all species of the group
    fit_heads_on    heads alone, for new species on a fixed adapter
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.errors import DivergedError
from train.schedule import one_cycle
from train.threads import one_thread

Array = NDArray[np.float32]
Member = tuple[Array, Array, Array, Array]


@dataclass(frozen=True)
class FitConfig:
    """How a group of species is fitted."""

    members: int = 4  # perceptrons of the ensemble, trained on the same batches from different starts
    hidden: int = 256  # width of the first layer
    width: int = 64  # outputs of a member; the heads see members * width numbers
    epochs: int = 150  # passes over the sites
    max_steps: int = 3000  # bound on the steps of large groups, whatever the epochs say
    batch: int = 128  # sites per step
    learning_rate: float = 4e-3
    weight_decay: float = 0.1  # on matrices; decayed biases would pull rare species towards one half
    dropout: float = 0.2  # on the outputs of both layers
    input_dropout: float = 0.2  # on the features, other ones for each member
    l2_head: float = 1e-3  # ridge on the heads of new species, per unit of mean loss
    seed: int = 0


@dataclass(frozen=True)
class Targets:
    """Weighted trials of n sites and S species; positives in compressed rows, so thousands fit in memory.

    Attributes:
        trials: (n,) float32 weight of all trials at a site: visits, or 1 (any weight) for a background cell.
        indptr: (n + 1,) int64 start of each site's entries.
        species: (entries,) int32 species index of each entry.
        successes: (entries,) float32 trials that met the species; the site's other trials are its negatives.
        weights: (entries,) float32 weight of the positives in the loss: successes for surveys, more for
            presences that must weigh as much as all the background.
        count: Number of species S.
    """

    trials: Array
    indptr: NDArray[np.int64]
    species: NDArray[np.int32]
    successes: Array
    weights: Array
    count: int

    def dense(self, rows: NDArray[np.int64]) -> tuple[Array, Array]:
        """Positive and negative weight of some sites, both (len(rows), S) float32."""
        lengths = (self.indptr[1:] - self.indptr[:-1])[rows]
        inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        entries = np.repeat(self.indptr[:-1][rows], lengths) + inside
        where = (np.repeat(np.arange(len(rows)), lengths), self.species[entries])
        positive = np.zeros((len(rows), self.count), np.float32)
        positive[where] = self.weights[entries]
        negative = np.repeat(self.trials[rows][:, None], self.count, axis=1)
        negative[where] -= self.successes[entries]
        return positive, np.maximum(negative, 0, out=negative)

    def rates(self) -> tuple[Array, Array]:
        """Sum of positive and of negative weights per species, both (S,) float32."""
        positive = np.bincount(self.species, self.weights, self.count)
        met = np.bincount(self.species, self.successes, self.count)
        return positive.astype(np.float32), (self.trials.sum(dtype=np.float64) - met).astype(np.float32)


@dataclass(frozen=True)
class GroupFit:
    """Adapter and heads as plain arrays.

    Attributes:
        mean, std: (D,) float32 normalisation of the features.
        members: tuple of (w1 (D, H), b1 (H,), w2 (H, K), b2 (K,)), all float32; z = relu(relu(x @ w1 + b1) @
            w2 + b2).
        weights: (S, M) float32 heads over the concatenated z, M = members * K.
        bias: (S,) float32.
    """

    mean: Array
    std: Array
    members: tuple[Member, ...]
    weights: Array
    bias: Array


def fit_group(features: Array, targets: Targets, config: FitConfig) -> GroupFit:
    """Fit the shared adapter and the heads of a group of species.

    The loss is the binomial negative log likelihood of the weighted trials, averaged over sites and species.
    The same input and seed give the same result on the same machine.

    Args:
        features: (n, D) float32, finite.
        targets: Weighted trials of the n sites.
        config: Sizes and optimiser settings.

    Returns:
        The adapter and the heads; the logit of a species is the mean of its members' logits.

    Raises:
        DivergedError: The loss is no longer finite.
    """
    mean, std = features.mean(axis=0), features.std(axis=0) + np.float32(1e-6)
    inputs = torch.from_numpy((features - mean) / std)
    with torch.random.fork_rng(devices=[]), one_thread():  # small layers, and the same bytes on any machine
        torch.manual_seed(config.seed)
        ensemble = _Ensemble(inputs.shape[1], targets, config)
        _train(ensemble, inputs, targets, config)
    members, weights, bias = ensemble.arrays()
    return GroupFit(mean, std, members, weights, bias)


class _Ensemble(nn.Module):
    """Members side by side: every parameter has the member as its first axis."""

    def __init__(self, dim: int, targets: Targets, config: FitConfig) -> None:
        super().__init__()
        self.dropout, self.input_dropout = config.dropout, config.input_dropout
        self.w1, self.b1 = _layer(config.members, dim, config.hidden)
        self.w2, self.b2 = _layer(config.members, config.hidden, config.width)
        self.w3 = nn.Parameter(torch.randn(config.members, config.width, targets.count) * 0.01)
        positive, negative = targets.rates()
        logit = np.log((positive + 0.5) / (negative + 0.5))
        self.b3 = nn.Parameter(torch.from_numpy(logit).repeat(config.members, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:  # (b, D) -> (members, b, S)
        inputs = nn.functional.dropout(inputs.expand(len(self.w1), -1, -1), self.input_dropout)
        hidden = torch.relu(torch.matmul(inputs, self.w1) + self.b1)
        hidden = nn.functional.dropout(hidden, self.dropout)
        z = torch.relu(torch.matmul(hidden, self.w2) + self.b2)
        return torch.matmul(nn.functional.dropout(z, self.dropout), self.w3) + self.b3

    def arrays(self) -> tuple[tuple[Member, ...], Array, Array]:
        w1, b1, w2, b2, w3, b3 = (
            p.detach().numpy() for p in (self.w1, self.b1, self.w2, self.b2, self.w3, self.b3)
        )
        members = tuple((w1[k], b1[k, 0], w2[k], b2[k, 0]) for k in range(len(w1)))
        weights = np.concatenate([w.T for w in w3], axis=1) / np.float32(len(w3))  # (S, members * width)
        return members, np.ascontiguousarray(weights), b3.mean(axis=(0, 1))


def _layer(members: int, inputs: int, outputs: int) -> tuple[nn.Parameter, nn.Parameter]:
    weight = torch.randn(members, inputs, outputs) * math.sqrt(2 / inputs)
    return nn.Parameter(weight), nn.Parameter(torch.zeros(members, 1, outputs))


def _train(ensemble: _Ensemble, inputs: Tensor, targets: Targets, config: FitConfig) -> None:
    sites = len(inputs)
    steps = min(config.max_steps, config.epochs * math.ceil(sites / config.batch))
    matrices, biases = [ensemble.w1, ensemble.w2, ensemble.w3], [ensemble.b1, ensemble.b2, ensemble.b3]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": biases, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, config.learning_rate)
    schedule = one_cycle(optimiser, config.learning_rate, steps)
    mean_trials = float(targets.trials.mean())
    for rows in _batches(sites, config.batch, steps):
        positive, negative = (torch.from_numpy(part) for part in targets.dense(rows))
        loss = _loss(ensemble(inputs[torch.from_numpy(rows)]), positive, negative) / mean_trials
        if not torch.isfinite(loss):
            raise DivergedError(
                "cannot fit the species heads", f"a loss of {loss.item()}", "Lower the learning rate"
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _batches(sites: int, size: int, steps: int) -> list[NDArray[np.int64]]:
    order = torch.cat([torch.randperm(sites) for _ in range(math.ceil(steps * min(size, sites) / sites) + 1)])
    return [part.numpy() for part in order.split(min(size, sites))[:steps]]


def _loss(logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Mean over members, sites and species of the weighted binomial negative log likelihood."""
    return (positive * nn.functional.softplus(-logits) + negative * nn.functional.softplus(logits)).mean()


def fit_heads_on(z: Array, targets: Targets, l2: float) -> tuple[Array, Array]:
    """Fit heads of new species on a fixed adapter: one ridge logistic regression per species, all at once.

    Args:
        z: (n, M) float32 adapter outputs at the sites.
        targets: Weighted trials of the n sites.
        l2: Ridge on the weights over standardised z, relative to the mean loss of a species.

    Returns:
        Weights (S, M) float32 and bias (S,) float32.

    Raises:
        DivergedError: The loss is no longer finite.
    """
    mean, std = z.mean(axis=0), z.std(axis=0) + np.float32(1e-3)
    inputs = torch.from_numpy((z - mean) / std)
    positive, negative = targets.rates()
    total = torch.from_numpy(positive + negative)
    weight = torch.zeros(inputs.shape[1], targets.count, requires_grad=True)
    bias = torch.from_numpy(np.log((positive + 0.5) / (negative + 0.5))).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=200, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = l2 * weight.square().sum()
        for start in range(0, len(inputs), 4096):
            rows = np.arange(start, min(start + 4096, len(inputs)))
            met, missed = (torch.from_numpy(part) for part in targets.dense(rows))
            logits = inputs[start : start + 4096] @ weight + bias
            part = met * nn.functional.softplus(-logits) + missed * nn.functional.softplus(logits)
            loss = loss + (part / total).sum()
        if bool(torch.isnan(loss)):  # the line search would only say that it overflows
            change = "Look for features or weights that are not finite."
            raise DivergedError("cannot fit the species heads", f"a loss of {loss.item()}", change)
        loss.backward()
        return loss.detach()

    final = float(optimiser.step(closure))
    if not math.isfinite(final):
        raise DivergedError("cannot fit the species heads", f"a loss of {final}", "Raise l2_head")
    weights = weight.detach().numpy() / std[:, None]  # (M, S), back on the scale of z
    shifted = bias.detach().numpy() - mean @ weights
    return np.ascontiguousarray(weights.T, dtype=np.float32), shifted.astype(np.float32)
