"""Where the land is: Natural Earth 1:50m land and the outline of California, from geomap/data/land.parquet.

Points are lon, lat in degrees, WGS 84; each is judged alone, so a mask never depends on the window it was
asked for. Lakes count as land, Antarctica without its ice shelves too; the Caspian Sea does not. The file is
made by `python -m geomap.data.make_land`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

LAND_FILE = Path(__file__).with_name("data") / "land.parquet"
METRES_PER_DEGREE = 111_195.0  # of a great circle of the mean sphere


def is_land(lonlat: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points lie on land.

    Args:
        lonlat: (n, 2) float degrees; any longitude (it is wrapped to -180..180). NaN is not land.

    Returns:
        (n,) bool. Points on a coast count as land. California's finer outline is added to Natural Earth's.
    """
    return points_in(lonlat, land_shapes()) | points_in(lonlat, (california(),))


def near_land(lonlat: NDArray[np.float64], tolerance_m: float) -> NDArray[np.bool_]:
    """Whether points lie on land or within `tolerance_m` [m] of a coast.

    Args:
        lonlat: (n, 2) float degrees. NaN is not near land.
        tolerance_m: Distance in metres, below about 100 km: it is measured on the local plane.

    Returns:
        (n,) bool.
    """
    near = is_land(lonlat)
    wet = np.flatnonzero(~near & np.isfinite(lonlat).all(axis=1))
    if tolerance_m > 0 and len(wet):
        near[wet] = _coast_distance_below(np.asarray(lonlat, dtype=np.float64)[wet], tolerance_m)
    return near


@cache
def land_shapes() -> tuple[shapely.Polygon, ...]:
    """The polygons of the world's land, prepared for fast tests; none crosses the antimeridian."""
    return _shapes("land")


@cache
def california() -> shapely.MultiPolygon:
    """The State of California with its islands, without the sea, in degrees."""
    outline = shapely.MultiPolygon(_shapes("california"))
    shapely.prepare(outline)
    return outline


def points_in(
    lonlat: NDArray[np.float64], shapes: tuple[shapely.Polygon | shapely.MultiPolygon, ...]
) -> NDArray[np.bool_]:
    """Whether points lie in (or on the edge of) any of `shapes`, which are in degrees within -180..180.

    Args:
        lonlat: (n, 2) float degrees, longitudes are wrapped; NaN lies nowhere.
        shapes: Polygons, prepared (`shapely.prepare`) where speed matters.

    Returns:
        (n,) bool.
    """
    lonlat = np.asarray(lonlat, dtype=np.float64)
    inside = np.zeros(len(lonlat), dtype=bool)
    finite = np.flatnonzero(np.isfinite(lonlat).all(axis=1))
    order = finite[np.argsort(lonlat[finite, 1], kind="stable")]  # a shape meets one slice of the points
    lon, lat = wrapped(lonlat[order, 0]), lonlat[order, 1]
    if not len(order):
        return inside
    left, bottom, right, top = shapely.bounds(np.array(shapes, dtype=object)).T
    for i in np.flatnonzero(
        (left <= lon.max()) & (right >= lon.min()) & (bottom <= lat[-1]) & (top >= lat[0])
    ):
        start, stop = np.searchsorted(lat, bottom[i], "left"), np.searchsorted(lat, top[i], "right")
        near = start + np.flatnonzero((lon[start:stop] >= left[i]) & (lon[start:stop] <= right[i]))
        inside[order[near[shapely.intersects_xy(shapes[i], lon[near], lat[near])]]] = True
    return inside


def wrapped(lon: NDArray[np.float64]) -> NDArray[np.float64]:
    """Longitudes in -180..180 [degrees]; those already there are returned bit for bit."""
    return np.where(np.abs(lon) <= 180.0, lon, (lon + 180.0) % 360.0 - 180.0)


def _shapes(region: str) -> tuple[shapely.Polygon, ...]:
    import pyarrow.parquet as pq

    table = pq.read_table(LAND_FILE, filters=[("region", "=", region)])
    shapes = shapely.from_wkb(table["geometry"].to_numpy())
    shapely.prepare(shapes)
    return tuple(shapes)


@cache
def _coast() -> tuple[shapely.STRtree, NDArray[np.float64]]:
    """Every straight piece of every coast: a tree over them, and their ends (m, 2, 2) in degrees."""
    rings = np.concatenate([shapely.get_rings(np.array(land_shapes())), shapely.get_rings(california())])
    lonlat, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    ends = np.stack([lonlat[:-1][same], lonlat[1:][same]], axis=1)
    return shapely.STRtree(shapely.linestrings(ends)), ends


def _coast_distance_below(lonlat: NDArray[np.float64], tolerance_m: float) -> NDArray[np.bool_]:
    """Whether a coast is within `tolerance_m`, on the plane that touches the earth at each point."""
    tree, ends = _coast()
    shrink = np.maximum(np.cos(np.radians(lonlat[:, 1])), 1e-6)
    reach = tolerance_m / METRES_PER_DEGREE
    below = np.zeros(len(lonlat), dtype=bool)
    for turn in (-360.0, 0.0, 360.0):  # a coast just beyond the antimeridian is near too
        lon, lat = wrapped(lonlat[:, 0]) + turn, lonlat[:, 1]
        wide = np.minimum(reach / shrink, 180.0)
        point, piece = tree.query(shapely.box(lon - wide, lat - reach, lon + wide, lat + reach))
        scale = np.stack([shrink[point], np.ones(len(point))], axis=1)
        start = (ends[piece, 0] - np.stack([lon, lat], axis=1)[point]) * scale
        along = (ends[piece, 1] - ends[piece, 0]) * scale
        length = np.maximum((along**2).sum(axis=1), 1e-30)
        foot = start + np.clip(-(start * along).sum(axis=1) / length, 0, 1)[:, None] * along
        below[point[np.hypot(foot[:, 0], foot[:, 1]) * METRES_PER_DEGREE <= tolerance_m]] = True
    return below
