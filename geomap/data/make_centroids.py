"""Make centroids.csv: where records sit whose place was given as a country or state only.

    python -m geomap.data.make_centroids [FOLDER OF BOUNDARIES]

Three points a shape: the centroid of its whole area, that of its largest part (the mainland), and the middle
of the mainland's bounding box. Shapes: Natural Earth 1:110m countries and 1:50m states and provinces of the
larger countries (public domain). A gazetteer's own point for a place may lie elsewhere: GAZETTEER holds those
that are known.

Reference:
    CoordinateCleaner, test cc_cen: Zizka et al. (2019), Methods in Ecology and Evolution 10, 744-751.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import geopandas as gpd
import pandas as pd

SHAPES = {
    "country": "ne_110m_admin_0_countries.geojson",
    "state": "ne_50m_admin_1_states_provinces.geojson",
}
EQUAL_AREA = "EPSG:6933"
SMALLEST_KM2 = 2_000.0  # of a smaller place (Washington, D.C.) the middle is as good as any address
# Where geocoders put "California, United States".
GAZETTEER = (
    ("state", "California", -119.2702, 37.2719),
    ("state", "California", -119.4179, 36.7783),
)
OUT = Path(__file__).with_name("centroids.csv")


def main(folder: Path) -> None:
    """Write centroids.csv from the shapes in `folder`."""
    points = pd.concat([_points(kind, gpd.read_file(folder / name)) for kind, name in SHAPES.items()])
    points = pd.concat([points, pd.DataFrame(GAZETTEER, columns=points.columns)])
    points = points.round(4).drop_duplicates(["longitude", "latitude"])
    points.sort_values(["kind", "name", "longitude"]).to_csv(OUT, index=False, lineterminator="\n")


def _points(kind: str, shapes: gpd.GeoDataFrame) -> pd.DataFrame:
    shapes = shapes[shapes.to_crs(EQUAL_AREA).area >= SMALLEST_KM2 * 1e6]
    whole = shapes.geometry.to_crs(EQUAL_AREA)
    parts = whole.explode(index_parts=False)
    mainland = parts[parts.area.groupby(level=0).transform("max") == parts.area]
    boxes = mainland.to_crs("EPSG:4326").bounds
    lon = [*_centroid(whole).x, *_centroid(mainland).x, *(boxes["minx"] + boxes["maxx"]) / 2]
    lat = [*_centroid(whole).y, *_centroid(mainland).y, *(boxes["miny"] + boxes["maxy"]) / 2]
    names = shapes["name"] if "name" in shapes else shapes["NAME"]
    return pd.DataFrame({"kind": kind, "name": [*names] * 3, "longitude": lon, "latitude": lat})


def _centroid(shapes: gpd.GeoSeries) -> gpd.GeoSeries:
    return shapes.centroid.to_crs("EPSG:4326")


if __name__ == "__main__":
    shared = Path(os.environ.get("GEOMAP_SHARED", "../shared/data"))
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else shared / "boundaries")
