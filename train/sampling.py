"""Random places, uniform by area: on the whole sphere, in a box, or where a mask allows.

On a sphere the sine of the latitude is uniform, not the latitude. Of the public samplers of CSP one draws
from the north-east quadrant only, and one puts 33 % of the places beyond 60 degrees, where 13.4 % of the
sphere lies.

All functions give (count, 2) float64 degrees, longitude -180..180 first, on the CPU, from `generator` or
else torch's global one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from train.errors import SpecError

Keep = Callable[[Tensor], Tensor]
"""(n, 2) float64 degrees -> (n,) bool, True where a place may be drawn."""


@dataclass(frozen=True)
class Box:
    """Degrees west, south, east, north; west > east reaches across the antimeridian.

    Raises:
        SpecError: unless -180 <= west, east <= 180, west != east and -90 <= south < north <= 90.
    """

    west: float = -180.0
    south: float = -90.0
    east: float = 180.0
    north: float = 90.0

    def __post_init__(self) -> None:
        longitudes = -180.0 <= self.west <= 180.0 and -180.0 <= self.east <= 180.0 and self.west != self.east
        if not (longitudes and -90.0 <= self.south < self.north <= 90.0):
            found = f"west {self.west}, south {self.south}, east {self.east}, north {self.north}"
            change = "Give degrees as west, south, east, north; west > east crosses the antimeridian."
            raise SpecError("cannot draw places in a box", found, change)

    @property
    def width(self) -> float:
        """Degrees of longitude from west to east, 0 to 360."""
        return self.east - self.west if self.east > self.west else self.east - self.west + 360.0


WORLD = Box()


def sample_sphere(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Places uniform on the sphere: lon ~ U(-180, 180), lat = asin(U(-1, 1))."""
    return sample_box(count, WORLD, generator)


def sample_box(count: int, box: Box, generator: torch.Generator | None = None) -> Tensor:
    """Places uniform by area in a box: lat = asin(U(sin south, sin north))."""
    u = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    low, high = math.sin(math.radians(box.south)), math.sin(math.radians(box.north))
    lat = torch.rad2deg(torch.asin((low + (high - low) * u[:, 1]).clamp(-1.0, 1.0)))
    lon = box.west + box.width * u[:, 0]
    lon = torch.where(lon > 180.0, lon - 360.0, lon)
    return torch.stack([lon, lat.clamp(box.south, box.north)], dim=1)  # the clamp: rounding by asin of sin


def sample_where(
    count: int, keep: Keep, box: Box = WORLD, generator: torch.Generator | None = None, draws: int = 1000
) -> Tensor:
    """Places uniform by area in the part of a box that a mask keeps, such as the land of a study area.

    Args:
        count: Places wanted.
        keep: The mask; it is asked about many places at once and must not change them.
        box: Where to draw. The tighter it is around what is kept, the faster.
        generator: Source of randomness.
        draws: Largest number of places drawn for each one wanted (a few thousand more are always allowed).

    Returns:
        (count, 2) float64 degrees.

    Raises:
        SpecError: when the mask gives something else than (n,) bool, or keeps too few of the places drawn.
    """
    kept: list[Tensor] = []
    drawn, found, most = 0, 0, count * draws + 4096
    while found < count:
        if drawn >= most:
            said = f"the mask kept {found} of {drawn} places, {count} are wanted"
            raise SpecError("cannot draw random places", said, "Give a tighter box, or check the mask.")
        rate = max(found, 1) / max(drawn, 1)
        size = min(max(64, math.ceil(1.2 * (count - found) / rate)), most - drawn, 1 << 20)
        places = sample_box(size, box, generator)
        mask = torch.as_tensor(keep(places.clone()))
        if mask.dtype != torch.bool or mask.shape != (size,):
            said = f"{tuple(mask.shape)} {mask.dtype} for {size} places"
            raise SpecError("cannot draw random places", said, "Let the mask give one bool for each place.")
        kept.append(places[mask])
        drawn, found = drawn + size, found + int(mask.sum())
    return torch.cat(kept)[:count] if kept else torch.empty(0, 2, dtype=torch.float64)
