"""The page that Leafmap exports: painted in a real browser from this server alone, and kept for a while."""

import io
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from playwright.sync_api import sync_playwright
from tile_extras import OAK, POPPY, app_of, make_shelf, running

from geomap.colour import STEPS, palette
from tiles import leafmap_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# MapLibre paints with WebGL: in software where there is no graphics card.
FLAGS = ["--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return make_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def client(shelf, monkeypatch):
    return TestClient(app_of(shelf, monkeypatch))


@pytest.fixture(scope="module")
def painter():
    """The system's Chromium with WebGL."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        assert os.environ.get("CI", "").lower() != "true", "no browser, and in CI nothing may be skipped"
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield chromium
        chromium.close()


def shares(png):
    """Share of pixels with the colour of the sea, of the land, and nearly one of the map over the land."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3).astype(int)

    def near(colours, within):
        colours = np.atleast_2d(colours)
        seen = np.zeros(len(pixels), bool)
        for colour in colours:
            seen |= np.abs(pixels - colour).max(axis=1) <= within
        return seen.mean()

    sea, land = (
        [int(text[k : k + 2], 16) for k in (1, 3, 5)] for text in (leafmap_page.SEA, leafmap_page.LAND)
    )
    ramp = palette()[: STEPS + 1 : 2, :3].astype(float)
    over = leafmap_page.OPACITY * ramp + (1 - leafmap_page.OPACITY) * np.array(land)
    return near(sea, 2), near(land, 2), near(over, 3)


@pytest.mark.browser
@pytest.mark.parametrize("prefix", ["", "/hub/maps"])
def test_the_page_paints_the_map_and_asks_nobody_else(shelf, painter, prefix, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        app = app_of(shelf, patch, root_path=prefix)
        with running(app) as address:
            page = painter.new_page(viewport={"width": 900, "height": 700})
            asked, complaints, answers = [], [], []
            page.on("request", lambda request: asked.append(request.url))
            page.on("response", lambda response: answers.append((response.status, response.url)))
            page.on("console", lambda message: complaints.append(message) if message.type != "log" else None)
            page.on("pageerror", lambda error: complaints.append(error))
            page.goto(f"{address}{prefix}/leafmap?species={OAK}", wait_until="networkidle")
            page.wait_for_function("document.querySelector('canvas') !== null")
            page.wait_for_timeout(1500)  # the layer fades in
            picture = page.screenshot(path=tmp_path / "leafmap.png")
            page.locator("summary", has_text="Quercus lobata").click()
            text = page.locator("body").inner_text()
            page.close()
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert elsewhere == []
    assert [str(complaint) for complaint in complaints] == []
    tiles = [url for url in asked if "/tiles/WebMercatorQuad/" in url]
    assert tiles and all(url.startswith(f"{address}{prefix}/species/{OAK}/tiles/") for url in tiles)
    assert all(status == 200 for status, _ in answers)
    assert "Quercus lobata" in text and "Suitability compares places" in text
    sea, land, painted = shares(picture)
    assert sea > 0.05 and land > 0.1 and painted > 0.1


def test_without_its_layer_nothing_would_look_painted():
    """The measure itself: an empty view has none of the map's colours."""
    empty = Image.new("RGB", (90, 70), leafmap_page.SEA)
    empty.paste(leafmap_page.LAND, (40, 0, 90, 70))
    file = io.BytesIO()
    empty.save(file, format="PNG")
    sea, land, painted = shares(file.getvalue())
    assert (round(sea + land, 6), painted) == (1, 0)


def test_the_policy_names_every_script_and_no_other_origin(client):
    answer = client.get(f"/leafmap?species={OAK}")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]+'", policy["script-src"])
    assert "http" not in answer.headers["content-security-policy"]
    assert leafmap_page.HERE not in answer.text
    assert not re.search(r"""<(?:script|link|img)[^>]*(?:src|href)=["']?https?:""", answer.text)


def test_a_page_is_exported_once_and_the_oldest_is_dropped(client, monkeypatch):
    made = []
    really = leafmap_page.exported
    monkeypatch.setattr(
        leafmap_page, "exported", lambda chosen: made.append(chosen.about.id) or really(chosen)
    )
    monkeypatch.setattr(leafmap_page, "PAGES", 1)
    for species in (OAK, OAK, POPPY, OAK):
        answer = client.get(f"/leafmap?species={species}")
        assert answer.status_code == 200
    assert made == [OAK, POPPY, OAK]
    again = client.get(f"/leafmap?species={OAK}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_without_leafmap_it_says_so_in_plain_words(client, monkeypatch):
    monkeypatch.setitem(sys.modules, "leafmap.maplibregl", None)
    answer = client.get(f"/leafmap?species={OAK}")
    assert answer.status_code == 503
    assert "pip install leafmap" in answer.json()["change"]
    assert answer.headers["cache-control"] == "no-store"


def test_a_name_cannot_break_out_of_the_page(shelf, monkeypatch):
    from dataclasses import replace

    class Named:
        def __init__(self, chosen):
            self.chosen = chosen
            evil = "</script><script>alert(1)</script>"
            self.about = replace(chosen.about, scientific=evil, vernacular=evil, credit={"data_credit": evil})

        def __getattr__(self, name):
            return getattr(self.chosen, name)

    app = app_of(shelf, monkeypatch)
    with TestClient(app):
        html, policy = leafmap_page.finished(leafmap_page.exported(Named(app.state.served.shown.find(OAK))))
    assert b"alert(1)" in html
    assert b"<script>alert" not in html
    assert policy.count("sha256-") == 1


@pytest.mark.parametrize(
    "query, status",
    [("species=none", 404), ("species=A", 422), ("url=x", 422), ("species=", 422), ("grid=mars", 404)],
)
def test_what_it_does_not_show(client, query, status):
    assert client.get(f"/leafmap?{query}").status_code == status


def test_the_first_species_is_shown_if_none_is_named(client):
    assert "Aptenodytes forsteri" in client.get("/leafmap").text


@pytest.mark.parametrize(
    "box", [(-125, 32, -114, 42), (-180, -90, 180, 90), (-180, 60, 180, 90), (170, -20, 180, -10)]
)
def test_a_view_holds_its_box(box):
    (lon, lat), zoom = leafmap_page.view(box)
    assert box[0] <= lon <= box[2] and box[1] <= lat <= box[3]
    assert (box[2] - box[0]) / 360 * 512 * 2**zoom <= 801
    assert leafmap_page.land(box)["features"]


def test_leafmap_brings_neither_torch_nor_a_cluster():
    code = "import sys, leafmap.maplibregl; print(*sorted({'torch', 'distributed'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.strip() == ""
