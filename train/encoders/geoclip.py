"""GeoCLIP's location features (Vivanco Cepeda et al. 2023): Fourier features of the equal-earth projection.

Places are projected (equal earth, Savric et al. 2018), multiplied by 66.50336 / 180, and random Fourier
features are taken of the result at three standard deviations, 1, 16 and 256. The paper's network (`capsules`
of train.encoders.networks) treats the three apart and sums what comes out.

What we changed: longitude comes first, in degrees, as everywhere here (the published module takes latitude
first); random directions come from a fixed seed. As published there is a seam at the antimeridian, and a pole
is a line.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from train.encoders.positional import Encoding, geometric_scales, whole

A1, A2, A3, A4 = 1.340264, -0.081106, 0.000893, 0.003796  # Savric et al. 2018, table 1
SCALE = 66.50336 / 180.0


def equal_earth(lonlat: Tensor) -> Tensor:
    """(n, 2) degrees -> (n, 2) x and y of the equal-earth projection of a unit sphere."""
    lam, phi = torch.deg2rad(lonlat).unbind(1)
    theta = torch.asin(math.sqrt(3.0) / 2.0 * torch.sin(phi))
    slope = 9.0 * A4 * theta**8 + 7.0 * A3 * theta**6 + 3.0 * A2 * theta**2 + A1
    x = 2.0 * math.sqrt(3.0) * lam * torch.cos(theta) / (3.0 * slope)
    y = A4 * theta**9 + A3 * theta**7 + A2 * theta**3 + A1 * theta
    return torch.stack([x, y], dim=1)


class GeoClip(Encoding):
    """cos and sin of random directions in the equal-earth plane; not periodic at the antimeridian.

    Args:
        smallest: Smallest standard deviation of the directions [cycles per projected unit].
        largest: Largest.
        scales: Number of hierarchies, geometric between them.
        count: Directions of each hierarchy.
    """

    frequencies: Tensor

    def __init__(
        self, smallest: float = 1.0, largest: float = 256.0, scales: float = 3, count: float = 256
    ) -> None:
        super().__init__()
        sigmas = geometric_scales(smallest, largest, whole("scales", scales))
        self.groups = len(sigmas)
        generator = torch.Generator().manual_seed(0)
        size = (self.groups, 2, whole("count", count))
        draws = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu")
        self.register_buffer("frequencies", draws * sigmas[:, None, None])  # (scales, 2, count)
        self.dim = 2 * self.groups * size[2]

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, dim), hierarchy by hierarchy."""
        plane = equal_earth(lonlat) * SCALE
        phase = 2.0 * math.pi * torch.einsum("nc,sck->nsk", plane, self.frequencies.to(plane.dtype))
        return torch.cat([torch.cos(phase), torch.sin(phase)], dim=2).flatten(1)  # (n, scales * 2 count)
