"""The map of notebooks, against a real tile server: layers, names, records, two sides, clicks, areas."""

import asyncio
import json
import re
import subprocess
import sys
from urllib.request import Request, urlopen

import geopandas as gpd
import pandas as pd
import pytest
import shapely
from serving import OAK, SQUARE, WREN, entries, made_bundle, started

from geomap import leafmap_html, leafmap_parts, leafmap_species
from geomap.browser_way import HUB
from geomap.colour import CLEAR
from geomap.errors import GridError, NameNotFoundError, RecordsError
from geomap.leafmap import Map
from geomap.tileserver import SHARED, TileServerError

POINT = (-119.5, 37.5)
CLOSED = SQUARE["coordinates"][0]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with started(made_bundle(tmp_path_factory), tmp_path_factory.mktemp("cache")) as (_, address):
        yield address


@pytest.fixture
def shown(address):
    with Map(address) as shown:
        yield shown


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data), timeout=60) as answer:
        return answer.headers["content-type"], answer.read()


def picture(layer):
    """The tile of a layer in the middle of California."""
    kind, content = ask(layer.url.replace("{z}/{x}/{y}", "6/10/24"))
    assert kind == "image/png"
    return entries(content)


def layers(shown):
    return [layer.name for layer in shown.layers]


def mouse(shown, kind, lon, lat):
    """What the browser sends when the mouse does something on the map."""
    content = {"event": "interaction", "type": kind, "coordinates": [lat, lon]}
    shown._handle_leaflet_event(shown, content, [])


def html(widget):
    """Text of a widget without tags."""
    return re.sub(r"<[^>]*>", " ", widget.value)


def test_a_species_is_a_layer_with_the_colours_and_the_opacity_of_its_slider(shown, address):
    shown.add_species("Chamaea fasciata", opacity=0.5)
    layer, control = shown.shown["Chamaea fasciata"].layer, shown.shown["Chamaea fasciata"].control
    assert layers(shown) == ["land", "Chamaea fasciata"]
    assert layer.url.startswith(f"{address}/species/{WREN}/tiles/WebMercatorQuad/{{z}}/{{x}}/{{y}}.png?")
    tile = picture(layer)
    assert tile.shape[:2] == (256, 256)
    assert 0 < (tile == CLEAR).mean() < 1
    legend, slider = control.widget.children[0], control.widget.children[-1]
    told = json.loads(ask(f"{address}/species/{WREN}/legend.json")[1])
    assert told["title"] in html(legend)
    assert all(colour in legend.value for colour in told["palette"][::10])
    assert (slider.value, layer.opacity) == (0.5, 0.5)
    slider.value = 0.25
    assert layer.opacity == 0.25
    assert control in shown.controls
    assert "Made up for north-america-birds" in layer.attribution


def test_the_first_species_decides_where_the_map_looks_unless_it_was_said(shown, address):
    before = list(shown.center), shown.zoom
    shown.add_species("Wrentit")
    (lat, lon), zoom = shown.center, shown.zoom
    assert (before, zoom) == (([20, 0], 2), 6)
    assert 36 < lat < 39 and -120 < lon < -118
    with Map(address, center=(10.0, 20.0), zoom=3) as said:
        said.add_species("Wrentit")
        assert (list(said.center), said.zoom) == ([10.0, 20.0], 3)


@pytest.mark.parametrize(
    "name, found",
    [
        ("wrentit", "Chamaea fasciata"),
        ("chamaea-fasciata", "Chamaea fasciata"),
        ("Eschscholzia californica Cham.", "Eschscholzia californica"),
        ("Quercus hindsii", "Quercus lobata"),
        ("VALLEY OAK", "Quercus lobata"),
    ],
)
def test_names_that_are_exact_are_found(shown, name, found):
    shown.add_species(name)
    assert list(shown.shown) == [found]


def test_near_names_are_told_and_not_taken(shown):
    with pytest.raises(NameNotFoundError) as caught:
        shown.add_species("Chamea fasciata")
    assert caught.value.found == "6 species at the server, none of that name"
    assert "Did you mean Chamaea fasciata" in caught.value.change
    with pytest.raises(NameNotFoundError, match="lists what there is"):
        shown.add_species("Zzzz")
    assert layers(shown) == ["land"]


def test_refusals_have_three_parts(shown):
    with pytest.raises(TileServerError, match="mars"):
        shown.add_species("Wrentit", colormap="mars")
    with pytest.raises(RecordsError, match="the map has mtp, p10"):
        shown.add_species("Wrentit", threshold="p90")
    with pytest.raises(NameNotFoundError):
        shown.add_species("Wrentit", group="california-plants")
    with pytest.raises(TileServerError):
        shown.add_species("Wrentit", grid="no such grid!")
    assert layers(shown) == ["land"]


