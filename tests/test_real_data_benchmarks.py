"""The benchmarks on real data: their quick modes run, print one JSON line, and say what they should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    assert result["trained"]["top1"]["mean"] > 1.7 * chance
    assert result["p_of_guessing"] < 0.01
    assert result["shuffled"]["top1"]["mean"] < 1.7 * chance
    assert result["paired_difference"]["top1"]["mean"] > 0.03
    assert result["top1_of_training_photos"] > 4 * chance
    assert (tmp_path / "photos.json").is_file()
