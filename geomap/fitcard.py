"""What fitted heads say about themselves: the card beside them, a table and JSON of their scores."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from geomap.background import BACKGROUND
from geomap.fitrequest import FitRequest
from geomap.fitting import MIN_TEST_PRESENCES
from geomap.gather import Gathered
from geomap.heads import SpeciesHeads
from geomap.pointsource import PointSource
from geomap.records import Records

if TYPE_CHECKING:
    from train.species import FitConfig

SURVEY_SCORES = (
    "visits of the held-out blocks: detections are positives, the other visits of a location negatives"
)
SCORES = {"auc": "ROC-AUC", "ap": "average precision", "brier": "Brier", "boyce": "Boyce"}


def card_of(
    request: FitRequest,
    tables: list[Records],
    source: PointSource,
    gathered: Gathered,
    degrees: float,
    config: FitConfig,
) -> dict[str, Any]:
    """What the heads say about themselves, in plain values."""
    surveyed = gathered.sites.surveyed
    return {
        "version": version("geomap"),
        "data": {
            "sources": [table.source for table in tables],
            "credit": request.credit,
            "licence": request.licence,
            "period": list(request.period or ()) or period_of(tables),
            "rows": sum(table.rows_in for table in tables),
            "dropped": dict(gathered.dropped),
            "notes": {note: count for table in tables for note, count in table.notes.items()},
        },
        "grid": None if source.field is None else source.field.grid.name,
        "imagery": source.field.imagery_id
        if source.field is not None
        else source.imagery.id
        if source.imagery
        else None,
        "sites": {"surveyed": int(surveyed.sum()), "records_and_background": int((~surveyed).sum())},
        "dropped_species": dict(gathered.rare),
        "min_records": request.min_records,
        "cross_validation": {
            "folds": request.folds,
            "block_degrees": degrees,
            "seed": request.seed,
            "scored_on": SURVEY_SCORES if surveyed.any() else BACKGROUND,
            "min_test_presences": MIN_TEST_PRESENCES,
            "null_model": "extremely randomised trees on x, y, z of the coordinates, same folds",
        },
        "areas": "not computed: fitted on imagery without a field"
        if source.field is None
        else source.field.grid.name,
        "fit": asdict(config),
    }


def period_of(tables: Sequence[Records]) -> list[str] | None:
    """First and last day (ISO 8601) of the records that carry an eventDate; None where none does."""
    days = [table.table["eventDate"].dropna() for table in tables if "eventDate" in table.table]
    known = sorted(day[:10] for column in days for day in column if re.match(r"\d{4}-\d\d-\d\d", day))
    return [known[0], known[-1]] if known else None


def told(heads: SpeciesHeads, folder: Path, seconds: float) -> dict[str, Any]:
    """The same as the table in plain values; a mean is None where no species has the score."""
    data = heads.card["data"]
    return {
        "heads": str(folder), "name": heads.name, "species": len(heads), "meaning": heads.meaning,
        "scores": {name: mean_score(heads, name) for name in SCORES},
        "rows": data["rows"], "dropped": data["dropped"], "dropped_species": heads.card["dropped_species"],
        "seconds": round(seconds, 3),
    }  # fmt: skip


def mean_score(heads: SpeciesHeads, name: str) -> dict[str, float | int | None]:
    """Mean of a score over the species that have it, that of the null model, and their number."""
    known = heads.species[[name, f"null_{name}"]].dropna()
    value, null = (float(mean) if len(known) else None for mean in known.mean())
    return {"mean": value, "null": null, "species": len(known)}


def summary(heads: SpeciesHeads) -> Table:
    """A short table of mean scores beside the null model's, and of what was left out."""
    degrees = heads.card["cross_validation"]["block_degrees"]
    table = Table(title=f"{heads.name}: means over species, held-out blocks of {degrees:g} degrees")
    for column in ("score", "heads", "coordinates only", "species"):
        table.add_column(column)
    for name, title in SCORES.items():
        score = mean_score(heads, name)
        means = ["-" if mean is None else f"{mean:.4f}" for mean in (score["mean"], score["null"])]
        table.add_row(title, *means, str(score["species"]))
    dropped = heads.card["data"]["dropped"]
    lost = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "none"
    table.caption = f"rows dropped: {lost}\nspecies with too few sites: {len(heads.card['dropped_species'])}"
    return table
