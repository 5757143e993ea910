"""What a photo shows and what lives where it was taken, together: P(y|I,x) from P(y|I) and the prior at x.

Source: CSP (Mai et al. 2023) section 3.4, after geo_prior: P(y|I,x) goes with P(y|I) sigma(e(x).T_y).
What we changed: the product is taken in log space, where it neither underflows nor ties; an observation
without a location gets P(y|I) itself; and the two may be weighted, by numbers fitted on validation data,

    log P(y|I,x) = a log P(y|I) + b log sigma(e(x).T_y) + constant,          a, b >= 0,

because neither the classifier nor the prior is calibrated. a = b = 1 is the paper's product. The classifier
must have seen no more labels than the prior: the published few-label script multiplies by one trained on all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize
from torch import Tensor, nn

from train.errors import SpecError
from train.objectives.presence import Prior


@dataclass(frozen=True)
class FusionWeights:
    """Exponents of the two factors; both 1 give the product of the paper.

    Raises:
        SpecError: unless image > 0 and location >= 0.
    """

    image: float = 1.0
    """a, of P(y|I)."""
    location: float = 1.0
    """b, of sigma(e(x).T_y); 0 is the image alone."""

    def __post_init__(self) -> None:
        if not (0.0 < self.image < np.inf and 0.0 <= self.location < np.inf):
            found = f"image {self.image}, location {self.location}"
            raise SpecError("cannot weight image and location", found, "Give image > 0, location >= 0.")


PRODUCT = FusionWeights()


@torch.no_grad()
def prior_logits(prior: Prior, lonlat: Tensor, batch: int = 4096) -> Tensor:
    """Logits of the prior where the location is known.

    Args:
        prior: Put into evaluation mode for the call, and back.
        lonlat: (n, 2) degrees; NaN where unknown.
        batch: Places at a time; the result does not hang on it.

    Returns:
        (n, Q) float32, rows of NaN where the location is unknown.

    Raises:
        SpecError: for coordinates that are swapped or infinite.
    """
    known = ~lonlat.isnan().any(dim=1)
    out = lonlat.new_full((len(lonlat), prior.head.vectors.out_features), torch.nan, dtype=torch.float32)
    was_training = prior.training
    prior.eval()
    try:
        places = lonlat[known]
        parts = [prior(part) for part in places.split(batch)] if len(places) else []
    finally:
        prior.train(was_training)
    if parts:
        out[known] = torch.cat(parts)
    return out


def fuse(image: Tensor, location: Tensor, weights: FusionWeights = PRODUCT) -> Tensor:
    """Log P(y|I,x), each row summing to 1 in probability.

    Args:
        image: (n, Q) log P(y|I), up to a constant for each row; -inf excludes a class.
        location: (n, Q) logits e(x).T_y; a row of NaN is an observation without location, for which the
            result is P(y|I) itself, unweighted.
        weights: Exponents.

    Returns:
        (n, Q) float64.

    Raises:
        SpecError: for shapes that differ, NaN in the image's part, rows that are NaN in part, or a row in
            which the image excludes every class.
    """
    alone, prior, known = _checked(image, location)
    fused = weights.image * alone + weights.location * torch.where(known[:, None], prior, 0.0)
    return torch.where(known[:, None], fused, alone).log_softmax(dim=1)


def fit_fusion(image: Tensor, location: Tensor, label: Tensor) -> FusionWeights:
    """The weights with the least log loss on validation data; a convex problem with one solution.

    Args:
        image: (n, Q) log P(y|I) of a classifier that did not learn from these observations.
        location: (n, Q) logits of the prior, likewise; rows of NaN are left out.
        label: (n,) int64 true classes.

    Raises:
        SpecError: as `fuse`; no observation with a location; a label outside 0..Q - 1, or one that the image
            excludes.
    """
    alone, prior, known = _checked(image, location)
    what = "cannot fit the weights of image and location"
    if label.shape != alone.shape[:1] or not bool(known.any()):
        found = f"{int(known.sum())} of {len(alone)} with a location, {len(label)} labels"
        raise SpecError(what, found, "Give validation observations with locations and labels.")
    alone, prior, label = alone[known], prior[known], label[known]
    if int(label.min()) < 0 or int(label.max()) >= alone.shape[1]:
        found = f"labels {int(label.min())} to {int(label.max())} for {alone.shape[1]} classes"
        raise SpecError(what, found, "Leave out observations without a class.")
    if bool(alone.gather(1, label[:, None]).isneginf().any()):
        raise SpecError(
            what, "a true class of probability 0", "Floor the image's probabilities, say at 1e-12."
        )
    excluded = alone.isneginf()
    finite = alone.masked_fill(excluded, 0.0)

    def loss(exponents: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in exponents)
        logits = (a * finite + b * prior).masked_fill(excluded, -torch.inf)
        value = nn.functional.cross_entropy(logits, label)
        value.backward()
        assert a.grad is not None and b.grad is not None
        return value.item(), np.array([a.grad.item(), b.grad.item()])

    bounds = [(1e-3, 1e3), (0.0, 1e3)]
    found = optimize.minimize(loss, np.ones(2), jac=True, method="L-BFGS-B", bounds=bounds)
    return FusionWeights(float(found.x[0]), float(found.x[1]))


def _checked(image: Tensor, location: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log P(y|I), log sigma(e(x).T_y), both float64, and (n,) bool where there is a location."""
    what = "cannot put image and location together"
    if image.ndim != 2 or image.shape != location.shape:
        found = f"shapes {tuple(image.shape)} and {tuple(location.shape)}"
        raise SpecError(what, found, "Give (n, classes) of both, along the same classes.")
    missing = location.isnan()
    known = ~missing.all(dim=1)
    if bool((missing.any(dim=1) & known).any()):
        change = "Give NaN for every class of an observation without location, and for no other."
        raise SpecError(what, "a row of the location's logits that is NaN in part", change)
    if bool(image.isnan().any()) or bool((image == torch.inf).any()):
        raise SpecError(
            what, "log probabilities of the image that are NaN or infinite", "Repair the classifier."
        )
    if bool(image.isneginf().all(dim=1).any()):
        raise SpecError(what, "a row in which the image excludes every class", "Repair the classifier.")
    return image.double().log_softmax(dim=1), nn.functional.logsigmoid(location.double()), known
