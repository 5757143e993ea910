"""The stages of the bundle: what it needs, joins, reuses and refuses, and the model card it writes.

The whole bundle is made by `make bundle`, on real data; here each piece is tried on made-up data.
"""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from geomap import bundle as module
from geomap import bundle_card, bundle_recipe
from geomap.bundle import (
    LARGEST_BUNDLE,
    join_areas,
    main,
    make_encoders,
    make_field,
    require_data,
    require_size,
)
from geomap.bundle_card import LIMITS, model_card
from geomap.bundle_recipe import FIELDS, HEADS, FieldRecipe, HeadsRecipe, join_tables, month_pictures
from geomap.errors import FieldError, RecordsError
from geomap.field import open_field
from geomap.grid import NAMED
from geomap.heads import load_heads
from geomap.land import is_land
from geomap.pretraining import Area
from geomap.testing import write_raster
from geomap.testing_bundle import make_bundle, small_california
from train.encoders.pair import random_encoders, save_encoders
from train.spec import ChipSpec


@pytest.fixture
def shared(tmp_path):
    """A data folder with every file that the recipes name, all of them empty."""
    folder = tmp_path / "shared"
    wanted = [field.imagery for field in FIELDS] + [table for group in HEADS for table in group.tables]
    wanted += [f"imagery/monthly/2004{month:02}.jpg" for month in range(1, 13)]
    for name in wanted:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_all_that_the_recipes_name_is_enough(shared):
    require_data(shared)
    assert [path.name for path in month_pictures(shared)] == [f"2004{m:02}.jpg" for m in range(1, 13)]


@pytest.mark.parametrize("name", [FIELDS[1].imagery, HEADS[0].tables[1], HEADS[2].tables[0]])
def test_a_missing_file_is_named_before_anything_is_made(shared, tmp_path, capsys, name):
    (shared / name).unlink()
    with pytest.raises(RecordsError) as refusal:
        require_data(shared)
    assert str(shared / name) in refusal.value.found
    assert "--shared" in refusal.value.change
    out, work = tmp_path / "out", tmp_path / "work"
    assert main(["--shared", str(shared), "--out", str(out), "--work", str(work)]) == 2
    said = capsys.readouterr().err
    assert name in said.replace("\n", "")
    assert "Traceback" not in said
    assert not out.exists()
    assert not work.exists()


@pytest.mark.parametrize("count", [0, 11])
def test_twelve_months_are_needed(shared, count):
    for path in month_pictures(shared)[count:]:
        path.unlink()
    with pytest.raises(RecordsError, match=f"{count} monthly pictures"):
        require_data(shared)


def test_recipes_fit_together():
    """Fields are of named grids, heads of a field; places are drawn where there is land."""
    names = [field.grid for field in FIELDS]
    assert set(names) <= set(NAMED)
    assert {group.grid for group in HEADS} <= set(names)
    assert all(group.credit and group.licence and group.tables for group in HEADS)
    assert [group.surveys for group in HEADS] == [False, True, False]
    for field in FIELDS:
        corners = np.array([[field.area.west, field.area.south], [field.area.east, field.area.north]])
        middle = corners.mean(axis=0)
        lon, lat = np.meshgrid(
            *(middle[k] + np.linspace(-0.4, 0.4, 20) * np.ptp(corners[:, k]) for k in (0, 1))
        )
        assert is_land(np.column_stack([lon.ravel(), lat.ravel()])).mean() > 0.2


def recipe(*tables):
    return HeadsRecipe("group", tables, False, "california", "credit", "licence")


def test_one_table_is_taken_as_it_is(tmp_path):
    assert join_tables(recipe("a/b.csv"), tmp_path, tmp_path / "none") == tmp_path / "a" / "b.csv"


def test_tables_are_joined_under_each_other(tmp_path):
    """Every row once, columns by name, text as it stands: no code loses its leading zero."""
    (tmp_path / "a.csv").write_text("scientificName,id\nQuercus lobata,007\n")
    with gzip.open(tmp_path / "b.csv.gz", "wt") as file:
        file.write("id,scientificName,note\n1e3,Salvia apiana,\n2,Salvia mellifera,white\n")
    path = join_tables(recipe("a.csv", "b.csv.gz"), tmp_path, tmp_path)
    assert path == tmp_path / "group.csv.gz"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    assert table["scientificName"].tolist() == ["Quercus lobata", "Salvia apiana", "Salvia mellifera"]
    assert table["id"].tolist() == ["007", "1e3", "2"]
    assert table["note"].tolist() == ["", "", "white"]


