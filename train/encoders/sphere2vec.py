"""Sphere2Vec (Mai et al. 2023): products of sines and cosines of scaled longitude and latitude.

lam and phi are longitude and latitude, lam_s and phi_s the same divided by scale s *in degrees, before* the
conversion to radians (a public copy leaves that conversion out: its features are noise). Output is feature by
feature, each at all S scales.

What we changed: scales default to 1, 1/2, ... 1/S, since only scales 1/k with whole k are periodic at the
antimeridian. `r_min` > 0 gives the published geometric scales from `r_min` to `r_max`, with their seam.
"""

from __future__ import annotations

import torch
from torch import Tensor

from train.encoders.positional import Encoding, geometric_scales, whole


class _Sphere(Encoding):
    """Scales and angles that the four share.

    Args:
        count: Number of scales S.
        r_min: Smallest scale (a divisor of degrees, no unit); 0: scales 1, 1/2, ... 1/S.
        r_max: Largest scale, used with `r_min`.
    """

    scales: Tensor
    features: int

    def __init__(self, count: float = 8, r_min: float = 0.0, r_max: float = 1.0) -> None:
        super().__init__()
        number = whole("count", count)
        harmonic = 1.0 / torch.arange(1, number + 1, dtype=torch.float64)
        self.register_buffer("scales", geometric_scales(r_min, r_max, number) if r_min else harmonic)
        self.dim = self.features * number
        inverse = 1.0 / self.scales
        self.seamless = bool(torch.allclose(inverse, inverse.round(), rtol=0.0, atol=1e-9))

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, dim)."""
        angle = torch.deg2rad(lonlat[:, :, None])  # (n, 2, 1)
        scaled = torch.deg2rad(lonlat[:, :, None] / self.scales.to(lonlat.dtype))  # (n, 2, S)
        return torch.cat(self.products(angle[:, 0], angle[:, 1], scaled[:, 0], scaled[:, 1]), dim=1)

    def products(self, lam: Tensor, phi: Tensor, lam_s: Tensor, phi_s: Tensor) -> list[Tensor]:
        """(n, 1) angles and (n, S) scaled angles [rad] -> `features` tensors of (n, S)."""
        raise NotImplementedError


class SphereC(_Sphere):
    """Sphere2Vec-sphereC: sin phi_s, cos phi_s cos lam_s, cos phi_s sin lam_s.

    At the poles scales 1/k of odd k are independent of the longitude and those of even k are not, as
    published.
    """

    features = 3

    def products(self, lam: Tensor, phi: Tensor, lam_s: Tensor, phi_s: Tensor) -> list[Tensor]:
        """(n, S) each."""
        flat = torch.cos(phi_s)
        return [torch.sin(phi_s), flat * torch.cos(lam_s), flat * torch.sin(lam_s)]


class SphereM(_Sphere):
    """Sphere2Vec-sphereM: one of the two angles scaled at a time, beside sin phi_s; poles as sphereC."""

    features = 5

    def products(self, lam: Tensor, phi: Tensor, lam_s: Tensor, phi_s: Tensor) -> list[Tensor]:
        """(n, S) each."""
        flat, flat_s = torch.cos(phi), torch.cos(phi_s)
        return [
            torch.sin(phi_s),
            flat_s * torch.cos(lam),
            flat * torch.cos(lam_s),
            flat_s * torch.sin(lam),
            flat * torch.sin(lam_s),
        ]


class SphereCPlus(_Sphere):
    """Sphere2Vec-sphereC+: the grid's sines and cosines beside sphereC; poles depend on the longitude."""

    features = 6

    def products(self, lam: Tensor, phi: Tensor, lam_s: Tensor, phi_s: Tensor) -> list[Tensor]:
        """(n, S) each."""
        sin_phi, flat, sin_lam, cos_lam = (
            torch.sin(phi_s),
            torch.cos(phi_s),
            torch.sin(lam_s),
            torch.cos(lam_s),
        )
        return [sin_phi, flat, sin_lam, cos_lam, flat * cos_lam, flat * sin_lam]


class SphereMPlus(SphereM):
    """Sphere2Vec-sphereM+: sphereM, cos phi_s, sin lam_s and cos lam_s; poles depend on the longitude."""

    features = 8

    def products(self, lam: Tensor, phi: Tensor, lam_s: Tensor, phi_s: Tensor) -> list[Tensor]:
        """(n, S) each."""
        single = [torch.cos(phi_s), torch.sin(lam_s), torch.cos(lam_s)]
        return super().products(lam, phi, lam_s, phi_s) + single
