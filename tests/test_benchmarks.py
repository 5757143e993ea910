"""Every benchmark starts as its documentation says, whatever folder it lies in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
LOOKS = """
import runpy, sys
sys.argv = ["program", "--help"]
sys.path.insert(0, {folder!r})  # as `python benchmarks/NAME.py` has it
try:
    runpy.run_path({program!r}, run_name="__main__")
except SystemExit as end:
    print("train is", getattr(sys.modules.get("train"), "__file__", None))
    sys.exit(end.code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_starts_and_sees_the_trainer_and_not_the_benchmark_of_that_name(program):
    code = LOOKS.format(folder=str(BENCHMARKS), program=str(program))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=BENCHMARKS.parent,
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
    ours = BENCHMARKS.parent / "train" / "__init__.py"
    assert done.stdout.splitlines()[-1] in (f"train is {ours}", "train is None")
