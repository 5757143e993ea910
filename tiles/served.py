"""What the routes of one app share: the maps, the threads, and what is worth keeping between requests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from cachetools import LRUCache

from tiles.gate import Gate
from tiles.maps import SpeciesMap
from tiles.search import SearchIndex
from tiles.settings import Settings
from tiles.shown import Listing, Shown

KEPT_STATISTICS = 256  # some kilobytes each
OVERHEAD = 1000  # bytes that a finished tile takes in memory besides its own


class Finished(NamedTuple):
    """A tile as it goes out.

    Attributes:
        body: The file.
        etag: Its strong ETag.
        headers: Headers of an answer with the file; of one without it the first two.
        listing: What there was when the tile was last found to be current.
    """

    body: bytes
    etag: str
    headers: tuple[tuple[bytes, bytes], ...]
    listing: Listing


class Served:
    """What the routes of one app share.

    Attributes:
        settings: The settings.
        shown: The maps that may be seen.
        gate: The threads that read pixels.
        finished: Path and query -> a finished tile; for the event loop only.
        drawn: Told how long [s] each tile took.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.shown = Shown(settings)
        self.gate = Gate(settings.max_concurrency, settings.queue)
        self.finished: LRUCache[tuple[str, bytes], Finished] = LRUCache(
            max(1, settings.tile_cache_mb * 2**20), getsizeof=lambda tile: len(tile.body) + OVERHEAD
        )
        self.drawn: Callable[[float], None] = lambda seconds: None
        self._lock = threading.Lock()
        self._index: tuple[Listing, SearchIndex] | None = None
        self._statistics: OrderedDict[tuple[str, ...], dict[str, Any]] = OrderedDict()

    def keep(self, key: tuple[str, bytes], tile: Finished) -> None:
        """Keep a finished tile, unless it is larger than all the memory for them."""
        if len(tile.body) + OVERHEAD <= self.finished.maxsize:
            self.finished[key] = tile

    def index(self) -> tuple[Listing, SearchIndex]:
        """What there is, and the index of its names; made anew when something was added."""
        listing = self.shown.listing
        if self._index is None or self._index[0] is not listing:
            self._index = listing, SearchIndex(list(listing.species.values()))
        return self._index

    def statistics(self, chosen: SpeciesMap, band: int = 0) -> dict[str, Any]:
        """`tiles.zonal.statistics` of a layer of a map, kept while its version lasts.

        Raises:
            MapError: The map cannot be read.
        """
        from tiles.zonal import statistics

        about = chosen.about
        key = (about.id, about.grid, about.group, about.version, str(band))
        with self._lock:
            known = self._statistics.get(key)
            if known is not None:
                self._statistics.move_to_end(key)
                return known
        made = statistics(chosen, band)
        with self._lock:
            self._statistics[key] = made
            while len(self._statistics) > KEPT_STATISTICS:
                self._statistics.popitem(last=False)
        return made

    def areas(self, chosen: SpeciesMap) -> dict[str, float]:
        """True area [km²] of a map at or above each of its thresholds."""
        above = self.statistics(chosen)["above"]
        return {key: entry["area_km2"] for key, entry in above.items()}
