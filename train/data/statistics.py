"""Mean and deviation of a view's bands, measured once, for the card of its encoder (pitfall 21)."""

from __future__ import annotations

import numpy as np
import torch

from train.batch import Observations
from train.data.table import batch_of
from train.errors import SpecError

AT_A_TIME = 64


def band_statistics(
    data: Observations, view: str, count: int = 1_024, seed: int = 0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every band of a view, in the imagery's own units.

    Args:
        data: Observations to train on; those held out have no say.
        view: "ground" or "aerial".
        count: How many observations are looked at, at most; drawn at random.
        seed: Seed of the draw.

    Returns:
        Means and deviations (at least 1e-3), one for each band.

    Raises:
        SpecError: There is no such view, or a value is not finite.
    """
    if view not in data.views or view not in ("ground", "aerial"):
        found = f"view {view!r}, of {', '.join(data.views)}"
        raise SpecError("cannot measure the bands", found, "Name a view that is an image and that there is.")
    rows = np.sort(np.random.default_rng(seed).permutation(len(data))[:count])
    total, squares, pixels = torch.zeros(()), torch.zeros(()), 0
    for start in range(0, len(rows), AT_A_TIME):
        images = batch_of(data, rows[start : start + AT_A_TIME])[view].double()
        if not bool(images.isfinite().all()):
            raise SpecError("cannot measure the bands", f"a {view} image with NaN", "Leave such images out.")
        total = total + images.sum(dim=(0, 2, 3))
        squares = squares + images.square().sum(dim=(0, 2, 3))
        pixels += images.shape[0] * images.shape[2] * images.shape[3]
    mean = total / pixels
    deviation = (squares / pixels - mean.square()).clamp(min=0).sqrt().clamp(min=1e-3)
    return tuple(mean.tolist()), tuple(deviation.tolist())