def test_another_colour_map_gives_other_tiles(shown):
    shown.add_species("Quercus lobata")
    first = shown.shown["Quercus lobata"]
    shown.add_species("Quercus lobata", colormap="greys")
    second = shown.shown["Quercus lobata"]
    assert layers(shown) == ["land", "Quercus lobata"]
    assert first.control not in shown.controls
    assert ask(first.layer.url.replace("{z}/{x}/{y}", "6/10/24")) != ask(
        second.layer.url.replace("{z}/{x}/{y}", "6/10/24")
    )
    assert first.control.widget.children[0].value != second.control.widget.children[0].value


def test_nothing_comes_from_elsewhere_unless_a_basemap_is_named(address):
    with Map(address) as offline:
        offline.add_species("Wrentit")
        urls = [layer.url for layer in offline.layers if hasattr(layer, "url")]
        assert urls and all(url.startswith(address) for url in urls)
        land = shapely.from_geojson(json.dumps(offline.layers[0].data["features"][1:][-1]["geometry"]))
        assert land.area > 1
    with Map(address, basemap="OpenStreetMap.Mapnik") as online:
        assert "openstreetmap.org" in online.layers[0].url
        assert len(online.layers) == 1


def test_records_are_points_of_the_table(shown):
    table = pd.DataFrame({"Longitude": [-120.0, -119.123456, None, 5], "lat": ["37.5", "36", "35", "91"]})
    assert shown.add_records(table, name="sightings") == 2
    layer = shown.layers[-1]
    assert layer.name == "sightings"
    assert layer.data["geometry"]["coordinates"] == [[-120.0, 37.5], [-119.12346, 36.0]]


