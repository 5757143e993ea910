"""All maps that the server can show: rendered files, and species of heads on the bundle's fields.

    library = Library.open(maps=("maps",))
    poppy = library.find("eschscholzia-californica", "california")

A rendered file goes before a live map of the same species, grid and group. What there is is looked up once
and kept; `refresh` compares times of folders and reads what changed.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from geomap.catalog import Catalog, bundle_groups, bundle_path
from geomap.errors import GeomapError, GridError, MapError, NameNotFoundError
from geomap.footprint import footprint
from geomap.grid import Window
from geomap.onethread import keep_one_thread
from tiles.abouts import grid_about, group_about
from tiles.blockfile import Block
from tiles.index import Index, Record, fineness, standing
from tiles.joining import joined, live_groups, live_records, stored_record
from tiles.live import Filled, LiveGroup, LiveMap
from tiles.lru import Lru
from tiles.maps import About, GridAbout, GroupAbout, SpeciesMap, Steps
from tiles.paint import point
from tiles.shelf import Listed, Shelf
from tiles.warming import Warmer
from tiles.warp import Cells, rowcol

logger = logging.getLogger(__name__)
STORED_AT_A_PLACE = 200  # maps of files that are read for one place


class Library:
    """The maps that the server can show; safe to use from several threads. Made by `open`."""

    def __init__(
        self, catalog: Catalog, shelves: Iterable[Shelf], folder: Path | None, cache_mb: int
    ) -> None:
        """Join heads, fields and folders of maps."""
        size = max(cache_mb, 8) << 20
        # Overviews are a third of a map. Blocks are in memory only where the cache folder cannot be used.
        self._filled: Lru[Filled] = Lru(size * 45 // 100, lambda filled: filled.array.nbytes)
        self._levels: Lru[tuple[Steps, ...]] = Lru(size * 15 // 100, _bytes)
        self._files: Lru[tuple[Steps, ...]] = Lru(size * 40 // 100, _bytes)
        self._blocks: Lru[Block] = Lru(size, lambda block: block.bytes)
        self._catalog, self._shelves, self._folder = catalog, tuple(shelves), folder
        self._lock = threading.Lock()
        self._index: Index | None = None
        self._stored: tuple[Listed, ...] = ()
        self._ready: Index | None = None
        self._broken: Mapping[str, GeomapError] = {}

    @classmethod
    def open(
        cls,
        maps: tuple[str | Path, ...] = (),
        heads: tuple[str | Path, ...] = (),
        bundle: bool = True,
        cache_mb: int = 256,
        cache_dir: Path | None = None,
    ) -> Library:
        """Open what there is; pixels are read when a tile needs them.

        Args:
            maps: Folders that `geomap.render` wrote into, or addresses of such (see tiles.remote).
            heads: Folders of heads, or groups of the bundle, besides the bundle's.
            bundle: Show all groups of the bundle.
            cache_mb: Memory for maps; where the cache folder cannot be used, as much again for the adapter's
                output. Warps of tiles and areas of cells take 64 MB each besides.
            cache_dir: Folder for the adapter's output; the user's cache folder if None.

        Raises:
            HeadsError: There is no such group or folder, or its files are corrupt.
            MapError: A folder of maps does not exist.
        """
        keep_one_thread()
        for folder in maps:
            if "://" not in str(folder) and not Path(folder).is_dir():
                change = "Render one (geomap render), or name their folder with --maps."
                raise MapError("cannot serve maps", f"no folder {folder}", change)
        folders = dict(bundle_groups(bundle_path())) if bundle else {}
        for each in heads:
            folders |= Catalog.open(each).folders
        folder = cache_folder() if cache_dir is None else Path(cache_dir)
        return cls(Catalog(bundle_path(), folders), [Shelf(str(each)) for each in maps], folder, cache_mb)

    def all(self) -> list[About]:
        """Every species on every grid in every group; the same objects until one changes."""
        return [record.about for record in self._now().records]

    def find(self, species: str, grid: str | None = None, group: str | None = None) -> SpeciesMap:
        """The map of a species.

        Args:
            species: Slug, or any name, in any case.
            grid: Name of the grid; the finest that the species' best group has if None.
            group: Group of heads; the best of the species if None: a probability before a suitability, then
                the higher AUC.

        Raises:
            NameNotFoundError: No such species; the nearest names are told.
            HeadsError: It is not in this group.
            GridError: It is not on this grid.
            FieldError: The field of the grid is damaged.
            MapError: Its file is missing or corrupt.
        """
        try:
            return self._now().find(species, grid, group).open()
        except (NameNotFoundError, GridError):
            if grid in self._broken:
                raise self._broken[str(grid)] from None
            raise

    def item(self, species: str, grid: str | None = None, group: str | None = None) -> Listed | None:
        """The file of a map and its STAC Item; None for a live map. Arguments and errors as in `find`."""
        return self._now().find(species, grid, group).listed

    def at(
        self, lon: float, lat: float, grid: str | None = None, group: str | None = None, limit: int = 20
    ) -> list[tuple[About, float]]:
        """The species of a place.

        Args:
            lon: Degrees east.
            lat: Degrees north.
            grid: Name of the grid; the finest that has data there if None.
            group: One group only.
            limit: How many at most.

        Returns:
            What is known of a map and its value, in the order of `tiles.index.standing`. Every species once,
            by its best group. Of maps that lie in files only, the first 200 are looked at.

        Raises:
            GridError: No place on earth, or no such grid.
        """
        there = [each.name for each in self.grids()] if grid is None else [grid]
        if grid is not None and grid not in {record.about.grid for record in self._now().records}:
            known = ", ".join(each.name for each in self.grids())
            raise GridError("cannot list the species of a place", f"no grid {grid!r}", f"Use one of {known}.")
        for name in there:
            found = self._on_grid(lon, lat, name, group)
            if found:
                return sorted(found, key=standing)[:limit]
        return []

    def groups(self) -> list[GroupAbout]:
        """Groups of heads in order of preference, then those of files alone."""
        by_group: dict[str, list[About]] = {}
        for record in self._now().records:
            by_group.setdefault(record.about.group, []).append(record.about)
        ordered = [*(n for n in self._catalog.groups if n in by_group), *by_group]
        return [group_about(name, by_group[name]) for name in dict.fromkeys(ordered)]

    def grids(self) -> list[GridAbout]:
        """Grids that maps lie on, the finest first."""
        firsts: dict[str, Record] = {}
        for record in self._now().records:
            firsts.setdefault(record.about.grid, record)
        found = []
        for name in sorted(firsts, key=fineness):
            try:
                found.append(grid_about(name, firsts[name].open()))
            except GeomapError as error:
                logger.warning("the grid %s cannot be described: %s", name, error)
        return found

    def ready(self) -> None:
        """Check that fields open and that of every grid one map can be read; once for what there is.

        Raises:
            GeomapError: What is wrong.
        """
        index = self._now()
        for error in self._broken.values():
            raise error
        if self._ready is index:
            return
        if not index.records:
            raise MapError("cannot serve maps", "there are none", "Give --maps or --heads.")
        for record in {(r.about.grid, r.about.stored): r for r in reversed(index.records)}.values():
            chosen = record.open()
            if isinstance(chosen, LiveMap):
                block = next(chosen.group.field.blocks(stored=True))
                chosen.steps(Window(block.row, block.col, 1, 1))
            else:
                chosen.steps(Window(0, 0, 1, 1))
        self._ready = index

    def refresh(self) -> None:
        """Look for maps that are new, gone or changed.

        Raises:
            MapError: A collection cannot be read.
        """
        with self._lock:
            stored = tuple(listed for shelf in self._shelves for listed in shelf.maps())
            same = len(stored) == len(self._stored) and all(
                a is b for a, b in zip(stored, self._stored, strict=True)
            )
            if self._index is None or not same:
                self._stored, self._index = stored, self._indexed(stored)

    def warm(
        self,
        group: str | None = None,
        grid: str | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> Warmer:
        """Start to compute the adapter's output of groups on grids in a background thread.

        Args:
            group: One group only.
            grid: One grid only.
            report: Told (parts done, parts in all).

        Returns:
            The thread; `stop()` ends it.
        """
        self._now()
        wanted = [
            live for live in self._live
            if group in (None, live.heads.name) and grid in (None, live.field.grid.name)
        ]  # fmt: skip
        warmer = Warmer(wanted, report)
        warmer.start()
        return warmer

    def _now(self) -> Index:
        if self._index is None:
            self.refresh()
        assert self._index is not None
        return self._index

    @cached_property
    def _live(self) -> tuple[LiveGroup, ...]:
        caches = self._filled, self._levels, self._blocks
        groups, self._broken = live_groups(self._catalog, self._folder, caches)
        return groups

    @cached_property
    def _live_records(self) -> tuple[Record, ...]:
        return live_records(self._catalog, self._live)

    def _indexed(self, stored: tuple[Listed, ...]) -> Index:
        live = self._live_records
        return joined([stored_record(listed, self._files) for listed in stored], live)

    def _on_grid(self, lon: float, lat: float, grid: str, group: str | None) -> list[tuple[About, float]]:
        found: dict[str, tuple[About, float]] = {}
        cells: dict[int, np.ndarray | None] = {}
        looked_at = 0
        for key, members in self._now().families.items():
            here = [r for r in members if r.about.grid == grid and group in (None, r.about.group)]
            if not here:
                continue
            record = here[0]
            if record.live is not None:
                live, row = record.live
                if id(live) not in cells:
                    cells[id(live)] = _cell(live, lon, lat)
                predicted = cells[id(live)]
                value = None if predicted is None else round(float(predicted[row]), 4)
            elif looked_at < STORED_AT_A_PLACE:
                looked_at += 1
                value = point(record.open(), lon, lat)[0]
            else:
                continue
            if value is not None:
                found[key] = record.about, value
        return list(found.values())


def cache_folder() -> Path:
    """Where the adapter's output is kept: geomap/tiles in the user's cache folder (XDG)."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "geomap", "tiles")


def _cell(live: LiveGroup, lon: float, lat: float) -> np.ndarray | None:
    grid = live.field.grid
    west, south, east, north = footprint(grid.geobox)[1]
    cells = Cells(str(grid.crs), grid.transform, grid.shape, (west, south, east, north))
    rows, cols = rowcol(cells, np.array([[lon, lat]]))
    return None if rows[0] < 0 else live.cell(int(rows[0]), int(cols[0]))


def _bytes(levels: tuple[Steps, ...]) -> int:
    return sum(level.nbytes for level in levels)
