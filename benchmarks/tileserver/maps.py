"""Maps for benchmarks/tiles.py: rendered from the bundle, and the same warped to EPSG:3857.

    python benchmarks/tileserver/maps.py WORK [--species 20] [--made-up RESOLUTION]

Writes WORK/maps/california and WORK/maps/california-3857 as `python -m tiles --maps WORK/maps` serves them,
unless they are there already. Without a shipped bundle, or with --made-up, heads and field are made up in
WORK/bundle. Prints one JSON line: the folder of the bundle, and the ids of species with and without a file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rasterio
import rasterio.shutil
from odc.geo.geobox import GeoBox
from rasterio.vrt import WarpedVRT
from rich.console import Console

from geomap.catalog import Catalog, bundle_path
from geomap.cog import LAYOUT, NODATA
from geomap.field import open_field
from geomap.fieldstore import pack_field
from geomap.footprint import footprint
from geomap.heads import save_heads
from geomap.rendering import Request, render_maps
from geomap.stac import checksum, make_collection, to_json
from geomap.target import FieldOptions
from geomap.testing_bundle import make_heads, small_california, write_field

GROUP = "california-plants"
FIELD = "fields/california.zarr.zip"
MERCATOR = "california-3857"


def make_up(bundle: Path, resolution: float, count: int) -> None:
    """A bundle of one group of random heads on a smooth field in cells of `resolution` metres."""
    species = [(f"Planta {chr(97 + k // 26)}{chr(97 + k % 26)}", "", "") for k in range(count)]
    plain, packed = bundle / "plain.zarr", bundle / FIELD
    packed.parent.mkdir(parents=True)
    write_field(plain, small_california(resolution))
    pack_field(plain, packed)
    shutil.rmtree(plain)
    save_heads(make_heads(GROUP, "suitability", species, open_field(packed)), bundle / "heads" / GROUP)


def render(names: Sequence[str], maps: Path) -> None:
    """The maps of some species by geomap's own function, and beside them the warped ones."""
    where = FieldOptions(bundle_path() / FIELD, None, maps.parent / "fields")
    request = Request(tuple(names), maps, GROUP, None, where)
    outcome = render_maps(request, Console(file=sys.stderr, quiet=True))
    warp(outcome.items, outcome.folder, maps / MERCATOR)


def warp(items: Mapping[str, Mapping[str, Any]], source: Path, target: Path) -> None:
    """Maps in EPSG:3857 by nearest neighbour, with the layout of the others, their Items and Collection."""
    target.mkdir(exist_ok=True)
    made = []
    for slug, item in items.items():
        tif = target / f"{slug}.tif"
        with (
            rasterio.open(source / tif.name) as plain,
            WarpedVRT(plain, crs="EPSG:3857", nodata=NODATA) as warped,
        ):
            box = GeoBox(warped.shape, warped.transform, "EPSG:3857")
            rasterio.shutil.copy(warped, tif, driver="COG", **LAYOUT)
        made.append(moved(item, box, tif))
        tif.with_suffix(".json").write_text(to_json(made[-1]), encoding="utf-8")
    collection = to_json(make_collection(MERCATOR, made, box))
    (target / "collection.json").write_text(collection, encoding="utf-8")


def moved(item: Mapping[str, Any], box: GeoBox, tif: Path) -> dict[str, Any]:
    """An Item for the same map on other cells."""
    geometry, bbox = footprint(box)
    place = {
        "geomap:grid": MERCATOR,
        "proj:code": "EPSG:3857",
        "proj:shape": list(box.shape),
        "proj:transform": list(box.affine)[:6],
        "proj:bbox": list(box.boundingbox.bbox),
    }
    asset = item["assets"]["map"] | {"file:size": tif.stat().st_size, "file:checksum": checksum(tif)}
    return {
        **item,
        "geometry": geometry,
        "bbox": bbox,
        "collection": f"geomap-{MERCATOR}",
        "properties": item["properties"] | place,
        "assets": {"map": asset},
    }


def main() -> None:
    """Make what is missing and print the line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--species", type=int, default=20, help="how many get a file")
    parser.add_argument("--made-up", type=float, help="make up a bundle with cells of so many metres")
    args = parser.parse_args()
    shipped = args.made_up is None and (bundle_path() / FIELD).is_file()
    if not shipped:
        bundle = args.work / "bundle"
        if not (bundle / "heads" / GROUP / "card.json").is_file():
            shutil.rmtree(bundle, ignore_errors=True)
            make_up(bundle, args.made_up or 1_000.0, 3 * args.species)
        os.environ["GEOMAP_BUNDLE"] = str(bundle)
    entries = Catalog.open(GROUP).entries()
    chosen, others = entries[: args.species], entries[args.species :]
    if not (args.work / "maps" / MERCATOR / "collection.json").is_file():
        render([entry.scientific for entry in chosen], args.work / "maps")
    said = {"stored": [each.slug for each in chosen], "live": [each.slug for each in others]}
    print(json.dumps({"bundle": str(bundle_path()), "shipped": shipped, **said}))


if __name__ == "__main__":
    main()
