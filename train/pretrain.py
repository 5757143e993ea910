"""Pre-trains a model of one of the three papers by a recipe.

    python -m train.pretrain RECIPE [--out RUN] [--resume] [--overwrite] [--set training.epochs=3 ...]
    torchrun --nproc-per-node 2 -m train.pretrain RECIPE --out RUN      # the same on several processes

RECIPE is a .toml file or one of those shipped (train/recipes/), each with a -tiny version for two CPU cores.
RUN gets card.json and weights.safetensors, log.csv, losses.png, TensorBoard events, and checkpoints to resume
from.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import nn

from train.batch import Observations
from train.calibration import FEWEST, calibrate
from train.checkpoint import CARD, last_step, load_weights, read_card, save_model
from train.distributed import World, world
from train.encoders.image import carried
from train.errors import SpecError, ThreePartError, TrainError
from train.loop import Interrupted, train
from train.recipe import (
    Recipe,
    build_model,
    metres_per_pixel,
    model_config,
    open_data,
    read_recipe,
    shipped,
)
from train.settings import from_table


def pretrain(recipe: Recipe, run: Path, world: World, resume: bool = False) -> dict[str, float]:
    """Trains by a recipe; see the module for what the folder of the run gets.

    Args:
        recipe: Objective, model, data, training.
        run: Folder of the run.
        world: This process among those of the run.
        resume: Go on from the last checkpoint.

    Returns:
        The last losses.

    Raises:
        TrainError: the recipe, data or checkpoint cannot be used, or the loss is no longer finite.
    """
    torch.manual_seed(recipe.training.seed)
    parts = open_data(recipe)
    data = parts["train"]
    model = build_model(recipe)
    prepare = getattr(model, "prepare", None)
    if callable(prepare):
        prepare(data)  # what follows from the data as a whole, such as clusters of places
    run.mkdir(parents=True, exist_ok=True)
    card = card_of(recipe, data)
    if world.first:
        (run / "recipe.json").write_text(json.dumps(recipe.to_table(), indent=2, sort_keys=True) + "\n")
    try:
        losses = train(model, data, parts.get("validation"), recipe.training, card, run, world, resume)
        if world.first:
            note_calibration(model, parts.get("validation"), run)
        return losses
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(recipe, error) from error


def note_calibration(model: nn.Module, held: Observations | None, run: Path) -> None:
    """Adds to the card how similarities of photos and chips are to be read, from what was held out.

    Objectives without both views, and runs that held too little out, get no calibration.
    """
    if held is None or len(held) < FEWEST or not {"ground", "aerial"} <= set(getattr(model, "views", ())):
        return
    from train.evaluation.embed import embed_views  # imported here: it imports this module's neighbours

    found = embed_views(model, held, ("ground", "aerial"))
    vectors = found.vectors
    calibration = calibrate(
        vectors["ground"], vectors["aerial"], np.asarray(found.tile), np.asarray(held.labels())
    )
    save_model(model, {**read_card(run), "calibration": asdict(calibration)}, run)


def out_of_memory(recipe: Recipe, error: BaseException) -> TrainError:
    """What to do when the memory does not suffice."""
    change = "Lower training.batch, raise training.accumulate, use smaller images or precision bf16."
    said = (str(error) or "no memory left").splitlines()[0]
    found = f"training.batch = {recipe.training.batch}: {said}"
    return TrainError("cannot hold a step in memory", found, change)


def card_of(recipe: Recipe, data: Observations) -> dict[str, Any]:
    """Everything needed to rebuild the model and to say what it has seen."""
    return {
        "objective": recipe.objective,
        "model": asdict(carried(model_config(recipe))),  # rebuilt from the checkpoint alone
        "recipe": recipe.to_table(),
        "classes": list(data.classes),
        "data": {"observations": len(data), "digest": data.digest, "dropped": dict(data.dropped)},
        "metres_per_pixel": metres_per_pixel(recipe),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }


def load_model(run: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a finished run, in evaluation mode, and its card.

    Raises:
        CheckpointError: no finished run there, damaged files, or weights of another shape.
        SpecError: a card of an objective this version does not know.
    """
    card = read_card(run)
    recipe = replace(recipe_of(card), model=card["model"])
    with torch.random.fork_rng(devices=[]):
        model = build_model(recipe)
    load_weights(model, run)
    return model.eval(), card


def recipe_of(card: dict[str, Any]) -> Recipe:
    """The recipe in a card.

    Raises:
        SpecError: for keys this version does not know.
    """
    return from_table(Recipe, card["recipe"], "recipe")


def require_folder(run: Path, resume: bool, overwrite: bool) -> None:
    """Refuses a folder that holds another run, and clears it where that is asked for.

    Raises:
        SpecError: with what is there.
    """
    if run.exists() and not run.is_dir():
        raise SpecError("cannot write the run", f"{run} is a file", "Give another --out.")
    held = (run / CARD).exists() or last_step(run) is not None
    if overwrite and held:
        for name in ("checkpoints", "events"):
            shutil.rmtree(run / name, ignore_errors=True)
        for name in (CARD, "weights.safetensors", "log.csv", "losses.png", "recipe.json"):
            (run / name).unlink(missing_ok=True)
    elif resume and (run / CARD).exists():
        raise SpecError("cannot resume the run", f"{run} is finished", "Use it, or give --overwrite.")
    elif held and not resume:
        raise SpecError(
            "cannot start the run", f"{run} holds one", "Give --resume, --overwrite or another --out."
        )


def require_same(recipe: Recipe, run: Path) -> None:
    """Refuses to resume a run by another recipe.

    Raises:
        SpecError: naming the first key that differs.
    """
    path = run / "recipe.json"
    if not path.is_file():
        return
    before, now = _flat(json.loads(path.read_text())), _flat(json.loads(json.dumps(recipe.to_table())))
    for key in sorted(set(before) | set(now)):
        if before.get(key) != now.get(key):
            found = f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
            raise SpecError(
                "cannot resume the run", found, "Resume with the recipe it began with, or --overwrite."
            )


def _flat(table: dict[str, Any], above: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in table.items():
        out |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return out


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m train.pretrain", description=(__doc__ or "").split("\n")[0]
    )
    made.add_argument("recipe", help="a .toml file, or one of: " + ", ".join(shipped()))
    made.add_argument("--out", type=Path, help="folder of the run; default runs/RECIPE")
    made.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    made.add_argument("--overwrite", action="store_true", help="replace the run that is there")
    made.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="such as training.epochs=3"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 2 for what the user can mend, 130 when stopped."""
    options = parser().parse_args(argv)
    console = Console(stderr=True)
    try:
        recipe = read_recipe(options.recipe, options.set)
        run = options.out or Path("runs") / Path(options.recipe).stem
        with world() as here:
            if here.first:
                require_folder(run, options.resume, options.overwrite)
                if options.resume:
                    require_same(recipe, run)
            here.wait()
            losses = pretrain(recipe, run, here, options.resume)
    except (Interrupted, KeyboardInterrupt) as stop:
        console.print(str(stop) or "stopped", highlight=False, soft_wrap=True)
        return 130
    except (ThreePartError, OSError) as error:  # an OSError names the file and what is wrong with it
        console.print(f"{error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    if here.first:
        said = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        with contextlib.suppress(BrokenPipeError):
            print(f"{run}: {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
