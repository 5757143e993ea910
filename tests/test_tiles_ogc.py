"""Standards: what real clients read of TileJSON, WMTS and OGC API, also behind a proxy's prefix."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import httpx
import jsonschema
import morecantile
import numpy as np
import pytest
import rasterio
from rasterio.warp import transform
from serving import POPPY, TILE, entries, listened, made_bundle, opened

from geomap.colour import CLEAR, palette
from tiles import ogc, paint

DEAD = {"GDAL_HTTP_PROXY": "", "CPL_VSIL_CURL_USE_HEAD": "NO", "GDAL_HTTP_TIMEOUT": "20"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def client(bundle, tmp_path_factory):
    with opened(bundle, tmp_path_factory.mktemp("cache")) as client:
        yield client


def test_tilejson_leads_to_tiles_with_the_map(client):
    document = client.get(f"/species/{POPPY}/tilejson.json?colormap=greys").json()
    assert document["tilejson"] == "3.0.0"
    west, south, east, north = document["bounds"]
    assert -125 < west < -123 < -115 < east < -113
    assert 32 < south < 33 < 41 < north < 43
    assert "Made up for california-plants" in document["attribution"]
    tile = morecantile.tms.get("WebMercatorQuad").tile(-119.5, 37.0, document["maxzoom"])
    address = document["tiles"][0].format(z=tile.z, x=tile.x, y=tile.y)
    answer = client.get(address)
    assert "immutable" in answer.headers["cache-control"]
    assert (entries(answer.content) != CLEAR).any()
    assert "colormap=greys" in address
    assert client.get(document["legend"]).headers["content-type"] == "image/png"


def test_tilejson_hands_its_threshold_on_to_the_tiles(client):
    document = client.get(f"/species/{POPPY}/tilejson.json?threshold=p10").json()
    assert "threshold=p10" in document["tiles"][0]
    address = document["tiles"][0].format(z=6, x=10, y=24)
    plain = client.get(f"/species/{POPPY}/tilejson.json").json()["tiles"][0].format(z=6, x=10, y=24)
    assert client.get(address).content != client.get(plain).content
    assert client.get(document["legend"]).status_code == 200  # a legend shows all values
    answer = client.get(f"/species/{POPPY}/tilejson.json?threshold=p90")
    assert (answer.status_code, answer.json()["what"]) == (422, "cannot cut the map")


def test_zoom_goes_as_far_as_the_cells(client):
    chosen = client.app.state.served.shown.find(POPPY)
    zoom = ogc.native_zoom(chosen)
    metres = 2 * np.pi * 6378137 * np.cos(np.radians(37)) / 256 / 2**zoom
    assert metres <= 20_000 < 2 * metres * 1.05


def test_gdal_reads_the_wmts_and_finds_the_colours_of_the_map(client):
    chosen = client.app.state.served.shown.find(POPPY)
    lons, lats = [-119.5, -121.3, -116.1, -120.4], [37.0, 39.2, 33.6, 36.3]
    with listened(client) as address, rasterio.Env(**DEAD):
        source = f"WMTS:{address}/species/{POPPY}/WMTSCapabilities.xml,layer=suitability"
        for crs, matrix in (("EPSG:3857", "WebMercatorQuad"), ("OGC:CRS84", "WorldCRS84Quad")):
            with rasterio.open(f"{source},tilematrixset={matrix}") as layer:
                assert layer.crs == crs
                assert layer.count == 4
                xs, ys = transform("EPSG:4326", layer.crs, lons, lats)
                read = [pixel[:3].tolist() for pixel in layer.sample(zip(xs, ys, strict=True))]
            for lon, lat, color in zip(lons, lats, read, strict=True):
                (value,) = paint.point(chosen, lon, lat)
                near = palette()[max(0, round(value * 250) - 15) : round(value * 250) + 16, :3].tolist()
                assert color in near  # a pixel may belong to the next cell


def test_gdal_reads_tiles_of_the_tilejson(client, tmp_path):
    with listened(client) as address, rasterio.Env(**DEAD):
        template = httpx.get(f"{address}/species/{POPPY}/tilejson.json").json()["tiles"][0]
        url = (
            template.replace("{z}", "${z}")
            .replace("{x}", "${x}")
            .replace("{y}", "${y}")
            .replace("&", "&amp;")
        )
        described = tmp_path / "poppy.xml"
        described.write_text(
            f'<GDAL_WMS><Service name="TMS"><ServerUrl>{url}</ServerUrl></Service><DataWindow>'
            "<UpperLeftX>-20037508.34</UpperLeftX><UpperLeftY>20037508.34</UpperLeftY>"
            "<LowerRightX>20037508.34</LowerRightX><LowerRightY>-20037508.34</LowerRightY>"
            "<TileLevel>6</TileLevel><YOrigin>top</YOrigin></DataWindow><Projection>EPSG:3857</Projection>"
            "<BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY><BandsCount>4</BandsCount></GDAL_WMS>"
        )
        with rasterio.open(described) as layer:
            pixels = layer.read(window=((24 * 256, 25 * 256), (10 * 256, 11 * 256)))
    chosen = client.app.state.served.shown.find(POPPY)
    levels = paint.tile_levels(chosen, "WebMercatorQuad", 6, 10, 24)
    seen = levels != CLEAR
    assert (np.moveaxis(pixels, 0, -1)[seen] == palette()[levels[seen]]).all()
    assert (pixels[3][~seen] == 0).all()


def test_ogc_api_documents_lead_to_each_other_and_to_tiles(client):
    landing = client.get("/api").json()
    links = {link["rel"]: link["href"] for link in landing["links"]}
    assert client.get(links["conformance"]).json()["conformsTo"] == list(ogc.CONFORMANCE)
    assert client.get(links["service-desc"]).json()["openapi"].startswith("3.")
    assert client.get(links["data"]).json()["total"] == 6
    assert "/species/{species}/tiles" in client.get(links["service-doc"]).text
    listed = client.get(links["http://www.opengis.net/def/rel/ogc/1.0/tiling-schemes"]).json()
    for entry in listed["tileMatrixSets"]:
        definition = client.get(entry["links"][0]["href"]).json()
        assert morecantile.TileMatrixSet.model_validate(definition).id == entry["id"]
    for tileset in client.get(f"/species/{POPPY}/tiles").json()["tilesets"]:
        by_rel = {link["rel"]: link["href"] for link in tileset["links"]}
        assert client.get(by_rel["self"]).json()["crs"] == tileset["crs"]
        address = by_rel["item"].format(tileMatrix=6, tileCol=10, tileRow=24)
        assert client.get(address).headers["content-type"] == "image/png"


def test_openapi_describes_every_route_with_all_its_statuses(client):
    document = client.get("/openapi.json").json()
    jsonschema.validate(document, {"required": ["openapi", "info", "paths"]})
    assert len(document["paths"]) >= 27
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"]
            assert "422" in operation["responses"], path
            assert "HTTPValidationError" not in json.dumps(operation), path
    tile = document["paths"]["/species/{species}/tiles/{tms}/{z}/{x}/{y}.{format}"]["get"]
    assert {p["name"] for p in tile["parameters"]} == {
        "species", "tms", "z", "x", "y", "format", "grid", "group", "layer", "colormap", "threshold", "v",
    }  # fmt: skip
    assert set(tile["responses"]) == {"200", "304", "404", "422", "503"}


def test_documentation_asks_for_nothing_from_elsewhere(client):
    page = client.get("/docs")
    assert "<script" not in page.text
    assert (
        "http" not in page.text.replace("http-equiv", "").replace("https://", "http://").split("</style>")[0]
    )
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy


def addresses(value):
    """Every address in a JSON document."""
    if isinstance(value, dict):
        return [each for part in value.values() for each in addresses(part)]
    if isinstance(value, list):
        return [each for part in value for each in addresses(part)]
    looks = isinstance(value, str) and value.startswith(("/", "http://testserver"))
    return [value] if looks else []


@pytest.mark.parametrize("strips", [True, False], ids=["stripping", "passing"])
@pytest.mark.parametrize("told", ["setting", "header"])
def test_every_link_works_behind_a_proxy(bundle, tmp_path, strips, told):
    """A proxy that strips its prefix passes /species, another passes /hub/user/me/species."""
    prefix = "/hub/user/me"
    settings = {"root_path": prefix} if told == "setting" else {"proxies": "*"}
    headers = {} if told == "setting" else {"X-Forwarded-Prefix": prefix}
    with opened(bundle, tmp_path, **settings) as client:

        def through(address):
            path = urlsplit(address)
            assert path.path.startswith(f"{prefix}/")
            inside = path.path.removeprefix(prefix) if strips else path.path
            return client.get(f"{inside}?{path.query}", headers=headers)

        info = through(f"{prefix}/species/{POPPY}").json()
        checked = 0
        documents = [info] + [through(info["links"][name]).json() for name in ("tilejson", "tilesets")]
        documents += [through(f"{prefix}{path}").json() for path in ("/species", "/groups", "/api")]
        for address in {each for document in documents for each in addresses(document)}:
            for old, new in {"z": 6, "x": 10, "y": 24, "lon": -119, "lat": 37}.items():
                address = address.replace(f"{{{old}}}", str(new))
            for old, new in {"tileMatrix": 6, "tileCol": 10, "tileRow": 24}.items():
                address = address.replace(f"{{{old}}}", str(new))
            expected = (405,) if "/summary" in address else (200, 404) if optional(address) else (200,)
            assert through(address).status_code in expected, address
            checked += 1
        assert checked > 20
        wmts = through(info["links"]["wmts"]).text
        assert wmts.count(f"http://testserver{prefix}/") >= 3


def optional(address: str) -> bool:
    """Whether an address is of what a map need not have."""
    return "/download" in address or "/records" in address


def test_a_prefix_is_believed_from_a_proxy_only(bundle, tmp_path):
    with opened(bundle, tmp_path, proxies="10.0.0.1") as client:
        info = client.get(f"/species/{POPPY}", headers={"X-Forwarded-Prefix": "/evil"}).json()
        assert info["links"]["self"].startswith("/species/")
    with opened(bundle, tmp_path, proxies="*") as client:
        for prefix in ("//evil.example", "/a b", "evil", "/../.."):
            answer = client.get(f"/species/{POPPY}", headers={"X-Forwarded-Prefix": prefix})
            assert "evil" not in answer.text


def test_tiles_behind_a_prefix(bundle, tmp_path):
    with opened(bundle, tmp_path, root_path="/maps") as client:
        for path in (f"/species/{POPPY}/tiles/{TILE}.png", f"/maps/species/{POPPY}/tiles/{TILE}.png"):
            assert client.get(path).status_code == 200
