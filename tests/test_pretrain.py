"""The command that trains by a recipe, as its user meets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from train import loop
from train.pretrain import main

ROOT = Path(__file__).parents[1]
FEW = ["--set", "data.options.n=150", "--set", "training.batch=32", "--set", "training.save_every=1"]
QUICK = ["csp-tiny", *FEW, "--set", "training.epochs=2"]


def refused(capsys, *argv):
    code = main(list(map(str, argv)))
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said
    return said


def test_a_run_says_its_losses_and_is_not_trained_over(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*QUICK, "--out", str(run)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and "validation/loss" in said[0]  # the bar goes to stderr
    before = (run / "weights.safetensors").read_bytes()
    assert "--overwrite" in refused(capsys, *QUICK, "--out", run)
    assert "is finished" in refused(capsys, *QUICK, "--out", run, "--resume")
    assert (run / "weights.safetensors").read_bytes() == before
    assert main([*QUICK, "--out", str(run), "--overwrite"]) == 0
    assert (run / "weights.safetensors").read_bytes() == before  # the same seed, the same bytes


@pytest.mark.timeout(300)
def test_a_run_killed_for_good_and_resumed_ends_the_same(tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    argv = ["csp-tiny", *FEW, "--set", "training.epochs=15"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "train.pretrain", *argv, "--out", str(killed)]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 200
        while len(list((killed / "checkpoints").glob("step-*"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (killed / "card.json").exists()
    for folder, more in ((killed, ["--resume"]), (whole, [])):
        done = subprocess.run(
            [*command[:-1], str(folder), *more], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    one, other = (load_file(folder / "weights.safetensors") for folder in (whole, killed))
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
    logs = [pd.read_csv(folder / "log.csv") for folder in (whole, killed)]
    pd.testing.assert_frame_equal(*logs)


def test_resuming_by_another_recipe_is_refused(tmp_path, capsys, monkeypatch):
    real = loop.one_step

    def one_step(session, batches, step):
        if step == 3:
            raise KeyboardInterrupt
        return real(session, batches, step)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "one_step", one_step)
        assert main([*QUICK, "--out", str(run)]) == 130
    said = refused(capsys, *QUICK, "--set", "training.learning_rate=0.5", "--out", run, "--resume")
    assert "training.learning_rate was 0.002 and is 0.5" in said
    assert main([*QUICK, "--out", str(run), "--resume"]) == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["crisp-tinny"], ["crisp-tinny", "did you mean crisp-tiny?"]),
        (["csp-tiny", "--set", "training.batsh=3"], ["training.batsh", "did you mean batch?"]),
        (["csp-tiny", "--set", "nonsense"], ["nonsense", "KEY=VALUE"]),
        (["csp-tiny", "--set", "data.options.n=3"], ["no observation is left"]),
        (["csp-tiny", "--set", "data.options.n=60"], ["42 observations", "training.batch"]),
        (["csp-tiny", "--set", "data.kind=photoes"], ["photoes", "Use one of"]),
        (["csp"], ["path"]),
        (["crisp", "--set", "data.path=/nowhere"], ["/nowhere"]),
        (["csp-tiny", "--set", "model.location.kind=gird"], ["gird", "grid"]),
        (["csp-tiny", "--set", "model.feature_width=9"], ["64", "9"]),
    ],
)
def test_mistakes_are_refused_in_words_and_nothing_is_left(tmp_path, capsys, argv, words):
    said = refused(capsys, *argv, "--out", tmp_path / "run")
    for word in words:
        assert word in said
    assert not (tmp_path / "run" / "card.json").exists()
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_an_output_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "run").write_text("mine")
    assert "is a file" in refused(capsys, *QUICK, "--out", tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_running_out_of_memory_says_what_to_lower(tmp_path, capsys, monkeypatch):
    def forward(session, batch):
        raise MemoryError("cannot allocate 9 GiB")

    monkeypatch.setattr(loop, "forward", forward)
    said = refused(capsys, *QUICK, "--out", tmp_path / "run")
    assert "9 GiB" in said and "Lower training.batch" in said
