"""CSP's use of a location encoder: a prior of classes, alone and together with what the image shows.

Source: CSP (Mai et al. 2023) sections 3.4 and 4; losses and fusion are those of train.objectives.presence and
train.fusion. What we changed: learning rate and rounds are chosen on validation rows for both arms, and the
image classifier sees exactly the labels that the prior sees (defect 4.6.6 of methods).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.encoders.location import LocationEncoder
from train.errors import SpecError
from train.evaluation.embed import device_of
from train.evaluation.scores import Ints, Prediction, normalised, positions
from train.evaluation.tuning import TuningConfig, tune
from train.fusion import PRODUCT, FusionWeights, fit_fusion, fuse, prior_logits
from train.objectives.presence import Prior
from train.sampling import WORLD, Box

PRIOR_TUNING = TuningConfig(learning_rates=(2e-4, 1e-3, 5e-3), head_factor=3.0, batch=512)
Degrees = NDArray[np.float64]


@dataclass(frozen=True)
class Places:
    """Where some rows are, and their labels.

    Attributes:
        lonlat: (n, 2) float64 degrees, finite.
        labels: (n,) int64, every one >= 0.
    """

    lonlat: Degrees
    labels: Ints


@dataclass(eq=False)
class _Fit:
    """Fitting a prior, for `tune`."""

    location: LocationEncoder
    train: Places
    held: Places
    classes: Ints
    config: TuningConfig
    box: Box

    def start(self) -> Prior:
        made = Prior(copy.deepcopy(self.location), len(self.classes))
        return made.to(device_of(self.location))

    def head(self, network: nn.Module) -> nn.Module:
        assert isinstance(network, Prior)
        return network.head

    def losses(self, network: nn.Module) -> Iterator[Callable[[], Tensor]]:
        assert isinstance(network, Prior)
        device = device_of(network)
        lonlat = torch.from_numpy(self.train.lonlat).to(device)
        target = torch.from_numpy(positions(self.classes, self.train.labels)[0]).to(device)
        size = min(self.config.batch, len(target))
        while True:
            for rows in torch.randperm(len(target)).split(size):
                if len(rows) == size:
                    yield lambda rows=rows: network.loss(lonlat[rows], target[rows], self.box)  # type: ignore[misc]

    def validation(self, network: nn.Module) -> float:
        assert isinstance(network, Prior)
        guess = alone(_logits(network, self.held.lonlat), self.classes)
        return guess.scores(self.held.labels)["log_loss"]


def fit_prior(
    location: LocationEncoder, train: Places, held: Places, config: TuningConfig, seed: int, box: Box = WORLD
) -> tuple[Prior, Ints, dict[str, float]]:
    """Fine-tunes a copy of a location encoder with a class head, by CSP's supervised loss.

    Args:
        location: Pre-trained or fresh; it is left as it is.
        train: Rows to fit on.
        held: Rows to choose learning rate and rounds by.
        config: Budget.
        seed: Of the head, the order and the random places.
        box: Study area, where random places are drawn.

    Returns:
        The prior, its classes (k,) int64, and what was chosen.

    Raises:
        SpecError: when no validation row has a class with a training label.
        DivergedError: when the loss is not finite for any learning rate.
    """
    classes = np.unique(train.labels)
    if not np.isin(held.labels, classes).any():
        found = f"none of {len(held.labels)} validation rows has a class with a training label"
        raise SpecError("cannot fit the prior of classes", found, "Give more validation rows.")
    length = max(math.ceil(len(train.labels) / config.batch), config.round_steps)
    fitted = tune(_Fit(location, train, held, classes, config, box), config, length, seed)
    assert isinstance(fitted.network, Prior)
    return fitted.network, classes, fitted.chosen()


def fused(
    prior: Prior, held: Places, image_held: Prediction, test: Places, image_test: Prediction
) -> dict[str, tuple[Prediction, dict[str, float]]]:
    """The prior alone, its plain product with the image, and the weighted one.

    Args:
        prior: Over the classes of the image's predictions.
        held: Validation rows, on which the weights are fitted.
        image_held: The image classifier's predictions there.
        test: Rows to predict.
        image_test: The image classifier's predictions there.

    Returns:
        `lonlat`, `product` and `fused`: predictions at `test`, and what was chosen.
    """
    classes = image_held.classes
    at_test, at_held = _logits(prior, test.lonlat), _logits(prior, held.lonlat)
    label, seen = positions(classes, held.labels)
    image = torch.from_numpy(image_held.log_p[seen])
    weights = fit_fusion(image, at_held[seen], torch.from_numpy(label[seen]))
    shown = torch.from_numpy(image_test.log_p)

    def together(how: FusionWeights) -> Prediction:
        return normalised(fuse(shown, at_test, how).numpy(), classes)

    chosen = {"weight_image": weights.image, "weight_lonlat": weights.location}
    return {
        "lonlat": (alone(at_test, classes), {}),
        "product": (together(PRODUCT), {}),
        "fused": (together(weights), chosen),
    }


def alone(logits: Tensor, classes: Ints) -> Prediction:
    """P(class | place) from (n, k) logits of a prior: their sigmoids, made to sum to 1."""
    return normalised(nn.functional.logsigmoid(logits.double()).numpy(), classes)


def _logits(prior: Prior, lonlat: Degrees) -> Tensor:
    return prior_logits(prior, torch.from_numpy(lonlat).to(device_of(prior))).cpu()
