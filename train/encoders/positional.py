"""Positional encodings: degrees of longitude and latitude in, fixed numbers out. Nothing here is learnt.

Every encoding eats float64 degrees WGS 84, longitude first, and converts inside; it says how it behaves at
the antimeridian (`seamless`) and at the poles (`one_pole`: there the longitude means nothing):

| kind | source | width | antimeridian | poles |
|---|---|---|---|---|
| wrap | geo_prior and SINR, input layer | 4 | periodic | depend on lon; differ unless `doubled` |
| grid | Space2Vec grid (Mai et al. 2020), CSP section 3 | 4 S | not periodic | depend on lon |
| theory | Space2Vec theory | 6 S | not periodic | depend on lon |
| xyz | unit vector | 3 | periodic | independent of lon |
| sphere_c | Sphere2Vec-sphereC (Mai et al. 2023) | 3 S | periodic at our scales | depend on lon |
| sphere_m | Sphere2Vec-sphereM | 5 S | periodic at our scales | depend on lon |
| sphere_c_plus | Sphere2Vec-sphereC+ | 6 S | periodic at our scales | depend on lon |
| sphere_m_plus | Sphere2Vec-sphereM+ | 8 S | periodic at our scales | depend on lon |
| sphere_rff | random Fourier features of xyz (Rahimi and Recht 2007) | 3 + 2 S K | periodic | independent |
| sh | real spherical harmonics (train.encoders.harmonics) | L^2 | periodic | independent of lon |
| geoclip | equal-earth features (train.encoders.geoclip) | 2 S K | not periodic | depend on lon |

What we changed: `wrap` takes sin and cos of the latitude itself, so the poles differ (`doubled` gives the
published doubled angle, where they coincide); the Sphere2Vec family defaults to scales 1, 1/2, ... 1/S, the
only ones without a seam (`r_min` and `r_max` give the published geometric ones, which have one).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from train.errors import SpecError


class Encoding(nn.Module):
    """(n, 2) degrees of longitude and latitude -> (n, dim) in the input's dtype; pure and without weights."""

    unit = "degrees WGS 84, longitude first"
    """What every encoding eats."""
    dim: int
    """Numbers that come out."""
    groups: int = 1
    """Equal parts of the output that a network may treat apart (GeoCLIP's hierarchies)."""
    seamless: bool = False
    """Whether -180 and 180 give the same numbers."""
    one_pole: bool = False
    """Whether each pole gives the same numbers at every longitude."""


def check_lonlat(lonlat: Tensor) -> None:
    """Refuses points that are not finite (n, 2) degrees of longitude and latitude.

    Raises:
        SpecError: for another shape, a non-finite value, |latitude| > 90 or |longitude| > 360.
    """
    if lonlat.ndim != 2 or lonlat.shape[1] != 2:
        raise SpecError(
            "cannot encode locations", f"shape {tuple(lonlat.shape)}", "Give (n, 2) longitude, latitude."
        )
    if not bool(torch.isfinite(lonlat).all()):
        raise SpecError(
            "cannot encode locations", "a coordinate that is not finite", "Remove missing coordinates."
        )
    lon, lat = lonlat.detach().abs().amax(dim=0).tolist() if len(lonlat) else (0.0, 0.0)
    if lat > 90.0 or lon > 360.0:
        found = f"latitudes to {lat:g}, longitudes to {lon:g}"
        raise SpecError("cannot encode locations", found, "Give longitude, then latitude, in degrees.")


def whole(name: str, value: float, least: int = 1, most: float = math.inf) -> int:
    """An option that counts something.

    Raises:
        SpecError: when it is not a whole number from `least` to `most`.
    """
    if not (least <= value <= most and math.isfinite(value) and value == int(value)):
        upper = "" if most == math.inf else f" and <= {most:g}"
        found = f"{name} = {value!r}"
        raise SpecError("cannot build an encoding", found, f"Give a whole number >= {least}{upper}.")
    return int(value)


def unit_vector(lonlat: Tensor) -> Tensor:
    """(n, 2) degrees -> (n, 3) unit vectors, in the input's dtype; seam-free everywhere."""
    lam, phi = torch.deg2rad(lonlat).unbind(1)
    flat = torch.cos(phi)
    return torch.stack([flat * torch.cos(lam), flat * torch.sin(lam), torch.sin(phi)], dim=1)  # (n, 3)


