"""The stages of a render: which species, on which cells, what is left to do; scores, maps, Collection."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console

from geomap.catalog import Catalog
from geomap.entries import SpeciesEntry
from geomap.errors import HeadsError
from geomap.grid import Grid
from geomap.mapfile import Batch, draw_missing, finished, forget, map_tags, map_task, score_task
from geomap.outputs import require_room, workplace, write_collection
from geomap.scores import COLUMNS
from geomap.target import FieldOptions, Target, find_target
from geomap.workers import Bar, Workers, progress_bar, workers_of

UNIT_BYTES = 64 * 2**20  # scores of one unit that a worker holds
STORE_BYTES = 2 * 2**30  # scores of one batch on the disk


@dataclass(frozen=True)
class Request:
    """Everything that `geomap.render` is asked for.

    Attributes:
        species: Names, or "all".
        out: Folder of the maps; they go to OUT/GRID.
        heads: Group of the bundle or folder of heads; all groups of the bundle if None.
        grid: The cells; those of the field if None.
        where: The field, or what it is made from.
        workers: Processes.
        overwrite: Replace existing maps.
        png: Draw previews, too.
    """

    species: tuple[str, ...]
    out: Path
    heads: str | None
    grid: Grid | None
    where: FieldOptions
    workers: int = 1
    overwrite: bool = False
    png: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a render left.

    Attributes:
        folder: Folder of the maps.
        items: Items of the species asked for, by slug.
        kept: Slugs of the maps that were there already.
        also: Slug -> further groups that carry the species, whose heads were not used.
    """

    folder: Path
    items: dict[str, dict[str, Any]]
    kept: frozenset[str]
    also: dict[str, tuple[str, ...]]


def render_maps(request: Request, console: Console | None = None) -> Outcome:
    """Render one map per species.

    Args:
        request: What to render.
        console: Where progress is shown; stderr if None.

    Returns:
        What there is now.

    Raises:
        GeomapError: See `geomap.catalog`, `geomap.target`, `geomap.mapcheck`, `geomap.outputs`.
    """
    forget()
    console = console or Console(stderr=True)
    catalog = Catalog.open(request.heads)
    entries = choose(catalog, request.species)
    with progress_bar(console) as bar:
        target = find_target(request.grid, request.where, catalog, bar.encoding)
        require_encoders(catalog, entries, target)
        if target.gap:
            console.print(f"Warning: {target.gap}.", soft_wrap=True, highlight=False)
        with workplace(request.out, target.grid.name) as (folder, scratch):
            done, left = sort_out(catalog, entries, target, folder, request.overwrite)
            require_room(folder, target, len(left), min(len(left), batch_size(target)))
            if request.png:
                done = {slug: draw_missing(folder, scratch, item) for slug, item in done.items()}
            made: dict[str, dict[str, Any]] = {}
            with workers_of(request.workers) as workers:
                for batch in batches(catalog, left, target, folder, scratch, request.png):
                    made |= render_batch(batch, workers, bar)
            write_collection(folder, scratch, target.grid)
    items = {entry.slug: (done | made)[entry.slug] for entry in entries}
    return Outcome(folder, items, frozenset(done), passed_over(catalog, entries))


def choose(catalog: Catalog, species: tuple[str, ...]) -> list[SpeciesEntry]:
    """The entries asked for, each once; "all" stands for every species, by its best entry."""
    every = [name for name in species if name.strip().lower() == "all"]
    entries = [catalog.find_entry(name) for name in species if name not in every]
    entries += catalog.best_entries() if every else []
    return list({entry.slug: entry for entry in entries}.values())


def passed_over(catalog: Catalog, entries: list[SpeciesEntry]) -> dict[str, tuple[str, ...]]:
    """Slug -> groups that carry a species beside the one whose heads are used."""
    also = {}
    for entry in entries:
        others = [match.group for match in catalog.matches(entry.scientific) if match.group != entry.group]
        if others:
            also[entry.slug] = tuple(others)
    return also


def require_encoders(catalog: Catalog, entries: list[SpeciesEntry], target: Target) -> None:
    """Refuse heads of other encoders than the field's.

    Raises:
        HeadsError: Some group was fitted on other encoders.
    """
    for group in dict.fromkeys(entry.group for entry in entries):
        heads = catalog.heads(group)
        heads.require_encoder(target.field.encoder_hash, f"the field {target.field.path.name}")
        if heads.adapter.dim != target.field.dim:
            what = f"cannot use heads {group} with the field {target.field.path.name}"
            found = f"embeddings of {target.field.dim} features, heads for {heads.adapter.dim}"
            raise HeadsError(what, found, "fit the heads again")


def sort_out(
    catalog: Catalog, entries: list[SpeciesEntry], target: Target, folder: Path, overwrite: bool
) -> tuple[dict[str, dict[str, Any]], list[SpeciesEntry]]:
    """Items of the maps that are there already, by slug, and the entries that are left.

    Raises:
        OutputError: Something else is there under the name of a map.
    """
    done = {}
    for entry in () if overwrite else entries:
        item = finished(folder, entry, map_tags(entry, catalog.heads(entry.group), target))
        if item is not None:
            done[entry.slug] = item
    return done, [entry for entry in entries if entry.slug not in done]


def batch_size(target: Target) -> int:
    """How many species are scored together, so that a unit in memory and scores on the disk stay small."""
    height, width = target.grid.shape
    in_unit = UNIT_BYTES // (2 * min(height * width, target.grid.unit**2))
    on_disk = STORE_BYTES // (2 * height * width)
    return max(COLUMNS, min(in_unit, on_disk) // COLUMNS * COLUMNS)


def batches(
    catalog: Catalog, entries: list[SpeciesEntry], target: Target, folder: Path, scratch: Path, png: bool
) -> Iterator[Batch]:
    """The species in batches of one group each, every batch with an empty scratch folder of its own."""
    size = batch_size(target)
    for group, members in groupby(sorted(entries, key=lambda e: e.group), key=lambda e: e.group):
        rest = list(members)
        for first in range(0, len(rest), size):
            place = scratch / f"{group}-{first}"
            place.mkdir()
            part = tuple(rest[first : first + size])
            yield Batch(target, catalog.folders[group].resolve(), part, folder, place, png)


def render_batch(batch: Batch, workers: Workers, bar: Bar) -> dict[str, dict[str, Any]]:
    """Score a batch on all units, then make its maps; returns their Items by slug."""
    payload = pickle.dumps(batch)
    count = len(batch.entries)
    height, width = batch.target.grid.shape
    bar.start(f"scoring {count} species", height * width)
    for cells in workers(partial(score_task, payload), range(len(batch.target.grid.units()))):
        bar.advance(cells)
    bar.start(f"writing {count} maps", count)
    items = {}
    for item in workers(partial(map_task, payload), range(count)):
        items[str(item["id"])] = item
        bar.advance(1)
    batch.drop()
    return items