def test_records_of_geopandas_come_in_any_crs(shown):
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy([-120, -119], [37, 38]), crs="EPSG:4326")
    assert shown.add_records(points.to_crs("EPSG:3310")) == 2
    assert shown.layers[-1].data["geometry"]["coordinates"] == [[-120, 37], [-119, 38]]
    with pytest.raises(RecordsError, match="without a CRS"):
        shown.add_records(points.set_crs(None, allow_override=True))
    with pytest.raises(RecordsError, match="type Polygon"):
        shown.add_records(gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326"))


@pytest.mark.parametrize(
    "table, found",
    [
        (pd.DataFrame({"x": [1], "lat": [2]}), "no column decimalLongitude among x, lat"),
        (pd.DataFrame({"lon": [None], "lat": [2]}), "1 rows, none of them with both"),
        (pd.DataFrame({"lon": [], "lat": []}), "0 rows"),
    ],
)
def test_tables_without_coordinates_are_refused(shown, table, found):
    with pytest.raises(RecordsError, match=found):
        shown.add_records(table)


def test_two_species_on_two_sides(shown):
    shown.add_species("Quercus lobata")
    shown.split("Chamaea fasciata", "Valley Oak", opacity=0.9)
    control = shown._split
    assert control in shown.controls
    assert [control.left_layer.name, control.right_layer.name] == ["Chamaea fasciata", "Quercus lobata"]
    assert OAK in control.right_layer.url
    assert [each.control.position for each in shown.shown.values()] == ["bottomleft", "bottomright"]
    assert (picture(control.left_layer) != picture(control.right_layer)).any()
    assert layers(shown) == ["land"]  # the bar draws both
    assert list(shown.shown) == ["Chamaea fasciata", "Quercus lobata"]
    shown.split("Quercus lobata", "Sequoia sempervirens")
    assert control not in shown.controls
    assert list(shown.shown) == ["Quercus lobata", "Sequoia sempervirens"]
    shown.add_species("Quercus lobata")  # takes the bar away
    assert (layers(shown), list(shown.shown)) == (["land", "Quercus lobata"], ["Quercus lobata"])
    with pytest.raises(RecordsError, match="are both Quercus lobata"):
        shown.split("Valley Oak", "Quercus hindsii")


def test_a_click_tells_value_verdict_and_what_lives_there(shown, address):
    shown.add_species("Sequoia sempervirens")
    shown.add_species("Wrentit", threshold="maxsss")
    lon, lat = POINT
    mouse(shown, "mousemove", lon, lat)
    assert shown.panel.value == ""
    mouse(shown, "click", lon + 360, lat)
    said = " ".join(html(shown.panel).split())
    told = json.loads(ask(f"{address}/species/{WREN}/point/{lon},{lat}")[1])
    assert f"37.5000, -119.5000 Sequoia sempervirens : {0.9417:.3f} suitability, at or above 0.919" in said
    verdict = "at or above" if told["thresholds"]["maxsss"]["above"] else "below"
    limit = told["thresholds"]["maxsss"]["value"]
    assert f"Chamaea fasciata : {told['value']:.3f} probability, {verdict} {limit:.3f}" in said
    living = json.loads(ask(f"{address}/at/{lon},{lat}")[1])["species"]
    above = [each["scientificName"] for each in living if each["above"]]
    assert above == ["Sequoia sempervirens"]
    assert "What lives here: Sequoia sempervirens 0.942 suitability" in said
    assert sum(shown.panel is getattr(control, "widget", None) for control in shown.controls) == 1


def test_the_sea_has_no_data_and_a_lost_server_is_told(shown):
    shown.add_species("Wrentit")
    shown.ask(-130, 30)
    assert "no data (not the same as absent)" in shown.panel.value
    assert "no map has data here" in shown.panel.value
    shown.server.address = "http://127.0.0.1:9"
    shown.ask(*POINT)
    assert 'role="alert"' in shown.panel.value
    assert "cannot reach the tile server" in shown.panel.value


def test_a_summary_is_the_answer_of_the_server(shown, address):
    shown.add_species("Wrentit")
    shown.add_species("Sequoia sempervirens", threshold="mtp")
    polygons = gpd.GeoDataFrame(
        {"name": ["a", "b"]}, index=["a", "b"], crs="EPSG:4326",
        geometry=[shapely.Polygon(CLOSED), shapely.box(-140, 30, -139, 31)],
    )  # fmt: skip
    table = shown.summary(polygons)
    assert list(table["polygon"]) == ["a", "a", "b", "b"]
    assert list(table["scientificName"]) == ["Chamaea fasciata", "Sequoia sempervirens"] * 2
    told = json.loads(ask(f"{address}/species/sequoia-sempervirens/summary", SQUARE)[1])
    row = table.iloc[1]
    assert [row[key] for key in ("cells", "area_km2", "nodata_km2", "mean", "min", "max", "unit")] == [
        told[key] for key in ("cells", "area_km2", "nodata_km2", "mean", "min", "max", "unit")
    ]
    above = told["above"]["mtp"]
    assert (row["threshold"], row["above_km2"], row["above_share"]) == (
        "mtp",
        above["area_km2"],
        above["share"],
    )
    assert row["above_km2"] > 0
    assert table.loc[2:, ["cells", "above_km2"]].eq(0).all(axis=None)
    assert table.loc[2:, ["mean", "min", "max"]].isna().all(axis=None)


def test_the_drawn_polygon_is_summed(shown):
    with pytest.raises(RecordsError, match="no species on the map"):
        shown.summary(SQUARE)
    shown.add_species("Wrentit")
    with pytest.raises(RecordsError, match="no polygon drawn"):
        shown.summary()
    drawn = {"type": "Feature", "properties": {}, "geometry": SQUARE}
    sent = {"event": "draw:created", "geo_json": drawn}
    shown.draw_control._handle_leaflet_event(shown.draw_control, sent, [])
    pd.testing.assert_frame_equal(shown.summary(), shown.summary(shapely.Polygon(CLOSED)))
    with pytest.raises(GridError, match="a Point"):
        shown.summary(shapely.Point(POINT))
    with pytest.raises(GridError, match="a str"):
        shown.summary("California")
    with pytest.raises(GridError, match="without a CRS"):
        shown.summary(gpd.GeoSeries([shapely.Polygon(CLOSED)]))
    with pytest.raises(TileServerError, match="cannot read the polygon"):
        shown.summary(shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]))


def test_behind_a_hub_the_browser_asks_the_notebooks_host(address, monkeypatch):
    monkeypatch.setenv(HUB, "/user/ada/")
    with Map(address) as shown:
        shown.add_species("Wrentit")
        port = address.rsplit(":", 1)[1]
        assert shown.shown["Chamaea fasciata"].layer.url.startswith(f"/user/ada/proxy/{port}/species/")
        shown.ask(*POINT)
        assert "Chamaea fasciata" in shown.panel.value


