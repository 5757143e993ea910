"""The page as it is built and sent: headers, files, outlines, licences, and what it says unbuilt."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass

import pytest
from fastapi import FastAPI
from shapely import Point, unary_union
from shapely.geometry import shape
from starlette.testclient import TestClient
from webpage import WEB, need_the_page

from tiles.errors import add_handlers
from tiles.page import STATIC, PageError, open_site, origin, page_headers, page_router

VERTICES = 5000  # most that POST summary takes
REGISTRY = re.compile(r"regist(ry|ries)\.|\"resolved\"|https?://[^\"' ]*\.tgz")


@dataclass
class Told:
    basemap: str = ""
    basemap_attribution: str = ""


def client(settings=None, folder=STATIC):
    app = FastAPI()
    app.include_router(page_router(settings or Told(), folder))
    return TestClient(app)


@pytest.fixture(scope="module")
def site():
    need_the_page()
    return open_site()


def test_page_names_its_own_files_relatively_and_all_of_them_are_there(site):
    page = client().get("/")
    assert page.status_code == 200
    assert page.headers["cache-control"] == "no-cache"
    named = re.findall(r'(?:href|src)="(static/[^"]+)"', page.text)
    assert len(named) >= 4
    assert {name.removeprefix("static/") for name in named} <= set(site.files)
    assert re.findall(r'(?:href|src)="(?:/|https?:)', page.text) == []
    assert "<noscript>" in page.text


def test_files_are_kept_for_ever_and_come_compressed(site):
    script = next(name for name in site.files if name.endswith(".js"))
    plain = client().get(f"/static/{script}", headers={"Accept-Encoding": "identity"})
    assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert plain.headers["content-type"].startswith("text/javascript")
    assert plain.content == site.files[script].read_bytes()
    squeezed = client().get(f"/static/{script}", headers={"Accept-Encoding": "gzip"})
    assert squeezed.headers["content-encoding"] == "gzip"
    assert squeezed.headers["vary"] == "Accept-Encoding"
    assert int(squeezed.headers["content-length"]) < len(plain.content) / 2
    assert squeezed.content == plain.content


@pytest.mark.parametrize("name", ["manifest.json", "index.html", "nothing.js", "a%00b", "..%2fpage.py"])
def test_nothing_else_is_sent(site, name):
    assert name not in site.files
    app = FastAPI()
    add_handlers(app)
    app.include_router(page_router(Told()))
    assert TestClient(app).get(f"/static/{name}").status_code == 404


def test_policy_lets_nothing_in_from_elsewhere():
    policy = page_headers("")["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy and "http" not in policy


def test_policy_names_the_online_basemap_only_where_one_is_set():
    template = "https://{s}.tiles.example.org/{z}/{x}/{y}.png"
    page = client(Told(template, 'By <a href="x">us</a>')).get("/")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["img-src"] == "'self' data: blob: https://*.tiles.example.org"
    assert policy["default-src"] == "'self'"
    assert f'content="{template}"' in page.text
    assert '<a href="x">' not in page.text
    assert "geomap:basemap" not in client().get("/").text
    assert origin("http://127.0.0.1:81/{z}/{x}/{y}") == "http://127.0.0.1:81"


def test_without_a_build_the_page_says_how_to_make_it(tmp_path, caplog):
    visitor = client(folder=tmp_path)
    assert "make web" in caplog.text
    page = visitor.get("/")
    assert page.status_code == 503
    assert page.headers["cache-control"] == "no-store"
    assert "make web" in page.text and "has not been built" not in page.headers
    with pytest.raises(PageError, match="make web"):
        open_site(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 0, "files": []}))
    with pytest.raises(PageError):
        open_site(tmp_path)


def test_outlines_are_valid_polygons_small_enough_to_be_added_up(site):
    us = outlines(site, "us-")
    counties = features(us, "counties")
    names = {(each["properties"]["state"], each["properties"]["name"]) for each in counties}
    assert sum(state == "California" for state, _ in names) == 58
    assert {state for state, _ in names} == {"California", "Oregon", "Nevada", "Arizona"}
    assert len(features(us, "states")) >= 50
    for each in [*counties, *features(us, "states")]:
        polygon = shape(each["geometry"])
        assert polygon.is_valid, each["properties"]
        parts = getattr(polygon, "geoms", [polygon])
        assert (
            sum(len(ring.coords) for part in parts for ring in (part.exterior, *part.interiors)) <= VERTICES
        )
    fresno = next(each for each in counties if each["properties"]["name"] == "Fresno")
    assert shape(fresno["geometry"]).area == pytest.approx(1.57, rel=0.03)  # square degrees


def outlines(site, start):
    return json.loads(next(path for name, path in site.files.items() if name.startswith(start)).read_text())


def test_land_is_cut_at_the_antimeridian_and_closed_around_the_pole(site):
    land = outlines(site, "world-")
    parts = shape(features(land, "land")[0]["geometry"]).geoms
    for part in parts:
        west, _, east, _ = part.bounds
        assert east - west < 180 or part.bounds[1] <= -89.9 or (east - west < 210 and part.bounds[3] > 60)
    whole = unary_union([part.buffer(0) for part in parts])
    for name, lon, lat in (("Chukotka", -175.0, 67.0), ("Kamchatka", 160.0, 56.0), ("pole", 0.0, -89.0)):
        assert whole.contains(Point(lon, lat)), name
    for name, lon, lat in (
        ("Atlantic", -30.0, 66.6),
        ("Pacific", -150.0, 30.0),
        ("Indian Ocean", 80.0, -17.0),
    ):
        assert not whole.contains(Point(lon, lat)), name


def features(topology, name):
    """The GeoJSON features of an object of a quantised topology."""
    (scale_x, scale_y), (move_x, move_y) = topology["transform"]["scale"], topology["transform"]["translate"]
    arcs = []
    for steps in topology["arcs"]:
        x = y = 0
        arc = []
        for dx, dy in steps:
            x, y = x + dx, y + dy
            arc.append((x * scale_x + move_x, y * scale_y + move_y))
        arcs.append(arc)

    def ring(numbers):
        places = []
        for number in numbers:
            arc = arcs[number] if number >= 0 else arcs[~number][::-1]
            places += arc[1:] if places else arc
        return places

    def geometry(each):
        nested = [each["arcs"]] if each["type"] == "Polygon" else each["arcs"]
        return {
            "type": "MultiPolygon",
            "coordinates": [[ring(part) for part in polygon] for polygon in nested],
        }

    return [
        {"id": each.get("id"), "properties": each.get("properties", {}), "geometry": geometry(each)}
        for each in topology["objects"][name].get("geometries", [topology["objects"][name]])
        if each["type"] in ("Polygon", "MultiPolygon")
    ]


def test_licences_of_all_that_is_carried_are_sent_along(site):
    text = next(path for name, path in site.files.items() if name.startswith("licences")).read_text()
    for name in ("leaflet", "topojson-client", "us-atlas", "world-atlas", "Natural Earth", "Census"):
        assert name in text
    assert text.count("Copyright") >= 4


def test_no_download_address_is_committed():
    for name in ("package.json", "package-lock.json", ".npmrc"):
        assert REGISTRY.findall((WEB / name).read_text()) == []
    lock = json.loads((WEB / "package-lock.json").read_text())
    assert all("integrity" in each for path, each in lock["packages"].items() if path)


def test_parts_of_the_page_do_what_their_words_say():
    done = subprocess.run(
        ["node", "--test", "test/"], cwd=WEB, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
