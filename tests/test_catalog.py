"""The catalogue: which heads carry a name, which of several groups is taken, fields by grid."""

import json
import subprocess
import sys

import numpy as np
import pytest

from geomap.catalog import Catalog, bundle_path
from geomap.entries import entry_of
from geomap.errors import FieldError, HeadsError, NameNotFoundError
from geomap.heads import load_heads
from geomap.testing_bundle import ENCODER_HASH, make_heads


@pytest.fixture
def catalog(bundle):
    return Catalog.open(bundle=bundle)


def test_bundle_path_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("GEOMAP_BUNDLE", str(tmp_path))
    assert bundle_path() == tmp_path
    monkeypatch.delenv("GEOMAP_BUNDLE")
    assert bundle_path().parts[-2:] == ("geomap", "bundle")


def test_groups_by_name_or_by_the_index(catalog, bundle, tmp_path):
    assert catalog.groups == ("california-plants", "north-america-birds", "world-birds")
    (tmp_path / "heads").symlink_to(bundle / "heads")
    (tmp_path / "index.json").write_text(json.dumps({"groups": ["world-birds", "gone"]}))
    assert Catalog.open(bundle=tmp_path).groups == ("world-birds", "california-plants", "north-america-birds")


@pytest.mark.parametrize(
    "name", ["Quercus lobata", "quercus LOBATA", "  valley oak ", "Valley-Oak", "Quercus hindsii"]
)
def test_find_by_any_exact_name(catalog, name):
    heads, index = catalog.find(name)
    assert heads.name == "california-plants"
    assert heads.species["scientificName"].iloc[index] == "Quercus lobata"


@pytest.mark.parametrize(
    "name", ["Lawrence's Goldfinch", "Spinus lawrencei", "carduelis lawrencei", "lawrences goldfinch"]
)
def test_probability_goes_before_suitability(catalog, name):
    """In the survey under its older name, in world-birds under today's: one species, two entries."""
    assert [(e.group, e.scientific) for e in catalog.matches(name)] == [
        ("north-america-birds", "Carduelis lawrencei"),
        ("world-birds", "Spinus lawrencei"),
    ]
    assert catalog.find_entry(name).meaning == "probability"
    assert catalog.find_entry(name, "world-birds").scientific == "Spinus lawrencei"


def test_higher_score_goes_first_among_the_same_meaning(bundle, tmp_path):
    field = Catalog.open(bundle=bundle).field("california")
    from geomap.heads import save_heads

    for seed, group in ((3, "a-weak"), (0, "b-strong")):  # a higher seed has lower scores
        save_heads(
            make_heads(group, "suitability", [("Aa bb", "", "")], field, seed), tmp_path / "heads" / group
        )
    assert Catalog.open(bundle=tmp_path).find_entry("aa bb").group == "b-strong"


def test_best_entries_have_each_species_once(catalog):
    entries = catalog.best_entries()
    assert len(catalog.entries()) == 7
    assert sorted(entry.scientific for entry in entries) == [
        "Aptenodytes forsteri", "Carduelis lawrencei", "Chamaea fasciata",
        "Eschscholzia californica", "Quercus lobata", "Sequoia sempervirens",
    ]  # fmt: skip


def test_unknown_name_is_refused_with_the_nearest(catalog):
    with pytest.raises(NameNotFoundError) as refusal:
        catalog.find("Querkus lobata")
    assert "Quercus lobata" in refusal.value.change
    with pytest.raises(NameNotFoundError) as refusal:
        catalog.find("Quercus lobata", "world-birds")
    assert refusal.value.found == "no such name in world-birds"


def test_one_group_or_a_folder(catalog, bundle):
    assert Catalog.open("world-birds", bundle).groups == ("world-birds",)
    folder = Catalog.open(bundle / "heads" / "world-birds", bundle)
    assert folder.groups == ("world-birds",)
    assert folder.find("emperor penguin")[1] == 1
    with pytest.raises(NameNotFoundError):
        folder.find("Quercus lobata")


@pytest.mark.parametrize("heads", ["world-bird", "no/such/folder"])
def test_unknown_heads_are_refused(bundle, heads):
    with pytest.raises(HeadsError, match="no group of the bundle") as refusal:
        Catalog.open(heads, bundle)
    assert "world-birds" in refusal.value.change


def test_empty_bundle_is_refused(tmp_path):
    with pytest.raises(HeadsError, match="no heads in"):
        Catalog.open(bundle=tmp_path)


def test_corrupt_heads_are_refused(catalog, bundle, tmp_path):
    import shutil

    copy = shutil.copytree(bundle / "heads" / "world-birds", tmp_path / "broken")
    (copy / "heads.safetensors").write_bytes((copy / "heads.safetensors").read_bytes()[:-20])
    with pytest.raises(HeadsError, match="cannot read species heads"):
        Catalog.open(copy, bundle)


def test_fields_by_grid(catalog):
    assert catalog.field("california").grid.name == "california"
    assert catalog.grids("world-birds") == ("california",)
    with pytest.raises(FieldError, match="no field for the grid mars"):
        catalog.field("mars")


def test_search_in_all_names(catalog):
    assert {entry.scientific for entry in catalog.search("LAWRENC")} == {
        "Carduelis lawrencei",
        "Spinus lawrencei",
    }
    assert [entry.scientific for entry in catalog.search("oak")] == ["Quercus lobata"]
    assert [entry.scientific for entry in catalog.search("hindsii")] == ["Quercus lobata"]
    assert catalog.search("nowhere") == []


def test_entry_says_what_the_heads_say(bundle):
    heads = load_heads(bundle / "heads" / "california-plants")
    entry = entry_of(heads, "plants", 1)
    row = heads.species.iloc[1]
    assert (entry.slug, entry.title) == ("quercus-lobata", "Quercus lobata (Valley Oak)")
    assert entry.records == row["records"] == 110
    assert entry.thresholds["p10"] == (pytest.approx(row["p10"], abs=1e-6), 0.1)
    assert entry.scores["auc"] == (pytest.approx(0.899), pytest.approx(0.849))
    assert (entry.default_threshold, heads.encoder_hash) == ("p10", ENCODER_HASH)
    assert json.loads(json.dumps(entry.to_dict()))["thresholds"]["p10"]["omission"] == 0.1


def test_what_is_not_known_is_none(bundle):
    heads = load_heads(bundle / "heads" / "california-plants")
    heads.species.loc[0, ["auc", "p10"]] = np.nan
    told = entry_of(heads, "plants", 0).to_dict()
    assert told["scores"]["auc"]["value"] is None
    assert told["thresholds"]["p10"]["value"] is None


def test_reading_the_catalogue_loads_neither_torch_nor_a_cluster(bundle):
    program = (
        "import sys; from pathlib import Path; from geomap.catalog import Catalog; "
        f"c = Catalog.open(bundle=Path({str(bundle)!r})); c.find('wrentit'); c.field('california'); "
        "import geomap.colour; "
        "print(sorted({'torch', 'distributed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
