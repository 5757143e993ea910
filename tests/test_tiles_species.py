"""Species over HTTP: the list, its search, and all about a map, against the maps themselves."""

from __future__ import annotations

import json
import math
from xml.etree import ElementTree

import pytest
from serving import FINCH, OAK, POPPY, REDWOOD, SQUARE, TILE, WREN, made_bundle, opened
from shapely.geometry import shape

from tiles import paint, zonal
from tiles.maps import About, Band, Score
from tiles.search import SearchIndex
from tiles.shown import Listing


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with opened(made_bundle(tmp_path_factory), tmp_path_factory.mktemp("cache")) as client:
        yield client


def about(
    scientific, vernacular="", synonyms=(), group="birds", meaning="suitability", auc=0.8, grid="california"
):
    band = Band("suitability", "suitability", "suitability")
    slug = scientific.lower().replace(" ", "-")
    scores = {"auc": Score(auc, 0.5)}
    return About(
        slug,
        scientific,
        vernacular,
        synonyms,
        group,
        grid,
        meaning,
        9,
        3,
        {},
        None,
        scores,
        "0" * 12,
        (band,),
    )


NAMES = [
    about("Quercus lobata", "Valley Oak", ("Quercus hindsii",)),
    about("Quercus agrifolia", "Coast Live Oak"),
    about("Notholithocarpus densiflorus", "Tanoak"),
    about("Melanerpes formicivorus", "Acorn Woodpecker"),
    about("Spinus lawrencei", "Lawrence's Goldfinch"),
    about("Eschscholzia californica", "California Poppy"),
    about("Salvia leucophylla", "Purple Sage"),
    about("Pica nuttalli", "Yellow-billed Magpie"),
    about("Perisoreus canadensis", "Canada Jay"),
    about("Oakella oak", ""),
]


def found(text):
    index = SearchIndex([[each] for each in NAMES])
    return [NAMES[k].scientific for k in index.search(text)]


@pytest.mark.parametrize(
    "text, first",
    [
        ("Quercus lobata", "Quercus lobata"),
        ("QUERCUS LOBATA", "Quercus lobata"),
        ("quercus hindsii", "Quercus lobata"),
        ("lawrences goldfinch", "Spinus lawrencei"),
        ("Lawrence’s  Góldfinch", "Spinus lawrencei"),
        ("carduelis lawrencei", "Spinus lawrencei"),
        ("yellow billed", "Pica nuttalli"),
        ("gray jay", "Perisoreus canadensis"),
        ("eschcholzia californica", "Eschscholzia californica"),
        ("califronia popy", "Eschscholzia californica"),
        ("wodpecker", "Melanerpes formicivorus"),
    ],
)
def test_search_finds_by_every_kind_of_name(text, first):
    assert found(text)[0] == first


def test_search_puts_exact_before_prefix_before_word_before_inside():
    # "oak": the word in a scientific name, then words in common names, then inside a word
    assert found("oakella oak")[0] == "Oakella oak"
    ranked = found("oak")
    assert ranked[0] == "Oakella oak"
    assert set(ranked[1:3]) == {"Quercus agrifolia", "Quercus lobata"}
    assert ranked[3] == "Notholithocarpus densiflorus"
    assert len(ranked) == 4  # nothing that is only alike, where names match
    assert found("quercus")[:2] == ["Quercus agrifolia", "Quercus lobata"]
    assert found("xyzzyx") == []
    assert found("") == sorted(each.scientific for each in NAMES)


def test_a_species_is_listed_once_by_its_best_map():
    listing = Listing((
        about("Carduelis lawrencei", "Lawrence's Goldfinch", group="old", auc=0.95),
        about("Spinus lawrencei", "Lawrence's Goldfinch", group="surveys", meaning="probability", auc=0.7),
        about("Spinus lawrencei", "Lawrence's Goldfinch", group="records", auc=0.9),
        about("Pica nuttalli", group="none", auc=math.nan),
        about("Pica nuttalli", group="some", auc=0.6),
    ))  # fmt: skip
    assert {key: [each.group for each in maps] for key, maps in listing.species.items()} == {
        "pica-nuttalli": ["some", "none"],
        "spinus-lawrencei": ["surveys", "old", "records"],
    }
    assert listing.by_id["carduelis-lawrencei"] is listing.by_id["spinus-lawrencei"]


