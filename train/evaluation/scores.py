"""Predictions of classes, their top-1 and log loss, and the baseline that knows only frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from train.errors import DivergedError, SpecError

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
METRICS = ("top1", "log_loss", "class_mean", "unseen")


@dataclass(frozen=True)
class Prediction:
    """Probabilities of the classes that had a training label.

    Attributes:
        log_p: (n, k) float64 natural logarithms, each row normalised.
        classes: (k,) int64, rising; every other class has probability 0.
    """

    log_p: Doubles
    classes: Ints

    def scores(self, labels: Ints) -> dict[str, float]:
        """Scores against the truth.

        Args:
            labels: (n,) int64, every one >= 0.

        Returns:
            `top1`: share right, over all rows. `class_mean`: the same averaged over classes, so that rare
            ones count as much. `log_loss`: mean negative log probability [nats] over the rows whose class had
            a training label, NaN without one, for it is infinite elsewhere. `unseen`: share of rows whose
            class had none; top-1 counts them as wrong.

        Raises:
            SpecError: for no rows, or labels that do not belong to them.
        """
        if len(labels) != len(self.log_p) or not len(labels) or labels.min() < 0:
            found = f"{len(labels)} labels for {len(self.log_p)} predictions"
            raise SpecError("cannot score predictions", found, "Give one label >= 0 for each of at least 1.")
        right = self.classes[self.log_p.argmax(axis=1)] == labels
        at, seen = positions(self.classes, labels)
        _, inverse = np.unique(labels, return_inverse=True)
        of_class = np.bincount(inverse, right) / np.bincount(inverse)
        loss = -self.log_p[seen, at[seen]].mean() if seen.any() else np.nan
        values = (right.mean(), loss, of_class.mean(), 1.0 - seen.mean())
        return dict(zip(METRICS, map(float, values), strict=True))


def positions(classes: Ints, labels: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Column of each label along rising `classes` (n,) int64, and whether it is there at all (n,) bool."""
    at = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return at, classes[at] == labels


def prevalence(labels: Ints, count: int) -> Prediction:
    """The same guess for `count` rows: the frequency of each class among the training labels (n,)."""
    classes, counts = np.unique(labels, return_counts=True)
    return Prediction(np.tile(np.log(counts / counts.sum()), (count, 1)), classes)


def normalised(logits: Doubles, classes: Ints) -> Prediction:
    """A prediction from unnormalised log probabilities (n, k).

    Raises:
        DivergedError: for a logit that is not finite.
    """
    if not np.isfinite(logits).all():
        change = "Look for features that are not finite, or lower the learning rate."
        raise DivergedError("cannot predict classes", "a logit that is not finite", change)
    return Prediction(logits - logsumexp(logits, axis=1, keepdims=True), classes)


def fuse(first: Prediction, second: Prediction, weight: float) -> Prediction:
    """Late fusion: p ~ p_first^(1 - weight) * p_second^weight, normalised.

    Raises:
        SpecError: for predictions of other rows or classes.
    """
    if first.log_p.shape != second.log_p.shape or not np.array_equal(first.classes, second.classes):
        found = f"predictions of shape {first.log_p.shape} and {second.log_p.shape}"
        raise SpecError("cannot fuse predictions", found, "Give predictions of the same rows and classes.")
    return normalised((1 - weight) * first.log_p + weight * second.log_p, first.classes)


def best_weight(first: Prediction, second: Prediction, labels: Ints, steps: int = 20) -> float:
    """The weight of `fuse` with the least log loss on validation rows, of 0, 1 / steps, ... 1.

    Args:
        first: On the validation rows.
        second: On the validation rows.
        labels: (n,) int64 truth.
        steps: Number of intervals.
    """
    weights = np.arange(steps + 1) / steps
    losses = [fuse(first, second, float(w)).scores(labels)["log_loss"] for w in weights]
    return 0.5 if np.isnan(losses).all() else float(weights[int(np.nanargmin(losses))])
