"""Which maps there are at one moment, and which one is meant by a species, a grid and a group."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from geomap import names
from geomap.errors import GridError, HeadsError, NameNotFoundError
from tiles.live import LiveGroup
from tiles.maps import About, SpeciesMap
from tiles.shelf import Listed

GRIDS = ("california", "north-america", "global")  # the finest first


@dataclass(frozen=True, eq=False)
class Record:
    """A map that can be shown, and how it is opened."""

    about: About
    open: Callable[[], SpeciesMap]
    live: tuple[LiveGroup, int] | None = None
    listed: Listed | None = None


@dataclass(frozen=True, eq=False)
class Index:
    """What there is at one moment."""

    records: tuple[Record, ...]
    chosen: dict[tuple[str, str | None, str | None], Record] = field(default_factory=dict)

    @cached_property
    def families(self) -> dict[str, list[Record]]:
        """Today's name, normalised -> the maps of the species, the best first."""
        families: dict[str, list[Record]] = {}
        for record in self.records:
            families.setdefault(_family(record.about), []).append(record)
        return {key: sorted(members, key=_rank) for key, members in families.items()}

    @cached_property
    def keys(self) -> dict[str, str]:
        """Every id and name, normalised -> key of the family."""
        keys: dict[str, str] = {}
        for key, members in self.families.items():
            for about in (record.about for record in members):
                for name in (about.scientific, *about.synonyms, about.vernacular):
                    keys.setdefault(names.normalise(name), key)
        keys |= {record.about.id: key for key, members in self.families.items() for record in members}
        return keys

    def find(self, species: str, grid: str | None, group: str | None) -> Record:
        """See `Library.find`."""
        asked = species, grid, group
        if asked in self.chosen:
            return self.chosen[asked]
        record = self._choose(*asked)
        if species in self.keys:  # other spellings are looked up each time: there is no end of them
            self.chosen[asked] = record
        return record

    def _choose(self, species: str, grid: str | None, group: str | None) -> Record:
        key = self.keys.get(species) or self.keys.get(names.normalise(species))
        if key is None:
            near = difflib.get_close_matches(species, self.keys, n=5)
            advice = f"Nearest: {', '.join(near)}." if near else "GET /species lists what there is."
            raise NameNotFoundError("cannot show the map", f"no map of {species!r}", advice)
        members = self.families[key]
        if group is not None:
            members = [record for record in members if record.about.group == group]
            if not members:
                groups = sorted({record.about.group or "none" for record in self.families[key]})
                change = f"Use {' or '.join(groups)}."
                raise HeadsError(f"cannot show the map of {species}", f"it is not in group {group!r}", change)
        if grid is None:
            best = [record for record in members if record.about.group == members[0].about.group]
            return min(best, key=lambda record: first_grid(record.about))
        on_grid = [record for record in members if record.about.grid == grid]
        if not on_grid:
            there = ", ".join(dict.fromkeys(f"?grid={record.about.grid}" for record in members))
            found = f"no map of it on grid {grid!r}"
            raise GridError(f"cannot show the map of {species}", found, f"Add one of {there}.")
        return on_grid[0]


def fineness(grid: str) -> tuple[int, str]:
    """Key that sorts the finest of the named grids first, others by name behind them."""
    return GRIDS.index(grid) if grid in GRIDS else len(GRIDS), grid


def first_grid(about: About) -> tuple[bool, tuple[int, str]]:
    """Key that sorts the grid to open with first: where the group was fitted, then the finest."""
    return not about.home, fineness(about.grid)


def standing(found: tuple[About, float]) -> tuple[bool, bool, float]:
    """Sorts the species of a place: those that reach their threshold first, then probabilities.

    Probabilities of one kind of survey can be compared, so the most probable comes first. Suitabilities of
    two species cannot; theirs is the order of value / threshold.
    """
    about, value = found
    known = about.thresholds.get(about.default_threshold or "")
    threshold = known.value if known is not None and known.value > 0 else 0.5
    comparable = about.meaning == "probability"
    return value < threshold, not comparable, -value if comparable else -value / threshold


def _family(about: About) -> str:
    name = names.canonical(about.scientific)
    return names.normalise(names.accepted(name, about.vernacular or None)) if name else about.id


def _rank(record: Record) -> tuple[bool, float]:
    """Sorts the best entry first, as `Catalog` does; sorting keeps the order of groups otherwise."""
    about = record.about
    auc = about.scores["auc"].value if "auc" in about.scores else math.nan
    return about.meaning != "probability", math.inf if math.isnan(auc) else -auc
