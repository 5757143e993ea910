"""Where a grid lies: its outline in degrees as GeoJSON, cut at the antimeridian (RFC 7946, 3.1.9)."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from shapely import affinity

from geomap.projection import WGS84, project, world_width

STEPS = 33  # points per side of the outline, so that curved edges stay within a fraction of a cell


@lru_cache(maxsize=8)
def footprint(geobox: GeoBox) -> tuple[dict[str, Any], list[float]]:
    """Outline and bounding box of a grid.

    Args:
        geobox: Shape, transform and CRS. A grid that goes round the whole world is the whole ring of its
            latitudes.

    Returns:
        GeoJSON geometry (Polygon, or MultiPolygon across the antimeridian), and [west, south, east, north]
        degrees WGS 84, with west > east across the antimeridian.
    """
    outline = _outline(geobox)
    low, high = outline.min(axis=0), outline.max(axis=0)
    south, north = (float(np.clip(v, -90, 90)) for v in (low[1], high[1]))
    around = high[0] - low[0] >= 360 - 1e-6 or abs(outline[-1, 0] - outline[0, 0]) > 180
    if around:  # closing on itself after a turn, the outline holds a pole
        if abs(outline[-1, 0] - outline[0, 0]) > 180:
            south, north = (south, 90.0) if north > -south else (-90.0, north)
        return _geojson(shapely.box(-180, south, 180, north)), [-180.0, south, 180.0, north]
    shape = shapely.make_valid(shapely.Polygon(outline))
    parts = []
    for turn in (-360, 0, 360):
        part = affinity.translate(
            shapely.intersection(shape, shapely.box(turn - 180, -90, turn + 180, 90)), -turn
        )
        parts += [p for p in getattr(part, "geoms", [part]) if p.geom_type == "Polygon" and p.area > 1e-9]
    west, east = ((float(v) + 180) % 360 - 180 for v in (low[0], high[0]))
    east = 180.0 if east == -180 else east
    whole = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    return _geojson(whole), [round(v, 7) for v in (west, south, east, north)]


def _outline(geobox: GeoBox) -> NDArray[np.float64]:
    """The edge of the grid (n, 2) lon, lat, longitudes running on over the antimeridian."""
    crs, (left, bottom, right, top) = str(geobox.crs), geobox.boundingbox.bbox
    turn = world_width(crs)
    if turn is not None:  # meridians are upright: a rectangle, whatever hangs over the edges of the world
        west, _ = project(np.array([[left, 0.0]]), crs, WGS84)[0]
        if np.isnan(west):
            west = -180.0
        east = west + 360 * (right - left) / turn
        pole = project(np.array([[0.0, 90.0]]), WGS84, crs)[0, 1]
        edges = np.array([[0.0, np.clip(y, -pole, pole)] for y in (bottom, top)])
        south, north = project(edges, crs, WGS84)[:, 1]
        return np.array([[west, north], [east, north], [east, south], [west, south], [west, north]])
    along, zero = np.linspace(0, 1, STEPS), np.zeros(STEPS)
    x = left + (right - left) * np.concatenate([along, zero + 1, 1 - along, zero])
    y = top + (bottom - top) * np.concatenate([zero, along, zero + 1, 1 - along])
    lonlat = project(np.stack([x, y], axis=1), crs, WGS84)
    lonlat = lonlat[np.isfinite(lonlat).all(axis=1)]
    return np.stack([np.unwrap(lonlat[:, 0], period=360), lonlat[:, 1]], axis=1)


def _geojson(shape: shapely.Geometry) -> dict[str, Any]:
    """A geometry as JSON values, rounded to about a centimetre, outer rings counter-clockwise."""
    upright = shapely.orient_polygons(shapely.transform(shape, lambda xy: np.round(xy, 7)))
    geometry: dict[str, Any] = json.loads(shapely.to_geojson(upright))
    return geometry
