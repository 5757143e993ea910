"""The command: a field from a shell, the three-part refusals, Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import geomap.sweep
import geomap.tasks
from geomap.embed import main
from geomap.field import open_field
from geomap.fieldstore import PROGRESS
from geomap.testing import write_raster
from train.encoders.pair import random_encoders, save_encoders

ENCODERS = random_encoders(seed=3)
BBOX = ["--bbox", "-118.6", "34.0", "-117.9", "34.5"]  # Los Angeles


def paint(lonlat):
    return np.stack([100 + 50 * np.sin(9 * (k + 1) * lonlat[:, 1]) for k in range(3)])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    save_encoders(ENCODERS, folder / "encoders")
    write_raster(folder / "imagery.tif", "EPSG:4326", (-119, 33.5, -117.5, 35), (150, 150), 3, paint)
    return folder


@pytest.fixture
def command(made, tmp_path, monkeypatch) -> list[str]:
    """The arguments of a run that works."""
    monkeypatch.chdir(made)
    return ["--imagery", "imagery.tif", "--encoders", "encoders", "--out", str(tmp_path / "f.zarr"), *BBOX]


def refused(arguments: list[str], capsys) -> str:
    """The message of a refusal: exit code 2, three parts, no traceback."""
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in ("Error: ", "Found: ", "Change: ")) and "Traceback" not in message
    return message


def test_makes_a_field_and_says_so(command, tmp_path, capsys):
    assert main([*command, "--credit", "a painter"]) == 0
    field = open_field(tmp_path / "f.zarr")
    assert field.grid.crs.to_epsg() == 3310 and field.grid.resolution == 1000
    assert field.credit == "a painter"
    assert field.valid_cells == field.land_cells == field.grid.land_mask().sum()
    told = capsys.readouterr()
    assert f"{field.valid_cells:,} of {field.land_cells:,} land cells, {ENCODERS.dim} features" in told.out
    assert "100%" in told.err


def test_says_what_it_made_as_json(command, tmp_path, capsys):
    assert main([*command, "--resolution", "5000", "--json"]) == 0
    told, field = json.loads(capsys.readouterr().out), open_field(tmp_path / "f.zarr")
    assert told.pop("seconds") > 0
    assert told == {
        "field": str(tmp_path / "f.zarr"), "grid": field.grid.name, "encoder_hash": field.encoder_hash,
        "valid_cells": field.valid_cells, "land_cells": field.land_cells, "features": field.dim,
        "bytes": sum(entry["size"] for entry in field.files.values()),
    }  # fmt: skip


def test_grid_options(command, tmp_path):
    assert main([*command, "--resolution", "5000", "--crs", "EPSG:6933", "--chunk", "64"]) == 0
    grid = open_field(tmp_path / "f.zarr").grid
    assert (grid.crs.to_epsg(), grid.resolution) == (6933, 5000)


def test_across_the_antimeridian(command, made, tmp_path):
    write_raster(made / "world.tif", "EPSG:4326", (-180, -90, 180, 90), (180, 360), 3, paint)
    area = ["--bbox", "178", "-19", "-179", "-16", "--resolution", "10000"]
    assert main(["--imagery", "world.tif", *command[2:6], *area]) == 0
    field = open_field(tmp_path / "f.zarr")
    land = field.grid.cell_lonlat()[field.read(field.grid.whole)[1]]
    assert (land[:, 0] > 0).any() and (land[:, 0] < 0).any()
    assert field.valid_cells == field.land_cells


def test_bundled_encoders_are_the_default(command, tmp_path, monkeypatch, made):
    monkeypatch.setenv("GEOMAP_BUNDLE", str(made))
    assert main([*command[:2], *command[4:]]) == 0
    assert open_field(tmp_path / "f.zarr").dim == ENCODERS.dim


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (["--imagery", "nowhere.tif"], "nowhere.tif"),
        (["--encoders", "nowhere"], "nowhere"),
        (["--resolution", "0"], "0"),
        (["--resolution", "-5"], "-5"),
        (["--grid", "california"], "--bbox"),
        (["--bbox", "-30", "-40", "-29", "-39"], "-30"),  # open ocean
        (["--bbox", "-118", "35", "-117", "34"], "south"),
        (["--crs", "EPSG:0"], "EPSG:0"),
        (["--region", "nowhere.geojson"], "--region"),
        (["--workers", "-1"], "--workers"),
        (["--chunk", "0"], "--chunk"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_refusals_leave_nothing(command, tmp_path, capsys, change, found):
    assert found in refused([*command, *change], capsys)
    assert not list(tmp_path.iterdir())


def test_imagery_that_does_not_fit(command, made, tmp_path, capsys):
    write_raster(made / "no_crs.tif", None, (-119, 33.5, -117.5, 35), (15, 15), 3, np.ones((3, 15, 15)))
    write_raster(
        made / "one_band.tif", "EPSG:4326", (-119, 33.5, -117.5, 35), (15, 15), 1, np.ones((1, 15, 15))
    )
    write_raster(made / "elsewhere.tif", "EPSG:4326", (9, 45, 10, 46), (15, 15), 3, np.ones((3, 15, 15)))
    whole = (made / "imagery.tif").read_bytes()
    (made / "cut.tif").write_bytes(whole[: len(whole) // 2])
    for name in ("no_crs.tif", "one_band.tif", "elsewhere.tif", "cut.tif"):
        refused([*command, "--imagery", name], capsys)
    assert not list(tmp_path.iterdir())


def test_damaged_encoders(command, made, tmp_path, capsys):
    save_encoders(ENCODERS, made / "cut")
    weights = made / "cut" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    refused([*command, "--encoders", "cut"], capsys)
    card = made / "cut" / "card.json"
    card.write_text(card.read_text()[:-9])
    refused([*command, "--encoders", "cut"], capsys)
    assert not list(tmp_path.iterdir())


def test_dead_scheduler(command, capsys, monkeypatch):
    monkeypatch.setattr(geomap.tasks, "ANSWER_S", 0.5)
    assert "tcp://127.0.0.1:1" in refused([*command, "--scheduler", "tcp://127.0.0.1:1"], capsys)


def test_existing_output(command, capsys):
    assert main(command) == 0
    assert "--overwrite" in refused(command, capsys)
    assert main([*command, "--overwrite"]) == 0
    assert main([*command, "--resume"]) == 0


def test_output_below_a_file(command, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    refused([*command, "--out", str(tmp_path / "file" / "f.zarr")], capsys)


def test_ctrl_c_leaves_a_store_to_resume(command, tmp_path, capsys, monkeypatch):
    real, calls = geomap.sweep.write_unit, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments)

    finer = [*command, "--resolution", "200"]
    monkeypatch.setattr(geomap.sweep, "write_unit", interrupted)
    assert main(finer) == 130
    assert "--resume" in capsys.readouterr().err
    monkeypatch.setattr(geomap.sweep, "write_unit", real)
    assert main([*finer, "--resume"]) == 0
    assert open_field(tmp_path / "f.zarr").valid_cells > 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_in_a_terminal(command, made, tmp_path, workers):
    """SIGINT to the whole group, workers too, as a terminal sends it."""
    out = tmp_path / "f.zarr"
    full = [sys.executable, "-m", "geomap.embed", *command, "--resolution", "250", "--workers", workers]
    process = subprocess.Popen(
        full,
        cwd=made,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
    )
    deadline = time.monotonic() + 90
    while not list(out.glob(f"{PROGRESS}/done/*.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130, message
    assert "--resume" in message and "Traceback" not in message
    done = subprocess.run([*full, "--resume"], cwd=made, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole.zarr"
    subprocess.run([*full, "--out", str(whole)], cwd=made, capture_output=True, check=True)
    assert json.loads((out / "manifest.json").read_text()) == json.loads(
        (whole / "manifest.json").read_text()
    )


def test_starts_without_torch():
    code = "import sys, geomap.embed; print(*{'torch', 'distributed', 'rasterio', 'zarr'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
