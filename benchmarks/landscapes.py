"""What pre-training is worth on landscapes of known truth: CRISP, CVE-MAE and CSP against their rivals.

    python benchmarks/landscapes.py [--images 1 2 3] [--places 1 2 3] [--styled 1 2 3] [--save FILE] [--quick]

Every number is another landscape (train.landscape), and one replicate. On each, by the shipped -tiny recipes
and the protocol of train.evaluate:

    crisp, cve-mae    pre-trained on photos and chips without labels, then fine-tuned; against the same
                      encoders fine-tuned from scratch: ground only, aerial only, both, at 1/5/10/100 % labels
    csp-b, csp-mse    location encoders pre-trained on features of photos, then fine-tuned as a prior of
                      species; against each other and the same encoder on labels alone, at 5/10/20/100 %

`--styled` repeats the study of places where features also have style (train.world.World.style): variance in
few directions that tells nothing of species or place. The hypothesis, stated before any run: without style
all noise of the features is alike in all directions, where regressing them is the estimate of maximum
likelihood and contrast has nothing to add; regression spends its loss on style, which contrast can leave out.
How strong style is was fixed before any arm was trained, too: species and place together explain a tenth of
the variance of the features (36 % without style). It came out so on landscapes 1 to 6: CSP-B beats MSE with
style and does not without.

Labels are a subset of the pre-training rows, at least one of a class. Learning rate and rounds of all arms
are chosen on validation rows, from the same grid; scores are of test rows that no arm has met (random split
by tile). `wins` counts the landscapes where an arm does better than its rival; sd is that of the paired
differences over landscapes. `ran_out` is the share of fits whose rounds ran out before they stopped getting
better, or whose rate was the least or greatest of three or more.

Images and places have settings and landscapes of their own: places are cheap, so they can have more. Only
what is asked for is run; a file of --save keeps the other parts, if their settings are still those here.
How CSP pre-trains was chosen on landscapes 101 to 103, by each arm from one grid (benchmarks/csp_tuning.py),
once without and once with style.

What is finished in --out is not computed again. Prints one JSON line. Synthetic worlds are a
guide to choices and no evidence about nature.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path = [
    path for path in sys.path if Path(path or ".").resolve() != HERE
]  # else train.py here were `train`

from train.checkpoint import CARD, read_card  # noqa: E402
from train.distributed import World  # noqa: E402
from train.errors import SpecError, ThreePartError  # noqa: E402
from train.evaluate import evaluate  # noqa: E402
from train.evaluation.parts import open_pool  # noqa: E402
from train.evaluation.prior import PRIOR_TUNING  # noqa: E402
from train.evaluation.report import CHANCE, PRETRAINED, SCRATCH, Record, differences, summary  # noqa: E402
from train.evaluation.tasks import Protocol  # noqa: E402
from train.evaluation.tuning import TuningConfig  # noqa: E402
from train.landscape import Landscape  # noqa: E402
from train.landscape import World as Nature  # noqa: E402
from train.pretrain import load_model, pretrain, recipe_of  # noqa: E402
from train.recipe import Recipe, read_recipe  # noqa: E402

FORMAT = "landscapes/2"
SCORES = (
    "top1",
    "class_mean",
    "log_loss",
)  # the last over rows whose class had a label: the same in all arms
BETTER = {"top1": 1.0, "class_mean": 1.0, "log_loss": -1.0}
IMAGES = ("crisp", "cve-mae")
PLACES = ("csp-b", "csp-mse")
GROUPS = {"images": IMAGES, "places": PLACES, "styled": PLACES}
RECIPES = {
    "crisp": "crisp-tiny",
    "cve-mae": "birdsat-cve-tiny",
    "csp-b": "csp-tiny",
    "csp-mse": "csp-tiny",
}
RIVALS = (
    ("crisp", SCRATCH),
    ("cve-mae", SCRATCH),
    ("csp-b", SCRATCH),
    ("csp-b", "csp-mse"),
    ("csp-mse", SCRATCH),
)
LANDSCAPES = {"images": [1, 2, 3], "places": list(range(1, 7)), "styled": list(range(1, 7))}
STYLE = 1.3
"""World.style by which species and place together explain a tenth of the variance of features."""
_BOTH = (
    "training.batch=128",
    "training.learning_rate=0.004",
    "training.epochs=120",
    "model.location.hidden=256",
    "model.location.dim=128",
)
CHOSEN: dict[str, tuple[str, ...]] = {"csp-b": (*_BOTH, 'model.projection="linear"'), "csp-mse": _BOTH}
"""How CSP pre-trains, as benchmarks/csp_tuning.py chose it on other landscapes."""
CHOSEN_STYLED: dict[str, tuple[str, ...]] = {
    "csp-b": (
        "training.batch=128",
        "training.learning_rate=0.004",
        "training.epochs=120",
        "model.location.hidden=256",
        "model.location.dim=128",
        'model.projection="linear"',
    ),
    "csp-mse": (
        "training.batch=128",
        "training.learning_rate=0.004",
        "training.epochs=40",
        "model.location.hidden=256",
        "model.location.dim=128",
    ),
}
"""The same for features with style (benchmarks/csp_tuning.py --styled)."""
FEW = {"images": 10.0, "places": 20.0}  # percent of the labels up to which pre-training is expected to win


@dataclass(frozen=True)
class Settings:
    """Everything that the numbers of images or of places depend on beside the seeds."""

    observations: int
    ratios: tuple[float, ...]  # shares of the labels
    tuning: TuningConfig  # of both arms on labels
    training: Mapping[str, tuple[str, ...]]  # model -> what pre-training changes of its recipe
    species: int = 20
    pixels: int = 16
    validation: float = 0.2
    test: float = 0.3
    style: float = 0.0

    def plain(self) -> dict[str, Any]:
        """As JSON gives it back; style only where there is some."""
        made: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return made if self.style else {name: value for name, value in made.items() if name != "style"}


STUDY = {
    "images": Settings(
        observations=1600,
        ratios=(0.01, 0.05, 0.1, 1.0),
        tuning=TuningConfig(
            learning_rates=(3e-5, 1e-4, 6e-4), head_factor=3.0, batch=32, round_steps=8, rounds=12, patience=2
        ),
        training=dict.fromkeys(IMAGES, ("training.epochs=25",)),
    ),
    "places": Settings(
        observations=4000,
        ratios=(0.05, 0.1, 0.2, 1.0),
        tuning=replace(
            PRIOR_TUNING,
            learning_rates=(5e-5, 2e-4, 1e-3, 5e-3, 2e-2),
            batch=256,
            round_steps=10,
            rounds=25,
            patience=4,
        ),
        training=CHOSEN,
    ),
}
STUDY["styled"] = replace(STUDY["places"], style=STYLE, training=CHOSEN_STYLED)
_ONE_RATE = TuningConfig(learning_rates=(2e-3,), head_factor=3.0, round_steps=2, rounds=2, patience=1)
QUICK = {
    "images": replace(
        STUDY["images"], species=5, observations=300, ratios=(0.1, 1.0), tuning=_ONE_RATE,
        training=dict.fromkeys(IMAGES, ("training.epochs=1",)),
    ),
    "places": replace(
        STUDY["places"], species=5, observations=300, ratios=(0.2, 1.0), tuning=replace(_ONE_RATE, batch=256),
        training=dict.fromkeys(PLACES, ("training.epochs=2", "training.batch=75")),
    ),
}  # fmt: skip
QUICK["styled"] = replace(QUICK["places"], style=STYLE)
"""Shows that everything runs; its numbers mean nothing."""


def recipe_for(model: str, seed: int, settings: Settings) -> Recipe:
    """The shipped recipe of a model, on one landscape and as large as the settings say."""
    size, world = settings.pixels, Nature()
    changes = [
        f"data.options.seed={seed}",
        f"data.options.n={settings.observations}",
        f"data.options.world.species={settings.species}",
        f"data.options.world.pixels={size}",
        f"data.validation={settings.validation}",
        f"data.test={settings.test}",
        f"training.seed={seed}",
        "training.save_every=1000000",  # a run takes less than a minute
    ]
    changes += [f"data.options.world.style={settings.style}"] if settings.style else []
    if model in IMAGES:
        changes += [f"model.ground.size={size}", f"model.aerial.size={size}"]
        changes += ["model.ground.patch=4"] if model == "cve-mae" else []
    else:
        form = "mse" if model == "csp-mse" else "mc"
        area = [world.west, world.south, world.east, world.north]
        changes += [f'model.form="{form}"', f"model.area={area}"]
    return read_recipe(RECIPES[model], [*changes, *settings.training[model]])


def pretrained(recipe: Recipe, run: Path) -> None:
    """Pre-trains into a folder, unless it holds that very run."""
    if (run / CARD).is_file() and recipe_of(read_card(run)).to_table() == recipe.to_table():
        return
    shutil.rmtree(run, ignore_errors=True)
    with contextlib.redirect_stdout(sys.stderr):  # its bar
        pretrain(recipe, run, World(0, 1, torch.device("cpu")))


def protocol_for(settings: Settings) -> Protocol:
    """The protocol of train.evaluate --task few-label, random split, one draw of labels per landscape."""
    return Protocol(
        splits=("random",), seeds=1, ratios=settings.ratios, methods=("finetune",), tuning=settings.tuning
    )


def scored(model: str, seed: int, settings: Settings, out: Path) -> dict[str, Any]:
    """Pre-trains a model on a landscape and evaluates it beside the one from scratch."""
    began, cpu = time.monotonic(), time.process_time()
    run = out / model
    pretrained(recipe_for(model, seed, settings), run)
    trained = time.process_time() - cpu
    network, card = load_model(run)
    report = evaluate(network, card, open_pool(card), protocol_for(settings), "few-label")
    seconds = {"pre_training": trained, "cpu": time.process_time() - cpu, "wall": time.monotonic() - began}
    said = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    print(f"landscape {seed}: {model}: {said}", file=sys.stderr, flush=True)
    return {"records": report["records"], "seconds": seconds}


def landscape(seed: int, group: str, settings: Settings, out: Path) -> dict[str, Any]:
    """The models of a group on one landscape, and what there was to know from places."""
    folder = out / f"{'styled-' if settings.style else ''}landscape-{seed}"
    models = {
        model: kept(folder / f"{model}.json", settings, partial(scored, model, seed, settings, folder))
        for model in GROUPS[group]
    }
    nature = Landscape(seed, Nature(species=settings.species, pixels=settings.pixels))
    return {
        "seed": seed,
        "place_bayes_top1": nature.bayes_top1(),
        "records": {model: found["records"] for model, found in models.items()},
        "cpu_seconds": {model: found["seconds"]["cpu"] for model, found in models.items()},
    }


def kept(path: Path, settings: Settings, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A result: read from its file, or computed and written there in one stroke.

    Raises:
        SpecError: when the one that is there has other settings.
    """
    stamp = {"format": FORMAT, "settings": settings.plain()}
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        if {name: found.get(name) for name in stamp} != stamp:
            change = "Give another --out, or remove the folder."
            raise SpecError("cannot go on with the study", f"{path} has other settings", change)
        return found
    result = json.loads(json.dumps(stamp | compute()))  # as it will be read back
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result))
    part.replace(path)
    return dict(result)


