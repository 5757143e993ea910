"""The library as the outside may see it: opened when first needed, without what is withheld, found by id.

Every route works on this. What is withheld is missing here altogether: it is not listed, not suggested, and
asking for it reads like asking for what never was.
"""

from __future__ import annotations

import difflib
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from geomap import names
from tiles.errors import NotServedError
from tiles.index import first_grid
from tiles.maps import About, GridAbout, GroupAbout, SpeciesMap
from tiles.settings import Settings

if TYPE_CHECKING:
    from tiles.library import Library
    from tiles.shelf import Listed
    from tiles.warming import Warmer

REFRESH_S = 1.0


@dataclass(frozen=True, eq=False)
class Listing:
    """What there is at one moment.

    Attributes:
        maps: Every map that may be seen, in the library's order.
    """

    maps: tuple[About, ...]

    @cached_property
    def species(self) -> dict[str, tuple[About, ...]]:
        """Id of each species -> its maps, the best first. Under two names it is one, by its best map's id."""
        taxa: dict[str, list[About]] = {}
        for about in self.maps:
            taxa.setdefault(taxon(about), []).append(about)
        ranked = [tuple(sorted(several, key=_worth)) for several in taxa.values()]
        return {
            several[0].id: several for several in sorted(ranked, key=lambda several: several[0].scientific)
        }

    @cached_property
    def by_id(self) -> dict[str, tuple[About, ...]]:
        """Every id -> the maps of its species, the best first; also ids of older names."""
        return {about.id: several for several in self.species.values() for about in several}


def taxon(about: About) -> str:
    """What two maps of one species have in common: today's name, normalised."""
    name = names.canonical(about.scientific)
    return names.normalise(names.accepted(name, about.vernacular or None)) if name else about.id


class Shown:
    """A library without the species that are withheld; safe to use from several threads.

    Args:
        settings: What is served and withheld.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._withheld = frozenset(settings.withheld)
        self._lock = threading.Lock()
        self._library: Library | None = None
        self._everything: tuple[About, ...] = ()
        self._listing = Listing(())
        self._asked = -math.inf

    def open(self) -> Library:
        """The library itself, opened when first needed.

        Raises:
            GeomapError: What is to be served cannot be opened.
        """
        with self._lock:
            if self._library is None:
                from tiles.library import Library

                known = self._settings
                self._library = Library.open(
                    known.maps, known.heads, known.bundle, known.cache_mb, known.cache_dir
                )
            return self._library

    @property
    def stale(self) -> bool:
        """Whether `refresh` has something to do: it looks at most once a second."""
        return time.monotonic() - self._asked > REFRESH_S

    def refresh(self) -> None:
        """Look for new and changed maps, at most once a second."""
        if not self.stale:
            return
        self._asked = time.monotonic()
        library = self.open()
        library.refresh()
        everything = tuple(library.all())
        if everything != self._everything:
            # A species under an older name is withheld with it.
            hidden = {taxon(about) for about in everything if about.id in self._withheld}
            self._listing = Listing(tuple(about for about in everything if taxon(about) not in hidden))
            self._everything = everything

    @property
    def listing(self) -> Listing:
        """What there is now; the same object as long as nothing changed."""
        self.refresh()
        return self._listing

    def all(self) -> list[About]:
        """Every map that may be seen."""
        return list(self.listing.maps)

    def of(self, species: str) -> tuple[About, ...]:
        """The maps of a species, the best first.

        Raises:
            NotServedError: There is none; ids that look alike are told.
        """
        listing = self.listing
        if species not in listing.by_id:
            near = difflib.get_close_matches(species, listing.by_id, n=3)
            advice = f"Nearest: {', '.join(near)}." if near else "GET /species lists what there is."
            raise NotServedError("cannot show the map", f"no species {species!r}", advice)
        return listing.by_id[species]

    def choose(self, species: str, grid: str | None = None, group: str | None = None) -> About:
        """What is known of the map of a species.

        Args:
            species: Its id.
            grid: Name of a grid; the one that the group was fitted on, else the finest, if None.
            group: Name of a group; the best of the species if None.

        Raises:
            NotServedError: There is no such map.
        """
        maps = self.of(species)
        for kind, wanted in (("group", group), ("grid", grid)):
            if wanted is not None:
                there = list(dict.fromkeys(getattr(about, kind) for about in maps))
                maps = tuple(about for about in maps if getattr(about, kind) == wanted)
                if not maps:
                    found = f"{kind} {wanted!r}"
                    raise NotServedError(f"cannot show {species}", found, f"It has {', '.join(there)}.")
        best = [about for about in maps if about.group == maps[0].group]
        return min(best, key=first_grid)

    def find(self, species: str, grid: str | None = None, group: str | None = None) -> SpeciesMap:
        """The map of a species; arguments and refusals as in `choose`."""
        return self.map_of(self.choose(species, grid, group))

    def map_of(self, about: About) -> SpeciesMap:
        """The map that something is known of.

        Raises:
            GeomapError: It is gone by now, or cannot be read.
        """
        return self.open().find(about.id, about.grid, about.group)

    def item(self, species: str, grid: str | None = None, group: str | None = None) -> Listed | None:
        """The file of a map and its STAC Item; None for a map that is computed. Refusals as in `choose`."""
        about = self.choose(species, grid, group)
        return self.open().item(about.id, about.grid, about.group)

    def at(
        self, lon: float, lat: float, grid: str | None = None, group: str | None = None, limit: int = 20
    ) -> list[tuple[About, float]]:
        """The species of a place with their values, as the library ranks them."""
        seen = self.listing.by_id
        hidden = len(self._withheld) * 2  # a species may be there under two names
        found = self.open().at(lon, lat, grid, group, limit + hidden)
        return [(about, value) for about, value in found if about.id in seen][:limit]

    def groups(self) -> list[GroupAbout]:
        """The groups, counting what may be seen; one that is withheld altogether is missing."""
        counts = Counter(group for _, group in {(about.id, about.group) for about in self.listing.maps})
        seen = [replace(group, species=counts[group.name]) for group in self.open().groups()]
        return [group for group in seen if group.species]

    def grids(self) -> list[GridAbout]:
        """The grids."""
        return self.open().grids()

    def warm(self) -> Warmer:
        """Start to compute ahead what maps of many species share; the thread that does."""
        return self.open().warm()

    def ready(self) -> None:
        """Raise an error where a sample tile cannot be made."""
        self.open().ready()


def unique(values: Iterable[str]) -> list[str]:
    """Each value once, in order."""
    return list(dict.fromkeys(values))


def ordered_grids(maps: Sequence[About]) -> list[str]:
    """Names of the grids that maps lie on, the one to open with first."""
    return unique(about.grid for about in sorted(maps, key=first_grid))


def _worth(about: About) -> tuple[bool, float]:
    """What puts a map before another of the same species; sorting keeps the library's order otherwise."""
    auc = about.scores["auc"].value if "auc" in about.scores else math.nan
    return about.meaning != "probability", math.inf if math.isnan(auc) else -auc
