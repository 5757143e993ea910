"""Says what a pre-trained run is worth, beside the same model from scratch and beside chance.

    python -m train.evaluate RUN --task fgvc           probe and fine-tuning on all labels, each view and both
    python -m train.evaluate RUN --task linear-probe   logistic regression on frozen features
    python -m train.evaluate RUN --task finetune       encoders and head on labels; CSP: the prior of classes
    python -m train.evaluate RUN --task few-label      probe and fine-tuning at 0.25 to 100 % of the labels
    python -m train.evaluate RUN --task retrieval      ground to aerial and back, by instance and by class

Scores are taken on what the recipe held out, or on --data that the run never met. Learning rates, epochs and
ridges of both arms are chosen on validation rows. --json prints the report (schema: train.evaluation.report).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from torch import nn

from train.data.splits import RATIOS
from train.errors import SpecError, ThreePartError, TrainError
from train.evaluation.embed import pair_of
from train.evaluation.parts import Pool, open_pool
from train.evaluation.prior import PRIOR_TUNING
from train.evaluation.report import Record, document, table, to_json
from train.evaluation.tasks import Arms, Protocol, classification, place, retrieval, usable
from train.evaluation.tuning import TuningConfig
from train.pretrain import load_model, recipe_of
from train.recipe import build_model
from train.settings import override

TASKS: dict[str, dict[str, Any]] = {  # task -> what it changes of the protocol
    "fgvc": {},
    "linear-probe": {"methods": ("probe",)},
    "finetune": {"methods": ("finetune",)},
    "few-label": {"ratios": RATIOS},
    "retrieval": {},
}
ENOUGH_SEEDS = 3
WIDTH = 140  # of a table that goes into a file [characters]


def evaluate(
    model: nn.Module,
    card: dict[str, Any],
    pool: Pool,
    protocol: Protocol,
    task: str,
    matcher: nn.Module | None = None,
) -> dict[str, Any]:
    """Evaluates a model beside the same one from scratch.

    Args:
        model: Of a finished run.
        card: Of the same.
        pool: What to evaluate on.
        protocol: Every setting.
        task: A key of `TASKS`.
        matcher: Puts the short lists of a retrieval in order.

    Returns:
        The report; see train.evaluation.report.

    Raises:
        TrainError: model, data and task do not fit.
    """
    started = time.monotonic()
    pool = usable(pool, model)
    arms = Arms(place(model), lambda seed: place(fresh_model(card, seed)), matcher)
    records = list(told((retrieval if task == "retrieval" else classification)(arms, pool, protocol)))
    return document(
        records,
        task=task,
        objective=card["objective"],
        data=described(pool),
        protocol=asdict(protocol),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        seconds=round(time.monotonic() - started, 1),
    )


def fresh_model(card: dict[str, Any], seed: int) -> nn.Module:
    """The model as pre-training began with it: the recipe's own backbone weights, else random ones.

    Args:
        card: Of the run.
        seed: Of what is random.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(recipe_of(card)).eval()


def matcher_of(run: Path) -> nn.Module:
    """The model of a run that can match pairs.

    Raises:
        SpecError: for a run of another objective.
    """
    model, card = load_model(run)
    if not hasattr(model, "match"):
        found = f"{run} is a run of {card['objective']}"
        raise SpecError("cannot re-rank", found, "Give a run of birdsat-cvm to --rerank.")
    return place(model)


def described(pool: Pool) -> dict[str, Any]:
    """What was evaluated on."""
    return {
        "observations": len(pool.data),
        "fresh": int(pool.fresh.sum()),
        "labelled": int((pool.labels() >= 0).sum()),
        "classes": len(pool.data.classes),
        "digest": pool.data.digest,
        "dropped": dict(pool.data.dropped),
    }


def told(records: Iterator[Record]) -> Iterator[Record]:
    """Passes records on; on a terminal it says each."""
    console = Console(stderr=True)
    for record in records:
        if console.is_terminal:
            console.print(line(record), style="dim", highlight=False, markup=False)
        yield record


