"""When and where the species of a landscape can be met: the months of their seasons, and their ranges.

A range is a Gaussian around a home, and moves north towards July and south towards January where species
migrate. A niche says where a species could live; the range says which of these places it has ever reached, so
that land which looks right far from home has none of it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from train.world import World

Floats = NDArray[np.float64]
SHARPNESS = 3.0  # of a season: concentration of a von Mises distribution over the year


class Ranges:
    """Seasons and ranges of all species.

    Args:
        world: What the landscape is like.
        homes: (species, 2) degrees, the middle of each range; read only where the world has ranges.
        rng: Source of the seasons.
    """

    def __init__(self, world: World, homes: Floats, rng: np.random.Generator) -> None:
        self.world, self.homes = world, homes
        self._flat = math.cos(math.radians((world.south + world.north) / 2))
        peak = rng.uniform(0, 12, world.species)
        sharp = np.where(rng.random(world.species) < world.seasonal, SHARPNESS, 0.0)
        angle = 2 * math.pi * (np.arange(12) - peak[:, None]) / 12
        p = np.exp(sharp[:, None] * np.cos(angle))
        self.season: Floats = p / p.sum(axis=1, keepdims=True)  # (species, 12) share of a year

    def log_presence(self, lonlat: Floats, month: int | None) -> Floats:
        """How much of each species is there, where the land suits it alike.

        Args:
            lonlat: (n, 2) degrees.
            month: 1..12, or None for the whole year.

        Returns:
            (n, species) natural logarithms; (species,) where no species has a range.
        """
        season = np.log(self.season)
        if self.world.range_spread == 0:
            return np.zeros(len(season)) if month is None else np.asarray(season[:, month - 1])
        if month is not None:
            return np.asarray(season[:, month - 1] - self._away(lonlat, month))
        each = [season[:, m - 1] - self._away(lonlat, m) for m in range(1, 13)]
        return np.asarray(logsumexp(each, axis=0))

    def months(self, lonlat: Floats, label: NDArray[np.int64]) -> Floats:
        """(n, 12) share of each month in the observations of species `label` (n,) at places (n, 2)."""
        p = self.season[label]
        if self.world.migration == 0:
            return np.asarray(p)
        row = np.arange(len(label))
        away = np.stack([self._away(lonlat, month)[row, label] for month in range(1, 13)], axis=1)
        p = p * np.exp(away.min(axis=1, keepdims=True) - away)
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    def _away(self, lonlat: Floats, month: int) -> Floats:
        """Half the squared distance from the middle of each range in its spreads, (n, species)."""
        north = -self.world.migration / 2 * math.cos(2 * math.pi * (month - 1) / 12)
        away = (lonlat[:, None] - self.homes - [0.0, north]) * [self._flat, 1.0]
        return np.asarray((away**2).sum(axis=2) / (2 * self.world.range_spread**2))
