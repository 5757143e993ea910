"""Areas that a grid can be laid over: boxes in degrees and the polygons of a file.

A region file keeps its polygon in its own CRS and points are tested there, so that its straight edges stay as
they were drawn and neither a pole nor the antimeridian needs care.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from geomap.errors import GridError
from geomap.land import wrapped
from geomap.projection import WGS84, metres_per_unit, project, world_width

if TYPE_CHECKING:
    import geopandas as gpd

SIDE_POINTS = 257  # points along a side from which an extent is found


@dataclass(frozen=True)
class Region:
    """A named area in its own CRS.

    Attributes:
        name: Name for messages and folders.
        wkb: Polygon or multipolygon as WKB, x (longitude) first.
        crs: CRS of the polygon.
    """

    name: str
    wkb: bytes
    crs: str

    def contains(self, lonlat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points (n, 2) lon, lat in degrees lie inside or on the edge: (n,) bool."""
        xy = project(lonlat, WGS84, self.crs)
        inside = self._holds(xy)
        if world_width(self.crs) == 360.0:  # polygons drawn beyond 180 degrees
            for turn in (-360.0, 360.0):
                inside |= self._holds(xy + np.array([turn, 0.0]))
        return inside

    def to_dict(self) -> dict[str, str]:
        """Everything as JSON values."""
        return {"name": self.name, "wkb": self.wkb.hex(), "crs": self.crs}

    @classmethod
    def from_dict(cls, stored: dict[str, str]) -> Region:
        """The region that `to_dict` described."""
        return cls(stored["name"], bytes.fromhex(stored["wkb"]), stored["crs"])

    def _holds(self, xy: NDArray[np.float64]) -> NDArray[np.bool_]:
        inside = np.zeros(len(xy), dtype=bool)
        finite = np.flatnonzero(np.isfinite(xy).all(axis=1))
        inside[finite] = shapely.intersects_xy(_polygon(self.wkb), xy[finite])
        return inside

    def outline_lonlat(self) -> NDArray[np.float64]:
        """Points along the edge and in the middle of each part, lon, lat (n, 2) in degrees."""
        polygon = _polygon(self.wkb)
        left, bottom, right, top = polygon.bounds
        dense = shapely.segmentize(polygon, max(right - left, top - bottom) / SIDE_POINTS or 1.0)
        middles = shapely.get_coordinates(
            [part.representative_point() for part in shapely.get_parts(polygon)]
        )
        lonlat = project(np.concatenate([shapely.get_coordinates(dense), middles]), self.crs, WGS84)
        return lonlat[np.isfinite(lonlat).all(axis=1)]


@lru_cache(maxsize=16)
def _polygon(wkb: bytes) -> shapely.Geometry:
    polygon = shapely.from_wkb(wkb)
    shapely.prepare(polygon)
    return polygon


def load_region(path: str | Path, tolerance_m: float = 0.0) -> Region:
    """Reads the polygons of a file (GeoJSON, GeoPackage, Shapefile, GeoParquet ...) as one region.

    Args:
        path: The file.
        tolerance_m: Detail smaller than this [m] is left out.

    Raises:
        GridError: The file is missing or unreadable, has no CRS, or no polygon.
    """
    path = Path(path)
    table = _read_table(path)
    if table.crs is None:
        raise GridError(
            "cannot use the region",
            f"{path} states no CRS",
            "Save it with its CRS (GeoJSON and GeoPackage keep it).",
        )
    shapes = [part for part in shapely.get_parts(table.geometry.dropna().to_numpy()) if not part.is_empty]
    if not shapes or any(part.geom_type != "Polygon" for part in shapes):
        kinds = ", ".join(sorted({part.geom_type for part in shapes})) or "no shape at all"
        raise GridError("cannot use the region", f"{path} holds {kinds}", "Give a file with polygons only.")
    crs = pyproj.CRS(table.crs)
    union = shapely.union_all(shapely.make_valid(shapes))
    if tolerance_m > 0:
        union = shapely.simplify(union, tolerance_m / metres_per_unit(crs))
    return Region(path.stem, shapely.to_wkb(union), crs.to_string())


def _read_table(path: Path) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import pyarrow as pa
    from pyogrio.errors import DataSourceError

    if not path.is_file():
        raise GridError("cannot read the region", f"no file {path}", "Give the path of a file with polygons.")
    try:
        return gpd.read_parquet(path) if path.suffix in (".parquet", ".geoparquet") else gpd.read_file(path)
    except (DataSourceError, pa.ArrowInvalid, ValueError, OSError) as error:
        raise GridError(
            "cannot read the region",
            f"{path}: {error}",
            "Give GeoJSON, GeoPackage, a Shapefile or GeoParquet.",
        ) from error


def bbox_lonlat(west: float, south: float, east: float, north: float) -> NDArray[np.float64]:
    """Points along the edges of and inside a box, lon, lat (n, 2); where west > east beyond 180.

    Raises:
        GridError: Not a box: not finite, out of range, or south not below north.
    """
    shown = f"west {west:g}, south {south:g}, east {east:g}, north {north:g}"
    if not all(-180 <= lon <= 180 for lon in (west, east)) or not all(
        -90 <= lat <= 90 for lat in (south, north)
    ):
        change = "Give W S E N in degrees, longitudes within -180..180 and latitudes within -90..90."
        raise GridError("cannot use the box", shown, change)
    if west == east:
        raise GridError("cannot use the box", shown, "Give W S E N: west > east crosses the antimeridian.")
    if south >= north:
        raise GridError("cannot use the box", shown, "Give W S E N: south must lie below north.")
    lon = np.linspace(west, east + 360.0 if west > east else east, SIDE_POINTS)
    lat = np.linspace(south, north, SIDE_POINTS)
    sides = [np.column_stack([lon, np.full(SIDE_POINTS, side)]) for side in (south, north)]
    sides += [np.column_stack([np.full(SIDE_POINTS, side), lat]) for side in (lon[0], lon[-1])]
    inner = np.stack(np.meshgrid(lon[::16], lat[::16]), axis=-1).reshape(-1, 2)
    return np.concatenate([*sides, inner])


def run_on(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same points, longitudes running on east of their widest gap where that makes them narrower."""
    plain = wrapped(lonlat[:, 0])
    around = np.sort(plain % 360.0)
    gaps = np.diff(np.append(around, around[0] + 360.0))
    if 360.0 - gaps.max() > np.ptp(plain) - 1.0:
        return np.column_stack([plain, lonlat[:, 1]])
    west = around[(int(gaps.argmax()) + 1) % len(around)]
    turns = np.ceil((west - lonlat[:, 0]) / 360.0 - 1e-9)  # west itself stays where it is
    return np.column_stack([lonlat[:, 0] + 360.0 * turns, lonlat[:, 1]])
