"""Where a map is cut: thresholds by their names or as values, and the first step that reaches one."""

from __future__ import annotations

import math

from geomap.cog import SCALE
from tiles.describe import known
from tiles.errors import QueryError
from tiles.maps import About, Band

WHAT = "cannot cut the map"


def first_step(value: float, band: Band) -> int:
    """The first step (see tiles.maps) at or above a value of a band; 0 for its low end."""
    share = (value - band.low) / (band.high - band.low)
    return max(0, math.ceil(share * SCALE - 1e-6))


def value_of(about: About, band: int, threshold: str) -> float:
    """The value of a threshold.

    Args:
        about: The map.
        band: Number of the layer. Thresholds with names are of the species' own scores, the first one.
        threshold: Name of one of the map's thresholds, or a value in the units of the layer.

    Raises:
        QueryError: The layer has no such threshold, or no such value.
    """
    layer = about.bands[band]
    span = f"a value from {layer.low:g} to {layer.high:g}"
    if threshold[0].isalpha():
        names = [key for key in about.thresholds if known(about, key)] if band == 0 else []
        if threshold not in names:
            change = f"Give {', '.join(names)} or {span}." if names else f"Give {span}."
            raise QueryError(WHAT, f"no threshold {threshold[:60]!r} of the layer {layer.name}", change)
        return about.thresholds[threshold].value
    value = float(threshold)
    if not layer.low <= value <= layer.high:
        raise QueryError(WHAT, f"threshold {threshold[:60]}", f"Give {span}.")
    return value


def cut_of(about: About, band: int, threshold: str | None) -> int:
    """The first step that is not below a threshold; 0 where none is given.

    Raises:
        QueryError: As of `value_of`.
    """
    if threshold is None:
        return 0
    return first_step(value_of(about, band, threshold), about.bands[band])
