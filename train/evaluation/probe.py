"""Linear probes: multinomial logistic regression on frozen features.

The encoders are only read (train.evaluation.embed), so no buffer of a frozen module moves (pitfall 7 of
methods section 8). The strength of the ridge is chosen on validation data, never on test data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from train.errors import DivergedError, SpecError
from train.evaluation.scores import Ints, Prediction, best_weight, fuse, normalised, positions

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
GIVE_UP = 2  # ridges in a row that are no better
LARGEST_DOUBLE = 50_000_000  # features; beyond, single precision halves the memory
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Probe:
    """A fitted regression.

    Attributes:
        mean, std: (d,) float64 of the training features.
        weights: (d, k) float64 over standardised features.
        bias: (k,) float64.
        classes: (k,) int64 classes that had a training label, rising.
        strength: Inverse of the ridge, C of scikit-learn.
        validation_loss: Log loss on the validation rows, NaN for a probe fitted without any.
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    classes: Ints
    strength: float
    validation_loss: float = float("nan")

    def predict(self, features: Features) -> Prediction:
        """Probabilities at (n, d) features."""
        standard = (features.astype(np.float64) - self.mean) / self.std
        return normalised(standard @ self.weights + self.bias, self.classes)


@dataclass(frozen=True)
class Rows:
    """Features of several views and labels of the same rows.

    Attributes:
        views: Name -> (n, d) float32.
        labels: (n,) int64, every one >= 0.
    """

    views: dict[str, Features]
    labels: Ints

    def take(self, rows: Ints) -> Rows:
        """Some of the rows."""
        return Rows({name: x[rows] for name, x in self.views.items()}, self.labels[rows])

    def joined(self) -> Features:
        """The views beside each other, (n, sum of d) float32."""
        return np.concatenate(list(self.views.values()), axis=1)


def probe(train: Rows, validation: Rows, test: Rows) -> dict[str, tuple[Prediction, dict[str, float]]]:
    """Probes of each view alone and of both views, tuned on validation rows.

    Args:
        train: Rows with labels to fit on.
        validation: Rows to choose the ridge, and the weight of the late fusion.
        test: Rows to predict.

    Returns:
        For each view, and for two views also `concatenated` (one probe on both) and `late` (the geometric
        mean of the two probes, weighted): predictions at `test`, and what was chosen.

    Raises:
        SpecError: for features or labels that cannot be fitted.
    """
    probes = {
        view: tuned(train.views[view], train.labels, validation.views[view], validation.labels)
        for view in train.views
    }
    out = {v: (p.predict(test.views[v]), {"strength": p.strength}) for v, p in probes.items()}
    if len(probes) != 2:
        return out
    both = tuned(train.joined(), train.labels, validation.joined(), validation.labels)
    out["concatenated"] = (both.predict(test.joined()), {"strength": both.strength})
    one, two = probes
    guesses = [probes[view].predict(validation.views[view]) for view in (one, two)]
    weight = best_weight(guesses[0], guesses[1], validation.labels)
    out["late"] = (fuse(out[one][0], out[two][0], weight), {f"weight_{two}": weight})
    return out


def tuned(
    features: Features,
    labels: Ints,
    validation: Features,
    truth: Ints,
    strengths: Sequence[float] = STRENGTHS,
) -> Probe:
    """The probe whose ridge gives the least log loss on validation rows; of equals the stronger ridge.

    The search goes from strong to weak ridges and ends after two that are worse than the best: weaker ones
    take longest to fit and over-fit more.

    Args:
        features: (n, d) float32 to fit on.
        labels: (n,) int64.
        validation: (m, d) float32 to choose by.
        truth: (m,) int64 labels of those; classes without a training label are left out of the choice.
        strengths: C to choose from.

    Raises:
        SpecError: for no validation row of a class that has a training label, or as `fit_probe`.
    """
    best: Probe | None = None
    start: Probe | None = None
    worse = 0
    for strength in sorted(strengths):
        start = fit_probe(features, labels, strength, start)  # from the last one, which is near
        loss = start.predict(validation).scores(truth)["log_loss"]
        if np.isnan(loss):
            found = f"none of {len(truth)} validation rows has a class with a training label"
            raise SpecError("cannot choose the ridge of a probe", found, "Give more validation rows.")
        if best is None or loss < best.validation_loss:
            best, worse = replace(start, validation_loss=loss), 0
        else:
            worse += 1
        if worse == GIVE_UP:
            break
    assert best is not None, "strengths is never empty"
    return best


def fit_probe(features: Features, labels: Ints, strength: float, start: Probe | None = None) -> Probe:
    """Multinomial logistic regression with a ridge on the weights and none on the bias, by L-BFGS.

    Minimises mean cross-entropy + |W|^2 / (2 C n) over standardised features, the loss of scikit-learn's
    LogisticRegression(C) up to a factor.

    Args:
        features: (n, d) float32, finite.
        labels: (n,) int64 >= 0; only classes that occur can be predicted.
        strength: C, > 0.
        start: A probe of the same rows to begin from.

    Raises:
        SpecError: for no rows, or features and labels that do not belong together.
        DivergedError: for features that are not finite, or a fit that fails.
    """
    if features.ndim != 2 or len(features) != len(labels) or not len(labels) or labels.min() < 0:
        found = f"features of shape {features.shape} for {len(labels)} labels"
        raise SpecError("cannot fit a probe", found, "Give (n, d) features with a label >= 0 each.")
    if not np.isfinite(features).all():
        change = "Drop the observations without a value."
        raise DivergedError("cannot fit a probe", "a feature that is not finite", change)
    mean, std = _standard(features)
    classes = np.unique(labels)
    where: dict[str, Any] = {
        "dtype": torch.float64 if features.size <= LARGEST_DOUBLE else torch.float32,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }
    shift, scale = (torch.tensor(x, **where) for x in (mean, std))
    inputs = (torch.tensor(features, **where) - shift) / scale
    target = torch.tensor(positions(classes, labels)[0], device=where["device"])
    weights = torch.zeros(inputs.shape[1], len(classes), **where)
    bias = torch.bincount(target, minlength=len(classes)).to(**where).div(len(labels)).log()
    if start is not None:
        weights, bias = (torch.tensor(x, **where) for x in (start.weights, start.bias))  # copies
    _minimise(weights, bias, inputs, target, 1.0 / (2.0 * strength * len(labels)))
    w, b = (tensor.double().cpu().numpy() for tensor in (weights, bias))
    return Probe(mean, std, w, b, classes, strength)


def _standard(features: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation; a feature that does not vary is left as it is."""
    mean = features.mean(axis=0, dtype=np.float64)
    std = features.std(axis=0, dtype=np.float64)
    return mean, np.where(std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, 1.0)


def _minimise(
    weights: torch.Tensor, bias: torch.Tensor, inputs: torch.Tensor, target: torch.Tensor, ridge: float
) -> None:
    """Moves weights and bias, in place, to the minimum."""
    learnt = [weights.requires_grad_(), bias.requires_grad_()]
    optimiser = torch.optim.LBFGS(
        learnt,
        max_iter=300,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-11,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(inputs @ weights + bias, target)
        loss = loss + ridge * weights.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    for tensor in learnt:
        tensor.requires_grad_(False)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in learnt):
        change = "Look for features of extreme size."
        raise DivergedError("cannot fit a probe", "weights that are not finite", change)
