"""Colours of maps: one ramp for every species, fixed from 0 to 1, the same in previews, legends and tiles.

A ramp here runs from light (0) to dark (1) with lightness falling all the way, so that it reads in grey print
and with any kind of colour blindness, and it is never blue, which readers of maps take for water. They are
ramps of ColorBrewer under the names that matplotlib, QGIS and TiTiler share.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

DEFAULT = "ylorbr"
# Ours: matplotlib's.
RAMPS = {DEFAULT: "YlOrBr", "ylorrd": "YlOrRd", "orrd": "OrRd", "greys": "Greys"}
STEPS = 250  # a value v is drawn with palette entry round(250 v): steps of 0.004, the rest is left for nodata
CLEAR = 255  # palette entry of nodata, wholly transparent


@cache
def palette(name: str = DEFAULT) -> NDArray[np.uint8]:
    """RGBA palette of a ramp.

    Args:
        name: One of `RAMPS`.

    Returns:
        (256, 4) uint8. Entries 0..250 are the values 0..1, opaque; the others are transparent.

    Raises:
        ValueError: If the ramp is not one of `RAMPS`.
    """
    if name not in RAMPS:
        raise ValueError(f"no colour ramp {name!r}; there are {', '.join(RAMPS)}")
    from matplotlib import colormaps  # slow to load, and only pictures need it

    entries = np.zeros((256, 4), dtype=np.uint8)
    entries[: STEPS + 1] = colormaps[RAMPS[name]](np.linspace(0, 1, STEPS + 1), bytes=True)
    return entries


def levels(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Palette entries of a map.

    Args:
        values: (..., y, x) float32 in 0..1; whatever stands in invalid cells is ignored.
        valid: (..., y, x) bool, False where there is no data.

    Returns:
        (..., y, x) uint8, `CLEAR` where not valid.
    """
    steps = np.rint(np.where(valid, values, 0) * STEPS)
    return np.where(valid, steps, CLEAR).astype(np.uint8)


def legend(name: str = DEFAULT, stops: int = 5) -> list[tuple[float, str]]:
    """Evenly spaced values with their colours as `#rrggbb`, from the palette that draws the map itself."""
    entries = palette(name)
    places = np.rint(np.linspace(0, STEPS, stops)).astype(int)
    return [(place / STEPS, "#{:02x}{:02x}{:02x}".format(*entries[place, :3])) for place in places.tolist()]
