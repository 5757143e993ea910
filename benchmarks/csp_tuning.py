"""Chooses how CSP and its rivals are pre-trained on landscapes, apart from those that it is scored on.

    python benchmarks/csp_tuning.py [--seeds 101 102 103] [--styled] [--out DIR] [--save FILE] [--quick]

benchmarks/landscapes.py reports on landscapes 1 and up; these are others. One choice follows the other, each
from all that is listed and on top of the ones before:

    encoder     location encoder and its dropout, by labels alone, as the paper chooses them; all arms get it
    contrast    projection, temperature, random places (L) and dropout (D), by csp-b; MSE has none of them
    training    learning rate and epochs of pre-training, from one grid, by csp-b and by csp-mse for itself

The choice is the least log loss of the prior of species from places alone, after fine-tuning, on test rows of
these landscapes: a mean over landscapes and over 5 and 20 % of the labels. Fine-tuning is that of the study
with fewer learning rates. Batches are of 128 for all: steps cost less, and there are more of them. Which
values are listed follows from trials by hand on the same landscapes.

With --styled features have style, as in the study of that name, and a wider grid of learning rates and epochs
is the only stage; encoder and contrast are those chosen without style.

What is finished in --out is not computed again. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = str(Path(__file__).resolve().parent)
sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(HERE)] + [HERE]  # `train` first

from train.data.splits import label_subsets  # noqa: E402
from train.encoders.location import LocationEncoder  # noqa: E402
from train.errors import ThreePartError  # noqa: E402
from train.evaluate import fresh_model  # noqa: E402
from train.evaluation.parts import divide, open_pool  # noqa: E402
from train.evaluation.prior import Places, alone, fit_prior  # noqa: E402
from train.evaluation.report import SCRATCH  # noqa: E402
from train.fusion import prior_logits  # noqa: E402
from train.pretrain import load_model  # noqa: E402
from train.sampling import Box  # noqa: E402

landscapes = importlib.import_module("landscapes")  # the study, beside this file

Changes = tuple[str, ...]
SEEDS = (101, 102, 103)
RATES = (2e-4, 1e-3)
SHARES = (0.05, 0.2)
ARMS = (SCRATCH, "csp-b", "csp-mse")
START: Changes = ("training.batch=128", "training.learning_rate=0.002", "training.epochs=40")
STAGES: dict[str, tuple[tuple[str, ...], tuple[Changes, ...]]] = {
    "encoder": (
        (SCRATCH,),
        (
            (),
            ("model.dropout=0.2",),
            ("model.location.options.r_max=10.0",),
            ("model.location.options.r_max=10.0", "model.dropout=0.2"),
            ("model.location.hidden=256", "model.location.dim=128"),
        ),
    ),
    "contrast": (
        ("csp-b",),
        (
            (),
            ('model.projection="linear"',),
            ("model.tau0=0.2", "model.learnable=[]"),
            ("model.dropout_weight=1.0",),
            ("model.random_weight=1.0",),
        ),
    ),
    "training": (
        ("csp-b", "csp-mse"),
        tuple(
            (f"training.learning_rate={rate}", f"training.epochs={epochs}")
            for rate in (0.001, 0.004)
            for epochs in (40, 120)
        ),
    ),
}
"""Stage -> arms that choose, and what each chooses from: changes of the recipe."""
STYLED: dict[str, tuple[tuple[str, ...], tuple[Changes, ...]]] = {
    "training": (
        ("csp-b", "csp-mse"),
        tuple(
            (f"training.learning_rate={rate}", f"training.epochs={epochs}")
            for rate in (0.001, 0.004, 0.016)
            for epochs in (15, 40, 120)
        ),
    )
}
"""The same with style, on top of what was chosen without."""


def trial(arm: str, changes: Changes, seed: int, settings: Any, folder: Path) -> dict[str, Any]:
    """Scores of the prior after fine-tuning, at each share of the labels."""
    model = "csp-b" if arm == SCRATCH else arm
    recipe = landscapes.recipe_for(model, seed, replace(settings, training={model: changes}))
    card: dict[str, Any] = {"recipe": recipe.to_table()}
    if arm == SCRATCH:
        network = fresh_model(card, 0)
    else:
        landscapes.pretrained(recipe, folder / "run")
        network, card = load_model(folder / "run")
    location, pool = network.location, open_pool(card)
    assert isinstance(location, LocationEncoder)
    parts, labels, lonlat = divide(pool, "random", 0), pool.labels(), pool.lonlat()
    held, test = (Places(lonlat[rows], labels[rows]) for rows in (parts.validation, parts.test))
    box, out = Box(*recipe.model["area"]), {}
    for share, rows in label_subsets(labels[parts.train], settings.ratios, 0).items():
        few = parts.train[rows]
        prior, classes, _ = fit_prior(
            location, Places(lonlat[few], labels[few]), held, settings.tuning, 0, box
        )
        guess = alone(prior_logits(prior, torch.from_numpy(test.lonlat)), classes).scores(test.labels)
        out[f"{100 * share:g}"] = {name: guess[name] for name in ("log_loss", "top1")}
    return {"scores": out}


def tried(arm: str, changes: Changes, seeds: Sequence[int], settings: Any, out: Path) -> dict[str, Any]:
    """Means of a trial over landscapes, by share of the labels and over all shares."""
    name = "_".join([arm, *(change.replace("training.", "").replace("model.", "") for change in changes)])
    found = []
    for seed in seeds:
        folder = out / f"landscape-{seed}" / name.replace("/", "-").replace(" ", "")
        compute = partial(trial, arm, changes, seed, settings, folder)
        found.append(landscapes.kept(folder / "trial.json", settings, compute)["scores"])
    means = {
        score: {share: float(np.mean([each[share][score] for each in found])) for share in found[0]}
        for score in ("log_loss", "top1")
    }
    print(f"{name}: {np.mean(list(means['log_loss'].values())):.4f}", file=sys.stderr, flush=True)
    return {"log_loss": float(np.mean(list(means["log_loss"].values()))), "by_share": means}


def tune(seeds: Sequence[int], settings: Any, out: Path) -> list[dict[str, Any]]:
    """The trials of all stages."""
    trials: list[dict[str, Any]] = []
    for stage, (arms, choices) in (STYLED if settings.style else STAGES).items():
        for arm in arms:
            start = chosen(trials, bool(settings.style))[arm]
            results = [tried(arm, start + changes, seeds, settings, out) for changes in choices]
            best = int(np.argmin([result["log_loss"] for result in results]))
            trials += [
                {"stage": stage, "arm": arm, "changes": list(changes), "chosen": at == best} | _short(result)
                for at, (changes, result) in enumerate(zip(choices, results, strict=True))
            ]
    return trials


def chosen(trials: Sequence[Mapping[str, Any]], styled: bool = False) -> dict[str, Changes]:
    """The changes that each arm ends with; what labels alone choose is for all arms."""
    now: dict[str, Changes] = dict(landscapes.CHOSEN) if styled else dict.fromkeys(ARMS, START)
    for row in trials:
        if row["chosen"]:
            for arm in ARMS if row["arm"] == SCRATCH else (row["arm"],):
                now[arm] += tuple(row["changes"])
    return now


def settled(changes: Changes) -> Changes:
    """The last word on every key, for a later change replaces an earlier one."""
    return tuple({change.split("=")[0]: change for change in changes}.values())


def settings_of(quick: bool, styled: bool = False) -> Any:
    """Those of the study with fewer shares of the labels and learning rates."""
    group = "styled" if styled else "places"
    if quick:
        return replace(landscapes.QUICK[group], training={})
    study = landscapes.STUDY[group]
    tuning = replace(study.tuning, learning_rates=RATES)
    return replace(study, ratios=SHARES, training={}, tuning=tuning)


def _short(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _short(each) for name, each in value.items()}
    return round(value, 4)


def saved(line: Mapping[str, Any]) -> str:
    """The line as a file that is easy to read: a trial a line."""
    head = json.dumps({name: value for name, value in line.items() if name != "trials"}, indent=1)
    rows = ",\n".join("  " + json.dumps(row) for row in line["trials"])
    return f'{head[:-2]},\n "trials": [\n{rows}\n ]\n}}\n'


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the trials that are missing and prints the line; exit code 2 for what the user can mend."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="landscapes, 101 and up")
    parser.add_argument("--styled", action="store_true", help="landscapes whose features have style")
    parser.add_argument("--out", type=Path, help="default runs/csp-tuning, with -styled and -quick if so")
    parser.add_argument("--save", type=Path, help="also write the line to this file")
    parser.add_argument("--quick", action="store_true", help="tiny: shows that it runs; numbers mean nothing")
    options = parser.parse_args(given)
    if min(options.seeds) <= 100:
        parser.error("landscapes up to 100 are for scores: give --seeds of 101 and up")
    settings = settings_of(options.quick, options.styled)
    name = "csp-tuning" + "-styled" * options.styled + "-quick" * options.quick
    out = options.out or Path("runs") / name
    try:
        trials = tune(options.seeds, settings, out)
    except (ThreePartError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    line = {
        "benchmark": "csp_tuning",
        "command": " ".join(["python benchmarks/csp_tuning.py", *given]),
        "landscapes": options.seeds,
        "settings": settings.plain(),
        "chosen": {arm: list(settled(changes)) for arm, changes in chosen(trials, options.styled).items()},
        "trials": trials,
    }
    if options.save:
        options.save.parent.mkdir(parents=True, exist_ok=True)
        options.save.write_text(saved(line))
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