def geometric_scales(smallest: float, largest: float, count: int) -> Tensor:
    """(count,) float64, geometric from smallest to largest (Space2Vec equation 4).

    Raises:
        SpecError: unless 0 < smallest <= largest.
    """
    if not 0.0 < smallest <= largest < math.inf:
        found = f"scales from {smallest} to {largest}"
        raise SpecError("cannot build an encoding", found, "Give 0 < smallest <= largest.")
    steps = torch.arange(count, dtype=torch.float64) / max(count - 1, 1)
    return smallest * (largest / smallest) ** steps


class Wrap(Encoding):
    """sin and cos of longitude and of latitude: 4 numbers, periodic in longitude.

    Args:
        doubled: 1 takes twice the latitude, as published (geo_prior, SINR): both poles get one code.
    """

    dim = 4
    seamless = True

    def __init__(self, doubled: float = 0.0) -> None:
        super().__init__()
        self.times = 1.0 + whole("doubled", doubled, 0, 1)

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, 4): sin lon, sin lat, cos lon, cos lat."""
        angle = torch.deg2rad(lonlat)
        angle = torch.stack([angle[:, 0], angle[:, 1] * self.times], dim=1)
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)


class Grid(Encoding):
    """Space2Vec grid: sin and cos of raw degrees at geometric scales; not periodic at the antimeridian.

    The phase is degrees / scale, without radians or 2 pi: the shortest wave is 2 pi r_min degrees long.

    Args:
        r_min: Smallest scale [degrees]. A map with cells finer than its wave holds no detail of its own.
        r_max: Largest scale [degrees].
        count: Number of scales.
    """

    scales: Tensor

    def __init__(self, r_min: float = 0.1, r_max: float = 360.0, count: float = 16) -> None:
        super().__init__()
        self.register_buffer("scales", geometric_scales(r_min, r_max, whole("count", count)))
        self.dim = 4 * len(self.scales)

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, dim)."""
        phase = (lonlat[:, :, None] / self.scales.to(lonlat.dtype)).flatten(1)  # (n, 2 S)
        return torch.cat([torch.sin(phase), torch.cos(phase)], dim=1)


class Theory(Encoding):
    """Space2Vec theory: sin and cos along three directions 120 degrees apart; not periodic, as the grid.

    Args:
        r_min: Smallest scale [degrees].
        r_max: Largest scale [degrees].
        count: Number of scales.
    """

    scales: Tensor
    directions: Tensor

    def __init__(self, r_min: float = 0.1, r_max: float = 360.0, count: float = 16) -> None:
        super().__init__()
        self.register_buffer("scales", geometric_scales(r_min, r_max, whole("count", count)))
        turns = torch.arange(3, dtype=torch.float64) * (2.0 * math.pi / 3.0)
        self.register_buffer("directions", torch.stack([torch.cos(turns), torch.sin(turns)]))  # (2, 3)
        self.dim = 6 * len(self.scales)

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, dim)."""
        along = lonlat @ self.directions.to(lonlat.dtype)  # (n, 3) degrees
        phase = (along[:, :, None] / self.scales.to(lonlat.dtype)).flatten(1)  # (n, 3 S)
        return torch.cat([torch.sin(phase), torch.cos(phase)], dim=1)


class XYZ(Encoding):
    """The unit vector: 3 numbers, no seam, poles well defined."""

    dim = 3
    seamless = True
    one_pole = True

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, 3)."""
        return unit_vector(lonlat)


class SphereRFF(Encoding):
    """xyz and random Fourier features of it at several standard deviations [radians per unit].

    Args:
        smallest: Smallest standard deviation.
        largest: Largest standard deviation.
        scales: Number of standard deviations, geometric between them.
        count: Random directions of each. They are drawn with a fixed seed.
    """

    seamless = True
    one_pole = True
    frequencies: Tensor

    def __init__(
        self, smallest: float = 1.0, largest: float = 32.0, scales: float = 6, count: float = 32
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        sigmas = geometric_scales(smallest, largest, whole("scales", scales))
        draws = torch.randn(
            3, len(sigmas), whole("count", count), generator=generator, dtype=torch.float64, device="cpu"
        )
        self.register_buffer("frequencies", (draws * sigmas[None, :, None]).flatten(1))  # (3, scales * count)
        self.dim = 3 + 2 * self.frequencies.shape[1]

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, dim)."""
        xyz = unit_vector(lonlat)
        phase = xyz @ self.frequencies.to(xyz.dtype)
        return torch.cat([xyz, torch.sin(phase), torch.cos(phase)], dim=1)
