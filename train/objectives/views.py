"""The contrast of every pair of several views of one place: what the encoders of maps are pre-trained with.

It is CSP's in-batch term B (train.objectives.csp), symmetric and with learnt temperatures, between three
towers: aerial chip, location, and the twelve monthly composites at the place. The third is seen in training
only and makes the other two carry the seasons (snow, green-up) of a place. The image tower is trained too;
the paper freezes one that was pre-trained on labels, which we do not have.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.objectives.contrast import info_nce


def pair_losses(views: dict[str, Tensor], scales: nn.ModuleDict) -> dict[str, Tensor]:
    """InfoNCE of every pair of views, and their mean as `loss`.

    Args:
        views: Name -> (n, d) unit vectors.
        scales: `LogScale` of each pair, keyed "a|b" with a before b in the order of `views`.
    """
    names = list(views)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    losses = {f"{a}|{b}": info_nce(views[a], views[b], scales[f"{a}|{b}"]()) for a, b in pairs}
    return {**losses, "loss": torch.stack(list(losses.values())).mean()}
