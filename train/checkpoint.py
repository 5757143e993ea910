"""Checkpoints of a run: weights as safetensors, a card beside them, and the optimiser's state.

    RUN/card.json, weights.safetensors      what training leaves; the card is written last
    RUN/checkpoints/step-00000120/          the same with trainer.pt, of a run that is not finished

A checkpoint is written into a folder of another name and renamed when it is whole, so an interrupted save
leaves the one before it valid. Nothing is unpickled: trainer.pt is read with `weights_only`.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from train.errors import CheckpointError

CARD, WEIGHTS, TRAINER = "card.json", "weights.safetensors", "trainer.pt"
FORMAT = 1
KEPT = 2  # checkpoints of a run: the last one and the one before it

Card = dict[str, Any]


def save_model(model: nn.Module, card: Mapping[str, Any], folder: Path) -> None:
    """Writes weights, then the card; a folder without a card is not a checkpoint.

    Args:
        model: Parameters and buffers are kept.
        card: Plain values: objective, model configuration, classes, data, seed, losses.
        folder: Made when absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    _write(folder / WEIGHTS, lambda path: save_file(tensors, path))
    text = json.dumps({"format": FORMAT, **card}, indent=2, sort_keys=True) + "\n"
    _write(folder / CARD, lambda path: path.write_text(text, encoding="utf-8"))


def _write(path: Path, how: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    how(partial)
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.replace(path)


def read_card(folder: Path) -> Card:
    """The card of a checkpoint.

    Raises:
        CheckpointError: when there is none, or it is not of this format.
    """
    path = Path(folder) / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(card, dict) or card.pop("format", None) != FORMAT or "objective" not in card:
            raise ValueError("another card format")
    except FileNotFoundError:
        change = "Give the folder that a finished train.pretrain wrote."
        raise CheckpointError("cannot load the run", f"no {path}", change) from None
    except (OSError, ValueError) as error:
        raise CheckpointError("cannot load the run", f"{path}: {error}", "Restore the file.") from error
    return dict(card)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fills a model with the weights of a checkpoint.

    Raises:
        CheckpointError: when the file is missing or damaged, or a name or shape differs (the first is named).
    """
    path = Path(folder) / WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError("cannot load the weights", f"{path}: {error}", "Restore the file.") from error
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != found:
        name = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        said = f"{path} has {name} of shape {found.get(name, 'none')}, the model {wanted.get(name, 'none')}"
        raise CheckpointError("cannot load the weights", said, "Give weights of a model of this shape.")
    model.load_state_dict(tensors)


def save_step(
    model: nn.Module, optimiser: torch.optim.Optimizer, step: int, card: Mapping[str, Any], run: Path
) -> Path:
    """Writes a checkpoint of an unfinished run and removes those older than the one before it.

    Args:
        model: The model.
        optimiser: Its moments are kept.
        step: Steps done.
        card: As for `save_model`.
        run: Folder of the run.

    Returns:
        The folder of the checkpoint.
    """
    whole = run / "checkpoints" / f"step-{step:08d}"
    partial = whole.with_name(f".{whole.name}.partial")
    for path in (partial, whole):
        shutil.rmtree(path, ignore_errors=True)
    save_model(model, card, partial)
    _write(
        partial / TRAINER, lambda path: torch.save({"step": step, "optimiser": optimiser.state_dict()}, path)
    )
    partial.replace(whole)
    for old in _steps(run)[:-KEPT]:
        shutil.rmtree(old)
    return whole


def _steps(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("step-*"))


def last_step(run: Path) -> Path | None:
    """Folder of the newest checkpoint of an unfinished run, if any."""
    steps = _steps(run)
    return steps[-1] if steps else None


def load_step(model: nn.Module, optimiser: torch.optim.Optimizer, folder: Path) -> int:
    """Fills model and optimiser from a checkpoint; gives the number of steps done.

    Raises:
        CheckpointError: when the checkpoint is damaged or of another model.
    """
    load_weights(model, folder)
    path = folder / TRAINER
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        optimiser.load_state_dict(state["optimiser"])
        return int(state["step"])
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            "cannot resume the run", f"{path}: {error}", f"Remove {folder} to resume from the one before."
        ) from error
