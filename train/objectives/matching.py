"""Matching pairs: which pairs of a batch are shown as false ones, and the loss of telling them apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class FalsePairs(NamedTuple):
    """Pairs of a batch that do not belong together."""

    ground: Tensor
    """(m,) int64 rows of the photos."""
    aerial: Tensor
    """(m,) int64 rows of the chips."""
    weight: Tensor
    """(m,) float32, 0 where a row has no false partner, as all others share its tile; else 1."""


def rolled_pairs(allowed: Tensor) -> FalsePairs:
    """Photo i with chip i - 1, as published.

    Args:
        allowed: (n, n) bool, True where photo i and chip j may be shown as a false pair.
    """
    rows = torch.arange(len(allowed), device=allowed.device)
    chips = rows.roll(1)
    return FalsePairs(rows, chips, allowed[rows, chips].float())


def hard_pairs(similarity: Tensor, allowed: Tensor, draw: bool) -> FalsePairs:
    """A false chip for every photo and a false photo for every chip, the more similar the likelier.

    Reference: Li et al. 2021, "Align before Fuse", section 3.2 (image-text matching).

    Args:
        similarity: (n, n) scaled similarity of photo i and chip j.
        allowed: (n, n) bool, True where they may be shown as a false pair.
        draw: Draw from the softmax over a row; otherwise (to watch a loss) take its most similar.

    Returns:
        2 n pairs.
    """
    rows = torch.arange(len(allowed), device=allowed.device)
    chips, photos = _partner(similarity, allowed, draw), _partner(similarity.T, allowed.T, draw)
    weight = torch.cat([allowed.any(dim=1), allowed.any(dim=0)]).float()
    return FalsePairs(torch.cat([rows, photos]), torch.cat([chips, rows]), weight)


def _partner(similarity: Tensor, allowed: Tensor, draw: bool) -> Tensor:
    logits = similarity.float().masked_fill(~allowed, -torch.inf)
    if not draw:
        return logits.argmax(dim=1)
    # A row without any allowed partner draws an arbitrary one, which then weighs nothing.
    logits = logits.masked_fill(~allowed.any(dim=1, keepdim=True), 0.0)
    return torch.multinomial(logits.softmax(dim=1), 1)[:, 0]


def match_loss(true: Tensor, false: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy of true pairs (n,) and false pairs (m,), both sides weighing the same.

    For m = n and weights of 1 it is the plain mean over all pairs, as published; with more false than true
    ones that mean would reward saying no.
    """
    yes = nn.functional.softplus(-true).mean()
    no = (nn.functional.softplus(false) * weight).sum() / weight.sum().clamp(min=1.0)
    return (yes + no) / 2
