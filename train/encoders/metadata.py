"""Where and when an observation was made, as tokens beside an image embedding.

Source: BirdSAT's metadata vectors (Sastry et al. 2024; methods sections 1.2 and 3.1): sine and cosine of
place and date, one Linear each, dropped in training with probability 0.25. What we changed: the latitude's
own sine and cosine instead of the doubled angle's, under which both poles are one point; dropping by sample
instead of by batch, if wished; nothing is dropped outside training (methods section 3.6, defect 3); a
place or date that is unknown (NaN) counts as dropped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from train.encoders.positional import check_lonlat
from train.errors import SpecError


@dataclass(frozen=True)
class MetadataConfig:
    """What is told of an observation beside its images, and how often it is withheld."""

    location: bool = True
    """Whether the place is told."""
    date: bool = True
    """Whether the date is told."""
    drop: float = 0.25
    """Probability of withholding place and date together, in training only."""
    per: Literal["sample", "batch"] = "sample"
    """Whether it is drawn for each sample, or once for the whole batch (as published)."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.drop < 1.0 or self.per not in ("sample", "batch"):
            found = f"drop {self.drop}, per {self.per!r}"
            raise SpecError("cannot use metadata", found, "Give drop in [0, 1), and per = sample or batch.")
        if not (self.location or self.date):
            raise SpecError("cannot use metadata", "neither location nor date", "Switch on at least one.")


def location_vector(lonlat: Tensor) -> Tensor:
    """(n, 2) degrees, longitude first -> (n, 4): sin lat, cos lat, sin lon, cos lon; the poles differ.

    Raises:
        SpecError: for another shape, or coordinates that are out of range; NaN stays NaN.
    """
    check_lonlat(torch.nan_to_num(lonlat))
    lon, lat = torch.deg2rad(lonlat.double()).unbind(1)
    return torch.stack([lat.sin(), lat.cos(), lon.sin(), lon.cos()], dim=1)


def date_vector(date: Tensor) -> Tensor:
    """(n, 2) month 1..12 and day 1..31 -> (n, 4): sine and cosine of month / 12 and day / 31 of a turn.

    Raises:
        SpecError: for another shape, or a month or day that is out of range; NaN stays NaN.
    """
    if date.ndim != 2 or date.shape[1] != 2:
        raise SpecError("cannot encode dates", f"shape {tuple(date.shape)}", "Give (n, 2) month, day.")
    longest = torch.tensor([12.0, 31.0], device=date.device, dtype=date.dtype)
    if bool(((date < 1.0) | (date > longest)).any()):  # False for NaN
        low, high = (float(v) for v in torch.aminmax(date[torch.isfinite(date)]))
        raise SpecError(
            "cannot encode dates", f"values {low:g} to {high:g}", "Give month 1..12, then day 1..31."
        )
    month, day = (2.0 * math.pi * date.double() / longest).unbind(1)
    return torch.stack([month.sin(), month.cos(), day.sin(), day.cos()], dim=1)


class MetadataTokens(nn.Module):
    """Linear tokens of place and date, summed.

    Args:
        config: What is told and how often it is withheld.
        dim: Width of the token.
    """

    def __init__(self, config: MetadataConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        self.location = nn.Linear(4, dim) if config.location else None
        self.date = nn.Linear(4, dim) if config.date else None

    def forward(self, rows: int, lonlat: Tensor | None, date: Tensor | None) -> Tensor:
        """Tokens of n observations.

        Args:
            rows: n.
            lonlat: (n, 2) degrees, longitude first; NaN where unknown, None where unknown throughout.
            date: (n, 2) month and day; NaN in either, or None, where unknown.

        Returns:
            (n, dim) float32; what is unknown or withheld adds nothing, so that a row of which nothing is told
            is zero.

        Raises:
            SpecError: for coordinates or dates that are out of range.
        """
        weight = next(self.parameters())
        kept = self._kept(rows, weight.device)
        token = torch.zeros(rows, weight.shape[0], device=weight.device)
        if self.location is not None and lonlat is not None:
            token = token + _told(self.location, location_vector(lonlat), kept)
        if self.date is not None and date is not None:
            token = token + _told(self.date, date_vector(date), kept)
        return token

    def _kept(self, rows: int, device: torch.device) -> Tensor:
        """(n,) bool: which rows are not withheld."""
        if not self.training or self.config.drop == 0.0:
            return torch.ones(rows, dtype=torch.bool, device=device)
        draws = torch.rand(rows if self.config.per == "sample" else 1, device=device)
        return (draws >= self.config.drop).expand(rows)


def _told(linear: nn.Linear, vector: Tensor, kept: Tensor) -> Tensor:
    known = kept & torch.isfinite(vector).all(dim=1)
    token: Tensor = linear(torch.nan_to_num(vector).float())
    return token.float() * known[:, None]  # a weight of 0, so that the bias is withheld, too
