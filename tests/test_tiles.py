"""The tile server against maps that are read back with rasterio, and against what it must refuse."""

from __future__ import annotations

import io
import json
import logging
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import httpx
import morecantile
import numpy as np
import pyproj
import pystac
import pytest
import rasterio
from fastapi.testclient import TestClient
from PIL import Image

from geomap import render
from geomap.colour import CLEAR, STEPS, legend, palette
from geomap.grid import named_grid
from geomap.testing import write_raster
from geomap.testing_bundle import make_bundle
from tiles.__main__ import listening, main
from tiles.app import create_app
from tiles.library import MapFile, maps_of
from tiles.settings import Settings, SettingsError, from_environment

TMS = morecantile.tms.get("WebMercatorQuad")
POPPY = "eschscholzia-californica"
WREN = "chamaea-fasciata"
# Part of California on its grid: 60 x 80 cells of 10 km, of which the left quarter is nodata.
BOUNDS = (-200_000.0, -500_000.0, 600_000.0, 100_000.0)
SHAPE = (60, 80)


def values() -> np.ndarray:
    """(1, 60, 80) suitability that grows to the east and south, to four decimals, with nodata on the left."""
    rows, cols = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    plane = np.round((rows + cols) / (sum(SHAPE) - 2), 4).astype("float32")
    plane[:, :20] = -9999
    return plane[None]


def add_map(root: Path, slug: str, title: str, grid: str = "california") -> Path:
    """Write a map as `geomap.render` lays it out, and renew its grid's collection."""
    folder = root / grid
    folder.mkdir(parents=True, exist_ok=True)
    cog = write_raster(folder / f"{slug}.tif", "EPSG:3310", BOUNDS, SHAPE, 1, values(), -9999, cog=True)
    item = pystac.Item(
        id=slug,
        geometry={"type": "Point", "coordinates": [-119, 37]},
        bbox=[-119, 37, -119, 37],
        datetime=pystac.utils.str_to_datetime("2024-01-01T00:00:00Z"),
        properties={"title": title, "meaning": "suitability"},
    )
    item.add_asset("map", pystac.Asset(href=f"./{slug}.tif"))
    (folder / f"{slug}.json").write_text(json.dumps(item.to_dict(include_self_link=False)))
    links = [{"rel": "root", "href": "./collection.json"}]
    for written in sorted(set(folder.glob("*.json")) - {folder / "collection.json"}):
        name = json.loads(written.read_text())["properties"]["title"]
        links.append({"rel": "item", "href": f"./{written.name}", "title": name})
    collection = {"type": "Collection", "id": grid, "links": links}
    (folder / "collection.json").write_text(json.dumps(collection))
    return cog


@pytest.fixture
def maps(tmp_path):
    root = tmp_path / "maps"
    add_map(root, POPPY, "Eschscholzia californica")
    add_map(root, WREN, "Chamaea <fasciata>")
    return root


@pytest.fixture
def client(maps):
    return TestClient(create_app(Settings(maps=maps)))


def at(lon: float, lat: float, path: Path) -> float | None:
    """The oracle: the value of the cell that holds a place, read with rasterio."""
    with rasterio.open(path) as source:
        x, y = pyproj.Transformer.from_crs(4326, source.crs, always_xy=True).transform(lon, lat)
        row, col = source.index(x, y)
        value = source.read(1)[row, col]
        return None if value == source.nodata else float(value)


def test_list_has_every_map_with_addresses_that_answer(client):
    answer = client.get("/species").json()
    assert [(entry["id"], entry["name"], entry["grid"]) for entry in answer["species"]] == [
        (WREN, "Chamaea <fasciata>", "california"),
        (POPPY, "Eschscholzia californica", "california"),
    ]
    assert answer["legend"] == [list(stop) for stop in legend()]
    for entry in answer["species"]:
        for key in ("item", "tilejson", "preview"):
            assert client.get(entry[key]).status_code == 200


def test_item_is_the_one_that_was_written(client, maps):
    written = json.loads((maps / "california" / f"{POPPY}.json").read_text())
    assert client.get(f"/species/{POPPY}").json() == written


