"""Makes land.parquet, the land and California outlines that masks are drawn from.

    python -m geomap.data.make_land [BOUNDARIES]      # default ../shared/data/boundaries

Land: Natural Earth 1:50m land, public domain (naturalearthdata.com). California: the 58 counties of the US
Census Bureau's cartographic boundaries (public domain), dissolved; the slivers that the dissolving leaves are
closed. Coordinates are rounded to 1/1024 degree (about 0.1 km): a power of two, so that the trailing bits of
every number are zero and compress away.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

STEP = 1 / 1024  # degrees
SLIVER = 2 * STEP  # gaps between neighbouring counties narrower than this are closed
LARGEST_HOLE = 0.002  # square degrees: holes below it, left between counties, are filled


def main(argv: Sequence[str] | None = None) -> int:
    """Writes land.parquet beside this file from the folder of boundary files."""
    args = sys.argv[1:] if argv is None else list(argv)
    boundaries = Path(args[0] if args else "../shared/data/boundaries")
    world = gpd.read_file(boundaries / "ne_50m_land.geojson").geometry
    counties = gpd.read_file(boundaries / "california_counties.geojson").geometry
    land = [part for shape in world for part in polygons(to_pole(shape))]
    california = polygons(dissolved(counties.to_numpy()))
    names = ["land"] * len(land) + ["california"] * len(california)
    write(names, land + california, Path(__file__).with_name("land.parquet"))
    return 0


def to_pole(shape: shapely.Geometry) -> shapely.Geometry:
    """Antarctica's artificial southern edge moved from -89.999 to the pole, so that no sea is left there."""

    def moved(lonlat: np.ndarray) -> np.ndarray:
        return np.column_stack([lonlat[:, 0], np.where(lonlat[:, 1] < -89.9, -90.0, lonlat[:, 1])])

    return shapely.transform(shape, moved)


def dissolved(counties: np.ndarray) -> shapely.Geometry:
    """One outline of all counties without the slivers between neighbours."""
    union = shapely.union_all(shapely.make_valid(counties))
    closed = union.buffer(SLIVER, join_style="mitre").buffer(-SLIVER, join_style="mitre")
    return shapely.union_all([filled(part) for part in polygons(closed)])


def filled(part: shapely.Polygon) -> shapely.Polygon:
    """The polygon without its small holes."""
    lakes = [ring for ring in part.interiors if shapely.Polygon(ring).area > LARGEST_HOLE]
    return shapely.Polygon(part.exterior, lakes)


def polygons(shape: shapely.Geometry) -> list[shapely.Polygon]:
    """The polygons of `shape` on the rounding lattice, valid, the empty ones left out."""
    rounded = shapely.set_precision(shapely.make_valid(shape), STEP)
    return [part for part in shapely.get_parts(rounded) if part.geom_type == "Polygon" and not part.is_empty]


def write(names: list[str], shapes: list[shapely.Polygon], path: Path) -> None:
    """GeoParquet 1.0 with WKB, compressed hard."""
    geo = {
        "version": "1.0.0",
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon"]}},
    }
    table = pa.table({"region": names, "geometry": shapely.to_wkb(np.array(shapes, dtype=object))})
    table = table.replace_schema_metadata({b"geo": json.dumps(geo).encode()})
    pq.write_table(table, path, compression="zstd", compression_level=19)
    print(f"{path}: {len(shapes)} polygons, {path.stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(main())
