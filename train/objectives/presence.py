"""Species from places: the class head on a location encoder, and the losses that fit it to presences.

Source: CSP (Mai et al. 2023) section 3.4, geo_prior (Mac Aodha et al. 2019) and SINR (Cole et al. 2023). The
prior of class y at place x is sigma(e(x) . T_y), with T (d x Q) and no bias. A presence is a positive for its
class and a negative for all others; a random place is a negative for every class:

    l_sup   = beta l_NCE(P^y, -) + l_NCE(-, N^y and N^R)                      beta = Q, the number of classes
    AN-full = -1/Q sum_q [w z_q log p_q(x) + (1 - z_q) log(1 - p_q(x)) + log(1 - p_q(r))]         w = 2048

As the public code averages over observations and classes, the two are one loss, with w = beta = Q in CSP.
What we changed: exact log-sigmoids in place of log(p + 1e-5), which stops learning where p is small; random
places are uniform by area and may be held to land. With presences only these are no probabilities of
presence, but relative suitabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.encoders.location import LocationEncoder
from train.errors import SpecError
from train.sampling import WORLD, Box, Keep, sample_box, sample_where

SINR_WEIGHT = 2048.0


class ClassHead(nn.Module):
    """T: one vector for each class, no bias.

    Args:
        dim: Width d of the location embedding.
        classes: Number of classes Q.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.vectors = nn.Linear(dim, classes, bias=False)  # its weight is T transposed, (Q, d)

    def forward(self, embedding: Tensor) -> Tensor:
        """(n, d) -> (n, Q) logits; sigma of them is the prior."""
        logits: Tensor = self.vectors(embedding)
        return logits


class Prior(nn.Module):
    """P(class | place): a location encoder, pre-trained or not, and a class head.

    Args:
        location: The encoder, which is fine-tuned; e(x) is taken before its normalisation.
        classes: Number of classes Q.
    """

    def __init__(self, location: LocationEncoder, classes: int) -> None:
        super().__init__()
        self.location = location
        self.head = ClassHead(location.dim, classes)

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, Q) logits.

        Raises:
            SpecError: for coordinates that are missing or swapped.
        """
        embedding = self.location.embed(lonlat)
        with torch.autocast(lonlat.device.type, enabled=False):
            logits: Tensor = self.head(embedding)
        return logits

    def loss(self, lonlat: Tensor, label: Tensor, box: Box = WORLD, keep: Keep | None = None) -> Tensor:
        """`l_sup` of presences against one random place each, drawn anew at every call.

        Args:
            lonlat: (n, 2) degrees.
            label: (n,) int64 classes.
            box: Study area.
            keep: Where random places may lie in it; None: anywhere.
        """
        count = len(lonlat)
        random = sample_box(count, box) if keep is None else sample_where(count, keep, box)
        here, elsewhere = self(torch.cat([lonlat, random.to(lonlat)])).split(count)
        return l_sup(here, elsewhere, label)


def l_sup(here: Tensor, elsewhere: Tensor, label: Tensor, beta: float | None = None) -> Tensor:
    """CSP's loss of fine-tuning, a mean over observations and classes.

    Args:
        here: (n, Q) logits at the presences.
        elsewhere: (m, Q) logits at random places.
        label: (n,) int64 class of each presence.
        beta: Weight of the positives; None takes Q.

    Raises:
        SpecError: as `an_full`.
    """
    return an_full(here, elsewhere, label, float(here.shape[1]) if beta is None else beta)


def an_full(here: Tensor, elsewhere: Tensor, label: Tensor, weight: float = SINR_WEIGHT) -> Tensor:
    """SINR's "assume negative, full" for one presence a row, a mean over observations and classes.

    Args:
        here: (n, Q) logits at the presences.
        elsewhere: (m, Q) logits at random places.
        label: (n,) int64 class of each presence.
        weight: Weight w of the positives.

    Raises:
        SpecError: for an empty batch, widths that differ, or a label outside 0..Q - 1 (-1 is no class).
    """
    _check(here, elsewhere, label)
    own = here.gather(1, label[:, None])[:, 0]  # (n,)
    absent = nn.functional.softplus(here).sum(dim=1) - nn.functional.softplus(own)  # all but the own class
    present = weight * nn.functional.softplus(-own)
    at_places = (present + absent).mean() / here.shape[1]
    return at_places + nn.functional.softplus(elsewhere).mean()


def _check(here: Tensor, elsewhere: Tensor, label: Tensor) -> None:
    what = "cannot fit the prior of classes"
    if not len(here) or not len(elsewhere):
        found = f"{len(here)} presences, {len(elsewhere)} random places"
        raise SpecError(what, found, "Give at least one of each.")
    if here.shape[1:] != elsewhere.shape[1:] or label.shape != here.shape[:1]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (here, elsewhere, label))
        raise SpecError(what, f"shapes {shapes}", "Give (n, Q), (m, Q) and (n,).")
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= here.shape[1]:
        found = f"labels {low} to {high} for {here.shape[1]} classes"
        raise SpecError(what, found, "Leave out observations without a class, or give the head more classes.")