@pytest.fixture
def here_local(tmp_path_factory, repository, tmp_path, monkeypatch):
    """Where a local server finds its bundle and keeps its files."""
    monkeypatch.setenv("GEOMAP_BUNDLE", str(made_bundle(tmp_path_factory)))
    monkeypatch.setenv("GEOMAP_TILES_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.chdir(tmp_path)


def test_a_local_server_lives_as_long_as_its_maps(here_local):
    with Map() as first:
        with Map() as second:
            second.add_species("Wrentit")
            picture(second.shown["Chamaea fasciata"].layer)
            assert second.server.address == first.server.address
        assert SHARED._server.running
    assert SHARED._server is None
    with pytest.raises(TileServerError, match="cannot reach"):
        first.add_species("Wrentit")


@pytest.mark.parametrize(
    "bbox, center, zoom",
    [
        ((-180, -85, 180, 85), (0, 0), 1),
        ((170, -20, -170, -10), (-15, 180), 5),
        ((10, 50, 10, 50), (50, 10), 11),
    ],
)
def test_a_view_holds_its_box(bbox, center, zoom):
    (lat, lon), found = leafmap_parts.view(bbox)
    assert (lat, lon) == pytest.approx(center, abs=0.2)
    assert found == zoom


def test_texts_of_a_server_cannot_break_out_of_the_panel():
    evil = "<script>alert(1)</script>"
    about = {"scientificName": evil, "thresholds": {"p10": {"label": evil}}}
    answer = {"value": 0.5, "unit": evil, "thresholds": {"p10": {"value": 0.1, "above": True}}}
    living = [{"scientificName": evil, "value": 1.0, "meaning": evil, "above": True}]
    legend = {"palette": [evil], "stops": [], "explanation": '">', "nodata": evil, "title": evil}
    legend |= {"low": 0.0, "high": 1.0}
    limits = {"p10": {"value": 0.1, "label": evil}}
    table = pd.DataFrame([{"scientificName": evil, "cells": 0, "area_km2": 0.0, "nodata_km2": 1.0}])
    said = leafmap_html.place_html(1, 2, [(about, "p10", answer)], living)
    said += leafmap_html.legend_html(legend, limits, None) + leafmap_html.summary_html(table)
    said += leafmap_html.trouble_html(TileServerError("", evil, "")) + leafmap_html.area_html(evil, 1, 1, 1)
    assert "<script>" not in said
    assert said.count("&lt;script&gt;") == 13
    assert 'title="&quot;&gt;' in said


def test_leafmap_is_left_alone_until_it_is_needed():
    code = "import geomap, sys; print('leafmap' in sys.modules, 'geomap.leafmap' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["False", "False"]


def cut(shown, name="Chamaea fasciata"):
    """The box of a species: choice, slider, and the text of its area."""
    tools = shown.shown[name]
    return tools, tools.choice, tools.slider


def test_a_threshold_of_the_species_cuts_its_tiles_and_tells_the_area(shown, address):
    shown.add_species("Wrentit", threshold="p10")
    tools, choice, slider = cut(shown)
    told = json.loads(ask(f"{address}/species/{WREN}")[1])
    limit = told["thresholds"]["p10"]
    assert tools.layer.url.endswith("&threshold=p10")
    assert choice.value == "p10"
    assert slider.value == pytest.approx(limit["value"], abs=0.00201)
    area = " ".join(html(tools.area).replace("\u202f", "").split())
    assert f"At or above P10 = {limit['value']:.3f}: {limit['area_km2']:.0f} km²" in area
    labels = [label for label, _ in choice.options]
    assert labels == [
        "all values", *[f"{short}: {told['thresholds'][key]['value']:.3f}" for key, short in
        (("mtp", "MTP"), ("p10", "P10"), ("lpt5", "LPT 5"), ("maxsss", "MaxSSS"))], "a value of your own",
    ]  # fmt: skip
    cut_tile = picture(tools.layer)
    choice.value = ""
    assert "threshold" not in tools.layer.url
    whole = picture(tools.layer)
    assert (cut_tile != whole).any()
    assert ((cut_tile == CLEAR) == (whole == CLEAR)).all()
    assert "All values are drawn" in html(tools.area)
    choice.value = "maxsss"
    assert tools.layer.url.endswith("&threshold=maxsss")
    assert slider.value == pytest.approx(told["thresholds"]["maxsss"]["value"], abs=0.00201)


def test_what_the_page_sends_back_is_no_move(shown):
    shown.add_species("Wrentit")
    tools, choice, slider = cut(shown)
    for at, threshold in ((None, None), ("p10", "p10"), (0.3333, "0.3333")):
        tools.cut(at)
        steps = slider.value / slider.step
        assert steps == pytest.approx(round(steps), abs=1e-6)  # else the page would move it there
        slider.set_state({"value": slider.value + 1e-12})
        assert tools.threshold == threshold
    assert choice.value == "own"


def test_the_slider_cuts_at_any_value(shown, address):
    shown.add_species("Wrentit")
    tools, choice, slider = cut(shown)
    assert "threshold" not in tools.layer.url
    slider.value = 0.5
    assert (choice.value, tools.threshold) == ("own", "0.5")
    assert tools.layer.url.endswith("&threshold=0.5")
    stats = json.loads(ask(f"{address}/species/{WREN}/stats")[1])
    area = " ".join(html(tools.area).replace("\u202f", "").split())
    km2 = float(re.search(r"about (\d+) km²", area).group(1))
    assert stats["curve"][126] - 1 <= km2 <= stats["curve"][125] + 1
    (row,) = shown.summary(SQUARE).to_dict("records")
    told = json.loads(ask(f"{address}/species/{WREN}/summary?threshold=0.5", SQUARE)[1])["above"]["0.5"]
    assert (row["threshold"], row["threshold_value"]) == ("0.5", 0.5)
    assert (row["above_km2"], row["above_share"]) == (told["area_km2"], told["share"])
    shown.ask(*POINT)
    assert re.search(r"(below|at or above) 0\.500 \(your threshold\)", html(shown.panel))
    choice.value = ""
    choice.value = "own"
    assert tools.layer.url.endswith("&threshold=0.5")


def test_a_value_can_be_given_and_is_checked(shown):
    shown.add_species("Wrentit", threshold=0.25)
    assert shown.shown["Chamaea fasciata"].threshold == "0.25"
    shown.shown["Chamaea fasciata"].cut(None)
    assert "threshold" not in shown.shown["Chamaea fasciata"].layer.url
    with pytest.raises(RecordsError, match=r"the value 1\.5"):
        shown.shown["Chamaea fasciata"].cut(1.5)
    with pytest.raises(RecordsError, match="Name one it has, or give a value from 0 to 1"):
        shown.split("Wrentit", "Valley Oak", threshold="p90")


def test_a_slider_that_is_moved_asks_for_tiles_when_it_rests(shown, monkeypatch):
    shown.add_species("Wrentit")
    tools, _, slider = cut(shown)
    urls = []
    tools.layer.observe(lambda change: urls.append(change["new"]), "url")

    async def move():
        for value in (0.2, 0.3, 0.4):
            slider.value = value
            await asyncio.sleep(0.01)
        assert urls == []
        await asyncio.sleep(2 * leafmap_species.PAUSE_S)

    asyncio.run(move())
    assert [url.rsplit("&", 1)[1] for url in urls] == ["threshold=0.4"]


def test_a_cut_at_a_lost_server_is_told_in_the_box(shown):
    shown.add_species("Wrentit")
    tools, choice, _ = cut(shown)
    shown.server.address = "http://127.0.0.1:9"
    choice.value = "p10"
    assert 'role="alert"' in tools.area.value


def test_a_polygon_that_is_drawn_is_summed_in_the_panel(shown):
    def draw(event, geometry):
        feature = {"type": "Feature", "properties": {}, "geometry": geometry}
        sent = {"event": event, "geo_json": feature}
        shown.draw_control._handle_leaflet_event(shown.draw_control, sent, [])
        return " ".join(html(shown.panel).replace("\u202f", "").split())

    assert draw("draw:created", SQUARE) == ""  # no species yet
    shown.add_species("Wrentit")
    assert draw("draw:created", {"type": "Point", "coordinates": list(POINT)}) == ""
    said = draw("draw:created", SQUARE)
    (row,) = shown.summary(SQUARE).to_dict("records")
    assert f"{row['area_km2']:.0f} km² with data" in said
    assert f"Chamaea fasciata {row['threshold_value']:.3f} {row['mean']:.3f} {row['above_km2']:.0f}" in said
    bow_tie = {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}
    assert "cannot read the polygon" in draw("draw:edited", bow_tie)
    sea = {"type": "Polygon", "coordinates": [[[-140, 30], [-139, 30], [-139, 31], [-140, 30]]]}
    assert "no data (not the same as absent)" in draw("draw:created", sea)
    assert draw("draw:deleted", sea) == ""


def test_widgets_that_are_closed_all_at_once_let_the_server_go(here_local):
    shown = Map()
    assert SHARED._server.users == 1
    shown.close_all()
    assert SHARED._server is None
