"""The two contrasts of CSP over given similarities, with any set of negatives.

Source: Mai et al. 2023 (CSP), equations 1 and 2; noise-contrastive estimation (Gutmann and Hyvarinen 2010),
InfoNCE (van den Oord et al. 2018). What we changed: equation 2 as printed lacks its minus and logarithm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def multi_class(own: Tensor, others: Tensor, scale: Tensor, left_out: Tensor | None = None) -> Tensor:
    """MC (InfoNCE) over similarities.

    Args:
        own: (n,) of the positive pairs.
        others: (n, k) of the negatives of each.
        scale: Inverse temperature, a scalar.
        left_out: (n, k) bool, True where a pair is no negative.

    Returns:
        Scalar, mean over the positives.
    """
    negative = scale * others
    if left_out is not None:
        negative = negative.masked_fill(left_out, -torch.inf)
    positive = scale * own
    return (torch.cat([positive[:, None], negative], dim=1).logsumexp(dim=1) - positive).mean()


def binary(own: Tensor | None, others: Tensor, left_out: Tensor | None = None) -> Tensor:
    """NCE over similarities: -E log sigma(own) - E log(1 - sigma(others)).

    Args:
        own: (n,) of the positive pairs; None has no such term.
        others: (n, k) of the negatives.
        left_out: (n, k) bool, True where a pair is no negative.
    """
    against = nn.functional.softplus(others)  # -log(1 - sigma)
    kept = torch.ones_like(others, dtype=torch.bool) if left_out is None else ~left_out
    loss = against.masked_fill(~kept, 0.0).sum() / kept.sum().clamp(min=1)
    return loss if own is None else loss + nn.functional.softplus(-own).mean()