def test_point_is_the_value_of_its_cell(client, maps):
    cog = maps / "california" / f"{POPPY}.tif"
    for lon, lat in [(-119.5, 36.0), (-117.0, 34.2), (-114.5, 38.7)]:
        expected = at(lon, lat, cog)
        assert expected is not None
        answer = client.get(f"/species/{POPPY}/point/{lon},{lat}").json()
        assert answer["values"] == [pytest.approx(expected, abs=1e-6)]
        assert answer["coordinates"] == [lon, lat]


@pytest.mark.parametrize(
    "lon, lat", [(-122.2, 36.0), (10.0, 50.0), (180.0, 0.0), (-180.0, -90.0), (0.0, 90.0)]
)
def test_point_without_data_has_no_value(client, lon, lat):
    answer = client.get(f"/species/{POPPY}/point/{lon},{lat}")
    assert (answer.status_code, answer.json()["values"]) == (200, [None])


@pytest.mark.parametrize("place", ["181,0", "0,91", "nan,0", "0,inf", "1e300,0"])
def test_point_off_the_earth_is_refused(client, place):
    answer = client.get(f"/species/{POPPY}/point/{place}")
    assert answer.status_code == 422
    assert "Give lon within -180..180" in answer.json()["change"]


@pytest.mark.parametrize("zoom", [5, 7, 9])
@pytest.mark.parametrize("side", [256, 512])
def test_tile_has_the_palette_colour_of_every_place(client, maps, zoom, side):
    cog = maps / "california" / f"{POPPY}.tif"
    tile = TMS.tile(-117.0, 35.0, zoom)
    address = f"/species/{POPPY}/tiles/WebMercatorQuad/{zoom}/{tile.x}/{tile.y}?tilesize={side}"
    answer = client.get(address)
    assert answer.headers["content-type"] == "image/png"
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.size == (side, side)
    entries = np.asarray(picture)
    box = TMS.xy_bounds(tile)
    to_lonlat = pyproj.Transformer.from_crs(3857, 4326, always_xy=True)
    to_map = pyproj.Transformer.from_crs(4326, 3310, always_xy=True)
    compared = 0
    with rasterio.open(cog) as source:
        plane = source.read(1)
        for row in range(8, side, side // 16):
            for col in range(8, side, side // 16):
                x = box.left + (col + 0.5) / side * (box.right - box.left)
                y = box.top - (row + 0.5) / side * (box.top - box.bottom)
                lon, lat = to_lonlat.transform(x, y)
                mx, my = to_map.transform(lon, lat)
                r, c = (my - BOUNDS[3]) / -10_000, (mx - BOUNDS[0]) / 10_000
                # GDAL bends its grid by a fraction of a cell: places near a cell's border are left out. Where
                # a tile is coarser than the map, overviews average over neighbours, a step of 1/138 each.
                if not (1 < r < 59 and 21 < c < 79) or min(r % 1, c % 1, 1 - r % 1, 1 - c % 1) < 0.2:
                    continue
                compared += 1
                expected = plane[int(r), int(c)] * STEPS
                assert abs(int(entries[row, col]) - expected) <= (0.51 if zoom > 5 else 6)
    assert compared > 5
    rgba = np.asarray(picture.convert("RGBA"))
    assert (rgba == palette()[entries]).all()


def test_nodata_and_what_lies_beside_the_map_is_clear(client):
    tile = TMS.tile(-122.3, 35.5, 9)  # inside the file, on its nodata
    beside = client.get(f"/species/{POPPY}/tiles/WebMercatorQuad/3/7/7.png")
    inside = client.get(f"/species/{POPPY}/tiles/WebMercatorQuad/9/{tile.x}/{tile.y}.png")
    for answer in (beside, inside):
        assert answer.status_code == 200
        picture = Image.open(io.BytesIO(answer.content))
        assert (np.asarray(picture) == CLEAR).all()
        assert picture.convert("RGBA").getextrema()[3] == (0, 0)


def test_world_tile_holds_the_map(client):
    picture = Image.open(io.BytesIO(client.get(f"/species/{POPPY}/tiles/WebMercatorQuad/0/0/0.png").content))
    rows, cols = np.nonzero(np.asarray(picture) != CLEAR)
    assert rows.size > 0
    # 20 to 40 degrees north, 125 to 110 west, on the 256 pixels of the world
    assert 90 < rows.min() <= rows.max() < 115
    assert 39 < cols.min() <= cols.max() < 50


@pytest.mark.parametrize("tile", ["3/8/0", "3/0/8", "-1/0/0", "3/-1/0", "25/0/0", "99999/0/0"])
def test_tiles_that_do_not_exist(client, tile):
    answer = client.get(f"/species/{POPPY}/tiles/WebMercatorQuad/{tile}.png")
    assert answer.status_code == 404
    assert answer.headers["cache-control"] == "no-store"


def test_tilejson_points_at_tiles_that_answer(client):
    document = client.get(
        f"/species/{POPPY}/WebMercatorQuad/tilejson.json?grid=california&tilesize=256"
    ).json()
    west, south, east, north = document["bounds"]
    assert west < -122 < -114 < east
    assert south < 34 < 38 < north
    tile = TMS.tile(-117.0, 35.0, document["maxzoom"])
    template = document["tiles"][0]
    assert "grid=california" in template
    address = template.replace("{z}", str(tile.z)).replace("{x}", str(tile.x)).replace("{y}", str(tile.y))
    picture = Image.open(io.BytesIO(client.get(address).content))
    assert picture.size == (256, 256)
    assert (np.asarray(picture) != CLEAR).any()


def test_preview_is_the_whole_map(client):
    picture = Image.open(io.BytesIO(client.get(f"/species/{POPPY}/preview.png").content))
    assert picture.size == (SHAPE[1], SHAPE[0])
    entries = np.asarray(picture)
    assert (entries[:, :20] == CLEAR).all()
    assert (entries[:, 20:] == np.rint(values()[0, :, 20:] * STEPS)).all()


@pytest.mark.parametrize(
    "query",
    ["url=/etc/passwd", "expression=9**9**9", "rescale=0,9", "dst-crs=epsg:4326", "bidx=2", "max_size=99999"],
)
@pytest.mark.parametrize("route", ["preview.png", "WebMercatorQuad/tilejson.json", "point/-117,35"])
def test_parameters_it_does_not_take_are_refused(client, route, query):
    answer = client.get(f"/species/{POPPY}/{route}?{query}")
    assert answer.status_code == 422
    assert answer.json()["found"] == f"parameter {query.split('=')[0]!r}"


@pytest.mark.parametrize("side", ["0", "100000", "300", "x"])
def test_tile_sizes_it_does_not_offer_are_refused(client, side):
    assert client.get(f"/species/{POPPY}/tiles/WebMercatorQuad/7/22/50?tilesize={side}").status_code == 422


@pytest.mark.parametrize("suffix", ["jpg", "tif", "npy"])
def test_formats_it_does_not_offer_are_refused(client, suffix):
    assert client.get(f"/species/{POPPY}/preview.{suffix}").status_code == 422


@pytest.mark.parametrize(
    "route", ["statistics", "info", "bbox/-120,33,-119,34.png", "WebMercatorQuad/map.html"]
)
def test_routes_it_does_not_offer(client, route):
    assert client.get(f"/species/{POPPY}/{route}").status_code == 404


def test_unknown_species_suggests_the_nearest(client):
    answer = client.get("/species/eschscholzia-californika/preview.png")
    assert answer.status_code == 404
    assert POPPY in answer.json()["change"]
    assert client.get("/species/zzz").json()["change"] == "GET /species lists what there is."


@pytest.mark.parametrize("slug", ["..%2f..%2fetc%2fpasswd", "%00", "A", "..", "-a", "a" * 200])
def test_slugs_of_another_form_never_reach_the_disk(client, slug):
    assert client.get(f"/species/{slug}/preview.png").status_code in (404, 422)


def test_two_grids_must_be_told_apart(client, maps):
    add_map(maps, POPPY, "Eschscholzia californica", grid="north-america")
    answer = client.get(f"/species/{POPPY}/preview.png")
    assert answer.status_code == 404
    assert answer.json()["change"] == "Add one of ?grid=california, ?grid=north-america."
    for grid in ("california", "north-america"):
        assert client.get(f"/species/{POPPY}/preview.png?grid={grid}").status_code == 200
    assert client.get(f"/species/{POPPY}/preview.png?grid=global").status_code == 404
    assert client.get(f"/species/{WREN}/preview.png").status_code == 200


def test_new_maps_are_seen_at_once_and_unlisted_ones_not(client, maps):
    (maps / "california" / "half-written.tif").write_bytes(b"II*\0")
    assert "half-written" not in [entry.species for entry in maps_of(maps)]
    (maps / "california" / "half-written.tif").unlink()
    add_map(maps, "quercus-lobata", "Quercus lobata")
    assert client.get("/species/quercus-lobata/preview.png").status_code == 200


@pytest.mark.parametrize("damage", ["truncated", "missing", "item", "collection"])
def test_broken_maps_are_503_without_paths_and_logged(client, maps, damage, caplog):
    folder = maps / "california"
    cog, item = folder / f"{POPPY}.tif", folder / f"{POPPY}.json"
    address = f"/species/{POPPY}" if damage == "item" else f"/species/{POPPY}/preview.png"
    if damage == "truncated":
        cog.write_bytes(cog.read_bytes()[:200])
    elif damage == "missing":
        cog.unlink()
    elif damage == "item":
        item.write_text("{")
    else:
        (folder / "collection.json").write_text('{"type": "Collection"}')
    with caplog.at_level(logging.ERROR, logger="tiles.errors"):
        answer = client.get(address)
    assert answer.status_code == 503
    assert answer.json() == {"detail": "This map cannot be read at the moment."}
    assert answer.headers["cache-control"] == "no-store"
    assert str(folder) not in answer.text
    assert any(record.exc_info for record in caplog.records)


def test_links_out_of_the_folder_are_not_followed(maps, caplog):
    hrefs = [
        "../../secret.json",
        "/etc/secret.json",
        "http://x/secret.json",
        "a/b.json",
        None,
        f"./{POPPY}.json",
    ]
    links = [{"rel": "item", "href": href} for href in hrefs]
    (maps / "california" / "collection.json").write_text(json.dumps({"links": links}))
    with caplog.at_level(logging.WARNING, logger="tiles.library"):
        assert maps_of(maps) == [MapFile(POPPY, POPPY, "california", maps / "california")]
    assert len(caplog.records) == 5


def test_page_escapes_names_and_needs_nothing_from_elsewhere(client):
    page = client.get("/").text
    assert "Chamaea &lt;fasciata&gt;" in page
    assert "Chamaea <fasciata>" not in page
    addresses = [part.split('"')[0] for part in page.replace('src="', 'href="').split('href="')[1:]]
    assert len(addresses) == 7
    assert addresses[0] == "data:,"  # an icon of our own, or browsers ask for one
    assert all(address.startswith("http://testserver/species/") for address in addresses[1:])


def test_page_of_an_empty_folder_says_what_to_do(tmp_path):
    assert "python -m geomap.render" in TestClient(create_app(Settings(maps=tmp_path))).get("/").text


def test_health_and_cross_origin(client):
    answer = client.get("/healthz", headers={"Origin": "http://elsewhere.example"})
    assert answer.json() == {"status": "ok"}
    assert answer.headers["access-control-allow-origin"] == "*"


def test_openapi_names_every_route_once(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/", "/healthz", "/species", "/species/{species}"} <= set(paths)
    assert "/species/{species}/point/{lon},{lat}" in paths
    assert not [path for path in paths if "statistics" in path or "info" in path]


def test_settings_come_from_the_environment_and_options_win(tmp_path):
    environ = {"GEOMAP_TILES_MAPS": str(tmp_path), "GEOMAP_TILES_PORT": "81", "OTHER": "x"}
    assert from_environment(environ) == Settings(maps=tmp_path, port=81)
    assert from_environment(environ, port=0, host="::1") == Settings(maps=tmp_path, host="::1", port=0)


@pytest.mark.parametrize(
    "environ, found",
    [
        ({"GEOMAP_TILES_MAPS": "no-such-folder"}, "no folder no-such-folder"),
        ({"GEOMAP_TILES_PORT": "eighty"}, "GEOMAP_TILES_PORT='eighty'"),
        ({"GEOMAP_TILES_PORT": "70000"}, "port 70000"),
        ({"GEOMAP_TILES_FOLDER": "maps"}, "GEOMAP_TILES_FOLDER"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, environ, found):
    with pytest.raises(SettingsError) as refusal:
        from_environment({"GEOMAP_TILES_MAPS": str(tmp_path)} | environ)
    assert refusal.value.found == found


def test_command_refuses_a_missing_folder_and_a_port_in_use(tmp_path, capsys):
    assert main(["--maps", str(tmp_path / "none")]) == 2
    assert "Render one (python -m geomap.render" in capsys.readouterr().err
    with listening("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--maps", str(tmp_path), "--port", str(port)]) == 2
    assert f"Error: cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_sockets_name_tcp_so_that_answers_are_not_delayed():
    with listening("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_what_render_writes_is_served_with_its_values(tmp_path, monkeypatch):
    grid = named_grid("california", 20_000.0)
    monkeypatch.setenv("GEOMAP_BUNDLE", str(make_bundle(tmp_path / "bundle", [grid])))
    out = tmp_path / "maps"
    chosen = [
        "--species",
        "all",
        "--heads",
        "california-plants",
        "--grid",
        "california",
        "--resolution",
        "20000",
    ]
    assert render.main([*chosen, "--out", str(out)]) == 0
    client = TestClient(create_app(Settings(maps=out)))
    listed = client.get("/species").json()["species"]
    assert [entry["id"] for entry in listed] == [POPPY, "quercus-lobata", "sequoia-sempervirens"]
    assert listed[0]["name"] == "Eschscholzia californica (California Poppy)"
    for entry in listed:
        assert client.get(entry["item"]).json()["properties"]["geomap:meaning"] == "suitability"
        assert client.get(entry["tilejson"]).status_code == 200
        cog = out / grid.name / f"{entry['id']}.tif"
        for lon, lat in [(-119.5, 37.0), (-121.3, 39.2), (-116.1, 33.6)]:
            values = client.get(f"/species/{entry['id']}/point/{lon},{lat}").json()["values"]
            assert values == [pytest.approx(at(lon, lat, cog), abs=1e-6)]
        assert client.get(f"/species/{entry['id']}/point/-128,37").json()["values"] == [None]  # the Pacific
        with rasterio.open(cog) as source:
            valid = source.read_masks(1) > 0
        drawn = np.asarray(Image.open(io.BytesIO(client.get(entry["preview"]).content)))
        assert ((drawn != CLEAR) == valid).all()


@contextmanager
def started(maps: Path):
    """The server as a process of its own; yields its address."""
    command = [sys.executable, "-m", "tiles", "--maps", str(maps), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().split()[-1]
        finally:
            server.terminate()
            _, log = server.communicate(timeout=30)
    assert "Traceback" not in log


def test_started_server_answers_and_stops_on_a_signal(maps):
    with started(maps) as address:
        assert httpx.get(f"{address}healthz", timeout=30).json() == {"status": "ok"}
        answer = httpx.get(f"{address}species/{POPPY}/preview.png", timeout=30)
        assert Image.open(io.BytesIO(answer.content)).size == (SHAPE[1], SHAPE[0])


@pytest.mark.browser
def test_page_in_a_browser_shows_every_species_with_its_picture(maps, browser):
    with started(maps) as address:
        page = browser.new_page()
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address, wait_until="networkidle")
        names = page.locator("li em").all_inner_texts()
        sizes = page.eval_on_selector_all(
            "img", "images => images.map(i => [i.naturalWidth, i.naturalHeight])"
        )
        link = page.get_by_role("link", name="TileJSON").first.get_attribute("href")
        document = page.request.get(link).json()
        page.close()
    assert names == ["Chamaea <fasciata>", "Eschscholzia californica"]
    assert sizes == [[SHAPE[1], SHAPE[0]]] * 2
    assert document["tilejson"].startswith("3.")
    assert [url for url in asked if not url.startswith(address)] == []
    assert complaints == []


def test_import_loads_neither_torch_nor_a_cluster():
    code = "import sys, tiles.app; print(*sorted({'torch', 'timm', 'distributed'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == ""
