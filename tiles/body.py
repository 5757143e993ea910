"""A polygon from the body of a request: bounded in bytes, depth, vertices and area before it costs time."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from fastapi import Request

from tiles.errors import QueryError, TooLargeError
from tiles.settings import Settings

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

WHAT = "cannot read the polygon"
FORM = "Send a GeoJSON Polygon, MultiPolygon, or Feature of one, in degrees."
AUTHALIC_KM = 6371.0072  # radius of the sphere with the area of the ellipsoid
DEPTH = 8  # a Feature of a MultiPolygon nests 7 deep
BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')


async def read_polygon(request: Request, settings: Settings) -> BaseGeometry:
    """The polygon that a request carries.

    Args:
        request: With a GeoJSON Polygon, MultiPolygon or Feature of one as its body.
        settings: The bounds.

    Returns:
        A valid shapely Polygon or MultiPolygon, degrees WGS 84.

    Raises:
        TooLargeError: The body, the number of vertices or the area is beyond its bound.
        QueryError: The body is no such polygon, or one that crosses itself.
    """
    body = await bounded_body(request, settings.max_body_bytes)
    return await _checked(body, settings)


async def _checked(body: bytes, settings: Settings) -> BaseGeometry:
    from starlette.concurrency import run_in_threadpool

    return await run_in_threadpool(polygon_of, body, settings.max_polygon_vertices, settings.max_polygon_km2)


async def bounded_body(request: Request, most: int) -> bytes:
    """The body of a request, refused as soon as it is known to be too long.

    Raises:
        TooLargeError: It is longer than `most` bytes.
        QueryError: Its Content-Length is no number.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal():
        raise QueryError(WHAT, f"Content-Length {declared[:20]!r}", "Send the length of the body.")
    if int(declared) > most:
        _too_long(most)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            _too_long(most)
        parts.append(part)
    return b"".join(parts)


def polygon_of(body: bytes, most_vertices: int, most_km2: float) -> BaseGeometry:
    """The polygon in a GeoJSON document.

    Args:
        body: The document.
        most_vertices: Bound on vertices.
        most_km2: Bound on the true area [km²].

    Raises:
        TooLargeError: It is beyond a bound.
        QueryError: It is no polygon, or crosses itself.
    """
    from shapely import is_valid_reason
    from shapely.geometry import MultiPolygon, Polygon

    rings = _rings(_parse(body))
    count = sum(len(ring) for polygon in rings for ring in polygon)
    if count > most_vertices:
        raise TooLargeError(WHAT, f"{count} vertices", f"Simplify it to {most_vertices} at most.")
    shapes = [Polygon(polygon[0], polygon[1:]) for polygon in rings]
    shape = shapes[0] if len(shapes) == 1 else MultiPolygon(shapes)
    if not shape.is_valid:
        raise QueryError(
            WHAT, is_valid_reason(shape).partition("[")[0], "Send one that does not cross itself."
        )
    area = _area_km2(shape)
    if area > most_km2:
        raise TooLargeError(WHAT, f"{area:,.0f} km²", f"Choose an area of at most {most_km2:,.0f} km².")
    return shape


def _parse(body: bytes) -> Any:
    """JSON that is neither deep nor full of numbers that are none."""
    depth = 0
    for token in BRACKETS.finditer(body):
        sign = token[0][:1]
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(sign, 0)
        if depth > DEPTH + 4:
            raise QueryError(WHAT, "brackets nested too deep", FORM)
    try:
        return json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise QueryError(WHAT, "a body that is no JSON", FORM) from error


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _rings(document: Any) -> list[list[list[tuple[float, float]]]]:
    """Polygons as lists of rings of (lon, lat)."""
    if isinstance(document, dict) and document.get("type") == "Feature":
        document = document.get("geometry")
    if not isinstance(document, dict):
        raise QueryError(WHAT, "no GeoJSON object", FORM)
    coordinates = document.get("coordinates")
    if document.get("type") == "Polygon":
        coordinates = [coordinates]
    elif document.get("type") != "MultiPolygon":
        raise QueryError(WHAT, f"type {str(document.get('type'))[:40]!r}", FORM)
    polygons = [[_ring(ring) for ring in _full(polygon)] for polygon in _full(coordinates)]
    return polygons


def _ring(ring: Any) -> list[tuple[float, float]]:
    places = [_vertex(vertex) for vertex in _full(ring)]
    if len(places) < 4 or places[0] != places[-1]:
        raise QueryError(
            WHAT, "a ring that is not closed", "End each ring of 4 or more vertices where it began."
        )
    return places


def _vertex(vertex: Any) -> tuple[float, float]:
    numbers = _full(vertex)
    ok = 2 <= len(numbers) <= 4 and all(
        isinstance(n, int | float) and not isinstance(n, bool) for n in numbers
    )
    # A huge integer has no float: it is compared before it is turned into one.
    if not ok or not (-180 <= numbers[0] <= 360 and -90 <= numbers[1] <= 90):
        change = "Give lat -90..90 and lon -180..180, or on to 360 across the antimeridian."
        raise QueryError(WHAT, "a vertex that is no place on earth", change)
    return float(numbers[0]), float(numbers[1])


def _full(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise QueryError(WHAT, "coordinates that are no list, or an empty one", FORM)
    return value


def _area_km2(shape: BaseGeometry) -> float:
    """Area of a polygon in degrees on a sphere of the earth's area; edges are straight in degrees."""
    import numpy as np
    from shapely import segmentize, transform

    def equal_area(lonlat: Any) -> Any:
        lon, lat = np.radians(lonlat).T
        return np.stack([lon, np.sin(lat)], axis=1) * AUTHALIC_KM

    return float(transform(segmentize(shape, 1.0), equal_area).area)


def _too_long(most: int) -> NoReturn:
    raise TooLargeError(WHAT, f"a body of more than {most} bytes", "Simplify the polygon.")
