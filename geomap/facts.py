"""What a map holds, in numbers: cells and true area by value, from which all areas and statistics follow.

Values have four decimals (see geomap.cog), so a histogram of 10001 steps loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geomap.cog import SCALE


@dataclass(frozen=True, eq=False)
class MapFacts:
    """What a map holds.

    Attributes:
        cells_by_step: (10001,) int64, number of cells with value k/10000.
        area_by_step: (10001,) float64, true area of these cells [km²].
    """

    cells_by_step: NDArray[np.int64]
    area_by_step: NDArray[np.float64]

    @property
    def cells(self) -> int:
        """Number of cells with data."""
        return int(self.cells_by_step.sum())

    @property
    def area_km2(self) -> float:
        """True area of all cells with data [km²]."""
        return float(self.area_by_step.sum())

    def area_above(self, threshold: float) -> float:
        """True area [km²] of the cells whose value in the file reaches a threshold; NaN for NaN."""
        if math.isnan(threshold):
            return math.nan
        return float(self.area_by_step[max(0, math.ceil(threshold * SCALE - 1e-6)) :].sum())

    def quantile(self, share: float) -> float:
        """Lowest value at or below which a share (0..1) of the area lies; NaN for an empty map."""
        running = np.cumsum(self.area_by_step)
        if running[-1] == 0:
            return math.nan
        return float(np.searchsorted(running, share * running[-1])) / SCALE

    def statistics(self) -> dict[str, float]:
        """Minimum, maximum, mean and standard deviation over cells; NaN for an empty map."""
        present = np.flatnonzero(self.cells_by_step)
        if present.size == 0:
            return dict.fromkeys(("minimum", "maximum", "mean", "stddev"), math.nan)
        values = np.arange(SCALE + 1) / SCALE
        mean = float(np.average(values, weights=self.cells_by_step))
        deviation = math.sqrt(float(np.average((values - mean) ** 2, weights=self.cells_by_step)))
        low, high = float(present[0]) / SCALE, float(present[-1]) / SCALE
        return {"minimum": low, "maximum": high, "mean": round(mean, 6), "stddev": round(deviation, 6)}


def tally(parts: Iterable[tuple[NDArray[np.uint16], NDArray[np.float64]]]) -> MapFacts:
    """Facts of a map from the steps of its valid cells.

    Args:
        parts: (n,) uint16 steps 0..10000 and (n,) float64 areas [km²] of these cells, piece by piece.
    """
    cells, areas = np.zeros(SCALE + 1, np.int64), np.zeros(SCALE + 1)
    for steps, area in parts:
        cells += np.bincount(steps, minlength=SCALE + 1)
        areas += np.bincount(steps, weights=area, minlength=SCALE + 1)
    return MapFacts(cells, areas)
