"""Results over seeds: mean, deviation and paired differences, as JSON and as a table.

The JSON is one object, its keys stable under `format`:

| key | meaning |
|---|---|
| format | "train.evaluate/1" |
| task, run, objective | what was evaluated |
| data | observations, fresh (never trained on), classes, digest, dropped (reason -> rows) |
| protocol | every setting that the numbers depend on |
| records | one for each arm, seed and setting: about, arm, seed, scores, chosen (on validation rows) |
| summary | for each arm, setting and score: mean, sd, n |
| differences | for each setting and score, pre-trained minus from scratch in the same seed: mean, sd, n |
| seconds | wall time |

Settings (`about`) are split, method, views and percent of labels, or method, level and views of a retrieval.
sd is that of a sample (n - 1) and null for one value; a value that does not exist is null. The seed sets
split, label subset, head and the start of the arm from scratch; the pre-trained weights are those of one run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

FORMAT = "train.evaluate/1"
PRETRAINED, SCRATCH, CHANCE = "pretrained", "scratch", "chance"
PERCENT = ("top1", "class_mean", "recall@1", "recall@5", "recall@10")  # shown as such in tables
SHOWN = ("top1", "log_loss", "recall@1", "recall@5", "recall@10", "median_rank")
UNKNOWN = "–"
About = dict[str, str | float]


@dataclass(frozen=True)
class Record:
    """One result.

    Attributes:
        about: The setting that is compared across arms.
        arm: `pretrained`, `scratch`, or `chance` for what needs no encoder.
        seed: Of split, subset and fit.
        scores: Name -> value.
        chosen: What was chosen on validation rows.
    """

    about: About
    arm: str
    seed: int
    scores: dict[str, float]
    chosen: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """Values over seeds."""

    mean: float
    sd: float | None
    n: int


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and sample deviation of the values that exist; None without any."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return None
    return Spread(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None, len(known))


def summary(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Mean, sd and n of each arm, setting and score."""
    values: dict[tuple[Any, ...], list[float]] = {}
    for record in records:
        for name, value in record.scores.items():
            values.setdefault((_key(record.about), record.arm, name), []).append(value)
    rows = []
    for (about, arm, name), found in values.items():
        over = spread(found)
        if over is not None:
            rows.append({"about": dict(about), "arm": arm, "score": name, **asdict(over)})
    return rows


def differences(
    records: Iterable[Record], arm: str = PRETRAINED, than: str = SCRATCH
) -> list[dict[str, Any]]:
    """Mean, sd and n of `arm` minus `than` in the same setting and seed."""
    by: dict[tuple[Any, ...], dict[str, float]] = {}
    for record in records:
        for name, value in record.scores.items():
            by.setdefault((_key(record.about), name, record.seed), {})[record.arm] = value
    values: dict[tuple[Any, ...], list[float]] = {}
    for (about, name, _), found in by.items():
        if arm in found and than in found:
            values.setdefault((about, name), []).append(found[arm] - found[than])
    rows = []
    for (about, name), each in values.items():
        over = spread(each)
        if over is not None:
            rows.append({"about": dict(about), "score": name, "arm": arm, "than": than, **asdict(over)})
    return rows


def _key(about: Mapping[str, str | float]) -> tuple[tuple[str, str | float], ...]:
    return tuple(about.items())


def document(records: Sequence[Record], **about: Any) -> dict[str, Any]:
    """The report as plain values; see the module for the schema.

    Args:
        records: All results.
        about: task, run, objective, data, protocol, seconds.
    """
    return {
        "format": FORMAT,
        **about,
        "records": [asdict(record) for record in records],
        "summary": summary(records),
        "differences": differences(records),
    }


def to_json(report: Mapping[str, Any]) -> str:
    """The report as JSON text; values that are not finite become null."""
    return json.dumps(_plain(report), indent=2, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(report: Mapping[str, Any]) -> Table:
    """One row for each setting and score: both arms, their paired difference over n seeds, the chance level.

    Args:
        report: Of `document`.
    """
    title = f"{report['task']} of {report['run']}, mean ± sd over seeds"
    out = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    arms = {(_key(r["about"]), r["score"], r["arm"]): r for r in report["summary"]}
    gained = {(_key(r["about"]), r["score"]): r for r in report["differences"]}
    for heading in ("setting", "score", PRETRAINED, SCRATCH, "difference", "n", CHANCE):
        left = heading in ("setting", "score")
        out.add_column(heading, justify="left" if left else "right", no_wrap=heading != "setting")
    before = None
    for about, score in dict.fromkeys((about, score) for about, score, arm in arms if arm != CHANCE):
        if score not in SHOWN:
            continue
        gain = gained.get((about, score))
        out.add_row(
            "" if about == before else setting_of(dict(about)), score,
            *(said(arms.get((about, score, arm)), score) for arm in (PRETRAINED, SCRATCH)),
            said(gain, score, signed=True), str(gain["n"]) if gain else UNKNOWN,
            said(chance_of(arms, dict(about), score), score),
        )  # fmt: skip
        before = about
    return out


def setting_of(about: About) -> str:
    """A setting in words."""
    units = {"percent": "{:g} % of labels", "gallery": "gallery of {:g}"}
    return ", ".join(
        units[name].format(value) if name in units else str(value) for name, value in about.items()
    )


def chance_of(arms: Mapping[Any, Any], about: About, score: str) -> Any:
    """What guessing gives in a setting: that of the same retrieval, or of the same labels."""
    same = arms.get((_key(about), score, CHANCE))
    labels: About = {name: about[name] for name in ("split", "percent") if name in about}
    return same or arms.get((_key(labels), score, CHANCE))


def said(row: Mapping[str, Any] | None, score: str, signed: bool = False) -> str:
    """A mean with its deviation, shares in percent."""
    if row is None:
        return UNKNOWN
    factor, digits = (100.0, 1) if score in PERCENT else (1.0, 1 if score == "median_rank" else 3)
    sign = "+" if signed else ""
    mean = f"{row['mean'] * factor:{sign}.{digits}f}"
    return mean if row["sd"] is None else f"{mean} ± {row['sd'] * factor:.{digits}f}"
