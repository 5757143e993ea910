"""Lays cells over an area: CRS, resolution and extent become a GeoBox, edges on whole multiples."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray
from odc.geo import CRS
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError

from geomap.errors import GridError
from geomap.projection import WGS84, metres_per_unit, project, world_width

PACIFIC = "+proj=cea +lat_ts=30 +lon_0=180 +datum=WGS84 +type=crs"  # EPSG:6933 with its seam at Greenwich
CALIFORNIA_BOX = (-124.5, 32.5, -114.0, 42.1)  # west, south, east, north of EPSG:3310's own ground
RESOLUTIONS_M = (1_000.0, 2_000.0, 5_000.0, 10_000.0, 25_000.0, 50_000.0, 100_000.0)
METRES_PER_DEGREE = 100_000.0  # for default resolutions in degrees: round numbers
MOST_DEGREES = 30.0  # of a cell: more can only be meant in metres
MOST_CELLS = 2_000_000  # above it the default resolution becomes coarser
LARGEST_GRID = 2**32  # cells
UNIT_M = 500_000.0  # a processing unit is at most this long
SMALLEST_UNIT, LARGEST_UNIT = 8, 256


def lay(lonlat: NDArray[np.float64], resolution: float | None, crs: str | None) -> GeoBox:
    """The GeoBox that covers an area.

    Args:
        lonlat: (n, 2) points of the area's edge and inside, degrees; longitudes run on beyond 180 across the
            antimeridian.
        resolution: Side of a cell in the unit of the CRS, None for the default.
        crs: Any projected or geographic CRS, None for the default.

    Raises:
        GridError: Resolution or CRS make no sense, or the grid would be too large.
    """
    if resolution is not None and not (math.isfinite(resolution) and resolution > 0):
        raise GridError("cannot use the resolution", f"{resolution:g}", "Give a number above 0.")
    target = known_crs(crs or default_crs(lonlat))
    if resolution is not None and target.geographic and resolution > MOST_DEGREES:
        found = f"{resolution:g} degrees in {crs}"
        raise GridError("cannot use the resolution", found, "Give degrees, or a --crs in metres.")
    bounds = extent(lonlat, str(target))
    return snapped(bounds, resolution or default_resolution(bounds, target), target)


def known_crs(text: str) -> CRS:
    """The CRS that a text names (EPSG code, PROJ string or WKT).

    Raises:
        GridError: It names none, or one that has no map plane (geocentric, vertical).
    """
    try:
        crs = CRS(text)
    except CRSError as error:
        raise GridError(
            "cannot use the CRS", f"'{text}'", "Give one like EPSG:3310 or a PROJ string."
        ) from error
    if not crs.projected and not crs.geographic:
        raise GridError(
            "cannot use the CRS", f"'{text}' has no map plane", "Give a projected CRS like EPSG:6933."
        )
    return crs


def default_crs(lonlat: NDArray[np.float64]) -> str:
    """EPSG:3310 inside California's box, PACIFIC across the antimeridian, else EPSG:6933: all equal-area."""
    (left, bottom), (right, top) = lonlat.min(axis=0), lonlat.max(axis=0)
    west, south, east, north = CALIFORNIA_BOX
    if left >= west and right <= east and bottom >= south and top <= north:
        return "EPSG:3310"
    return PACIFIC if right > 180.0 else "EPSG:6933"


def default_resolution(bounds: tuple[float, float, float, float], crs: CRS) -> float:
    """1 km, or the first of RESOLUTIONS_M that gives at most MOST_CELLS; in degrees 0.01, 0.02 ..."""
    left, bottom, right, top = bounds
    unit = 1 / METRES_PER_DEGREE if crs.geographic else 1 / metres_per_unit(pyproj.CRS(str(crs)))
    sizes = [metres * unit for metres in RESOLUTIONS_M]
    few = (size for size in sizes if (right - left) * (top - bottom) / size**2 <= MOST_CELLS)
    return next(few, sizes[-1])


def snapped(bounds: tuple[float, float, float, float], resolution: float, crs: CRS) -> GeoBox:
    """The cells that bounds touch, edges at multiples of the resolution; the world's width is never exceeded.

    Raises:
        GridError: More cells than LARGEST_GRID.
    """
    left, bottom, right, top = (edge / resolution for edge in bounds)
    slack = 1e-9 * max(
        1.0, *(abs(edge) for edge in (left, bottom, right, top))
    )  # an edge on the lattice stays there
    col, row = math.floor(left + slack), math.floor(-top + slack)
    width, height = math.ceil(right - slack) - col, math.ceil(-bottom - slack) - row
    around = world_width(str(crs))
    if around is not None:
        width = min(width, math.ceil(around / resolution - slack))
    if width * height > LARGEST_GRID:
        raise GridError(
            "cannot lay so large a grid", f"{height} x {width} cells", "Give a coarser --resolution."
        )
    transform = Affine(resolution, 0, col * resolution, 0, -resolution, -row * resolution)
    return GeoBox((max(height, 1), max(width, 1)), transform, crs)


def unit_cells(geobox: GeoBox) -> int:
    """Side of the processing unit in cells: the largest power of two within 500 km, at least 8, at most 256.

    California at 1 km: 256; North America at 10 km: 32; the world at 25 km: 16.
    """
    metres = float(geobox.affine.a) * metres_per_unit(pyproj.CRS(str(geobox.crs)))
    power = math.floor(math.log2(max(UNIT_M / metres, 1.0)))
    return int(min(max(2**power, SMALLEST_UNIT), LARGEST_UNIT))


def grid_name(area: str, geobox: GeoBox, crs: str | None) -> str:
    """Name of a grid for folders: area, resolution, and the CRS where that was chosen ("x_250m_epsg3310")."""
    size, plane = float(geobox.affine.a), pyproj.CRS(str(geobox.crs))
    if plane.is_geographic:
        shown = f"{size:g}deg"
    elif metres_per_unit(plane) != 1.0:
        shown = f"{size:g}units"
    else:
        shown = f"{size / 1000:g}km" if size % 1000 == 0 else f"{size:g}m"
    if crs is None:
        return f"{area}_{shown}"
    code = plane.to_epsg()
    return f"{area}_{shown}_" + (
        f"epsg{code}" if code else hashlib.sha256(plane.to_wkt().encode()).hexdigest()[:8]
    )


def extent(lonlat: NDArray[np.float64], crs: str) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of points in a CRS; where the world repeats, longitudes beyond 180 run on.

    Args:
        lonlat: (n, 2) degrees; longitudes may run beyond 180 (`bbox_lonlat`, `run_on`).
        crs: The CRS.

    Raises:
        GridError: Some points have no place in the CRS.
    """
    xy = project(lonlat, WGS84, crs)
    width = world_width(crs)
    if width is not None:
        first = lonlat[:, 0].argmin()
        xy[:, 0] = xy[first, 0] + (lonlat[:, 0] - lonlat[first, 0]) * width / 360.0
    if not np.isfinite(xy).all():
        raise GridError(
            "cannot lay a grid over the area", f"{crs} has no place for parts of it", "Choose another --crs."
        )
    left, bottom = xy.min(axis=0)
    right, top = xy.max(axis=0)
    return float(left), float(bottom), float(right), float(top)
