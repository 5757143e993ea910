"""What the server refuses and how: statuses, bounds, broken files, withheld species, random requests."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from serving import FINCH, OAK, POPPY, REDWOOD, SQUARE, TILE, WREN, listened, made_bundle, opened

from geomap import render
from geomap.errors import FieldError, MapError
from geomap.testing import write_raster
from tiles import paint
from tiles.body import polygon_of
from tiles.errors import QueryError, TooLargeError

HUGE = "9" * 400
TILES = f"/species/{POPPY}/tiles"
WORLD = [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]
BOW_TIE = [[-120, 36], [-118, 38], [-118, 36], [-120, 38], [-120, 36]]
MEMORY = 6 << 30  # bytes of address space for random requests; torch is not loaded


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def client(bundle, tmp_path_factory):
    with opened(bundle, tmp_path_factory.mktemp("cache"), max_polygon_vertices=100) as client:
        yield client


@pytest.mark.parametrize(
    "path, status",
    [
        (f"{TILES}/{TILE}.png", 200),
        (f"{TILES}/WebMercatorQuad/6/40/24.png", 200),
        (f"{TILES}/WebMercatorQuad/0/0/0.png", 200),
        (f"{TILES}/WebMercatorQuad/14/16383/16383.png", 200),
        (f"{TILES}/WorldCRS84Quad/0/1/0.png", 200),
        (f"{TILES}/WorldCRS84Quad/0/2/0.png", 404),
        (f"{TILES}/WebMercatorQuad/3/8/0.png", 404),
        (f"{TILES}/WebMercatorQuad/3/0/8.png", 404),
        (f"{TILES}/WebMercatorQuad/3/-1/0.png", 404),
        (f"{TILES}/WebMercatorQuad/15/0/0.png", 422),
        (f"{TILES}/WebMercatorQuad/-1/0/0.png", 422),
        (f"{TILES}/WebMercatorQuad/{HUGE}/0/0.png", 422),
        (f"{TILES}/WebMercatorQuad/3/{HUGE}/0.png", 422),
        (f"{TILES}/WebMercatorQuad/3/1.5/0.png", 422),
        (f"{TILES}/WebMercatorQuad/a/0/0.png", 422),
        (f"{TILES}/WebMercatorQuad/3/٣/0.png", 422),
        (f"{TILES}/WebMercatorQuad/nan/inf/0.png", 422),
        (f"{TILES}/EuropeanETRS89_LAEAQuad/3/0/0.png", 422),
        (f"{TILES}/{TILE}.jpg", 422),
        (f"{TILES}/{TILE}.png?colormap=jet", 422),
        (f"{TILES}/{TILE}.png?colormap=greys&colormap=greys", 422),
        (f"{TILES}/{TILE}.png?layer=spread", 404),
        (f"{TILES}/{TILE}.png?threshold=p10", 200),
        (f"{TILES}/{TILE}.png?threshold=0.25", 200),
        (f"{TILES}/{TILE}.png?threshold=p90", 422),
        (f"{TILES}/{TILE}.png?threshold=P10", 422),
        (f"{TILES}/{TILE}.png?threshold=1.01", 422),
        (f"{TILES}/{TILE}.png?threshold=-0.1", 422),
        (f"{TILES}/{TILE}.png?threshold=nan", 422),
        (f"{TILES}/{TILE}.png?threshold=1e-3", 422),
        (f"{TILES}/{TILE}.png?threshold={HUGE}", 422),
        (f"{TILES}/{TILE}.png?threshold=", 422),
        (f"{TILES}/{TILE}.png?threshold=p10&threshold=p10", 422),
        (f"{TILES}/{TILE}/value?threshold=p10", 422),
        (f"{TILES}/{TILE}.png?layer=../x", 422),
        (f"{TILES}/{TILE}.png?grid=california", 200),
        (f"{TILES}/{TILE}.png?grid=global", 404),
        (f"{TILES}/{TILE}.png?group=fungi", 404),
        (f"{TILES}/{TILE}.png?v=xyz", 422),
        (f"{TILES}/{TILE}.png?v=000000000000", 404),
        (f"{TILES}/{TILE}.png?{'&'.join(f'a{k}=1' for k in range(50))}", 422),
        (f"/species/puma/tiles/{TILE}.png", 404),
        (f"/species/Puma/tiles/{TILE}.png", 422),
        (f"/species/{'a' * 97}/tiles/{TILE}.png", 422),
        (f"/species/-a/tiles/{TILE}.png", 422),
        ("/species/puma", 404),
        (f"/species/{POPPY}?grid=", 422),
        (f"/species/{POPPY}/point/-119,37", 200),
        (f"/species/{POPPY}/point/-170,-60", 200),
        (f"/species/{POPPY}/point/180,90", 200),
        (f"/species/{POPPY}/point/181,0", 422),
        (f"/species/{POPPY}/point/0,91", 422),
        (f"/species/{POPPY}/point/nan,0", 422),
        (f"/species/{POPPY}/point/0,inf", 422),
        (f"/species/{POPPY}/point/1e300,0", 422),
        (f"/species/{POPPY}/point/{HUGE},0", 422),
        ("/at/-119,37", 200),
        ("/at/200,0", 422),
        ("/at/nan,nan", 422),
        ("/at/-119,37?limit=0", 422),
        ("/at/-119,37?limit=100000", 422),
        ("/at/-119,37?grid=mars", 404),
        ("/species?limit=1001", 422),
        ("/species?offset=-1", 422),
        (f"/species?search={'x' * 201}", 422),
        (f"/species/{POPPY}/legend.json?colormap=viridis", 422),
        (f"/species/{POPPY}/legend.pdf", 404),
        (f"/compare/{POPPY}/puma/legend.json", 404),
        (f"/compare/{POPPY}/{OAK}/tiles/{TILE}.png", 200),
        (f"/compare/{POPPY}/{OAK}/tiles/WebMercatorQuad/99/0/0.png", 422),
        (f"/compare/{POPPY}/{OAK}/tiles/{TILE}.png?colormap=greys", 422),
        ("/tileMatrixSets/UTM31WGS84Quad", 422),
        ("/nothing", 404),
        (f"/species/{POPPY}/statistics", 404),
        (f"/species/{POPPY}/preview/20000x20000.png", 404),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/species/", 404),
    ],
)
def test_status(client, path, status):
    answer = client.get(path)
    assert answer.status_code == status
    if status >= 400:
        assert answer.headers["cache-control"] == "no-store"
        body = answer.json()
        assert set(body) == {"detail", "what", "found", "change"}
        assert all(isinstance(part, str) and part for part in body.values())
        assert len(answer.content) < 2000


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "POST"])
@pytest.mark.parametrize("path", [f"{TILES}/{TILE}.png", f"/species/{POPPY}", "/healthz"])
def test_other_methods_are_not_allowed(client, method, path):
    answer = client.request(method, path)
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize(
    "slug",
    ["..%2f..%2fetc%2fpasswd", "%2e%2e", "%00", "a%00b", "a%2fb", "~root", "-a", "%F0%9F%90%BB", "a b"],
)
@pytest.mark.parametrize(
    "rest", ["", "/legend.json", f"/tiles/{TILE}.png", "/point/0,0", "/download", "/records"]
)
def test_slugs_of_another_form_never_reach_the_library(client, slug, rest, monkeypatch):
    monkeypatch.setattr(client.app.state.served.shown, "of", None)
    assert client.get(f"/species/{slug}{rest}").status_code in (404, 422)


@pytest.mark.parametrize(
    "query",
    [
        "url=/etc/passwd",
        "expression=9**9**9",
        "rescale=0,9",
        "bidx=2",
        "tilesize=99999",
        "Grid=california",
        "=1",
    ],
)
@pytest.mark.parametrize(
    "route",
    [
        "/species", f"/species/{POPPY}", f"/species/{POPPY}/legend.png", f"{TILES}/{TILE}.png",
        f"{TILES}/{TILE}/value", f"/species/{POPPY}/tilejson.json", f"/species/{POPPY}/point/-119,37",
        "/groups", "/at/-119,37", "/healthz",
        f"/species/{POPPY}/stats", "/conformance", f"/compare/{POPPY}/{OAK}/legend.json",
    ],
)  # fmt: skip
def test_parameters_that_a_route_does_not_take_are_refused(client, route, query):
    answer = client.get(f"{route}?{query}")
    assert answer.status_code == 422
    assert answer.json()["found"] == f"parameter {query.split('=')[0]!r}"


def ring(count):
    return [[-120 + 0.001 * k, 36] for k in range(count)] + [[-119, 37], [-120, 36]]


@pytest.mark.parametrize(
    "body, status",
    [
        (SQUARE, 200),
        ({"type": "Polygon", "coordinates": [ring(200)]}, 413),
        (
            {
                "type": "Polygon",
                "coordinates": [[[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]],
            },
            413,
        ),
        (
            {
                "type": "Polygon",
                "coordinates": [[[-120, 36], [-118, 38], [-118, 36], [-120, 38], [-120, 36]]],
            },
            422,
        ),
        ({"type": "Polygon", "coordinates": [[[-120, 36], [-118, 36], [-118, 38], [-120, 38]]]}, 422),
        ({"type": "Polygon", "coordinates": [[[-120, 96], [-118, 36], [-118, 38], [-120, 96]]]}, 422),
        ({"type": "Polygon", "coordinates": []}, 422),
        ({"type": "Polygon", "coordinates": [[]]}, 422),
        ({"type": "Polygon", "coordinates": None}, 422),
        ({"type": "Polygon", "coordinates": [[["a", "b"]] * 4]}, 422),
        ({"type": "Polygon", "coordinates": [[[True, False]] * 4]}, 422),
        ({"type": "Point", "coordinates": [0, 0]}, 422),
        ({"type": "Feature", "geometry": None}, 422),
        ({"type": "Feature", "geometry": {"type": "Feature", "geometry": SQUARE}}, 422),
        ({"type": "FeatureCollection", "features": []}, 422),
        ([], 422),
        ("x", 422),
        (None, 422),
    ],
)
def test_polygons(client, body, status):
    answer = client.post(f"/species/{POPPY}/summary", content=json.dumps(body))
    assert answer.status_code == status
    assert (answer.headers["cache-control"] == "no-store") == (status >= 400)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"NaN", b'"' + b"[" * 50 + b'"',
        b'{"type":"Polygon","coordinates":[[[NaN,36],[-118,36],[-118,38],[NaN,36]]]}',
        b'{"type":"Polygon","coordinates":[[[1e999,36],[-118,36],[-118,38],[1e999,36]]]}',
        b'{"type":"Polygon","coordinates":[[[Infinity,36],[-118,36],[-118,38],[Infinity,36]]]}',
        b'{"type":"Polygon","coordinates":[[[' + b"9" * 5000 + b",36],[-118,36],[-118,38]]]}",
        b'{"type":"Polygon","coordinates":[[[' + b"9" * 400 + b",36],[-118,36],[-118,38],[-120,36]]]}",
    ],
)  # fmt: skip
def test_bodies_that_are_no_polygon(client, body):
    assert client.post(f"/species/{POPPY}/summary", content=body).status_code == 422


def test_brackets_in_texts_do_not_count_as_depth():
    feature = {"type": "Feature", "properties": {"name": "[[[[[[[[[[[[[[{{{{{{"}, "geometry": SQUARE}
    assert polygon_of(json.dumps(feature).encode(), 100, 1e9).area == pytest.approx(4)
    with pytest.raises(QueryError, match="nested"):
        polygon_of(b"[" * 100, 100, 1e9)
    with pytest.raises(TooLargeError, match="km²"):
        polygon_of(json.dumps(SQUARE).encode(), 100, 100)


def test_long_bodies_are_refused_before_they_are_read(bundle, tmp_path):
    with opened(bundle, tmp_path, max_body_kb=1) as client, listened(client) as address:
        url = f"{address}/species/{POPPY}/summary"
        assert httpx.post(url, content=b" " * 5000).status_code == 413
        sent = []

        def endless():
            for k in range(100_000):
                sent.append(k)
                yield b" " * 1000

        # The server hangs up, and whether this side still reads the answer is a matter of chance.
        with contextlib.suppress(httpx.WriteError, httpx.ReadError):
            assert httpx.post(url, content=endless(), timeout=30).status_code == 413
        assert len(sent) < 100_000
        assert httpx.post(url, json=SQUARE).status_code == 200


@pytest.mark.parametrize("error", [MapError, FieldError])
@pytest.mark.parametrize("route", [f"{TILES}/WebMercatorQuad/5/5/12.png", f"/species/{POPPY}/point/-118,35"])
def test_what_cannot_be_read_is_503_without_details_and_logged(client, monkeypatch, caplog, route, error):
    def broken(*_):
        raise error("cannot read the map", "/secret/maps/poppy.tif is truncated", "Render /secret again")

    monkeypatch.setattr(paint, "tile_levels", broken)
    monkeypatch.setattr(paint, "point", broken)
    with caplog.at_level(logging.ERROR, logger="tiles.errors"):
        answer = client.get(route)
    assert answer.status_code == 503
    assert answer.headers["cache-control"] == "no-store"
    assert "secret" not in answer.text
    assert any("/secret/maps" in str(record.exc_info) for record in caplog.records if record.exc_info)


def test_a_fault_of_the_server_tells_nothing_either(client, monkeypatch, caplog):
    def broken(*_):
        raise ZeroDivisionError("/secret/place")

    monkeypatch.setattr(paint, "tile_levels", broken)
    with caplog.at_level(logging.ERROR, logger="tiles.errors"):
        answer = client.get(f"{TILES}/WebMercatorQuad/5/4/12.png")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert any(record.exc_info for record in caplog.records)


def rendered(bundle: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rendered maps of the plants of a bundle; the folder."""
    monkeypatch.setenv("GEOMAP_BUNDLE", str(bundle))
    options = ["--species", "all", "--heads", "california-plants", "--grid", "california"]
    assert render.main([*options, "--resolution", "20000", "--out", str(out)]) == 0
    return out


