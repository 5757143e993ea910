"""geomap.fit from tables to heads, on made-up species that follow the embedding, and all it refuses."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from geomap import fit as fit_module
from geomap.crossval import assign_folds, block_ids
from geomap.errors import FieldError, HeadsError, OutputError, RecordsError
from geomap.fit import RECORDS_FILE, fit_heads, main
from geomap.fitrequest import FitRequest
from geomap.gather import OUTSIDE
from geomap.heads import THRESHOLDS, load_heads
from geomap.testing import shared_data, write_raster
from geomap.testing_bundle import ENCODER_HASH, make_bundle, small_california, write_field
from geomap.workers import stages_shown
from train.species import FitConfig

QUICK = FitConfig(members=2, hidden=16, width=8, epochs=40, learning_rate=1e-2)
NORTH, SOUTH, RARE = "Sequoia sempervirens", "Yucca brevifolia", "Pinus torreyana"


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    return write_field(tmp_path_factory.mktemp("field") / "california.zarr", small_california())


@pytest.fixture(scope="module")
def land(field):
    """Lon, lat of all cells with an embedding, in a random order."""
    cells = [(field.grid.cell_lonlat(window), field.read(window)[1]) for window in field.blocks()]
    return np.random.default_rng(0).permutation(np.concatenate([lonlat[valid] for lonlat, valid in cells]))


def survey_table(land, sites=220):
    """Routes where the first species is met in the north and the second in the south of the state."""
    rng = np.random.default_rng(1)
    rows = []
    for k, (lon, lat) in enumerate(land[:sites]):
        north = 1 / (1 + np.exp(-(lat - 37.5) * 3))
        chances = {NORTH: 0.9 * north, SOUTH: 0.9 * (1 - north), RARE: 0.02}
        rows += [(f"R{k}", lon, lat, name, 5, rng.binomial(5, chance)) for name, chance in chances.items()]
    columns = ["locationID", "decimalLongitude", "decimalLatitude", "scientificName", "visits", "detections"]
    return pd.DataFrame(rows, columns=columns)


def record_table(land, cells=300):
    """Records of the same species without absences, several in some cells."""
    table = survey_table(land, cells)
    met = table[table["detections"] > 0]
    again = met.head(20).assign(decimalLongitude=met["decimalLongitude"].head(20) + 0.011)
    return pd.concat([met, again])[["decimalLongitude", "decimalLatitude", "scientificName"]]


@pytest.fixture
def surveys(tmp_path, land):
    survey_table(land).to_csv(tmp_path / "surveys.csv", index=False)
    return tmp_path / "surveys.csv"


@pytest.fixture
def records(tmp_path, land):
    record_table(land).to_csv(tmp_path / "records.csv", index=False)
    return tmp_path / "records.csv"


@pytest.fixture(scope="module")
def fitted_folder(land, field, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    survey_table(land).to_csv(folder / "surveys.csv", index=False)
    request = FitRequest(
        folder / "birds", surveys=folder / "surveys.csv", field=field.path, min_records=40, credit="made up"
    )
    heads = fit_heads(request, QUICK)
    assert load_heads(folder / "birds").hash == heads.hash
    return folder / "birds"


@pytest.fixture
def fitted_surveys(fitted_folder):
    return load_heads(fitted_folder)


def test_surveys_become_probabilities(fitted_surveys, field):
    heads = fitted_surveys
    assert (heads.meaning, heads.encoder_hash, heads.name) == ("probability", ENCODER_HASH, "birds")
    assert list(heads.species["scientificName"]) == [NORTH, SOUTH]
    assert set(heads.card["dropped_species"]) == {RARE}
    assert heads.card["cross_validation"]["block_degrees"] == 0.5
    assert heads.card["sites"] == {"surveyed": 220, "records_and_background": 0}
    ends, found = field.sample(np.array([[-122.5, 41.0], [-115.5, 33.5]]))
    assert found.all()
    probability = heads.predict(ends)
    assert probability[0, 0] > 0.7 > 0.2 > probability[1, 0]
    assert probability[1, 1] > 0.7 > 0.2 > probability[0, 1]
    assert heads.card["data"]["credit"] == "made up"


def test_scores_stand_beside_the_null_model(fitted_surveys):
    table = fitted_surveys.species
    for name in ("auc", "ap", "brier", "boyce"):
        assert table[[name, f"null_{name}"]].notna().all(axis=None), name
    assert (table["auc"] > 0.85).all()
    assert (table["null_auc"] > 0.85).all()
    assert (table["brier"] < 0.2).all()
    assert (table["n_test"] == table["cells"]).all()


def test_json_has_the_means_of_the_scores(surveys, field, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fit_module, "fit_heads", partial(fit_heads, config=QUICK))
    out = tmp_path / "mine"
    argv = ["--surveys", str(surveys), "--field", str(field.path), "--min-records", "40", "--out", str(out)]
    assert main([*argv, "--json"]) == 0
    printed = capsys.readouterr()
    told, heads = json.loads(printed.out), load_heads(out)
    assert (told["heads"], told["name"], told["meaning"]) == (str(out), "mine", "probability")
    assert (told["species"], list(told["dropped_species"])) == (2, [RARE])
    for name in ("auc", "ap", "brier", "boyce"):
        means = (heads.species[name].mean(), heads.species[f"null_{name}"].mean())
        assert (told["scores"][name]["mean"], told["scores"][name]["null"]) == pytest.approx(means)
        assert told["scores"][name]["species"] == 2
    assert "saving" in printed.err  # stages do not mix with the JSON


def test_stages_stand_above_a_bar_with_time_left(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with stages_shown(screen, 4) as tell:
        for stage in ("reading the records", "fold 1 of 2", "fold 2 of 2"):
            tell(stage)
            time.sleep(0.15)  # the bar is drawn ten times a second
    drawn = screen.file.getvalue()
    assert all(f"0 s  {stage}" in drawn for stage in ("reading the records", "fold 1 of 2", "fold 2 of 2"))
    assert "fold 2 of 2 ━" in drawn and " 50% " in drawn
    plain = Console(file=io.StringIO(), width=80)
    with stages_shown(plain, 4) as tell:
        tell("fold 1 of 2")
    assert plain.file.getvalue() == "    0 s  fold 1 of 2\n"


def test_thresholds_have_area_and_omission(fitted_surveys, field):
    table = fitted_surveys.species
    whole = sum(field.grid.cell_area_km2(w)[field.read(w)[1]].sum() for w in field.blocks())
    for name in THRESHOLDS:
        assert table[name].between(0, 1).all()
        assert np.allclose(table[name] * 1e4, np.round(table[name] * 1e4))
        assert table[f"area_km2_{name}"].between(1, whole).all()
        assert table[f"omission_{name}"].between(0, 1).all()
    assert (table["mtp"] <= table["p10"]).all()
    assert (table["area_km2_mtp"] >= table["area_km2_p10"]).all()
    assert (table["omission_lpt5"] <= 0.05).all()


def test_area_above_a_threshold_is_that_of_the_map(fitted_surveys, field):
    row = fitted_surveys.species.iloc[0]
    area = 0.0
    for window in field.blocks():
        values, valid = field.read(window)
        above = np.round(fitted_surveys.predict(values[valid], [0])[:, 0], 4) >= np.float32(row["p10"])
        area += field.grid.cell_area_km2(window)[valid][above].sum()
    assert row["area_km2_p10"] == pytest.approx(area, rel=1e-6)


def test_same_input_gives_the_same_heads(surveys, field, tmp_path):
    request = FitRequest(tmp_path / "a", surveys=surveys, field=field.path, min_records=40)
    first = fit_heads(request, QUICK)
    again = fit_heads(replace(request, out=tmp_path / "b"), QUICK)
    assert first.hash == again.hash
    pd.testing.assert_frame_equal(first.species, again.species)
    assert fit_heads(replace(request, out=tmp_path / "c", seed=1), QUICK).hash != first.hash


def test_records_become_suitability(records, field, tmp_path):
    request = FitRequest(tmp_path / "plants", records=records, field=field.path, background=400)
    heads = fit_heads(request, QUICK)
    assert heads.meaning == "suitability"
    assert NORTH in set(heads.species["scientificName"])
    known = heads.species.set_index("scientificName")
    assert known.loc[NORTH, "records"] > known.loc[NORTH, "cells"]  # several records in a cell count once
    ends, _ = field.sample(np.array([[-122.5, 41.0], [-115.5, 33.5]]))
    north = heads.predict(ends, [heads.index(NORTH)])[:, 0]
    assert north[0] > 0.5 > north[1]
    assert known.loc[NORTH, "auc"] > 0.8
    assert known.loc[NORTH, "brier"] < 0.25  # that of a constant 0.5
    assert heads.card["sites"]["records_and_background"] > 400
    assert "random land cells" in heads.card["cross_validation"]["scored_on"]


def test_both_tables_give_probabilities_scored_on_the_surveys(surveys, records, field, tmp_path):
    request = FitRequest(
        tmp_path / "both", records=records, surveys=surveys, field=field.path, background=300
    )
    heads = fit_heads(replace(request, min_records=40), QUICK)
    assert heads.meaning == "probability"
    assert heads.card["sites"]["surveyed"] == 220
    assert heads.card["sites"]["records_and_background"] > 300
    assert (heads.species["auc"] > 0.85).all()
    assert (heads.species["n_test"] <= 220).all()
    assert len(heads.card["data"]["sources"]) == 2


def test_one_species_alone(tmp_path, land, field):
    table = record_table(land)
    table[(table["scientificName"] == NORTH) & (table["decimalLatitude"] > 39)].to_csv(
        tmp_path / "one.csv", index=False
    )
    request = FitRequest(tmp_path / "one", records=tmp_path / "one.csv", field=field.path, background=300)
    heads = fit_heads(request, QUICK)
    assert list(heads.species["scientificName"]) == [NORTH]
    assert heads.species["auc"].iloc[0] > 0.75


def test_species_with_few_test_presences_have_no_scores_and_are_kept(tmp_path, land, field):
    table = survey_table(land)
    three = table["scientificName"].eq(RARE) & table["locationID"].isin(["R0", "R50", "R99"])
    table.loc[table["scientificName"].eq(RARE), "detections"] = 0
    table.loc[three, "detections"] = 4
    table.to_csv(tmp_path / "surveys.csv", index=False)
    request = FitRequest(tmp_path / "h", surveys=tmp_path / "surveys.csv", field=field.path, min_records=1)
    rare = fit_heads(request, QUICK).species.set_index("scientificName").loc[RARE]
    assert rare[["auc", "ap", "brier", "boyce", "null_auc"]].isna().all()
    assert rare["n_test"] == 3
    assert 0 <= rare["mtp"] <= 1


def test_records_off_the_field_are_counted(surveys, field, tmp_path):
    table = pd.read_csv(surveys)
    nevada = table[table["locationID"] == "R0"].assign(
        locationID="NV", decimalLongitude=-116.5, decimalLatitude=39.5
    )
    pd.concat([table, nevada]).to_csv(surveys, index=False)
    request = FitRequest(tmp_path / "h", surveys=surveys, field=field.path, min_records=40)
    heads = fit_heads(request, QUICK)
    assert heads.card["data"]["dropped"][f"survey locations with {OUTSIDE}"] == 1
    assert heads.card["sites"]["surveyed"] == 220


def test_coarse_records_are_left_out_by_the_cell(records, field, tmp_path):
    table = pd.read_csv(records).assign(coordinateUncertaintyInMeters=100.0)
    table.loc[:9, "coordinateUncertaintyInMeters"] = 30_000.0  # a cell is 20 km
    table.to_csv(records, index=False)
    request = FitRequest(tmp_path / "h", records=records, field=field.path, background=100)
    heads = fit_heads(request, QUICK)
    assert heads.card["data"]["dropped"]["uncertainty above 20000 m"] == 10
    with pytest.raises(RecordsError, match="uncertainty above 50 m"):
        fit_heads(replace(request, out=tmp_path / "i", max_uncertainty=50), QUICK)


def test_shipped_field_that_fits_is_taken(surveys, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMAP_BUNDLE", str(make_bundle(tmp_path / "bundle")))
    heads = fit_heads(FitRequest(tmp_path / "h", surveys=surveys, min_records=40), QUICK)
    assert heads.card["grid"] == "california"


def test_command_line(surveys, field, tmp_path, capsys):
    out = tmp_path / "heads" / "birds"
    code = main(
        ["--surveys", str(surveys), "--field", str(field.path), "--out", str(out), "--min-records", "40"]
    )
    assert code == 0
    text = capsys.readouterr().out
    assert "ROC-AUC" in text
    assert "coordinates only" in text
    assert len(load_heads(out)) == 2


IMAGE = {"crs": "EPSG:4326", "bounds": (-121.0, 35.0, -118.0, 38.0), "shape": (300, 300)}


@pytest.mark.slow
def test_records_are_kept_beside_the_heads_if_asked_for(records, surveys, field, tmp_path):
    table = pd.read_csv(records)
    blurred = pd.DataFrame([[-119.98765, 37.12345, NORTH]], columns=table.columns)
    table = pd.concat([table.assign(license="CC0-1.0"), blurred.assign(obscured="true")])
    table.to_csv(tmp_path / "some.csv", index=False)
    out = tmp_path / "kept"
    request = FitRequest(
        out, tmp_path / "some.csv", surveys, field=field.path, folds=2, overwrite=True, keep_records=True
    )
    heads = fit_heads(request, QUICK)
    kept = pd.read_parquet(out / RECORDS_FILE)
    assert not np.isclose(kept["decimalLongitude"], -119.98765).any()  # blurred on purpose
    assert set(kept["scientificName"]) == set(heads.species["scientificName"])
    assert "visits" not in kept and "locationID" not in kept
    met = pd.read_csv(surveys).query("detections > 0")
    met = met[met["scientificName"].isin(kept["scientificName"])]
    assert len(kept) > len(met) > 0
    assert set(zip(met["decimalLongitude"].round(9), met["scientificName"], strict=True)) <= set(
        zip(kept["decimalLongitude"].round(9), kept["scientificName"], strict=True)
    )
    assert load_heads(out).hash == heads.hash
    fit_heads(replace(request, keep_records=False), QUICK)
    assert not (out / RECORDS_FILE).exists()  # not those of other heads


def test_imagery_without_a_field(tmp_path):
    from train.encoders.pair import random_encoders, save_encoders

    save_encoders(random_encoders(0), tmp_path / "encoders")

    def painted(lonlat):
        return np.stack(
            [40 + 20 * (lonlat[:, 1] - 35), 200 - 30 * (lonlat[:, 0] + 121), 0 * lonlat[:, 0] + 90]
        )

    image = write_raster(
        tmp_path / "image.tif", IMAGE["crs"], IMAGE["bounds"], IMAGE["shape"], 3, painted, dtype="uint8"
    )
    rng = np.random.default_rng(0)
    lonlat = np.column_stack([rng.uniform(-120.5, -118.5, 150), rng.uniform(35.5, 37.5, 150)])
    survey_table(lonlat, 150).to_csv(tmp_path / "s.csv", index=False)
    request = FitRequest(
        tmp_path / "h", surveys=tmp_path / "s.csv", imagery=str(image), encoders=tmp_path / "encoders"
    )
    heads = fit_heads(replace(request, min_records=20), QUICK)
    assert heads.card["grid"] is None
    assert heads.species["area_km2_p10"].isna().all()
    assert heads.species["auc"].notna().all()
    record_table(lonlat, 150).to_csv(tmp_path / "r.csv", index=False)
    suitable = replace(request, out=tmp_path / "r", surveys=None, records=tmp_path / "r.csv", background=200)
    assert fit_heads(suitable, QUICK).meaning == "suitability"


def spoil(table: pd.DataFrame, how: str) -> pd.DataFrame:
    """A table with one thing wrong."""
    swapped = {"decimalLongitude": table["decimalLatitude"], "decimalLatitude": table["decimalLongitude"]}
    return {
        "misspelt column": lambda: table.rename(columns={"decimalLatitude": "decimalLattitude"}),
        "empty table": lambda: table.head(0),
        "all rows dropped": lambda: table.assign(decimalLongitude=0.0, decimalLatitude=0.0),
        "swapped": lambda: table.assign(**swapped),
        "off the field": lambda: table.assign(decimalLongitude=table["decimalLongitude"] + 110),
        "too few": lambda: table.head(6),
    }[how]()


@pytest.mark.parametrize("kind", ["--surveys", "--records"])
@pytest.mark.parametrize(
    "how", ["misspelt column", "empty table", "all rows dropped", "swapped", "off the field", "too few"]
)
def test_bad_tables_exit_2_and_leave_nothing(how, kind, surveys, records, field, tmp_path, capsys):
    path = surveys if kind == "--surveys" else records
    spoil(pd.read_csv(path), how).to_csv(path, index=False)
    out = tmp_path / "out" / "heads"
    assert main([kind, str(path), "--field", str(field.path), "--out", str(out)]) == 2
    message = capsys.readouterr().err.strip().splitlines()
    assert [line.split(":")[0] for line in message] == ["Error", "Found", "Change"]
    assert not out.parent.exists()


def test_field_of_other_encoders_than_the_imagery_is_refused(surveys, field, tmp_path):
    from train.encoders.pair import random_encoders, save_encoders

    save_encoders(random_encoders(0), tmp_path / "encoders")
    image = write_raster(
        tmp_path / "image.tif", IMAGE["crs"], IMAGE["bounds"], (30, 30), 3, np.ones((3, 30, 30))
    )
    request = FitRequest(tmp_path / "h", surveys=surveys, field=field.path, imagery=str(image))
    with pytest.raises(HeadsError, match="encoder eeee"):
        fit_heads(replace(request, encoders=tmp_path / "encoders"), QUICK)


def test_existing_heads_are_refused_before_any_work(surveys, field, monkeypatch, fitted_folder):
    monkeypatch.setattr(fit_module, "read_tables", lambda request: pytest.fail("work was done"))
    with pytest.raises(OutputError, match="exists already"):
        fit_heads(FitRequest(fitted_folder, surveys=surveys, field=field.path))


def test_corrupt_field_is_refused(surveys, tmp_path):
    path = write_field(tmp_path / "f.zarr", small_california()).path
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text()[:200])
    with pytest.raises(FieldError):
        fit_heads(FitRequest(tmp_path / "h", surveys=surveys, field=path))
    assert not (tmp_path / "h").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither --records nor --surveys"),
        ({"surveys": Path("s"), "field": Path("f"), "grid": "california"}, "Give one of them"),
        ({"surveys": Path("s"), "block_degrees": 0.0}, "--block-degrees 0"),
        ({"surveys": Path("s"), "max_uncertainty": -1.0}, "--max-uncertainty -1"),
        ({"surveys": Path("none.csv")}, "no such file"),
    ],
)
def test_options_that_make_no_sense(options, message, tmp_path):
    with pytest.raises((RecordsError, HeadsError), match=message):
        fit_heads(FitRequest(tmp_path / "h", **options))


def test_too_few_blocks_say_what_to_change(surveys, field, tmp_path):
    request = FitRequest(tmp_path / "h", surveys=surveys, field=field.path, block_degrees=30.0)
    with pytest.raises(RecordsError, match="--block-degrees"):
        fit_heads(request, QUICK)


def test_card_is_plain_json(fitted_surveys):
    assert json.loads(json.dumps(fitted_surveys.card, allow_nan=False)) == fitted_surveys.card
    assert fitted_surveys.card["fit"]["hidden"] == 16


@pytest.mark.slow
def test_bird_survey_is_read_and_split():
    """The real survey gives the species and blocks that the project's scores are stated for."""
    from geomap.records import read_surveys

    path = shared_data() / "occurrences" / "north_america_birds_bbs_2001_2015.csv.gz"
    places, species, visits, detections = read_surveys(path).detection_matrix()
    lonlat = places[["decimalLongitude", "decimalLatitude"]].to_numpy()
    assert len(places) == 953
    assert (visits == 15).all()
    assert ((detections > 0).sum(axis=0) >= 10).sum() > 400
    sizes = np.bincount(assign_folds(block_ids(lonlat, 5.0), 5, 0))
    assert sizes.max() - sizes.min() <= 5
    assert "Spinus lawrencei" in species