def line(record: Record) -> str:
    """One record in a line."""
    about = " ".join(f"{value:g}" if isinstance(value, float) else value for value in record.about.values())
    scores = " ".join(f"{name} {value:.3f}" for name, value in record.scores.items())
    return f"seed {record.seed} {record.arm} {about}: {scores}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SpecError("cannot evaluate", message, "python -m train.evaluate --help lists what it takes.")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = _Parser(
        prog="python -m train.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    made.add_argument("--task", required=True, choices=list(TASKS), help="what is measured, as above")
    made.add_argument(
        "--data", type=Path, help="observations that the run never met; default: those it held out"
    )
    made.add_argument("--kind", default="", help="layout of --data; default: that of the run")
    made.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="option of the loader of --data"
    )
    made.add_argument(
        "--split",
        choices=("random", "blocks", "both"),
        help="how test rows are chosen; default: both, where the run allows it",
    )
    made.add_argument("--block", type=float, default=1.0, help="side of the blocks [degrees]; default 1")
    made.add_argument(
        "--buffer", type=float, default=0.0, help="kilometres between training and test; default 0"
    )
    made.add_argument("--seeds", type=int, default=ENOUGH_SEEDS, help="repetitions; default 3")
    made.add_argument("--percent", help="shares of the labels for few-label, such as 1,10,100")
    made.add_argument("--methods", help="probe,finetune or one of them, for fgvc and few-label")
    made.add_argument("--rates", help="learning rates to choose from, such as 1e-4,1e-3")
    made.add_argument("--rounds", type=int, help="most epochs of fine-tuning")
    made.add_argument("--batch", type=int, default=256, help="observations of an encoder call; default 256")
    made.add_argument("--workers", type=int, default=0, help="processes that load data")
    made.add_argument(
        "--gallery", type=int, default=0, help="rows that each seed draws for a retrieval; default all"
    )
    made.add_argument(
        "--rerank", type=Path, metavar="RUN", help="run of birdsat-cvm that puts short lists in order"
    )
    made.add_argument("--first", type=int, default=50, help="length of the short lists; default 50")
    made.add_argument("--json", action="store_true", help="print the whole report as JSON")
    return made


def protocol_of(options: argparse.Namespace, splits: tuple[Any, ...], places: bool) -> Protocol:
    """The protocol that the options ask for.

    Args:
        options: Of `parser`.
        splits: Kinds of split that the observations allow.
        places: Whether fine-tuning fits a prior of places, which has defaults of its own.

    Raises:
        SpecError: for numbers that make no sense, or a split that is not to be had.
    """
    asked = splits if options.split in (None, "both") else (options.split,)
    if options.task != "retrieval" and not set(asked) <= set(splits):
        found = "a run that held out whole blocks, so nothing fresh lies among what it has seen"
        raise SpecError("cannot split at random", found, "Use --split blocks, or give other --data.")
    default = PRIOR_TUNING if places else TuningConfig()
    changes: dict[str, Any] = {"workers": options.workers}
    changes |= {"learning_rates": _numbers(options.rates, "--rates")} if options.rates else {}
    changes |= {} if options.rounds is None else {"rounds": options.rounds}
    made = Protocol(
        splits=asked,
        seeds=options.seeds,
        block=options.block,
        buffer_km=options.buffer,
        batch=options.batch,
        workers=options.workers,
        gallery=options.gallery,
        short_list=options.first,
        tuning=replace(default, **changes),
        **{"ratios": (1.0,), **TASKS[options.task]},
    )
    if options.percent:
        made = replace(made, ratios=tuple(p / 100.0 for p in _numbers(options.percent, "--percent")))
    if options.methods:
        methods = tuple(options.methods.split(","))
        if not set(methods) <= {"probe", "finetune"}:
            raise SpecError(
                "cannot evaluate", f"--methods {options.methods}", "Give probe, finetune or both."
            )
        made = replace(made, methods=methods)
    return made


def _numbers(text: str, name: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise SpecError("cannot evaluate", f"{name} {text}", "Give numbers with commas between.") from None


def command(options: argparse.Namespace) -> dict[str, Any]:
    """The report that the options ask for.

    Raises:
        ThreePartError: for whatever the user can mend.
    """
    model, card = load_model(options.run)
    places = "lonlat" in pair_of(model)
    pool = open_pool(card, options.data, options.kind, **override({}, options.set))
    protocol = protocol_of(options, pool.splits, places)
    matcher = None if options.rerank is None else matcher_of(options.rerank)
    return {"run": str(options.run), **evaluate(model, card, pool, protocol, options.task, matcher)}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 2 for what the user can mend, 130 when stopped."""
    console = Console(stderr=True)
    try:
        options = parser().parse_args(argv)
        if options.seeds < ENOUGH_SEEDS:
            few = f"{options.seeds} of the {ENOUGH_SEEDS} seeds that a difference needs; give --seeds"
            console.print(f"warning: {few} {ENOUGH_SEEDS} or more before you rely on it", highlight=False)
        report = command(options)
        with contextlib.suppress(BrokenPipeError):
            if options.json:
                print(to_json(report))
            else:
                wide = None if sys.stdout.isatty() else WIDTH
                Console(width=wide).print(table(report))
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        said = (str(error) or "no memory left").splitlines()[0]
        return refuse(TrainError("cannot hold a batch in memory", said, "Give a smaller --batch."), console)
    except (ThreePartError, OSError) as error:  # an OSError names the file and what is wrong with it
        return refuse(error, console)
    return 0


def refuse(error: Exception, console: Console) -> int:
    """Says what cannot be done; 2."""
    console.print(f"{error}", highlight=False, markup=False, soft_wrap=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
