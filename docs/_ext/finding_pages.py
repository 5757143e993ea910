"""What docs/figures/make.py found, as sentences and tables of the concept pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from md_text import table

NUMBERS = Path(__file__).parents[1] / "figures" / "numbers.json"
RULES = {
    "mtp": "no training presence falls below it",
    "lpt5": "5 % of the held-out presences fall below it",
    "p10": "10 % of the training presences fall below it",
    "maxsss": "sensitivity + specificity on held-out sites is largest",
}


@cache
def numbers() -> dict[str, Any]:
    """Everything that was found, by figure."""
    found: dict[str, Any] = json.loads(NUMBERS.read_text(encoding="utf-8"))
    return found


def percent(share: float) -> str:
    """A share as per cent: whole, or to one decimal below ten."""
    return f"{100 * share:.0f} %" if share >= 0.0995 or share == 0 else f"{100 * share:.1f} %"


def lines(*sentences: str) -> str:
    """A list of sentences."""
    return "\n".join(f"- {sentence}" for sentence in sentences) + "\n"


def probability() -> str:
    """How near to what surveys met probabilities come."""
    m = numbers()["meaning"]
    return lines(
        f"{m['routes']} routes, {m['species']} species, {m['trials']:,} runs times species; "
        "folds of 5-degree "
        "blocks, each predicted by a model that saw none of its block.",
        "Mean distance from the diagonal, weighted by runs (expected calibration error): "
        f"{m['heads_calibration_error']:.4f} for the heads, {m['null_calibration_error']:.4f} "
        "for coordinates "
        "alone. Most runs times species are absences far outside a range, so that this number is small for "
        "any sensible model; the curve says more than it.",
    )


def suitability() -> str:
    """What presence-only suitability says of the same survey."""
    m = numbers()["meaning"]
    return lines(
        f"{m['suitability_species']} species of the world-birds group, fitted on recordings "
        "alone, at the same "
        f"routes: suitability is {m['suitability_mean']:.2f} on average, and "
        f"{m['met_mean']:.2f} of the runs met "
        "the species.",
        f"It still ranks: over the {m['suitability_auc_species']} of them met on 20 routes or "
        "more the median "
        f"AUC on the survey is {m['suitability_auc_median']:.2f}; for "
        f"{m['suitability_auc_below_half']} it is "
        "below one half.",
    )


def effort() -> str:
    """How records are spread."""
    m = numbers()["background"]
    return lines(
        f"{m['plant_records']:,} records of California plants that passed the checks lie in "
        f"{m['plant_cells']:,} cells of 1 km, {percent(m['plant_cells_share_of_land'])} of the land.",
        f"The busiest tenth of these cells holds {percent(m['share_in_busiest_tenth'])} of the records; the "
        f"busiest cell alone {m['busiest_cell']}.",
    )


def backgrounds() -> str:
    """AUC on surveys by the background of the fit."""
    m = numbers()["background"]
    names = {"0": "cells with records alone", "0.5": "half and half, as shipped", "0.95": "95 % random land"}
    rows = [[names[share], f"{m['auc_mean'][share]:.3f}", f"{m['auc_median'][share]:.3f}"] for share in names]
    said = lines(
        f"{m['species']} species, fitted on recordings from all over the world, tested on "
        f"{m['routes']} routes "
        "of the Breeding Bird Survey, whose absences are real.",
        f"Half and half is better than 95 % random land for {m['half_better_than_random']} "
        "species, and better "
        f"than cells with records alone for {m['half_better_than_target']}.",
    )
    return table(("background", "mean AUC on surveys", "median"), rows) + "\n" + said


def thresholds() -> str:
    """The thresholds of the figure."""
    m = numbers()["thresholds"]
    rows = [
        [
            f"`{name}`", rule, f"{m[name]['value']:.4f}", f"{m[name]['area_km2']:,.0f}",
            percent(m[name]["area_km2"] / m["land_km2"]), percent(m[name]["omission"]),
        ]
        for name, rule in RULES.items()
    ]  # fmt: skip
    head = ("threshold", "chosen so that", "value", "area [km²]", "of the land", "held-out presences lost")
    return table(head, rows)


def null() -> str:
    """Scores beside those of the null model, by group."""
    rows = [
        [
            name, str(m["species"]), f"{m['auc_median']:.3f} / {m['null_auc_median']:.3f}",
            *(percent(m[f"{score}_better"]) for score in ("auc", "ap", "brier", "boyce")),
        ]
        for name, m in numbers()["null"].items()
    ]  # fmt: skip
    head = (
        "group", "species", "median AUC, heads / null", "better in AUC", "in average precision", "in Brier",
        "in Boyce",
    )  # fmt: skip
    return table(head, rows)


def worst() -> str:
    """The species that the null model beats by most, by group."""
    rows = [
        [
            name, str(m["auc_worse_count"]), str(m["auc_below_half"]), m["worst"], str(m["worst_sites"]),
            f"{m['worst_auc']:.2f} / {m['worst_null_auc']:.2f}",
        ]
        for name, m in numbers()["null"].items()
    ]  # fmt: skip
    head = (
        "group", "null better in AUC", "AUC below one half", "largest loss, or smallest gain",
        "sites with it", "its AUC, heads / null",
    )  # fmt: skip
    return table(head, rows)


def resolution() -> str:
    """Effective resolution of three kinds of maps."""
    found = numbers()["resolution"]
    rows = [
        [
            label, f"{m['cell_km']:g} km", str(m["species"]),
            f"{m['effective_km_median']:.0f} km ({m['effective_km_10']:.0f} to {m['effective_km_90']:.0f})",
            percent(1 - m["kept_at_ten_cells"]),
        ]
        for label, m in found.items() if isinstance(m, dict)
    ]  # fmt: skip
    head = (
        "maps", "cell", "species",
        f"blocks whose means keep {percent(found['kept'])} of the variance, median (10 to 90 % of species)",
        "variance lost in blocks of ten cells",
    )  # fmt: skip
    return table(head, rows)


def novelty() -> str:
    """Places where nobody surveyed."""
    m = numbers()["novelty"]
    rows = [
        [
            place, str(m[place]["cells"]), f"{m[place]['wrentit_max']:.2f}",
            *(percent(m[place][f"novel_{part}"]) for part in ("looks", "all")),
        ]
        for place in ("Hawaii", "northern Quebec", "Hispaniola")
    ]  # fmt: skip
    head = (
        "place", "cells looked at", "highest probability of the Wrentit", "beyond the limit by looks alone",
        "by looks and place",
    )  # fmt: skip
    said = lines(
        f"The Wrentit's P10 threshold on this grid is {m['wrentit_p10']:.2f}.",
        f"{percent(m['share_novel_all'])} of the {m['cells']:,} cells looked at (every third "
        "in each direction) "
        f"lie beyond the limit of the {m['sites']} routes, {percent(m['share_novel_looks'])} by looks alone.",
    )
    return table(head, rows) + "\n" + said


SUBJECTS: dict[str, Callable[[], str]] = {
    "probability": probability,
    "suitability": suitability,
    "effort": effort,
    "backgrounds": backgrounds,
    "thresholds": thresholds,
    "null": null,
    "worst": worst,
    "resolution": resolution,
    "novelty": novelty,
}


def text(subject: str) -> str:
    """What was found about a subject.

    Raises:
        KeyError: There is no such subject.
    """
    return SUBJECTS[subject]()
