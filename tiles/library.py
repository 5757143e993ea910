"""The maps of a folder: which species lie there, on which grids.

`geomap.render` writes OUT/GRID/SLUG.tif, a STAC item OUT/GRID/SLUG.json beside it and, last,
OUT/GRID/collection.json. Only what a collection links to is served: a map that is being written is not seen.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from geomap.errors import GridError, MapError, NameNotFoundError

logger = logging.getLogger(__name__)
SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
# A slug becomes a file name: a link of any other form, which could lead out of the folder, is not followed.
ITEM_LINK = re.compile(rf"(?:\./)?({SLUG.pattern})\.json")


@dataclass(frozen=True)
class MapFile:
    """One rendered map.

    Attributes:
        species: Slug of the scientific name, e.g. `eschscholzia-californica`.
        name: Name to show, e.g. `Eschscholzia californica`.
        grid: Name of the grid, which is the name of its folder.
        folder: The folder of the grid.
    """

    species: str
    name: str
    grid: str
    folder: Path

    @property
    def cog(self) -> Path:
        """The GeoTIFF."""
        return self.folder / f"{self.species}.tif"

    @property
    def item(self) -> Path:
        """The STAC item."""
        return self.folder / f"{self.species}.json"


def maps_of(root: Path) -> list[MapFile]:
    """Every map below a folder, sorted by species, then grid.

    Args:
        root: Folder that `geomap.render` wrote into.

    Raises:
        MapError: A collection cannot be read.
    """
    found: list[MapFile] = []
    for collection in sorted(root.glob("*/collection.json")):
        state = collection.stat()
        found += _maps_of_collection(collection, state.st_mtime_ns, state.st_size)
    return sorted(found, key=lambda entry: (entry.species, entry.grid))


def find_map(root: Path, species: str, grid: str | None = None) -> MapFile:
    """The map of a species.

    Args:
        root: Folder that `geomap.render` wrote into.
        species: Slug of the scientific name.
        grid: Name of the grid; may be left out where the species is mapped on one grid only.

    Raises:
        NameNotFoundError: No map of this species.
        GridError: No map on this grid, or several grids and none named.
        MapError: A collection cannot be read.
    """
    everything = maps_of(root)
    entries = [entry for entry in everything if entry.species == species]
    if not entries:
        near = difflib.get_close_matches(species, {entry.species for entry in everything}, n=5)
        advice = f"Nearest: {', '.join(near)}." if near else "GET /species lists what there is."
        raise NameNotFoundError("cannot show the map", f"no map of {species!r}", advice)
    chosen = entries if grid is None else [entry for entry in entries if entry.grid == grid]
    if len(chosen) != 1:
        found = f"{len(entries)} grids and none named" if grid is None else f"no map of it on grid {grid!r}"
        grids = ", ".join(f"?grid={entry.grid}" for entry in entries)
        raise GridError(f"cannot show the map of {species}", found, f"Add one of {grids}.")
    return chosen[0]


def item_of(entry: MapFile) -> dict[str, Any]:
    """The STAC item of a map, as it was written.

    Raises:
        MapError: It cannot be read.
    """
    item = _read_json(entry.item)
    if item.get("type") != "Feature" or not isinstance(item.get("properties"), dict):
        raise MapError("cannot read the map's item", f"{entry.item} is no STAC item", "Render the map again.")
    return item


@lru_cache(maxsize=64)
def _maps_of_collection(path: Path, modified_ns: int, size: int) -> tuple[MapFile, ...]:
    """Maps that a collection links to; time and size are here to read a rewritten one anew."""
    links = _read_json(path).get("links")
    if not isinstance(links, list) or not all(isinstance(link, dict) for link in links):
        raise MapError("cannot list the maps", f"no links in {path}", "Render the maps again.")
    found: list[MapFile] = []
    for link in (link for link in links if link.get("rel") == "item"):
        match = ITEM_LINK.fullmatch(str(link.get("href")))
        if match is None:
            logger.warning("%s links to %r, which is not served", path, link.get("href"))
        else:
            found.append(MapFile(match[1], link.get("title") or match[1], path.parent.name, path.parent))
    return tuple(found)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise MapError("cannot read the maps", f"{path}: {error}", "Render them again.") from error
    if not isinstance(content, dict):
        raise MapError("cannot read the maps", f"{path} holds no object", "Render them again.")
    return content
