"""Location encoders: degrees of longitude and latitude in, an embedding out.

Each positional encoding is a small module with `dim` outputs; `LocationEncoder` puts a residual network on
top (SINR, Cole et al. 2023; geo_prior, Mac Aodha et al. 2019). What we changed: every encoding takes degrees
(lon, lat) and converts inside; `wrap` uses sin and cos of the latitude itself, not of the doubled angle, so
the poles differ; the grid encoding is documented as not periodic; `sphere_rff` draws random Fourier features
on the unit sphere, so it has no seam.

| kind | source | antimeridian | poles |
|---|---|---|---|
| wrap | geo_prior FCNet, input layer | periodic | depends on lon, as published |
| grid | Space2Vec (Mai et al. 2020), CSP section 3 | not periodic | depends on lon |
| xyz | unit vector | periodic | independent of lon |
| sphere_c | Sphere2Vec-sphereC (Mai et al. 2023) | periodic at our scales, see class | depends on lon |
| sphere_rff | random Fourier features (Rahimi and Recht 2007) of xyz | periodic | independent of lon |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from train.errors import SpecError
from train.spec import LocationSpec


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
    if len(lonlat) and (float(lonlat[:, 1].abs().max()) > 90.0 or float(lonlat[:, 0].abs().max()) > 360.0):
        lon, lat = (float(v) for v in lonlat.abs().amax(dim=0))
        found = f"latitudes to {lat:g}, longitudes to {lon:g}"
        raise SpecError("cannot encode locations", found, "Give longitude, then latitude, in degrees.")


def unit_vector(lonlat: Tensor) -> Tensor:
    """(n, 2) degrees -> (n, 3) unit vectors, in the input's dtype; seam-free everywhere."""
    lam, phi = torch.deg2rad(lonlat).unbind(1)
    flat = torch.cos(phi)
    return torch.stack([flat * torch.cos(lam), flat * torch.sin(lam), torch.sin(phi)], dim=1)  # (n, 3)


def _scales(smallest: float, largest: float, count: int) -> Tensor:
    """Geometric scales from smallest to largest (Space2Vec equation 4)."""
    steps = torch.arange(count, dtype=torch.float64) / max(count - 1, 1)
    return smallest * (largest / smallest) ** steps


class Wrap(nn.Module):
    """sin and cos of longitude and of latitude: 4 numbers, periodic in longitude."""

    dim = 4

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, 4)."""
        angle = torch.deg2rad(lonlat)
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=1)


class Grid(nn.Module):
    """Space2Vec grid: sin and cos of raw degrees at geometric scales; not periodic at the antimeridian."""

    scales: Tensor

    def __init__(self, r_min: float = 0.1, r_max: float = 360.0, count: float = 16) -> None:
        super().__init__()
        self.register_buffer("scales", _scales(r_min, r_max, int(count)))
        self.dim = 4 * int(count)

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, dim)."""
        phase = (lonlat[:, :, None] / self.scales.to(lonlat.dtype)).flatten(1)  # (n, 2 S)
        return torch.cat([torch.sin(phase), torch.cos(phase)], dim=1)


class XYZ(nn.Module):
    """The unit vector: 3 numbers, no seam, poles well defined."""

    dim = 3

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, 3)."""
        return unit_vector(lonlat)


class SphereC(nn.Module):
    """Sphere2Vec-sphereC: sin phi_s, cos phi_s cos lam_s, cos phi_s sin lam_s; degrees / scale first.

    Only scales 1/k with integer k are periodic at the antimeridian, so the scales are 1, 1/2, ... 1/count. At
    the poles those of odd k are independent of the longitude and those of even k are not, as published.
    """

    scales: Tensor

    def __init__(self, count: float = 8) -> None:
        super().__init__()
        self.register_buffer("scales", 1.0 / torch.arange(1, int(count) + 1, dtype=torch.float64))
        self.dim = 3 * int(count)

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, dim)."""
        angle = torch.deg2rad(lonlat[:, :, None] / self.scales.to(lonlat.dtype))  # (n, 2, S)
        lam, phi = angle[:, 0], angle[:, 1]
        flat = torch.cos(phi)
        return torch.cat([torch.sin(phi), flat * torch.cos(lam), flat * torch.sin(lam)], dim=1)


