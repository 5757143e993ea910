"""Real spherical harmonics by a float64 recurrence (the features of SatCLIP, Klemmer et al. 2025).

    Y_l0 = P_l0(sin phi),  Y_lm = sqrt 2 P_lm cos(m lam),  Y_l-m = sqrt 2 P_lm sin(m lam)

with fully-normalised associated Legendre functions P_lm, so that sum over m of Y_lm^2 is (2 l + 1) / (4 pi)
everywhere (addition theorem). No Condon-Shortley sign.

What we changed: closed-form expressions, as published, overflow beyond degree 30 or so; the three-term
recurrence in the degree (Holmes and Featherstone 2002, equation 11) keeps 13 digits at degree 40. Detail is
about 180 / L degrees (4.5 at L = 40): alone they are too coarse for a regional map.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from train.encoders.positional import Encoding, whole

LARGEST = 41  # degrees 0 to 40, as far as tested


def legendre(phi: Tensor, degrees: int) -> list[Tensor]:
    """Fully-normalised associated Legendre functions of the sine of the latitude, degree by degree.

    Args:
        phi: (n,) float64 latitudes [rad].
        degrees: Number of degrees L.

    Returns:
        For l = 0 to L - 1 the orders 0 to l, (n, l + 1).
    """
    z, flat = torch.sin(phi)[:, None], torch.cos(phi)[:, None]  # (n, 1)
    rows = [torch.full_like(z, math.sqrt(0.25 / math.pi))]
    for k in range(1, degrees):  # k is the degree, m the order
        previous = rows[-1]
        sectoral = math.sqrt((2 * k + 1) / (2 * k)) * flat * previous[:, -1:]
        beside = math.sqrt(2 * k + 1) * z * previous[:, -1:]
        m = torch.arange(k - 1, dtype=z.dtype, device=z.device)  # orders 0 to k - 2
        a = torch.sqrt((4.0 * k * k - 1.0) / (k * k - m * m))
        b = torch.sqrt(((k - 1.0) ** 2 - m * m) / (4.0 * (k - 1.0) ** 2 - 1.0))
        lower = a * (z * previous[:, :-1] - b * rows[-2]) if k > 1 else previous[:, :0]
        rows.append(torch.cat([lower, beside, sectoral], dim=1))  # (n, k + 1)
    return rows


def spherical_harmonics(lonlat: Tensor, degrees: int) -> Tensor:
    """Real spherical harmonics of degrees l < L.

    Args:
        lonlat: (n, 2) degrees, longitude first; computed in float64 whatever the dtype.
        degrees: Number of degrees L.

    Returns:
        (n, L^2) float64, degree by degree, orders -l to l.
    """
    lam, phi = torch.deg2rad(lonlat.double()).unbind(1)
    turns = lam[:, None] * torch.arange(1, degrees, dtype=torch.float64, device=lam.device)  # (n, L - 1)
    cosines, sines = math.sqrt(2.0) * torch.cos(turns), math.sqrt(2.0) * torch.sin(turns)
    parts: list[Tensor] = []
    for k, row in enumerate(legendre(phi, degrees)):
        west, east = row[:, 1:] * sines[:, :k], row[:, 1:] * cosines[:, :k]
        parts += [west.flip(1), row[:, :1], east]
    return torch.cat(parts, dim=1)


class SphericalHarmonics(Encoding):
    """Real spherical harmonics, L^2 numbers; periodic at the antimeridian, each pole is one point.

    Args:
        degrees: Number of degrees L, at most 41.
    """

    seamless = True
    one_pole = True

    def __init__(self, degrees: float = 10) -> None:
        super().__init__()
        self.degrees = whole("degrees", degrees, 1, LARGEST)
        self.dim = self.degrees**2

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, L^2)."""
        return spherical_harmonics(lonlat, self.degrees).to(lonlat.dtype)