def test_list_names_every_species_once_with_addresses_that_answer(client):
    answer = client.get("/species").json()
    listed = {entry["id"]: entry for entry in answer["species"]}
    assert answer["total"] == len(answer["species"]) == 6
    assert listed[FINCH]["meaning"] == "probability"
    assert listed[FINCH]["groups"] == ["north-america-birds", "world-birds"]
    assert "Spinus lawrencei" in listed[FINCH]["synonyms"]
    assert listed[OAK]["synonyms"] == ["Quercus hindsii"]
    for entry in answer["species"]:
        assert client.get(entry["href"]).json()["version"] == entry["version"]


def test_list_by_group_grid_and_page(client):
    def ids(query):
        answer = client.get(f"/species?{query}").json()
        return answer["total"], [entry["id"] for entry in answer["species"]]

    assert ids("group=california-plants") == (3, [POPPY, OAK, REDWOOD])
    assert ids("group=california-plants&limit=1&offset=1") == (3, [OAK])
    assert ids("grid=global") == (0, [])
    assert ids("group=world-birds&search=goldfinch") == (1, ["spinus-lawrencei"])
    assert ids("search=poppy") == (1, [POPPY])


def test_info_tells_all_and_its_links_answer(client):
    info = client.get(f"/species/{POPPY}").json()
    assert info == client.get(f"/species/{POPPY}/info").json()
    chosen = client.app.state.served.shown.find(POPPY)
    assert info["version"] == chosen.about.version
    assert info["bbox"] == pytest.approx(chosen.bbox)
    assert (info["crs"], info["resolution"], info["unit"]) == (chosen.crs, 20_000, "suitability")
    assert info["scores"]["auc"] == chosen.about.scores["auc"]._asdict()
    assert list(info["thresholds"]) == ["mtp", "p10", "lpt5", "maxsss"]
    assert info["default_threshold"] == "p10"
    areas = zonal.statistics(chosen)["above"]
    for key, threshold in info["thresholds"].items():
        assert threshold["value"] == chosen.about.thresholds[key].value
        assert threshold["area_km2"] == areas[key]["area_km2"] > 0
        assert threshold["label"] != key
        assert len(threshold["explanation"]) > 80
    assert "not the chance" in info["explanation"]
    assert info["months"] is None
    assert [layer["name"] for layer in info["layers"]] == ["suitability"]
    for name in ("self", "tilejson", "wmts", "tilesets", "legend", "stats", "citation"):
        assert client.get(info["links"][name]).status_code == 200
    for name in ("tiles", "values"):
        address = info["links"][name].format(z=6, x=10, y=24)
        assert "immutable" in client.get(address).headers["cache-control"]
    assert client.get(info["links"]["point"].format(lon=-119, lat=37)).status_code == 200
    assert client.post(info["links"]["summary"], json=SQUARE).status_code == 200


def test_meanings_are_told_apart(client):
    said = {species: client.get(f"/species/{species}").json() for species in (POPPY, WREN)}
    assert said[WREN]["meaning"] == "probability"
    assert said[WREN]["default_threshold"] == "p10"
    assert "complete survey" in said[WREN]["explanation"]
    assert said[POPPY]["explanation"] != said[WREN]["explanation"]


