"""STAC: valid against the core schemas, extension fields as their specifications say, footprints."""

import hashlib
import json
import math

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from odc.geo.geobox import GeoBox
from pystac.stac_object import STACObjectType
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from rasterio import Affine

from geomap.cog import NODATA, CogSpec, to_steps, write_cog
from geomap.entries import Score, SpeciesEntry, Threshold
from geomap.facts import tally
from geomap.footprint import footprint
from geomap.grid import grid_from_bbox, named_grid
from geomap.stac import UNDATED, MapRecord, make_collection, make_item, period, spdx, to_json, with_preview

BOX = GeoBox((40, 60), Affine(1000, 0, -200_000, 0, -1000, 100_000), "EPSG:3310")
ENTRY = SpeciesEntry(
    "birds", 3, "Chamaea fasciata", "Wrentit", "probability", 321,
    {"mtp": Threshold(0.1, 0.0), "p10": Threshold(0.2, 0.1), "lpt5": Threshold(0.15, 0.05),
     "maxsss": Threshold(math.nan, math.nan)},
    {"auc": Score(0.95, 0.9), "ap": Score(0.7, 0.6), "brier": Score(0.05, 0.07),
     "boyce": Score(math.nan, math.nan)},
    55,
)  # fmt: skip
DATA = {"credit": "Some survey", "licence": "CC-BY-NC-4.0", "period": ["2001-05-24", "2015-07-09"]}


def assert_valid(document, kind):
    """Against pystac's own copies of the core schemas; nothing is fetched."""
    told = JsonSchemaSTACValidator().validate_core(document, kind, "1.1.0")
    assert told is not None


def test_the_check_itself_finds_what_is_wrong(item):
    with pytest.raises(pystac.STACValidationError):
        assert_valid({**item, "geometry": "everywhere"}, STACObjectType.ITEM)
    undated = {**item["properties"], "start_datetime": None}
    with pytest.raises(pystac.STACValidationError):
        assert_valid({**item, "properties": undated}, STACObjectType.ITEM)


@pytest.fixture
def made(tmp_path):
    valid = np.zeros(BOX.shape, bool)
    valid[5:30, 10:50] = True
    steps = to_steps(np.linspace(0, 1, valid.size, dtype=np.float32).reshape(valid.shape), valid)
    path = tmp_path / "chamaea-fasciata.tif"
    write_cog(path, [(0, steps)], CogSpec(BOX, "x", "probability", {}))
    facts = tally([(steps[valid], np.full(valid.sum(), 1.0))])
    record = MapRecord(
        ENTRY, "somewhere", BOX, facts, {"GEOMAP_MODEL": "birds 1", "GEOMAP_INPUTS": "ab"}, DATA
    )
    return record, path


@pytest.fixture
def item(made):
    return make_item(*made)


def test_item_is_valid(item):
    assert_valid(item, STACObjectType.ITEM)
    assert item["stac_version"] == "1.1.0"
    read = pystac.Item.from_dict(item)
    assert read.id == "chamaea-fasciata"
    assert (item["properties"]["start_datetime"], item["properties"]["end_datetime"]) == (
        "2001-05-24T00:00:00Z",
        "2015-07-09T23:59:59Z",
    )
    assert {link["rel"]: link["href"] for link in item["links"]} == dict.fromkeys(
        ("root", "parent", "collection"), "./collection.json"
    )


def test_every_extension_that_is_used_is_declared_and_the_other_way_round(item):
    declared = {uri.split("/")[3] + uri.split("/")[4] for uri in item["stac_extensions"]}
    assert declared == {"projectionv2.0.0", "filev2.1.0", "rasterv2.0.0", "renderv2.0.0"}
    used = {
        key.partition(":")[0]
        for part in (item["properties"], item["assets"]["map"])
        for key in part
        if ":" in key
    }
    assert used == {"proj", "file", "raster", "geomap"}


def test_projection_is_that_of_the_file(item, made):
    said = item["properties"]
    with rasterio.open(made[1]) as source:
        assert said["proj:code"] == f"EPSG:{source.crs.to_epsg()}"
        assert tuple(said["proj:shape"]) == source.shape
        assert tuple(said["proj:transform"]) == tuple(source.transform)[:6]
        assert tuple(said["proj:bbox"]) == tuple(source.bounds)


def test_file_and_raster_fields(item, made):
    asset = item["assets"]["map"]
    data = made[1].read_bytes()
    assert asset["file:size"] == len(data)
    assert asset["file:checksum"] == "1220" + hashlib.sha256(data).hexdigest()
    assert asset["type"] == "image/tiff; application=geotiff; profile=cloud-optimized"
    (band,) = asset["bands"]
    with rasterio.open(made[1]) as source:
        values = source.read(1, masked=True)
        assert band["data_type"] == source.dtypes[0]
        assert band["nodata"] == source.nodata == NODATA
    assert band["unit"] == "probability"
    assert band["statistics"]["minimum"] == pytest.approx(values.min(), abs=1e-6)
    assert band["statistics"]["maximum"] == pytest.approx(values.max(), abs=1e-6)
    assert band["statistics"]["mean"] == pytest.approx(values.mean(), abs=1e-5)
    assert band["statistics"]["valid_percent"] == pytest.approx(100 * values.count() / values.size, abs=1e-3)
    assert asset["raster:spatial_resolution"] == 1000


