"""The contrast that CRISP, BirdSAT and CSP share: aligned pairs against the rest of the global batch.

Source: InfoNCE (van den Oord et al. 2018) in the symmetric form of CLIP (Radford et al. 2021). The scale is
learnt: exp(s), s starts at ln(1 / 0.07) and is clamped at ln 100.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

INITIAL_LOG_SCALE = math.log(1.0 / 0.07)
LARGEST_LOG_SCALE = math.log(100.0)
Same = Literal["negatives", "mask", "positives"]


class LogScale(nn.Module):
    """A learnable inverse temperature.

    Args:
        initial: First value of the scale itself (not of its logarithm), at most 100.
        learn: False keeps the first value.
    """

    def __init__(self, initial: float = 1.0 / 0.07, learn: bool = True) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(math.log(initial)), requires_grad=learn)

    def forward(self) -> Tensor:
        """The scale, at most 100."""
        return self.value.clamp(max=LARGEST_LOG_SCALE).exp()


def gather(x: Tensor) -> Tensor:
    """(n, ...) of every rank under each other, (ranks * n, ...); gradients flow back to their rank.

    Every rank computes the loss of the whole batch; averaged over ranks by DDP, the gradient is the one that
    a single process would have on it. Without a process group the input itself.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """All ranks' rows; backwards, what every rank says of one's own rows is added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


def same_group(*groups: Tensor | None) -> Tensor | None:
    """(n, n) bool, True off and on the diagonal where any of the groups agrees; None without groups.

    Args:
        groups: (n,) int64 each, -1 where unknown (agrees with nothing but itself); None is skipped.
    """
    known = [group for group in groups if group is not None]
    if not known:
        return None
    same = torch.eye(len(known[0]), dtype=torch.bool, device=known[0].device)
    for group in known:
        same = same | ((group[:, None] == group[None, :]) & (group[:, None] >= 0))
    return same


def info_nce(
    first: Tensor, second: Tensor, scale: Tensor, same: Tensor | None = None, use: Same = "mask"
) -> Tensor:
    """Symmetric InfoNCE of aligned pairs (CRISP, methods section 2.2; CSP equation 2, both ways).

    Args:
        first: (n, d) unit vectors.
        second: (n, d) unit vectors; row i belongs to row i of `first`.
        scale: Inverse temperature, a scalar.
        same: (n, n) bool, True where two observations show the same tile or species; the diagonal is True.
        use: What pairs of `same` off the diagonal are: `negatives` like all others, `mask`ed out of the
            contrast, or further `positives`.

    Returns:
        Scalar loss; ln n for embeddings that carry nothing.
    """
    logits = scale * first @ second.T  # (n, n)
    if same is None or use == "negatives":
        target = torch.arange(len(logits), device=logits.device)
        there, back = (
            nn.functional.cross_entropy(logits, target),
            nn.functional.cross_entropy(logits.T, target),
        )
        loss: Tensor = (there + back) / 2
        return loss
    return (_one_way(logits, same, use) + _one_way(logits.T, same, use)) / 2


def _one_way(logits: Tensor, same: Tensor, use: Same) -> Tensor:
    diagonal = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    if use == "mask":
        positive, candidates = diagonal, diagonal | ~same
    else:
        positive, candidates = same, torch.ones_like(diagonal)
    above = logits.masked_fill(~positive, -torch.inf).logsumexp(dim=1)
    below = logits.masked_fill(~candidates, -torch.inf).logsumexp(dim=1)
    return (below - above).mean()
