"""What the map of `geomap.leafmap` is made of, widgets aside: names, land, points, areas."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geomap.errors import GridError, NameNotFoundError, RecordsError
from geomap.names import nearest, resolve

if TYPE_CHECKING:
    import pandas as pd

    from geomap.tileserver import TileServer

SEA, LAND, COAST = "#dfe7ee", "#f4f2ec", "#8a8f96"
RECORDS = "#1b4f9c"
PANE = "land"  # place of the outline among the layers
SIMPLIFIED = 0.05  # degrees: 380 kB of outline for the whole world
FOUND = 50  # species of a search that a name is looked for among
WHAT_RECORDS = "cannot show the records"
WHAT_POLYGON = "cannot sum over the area"
FORM = "Give a Polygon or MultiPolygon in degrees: of shapely, GeoJSON or GeoPandas."


def find(server: TileServer, name: str, grid: str | None, group: str | None) -> dict[str, Any]:
    """The species of a server with exactly this name, as its list tells of it.

    Args:
        server: The server.
        name: Id, or scientific, common or older name, exact but for case, accents and hyphens.
        grid: One that it must have; any if None.
        group: One that it must be in; any if None.

    Raises:
        NameNotFoundError: There is none; near names are told.
        RecordsError: The name means several.
        TileServerError: The server refuses or cannot be reached.
    """
    import pandas as pd

    where = {"grid": grid, "group": group}
    species = server.get("/species", search=name, limit=FOUND, **where)["species"]
    for each in species:
        if each["id"] == name:
            return dict(each)
    table = pd.DataFrame(species, columns=["scientificName", "vernacularName", "synonyms"])
    try:
        return dict(species[resolve(name, table)])
    except NameNotFoundError as error:
        total = server.get("/species", limit=1, **where)["total"]
        texts = [text for each in species for text in (each["scientificName"], each["vernacularName"])]
        close = nearest(name, filter(None, texts)) or [each["scientificName"] for each in species[:5]]
        change = f"Did you mean {', '.join(close)}?" if close else "The server's page lists what there is."
        found = f"{total} species at the server, none of that name"
        raise NameNotFoundError(f'cannot find the species "{name}"', found, change) from error


@cache
def outline() -> dict[str, Any]:
    """The world's land on a plain sea as GeoJSON, with colours in the way of ipyleaflet."""
    import shapely

    from geomap.land import california, land_shapes

    plain = {"fillOpacity": 1, "pane": PANE}  # Leaflet takes the pane of a shape from its style
    features = [_feature(shapely.box(-540, -90, 540, 90), {**plain, "fillColor": SEA, "weight": 0})]
    look = {**plain, "fillColor": LAND, "color": COAST, "weight": 0.8}
    for shape in (*land_shapes(), california()):
        part = shapely.set_precision(shapely.simplify(shape, SIMPLIFIED), 0.01)
        if not part.is_empty:
            features.append(_feature(part, look))
    return {"type": "FeatureCollection", "features": features}


def view(bbox: Sequence[float]) -> tuple[tuple[float, float], int]:
    """Centre (lat, lon) and the zoom at which a box fills about 800 x 600 pixels.

    Args:
        bbox: West, south, east, north in degrees; east < west where it crosses the antimeridian.
    """
    west, south, east, north = bbox
    east += 360 if east < west else 0
    low, high = (math.asinh(math.tan(math.radians(max(-85.0, min(85.0, lat))))) for lat in (south, north))
    share = max((east - west) / 360 / 800, (high - low) / (2 * math.pi) / 600, 1e-6)
    middle = math.degrees(math.atan(math.sinh((low + high) / 2)))
    return (middle, (west + east) / 2), max(1, math.floor(math.log2(1 / (256 * share))))


def points_of(table: pd.DataFrame) -> NDArray[np.float64]:
    """Longitude and latitude (n, 2) in degrees of the rows of a table that have both.

    Args:
        table: GeoDataFrame of points in any CRS, or a table with columns of longitude and latitude under
            their Darwin Core names or a usual spelling of them.

    Raises:
        RecordsError: There are no such columns, no CRS, other geometries than points, or no row with both.
    """
    lonlat = _geometry_points(table) if hasattr(table, "geom_type") else _column_points(table)
    there = (np.abs(lonlat) <= (360.0, 90.0)).all(axis=1)  # NaN is not
    if not there.any():
        found = f"{len(lonlat)} rows, none of them with both coordinates in degrees"
        raise RecordsError(WHAT_RECORDS, found, "Give decimal degrees, WGS 84.")
    kept: NDArray[np.float64] = lonlat[there]
    return kept