class SphereRFF(nn.Module):
    """xyz and random Fourier features of it at several standard deviations [radians per unit]."""

    frequencies: Tensor

    def __init__(
        self, smallest: float = 1.0, largest: float = 32.0, scales: float = 6, count: float = 32
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        sigmas = _scales(smallest, largest, int(scales))
        draws = torch.randn(3, int(scales), int(count), generator=generator, dtype=torch.float64)
        self.register_buffer("frequencies", (draws * sigmas[None, :, None]).flatten(1))  # (3, scales * count)
        self.dim = 3 + 2 * int(scales) * int(count)

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, dim)."""
        xyz = unit_vector(lonlat)
        phase = xyz @ self.frequencies.to(xyz.dtype)
        return torch.cat([xyz, torch.sin(phase), torch.cos(phase)], dim=1)


ENCODINGS: dict[str, type[nn.Module]] = {
    "wrap": Wrap,
    "grid": Grid,
    "xyz": XYZ,
    "sphere_c": SphereC,
    "sphere_rff": SphereRFF,
}


class ResidualBlock(nn.Module):
    """x + relu(linear(dropout(relu(linear(x))))), the block of SINR's location network."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) -> (n, width)."""
        hidden = self.dropout(torch.relu(self.inner(x)))
        return x + torch.relu(self.outer(hidden))


class Position(nn.Module):
    """Where a place is, smoothly: low random Fourier features of the unit vector, nothing learnt.

    A learnt location embedding says what a place is like; heads also need to know where it is, at the grain
    of ranges (about 500 to 3000 km). Sine and cosine come in pairs, so the vector has unit length by
    construction.
    """

    frequencies: Tensor

    def __init__(self, dim: int, sigmas: tuple[float, float] = (2.0, 6.0)) -> None:
        super().__init__()
        if dim < 4 or dim % 4:
            raise SpecError(
                "cannot build position features", f"width {dim}", "Give a positive multiple of 4."
            )
        generator = torch.Generator().manual_seed(0)
        draws = torch.randn(2, 3, dim // 4, generator=generator, dtype=torch.float64)
        scaled = draws * torch.tensor(sigmas, dtype=torch.float64)[:, None, None]
        self.register_buffer("frequencies", scaled.transpose(0, 1).flatten(1))  # (3, dim / 2)

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, dim) float32 of unit length."""
        check_lonlat(lonlat)
        phase = unit_vector(lonlat.to(torch.float64)) @ self.frequencies
        pairs = torch.cat([torch.sin(phase), torch.cos(phase)], dim=1)
        return (pairs / math.sqrt(phase.shape[1])).float()


class LocationEncoder(nn.Module):
    """Encoding, residual network, projection, unit length.

    Args:
        spec: Kind, options and widths.
        dropout: Dropout in the residual blocks while training.

    Raises:
        SpecError: for an unknown kind or option.
    """

    def __init__(self, spec: LocationSpec, dropout: float = 0.1) -> None:
        super().__init__()
        if spec.kind not in ENCODINGS:
            known = ", ".join(sorted(ENCODINGS))
            raise SpecError("cannot build a location encoder", f"kind {spec.kind!r}", f"Use one of: {known}.")
        try:
            self.encoding = ENCODINGS[spec.kind](**dict(spec.options))
        except TypeError as error:
            raise SpecError(
                "cannot build a location encoder", str(error), "Drop the unknown option."
            ) from error
        self.enter = nn.Linear(int(self.encoding.dim), spec.hidden)  # type: ignore[arg-type]
        self.blocks = nn.Sequential(*(ResidualBlock(spec.hidden, dropout) for _ in range(spec.blocks)))
        self.leave = nn.Linear(spec.hidden, spec.dim)

    def features(self, lonlat: Tensor) -> Tensor:
        """(n, 2) float64 degrees -> (n, hidden) float32, before projection."""
        check_lonlat(lonlat)
        encoded = self.encoding(lonlat.double()).float()  # double: 1e-7 deg matters at high frequency
        hidden: Tensor = self.blocks(torch.relu(self.enter(encoded)))
        return hidden

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, dim) float32 of unit length."""
        unit: Tensor = nn.functional.normalize(self.leave(self.features(lonlat)), dim=1)
        return unit


def sample_sphere(count: int, generator: torch.Generator) -> Tensor:
    """Points uniform on the sphere, (count, 2) degrees: lon ~ U(-180, 180), lat = asin(U(-1, 1))."""
    u = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    lat = torch.asin(2.0 * u[:, 1] - 1.0) * (180.0 / math.pi)
    return torch.stack([360.0 * u[:, 0] - 180.0, lat], dim=1)
