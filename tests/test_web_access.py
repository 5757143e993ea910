"""The web map for everybody: by keyboard alone, on a phone, in the dark, for a screen reader."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect
from webpage import PATIENCE_MS, WEB, get_json, served, visiting

pytestmark = pytest.mark.browser
POPPY = "eschscholzia-californica"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
FULL = f"#species={POPPY}&show=cut&compare=quercus-lobata&region=county:06019&place=36.8,-119.8"
SMALL = """() => [...document.querySelectorAll(
    "button, select, summary, a[href], input, textarea, label.choice, [role=option], [role=slider]")]
  .filter((each) => each.checkVisibility() && !each.matches(".skip"))
  .filter((each) => !each.closest(".leaflet-control-attribution, .segments"))
  .filter((each) => !(each.matches("input") && each.closest("label")))
  .map((each) => [each.outerHTML.slice(0, 80), each.getBoundingClientRect()])
  .filter(([, box]) => box.width < 44 || box.height < 43.5)
  .map(([html, box]) => `${html} ${box.width}x${box.height}`)"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with served(tmp_path_factory.mktemp("web")) as url:
        yield url


def open_all(page):
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    expect(page.locator("#region-table caption")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator("#here .answer")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator("#compare-keys .bar")).to_be_visible(timeout=PATIENCE_MS)


def test_everything_by_keyboard(browser, address):
    with visiting(browser, address) as visit:
        page, keys = visit.go().page, visit.page.keyboard
        page.locator("body").press("Tab")
        expect(page.locator("#to-map")).to_be_focused()
        for _ in range(2):
            keys.press("Tab")
        expect(page.locator("#search")).to_be_focused()
        keys.type("oak")
        expect(page.locator("#search-list [role=option]").first).to_be_visible(timeout=PATIENCE_MS)
        keys.press("ArrowDown")
        active = page.locator("#search").get_attribute("aria-activedescendant")
        assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"
        expect(page.locator(f"#{active} i")).to_have_text("Quercus lobata")
        keys.press("Enter")
        expect(page.locator("#about i").first).to_have_text("Quercus lobata", timeout=PATIENCE_MS)
        expect(page.locator("#search")).to_have_attribute("aria-expanded", "false")
        visit.painted()
        keys.press("Tab")
        expect(page.locator("#map")).to_be_focused()
        before = page.url
        keys.press("ArrowRight")
        expect(page).not_to_have_url(before)
        keys.press("Enter")
        expect(page.locator("#here .answer")).to_be_visible(timeout=PATIENCE_MS)
        expect(page.locator("#said")).to_contain_text("Quercus lobata")
        page.locator("#threshold").focus()
        at = float(page.locator("#threshold").input_value())
        keys.press("ArrowRight")
        assert float(page.locator("#threshold").input_value()) == at + 1
        expect(page).to_have_url(re.compile(r"threshold=0\.\d+"))
        assert visit.complaints == []


def test_escape_leaves_the_list_and_brings_the_name_back(browser, address):
    with visiting(browser, address) as visit:
        page = visit.go(f"#species={POPPY}").page
        page.locator("#search").fill("q")
        expect(page.locator("#search-list")).to_be_visible(timeout=PATIENCE_MS)
        page.keyboard.press("End")
        assert page.locator("#search").get_attribute("aria-activedescendant")
        page.keyboard.press("Escape")
        expect(page.locator("#search-list")).to_be_hidden()
        expect(page.locator("#search")).to_have_value(re.compile("California Poppy"))


def test_polygon_by_keyboard(browser, address):
    with visiting(browser, address) as visit:
        page = visit.go(f"#species={POPPY}&map=7/36.8000/-119.8000").page
        page.locator("summary", has_text="Region").click()
        page.get_by_role("button", name="Draw a polygon").press("Enter")
        expect(page.locator("#map")).to_be_focused()
        for moves in ((), ("ArrowRight", "ArrowRight"), ("ArrowDown", "ArrowDown")):
            for move in moves:
                page.keyboard.press(move)
            page.keyboard.press("Space")
        page.keyboard.press("Enter")
        expect(page.locator("#region-table caption")).to_contain_text("drawn polygon", timeout=PATIENCE_MS)
        corners = page.url.split("poly:")[1].split("&")[0].split(";")
        (lon0, lat0), (lon1, lat1), (lon2, lat2) = (map(float, corner.split(",")) for corner in corners)
        assert lon1 > lon0 and lat1 == pytest.approx(lat0, abs=1e-3)
        assert lat2 < lat1 and lon2 == pytest.approx(lon1, abs=1e-3)


def test_phone_needs_no_sideways_scroll_and_has_room_for_fingers(browser, address):
    with visiting(browser, address, viewport=PHONE, has_touch=True) as visit:
        page = visit.go(FULL).page
        open_all(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert page.evaluate(
            "document.querySelector('#panel').scrollWidth <= document.querySelector('#panel').clientWidth"
        )
        assert page.evaluate(SMALL) == []
        box = page.locator("#map").bounding_box()
        assert box["width"] == PHONE["width"] and box["height"] > 300
        panel = page.locator("aside").bounding_box()["height"]
        page.get_by_role("button", name="More of the panel").tap()
        expect(page.locator("#sheet")).to_have_attribute("aria-expanded", "true")
        assert page.locator("aside").bounding_box()["height"] > panel + 100
        page.locator("#search").tap()
        expect(page.locator("#search-list [role=option]").first).to_be_visible(timeout=PATIENCE_MS)
        assert page.evaluate(SMALL) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_serious(browser, address, viewport, scheme):
    with visiting(browser, address, viewport=viewport, color_scheme=scheme) as visit:
        page = visit.go(FULL).page
        open_all(page)
        assert page.locator("html").get_attribute("data-theme") == scheme
        page.locator("#search").fill("q")
        expect(page.locator("#search-list")).to_be_visible(timeout=PATIENCE_MS)
        page.keyboard.press("ArrowDown")
        page.evaluate((WEB / "node_modules" / "axe-core" / "axe.min.js").read_text())
        found = page.evaluate("axe.run()")
        grave = [
            (each["id"], node["html"][:200], node["failureSummary"])
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]
        assert grave == []
        assert len(found["passes"]) > 20


def test_theme_is_switched_and_kept_in_the_link(browser, address):
    with visiting(browser, address, color_scheme="light") as visit:
        page = visit.go(f"#species={POPPY}").page
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.get_by_role("button", name="Switch to dark colours").click()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
        expect(page).to_have_url(re.compile("theme=dark"))


def test_scores_stand_beside_those_of_coordinates_alone(browser, address):
    with visiting(browser, address) as visit:
        page = visit.go(f"#species={POPPY}").page
        info = get_json(f"{address}species/{POPPY}/info")
        auc = info["scores"]["auc"]
        expect(page.locator(".score")).to_contain_text(
            f"AUC {auc['value']:.2f}, coordinates alone {auc['null']:.2f}"
        )
        expect(page.locator("#reading")).to_contain_text(info["explanation"])
