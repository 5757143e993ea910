"""What a library offers: groups of heads on the fields that fit them, joined with the files of maps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from geomap.catalog import Catalog
from geomap.entries import SpeciesEntry
from geomap.errors import FieldError, GeomapError
from tiles.abouts import live_about
from tiles.blockfile import Block
from tiles.index import Index, Record, fineness
from tiles.live import Filled, LiveGroup, LiveMap, within
from tiles.lru import Lru
from tiles.maps import SpeciesMap, Steps
from tiles.shelf import Listed
from tiles.stored import StoredMap, read_layout

logger = logging.getLogger(__name__)
Caches = tuple[Lru[Filled], Lru[tuple[Steps, ...]], Lru[Block]]


def live_groups(
    catalog: Catalog, folder: Path | None, caches: Caches
) -> tuple[tuple[LiveGroup, ...], Mapping[str, GeomapError]]:
    """Groups on the fields that fit them and lie in their area, and what is wrong with other fields.

    Args:
        catalog: Heads and fields.
        folder: For the adapter's output; None where it is kept in memory.
        caches: Of species, their overviews and blocks, shared by all groups.

    Returns:
        The groups, the finest grid first, and an error for the name of each grid whose field cannot be used.
    """
    fields, broken = {}, {}
    for name in sorted(catalog.field_paths, key=fineness):
        try:
            fields[name] = catalog.field(name)
        except FieldError as error:
            logger.error("the field of %s cannot be used: %s", name, error)
            broken[name] = error
    made = []
    for group in catalog.groups:
        heads = catalog.heads(group)
        home = fields.get(str(heads.card.get("grid") or ""))
        for each in fields.values():
            if each.encoder_hash == heads.encoder_hash and within(each, home):
                made.append(LiveGroup(heads, each, folder, *caches))
    return tuple(made), broken


def live_records(catalog: Catalog, groups: Iterable[LiveGroup]) -> tuple[Record, ...]:
    """A record of every species of every group."""
    entries: dict[str, list[SpeciesEntry]] = {}
    for entry in catalog.entries():
        entries.setdefault(entry.group, []).append(entry)
    records = []
    for group in groups:
        for entry in entries[_name_of(catalog, group)]:
            chosen = LiveMap(live_about(entry, group), group, entry.index)
            records.append(Record(chosen.about, _given(chosen), (group, entry.index)))
    return tuple(records)


def stored_record(listed: Listed, kept: Lru[tuple[Steps, ...]]) -> Record:
    """The record of a file, which is opened when its map is asked for."""
    return Record(listed.about, lru_cache(maxsize=1)(_opener(listed, kept)), listed=listed)


def joined(stored: Iterable[Record], live: Iterable[Record]) -> Index:
    """An index of all; a file goes before the live map of the same species, grid and group."""
    records: dict[tuple[str, str, str], Record] = {}
    for record in stored:
        records.setdefault((record.about.id, record.about.grid, record.about.group), record)
    for record in live:
        key = record.about.id, record.about.grid, record.about.group
        there = records.setdefault(key, record)
        if record.about.home and there is not record:
            records[key] = replace(there, about=replace(there.about, home=True))
    return Index(tuple(records.values()))


def _given(chosen: SpeciesMap) -> Callable[[], SpeciesMap]:
    return lambda: chosen


def _opener(listed: Listed, kept: Lru[tuple[Steps, ...]]) -> Callable[[], SpeciesMap]:
    def opened() -> SpeciesMap:
        layout = read_layout(listed.file, listed.about.bands[0].name)
        return StoredMap(listed.about, listed.file, layout, kept)

    return opened


def _name_of(catalog: Catalog, group: LiveGroup) -> str:
    """The name under which the catalogue has a group."""
    return next(name for name in catalog.groups if catalog.heads(name) is group.heads)