def test_render_fields(item):
    """Fixed from 0 to 1 for every species, by a ramp that TiTiler knows."""
    from rio_tiler.colormap import cmap

    render = item["properties"]["renders"]["map"]
    assert render["assets"] == ["map"]
    assert render["rescale"] == [[0.0, 1.0]]
    assert render["nodata"] == NODATA
    assert len(cmap.get(render["colormap_name"])) == 256


def test_thresholds_scores_and_unknown_values(item, made):
    said = item["properties"]
    assert said["geomap:thresholds"]["p10"] == {
        "value": 0.2,
        "omission": 0.1,
        "area_km2": pytest.approx(made[0].facts.area_above(0.2)),
    }
    assert said["geomap:thresholds"]["maxsss"] == {"value": None, "omission": None, "area_km2": None}
    assert said["geomap:scores"]["auc"] == {"value": 0.95, "null": 0.9}
    assert said["geomap:scores"]["boyce"] == {"value": None, "null": None}
    assert "probability" in said["description"].lower()


def test_same_map_same_text(made):
    assert to_json(make_item(*made)) == to_json(make_item(*made))
    json.loads(to_json(make_item(*made)), parse_constant=pytest.fail)  # neither NaN nor Infinity


def test_preview_is_an_asset(item, tmp_path):
    (tmp_path / "chamaea-fasciata.png").write_bytes(b"png")
    more = with_preview(item, tmp_path / "chamaea-fasciata.png")
    assert_valid(more, STACObjectType.ITEM)
    assert more["assets"]["preview"]["href"] == "./chamaea-fasciata.png"
    assert "preview" not in item["assets"]


def test_collection_is_valid_and_links_all(item):
    other = json.loads(json.dumps(item).replace("chamaea-fasciata", "aaa-bbb"))
    other["properties"] |= {"geomap:meaning": "suitability", "start_datetime": "1990-01-01T00:00:00Z"}
    collection = make_collection("somewhere", [item, other], BOX)
    assert_valid(collection, STACObjectType.COLLECTION)
    assert [link["href"] for link in collection["links"] if link["rel"] == "item"] == [
        "./aaa-bbb.json",
        "./chamaea-fasciata.json",
    ]
    assert collection["id"] == item["collection"]
    assert collection["license"] == "CC-BY-NC-4.0"
    assert collection["extent"]["temporal"]["interval"] == [["1990-01-01T00:00:00Z", "2015-07-09T23:59:59Z"]]
    assert collection["summaries"]["geomap:meaning"] == ["probability", "suitability"]
    assert pystac.Collection.from_dict(collection).extent.spatial.bboxes[0] == item["bbox"]


def test_records_without_dates_are_undated(made):
    assert period({}) == (UNDATED, UNDATED)
    undated = MapRecord(**{**vars(made[0]), "data": {}})
    item = make_item(undated, made[1])
    assert_valid(item, STACObjectType.ITEM)
    assert "Nothing is known of when" in item["properties"]["description"]
    assert item["properties"]["license"] == "other"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("CC BY-NC 4.0", "CC-BY-NC-4.0"),
        ("CC0-1.0", "CC0-1.0"),
        ("", "other"),
        ("as each record says; see GBIF", "other"),
        ("CC BY 4.0, some CC0", "other"),
    ],
)
def test_licence_is_one_that_stac_takes(made, said, told):
    assert spdx(said) == told
    item = make_item(MapRecord(**{**vars(made[0]), "data": {"licence": said}}), made[1])
    assert item["properties"]["license"] == told
    assert_valid(item, STACObjectType.ITEM)


def shape_of(geobox):
    geometry, bbox = footprint(geobox)
    shape = shapely.geometry.shape(geometry)
    assert shape.is_valid
    return shape, bbox


def test_footprint_of_california_holds_its_cells():
    grid = named_grid("california", 20_000)
    shape, bbox = shape_of(grid.geobox)
    lonlat = grid.cell_lonlat().reshape(-1, 2)
    assert shapely.contains_xy(shape, lonlat).all()
    assert bbox == pytest.approx(shape.bounds)
    assert shape.exterior.is_ccw


def test_footprint_across_the_antimeridian_is_cut():
    grid = grid_from_bbox(170, -25, -170, -10, resolution=50_000)
    shape, (west, south, east, north) = shape_of(grid.geobox)
    assert shape.geom_type == "MultiPolygon"
    assert len(shape.geoms) == 2
    assert west == pytest.approx(170, abs=1)
    assert east == pytest.approx(-170, abs=1)
    assert (south < -25, north > -10) == (True, True)
    assert shapely.contains_xy(shape, grid.cell_lonlat().reshape(-1, 2)).all()
    assert shape.area == pytest.approx((360 + east - west) * (north - south), rel=0.01)


@pytest.mark.parametrize("resolution", [25_000, 100_000])
def test_footprint_of_the_world(resolution):
    shape, bbox = shape_of(named_grid("global", resolution).geobox)
    assert bbox == pytest.approx([-180, -90, 180, 90], abs=1e-5)
    assert shape.area == pytest.approx(360 * 180, rel=1e-6)


def test_footprint_that_holds_a_pole():
    box = GeoBox((100, 100), Affine(50_000, 0, -2_500_000, 0, -50_000, 2_500_000), "EPSG:3413")
    shape, bbox = shape_of(box)
    assert (bbox[0], bbox[2], bbox[3]) == (-180, 180, 90)
    assert bbox[1] < 70
    assert shapely.contains_xy(shape, 10, 89.9)
    south = GeoBox((100, 100), box.affine, "EPSG:3031")
    assert shape_of(south)[1][1] == -90
