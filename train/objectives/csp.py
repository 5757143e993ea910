"""CSP: contrastive spatial pre-training of location and image encoders (Mai et al., ICML 2023).

What we changed and why:
- the in-batch contrast B is symmetric (location -> image and image -> location), the variant CSP's code calls
  `contsoftmaxsym`, because both towers are used on the map;
- the temperature is learnt: scale = exp(s), s starts at ln(1 / 0.07) and is clamped at ln 100, since fixed
  temperatures of 1 or 20 leave cosine logits almost without gradient;
- the image tower is trained too (the paper freezes one pre-trained on labels, which we do not have);
- a third view, the twelve monthly composites at the place, joins as a pair with each of the others. It is
  seen in training only and makes location and aerial chip carry the seasons (snow, green-up) of a place;
- the random-location negatives L brought nothing beside large symmetric batches, and the SimCSE term D cost
  accuracy, in our trials on made-up landscapes; neither is used here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

INITIAL_LOG_SCALE = math.log(1.0 / 0.07)
LARGEST_LOG_SCALE = math.log(100.0)


class LogScale(nn.Module):
    """A learnable inverse temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE))

    def forward(self) -> Tensor:
        """The scale, at most 100."""
        return self.value.clamp(max=LARGEST_LOG_SCALE).exp()


def info_nce(first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of aligned pairs; the rest of the batch is negative (CSP equation 2, both ways).

    Args:
        first: (n, d) unit vectors.
        second: (n, d) unit vectors; row i belongs to row i of `first`.
        scale: Inverse temperature, a scalar.

    Returns:
        Scalar loss; ln n for embeddings that carry nothing.
    """
    logits = scale * first @ second.T  # (n, n)
    target = torch.arange(len(logits), device=logits.device)
    loss: Tensor = (
        nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)
    ) / 2
    return loss


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
