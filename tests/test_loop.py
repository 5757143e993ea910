"""The training loop: exact resume, ranks, refusals, logs."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_run import Pairs, Towers, config, fresh
from torch import nn

from train import loop
from train.distributed import World
from train.errors import CheckpointError, DivergedError, SpecError

ALONE = World(0, 1, torch.device("cpu"))
CARD = {"objective": "small"}


def run_all(folder, model=None, resume=False, held=None, data=None, **changes):
    folder.mkdir(exist_ok=True)
    model = model or fresh(0.2)
    return loop.train(model, data or Pairs(), held, config(**changes), CARD, folder, ALONE, resume)


def weights(folder):
    return load_file(folder / "weights.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stop_after(monkeypatch, steps):
    real = loop.one_step

    def one_step(session, batches, step):
        if step > steps:
            raise KeyboardInterrupt  # nothing is saved on the way out, as by kill -9
        return real(session, batches, step)

    monkeypatch.setattr(loop, "one_step", one_step)


def test_a_run_learns_and_leaves_weights_card_log_and_picture(tmp_path):
    last = run_all(tmp_path / "run", held=Pairs(32, 1), epochs=20)
    log = pd.read_csv(tmp_path / "run/log.csv")
    assert log["loss"].iloc[-5:].mean() < 0.7 * log["loss"].iloc[:5].mean()
    assert log["validation/loss"].dropna().iloc[-1] < log["validation/loss"].dropna().iloc[0]
    card = json.loads((tmp_path / "run/card.json").read_text())
    assert card["steps"] == 80 and card["losses"] == pytest.approx(last)
    with Image.open(tmp_path / "run/losses.png") as picture:
        assert len(picture.convert("RGB").getcolors(10**6)) > 20  # two curves, not an empty frame
    assert any((tmp_path / "run/events").iterdir())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_killed_run_resumed_ends_with_the_same_parameters(tmp_path, monkeypatch, accumulate):
    whole = run_all(tmp_path / "whole", held=Pairs(32, 1), accumulate=accumulate)
    with monkeypatch.context() as patch:
        stop_after(patch, 13)
        with pytest.raises(KeyboardInterrupt):
            run_all(tmp_path / "killed", held=Pairs(32, 1), accumulate=accumulate)
    assert not (tmp_path / "killed/card.json").exists()
    resumed = run_all(tmp_path / "killed", fresh(0.2), resume=True, held=Pairs(32, 1), accumulate=accumulate)
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    assert resumed == whole
    one, other = (pd.read_csv(tmp_path / name / "log.csv") for name in ("whole", "killed"))
    pd.testing.assert_frame_equal(one, other)


def test_two_runs_with_one_seed_are_equal_and_with_another_differ(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run_all(tmp_path / name, seed=seed)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_a_stop_signal_saves_the_step(tmp_path, monkeypatch):
    real = loop.one_step

    def one_step(session, batches, step):
        if step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(session, batches, step)

    monkeypatch.setattr(loop, "one_step", one_step)
    with pytest.raises(loop.Interrupted, match="after step 7 of 16"):
        run_all(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()][-1].startswith("step-")
    assert (tmp_path / "run/checkpoints/step-00000007/card.json").is_file()


def test_two_processes_train_as_one_on_the_same_batches(tmp_path):
    """Negatives are gathered across ranks: same losses, same parameters."""
    script = Path(__file__).parent / "small_run.py"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])}
    subprocess.run(
        [*torchrun, "--standalone", script, tmp_path / "two"], check=True, timeout=120, env=environment
    )
    run_all(tmp_path / "one", fresh(), held=Pairs(32, 1, 0), data=Pairs(noise=0))
    alone = weights(tmp_path / "one")
    for rank in (0, 1):
        for name, value in weights(tmp_path / f"two/rank-{rank}").items():
            torch.testing.assert_close(value, alone[name], atol=2e-5, rtol=1e-4)
    one, two = (pd.read_csv(tmp_path / name / "log.csv") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, atol=1e-5, rtol=1e-4)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    class Broken(Pairs):
        def __getitem__(self, row):
            item = super().__getitem__(row)
            if self.seen > 8 * 16:
                item["feature"] = item["feature"] * torch.inf
            self.seen += 1
            return item

    data = Broken()
    data.seen = 0
    with pytest.raises(DivergedError, match="in step 9") as refused:
        run_all(tmp_path / "run", data=data)
    assert "learning_rate" in refused.value.change
    assert (tmp_path / "run/checkpoints/step-00000005/card.json").is_file()
    assert not (tmp_path / "run/card.json").exists()


def test_data_without_a_view_of_the_model_is_refused(tmp_path):
    class Blind(Towers):
        views = ("aerial", "lonlat")

    with pytest.raises(SpecError, match="no aerial in the data"):
        run_all(tmp_path / "run", Blind())


def test_a_checkpoint_of_another_shape_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(KeyboardInterrupt):
            run_all(tmp_path / "run")
    other = fresh()
    other.first = nn.Linear(6, 9)
    with pytest.raises(CheckpointError, match=r"first\.bias of shape \(8,\), the model \(9,\)"):
        run_all(tmp_path / "run", other, resume=True)


def test_the_learning_rate_warms_up_and_falls_to_nothing():
    settings = config(warmup=0.25)
    rates = [loop.learning_rate(settings, step, 100) for step in range(1, 101)]
    assert rates[0] == pytest.approx(settings.learning_rate / 25)
    assert max(rates) == rates[24] == settings.learning_rate
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(a >= b for a, b in itertools.pairwise(rates[24:]))
    assert loop.learning_rate(config(warmup=0.0), 1, 1) == pytest.approx(0, abs=1e-9)


def test_biases_and_scales_are_not_decayed():
    decayed, free = loop.parameter_groups(fresh(), config())
    assert [p.ndim for p in decayed["params"]] == [2, 2] and decayed["weight_decay"] > 0
    assert sorted(p.ndim for p in free["params"]) == [0, 1, 1] and free["weight_decay"] == 0


def test_bf16_is_used_where_it_is_asked_for(tmp_path):
    seen = []

    class Watching(Towers):
        def forward(self, batch):
            seen.append(self.first(batch["feature"]).dtype)
            return super().forward(batch)

    run_all(tmp_path / "low", Watching(), precision="bf16", epochs=1)
    run_all(tmp_path / "auto", Watching(), epochs=1)
    assert seen[0] == torch.bfloat16 and seen[-1] == torch.float32


def test_clipping_bounds_a_step(tmp_path):
    """AdamW's steps do not depend on the size of the gradient; its first moments do."""
    sizes = {}
    for clip in (1e-9, 0.0):
        model = fresh()
        session = loop.start(model, Pairs(), replace(config(), clip=clip), ALONE)
        loop.one_step(session, session.feed.batches(0, 1, 0, False), 1)
        moments = [session.optimiser.state[p]["exp_avg"] for p in model.parameters()]
        sizes[clip] = max(float(each.abs().max()) for each in moments)
    assert sizes[1e-9] < 1e-9 < 1e-4 < sizes[0.0]
