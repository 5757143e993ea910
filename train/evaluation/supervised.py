"""Learning species from a few labelled images on a budget that is fixed beforehand.

`train.evaluation.finetune` chooses learning rate and rounds on validation rows. With a handful of images a
species none can be spared, so here nothing is chosen while fitting: so many epochs of a one-cycle schedule
over images that change at random (train.data.augment), label smoothing (Szegedy et al. 2016, Rethinking the
Inception Architecture, section 7), and predictions that are averaged over several random crops (Krizhevsky et
al. 2012, section 4.1, with crops at random in place of the corners).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.batch import Observations, to_device
from train.data.augment import GROUND, Augmentation, Augmented
from train.data.table import Selection, batch_of
from train.errors import DivergedError, SpecError
from train.evaluation.embed import device_of, embed_views
from train.evaluation.finetune import Classifier, predict
from train.evaluation.scores import Ints, Prediction, normalised, positions
from train.schedule import one_cycle

LEAST = 0.1  # of the mean deviation of features: rarer ones are not blown up


@dataclass(frozen=True)
class Budget:
    """How a classifier is fitted, all of it fixed."""

    epochs: int = 40
    batch: int = 32
    learning_rate: float = 3e-3  # of the head
    encoder_factor: float = 1.0  # the encoder learns at this multiple of the head's rate
    weight_decay: float = 0.05
    smoothing: float = 0.1  # of the labels
    change: Augmentation = GROUND  # of the images while learning
    looks: int = 1  # random crops that a prediction is averaged over; 1 takes the image as it is

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        counts = {name: getattr(self, name) for name in ("epochs", "batch", "looks")}
        bad = [f"{name} = {value}" for name, value in counts.items() if value < 1]
        rates = {name: getattr(self, name) for name in ("learning_rate", "encoder_factor")}
        bad += [f"{name} = {value}" for name, value in rates.items() if not 0 < value < math.inf]
        bad += [] if 0 <= self.weight_decay < math.inf else [f"weight_decay = {self.weight_decay}"]
        bad += [] if 0 <= self.smoothing < 1 else [f"smoothing = {self.smoothing}"]
        if bad:
            change = "Give counts >= 1, rates > 0, weight_decay >= 0, and smoothing in [0, 1[."
            raise SpecError("cannot learn from labels", bad[0], change)


def fit(
    model: nn.Module,
    data: Observations,
    view: str,
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    classes: Ints,
    budget: Budget,
    seed: int,
) -> Classifier:
    """Fits an encoder, as far as it is not frozen, and a linear head to labels of some rows.

    Args:
        model: Has `encode(view, batch)`, and `features` where the head is better off before a projection. It
            learns in place.
        data: Observations with images of `view`.
        view: The images to learn from.
        rows: (n,) rows of `data`.
        labels: (n,) label of each of them, out of `classes`; those of `data` are not looked at.
        classes: (k,) labels to tell apart, rising.
        budget: How.
        seed: Of the head's start, the order and the changes of images; the caller's generator is left alone.

    Returns:
        The classifier, in evaluation mode.

    Raises:
        SpecError: for a view that is no image, or a label that is no class.
        DivergedError: for a loss that is not finite.
    """
    target, known = positions(classes, labels)
    if len(rows) != len(labels) or not known.all():
        found = f"{len(rows)} rows with {int(known.sum())} labels out of the classes"
        raise SpecError("cannot learn from labels", found, "Give a label of a class for each row.")
    seen = Augmented(Selection(data, rows), {view: budget.change})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scale = _scale(torch.from_numpy(embed_views(model, seen, (view,), layer="features").vectors[view]))
        network = Classifier(model, {view: scale}, torch.zeros(len(classes))).to(device_of(model))
        _learn(network, seen, view, torch.from_numpy(target), budget)
    return network.eval()


def _scale(features: Tensor) -> tuple[Tensor, Tensor]:
    """(n, d) -> mean and deviation of each feature, (d,) each."""
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    return mean, std.clamp(min=max(LEAST * float(std.mean()), 1e-6))


def _learn(network: Classifier, seen: Augmented, view: str, target: Tensor, budget: Budget) -> None:
    device = device_of(network)
    size = min(budget.batch, len(seen))
    rounds = len(seen) // size  # whole batches; an epoch's rest is left to other epochs
    encoder = [each for each in network.model.parameters() if each.requires_grad]
    learning = {budget.learning_rate: list(network.head.parameters())}
    if encoder:
        learning.setdefault(budget.learning_rate * budget.encoder_factor, []).extend(encoder)
    groups = [{"params": parameters, "lr": rate} for rate, parameters in learning.items()]
    optimiser = torch.optim.AdamW(groups, weight_decay=budget.weight_decay)
    schedule = one_cycle(optimiser, list(learning), budget.epochs * rounds)
    network.train()
    for _ in range(budget.epochs):
        order = torch.randperm(len(seen)).numpy()[: rounds * size].reshape(rounds, size)
        for some in order:
            logits = network(to_device(batch_of(seen, some), device))
            loss = nn.functional.cross_entropy(
                logits, target[some].to(device), label_smoothing=budget.smoothing
            )
            if not bool(torch.isfinite(loss)):
                raise DivergedError("cannot learn from labels", f"a loss of {loss}", "Lower learning_rate.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()


def guess(
    network: Classifier,
    data: Observations,
    view: str,
    rows: NDArray[np.int64],
    classes: Ints,
    budget: Budget,
    seed: int = 0,
) -> Prediction:
    """Predictions at some rows: the geometric mean over `budget.looks` random crops of each image.

    Args:
        network: As `fit` returns it.
        data: Observations with images of `view`.
        view: The images.
        rows: (n,) rows of `data`.
        classes: (k,) as given to `fit`.
        budget: As given to `fit`; its crops and flips without its changes of colour.
        seed: Of the crops; the caller's generator is left alone.

    Raises:
        DivergedError: for a logit that is not finite.
    """
    chosen = Selection(data, rows)
    if budget.looks == 1:
        return predict(network, chosen, classes)
    crops = Augmented(chosen, {view: replace(budget.change, jitter=0.0, grey=0.0)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = [predict(network, crops, classes).log_p for _ in range(budget.looks)]
    return normalised(np.mean(found, axis=0), classes)
