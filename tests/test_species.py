"""The list of species that can be rendered, as a table and as JSON."""

import json

import pytest

from geomap.species import main


@pytest.fixture(autouse=True)
def shipped(bundle, monkeypatch):
    monkeypatch.setenv("GEOMAP_BUNDLE", str(bundle))


def test_table_has_every_entry(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    for text in (
        "Aptenodytes forsteri",
        "California Poppy",
        "north-america-birds",
        "probability",
        "0.900 (0.850)",
        "california",
    ):
        assert text in printed
    assert "7 entries, 6 species" in printed


def test_json_of_a_search(capsys):
    assert main(["--search", "goldfinch", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(one["scientificName"], one["group"], one["meaning"]) for one in listed] == [
        ("Carduelis lawrencei", "north-america-birds", "probability"),
        ("Spinus lawrencei", "world-birds", "suitability"),
    ]
    assert listed[0]["vernacularName"] == "Lawrence's Goldfinch"
    assert listed[0]["records"] == 100
    assert listed[0]["scores"]["auc"] == {"value": 0.89, "null": 0.84}
    assert listed[0]["grids"] == ["california"]
    assert set(listed[0]["thresholds"]) == {"mtp", "p10", "lpt5", "maxsss"}


def test_one_group(capsys):
    assert main(["--heads", "world-birds", "--json"]) == 0
    assert {one["group"] for one in json.loads(capsys.readouterr().out)} == {"world-birds"}


def test_search_without_a_hit_is_refused(capsys):
    assert main(["--search", "zzz"]) == 2
    assert "no name contains 'zzz'" in capsys.readouterr().err


def test_unknown_group_is_refused(capsys):
    assert main(["--heads", "mars"]) == 2
    assert "'mars' is no group of the bundle" in capsys.readouterr().err