@pytest.mark.parametrize("damage", ["truncated", "missing", "garbage", "other"])
def test_a_map_file_that_breaks_while_it_is_served(bundle, tmp_path, monkeypatch, caplog, damage):
    maps = rendered(bundle, tmp_path / "maps", monkeypatch)
    with opened(bundle, tmp_path, maps=(str(maps),), bundle=False) as client:
        assert client.get(f"/species/{OAK}/tiles/{TILE}.png").status_code == 200
        (cog,) = maps.glob(f"*/{REDWOOD}.tif")
        if damage == "truncated":
            cog.write_bytes(cog.read_bytes()[:300])
        elif damage == "missing":
            cog.unlink()
        elif damage == "garbage":
            cog.write_bytes(b"\0" * 1000)
        else:
            write_raster(cog, "EPSG:3310", (0, 0, 100, 100), (4, 4), 1, np.full((1, 4, 4), 0.5))
        with caplog.at_level(logging.ERROR, logger="tiles.errors"):
            paths = f"/tiles/{TILE}.png", "/point/-119,37"
            answers = [client.get(f"/species/{REDWOOD}{path}") for path in paths]
        assert {answer.status_code for answer in answers} <= {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert str(tmp_path) not in answer.text
                assert any(record.exc_info for record in caplog.records)
        if damage != "other":
            assert [answer.status_code for answer in answers] == [503, 503]
        assert client.get(f"/species/{OAK}/tiles/WebMercatorQuad/7/20/49.png").status_code == 200


def test_a_field_with_a_broken_chunk(bundle, tmp_path, caplog):
    broken = shutil.copytree(bundle, tmp_path / "bundle")
    (field,) = (broken / "fields").glob("*.zip")
    data = bytearray(field.read_bytes())
    with zipfile.ZipFile(field) as parts:
        for part in parts.infolist():
            if part.filename.startswith("embedding/c/"):
                for k in range(part.header_offset + 100, part.header_offset + part.compress_size, 3):
                    data[k] ^= 0x55
    field.write_bytes(bytes(data))
    with opened(broken, tmp_path / "cache") as client, caplog.at_level(logging.ERROR, logger="tiles.errors"):
        assert client.get("/species").json()["total"] == 6
        for path in (
            f"{TILES}/{TILE}.png",
            f"/species/{POPPY}/point/-119,37",
            f"/species/{POPPY}",
            "/readyz",
        ):
            caplog.clear()
            answer = client.get(path)
            assert answer.status_code == 503
            assert str(tmp_path) not in answer.text
            assert any(record.exc_info for record in caplog.records)
        assert client.get("/healthz").status_code == 200


def test_a_species_that_is_withheld_cannot_be_had_by_any_route(bundle, tmp_path, monkeypatch):
    maps = rendered(bundle, tmp_path / "maps", monkeypatch)
    hidden = {POPPY: "Eschscholzia", FINCH: "lawrencei"}
    with opened(bundle, tmp_path, maps=(str(maps),), withheld=(POPPY, FINCH)) as client:
        document = client.get("/openapi.json").json()
        asked = 0
        for path, methods in document["paths"].items():
            for secret in (POPPY, FINCH, "spinus-lawrencei"):
                answer = ask(client, path, methods, secret)
                asked += 1
                if "{species}" in path or "{a}" in path:
                    assert answer.status_code in (404, 422), path
                    found = answer.text.replace(secret, "")
                else:
                    found = answer.text
                for name in hidden.values():
                    assert name.lower() not in found.lower(), path
        assert asked > 60
        for query in ("poppy", "eschscholzia", "goldfinch", "carduelis", "spinus"):
            assert client.get(f"/species?search={query}").json()["total"] == 0
        near = client.get("/species/eschscholzia-californika").json()
        assert "californica" not in json.dumps(near)
        assert client.get("/species").json()["total"] == 4
        assert {group["name"]: group["species"] for group in client.get("/groups").json()["groups"]} == {
            "california-plants": 2, "north-america-birds": 1, "world-birds": 1,
        }  # fmt: skip
        assert len(client.get("/at/-119.5,37").json()["species"]) == 4


def ask(client, path, methods, secret):
    """Ask a route of the schema for a species."""
    values = {
        "species": secret, "a": secret, "b": OAK, "tms": "WebMercatorQuad", "z": 6, "x": 10, "y": 24,
        "format": "png", "lon": -119, "lat": 37, "item": secret, "item_id": secret,
        "collection": "california", "collection_id": "california", "grid": "california",
        "group": "california-plants", "name": secret,
    }  # fmt: skip
    address = re.sub(r"{(\w+)}", lambda match: str(values.get(match[1], secret)), path)
    if "get" in methods:
        return client.get(address)
    return client.post(address, json=SQUARE)


def test_wren_is_still_there(client):
    assert client.get(f"/species/{WREN}").status_code == 200
    assert client.get(f"/species/{REDWOOD}").status_code == 200


def test_pages_of_other_origins_may_read(client):
    origin = {"Origin": "https://elsewhere.example"}
    for path in (f"{TILES}/{TILE}.png", "/species", "/species/puma"):
        assert client.get(path, headers=origin).headers["access-control-allow-origin"] == "*"
    asked = {
        **origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    answer = client.options(f"/species/{POPPY}/summary", headers=asked)
    assert answer.status_code == 200
    assert "POST" in answer.headers["access-control-allow-methods"]
    asked["Access-Control-Request-Method"] = "DELETE"
    assert client.options(f"/species/{POPPY}/summary", headers=asked).status_code == 400


def test_only_the_origins_of_the_settings_may_read(bundle, tmp_path):
    with opened(bundle, tmp_path, cors_origins=("https://ours.example",)) as client:
        for origin, allowed in (("https://ours.example", True), ("https://elsewhere.example", False)):
            answer = client.get("/species", headers={"Origin": origin})
            assert ("access-control-allow-origin" in answer.headers) == allowed


def test_answers_carry_the_headers_that_keep_browsers_careful(client):
    for path in ("/species", f"{TILES}/{TILE}.png", "/docs", "/nothing"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    assert "default-src" in client.get("/docs").headers["content-security-policy"]


RANDOM = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory}))
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--timeout=100", "-o", "addopts=", {test!r}]))
"""


def test_random_requests_find_no_fault_and_no_undeclared_status(bundle, tmp_path):
    """schemathesis, in a process of its own under a memory limit; see tests/schema_requests.py."""
    asked = Path(__file__).with_name("schema_requests.py")
    done = subprocess.run(
        [sys.executable, "-c", RANDOM.format(memory=MEMORY, test=str(asked))],
        capture_output=True, text=True, timeout=110, check=False, cwd=tmp_path,
        env={**os.environ, "GEOMAP_BUNDLE": str(bundle), "GEOMAP_TILES_CACHE_DIR": str(tmp_path),
             "PYTHONPATH": str(asked.parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
