"""Fine-tuning: the encoders of one or two views and a linear head, all learning from labels.

The head sees the features before the projection (methods section 3.1 puts BirdSAT's classifier on the class
token, too), each view shifted and scaled to mean 0 and deviation 1 at the start, so that encoders of other
scale start alike.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from train.batch import Batch, Observations, collate, to_device
from train.data.table import Selection
from train.errors import SpecError
from train.evaluation.embed import batches, device_of, embed_views, encode, evaluating
from train.evaluation.scores import Ints, Prediction, normalised, positions
from train.evaluation.tuning import TuningConfig, tune

SCALED_BY = 512  # training rows that tell the scale of features


class Classifier(nn.Module):
    """Encoders of some views and a linear head over their features beside each other.

    Args:
        model: Has `encode(view, batch)`, and `features` where the head is better off before a projection.
        scales: View -> mean (d,) float32 of its features at the start, and their deviation over all of them.
        prior: (k,) float32 log frequencies of the classes, where the head's bias starts.
    """

    def __init__(self, model: nn.Module, scales: dict[str, tuple[Tensor, Tensor]], prior: Tensor) -> None:
        super().__init__()
        self.model, self.views = model, tuple(scales)
        self.register_buffer("mean", torch.cat([mean for mean, _ in scales.values()]))
        self.register_buffer("std", torch.cat([std.expand_as(mean) for mean, std in scales.values()]))
        self.head = nn.Linear(len(self.mean), len(prior))
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            self.head.bias.copy_(prior)

    mean: Tensor
    std: Tensor

    def forward(self, batch: Batch) -> Tensor:
        """A batch with all the views -> (n, k) logits."""
        given = [encode(self.model, view, batch, "features").float() for view in self.views]
        logits: Tensor = self.head((torch.cat(given, dim=1) - self.mean) / self.std)
        return logits


@dataclass(eq=False)
class _Fit:
    """Fitting a classifier, for `tune`."""

    model: nn.Module
    views: tuple[str, ...]
    train: Observations
    held: Observations
    classes: Ints
    config: TuningConfig

    def __post_init__(self) -> None:
        labels = np.asarray(self.train.labels(), np.int64)
        counts = torch.from_numpy(np.bincount(positions(self.classes, labels)[0]))
        self.prior = (counts / counts.sum()).log().float()
        few = Selection(
            self.train, np.linspace(0, len(labels) - 1, min(len(labels), SCALED_BY)).astype(np.int64)
        )
        start = embed_views(self.model, few, self.views, self.config.batch, layer="features").vectors
        self.scales = {view: _scale(torch.from_numpy(features)) for view, features in start.items()}

    def start(self) -> Classifier:
        made = Classifier(copy.deepcopy(self.model), self.scales, self.prior)
        return made.to(device_of(self.model))

    def head(self, network: nn.Module) -> nn.Module:
        assert isinstance(network, Classifier)
        return network.head

    def losses(self, network: nn.Module) -> Iterator[Callable[[], Tensor]]:
        device, classes = device_of(network), torch.from_numpy(self.classes)
        for batch in _endless(self.train, self.config):
            target = torch.searchsorted(classes, batch["label"]).to(device)
            seen = flipped(to_device(batch, device))
            yield lambda seen=seen, target=target: _cross_entropy(network, seen, target)  # type: ignore[misc]

    def validation(self, network: nn.Module) -> float:
        truth = np.asarray(self.held.labels(), np.int64)
        return predict(network, self.held, self.classes).scores(truth)["log_loss"]


def _scale(features: Tensor) -> tuple[Tensor, Tensor]:
    mean = features.mean(dim=0)
    return mean, (features - mean).square().mean().sqrt().clamp(min=1e-6)


def finetune(
    model: nn.Module,
    data: Observations,
    views: Sequence[str],
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    test: NDArray[np.int64],
    config: TuningConfig,
    seed: int,
) -> tuple[Prediction, dict[str, float]]:
    """Fine-tunes a copy of the model; learning rate and rounds are chosen on the validation rows.

    Args:
        model: Pre-trained or fresh; it is left as it is.
        data: Observations with labels.
        views: One or two views that the classifier reads.
        train: Rows of `data` to fit on, every one with a label, as the next two.
        validation: Rows to choose by.
        test: Rows to predict.
        config: Budget.
        seed: Of the head's start, the order and the flips.

    Returns:
        Predictions at the test rows, and what was chosen.

    Raises:
        SpecError: when no validation row has a class with a training label, or a view is missing.
        DivergedError: when the loss is not finite for any learning rate.
    """
    labels = np.asarray(data.labels(), np.int64)
    classes = np.unique(labels[train])
    if not np.isin(labels[validation], classes).any():
        found = f"none of {len(validation)} validation rows has a class with a training label"
        raise SpecError("cannot fine-tune", found, "Give more validation rows.")
    fit = _Fit(model, tuple(views), Selection(data, train), Selection(data, validation), classes, config)
    length = max(math.ceil(len(train) / config.batch), config.round_steps)
    fitted = tune(fit, config, length, seed)
    return predict(fitted.network, Selection(data, test), classes, config.batch), fitted.chosen()


def predict(network: nn.Module, data: Observations, classes: Ints, batch: int = 256) -> Prediction:
    """Probabilities of all observations, in evaluation mode.

    Raises:
        DivergedError: for a logit that is not finite.
    """
    with evaluating(network):
        parts = [network(each).double().cpu() for each in batches(data, batch, device_of(network))]
    logits: NDArray[np.float64] = torch.cat(parts).numpy()
    return normalised(np.where(np.isfinite(logits), logits, np.nan), classes)


def flipped(batch: Batch) -> Batch:
    """Each image mirrored left to right with probability one half; all else as it is."""
    out = dict(batch)
    for name, value in batch.items():
        if value.ndim == 4:
            mirrored = torch.rand(len(value)) < 0.5
            out[name] = torch.where(mirrored.to(value.device)[:, None, None, None], value.flip(-1), value)
    return out


def _cross_entropy(network: nn.Module, batch: Batch, target: Tensor) -> Tensor:
    device = device_of(network)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        logits = network(batch)
    return nn.functional.cross_entropy(logits.float(), target)


def _endless(data: Observations, config: TuningConfig) -> Iterator[Batch]:
    """Whole batches of shuffled observations for ever; an epoch's rest is left to other epochs."""
    size = min(config.batch, len(data))
    while True:
        order = torch.randperm(len(data))[: len(data) // size * size]
        loader: DataLoader[Batch] = DataLoader(
            data,  # type: ignore[arg-type]
            batch_sampler=order.reshape(-1, size).tolist(),
            collate_fn=collate,
            num_workers=config.workers,
        )
        yield from loader
