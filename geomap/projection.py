"""Coordinates between CRSs, and what a CRS is like: where the world repeats, how long its unit is."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyproj
from numpy.typing import NDArray

from geomap.land import wrapped

WGS84 = "EPSG:4326"
ECCENTRICITY = 0.0818191908426215  # of WGS 84
AUTHALIC_RADIUS_KM = 6371.0071809


def project(points: NDArray[np.float64], source: str, target: str) -> NDArray[np.float64]:
    """Points (n, 2), x or longitude first, from one CRS to another; NaN where there is no answer."""
    x, y = transformer(source, target).transform(points[:, 0], points[:, 1])
    out = np.stack([x, y], axis=1)
    out[~np.isfinite(out).all(axis=1)] = np.nan
    return out


@lru_cache(maxsize=64)
def transformer(source: str, target: str) -> pyproj.Transformer:
    """The transformation between two CRSs, x or longitude first. Safe to use from several threads."""
    return pyproj.Transformer.from_crs(source, target, always_xy=True)


@lru_cache(maxsize=64)
def world_width(crs: str) -> float | None:
    """Width of the world in x [units of the CRS] where x depends on longitude alone and linearly, else None.

    Such a CRS (Mercator, Plate Carree, cylindrical equal-area ...) repeats: x + width is the same place.
    """
    lon = np.arange(-179.5, 180.0, 1.0)
    equator = project(np.column_stack([lon, np.zeros(360)]), WGS84, crs)
    north = project(np.column_stack([lon, np.full(360, 60.0)]), WGS84, crs)
    steps = np.diff(equator[:, 0])
    step = float(np.median(steps))
    if not (np.isfinite(equator).all() and np.isfinite(north).all()) or step <= 0:
        return None
    straight = np.abs(equator[:, 0] - north[:, 0]).max() < 1e-6 * step
    linear = (np.abs(steps - step) > 1e-6 * step).sum() <= 1  # the one jump is the seam
    level = np.ptp(equator[:, 1]) < 1e-6 * step
    return round(360.0 * step, 6) if straight and linear and level else None


def metres_per_unit(crs: pyproj.CRS) -> float:
    """Metres in a unit of the first axis; a degree counts as a degree of a great circle."""
    axis = crs.axis_info[0]
    factor = float(axis.unit_conversion_factor)
    return factor * 6_371_008.8 if crs.is_geographic else factor


def crossings_lonlat(
    x: NDArray[np.float64], y: NDArray[np.float64], crs: str, clip: bool = False
) -> NDArray[np.float64]:
    """Lon, lat (h, w, 2) in degrees, lon within -180..180, where columns at x (w,) and rows at y (h,) cross.

    NaN where there is no place on earth; `clip` puts what lies beyond a pole of a cylindrical CRS on it.
    """
    if world_width(crs) is None:
        mesh = np.stack(np.meshgrid(x, y), axis=-1)
        return project(mesh.reshape(-1, 2), crs, WGS84).reshape(mesh.shape)
    lon = project(np.stack([x, np.zeros_like(x)], axis=1), crs, WGS84)[:, 0]
    lat = project(np.stack([np.zeros_like(y), y], axis=1), crs, WGS84)[:, 1]
    pole = project(np.array([[0.0, 90.0]]), WGS84, crs)[0, 1]  # NaN for Mercator, which has none
    lat = np.where(np.abs(y) > pole, np.copysign(90.0, y) if clip else np.nan, lat)
    lonlat = np.stack(np.meshgrid(wrapped(lon), lat), axis=-1)
    lonlat[np.isnan(lonlat).any(axis=-1)] = np.nan
    return lonlat


def areas_km2(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas of the cells between neighbouring corners on the WGS 84 ellipsoid.

    Args:
        corners: (h + 1, w + 1, 2) lon, lat in degrees; great circles of the authalic sphere join them.

    Returns:
        (h, w) float64 km², NaN where a corner is NaN.
    """
    points = _authalic(corners)
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    return (_solid_angle(a, b, c) + _solid_angle(a, c, d)) * AUTHALIC_RADIUS_KM**2


def _authalic(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (..., 2) as unit vectors (..., 3) of the sphere on which areas are those of the ellipsoid.

    Reference: Snyder, Map Projections: A Working Manual, USGS 1395 (1987), equations 3-11 and 3-12.
    """
    lon, sine = np.radians(lonlat[..., 0]), np.sin(np.radians(lonlat[..., 1]))
    sin_authalic = np.clip(_q(sine) / _q(np.array(1.0)), -1, 1)
    across = np.sqrt(1 - sin_authalic**2)
    return np.stack([across * np.cos(lon), across * np.sin(lon), sin_authalic], axis=-1)


def _q(sine: NDArray[np.float64]) -> NDArray[np.float64]:
    part = ECCENTRICITY * sine
    return (1 - ECCENTRICITY**2) * (sine / (1 - part**2) + np.arctanh(part) / ECCENTRICITY)


def _solid_angle(
    a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Area of triangles on the unit sphere, corners (..., 3).

    Reference: Eriksson, On the measure of solid angles, Mathematics Magazine 63 (1990), 184-187.
    """
    volume = np.abs((a * np.cross(b - a, c - a)).sum(axis=-1))
    area: NDArray[np.float64] = 2 * np.arctan2(
        volume, 1 + (a * b).sum(-1) + (b * c).sum(-1) + (c * a).sum(-1)
    )
    return area
