"""Checkpoints: what they carry, and that a damaged or half-written one is never taken."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn

from train import checkpoint
from train.errors import CheckpointError

CARD = {"objective": "small", "classes": ["a"]}


def model_and_optimiser():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    model(torch.randn(8, 3)).square().sum().backward()
    optimiser.step()
    return model, optimiser


def test_weights_and_card_come_back(tmp_path):
    model, _ = model_and_optimiser()
    checkpoint.save_model(model, CARD, tmp_path)
    assert checkpoint.read_card(tmp_path) == CARD
    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    checkpoint.load_weights(other, tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_a_step_brings_the_optimiser_back(tmp_path):
    model, optimiser = model_and_optimiser()
    folder = checkpoint.save_step(model, optimiser, 7, CARD, tmp_path)
    other = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    again = torch.optim.AdamW(other.parameters(), 1e-2)
    assert checkpoint.load_step(other, again, folder) == 7
    x = torch.randn(8, 3)
    for net, opt in ((model, optimiser), (other, again)):
        opt.zero_grad()
        net(x).square().sum().backward()
        opt.step()
    assert torch.equal(model[0].weight, other[0].weight)


def test_only_the_last_two_steps_are_kept(tmp_path):
    model, optimiser = model_and_optimiser()
    for step in (5, 10, 15):
        checkpoint.save_step(model, optimiser, step, CARD, tmp_path)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == [
        "step-00000010",
        "step-00000015",
    ]
    assert checkpoint.last_step(tmp_path).name == "step-00000015"


@pytest.mark.parametrize("broken", ["save_file", "torch.save"])
def test_an_interrupted_save_leaves_the_old_checkpoint_valid(tmp_path, monkeypatch, broken):
    model, optimiser = model_and_optimiser()
    checkpoint.save_step(model, optimiser, 5, CARD, tmp_path)

    def stop(state, path):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    if broken == "save_file":
        monkeypatch.setattr(checkpoint, "save_file", stop)
    else:
        monkeypatch.setattr(torch, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_step(model, optimiser, 10, CARD, tmp_path)
    monkeypatch.undo()
    last = checkpoint.last_step(tmp_path)
    assert last.name == "step-00000005"
    assert checkpoint.load_step(model, optimiser, last) == 5
    checkpoint.save_step(model, optimiser, 10, CARD, tmp_path)  # what was left over is in nobody's way
    assert checkpoint.last_step(tmp_path).name == "step-00000010"


def test_without_a_card_there_is_no_checkpoint(tmp_path):
    model, _ = model_and_optimiser()
    checkpoint.save_model(model, CARD, tmp_path)
    (tmp_path / "card.json").unlink()
    with pytest.raises(CheckpointError, match=r"no .*card\.json"):
        checkpoint.read_card(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2, "objective": "x"}', '{"format": 1}', "\udcff"]
)
def test_a_damaged_card_is_refused(tmp_path, text):
    (tmp_path / "card.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match="cannot load the run"):
        checkpoint.read_card(tmp_path)


@pytest.mark.parametrize("size", [0, 7, 100])
def test_truncated_weights_are_refused(tmp_path, size):
    model, _ = model_and_optimiser()
    checkpoint.save_model(model, CARD, tmp_path)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="cannot load the weights"):
        checkpoint.load_weights(model, tmp_path)


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), r"0\.bias of shape \(2,\), the model \(4,\)"),
        (nn.Sequential(nn.Linear(3, 2)), r"1\.bias of shape \(2,\), the model none"),
        (nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)), r"2\.bias of shape none"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path, other, word):
    model, _ = model_and_optimiser()
    checkpoint.save_model(model, CARD, tmp_path)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=word):
        checkpoint.load_weights(other, tmp_path)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


@pytest.mark.parametrize("damage", ["truncated", "pickle", "missing", "other"])
def test_a_damaged_optimiser_is_refused_and_nothing_is_unpickled(tmp_path, damage):
    model, optimiser = model_and_optimiser()
    folder = checkpoint.save_step(model, optimiser, 5, CARD, tmp_path)
    path = folder / "trainer.pt"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "pickle":
        torch.save({"step": 5, "optimiser": shutil.rmtree}, path)  # would run on unpickling
    elif damage == "missing":
        path.unlink()
    else:
        torch.save({"step": 5, "optimiser": torch.optim.SGD(model[0].parameters(), 1.0).state_dict()}, path)
    with pytest.raises(CheckpointError, match="cannot resume the run"):
        checkpoint.load_step(model, optimiser, folder)


def test_equal_models_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        checkpoint.save_model(model_and_optimiser()[0], CARD, tmp_path / name)
    for name in ("card.json", "weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert json.loads((tmp_path / "a/card.json").read_text())["format"] == 1