def test_a_bundle_too_large_to_ship_is_refused(tmp_path):
    (tmp_path / "deep").mkdir()
    for name, size in (("a", LARGEST_BUNDLE - 10), ("deep/b", 10)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    require_size(tmp_path)
    with (tmp_path / "deep" / "b").open("ab") as file:
        file.write(b"1")
    with pytest.raises(RecordsError) as refusal:
        require_size(tmp_path)
    assert str(tmp_path) in refusal.value.found
    assert "75 MB" in refusal.value.change


def test_areas_are_put_under_each_other():
    first, second = ({"lonlat": np.full((n, 2), n), "season": np.full((n, 3), n)} for n in (2, 5))
    joined = join_areas([first, second])
    assert {name: len(values) for name, values in joined.items()} == {"lonlat": 7, "season": 7}
    assert joined["lonlat"][:, 0].tolist() == [2, 2, 5, 5, 5, 5, 5]


IMAGE = ("EPSG:4326", (-126.0, 30.0, -112.0, 44.0), (140, 140), 3)


@pytest.fixture
def world(tmp_path):
    """A data folder with one picture of California and a recipe for it."""
    (tmp_path / "shared" / "imagery").mkdir(parents=True)
    values = np.random.default_rng(0).integers(0, 256, (3, 140, 140))
    write_raster(tmp_path / "shared" / "imagery" / "one.tif", *IMAGE, values, dtype="uint8")
    area = Area(-121.0, 36.0, -119.0, 38.0, "EPSG:3310", 12)
    return tmp_path, FieldRecipe("california", "imagery/one.tif", area, 5)


def test_places_with_chips_and_further_places_are_cut(world, monkeypatch):
    """Further places are others, and their seasons are those of these places."""
    folder, field = world

    def season(months, lonlat):
        return lonlat.astype(np.float32)

    monkeypatch.setattr(module, "season_features", season)
    monkeypatch.setattr("geomap.pretraining.season_features", season)
    levels = (ChipSpec(1000.0, (0, 1), 1, 3, (0.0,) * 3, (1.0,) * 3),)
    arrays = module.cut_field(field, folder / "shared", levels, 0)
    assert (arrays["lonlat"].shape, arrays["extra_lonlat"].shape) == ((12, 2), (5, 2))
    assert arrays["chips_0"].shape == (12, 3, 5, 5)
    assert arrays["valid_0"].all()
    np.testing.assert_allclose(arrays["season"], arrays["lonlat"], rtol=1e-6)
    np.testing.assert_allclose(arrays["extra_season"], arrays["extra_lonlat"], rtol=1e-6)
    assert not np.isin(arrays["extra_lonlat"], arrays["lonlat"]).any()


def trained(folder, seed=0):
    encoders = random_encoders(seed, channels=4, dim=4)
    training = {"objective": "csp", "places": 30000, "last": {"stage": "location", "epoch": 20, "loss": 4.25}}
    encoders = type(encoders)(replace(encoders.card, training=training), encoders.aerial, encoders.location)
    save_encoders(encoders, folder)
    (folder / "losses.csv").write_text("stage,epoch,loss\n")
    return encoders


def test_encoders_that_are_trained_are_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "cut_field", None)  # cutting would be work
    trained(tmp_path / "work" / "encoders")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "card.json").write_text("of older encoders")
    assert make_encoders(tmp_path, tmp_path / "out", tmp_path / "work", 0) == tmp_path / "out"
    for path in (tmp_path / "work" / "encoders").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_a_field_is_swept_once_and_only_packed_again(world, monkeypatch):
    """Pitfall 23: and never kept for other encoders than it was made with."""
    folder, field = world
    monkeypatch.setattr(module, "named_grid", lambda name: small_california(50_000.0))
    encoders = trained(folder / "encoders")
    arguments = (field, folder / "shared", folder / "encoders", folder / "fields", folder, 0)
    make_field(*arguments)
    packed = folder / "fields" / "california.zarr.zip"
    first, store = packed.read_bytes(), open_field(packed)
    assert store.encoder_hash == encoders.hash
    assert store.valid_cells > 100
    before = {path: path.stat().st_mtime_ns for path in (folder / "california.zarr").rglob("*")}
    make_field(*arguments)
    assert packed.read_bytes() == first
    assert {path: path.stat().st_mtime_ns for path in (folder / "california.zarr").rglob("*")} == before
    trained(folder / "encoders", seed=1)
    with pytest.raises(FieldError, match="encoder_hash"):
        make_field(*arguments)


