"""How much an appearance tells: similarities of photo and chip on the scale of a likelihood ratio.

A cosine between a photo and a chip has no scale of its own. On observations that training did not see, the
similarity of a photo to its own chip is set against its similarity to chips of other places; a logistic
regression with both sides weighing the same turns the cosine s into log-odds a * s + c. Because the sides
weigh the same, these are the logarithm of a likelihood ratio, and adding the log-odds of a location prior
gives the product of habitat and range (methods sections 6.1 and 6.5: habitat look-alikes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from train.errors import SpecError

FEWEST = 10  # observations
MOST = 2000  # observations; their square is the number of pairs

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Calibration:
    """Log-odds of a match, slope * similarity + intercept.

    Attributes:
        slope: Per unit of cosine; not negative.
        intercept: Log-odds at a cosine of 0.
        observations: How many it was fitted on.
        log_loss: Of the balanced pairs; ln 2 = 0.693 where appearance tells nothing.
    """

    slope: float
    intercept: float
    observations: int
    log_loss: float

    def log_odds(self, similarity: Floats) -> NDArray[np.float64]:
        """Logarithm of the likelihood ratio of cosines, any shape; NaN stays NaN."""
        return self.slope * np.asarray(similarity, np.float64) + self.intercept


def calibrate(
    ground: Floats,
    aerial: Floats,
    tile: NDArray[np.int64] | None = None,
    label: NDArray[np.int64] | None = None,
) -> Calibration:
    """Fits the scale of similarities on observations that training did not see.

    Args:
        ground: (n, d) unit vectors of photos.
        aerial: (n, d) unit vectors of their chips, row by row.
        tile: (n,) tiles; chips of the photo's own tile are no background. -1 where unknown.
        label: (n,) species; chips where the photo's species was met are no background. -1 where unknown.

    Returns:
        The calibration.

    Raises:
        SpecError: fewer than 10 observations, or no pair that is background.
    """
    ground, aerial = ground[:MOST], aerial[:MOST]
    count = len(ground)
    own = np.eye(count, dtype=bool)
    background = ~own
    for group in (tile, label):
        if group is not None:
            known = np.asarray(group[:MOST])
            background &= ~((known[:, None] == known[None, :]) & (known[:, None] >= 0))
    if count < FEWEST or not background.any():
        found = f"{count} observations with {int(background.sum())} pairs of different places"
        raise SpecError(
            "cannot calibrate similarities", found, "Hold more observations out: data.validation."
        )
    similarity = np.asarray(ground, np.float64) @ np.asarray(aerial, np.float64).T
    values = np.concatenate([similarity[own], similarity[background]])
    sign = np.repeat([1.0, -1.0], [count, int(background.sum())])
    weight = np.repeat([0.5 / count, 0.5 / background.sum()], [count, int(background.sum())])
    slope, intercept, loss = _logistic(values, sign, weight)
    return Calibration(slope, intercept, count, loss)


def _logistic(values: Floats, sign: Floats, weight: Floats) -> tuple[float, float, float]:
    """Slope >= 0, intercept and log loss of a weighted logistic regression."""

    def loss(parameters: Floats) -> tuple[float, Floats]:
        margin = sign * (parameters[0] * values + parameters[1])
        each = -weight * sign * np.exp(-np.logaddexp(0, margin))
        return float(weight @ np.logaddexp(0, -margin)), np.array([each @ values, each.sum()])

    found = minimize(
        loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.0, 1e4), (None, None)]
    )
    return float(found.x[0]), float(found.x[1]), float(found.fun)
