"""A map as a figure: the ramp of geomap.colour fixed from 0 to 1, colour bar, coast, scale bar, title."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geomap.colour import DEFAULT, STEPS, levels, palette
from geomap.errors import MapError
from geomap.land import california, land_shapes
from geomap.preview import NOTHING
from geomap.projection import WGS84, project, world_width

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

LONGEST = 2_000  # cells of the longer side that are drawn; a larger map is thinned
COAST = "#4a5560"
TINTS = ((0.0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1.0, "1"))


def plot(
    map: xarray.DataArray, ax: Axes | None = None, ramp: str = DEFAULT, title: str | None = None
) -> Axes:
    """Draw a map of `geomap.render`, or a part of one.

    Colours mean the same in every figure: the ramp runs from 0 to 1 whatever the map holds. Cells without
    data are grey. The scale bar is true at the middle of the map.

    Args:
        map: (y, x) with values in 0..1 or NaN, and a CRS.
        ax: Where to draw; a new figure if None.
        ramp: One of `geomap.colour.RAMPS`.
        title: Above the map; `long_name` if None, nothing if "".

    Returns:
        The axes, in the units of the CRS.

    Raises:
        MapError: No map with a CRS on evenly spaced cells, or values out of 0..1.
        ValueError: There is no such ramp.
    """
    import matplotlib.pyplot as plt
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap

    west, south, east, north = _require(map)
    crs = str(map.rio.crs)
    step = math.ceil(max(map.shape) / LONGEST)
    values = np.asarray(map[step // 2 :: step, step // 2 :: step].values, np.float32)
    valid = np.isfinite(values)
    if not ((values[valid] >= 0) & (values[valid] <= 1)).all():
        raise MapError("cannot draw the map", "values out of 0..1", "give a map of geomap.render")
    if ax is None:
        ax = plt.subplots(figsize=(7, 6), layout="constrained")[1]
    red, green, blue = (tint / 255 for tint in NOTHING)
    ax.set_facecolor((red, green, blue))
    colours = palette(ramp)
    ax.imshow(colours[levels(values, valid)], extent=(west, east, south, north), interpolation="nearest")
    _draw_coast(ax, crs, (west, south, east, north))
    _draw_scale(ax, crs, (west, south, east, north))
    bar = ax.figure.colorbar(
        ScalarMappable(cmap=ListedColormap(colours[: STEPS + 1] / 255)),
        ax=ax,
        ticks=[at for at, _ in TINTS],
        shrink=0.8 * min(1.0, (north - south) / (east - west)),
    )
    bar.ax.set_yticklabels([text for _, text in TINTS])
    bar.set_label(f"{map.attrs.get('meaning', 'value')} (0 to 1, no unit)")
    ax.set_title(str(map.attrs.get("long_name", "")) if title is None else title)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def _require(map: Any) -> tuple[float, float, float, float]:
    """West, south, east, north of a map's outer edges in its CRS; a refusal where it has none."""
    what, change = "cannot draw the map", "give a map of geomap.render"
    if getattr(map, "dims", None) != ("y", "x"):
        raise MapError(what, f"a {type(map).__name__} that is not (y, x)", change)
    import rioxarray  # noqa: F401  # gives DataArray its .rio

    if map.rio.crs is None:
        raise MapError(what, "no CRS", change)
    if min(map.shape) < 2 or map.y[0] < map.y[1] or map.x[0] > map.x[1]:
        raise MapError(what, f"{map.shape[0]} x {map.shape[1]} cells, or not north up", change)
    west, south, east, north = map.rio.bounds()
    return float(west), float(south), float(east), float(north)


def _draw_coast(ax: Axes, crs: str, bounds: tuple[float, float, float, float]) -> None:
    """Coasts within the bounds, as lines; nothing where a line would jump across the map."""
    from matplotlib.collections import LineCollection

    west, south, east, north = bounds
    lines = []
    for ring in shapely.get_rings(np.concatenate([np.array(land_shapes()), [california()]])):
        xy = project(shapely.get_coordinates(ring), WGS84, crs)
        inside = (xy >= (west, south)) & (xy <= (east, north))
        if inside.all(axis=1).any():
            lines += _pieces(xy, (east - west) / 2)
    ax.add_collection(LineCollection(lines, colors=COAST, linewidths=0.6), autolim=False)
    ax.set_xlim(west, east)
    ax.set_ylim(south, north)


def _pieces(xy: NDArray[np.float64], far: float) -> list[NDArray[np.float64]]:
    """A line (n, 2) cut where it leaves the earth's image or jumps further than `far` in x."""
    gap = np.isnan(xy[:, 0])  # project gives NaN in both or in neither
    jump = np.abs(np.diff(xy[:, 0])) > far
    cuts = np.flatnonzero(gap[1:] | gap[:-1] | jump) + 1
    return [part for part in np.split(xy, cuts) if len(part) > 1 and np.isfinite(part).all()]


def _draw_scale(ax: Axes, crs: str, bounds: tuple[float, float, float, float]) -> None:
    """A bar of a round length, at most a quarter of the width, at the lower left."""
    west, south, east, north = bounds
    per_km, latitude = units_per_km(crs, bounds)
    if not math.isfinite(per_km):
        return  # the middle of the map is no place on earth: no length is true there
    length = round_length((east - west) / per_km / 4)
    left, low = west + 0.04 * (east - west), south + 0.05 * (north - south)
    right = left + length * per_km
    ax.plot([left, right], [low, low], color="black", linewidth=2.5, solid_capstyle="butt")
    where = f" at {abs(latitude):.0f}° {'N' if latitude >= 0 else 'S'}" if world_width(crs) else ""
    ax.text(
        (left + right) / 2, low + 0.01 * (north - south), f"{length:g} km{where}", ha="center", va="bottom"
    )


def units_per_km(crs: str, bounds: tuple[float, float, float, float]) -> tuple[float, float]:
    """Units of the CRS along x in a kilometre on the ellipsoid at the middle of bounds, and its latitude."""
    import pyproj

    west, south, east, north = bounds
    x, y, reach = (west + east) / 2, (south + north) / 2, (east - west) / 100
    ends = project(np.array([[x - reach, y], [x + reach, y]]), crs, WGS84)
    metres = pyproj.Geod(ellps="WGS84").inv(*ends[0], *ends[1])[2]
    return (2 * reach / (metres / 1000) if metres else math.nan), float(ends[:, 1].mean())


def round_length(km: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not above a length."""
    power = 10.0 ** math.floor(math.log10(km))
    return max(step for step in (1.0, 2.0, 5.0) if step * power <= km * (1 + 1e-9)) * power
