"""Notebooks are committed without outputs, ask, answer and tell limits; the program that executes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [
    "01_first_map",
    "02_your_own_species_from_a_csv",
    "03_pretrain_encoders_on_a_landscape",
    "04_birds_from_photos_and_seasons",
    "05_compare_with_classical_models",
    "06_scale_out_with_dask",
]
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def run_notebooks(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """`docs/run_notebooks.py` on the notebooks of a folder, copies in its folder `out`."""
    program = [sys.executable, ROOT / "docs" / "run_notebooks.py", *names]
    places = ["--notebooks", folder, "--out", folder / "out"]
    return subprocess.run([*program, *places], cwd=folder, capture_output=True, text=True, timeout=100)


def write_notebook(path: Path, *sources: str) -> None:
    cells = [new_code_cell(source, id=f"cell-{k}") for k, source in enumerate(sources, 1)]
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Tiny", id="title"), *cells]), path)


def test_all_tutorials_are_there():
    assert [notebook.stem for notebook in NOTEBOOKS] == NAMES


@each_notebook
def test_notebook_is_valid_and_holds_no_output(notebook):
    content = json.loads(notebook.read_text())
    nbformat.validate(content)
    assert content["nbformat"] == 4
    assert content["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in content["cells"]:
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            compile("".join(cell["source"]), f"{notebook.name} {cell['id']}", "exec")


@each_notebook
def test_notebook_asks_answers_and_says_its_limits(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    first, *_, answer, limits = ["".join(cell["source"]) for cell in cells]
    assert [cell["cell_type"] for cell in (cells[0], *cells[-2:])] == ["markdown"] * 3
    assert first.startswith("# ")
    assert "\n## Question\n" in first
    assert answer.startswith("## Answer\n")
    assert limits.startswith("## Limits\n")
    assert all(len(text.split("\n", 1)[1].split()) >= 20 for text in (first, answer, limits))


@each_notebook
def test_notebook_is_formatted(notebook):
    for command in (["format", "--check"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", notebook], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@each_notebook
def test_notebook_leaves_the_checkout_alone(notebook):
    sources = "\n".join("".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"])
    assert "../" not in sources.replace("](../", "")  # it runs in a folder of its own; links in prose may
    assert "!pip" not in sources
    assert "%pip" not in sources


@pytest.mark.slow
def test_executed_copy_has_outputs_and_the_folder_of_a_run_goes(tmp_path):
    write_notebook(
        tmp_path / "tiny.ipynb", "from pathlib import Path", "Path('x').write_text('12')", "Path.cwd()"
    )
    done = run_notebooks(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tiny: " in done.stdout
    assert "Total: " in done.stdout
    assert "Warning" not in done.stdout + done.stderr
    executed = nbformat.read(tmp_path / "out" / "tiny.ipynb", as_version=4)
    assert [cell.get("execution_count") for cell in executed.cells] == [None, 1, 2, 3]
    assert executed.cells[2].outputs[0].data["text/plain"] == "2"
    folder = Path(executed.cells[3].outputs[0].data["text/plain"].split("'")[1])
    assert not folder.exists()
    assert not folder.is_relative_to(ROOT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny.ipynb"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tiny.ipynb"]


@pytest.mark.slow
def test_widgets_are_left_out_of_the_copy(tmp_path):
    shown = "{'text/plain': 'a map', 'application/vnd.jupyter.widget-view+json': {'model_id': '1'}}"
    write_notebook(tmp_path / "map.ipynb", f"from IPython.display import display\ndisplay({shown}, raw=True)")
    assert run_notebooks(tmp_path).returncode == 0
    executed = nbformat.read(tmp_path / "out" / "map.ipynb", as_version=4)
    assert executed.cells[1].outputs[0].data == {"text/plain": "a map"}


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_the_other_notebooks_run(tmp_path):
    write_notebook(tmp_path / "a.ipynb", "x = 1", "raise LookupError('no such bird')", "x")
    write_notebook(tmp_path / "b.ipynb", "1 + 1")
    write_notebook(tmp_path / "c.ipynb", "import os", "os._exit(3)")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.ipynb").write_text("what was there")
    done = run_notebooks(tmp_path)
    assert done.returncode == 1
    assert "a failed in cell 3 (cell-2): " in done.stdout
    assert "LookupError: no such bird" in done.stdout
    assert "c failed in cell 3 (cell-2): Kernel died" in done.stdout
    assert done.stdout.splitlines()[-1] == "Failed: a, c"
    assert (tmp_path / "out" / "a.ipynb").read_text() == "what was there"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.ipynb", "b.ipynb"]


def test_a_name_that_is_no_notebook_is_refused(tmp_path):
    write_notebook(tmp_path / "tiny.ipynb", "1")
    done = run_notebooks(tmp_path, "tiny", "tinier")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "Error: cannot execute the notebooks",
        f"Found: no tinier in {tmp_path}",
        "Change: Choose of: tiny",
    ]
    assert not (tmp_path / "out").exists()
