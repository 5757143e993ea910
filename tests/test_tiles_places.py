"""Places and groups over HTTP."""

from __future__ import annotations

import pytest
from serving import made_bundle, opened

from geomap.colour import RAMPS
from tiles import paint


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with opened(made_bundle(tmp_path_factory), tmp_path_factory.mktemp("cache")) as client:
        yield client


def test_what_lives_here_agrees_with_every_map(client):
    shown = client.app.state.served.shown
    answer = client.get("/at/-119.5,37.0").json()
    assert (answer["lon"], answer["lat"], answer["grid"]) == (-119.5, 37.0, "california")
    assert len({entry["id"] for entry in answer["species"]}) == len(answer["species"]) == 6
    order = []
    for entry in answer["species"]:
        chosen = shown.find(entry["id"], entry["grid"], entry["group"])
        assert entry["value"] == pytest.approx(paint.point(chosen, -119.5, 37.0)[0], abs=1e-4)
        assert entry["above"] == (entry["value"] >= entry["threshold"])
        comparable = entry["meaning"] == "probability"
        order.append((entry["above"], comparable, entry["value"] / (1 if comparable else entry["threshold"])))
    assert order == sorted(order, reverse=True) and {step[1] for step in order} == {True, False}
    few = client.get("/at/-119.5,37.0?limit=2&group=california-plants").json()["species"]
    assert len(few) == 2
    assert {entry["group"] for entry in few} == {"california-plants"}


def test_nothing_lives_in_the_sea(client):
    assert client.get("/at/-130,30").json() == {"lon": -130.0, "lat": 30.0, "grid": None, "species": []}


@pytest.mark.parametrize("query", ["grid=mars", "group=fungi"])
def test_a_grid_or_group_that_is_not_there(client, query):
    assert client.get(f"/at/-119.5,37.0?{query}").status_code == 404


def test_groups_grids_and_colour_maps(client):
    answer = client.get("/groups").json()
    assert [(group["name"], group["meaning"], group["species"]) for group in answer["groups"]] == [
        ("california-plants", "suitability", 3),
        ("north-america-birds", "probability", 2),
        ("world-birds", "suitability", 2),
    ]
    assert answer["groups"][0]["credit"] == "Made up for california-plants"
    (grid,) = answer["grids"]
    assert (grid["name"], grid["crs"], grid["resolution"]) == ("california", "EPSG:3310", 20_000)
    west, south, east, north = grid["bbox"]
    assert west < -124 < -114.2 < east
    assert south < 33 < 41 < north
    assert answer["colormaps"] == list(RAMPS)
    for group in answer["groups"]:
        assert client.get(group["href"]).json()["total"] == group["species"]


def test_comparison_needs_a_common_grid(client):
    answer = client.get("/compare/quercus-lobata/sequoia-sempervirens/legend.json")
    assert [entry["name"] for entry in answer.json()["classes"]] == ["neither", "only a", "only b", "both"]
    refused = client.get("/compare/quercus-lobata/sequoia-sempervirens/legend.json?grid=global")
    assert refused.status_code == 404
