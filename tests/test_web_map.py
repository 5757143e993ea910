"""The web map in a real browser: what is painted, asked, remembered, compared and taken away."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
from playwright.sync_api import expect
from webpage import FRESNO, MODOC, PATIENCE_MS, SEA, get_json, palette_of, served, visiting

pytestmark = pytest.mark.browser
POPPY = "eschscholzia-californica"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with served(tmp_path_factory.mktemp("web")) as url:
        yield url


@pytest.fixture
def visit(browser, address):
    with visiting(browser, address) as visit:
        yield visit
        assert visit.complaints == []
        assert visit.abroad == []


def test_first_view_is_the_species_with_most_records_fitted_to_its_grid(visit, address):
    visit.go()
    group = get_json(f"{address}groups")["groups"][0]["name"]
    first = max(get_json(f"{address}species?group={group}")["species"], key=lambda each: each["records"])
    expect(visit.page.locator("#about i").first).to_have_text(first["scientificName"])
    assert first["scientificName"] in visit.page.title()
    west, south, east, north = get_json(f"{address}species/{first['id']}/info")["bbox"]
    box = visit.page.locator("#map").bounding_box()
    left, top = visit.client((west, north))
    right, bottom = visit.client((east, south))
    assert box["x"] <= left < right <= box["x"] + box["width"]
    assert box["y"] <= top < bottom <= box["y"] + box["height"]
    assert right - left > box["width"] / 4  # and no smaller than need be


def test_search_paints_the_species_in_the_colours_of_its_legend(visit, address):
    visit.go()
    visit.choose("poppy")
    visit.painted()
    expect(visit.page.locator("#about i").first).to_have_text("Eschscholzia californica")
    expect(visit.page).to_have_title(re.compile("California Poppy"))
    colours = visit.colours()
    assert (0, 0, 0, 0) in colours
    painted = colours - {(0, 0, 0, 0)}
    palette = palette_of(address, POPPY)
    assert len(painted) > 20
    assert painted <= set(palette)
    value = get_json(f"{address}species/{POPPY}/point/{FRESNO[0]},{FRESNO[1]}")["value"]
    assert tuple(visit.pixel(FRESNO)) == palette[round(250 * value)]


def test_sea_is_clear_and_unlike_zero(visit, address):
    visit.go(f"#species={POPPY}&show=two&threshold=1")
    assert tuple(visit.pixel(FRESNO)) == palette_of(address, POPPY)[0]  # below: the colour of zero, opaque
    sea = visit.pixel(SEA)
    assert sea is None or sea == [0, 0, 0, 0]
    swatches = visit.page.locator("#legend .swatch")
    zero, nodata = (
        swatches.nth(at).evaluate("each => getComputedStyle(each).backgroundColor") for at in (0, 1)
    )
    assert zero != nodata
    expect(visit.page.locator("#legend")).to_contain_text("No data")
    visit.click((-124.9, 38.0))
    expect(visit.page.locator("#here")).to_contain_text("not the same as zero", timeout=PATIENCE_MS)


def test_threshold_repaints_without_a_new_tile_and_tells_the_area(visit, address):
    visit.go(f"#species={POPPY}")
    before, asked = visit.colours(), len(visit.tiles)
    visit.page.get_by_role("button", name="MaxSSS").click()
    limit = get_json(f"{address}species/{POPPY}/info")["thresholds"]["maxsss"]
    palette = palette_of(address, POPPY)
    after = visit.colours()
    cut = round(250 * limit["value"])
    assert after != before
    assert after & set(palette[1:cut]) == set()
    assert after & set(palette[cut:])
    expect(visit.page.locator("#threshold-area")).to_contain_text(f"{round(limit['area_km2']):,} km²")
    visit.page.locator("#threshold").fill("200")
    curve = get_json(f"{address}species/{POPPY}/stats")["curve"]
    share = curve[200] / curve[0]
    text = "< 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
    expect(visit.page.locator("#threshold-area")).to_contain_text(text)
    visit.page.get_by_text("Two colours").click()
    assert len(visit.colours() - {(0, 0, 0, 0)}) == 2
    visit.page.locator("summary", has_text="Layers").click()
    visit.page.locator("#opacity").fill("50")
    assert visit.page.locator(".values").evaluate("each => each.style.opacity") == "0.5"
    visit.page.locator("#colormap").select_option("greys")
    expect(visit.page.locator("#map:not([aria-busy])")).to_be_visible()
    expect(visit.page).to_have_url(re.compile("colormap=greys"))
    greys = palette_of(address, POPPY, "greys")
    visit.page.wait_for_timeout(300)
    assert visit.colours() <= {greys[0], greys[190], (0, 0, 0, 0)}
    assert len(visit.tiles) == asked


def test_click_tells_what_the_point_api_tells(visit, address):
    visit.go(f"#species={POPPY}")
    visit.click(FRESNO)
    answer = visit.page.locator("#here .answer")
    expect(answer).to_be_visible(timeout=PATIENCE_MS)
    lat, lon = visit.page.url.split("place=")[1].split("&")[0].split(",")
    point = get_json(f"{address}species/{POPPY}/point/{lon},{lat}")
    assert float(answer.get_attribute("data-value")) == point["value"]
    expect(answer).to_contain_text(f"{point['value']:.2f}")
    expect(visit.page.locator("#said")).to_contain_text("California Poppy")
    verdicts = visit.page.locator("#here .verdicts li")
    assert verdicts.count() == len(point["thresholds"])
    assert visit.page.locator("#here .verdicts .above").count() == sum(
        each["above"] for each in point["thresholds"].values()
    )
    there = get_json(f"{address}at/{lon},{lat}?grid=california&limit=10")["species"]
    lives = visit.page.locator("#lives button")
    expect(lives).to_have_count(len(there))
    other = next(each for each in there if each["id"] != POPPY)
    lives.filter(has_text=other["scientificName"]).click()
    expect(visit.page).to_have_url(re.compile(f"species={other['id']}"))


def test_link_brings_the_whole_view_back(browser, visit, address):
    state = (
        f"#species={POPPY}&group=california-plants&grid=california&map=7/37.5000/-120.5000&show=cut&threshold=p10"
        "&colormap=orrd&opacity=60&compare=quercus-lobata&split=30&region=county:06019&place=36.8,-119.8&theme=dark"
    )
    visit.go(state)
    page = visit.page
    expect(page.locator("#region-table caption")).to_contain_text("Fresno", timeout=PATIENCE_MS)
    expect(page.locator("#here .answer")).to_be_visible(timeout=PATIENCE_MS)
    expect(page.locator("#divider")).to_have_attribute("aria-valuenow", "30")
    expect(page.get_by_role("button", name="P10")).to_have_attribute("aria-pressed", "true")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.locator("#colormap").input_value() == "orrd"
    assert page.locator("#opacity").input_value() == "60"
    assert page.locator("#grid").input_value() == "california"
    assert page.locator("#group").input_value() == "california-plants"
    expect(page.locator("#compare")).to_have_value(re.compile("Quercus lobata"))
    page.wait_for_timeout(300)
    left, seen = page.url, visit.pixel(MODOC)
    said = dict(pair.split("=") for pair in left.split("#")[1].split("&"))
    assert said == dict(pair.split("=") for pair in state[1:].split("&"))
    with visiting(browser, address) as again:
        again.go(left.removeprefix(address))
        assert again.pixel(MODOC) == seen
        assert again.page.url == left


def test_back_button_undoes_a_choice(visit):
    visit.go(f"#species={POPPY}")
    visit.choose("valley oak")
    expect(visit.page.locator("#about i").first).to_have_text("Quercus lobata", timeout=PATIENCE_MS)
    visit.page.go_back()
    expect(visit.page.locator("#about i").first).to_have_text("Eschscholzia californica", timeout=PATIENCE_MS)
    expect(visit.page.locator("#search")).to_have_value(re.compile("California Poppy"))


def test_two_species_side_by_side_and_in_three_colours(visit, address):
    visit.go(f"#species={POPPY}")
    visit.page.locator("summary", has_text="Compare").click()
    visit.choose("valley oak", "#compare")
    divider = visit.page.locator("#divider")
    expect(divider).to_be_visible(timeout=PATIENCE_MS)
    expect(visit.page.locator("#compare-keys .bar")).to_be_visible()
    expect(visit.page.locator("#map:not([aria-busy])")).to_be_visible(timeout=PATIENCE_MS)
    expect(visit.page.locator(".values.second canvas").first).to_be_attached()
    palette = set(palette_of(address, "quercus-lobata")) | {(0, 0, 0, 0)}
    expect(visit.page.locator(".values.second .leaflet-tile-loaded").first).to_be_attached(
        timeout=PATIENCE_MS
    )
    assert visit.colours(".leaflet-second-pane") <= palette
    clip = "pane => getComputedStyle(document.querySelector(pane)).clipPath"
    before = visit.page.evaluate(clip, ".leaflet-first-pane")
    divider.press("ArrowLeft")
    expect(divider).to_have_attribute("aria-valuenow", "48")
    assert visit.page.evaluate(clip, ".leaflet-first-pane") != before
    visit.page.get_by_text("As three colours").click()
    expect(visit.page.locator("img.leaflet-tile-loaded").first).to_be_attached(timeout=PATIENCE_MS)
    expect(divider).to_be_hidden()
    legend = get_json(f"{address}compare/{POPPY}/quercus-lobata/legend.json?grid=california")
    expect(visit.page.locator("#compare-keys li")).to_have_count(len(legend["classes"]))
    visit.page.get_by_role("button", name="End the comparison").click()
    expect(visit.page.locator("#compare-keys")).to_be_empty()
    assert visit.page.evaluate(clip, ".leaflet-first-pane") == "none"


def test_map_table_and_citation_can_be_taken_away(visit, address):
    visit.go(f"#species={POPPY}")
    with visit.page.expect_download() as taken:
        visit.page.get_by_role("link", name="GeoTIFF").click()
    assert taken.value.suggested_filename.endswith(".tif")
    assert taken.value.path().read_bytes()[:2] in (b"II", b"MM")
    with visit.page.expect_download() as taken:
        visit.page.get_by_role("button", name="Thresholds (CSV)").click()
    rows = list(csv.DictReader(io.StringIO(taken.value.path().read_text())))
    known = get_json(f"{address}species/{POPPY}/info")["thresholds"]
    assert {row["threshold"]: float(row["value"]) for row in rows} == {
        key: each["value"] for key, each in known.items()
    }
    visit.page.get_by_role("button", name="Citation").click()
    expect(visit.page.locator(".citation")).to_contain_text("Eschscholzia californica")


def test_county_is_added_up(visit, address):
    visit.go(f"#species={POPPY}")
    visit.page.locator("summary", has_text="Region").click()
    with visit.page.expect_response("**/summary**") as answered:
        visit.choose("Fresno", "#region")
    answer = answered.value.json()
    table = visit.page.locator("#region-table")
    expect(table.locator("caption")).to_contain_text("Fresno", timeout=PATIENCE_MS)
    expect(table).to_contain_text(f"{round(answer['area_km2']):,} km²")
    assert 12_000 < answer["area_km2"] + answer["nodata_km2"] < 19_000  # Fresno County has 15,585 km²
    with visit.page.expect_download() as taken:
        table.get_by_role("button", name="Table as CSV").click()
    rows = {row["measure"]: row for row in csv.DictReader(io.StringIO(taken.value.path().read_text()))}
    assert float(rows["mean"]["value"]) == answer["mean"]
    assert rows["mean"]["region"] == "Fresno"


def test_polygon_by_mouse_and_by_its_corners(visit):
    visit.go(f"#species={POPPY}&map=6/37.5000/-120.0000")
    visit.page.locator("summary", has_text="Region").click()
    visit.page.get_by_role("button", name="Draw a polygon").click()
    for corner in ((-121.0, 36.0), (-119.0, 36.0), (-119.0, 38.0)):
        visit.click(corner)
        visit.page.wait_for_timeout(300)  # two clicks within that are one click to Leaflet, or a double one
    visit.page.get_by_role("button", name="Finish the polygon").click()
    expect(visit.page.locator("#region-table caption")).to_contain_text("drawn polygon", timeout=PATIENCE_MS)
    corners = visit.page.url.split("poly:")[1].split("&")[0].split(";")
    assert [round(float(part)) for corner in corners for part in corner.split(",")] == [
        -121,
        36,
        -119,
        36,
        -119,
        38,
    ]
    visit.page.get_by_text("Or type its corners").click()
    visit.page.locator("#corners").fill("-122, 38\n-121, 38\n-121, 39")
    with visit.page.expect_request("**/summary**") as sent:
        visit.page.get_by_role("button", name="Take these corners").click()
    ring = json.loads(sent.value.post_data)["coordinates"][0]
    assert ring == [[-122, 38], [-121, 38], [-121, 39], [-122, 38]]


def test_group_and_grid_are_switched(visit):
    visit.go(f"#species={POPPY}")
    visit.page.locator("summary", has_text="Model and grid").click()
    visit.page.locator("#grid").select_option("north-america")
    expect(visit.page).to_have_url(re.compile("grid=north-america"))
    visit.painted()
    visit.page.locator("#group").select_option("world-birds")
    expect(visit.page.locator("#about i").first).not_to_have_text(
        "Eschscholzia californica", timeout=PATIENCE_MS
    )
    visit.painted()
    expect(visit.page.locator("#sources")).to_contain_text("world-birds")


def test_layers_and_months_of_a_map_are_chosen_apart(visit, address):
    assert get_json(f"{address}species/seasons")["months"] == [5, 11]
    visit.go("#species=seasons")
    visit.page.locator("summary", has_text="Layers").click()
    layer, month = visit.page.locator("#layer"), visit.page.locator("#month")
    assert layer.locator("option").all_inner_texts() == [
        "Habitat similarity", "Location prior: Aquila", "Habitat and range",
    ]  # fmt: skip
    expect(month).to_have_value("5")
    month.fill("10")  # the nearest that there is
    expect(visit.page).to_have_url(re.compile("layer=habitat-similarity-in-month-11"))
    layer.select_option(label="Habitat and range")
    expect(visit.page).to_have_url(re.compile("layer=habitat-and-range-in-month-11"))
    visit.painted()
    layer.select_option(label="Location prior: Aquila")
    expect(month).to_be_hidden()


def test_search_says_when_nothing_is_found(visit):
    visit.go()
    visit.page.locator("#search").fill("zzzzqqqq")
    expect(visit.page.locator("#search-note")).to_have_text(
        "Nothing found for “zzzzqqqq”.", timeout=PATIENCE_MS
    )
    expect(visit.page.locator("#search-list")).to_be_hidden()


def test_records_that_are_not_public_are_said_to_be(visit, address):
    said = get_json(f"{address}species/chamaea-fasciata/records")
    assert not said["public"]
    visit.go("#species=chamaea-fasciata")
    visit.page.locator("summary", has_text="Layers").click()
    visit.page.get_by_label("Records of the species").check()
    expect(visit.page.locator("#records-box")).to_contain_text(said["reason"], timeout=PATIENCE_MS)


def test_records_that_crowd_are_one_circle_with_their_number(visit, address):
    said = get_json(f"{address}species/quercus-lobata/records")
    assert (said["total"], said["withheld"], len(said["features"])) == (35, 2, 33)
    visit.go("#species=quercus-lobata&records=on&map=6/37.0000/-119.5000")
    page = visit.page
    expect(page.locator(".cluster")).to_have_text(["30"], timeout=PATIENCE_MS)
    expect(page.locator("path.record")).to_have_count(3)
    expect(page.locator("#records-box .muted")).to_have_text(
        "33 records. 2 are withheld to protect the places."
    )
    page.get_by_role("button", name="30 records").press("Enter")
    expect(page).to_have_url(re.compile("map=8/36.5"))


def test_months_show_only_where_a_map_has_them(visit):
    visit.go(f"#species={POPPY}")
    visit.page.locator("summary", has_text="Layers").click()
    expect(visit.page.locator("#opacity")).to_be_visible()
    expect(visit.page.locator("#month")).to_be_hidden()
    expect(visit.page.locator("#layer")).to_be_hidden()