def arms_of(results: Sequence[Mapping[str, Any]]) -> Iterator[Record]:
    """Records of all landscapes: the landscape is the replicate, and arms are named after their models.

    Arms from scratch are told apart by what they are compared with: CRISP and CVE-MAE have photo encoders of
    other shapes; CSP's B and MSE start from the same location encoder, so theirs counts once.
    """
    for result in results:
        for model, records in result["records"].items():
            group = model if model in IMAGES else "csp"
            for each in records:
                arm = model if each["arm"] == PRETRAINED else each["arm"]
                if model == "csp-mse" and arm != model:
                    continue
                about = {"group": group} | {
                    name: value for name, value in each["about"].items() if name in ("percent", "views")
                }
                scores = {name: value for name, value in each["scores"].items() if name in SCORES}
                yield Record(about, arm, result["seed"], scores, each["chosen"])


def compared(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row for each pair of rivals, choice of views, share of labels and score."""
    means = {(_key(row["about"]), row["arm"], row["score"]): row for row in summary(records)}
    rows = []
    for arm, rival in RIVALS:
        for row in differences(records, arm, rival):
            about, score = row["about"], row["score"]
            if about["group"] != (arm if arm in IMAGES else "csp"):
                continue
            of = {who: means[_key(about), who, score] for who in (arm, rival)}
            each = _differences(records, about, score, arm, rival)
            rows.append(
                {
                    "arm": arm,
                    "rival": rival,
                    "views": about["views"],
                    "percent": about["percent"],
                    "labels": _labels(records, about),
                    "score": score,
                    "arm_mean": _short(of[arm]["mean"]),
                    "arm_sd": _short(of[arm]["sd"]),
                    "rival_mean": _short(of[rival]["mean"]),
                    "rival_sd": _short(of[rival]["sd"]),
                    "difference": _short(row["mean"]),
                    "sd": _short(row["sd"]),
                    "n": row["n"],
                    "wins": sum(BETTER[score] * value > 0 for value in each),
                }
            )
    return rows


def _differences(
    records: Sequence[Record], about: Mapping[str, Any], score: str, arm: str, rival: str
) -> list[float]:
    """Arm minus rival on each landscape."""
    by: dict[int, dict[str, float]] = {}
    for each in records:
        if each.about == about:
            by.setdefault(each.seed, {})[each.arm] = each.scores[score]
    return [found[arm] - found[rival] for found in by.values() if arm in found and rival in found]


def _labels(records: Sequence[Record], about: Mapping[str, Any]) -> int:
    """Rows with a label that the arms of a setting learn from, a mean over landscapes."""
    return round(float(np.mean([r.chosen["train_rows"] for r in records if r.about == about])))


def _key(about: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(about.items())


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def verdicts(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings of each pair of rivals, by top-1: how many there are, are better on average, everywhere."""
    out: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["score"] != "top1" or row["views"] in ("feature", "product"):
            continue
        most = FEW["images" if row["arm"] in IMAGES else "places"]
        amount = "all labels" if row["percent"] > most else f"up to {most:g} % of labels"
        name = f"{row['arm']} beats {row['rival']}, {amount}"
        found = out.setdefault(name, {"settings": 0, "better_mean": 0, "better_everywhere": 0})
        found["settings"] += 1
        found["better_mean"] += int(row["difference"] > 0)
        found["better_everywhere"] += int(row["wins"] == row["n"])
    return out


def study(results: Sequence[Mapping[str, Any]], settings: Settings, command: str) -> dict[str, Any]:
    """What came out for images or for places."""
    records = list(arms_of(results))
    rows = compared([record for record in records if record.arm != CHANCE])
    fits = [r for r in records if "at_edge" in r.chosen]
    guess = {
        group: _short(
            float(
                np.mean([r.scores["top1"] for r in records if r.arm == CHANCE and r.about["group"] == group])
            )
        )
        for group in dict.fromkeys(str(record.about["group"]) for record in records)
    }
    ran_out = {
        arm: _short(float(np.mean([r.chosen["at_edge"] for r in fits if r.arm == arm])))
        for arm in dict.fromkeys(r.arm for r in fits)
    }
    return {
        "command": command,
        "landscapes": [result["seed"] for result in results],
        "settings": settings.plain(),
        "verdicts": verdicts(rows),
        "prevalence_top1": guess,
        "place_bayes_top1": _short(float(np.mean([result["place_bayes_top1"] for result in results]))),
        "ran_out": ran_out,
        "cpu_seconds": {
            name: round(float(np.mean([result["cpu_seconds"][name] for result in results])))
            for name in results[0]["cpu_seconds"]
        },
        "rows": rows,
    }


def earlier(path: Path | None, group: str, settings: Settings) -> dict[str, Any] | None:
    """The part of a saved file about a group; None where there is none.

    Raises:
        SpecError: when it has other settings than the study has now.
    """
    if path is None or not path.is_file():
        return None
    found: dict[str, Any] | None = json.loads(path.read_text()).get(group)
    if found is not None and found["settings"] != settings.plain():
        change = f"Run the {group}, too, or give another --save."
        raise SpecError("cannot keep what is there", f"{path} has other settings of {group}", change)
    return found


def saved(line: Mapping[str, Any]) -> str:
    """The line as a file that is easy to read: a row a line."""
    parts = []
    for group, part in line.items():
        if group not in GROUPS:
            parts.append(f" {json.dumps(group)}: {json.dumps(part)}")
            continue
        head = json.dumps({name: value for name, value in part.items() if name != "rows"}, indent=1)
        head = head[:-2].replace("\n", "\n ")
        rows = ",\n".join("   " + json.dumps(row) for row in part["rows"])
        parts.append(f' {json.dumps(group)}: {head},\n  "rows": [\n{rows}\n  ]\n }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the landscapes that are missing and prints the line; exit code 2 for what the user can mend."""
    given = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for group, models in GROUPS.items():
        parser.add_argument(f"--{group}", type=int, nargs="+", help=f"landscapes for {', '.join(models)}")
    parser.add_argument("--out", type=Path, help="default runs/landscapes, or runs/landscapes-quick")
    parser.add_argument("--save", type=Path, help="also write the line to this file")
    parser.add_argument("--quick", action="store_true", help="tiny: shows that it runs; numbers mean nothing")
    options = parser.parse_args(given)
    asked = {group: getattr(options, group) for group in GROUPS}
    asked = asked if any(asked.values()) else LANDSCAPES
    of = QUICK if options.quick else STUDY
    out = options.out or Path("runs") / ("landscapes-quick" if options.quick else "landscapes")
    command = " ".join(["python benchmarks/landscapes.py", *given])
    line: dict[str, Any] = {"benchmark": "landscapes"}
    try:
        old = {group: earlier(options.save, group, of[group]) for group in GROUPS if not asked[group]}
        for group, settings in of.items():
            results = [
                kept(out / f"{group}-{seed}.json", settings, partial(landscape, seed, group, settings, out))
                for seed in dict.fromkeys(asked[group] or ())
            ]
            part = study(results, settings, command) if results else old[group]
            line |= {group: part} if part else {}
        if options.save:
            options.save.parent.mkdir(parents=True, exist_ok=True)
            options.save.write_text(saved(line))
    except (ThreePartError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
