import json
import pickle
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

import numpy as np
import pystac
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from geomap.errors import ImageryError
from geomap.grid import grid_from_bbox
from geomap.imagery import ImagerySource, centres_lonlat, open_imagery, require_bands, require_cover
from geomap.stac_items import boxes_of
from geomap.testing import file_server, http_server, write_raster

BOX = GeoBox((20, 40), Affine(2000, 0, -40_000, 0, -2000, 20_000), "EPSG:3310")
POINT = {"type": "Point", "coordinates": [180, -15]}
PACIFIC = "+proj=cea +lat_ts=30 +lon_0=180 +datum=WGS84"

# name: day, left and right in EPSG:3310 [m], the value of its first band
ITEMS = {
    "old": (2021, -60_000, 60_000, 10.0),
    "west": (2022, -60_000, 0, 20.0),
    "new": (2023, -20_000, 20_000, 30.0),
}


def one_item(folder, name, year, left, right, value):
    """An item with a real COG of three bands, a one-band raster, and a thumbnail that is no imagery."""
    bounds = (left, -40_000, right, 40_000)
    shape = (80, (right - left) // 1000)
    bands = value + np.arange(3)[:, None, None] + np.zeros((3, *shape))
    common = {"nodata": 0, "cog": True, "blocksize": 128}
    write_raster(folder / f"{name}.tif", "EPSG:3310", bounds, shape, 3, bands, **common)
    write_raster(folder / f"{name}-nir.tif", "EPSG:3310", bounds, shape, 1, bands[:1] + 50, **common)
    x, y = np.meshgrid(np.linspace(left, right, 9), np.linspace(-40_000, 40_000, 9))
    lon, lat = Transformer.from_crs(3310, 4326, always_xy=True).transform(x, y)
    bbox = [float(v) for v in (lon.min(), lat.min(), lon.max(), lat.max())]
    ring = [[bbox[i], bbox[j]] for i, j in ((0, 1), (2, 1), (2, 3), (0, 3), (0, 1))]
    item = pystac.Item(
        name, {"type": "Polygon", "coordinates": [ring]}, bbox, datetime(year, 6, 1, tzinfo=UTC), {}
    )
    for key, file, roles in [
        ("rgb", f"{name}.tif", ["data"]),
        ("nir", f"{name}-nir.tif", ["data"]),
        ("thumbnail", f"{name}.png", ["thumbnail"]),
    ]:
        item.add_asset(key, pystac.Asset(str(folder / file), roles=roles))
    return item


@pytest.fixture
def folder(tmp_path):
    """A static catalogue with a collection of three items, all links relative."""
    items = [one_item(tmp_path, name, *rest) for name, rest in ITEMS.items()]
    boxes = np.array([item.bbox for item in items])
    space = pystac.SpatialExtent([[*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]])
    time = pystac.TemporalExtent([[items[0].datetime, None]])
    plots = pystac.Collection("plots", "squares", pystac.Extent(space, time))
    plots.add_items(items)
    catalog = pystac.Catalog("root", "a catalogue")
    catalog.add_child(plots)
    catalog.normalize_hrefs(str(tmp_path))
    catalog.make_all_asset_hrefs_relative()
    catalog.save(pystac.CatalogType.SELF_CONTAINED)
    return tmp_path


@contextmanager
def api(items, page=2):
    """A STAC API with a collection and paged search; yields its address and the searches it saw."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self.reply(urlsplit(self.path).path, {})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(urlsplit(self.path).path, json.loads(body))

        def reply(self, path, asked):
            base = f"http://{self.headers['Host']}"
            answer = {"/": self.landing, "/collections/plots": self.plots, "/search": self.search}.get(path)
            body = json.dumps(answer(base, asked) if answer else {"code": "NotFound"}).encode()
            self.send_response(200 if answer else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def landing(self, base, asked):
            conforms = ["core", "collections", "item-search", "ogcapi-features"]
            links = [("self", "/"), ("root", "/"), ("data", "/collections")]
            geojson = {"type": "application/geo+json"}
            return {
                "type": "Catalog", "stac_version": "1.1.0", "id": "api", "description": "an API",
                "conformsTo": [f"https://api.stacspec.org/v1.0.0/{name}" for name in conforms],
                "links": [{"rel": rel, "href": base + path} for rel, path in links]
                + [{"rel": "search", "href": f"{base}/search", "method": "POST", **geojson}],
            }  # fmt: skip

        def plots(self, base, asked):
            boxes = np.array([item["bbox"] for item in items])
            space = [[*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()]]
            time = [["2021-01-01T00:00:00Z", None]]
            return {
                "type": "Collection", "stac_version": "1.0.0", "id": "plots", "description": "squares",
                "license": "CC0-1.0", "links": [{"rel": "self", "href": f"{base}/collections/plots"}],
                "extent": {"spatial": {"bbox": space}, "temporal": {"interval": time}},
            }  # fmt: skip

        def search(self, base, asked):
            seen.append(asked)
            start, end = (asked.get("datetime") or "0000/9999").split("/")
            west, south, east, north = asked.get("bbox") or (-180, -90, 180, 90)
            found = [
                item for item in items
                if item["bbox"][0] <= east and item["bbox"][2] >= west
                and item["bbox"][1] <= north and item["bbox"][3] >= south
                and start <= item["properties"]["datetime"] and item["properties"]["datetime"] <= end
                and "plots" in asked.get("collections", ["plots"])
            ]  # fmt: skip
            first = asked.get("token", 0)
            links = [{"rel": "next", "href": f"{base}/search", "method": "POST", "merge": True,
                      "body": {"token": first + page}}] if first + page < len(found) else []  # fmt: skip
            return {"type": "FeatureCollection", "features": found[first : first + page], "links": links}

    with http_server(Handler) as url:
        yield url, seen


def features(folder, address):
    """The items of the folder as an API gives them, their rasters behind `address`."""
    found = []
    for name in ITEMS:
        item = json.loads((folder / "plots" / name / f"{name}.json").read_text())
        item["links"] = []
        for asset in item["assets"].values():
            asset["href"] = f"{address}/{asset['href'].rsplit('/', 1)[-1]}"
        found.append(item)
    return found


@pytest.fixture
def served(folder):
    """Address of the API, the searches it saw, and address of the static files."""
    with file_server(folder) as files, api(features(folder, files)) as (url, seen):
        yield url, seen, files


def expected_first():
    """The first band of the newest item at each pixel of BOX."""
    x = -40_000 + 2000 * (np.arange(40) + 0.5)
    line = np.where(np.abs(x) < 20_000, 30.0, np.where(x < 0, 20.0, 10.0))
    return np.broadcast_to(line, (20, 40))


def check_first(source):
    values, valid = source.read(BOX)
    assert valid.all() and values.dtype == np.float32
    for band in range(3):
        np.testing.assert_allclose(values[band], expected_first() + band, rtol=0, atol=1e-4)


def test_static_catalogue_collection_and_item(folder):
    check_first(open_imagery(f"{folder}/catalog.json#assets=rgb"))
    check_first(open_imagery(f"stac+{folder}/plots/collection.json#assets=rgb"))
    item = open_imagery(f"{folder}/plots/west/west.json#assets=rgb")
    values, valid = item.read(BOX)
    assert valid[:, :20].all() and not valid[:, 20:].any()
    assert np.unique(values[0]).tolist() == [0.0, 20.0]


def test_static_catalogue_behind_a_url(folder):
    with file_server(folder) as url:
        check_first(open_imagery(f"{url}/catalog.json#assets=rgb"))


def test_api(served):
    url, seen, _ = served
    source = open_imagery(f"stac+{url}#collection=plots&assets=rgb")
    assert isinstance(source, ImagerySource) and source.bands == 3
    check_first(source)
    assert seen[-1]["collections"] == ["plots"]
    west, south, east, north = seen[-1]["bbox"]
    lonlat = centres_lonlat(BOX).reshape(-1, 2)
    assert (lonlat > (west, south)).all() and (lonlat < (east, north)).all()
    assert east - west < 1.2 and north - south < 0.6  # not the world


def test_api_items_of_a_time(served):
    url, seen, _ = served
    values, valid = open_imagery(f"stac+{url}#assets=rgb&datetime=2021/2022").read(BOX)
    assert valid.all()
    assert values[0, 0].tolist() == [20.0] * 20 + [10.0] * 20
    assert seen[-1]["datetime"] == "2021-01-01T00:00:00Z/2022-12-31T23:59:59Z"


@pytest.mark.parametrize(
    ("wanted", "days"),
    [
        ("2022", {"west"}),
        ("2022-06-01", {"west"}),
        ("2022-07", set()),
        ("2022/..", {"west", "new"}),
        ("../2022-06", {"old", "west"}),
        ("2021-07/2023", {"west", "new"}),
    ],
)
def test_static_items_of_a_time(folder, wanted, days):
    address = f"{folder}/catalog.json#assets=rgb&datetime={wanted}"
    if days:
        assert {item.id for item in open_imagery(address).items} == days
    else:
        with pytest.raises(ImageryError, match=rf"no item in {wanted}"):
            open_imagery(address)


def test_median(folder, served):
    url, _, _ = served
    for address in (f"{folder}/catalog.json", f"stac+{url}"):
        values, valid = open_imagery(f"{address}#assets=rgb&composite=median").read(BOX)
        assert valid.all()
        assert (
            values[0, 3].tolist() == [15.0] * 10 + [20.0] * 20 + [10.0] * 10
        )  # of 10 20, 10 20 30 or 10 30, 10
        assert values[2, 3].tolist() == [17.0] * 10 + [22.0] * 20 + [12.0] * 10


def test_assets_are_joined_and_bands_chosen(folder):
    both = open_imagery(f"{folder}/catalog.json#assets=nir,rgb")
    assert both.bands == 4
    assert both.read(BOX)[0][:, 0, 20].tolist() == [80.0, 30.0, 31.0, 32.0]
    some = open_imagery(f"{folder}/catalog.json#assets=nir,rgb", bands=[4, 1])
    assert some.read(BOX)[0][:, 0, 20].tolist() == [32.0, 80.0]
    require_bands(some, 2)
    with pytest.raises(ImageryError, match=r"bands 1 to 4"):
        open_imagery(f"{folder}/catalog.json#assets=nir,rgb", bands=[5])


def test_windows_and_copies_give_the_same(folder):
    source = open_imagery(f"{folder}/catalog.json#assets=rgb&composite=median")
    assert len(pickle.dumps(source)) < 10_000
    copy = pickle.loads(pickle.dumps(source))
    box = GeoBox((30, 44), Affine(2700, 0, -11_600_000, 0, -2700, 4_610_000), "EPSG:6933")
    whole, valid = source.read(box)
    assert valid.any() and not valid.all()
    part, has = copy.read(box[5:17, 8:40])
    assert np.array_equal(has, valid[5:17, 8:40])
    np.testing.assert_allclose(part, whole[:, 5:17, 8:40], rtol=0, atol=1e-3)


def test_identity(folder, served):
    url, _, _ = served
    addresses = [
        f"{folder}/catalog.json#assets=rgb",
        f"{folder}/catalog.json#assets=nir",
        f"stac+{url}#assets=rgb",
    ]
    addresses += [
        f"{folder}/catalog.json#assets=rgb&composite=median",
        f"{folder}/plots/old/old.json#assets=rgb",
    ]
    ids = [open_imagery(address).id for address in addresses]
    assert len(set(ids)) == len(ids)
    assert all(str(folder) not in name for name in ids)
    assert ids[0] == open_imagery(addresses[0]).id


def test_cover(folder, served):
    url, _, _ = served
    here, away = (
        grid_from_bbox(-120.3, 37.8, -119.7, 38.2, resolution=5000),
        grid_from_bbox(-117, 34, -116, 35),
    )
    for address in (f"{folder}/catalog.json#assets=rgb", f"stac+{url}#collection=plots&assets=rgb"):
        source = open_imagery(address)
        require_cover(source, here)
        with pytest.raises(ImageryError, match=away.name):
            require_cover(source, away)
    values, valid = source.read(away.window_geobox())
    assert not valid.any() and not values.any()


def test_across_the_antimeridian(tmp_path):
    tides = [(170, 180, 1.0, "a"), (-180, -170, 2.0, "b")]
    catalog = pystac.Catalog("root", "two sides")
    for west, east, value, name in tides:
        write_raster(
            tmp_path / f"{name}.tif",
            "EPSG:4326",
            (west, -20, east, -10),
            (100, 100),
            1,
            np.full((1, 100, 100), value),
        )
        item = pystac.Item(name, POINT, [west, -20, east, -10], datetime(2020, 1, 1, tzinfo=UTC), {})
        item.add_asset("data", pystac.Asset(str(tmp_path / f"{name}.tif")))
        catalog.add_item(item)
    write_raster(
        tmp_path / "c.tif", "EPSG:3832", (3.2e6, -3e6, 3.5e6, -2.3e6), (70, 30), 1, np.full((1, 70, 30), 3.0)
    )
    item = pystac.Item("c", POINT, [178.7, -26, -178.5, -20.2], datetime(2021, 1, 1, tzinfo=UTC), {})
    item.add_asset("data", pystac.Asset(str(tmp_path / "c.tif")))
    catalog.add_item(item)
    catalog.normalize_and_save(str(tmp_path), pystac.CatalogType.SELF_CONTAINED)
    source = open_imagery(tmp_path / "catalog.json")
    box = GeoBox((8, 100), Affine(10_000, 0, -500_000, 0, -10_000, -1_500_000), PACIFIC)
    values, valid = source.read(box)
    assert valid.all()
    assert values[0, 0].tolist() == [1.0] * 50 + [2.0] * 50
    south = GeoBox((4, 4), Affine(10_000, 0, -20_000, 0, -10_000, -2_600_000), PACIFIC)
    assert (source.read(south)[0] == 3).all()
    assert source.covers(np.array([[179.0, -23.0], [-179.0, -23.0], [170.0, -23.0]])).tolist() == [
        True,
        True,
        False,
    ]


def test_boxes_of_geoboxes():
    (box,) = boxes_of(BOX)
    lonlat = centres_lonlat(BOX).reshape(-1, 2)
    assert (lonlat > box[:2]).all() and (lonlat < box[2:]).all()
    two = boxes_of(GeoBox((10, 10), Affine(1e5, 0, -5e5, 0, -1e5, 5e5), PACIFIC))
    assert [(round(b[0]), round(b[2])) for b in two] == [(174, 180), (-180, -174)]  # 5 degrees and some room
    assert boxes_of(GeoBox((10, 10), Affine(1e5, 0, -5e5, 0, -1e5, 5e5), "EPSG:3031"))[0][::2] == (
        -180.0,
        180.0,
    )
    assert boxes_of(GeoBox((2, 2), Affine(1e3, 0, 0, 0, -1e3, 9e9), "EPSG:6933")) == []


def test_unknown_assets_and_options_are_refused(folder):
    address = f"{folder}/catalog.json"
    with pytest.raises(ImageryError, match=r"which asset to read.*rgb, nir, thumbnail"):
        open_imagery(address)
    with pytest.raises(ImageryError, match=r"cannot find the assets red.*rgb, nir"):
        open_imagery(f"{address}#assets=red")
    with pytest.raises(ImageryError, match=r"'colour=red'.*collection, assets, datetime, composite"):
        open_imagery(f"{address}#colour=red")
    with pytest.raises(ImageryError, match=r"'mean'.*first or median"):
        open_imagery(f"{address}#composite=mean")
    with pytest.raises(ImageryError, match=r"no item of nothing"):
        open_imagery(f"{address}#collection=nothing&assets=rgb")


def test_items_that_differ_are_refused(folder):
    write_raster(
        folder / "new.tif", "EPSG:3310", (-20_000, -40_000, 20_000, 40_000), (80, 40), 1, np.ones((1, 80, 40))
    )
    source = open_imagery(f"{folder}/catalog.json#assets=rgb")
    with pytest.raises(ImageryError, match=r"item .* has .*, others"):
        source.read(BOX)


def test_missing_and_broken_rasters_are_refused(folder):
    source = open_imagery(f"{folder}/plots/west/west.json#assets=rgb")
    (folder / "west.tif").write_bytes((folder / "west.tif").read_bytes()[:2000])
    with pytest.raises(ImageryError, match=r"west\.tif"):
        source.read(BOX)
    (folder / "old-nir.tif").unlink()
    with pytest.raises(ImageryError, match=r"old-nir\.tif"):
        open_imagery(f"{folder}/plots/old/old.json#assets=nir")


def test_servers_that_do_not_answer_are_refused(folder, served):
    url, _, files = served
    with http_server(BaseHTTPRequestHandler) as gone:
        pass
    for address in (
        f"stac+{gone}",
        f"stac+{gone}/catalog.json",
        f"stac+{files}/nothing",
        f"stac+{url}/nothing",
    ):
        with pytest.raises(ImageryError, match=r"cannot read the STAC catalogue.*Check the address"):
            open_imagery(address)
    with pytest.raises(ImageryError, match=r"STAC"):
        open_imagery(folder / "none.json")
    (folder / "text.json").write_text('{"type": "FeatureCollection"')
    with pytest.raises(ImageryError, match=r"text\.json"):
        open_imagery(folder / "text.json")
    with pytest.raises(ImageryError, match=r"nothing"):
        open_imagery(f"stac+{url}#collection=nothing")


def test_a_server_that_goes_away_is_refused(folder):
    with file_server(folder) as files, api(features(folder, files)) as (url, _):
        source = open_imagery(f"stac+{url}#assets=rgb")
    with pytest.raises(ImageryError, match=r"cannot read the STAC catalogue"):
        source.read(BOX)


def test_too_many_items_are_refused(served, monkeypatch):
    url, _, _ = served
    source = open_imagery(f"stac+{url}#assets=rgb")
    monkeypatch.setattr("geomap.stac_imagery.MOST_ITEMS", 2)
    with pytest.raises(ImageryError, match=r"more than 2 items.*datetime"):
        source.read(BOX)
