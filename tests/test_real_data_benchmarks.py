"""The benchmarks on real data: their quick modes run, print one JSON line, and say what they should."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from geomap.testing import shared_data

LIMIT = 600  # seconds; about 30 on an idle core


def result_of(repository: Path, name: str, *options: str) -> dict[str, Any]:
    """What a benchmark printed."""
    command = [sys.executable, f"benchmarks/{name}.py", "--quick", "--shared", str(shared_data()), *options]
    paths = os.pathsep.join([str(repository), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result: dict[str, Any] = json.loads(line)
    assert result["benchmark"] == name
    return result


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 60)
def test_few_routes_compares_the_arms_on_the_same_routes(repository, tmp_path):
    """The untrained arm is a fair one: it knows the imagery, so it beats what knows only the position."""
    kept = tmp_path / "few_routes.json"
    result = result_of(repository, "few_routes", "--seeds", "2", "--out", str(kept))
    few, all_of_them = (result["percent_of_routes"][percent] for percent in ("10%", "100%"))
    assert few["routes"] < all_of_them["routes"] / 8
    for arm in ("pretrained", "random", "position", "coordinates"):
        assert 0.5 < few[arm]["auc"]["mean"] < all_of_them[arm]["auc"]["mean"] < 1
        assert 0 < all_of_them[arm]["brier"]["mean"] < few[arm]["brier"]["mean"] < 0.25
    for row in (few, all_of_them):
        assert row["pretrained"]["auc"]["mean"] > row["position"]["auc"]["mean"]
        assert row["random"]["ap"]["mean"] > row["position"]["ap"]["mean"]
        for than in ("random", "position", "coordinates"):
            for score in ("auc", "ap", "brier"):
                gain = row["pretrained"][score]["mean"] - row[than][score]["mean"]
                paired = row[f"pretrained_minus_{than}"][score]
                assert paired["mean"] == pytest.approx(gain, abs=2e-4)
                assert paired["sd"] >= 0
    written = json.loads(kept.read_text(encoding="utf-8"))
    assert written.pop("command").startswith("python benchmarks/few_routes.py --quick")
    assert written == result


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 60)
def test_photos_on_disk_teach_species(repository, tmp_path):
    """Grey and CMYK files are read among the others; shuffled labels teach nothing."""
    photos = shared_data() / "photos"
    before = sorted(file.name for file in photos.iterdir())
    result = result_of(repository, "photos", "--out", str(tmp_path / "photos.json"))
    assert sorted(file.name for file in photos.iterdir()) == before
    assert sum(result["made"].values()) == result["photos"] == result["held_out"]
    assert min(result["made"].values()) >= 5
    assert result["cmyk_off_by"] < 3
    chance = result["chance"]["top1"]
    assert chance == pytest.approx(1 / result["species"], abs=1e-4)
    assert result["target"] == 3  # as stated before it was met
    assert result["trained"]["top1"]["mean"] > 1.7 * chance
    assert result["p_of_guessing"] < 0.01
    assert result["shuffled"]["top1"]["mean"] < 1.7 * chance
    assert result["paired_difference"]["top1"]["mean"] > 0.03
    assert result["top1_of_training_photos"] > 4 * chance
    assert (tmp_path / "photos.json").is_file()


def loaded(repository: Path, name: str) -> ModuleType:
    """A benchmark as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", repository / f"benchmarks/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos(repository, monkeypatch) -> Iterator[ModuleType]:
    """The benchmark of photos; the search path that it changes is put back."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield loaded(repository, "photos")
    del sys.modules["benchmark_photos"]


def test_photos_that_may_show_one_plant_stay_together(photos):
    table = pd.DataFrame(
        [
            ("a", "2018-01-23", 10_000),
            ("a", "2018-02-04", 10_900),  # another day, uploaded with the first
            ("a", "2018-02-04", 90_000),  # the day of the second, uploaded later
            ("a", "2018-03-01", 50_000),
            ("b", "2018-01-23", 10_001),  # another species
        ],
        columns=["scientific_name", "observed_on", "inat_id"],
    )
    found = photos.occasions(table)
    assert len(set(found[:3])) == 1
    assert len(set(found)) == 3


def test_ranks_count_what_is_guessed_before_the_truth(photos):
    assert photos.scores_of(np.array([0, 0, 3, 9])) == {"top1": 0.5, "top5": 0.75, "mrr": 0.5875}
    both = photos.over_folds([np.array([0, 7]), np.array([0, 0, 2])], [np.array([1, 0]), np.array([9, 0, 9])])
    assert both["top1"] == {"mean": 0.2, "sd": pytest.approx(0.2357, abs=1e-4)}


def test_the_choice_is_among_the_settings_and_follows_its_rule(photos, repository):
    """The committed result was made with the committed choice."""
    results = repository / "benchmarks" / "results"
    choice, result = (
        json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("photos_choice", "photos")
    )
    assert set(choice["tried"]) == set(choice["settings"]) == set(photos.SETTINGS)
    for fold, name in enumerate(choice["chosen"]):
        scores = {each: tried[fold]["mrr"] for each, tried in choice["tried"].items()}
        assert scores[name] == max(scores.values())
    plain = json.loads(json.dumps({name: asdict(how) for name, how in photos.SETTINGS.items()}))
    assert choice["settings"] == plain
    assert result["chosen"] == choice["chosen"] and result["target"] == photos.TARGET
    assert result["met"] == (
        result["times_chance"] >= photos.TARGET and result["p_of_guessing"] < photos.LUCK
    )