def polygons_of(area: Any) -> list[tuple[object, dict[str, Any]]]:
    """Polygons as GeoJSON geometries in degrees, each with its label.

    Args:
        area: A shapely geometry, a GeoJSON geometry or Feature, a GeoSeries or a GeoDataFrame.

    Returns:
        Labels (of the index for GeoPandas, else 0) and geometries.

    Raises:
        GridError: Something of it is no polygon, or has no CRS.
    """
    if hasattr(area, "to_crs"):
        if area.crs is None:
            raise GridError(WHAT_POLYGON, "polygons without a CRS", "Set it: .set_crs('EPSG:4326').")
        return [(label, _polygon(each)) for label, each in area.geometry.to_crs("EPSG:4326").items()]
    return [(0, _polygon(area))]


def summary_row(about: Mapping[str, Any], threshold: str | None, answer: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table of areas from the server's answer; NaN and None where there is nothing to tell.

    Args:
        about: The description of the map.
        threshold: Key of the threshold that the area above is told for.
        answer: What the server says of a polygon.
    """
    above = answer["above"].get(threshold, {})
    numbers = ("cells", "area_km2", "nodata_km2", "mean", "min", "max")
    return {
        **{key: about[key] for key in ("scientificName", "group", "grid")},
        "unit": answer["unit"],
        **{key: math.nan if answer[key] is None else answer[key] for key in numbers},
        "threshold": threshold,
        "threshold_value": above.get("value", math.nan),
        "above_km2": above.get("area_km2", math.nan),
        "above_share": above.get("share", math.nan),
    }


def _feature(shape: Any, style: Mapping[str, Any]) -> dict[str, Any]:
    import shapely

    geometry = json.loads(shapely.to_geojson(shape))
    return {"type": "Feature", "properties": {"style": style}, "geometry": geometry}


def _geometry_points(table: Any) -> NDArray[np.float64]:
    if table.crs is None:
        raise RecordsError(WHAT_RECORDS, "geometries without a CRS", "Set it: .set_crs('EPSG:4326').")
    kinds = sorted(set(table.geom_type.dropna()) - {"Point"})
    if kinds:
        raise RecordsError(WHAT_RECORDS, f"geometries of type {', '.join(kinds)}", "Give points.")
    points = table.geometry.to_crs("EPSG:4326")
    return np.column_stack([points.x, points.y]).astype(np.float64)


def _column_points(table: pd.DataFrame) -> NDArray[np.float64]:
    import pandas as pd

    from geomap.columns import ALIASES, header_key

    by_key = {header_key(str(column)): column for column in reversed(table.columns)}
    pair = []
    for wanted in ("decimalLongitude", "decimalLatitude"):
        column = next((by_key[key] for key in map(header_key, ALIASES[wanted]) if key in by_key), None)
        if column is None:
            found = f"no column {wanted} among {', '.join(map(str, table.columns))}"
            raise RecordsError(WHAT_RECORDS, found, f"Name it {wanted}, or give a GeoDataFrame of points.")
        pair.append(pd.to_numeric(table[column], errors="coerce").to_numpy(np.float64, na_value=np.nan))
    return np.column_stack(pair)


def _polygon(area: Any) -> dict[str, Any]:
    shape = area if isinstance(area, Mapping) else getattr(area, "__geo_interface__", None)
    if isinstance(shape, Mapping) and shape.get("type") == "Feature":
        shape = shape.get("geometry")
    if not isinstance(shape, Mapping) or shape.get("type") not in ("Polygon", "MultiPolygon"):
        kind = shape.get("type") if isinstance(shape, Mapping) else type(area).__name__
        raise GridError(WHAT_POLYGON, f"a {kind}", FORM)
    return {"type": shape["type"], "coordinates": shape["coordinates"]}
