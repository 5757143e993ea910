"""Notebooks are committed without outputs, and their cells run on a map as `make map` leaves it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from geomap.testing import write_raster

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def code_of(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_there_are_notebooks():
    names = ["01_first_map", "03_pretrain_encoders_on_a_landscape", "04_birds_from_photos_and_seasons"]
    assert [notebook.stem for notebook in NOTEBOOKS] == names


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_of_this_format_and_holds_no_output(notebook):
    content = json.loads(notebook.read_text())
    assert content["nbformat"] == 4
    for cell in content["cells"]:
        assert set(cell) >= {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    for number, source in enumerate(code_of(notebook)):
        compile(source, f"{notebook.name}[{number}]", "exec")


def test_first_map_runs_from_top_to_bottom(tmp_path):
    folder = tmp_path / "maps" / "california"
    folder.mkdir(parents=True)
    plane = np.full((1, 30, 40), 0.25, dtype="float32")
    plane[:, :, :10] = -9999
    bounds = (-200_000.0, -100_000.0, 200_000.0, 200_000.0)
    write_raster(
        folder / "eschscholzia-californica.tif", "EPSG:3310", bounds, (30, 40), 1, plane, -9999, cog=True
    )
    check = "print(int(suitability.isnull().sum()), float(suitability.max()), len(web.layers))"
    program = "\n".join([*code_of(NOTEBOOKS[0]), check])
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    missing, highest, layers = done.stdout.split()[-3:]
    assert (int(missing), float(highest)) == (300, 0.25)
    assert int(layers) >= 2  # the base map and ours