def test_heads_are_fitted_on_the_field_of_their_recipe(tmp_path, monkeypatch):
    requests = []
    monkeypatch.setattr(module, "fit_heads", lambda request, progress: requests.append(request))
    for group in (HEADS[1], HEADS[2]):
        module.make_heads(group, tmp_path / "shared", tmp_path / "out", tmp_path / "work", 3)
    surveys, records = requests
    assert (surveys.records, records.surveys) == (None, None)
    assert surveys.surveys == tmp_path / "shared" / HEADS[1].tables[0]
    assert records.records == tmp_path / "shared" / HEADS[2].tables[0]
    assert surveys.field == tmp_path / "out" / "fields" / "north-america.zarr.zip"
    assert records.out == tmp_path / "out" / "heads" / "world-birds"
    assert (records.seed, records.credit, records.licence) == (3, HEADS[2].credit, "CC BY-NC-SA 4.0")


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    """A model card of tiny encoders and heads, the heads, and the encoders."""
    folder = tmp_path_factory.mktemp("card")
    encoders = trained(folder / "encoders")
    make_bundle(folder / "bundle")
    settings = {
        "folds": 5, "block_degrees": 0.5, "scored_on": "held-out cells", "null_model": "trees on x, y, z",
    }  # fmt: skip
    heads = [load_heads(path) for path in sorted((folder / "bundle" / "heads").iterdir())]
    heads = [replace(each, card={**each.card, "cross_validation": settings}) for each in heads]
    return model_card(folder / "encoders", heads), heads, encoders


def test_card_gives_every_score_beside_its_null(card):
    text, heads, _ = card
    for each in heads:
        part = text.split(f"### {each.name}: {each.meaning}, {len(each.species)} species")[1].split("###")[0]
        for score in bundle_card.SCORES:
            mean, null = each.species[score].mean(), each.species[f"null_{score}"].mean()
            assert f"| {score} | {mean:.4f} | {null:.4f} |" in part
        assert f"Made up for {each.name} (CC-BY-NC-4.0)" in part
        assert f"{len(each.species)} species, 5 folds of 0.5-degree blocks; held-out cells." in part
        assert "Null: trees on x, y, z." in part


def test_species_without_a_score_are_left_out_of_the_mean(card):
    _, heads, _ = card
    table = heads[0].species.copy()
    table.loc[0, ["auc", "null_auc"]] = np.nan
    part = bundle_card._group(replace(heads[0], species=table))
    assert f"means over {len(table) - 1} species" in part
    assert f"| auc | {table['auc'].mean():.4f} | {table['null_auc'].mean():.4f} |" in part


def test_card_says_what_the_encoders_are_and_how_they_were_trained(card):
    text, _, encoders = card
    for level in encoders.levels:
        assert f"{level.metres_per_pixel / 1000:g} km/pixel, chips of {level.metres / 1000:g} km" in text
    assert "on 30000 places" in text
    assert "last losses: loss 4.250" in text
    assert f"`{encoders.card.location.kind}`, embedding of {encoders.card.location.dim}" in text
    assert all(str(field.area.places) in text for field in FIELDS)


def test_card_states_limits_credits_and_licences(card):
    text = card[0]
    for line in LIMITS.splitlines():
        assert line in text
    for words in (bundle_recipe.NASA, "CC BY-NC", "not for commercial use", "no imagery and no record"):
        assert words in text
    assert text.endswith(".\n")
