"""The study of pre-training on landscapes: its bookkeeping, its command, and the result that is kept."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from train.landscape import Landscape, World

REPOSITORY = Path(__file__).resolve().parents[1]
KEPT = REPOSITORY / "benchmarks" / "results" / "landscapes.json"
TUNED = {
    "places": REPOSITORY / "benchmarks" / "results" / "csp_tuning.json",
    "styled": REPOSITORY / "benchmarks" / "results" / "csp_tuning_styled.json",
}


def loaded(name, patch):
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, name, module)  # dataclasses look there
    patch.setattr(sys, "path", list(sys.path))
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study():
    with pytest.MonkeyPatch.context() as patch:
        yield loaded("landscapes", patch)


@pytest.fixture(scope="module")
def tuning(study):
    with pytest.MonkeyPatch.context() as patch:
        yield loaded("csp_tuning", patch)


def record(arm, top1, loss, views="ground", percent=1.0):
    about = {"split": "random", "percent": percent, "method": "finetune", "views": views}
    chosen = {"at_edge": 1.0, "train_rows": 20.0}
    scores = {"top1": top1, "log_loss": loss, "class_mean": 0.5, "unseen": 0.0}
    return {"about": about, "arm": arm, "seed": 0, "scores": scores, "chosen": chosen}


def result(seed, crisp, scratch, csp, mse, alone):
    """Records of one landscape, from top-1 of each arm; log loss is 2 - top-1."""

    def both(arm, rival, views):
        return [record("pretrained", arm, 2 - arm, views), record("scratch", rival, 2 - rival, views)]

    records = {"crisp": both(crisp, scratch, "ground"), "cve-mae": both(crisp, crisp, "ground")}
    records |= {"csp-b": both(csp, alone, "lonlat"), "csp-mse": both(mse, alone, "lonlat")}
    return {"seed": seed, "records": records}


def row_of(rows, arm, rival, score="top1"):
    (found,) = [row for row in rows if (row["arm"], row["rival"], row["score"]) == (arm, rival, score)]
    return found


def test_differences_are_paired_within_landscapes(study):
    results = [result(0, 0.5, 0.4, 0.3, 0.25, 0.1), result(1, 0.9, 0.6, 0.2, 0.25, 0.1)]
    rows = study.compared(list(study.arms_of(results)))
    crisp = row_of(rows, "crisp", "scratch")
    assert (crisp["arm_mean"], crisp["rival_mean"], crisp["difference"]) == (0.7, 0.5, 0.2)
    assert crisp["sd"] == pytest.approx(0.1414, abs=1e-4)  # of +0.1 and +0.3
    assert crisp["arm_sd"] == pytest.approx(0.2828, abs=1e-4)
    assert (crisp["n"], crisp["wins"], crisp["labels"]) == (2, 2, 20)
    assert row_of(rows, "crisp", "scratch", "log_loss")["wins"] == 2  # less is better
    assert row_of(rows, "cve-mae", "scratch")["wins"] == 0  # a draw is no win
    csp = row_of(rows, "csp-b", "csp-mse")
    assert (csp["difference"], csp["wins"], csp["n"]) == (0.0, 1, 2)
    alone = row_of(rows, "csp-b", "scratch")
    assert (alone["rival_mean"], alone["n"]) == (0.1, 2)  # counted once, though two models tell it


def test_verdicts_keep_few_labels_and_all_apart(study):
    def row(percent, difference, wins, views="ground", score="top1"):
        about = {"arm": "crisp", "rival": "scratch", "percent": percent, "views": views, "score": score}
        return {**about, "difference": difference, "wins": wins, "n": 3}

    rows = [row(1.0, 0.1, 3), row(10.0, 0.1, 2), row(10.0, -0.1, 0, "aerial"), row(100.0, -0.02, 1)]
    found = study.verdicts([*rows, row(1.0, 5.0, 3, score="log_loss")])
    assert found == {
        "crisp beats scratch, up to 10 % of labels": {
            "settings": 3,
            "better_mean": 2,
            "better_everywhere": 1,
        },
        "crisp beats scratch, all labels": {"settings": 1, "better_mean": 0, "better_everywhere": 0},
    }


def test_arms_are_tuned_alike_and_only_form_tells_csp_from_its_baseline(study):
    settings = study.STUDY["places"]  # one protocol for a group, so for both arms
    assert study.protocol_for(settings).tuning == settings.tuning
    first, second = (study.recipe_for(model, 3, settings).to_table() for model in study.PLACES)
    assert first["model"].pop("form") == "mc" and second["model"].pop("form") == "mse"
    assert first["model"].pop("projection") and "projection" not in second["model"]  # MSE has none
    for table in (first, second):  # each arm's own, from the same grid
        assert table["training"].pop("learning_rate") and table["training"].pop("epochs")
    assert first == second and first["data"]["options"]["seed"] == 3


def explained(features, known):
    """Share of the variance of features that a regression on what is known explains, adjusted for size."""
    x = np.column_stack([np.ones(len(known)), known])
    left = features - x @ np.linalg.lstsq(x, features, rcond=None)[0]
    within = (left**2).sum() / (len(x) - x.shape[1])
    return 1 - within / features.var(axis=0, ddof=1).sum()


def test_species_and_place_explain_a_tenth_of_features_with_style(study):
    """What fixed the strength of style, on landscapes that no arm is scored on."""
    settings = study.STUDY["styled"]
    for style, share in ((0.0, 0.36), (settings.style, 0.10)):
        for seed in (101, 102, 103):
            land = Landscape(seed, World(species=settings.species, pixels=settings.pixels, style=style))
            data = land.observations(settings.observations, views=["feature"])
            species = np.eye(settings.species)[data.label][:, 1:]
            known = np.column_stack([species, land.environment(data.place)])
            features = np.asarray(data.readers["feature"].array, np.float64)
            assert explained(features, known) == pytest.approx(share, abs=0.005)


def test_the_styled_study_is_that_of_places_but_for_style(study):
    places, styled = (study.STUDY[group] for group in ("places", "styled"))
    assert replace(styled, style=0.0, training=places.training) == places
    assert "style" not in places.plain() and styled.plain()["style"] == styled.style > 0
    for model in study.PLACES:
        world = [
            study.recipe_for(model, 3, each).to_table()["data"]["options"]["world"]
            for each in (places, styled)
        ]
        assert world[1] == world[0] | {"style": styled.style}


@pytest.mark.parametrize("group", ["places", "styled"])
def test_csp_is_pretrained_as_other_landscapes_chose(study, tuning, group):
    styled, kept = group == "styled", json.loads(TUNED[group].read_text())
    ends = tuning.chosen(kept["trials"], styled)
    assert kept["chosen"] == {arm: list(tuning.settled(changes)) for arm, changes in ends.items()}
    assert {model: kept["chosen"][model] for model in study.PLACES} == {
        model: list(changes) for model, changes in study.STUDY[group].training.items()
    }
    assert kept["settings"] == tuning.settings_of(False, styled).plain()
    for part in (json.loads(KEPT.read_text())[group] for group in study.GROUPS):
        assert not set(part["landscapes"]) & set(kept["landscapes"]) and min(kept["landscapes"]) > 100
    tried = [(row["stage"], row["arm"], tuple(row["changes"])) for row in kept["trials"]]
    assert tried == [
        (stage, arm, changes)
        for stage, (arms, choices) in (tuning.STYLED if styled else tuning.STAGES).items()
        for arm in arms
        for changes in choices
    ]


def test_with_style_both_arms_choose_from_one_grid_and_leave_the_rest(study, tuning):
    ((arms, choices),) = tuning.STYLED.values()
    assert arms == study.PLACES
    keys = {change.split("=")[0] for changes in choices for change in changes}
    assert keys == {"training.learning_rate", "training.epochs"}
    for model in study.PLACES:
        plain, styled = (study.STUDY[group].training[model] for group in ("places", "styled"))
        assert [c for c in plain if c.split("=")[0] not in keys] == [
            c for c in styled if c.split("=")[0] not in keys
        ]
        assert tuple(c for c in styled if c.split("=")[0] in keys) in choices


def test_the_kept_result_is_of_this_study(study):
    kept = json.loads(KEPT.read_text())
    assert set(kept) == {"benchmark", *study.GROUPS}
    for group, settings in study.STUDY.items():
        part = kept[group]
        assert part["settings"] == settings.plain() and part["landscapes"] == study.LANDSCAPES[group]
        assert len(part["landscapes"]) >= 3 and part["command"].startswith("python benchmarks/landscapes.py")
        assert part["verdicts"] == study.verdicts(part["rows"])
        assert all(row["n"] == len(part["landscapes"]) for row in part["rows"])
        assert {row["arm"] for row in part["rows"]} == set(study.GROUPS[group])
    shown = {
        group: {(row["arm"], row["views"], row["percent"]) for row in kept[group]["rows"]}
        for group in study.GROUPS
    }
    for model in study.IMAGES:
        for views in ("ground", "aerial", "concatenated"):
            assert {(model, views, percent) for percent in (1.0, 5.0, 10.0, 100.0)} <= shown["images"]
    for group in ("places", "styled"):
        assert {("csp-b", "lonlat", percent) for percent in (5.0, 10.0, 20.0, 100.0)} <= shown[group]


def test_style_leaves_what_labels_and_places_alone_find_as_it_is(study):
    """It is in features only, and the landscapes are the same ones."""
    kept = json.loads(KEPT.read_text())
    alone = [
        {
            (row["percent"], row["score"]): (row["rival_mean"], row["rival_sd"])
            for row in kept[group]["rows"]
            if (row["arm"], row["rival"], row["views"]) == ("csp-b", "scratch", "lonlat")
        }
        for group in ("places", "styled")
    ]
    assert alone[0] == alone[1] and len(alone[0]) == 4 * len(study.SCORES)
    assert kept["places"]["place_bayes_top1"] == kept["styled"]["place_bayes_top1"]


@pytest.mark.slow
def test_the_study_runs_and_goes_on_where_it_stopped(study, tmp_path, capsys):
    out, file = tmp_path / "study", tmp_path / "line.json"
    command = ["--quick", "--images", "0", "--places", "0", "--styled", "0", "--out", str(out)]
    assert study.main([*command, "--save", str(file)]) == 0
    line = json.loads(capsys.readouterr().out)
    assert json.loads(file.read_text()) == line and line["benchmark"] == "landscapes"
    rows = [row for group in study.GROUPS for row in line[group]["rows"]]
    assert {(row["arm"], row["rival"]) for row in rows} == set(study.RIVALS)
    assert {row["views"] for row in rows if row["arm"] == "crisp"} == {"ground", "aerial", "concatenated"}
    for group in ("places", "styled"):
        records = json.loads((out / f"{group}-0.json").read_text())["records"]
        scratch = [[r for r in records[model] if r["arm"] == "scratch"] for model in study.PLACES]
        assert scratch[0] == scratch[1]  # the very same start and fit, so that it counts once
    assert line["styled"]["rows"] != line["places"]["rows"]

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert study.main(command) == 0
    assert json.loads(capsys.readouterr().out)["places"]["rows"] == line["places"]["rows"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before

    assert study.main(["--images", "0", "--out", str(out)]) == 2
    assert "other settings" in capsys.readouterr().err

    line["places"]["command"] = "kept"
    file.write_text(json.dumps(line))
    assert study.main(["--quick", "--images", "0", "--out", str(out), "--save", str(file)]) == 0
    found = json.loads(file.read_text())  # what was not run stays as it is
    assert all(found[group] == line[group] for group in ("places", "styled"))
    line["places"]["settings"]["ratios"] = [1.0]
    file.write_text(json.dumps(line))
    assert study.main(["--quick", "--images", "0", "--out", str(out), "--save", str(file)]) == 2
    assert "other settings of places" in capsys.readouterr().err
    assert json.loads(file.read_text()) == line


@pytest.mark.slow
def test_the_tuning_runs_and_keeps_off_the_landscapes_of_the_study(tuning, tmp_path, capsys, monkeypatch):
    stages = {stage: (arms, choices[:2]) for stage, (arms, choices) in tuning.STAGES.items()}
    monkeypatch.setattr(tuning, "STAGES", stages)
    monkeypatch.setattr(tuning, "START", ("training.batch=75", "training.epochs=1"))
    file = tmp_path / "line.json"
    command = ["--quick", "--seeds", "101", "--out", str(tmp_path / "out"), "--save", str(file)]
    assert tuning.main(command) == 0
    line = json.loads(capsys.readouterr().out)
    assert json.loads(file.read_text()) == line and line["landscapes"] == [101]
    assert [row["arm"] for row in line["trials"]] == [
        arm for arms, choices in stages.values() for arm in arms for _ in choices
    ]
    for stage, (arms, _) in stages.items():
        for arm in arms:
            rows = [row for row in line["trials"] if (row["stage"], row["arm"]) == (stage, arm)]
            (best,) = [row for row in rows if row["chosen"]]
            assert best["log_loss"] == min(row["log_loss"] for row in rows)
    with pytest.raises(SystemExit) as stopped:
        tuning.main(["--quick", "--seeds", "1"])
    assert stopped.value.code == 2 and "101 and up" in capsys.readouterr().err


@pytest.mark.slow
def test_with_style_the_tuning_starts_from_what_was_chosen_without(
    study, tuning, tmp_path, capsys, monkeypatch
):
    grid = tuple((f"training.learning_rate={rate}", "training.epochs=1") for rate in (0.001, 0.004))
    monkeypatch.setattr(tuning, "STYLED", {"training": (study.PLACES, grid)})
    command = ["--quick", "--styled", "--seeds", "101", "--out", str(tmp_path / "out")]
    assert tuning.main(command) == 0
    line = json.loads(capsys.readouterr().out)
    assert line["settings"]["style"] == study.STUDY["styled"].style
    assert [(row["arm"], tuple(row["changes"])) for row in line["trials"]] == [
        (arm, changes) for arm in study.PLACES for changes in grid
    ]
    for model in study.PLACES:
        (best,) = [row for row in line["trials"] if row["arm"] == model and row["chosen"]]
        assert best["log_loss"] == min(row["log_loss"] for row in line["trials"] if row["arm"] == model)
        assert line["chosen"][model] == list(tuning.settled((*study.CHOSEN[model], *best["changes"])))
