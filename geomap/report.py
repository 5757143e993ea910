"""What the commands print: the table of rendered maps and the list of species."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from geomap.entries import Score, SpeciesEntry

UNKNOWN = "–"


def map_table(folder: Path, items: Iterable[Mapping[str, Any]], kept: frozenset[str]) -> Table:
    """One row a map: file, cells, area above the threshold, score beside null score, meaning.

    Args:
        folder: Where the maps are.
        items: Their STAC Items.
        kept: Slugs of those that were there already.
    """
    table = Table(title=f"Maps in {folder}", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("file", "cells", "km² above threshold", "AUC (null)", "meaning"):
        table.add_column(heading, justify="left" if heading in ("file", "meaning") else "right", no_wrap=True)
    for item in items:
        said = item["properties"]
        name = said["geomap:threshold"]
        threshold = said["geomap:thresholds"][name]
        area = UNKNOWN if threshold["area_km2"] is None else f"{threshold['area_km2']:,.0f}"
        value = UNKNOWN if threshold["value"] is None else f"{name} {threshold['value']:.4f}"
        auc = said["geomap:scores"]["auc"]
        there = " (kept)" if item["id"] in kept else ""
        table.add_row(
            f"{item['id']}.tif{there}", f"{said['geomap:cells']:,}", f"{area} ({value})",
            beside(auc["value"], auc["null"]), said["geomap:meaning"],
        )  # fmt: skip
    return table


def species_table(entries: Iterable[SpeciesEntry], grids: Mapping[str, str]) -> Table:
    """One row a species, with its AUC beside that of the null model.

    Args:
        entries: The species.
        grids: Group -> names of the grids it can be rendered on.
    """
    table = Table(box=SIMPLE_HEAD)
    for heading in ("species", "common name", "group", "meaning", "records", "AUC (null)", "grids"):
        numbers = heading in ("records", "AUC (null)")
        table.add_column(heading, justify="right" if numbers else "left", no_wrap=heading != "grids")
    for entry in entries:
        auc = entry.scores["auc"]
        table.add_row(
            entry.scientific, entry.vernacular, entry.group, entry.meaning, f"{entry.records:,}",
            beside(*_or_none(auc)), grids[entry.group],
        )  # fmt: skip
    return table


def beside(value: float | None, null: float | None) -> str:
    """A score with that of the null model in brackets."""
    shown = (UNKNOWN if number is None else f"{number:.3f}" for number in (value, null))
    return "{} ({})".format(*shown)


def print_maps(
    folder: Path,
    items: Collection[Mapping[str, Any]],
    kept: frozenset[str],
    also: Mapping[str, tuple[str, ...]],
) -> None:
    """Print the table of maps on stdout, and which heads were used where several groups carry a species.

    Args:
        folder: Where the maps are.
        items: Their STAC Items.
        kept: Slugs of those that were there already.
        also: Slug -> groups that carry the species, too.
    """
    console = wide_console()
    console.print(map_table(folder, items, kept))
    for item in items:
        if item["id"] in also:
            said = item["properties"]
            used = f"{said['geomap:species']}: heads of {said['geomap:group']} ({said['geomap:meaning']})"
            console.print(f"{used}; {' and '.join(also[item['id']])} has it, too", soft_wrap=True)


def maps_told(
    folder: Path,
    items: Collection[Mapping[str, Any]],
    kept: frozenset[str],
    also: Mapping[str, tuple[str, ...]],
) -> dict[str, Any]:
    """The same as the table in plain values: a map's file and the properties of its STAC Item.

    Args:
        folder: Where the maps are.
        items: Their STAC Items.
        kept: Slugs of those that were there already.
        also: Slug -> groups that carry the species, too.
    """
    maps = [
        {
            "id": item["id"], "file": str(folder / f"{item['id']}.tif"), "kept": item["id"] in kept,
            "also_in": list(also.get(item["id"], ())), "properties": item["properties"],
        }
        for item in items
    ]  # fmt: skip
    return {"folder": str(folder), "maps": maps}


def print_json(told: Any) -> None:
    """Print plain values on stdout as JSON, without NaN, which JSON does not have."""
    typer.echo(json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False))


def wide_console() -> Console:
    """Stdout, as wide as the terminal; wide enough for a table where it is a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _or_none(score: Score) -> tuple[float | None, float | None]:
    value, null = (None if number != number else number for number in score)
    return value, null