@pytest.mark.parametrize(
    "place", [(-119.5, 37.0), (-121.3, 39.2), (-116.1, 33.6), (-128.0, 37.0), (10.0, 50.0)]
)
def test_point_is_the_value_of_the_map(client, place):
    lon, lat = place
    chosen = client.app.state.served.shown.find(POPPY)
    answer = client.get(f"/species/{POPPY}/point/{lon},{lat}").json()
    assert [layer["value"] for layer in answer["layers"]] == paint.point(chosen, lon, lat)
    assert answer["value"] == answer["layers"][0]["value"]
    assert (answer["value"] is None) == (lon in (-128.0, 10.0))
    for key, threshold in answer["thresholds"].items():
        limit = chosen.about.thresholds[key].value
        expected = None if answer["value"] is None else answer["value"] >= limit
        assert threshold == {"value": limit, "above": expected}


def test_summary_and_stats_are_the_sums_of_the_map(client):
    chosen = client.app.state.served.shown.find(POPPY)
    assert client.post(f"/species/{POPPY}/summary", json=SQUARE).json() == zonal.summarise(
        chosen, shape(SQUARE)
    )
    stats = client.get(f"/species/{POPPY}/stats").json()
    assert stats == json.loads(json.dumps(zonal.statistics(chosen)))
    feature = {"type": "Feature", "properties": {"type": "x"}, "geometry": SQUARE}
    many = {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"]]}
    whole = client.post(f"/species/{POPPY}/summary", json=SQUARE).json()
    assert whole["cells"] > 50
    for body in (feature, many):
        assert client.post(f"/species/{POPPY}/summary", json=body).json() == whole


def test_legends_carry_title_and_stops(client):
    legend = client.get(f"/species/{POPPY}/legend.json?colormap=greys").json()
    assert legend["title"] == "Eschscholzia californica: suitability"
    assert [stop["value"] for stop in legend["stops"]] == [
        0,
        0.248,
        0.5,
        0.752,
        1,
    ]  # palette entries are 1/250 apart
    assert legend["stops"][0]["color"] == legend["palette"][0]
    assert legend["stops"][-1]["color"] == legend["palette"][-1]
    drawing = client.get(f"/species/{POPPY}/legend.svg")
    assert drawing.headers["content-type"].startswith("image/svg+xml")
    words = [element.text for element in ElementTree.fromstring(drawing.text).iter() if element.text]
    assert "Eschscholzia californica: suitability" in words
    picture = client.get(f"/species/{POPPY}/legend.png")
    assert picture.content.startswith(b"\x89PNG")


def test_citation_names_model_version_and_sources(client):
    said = client.get(f"/species/{POPPY}/citation")
    assert said.headers["content-type"].startswith("text/plain")
    info = client.get(f"/species/{POPPY}").json()
    for part in (
        "Eschscholzia californica",
        info["version"],
        "Made up for california-plants",
        "CC-BY-NC-4.0",
    ):
        assert part in said.text


@pytest.mark.parametrize("path", ["", "/stats", "/point/-119,37", "/legend.json", "/legend.svg"])
def test_json_may_be_kept_for_ever_with_its_version_and_has_an_etag_without(client, path):
    version = client.get(f"/species/{POPPY}").json()["version"]
    assert "immutable" in client.get(f"/species/{POPPY}{path}?v={version}").headers["cache-control"]
    assert client.get(f"/species/{POPPY}{path}?v=00000000000f").status_code == 404
    first = client.get(f"/species/{POPPY}{path}")
    assert "immutable" not in first.headers["cache-control"]
    again = client.get(f"/species/{POPPY}{path}", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_text_is_compressed_and_tiles_are_not(client):
    for encoding in ("gzip", "br"):
        accept = {"Accept-Encoding": encoding}
        assert client.get("/species", headers=accept).headers["content-encoding"] == encoding
        xml = client.get(f"/species/{POPPY}/WMTSCapabilities.xml", headers=accept)
        assert xml.headers["content-encoding"] == encoding
        assert (
            "content-encoding" not in client.get(f"/species/{POPPY}/tiles/{TILE}.png", headers=accept).headers
        )
    assert "content-encoding" not in client.get("/species", headers={"Accept-Encoding": "identity"}).headers
