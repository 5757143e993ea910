"""Folders of rendered maps, on this machine or elsewhere: what lies there and what is said of it.

`geomap.render` writes OUT/GRID/SLUG.tif, a STAC Item OUT/GRID/SLUG.json beside it and, last,
OUT/GRID/collection.json. Only what a collection links to is there: a map that is being written is not seen.
A map of photos, which has no Item, is found by its tag GEOMAP_PHOTOS, in folders of this machine only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomap import names
from geomap.errors import GeomapError, MapError
from geomap.stac import UNDATED
from tiles import remote
from tiles.maps import About, Band, Score, Threshold
from tiles.objects import shown
from tiles.stored import Layout, MapFile, read_layout

logger = logging.getLogger(__name__)
SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
# A slug becomes a file name: a link of any other form, which could lead out of the folder, is not followed.
ITEM_LINK = re.compile(rf"(?:\./)?({SLUG.pattern})\.json")
SETTLED_S = 1.0


@dataclass(frozen=True, eq=False)
class Listed:
    """A rendered map, not yet opened.

    Attributes:
        about: What is known of it.
        file: Its file.
        item: Its STAC Item; None for a map of photos.
    """

    about: About
    file: MapFile
    item: Mapping[str, Any] | None


class Shelf:
    """One folder, or address, that was named with --maps."""

    def __init__(self, root: str) -> None:
        """Look at a folder.

        Args:
            root: A folder that `geomap.render` wrote into, or an address (see tiles.remote).
        """
        self.root = root
        self._seen: dict[str, tuple[object, tuple[Listed, ...]]] = {}
        self._known: dict[str, dict[tuple[str, str], Listed | None]] = {}

    def maps(self) -> tuple[Listed, ...]:
        """Every map; what did not change since the last call is not read again.

        Raises:
            MapError: A collection cannot be read.
        """
        found = self._remote() if remote.is_remote(self.root) else self._local()
        return tuple(listed for _, part in found for listed in part)

    def _local(self) -> list[tuple[str, tuple[Listed, ...]]]:
        root, parts = Path(self.root), []
        for folder in sorted(path for path in root.glob("*") if path.is_dir() and path.name[0] != "."):
            collection = folder / "collection.json"
            stamps = [_stamp(path) for path in (folder, collection) if path.exists()]
            if self._seen.get(folder.name, (None,))[0] != stamps:
                # Times are coarse: a folder that changed a moment ago may change again under the same time.
                settled = time.time() - folder.stat().st_mtime > SETTLED_S
                found = tuple(self._of_folder(folder, collection))
                self._seen[folder.name] = stamps if settled else None, found
            parts.append((folder.name, self._seen[folder.name][1]))
        return parts

    def _of_folder(self, folder: Path, collection: Path) -> Iterator[Listed]:
        known = self._known.get(folder.name, {})
        fresh = self._known[folder.name] = {}  # so that what is gone is forgotten
        linked = _links(_read_json(collection), str(collection)) if collection.exists() else {}
        tifs = {folder / f"{slug}.tif": title for slug, title in linked.items()}
        # A map beside an Item that no collection has is about to be linked to.
        alone = (
            path for path in sorted(folder.glob("*.tif"))
            if path not in tifs and SLUG.fullmatch(path.stem) and not path.with_suffix(".json").exists()
        )  # fmt: skip
        for tif in [*tifs, *alone]:
            item = tif.with_suffix(".json") if tif in tifs else None
            if not _inside(tif, folder) or (item is not None and not _inside(item, folder)):
                continue
            key = str(tif), _stamp(tif) + ("" if item is None else _stamp(item))
            if key not in known:
                file = MapFile(str(tif), _stamp(tif))
                if item is None:
                    known[key] = _of_photos(file, tif.stem, folder.name)
                else:
                    known[key] = listed_of(file, _item_or_nothing(item), tif.stem, folder.name, tifs[tif])
            listed = fresh[key] = known[key]
            if listed is not None:
                yield listed

    def _remote(self) -> list[tuple[str, tuple[Listed, ...]]]:
        parts = []
        for address in remote.collections(self.root):
            document, tag = remote.read_json(address)
            if self._seen.get(address, (None,))[0] != tag:
                self._seen[address] = tag, tuple(_of_address(address, document))
            parts.append((address, self._seen[address][1]))
        return parts


def _of_address(address: str, document: Mapping[str, Any]) -> Iterator[Listed]:
    """Maps that a remote collection links to; an Item that cannot be read is left out with a warning."""
    path, query, signature = address.partition("?")
    folder = path.rpartition("/")[0] + query + signature
    grid = str(document.get("id", "")).removeprefix("geomap-") or path.split("/")[-2]
    for slug, title in _links(document, shown(address)).items():
        try:
            item, tag = remote.read_json(remote.join(folder, f"{slug}.json"))
        except MapError as error:
            logger.warning("%s is not served: %s", slug, error)
            continue
        tif = remote.join(folder, f"{slug}.tif")
        asset = item.get("assets", {}).get("map", {})
        stamp = str(asset.get("file:checksum") or tag)
        yield listed_of(
            MapFile(remote.gdal_path(tif), stamp, remote.gdal_options(tif)), item, slug, grid, title
        )


def listed_of(file: MapFile, item: Mapping[str, Any], slug: str, grid: str, title: str) -> Listed:
    """A map and what its Item says of it.

    Args:
        file: The map.
        item: Its STAC Item.
        slug: Its id.
        grid: Name of the grid.
        title: Name in the collection, for Items that name no species.
    """
    said = item.get("properties", {})
    meaning = said.get("geomap:meaning")
    described = item.get("assets", {}).get("map", {}).get("bands", [])
    if meaning in ("suitability", "probability") and len(described) == 1:
        bands: tuple[Band, ...] = (Band(meaning, str(described[0].get("description") or meaning), meaning),)
    else:
        layout = layout_or_none(file, meaning)
        bands = layout.bands if layout else (Band("suitability", title, "suitability"),)
        meaning = meaning or bands[0].unit or bands[0].name
    scientific = str(said.get("geomap:species") or said.get("title") or title or slug)
    about = About(
        id=slug, scientific=scientific, vernacular=str(said.get("geomap:vernacular") or ""),
        synonyms=names.synonyms_of(scientific), group=str(said.get("geomap:group") or ""), grid=grid,
        meaning=str(meaning), records=said.get("geomap:records"), n_test=said.get("geomap:n_test"),
        thresholds={
            key: Threshold(_number(each.get("value")), _number(each.get("omission")))
            for key, each in said.get("geomap:thresholds", {}).items()
        },
        default_threshold=said.get("geomap:threshold"),
        scores={
            key: Score(_number(each.get("value")), _number(each.get("null")))
            for key, each in said.get("geomap:scores", {}).items()
        },
        version=version_of(str(said.get("geomap:inputs", "")), file.stamp),
        bands=bands, credit=_credit(said), stored=True,
    )  # fmt: skip
    return Listed(about, file, item)


def version_of(*parts: str) -> str:
    """12 hexadecimal digits of some texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def layout_or_none(file: MapFile, meaning: str | None = None) -> Layout | None:
    """What a file holds; None, and a line in the log, where it cannot be read."""
    try:
        return read_layout(file, meaning)
    except GeomapError as error:
        logger.warning("%s", error)
        return None


def _of_photos(file: MapFile, slug: str, grid: str) -> Listed | None:
    """A map without Item, if it says that it is of photos."""
    layout = layout_or_none(file)
    if layout is None or "GEOMAP_PHOTOS" not in layout.tags:
        return None
    tags = layout.tags
    species = tags.get("GEOMAP_SPECIES", "")
    credit = {"model": tags.get("GEOMAP_MODEL", "")}
    about = About(
        id=slug, scientific=species or slug, vernacular="", synonyms=names.synonyms_of(species), group="",
        grid=grid, meaning="similarity", records=None, n_test=None, thresholds={}, default_threshold=None,
        scores={}, version=version_of(file.stamp), bands=layout.bands,
        credit={key: value for key, value in credit.items() if value}, stored=True,
    )  # fmt: skip
    return Listed(about, file, None)


def _credit(said: Mapping[str, Any]) -> dict[str, str]:
    data = str(said.get("geomap:data_credit") or "")
    others = [str(each.get("name")) for each in said.get("providers", []) if each.get("name") != data]
    start, end = (str(said.get(key) or UNDATED)[:10] for key in ("start_datetime", "end_datetime"))
    known = {
        "data_credit": data,
        "licence": str(said.get("geomap:licence") or ""),
        "imagery_credit": "; ".join(others),
        "model": str(said.get("geomap:model") or ""),
        "period": "" if start == UNDATED[:10] else f"{start}/{end}",
    }
    return {key: value for key, value in known.items() if value}


def _links(collection: Mapping[str, Any], where: str) -> dict[str, str]:
    """Slug -> title of the Items that a collection links to."""
    links = collection.get("links")
    if not isinstance(links, list) or not all(isinstance(link, dict) for link in links):
        raise MapError("cannot list the maps", f"no links in {where}", "Render the maps again.")
    found: dict[str, str] = {}
    for link in (link for link in links if link.get("rel") == "item"):
        match = ITEM_LINK.fullmatch(str(link.get("href")))
        if match is None:
            logger.warning("%s links to %r, which is not served", where, link.get("href"))
        else:
            found[match[1]] = str(link.get("title") or match[1])
    return found


def _inside(path: Path, folder: Path) -> bool:
    """Whether a file, followed through symbolic links, lies in its folder."""
    if path.resolve().parent == folder.resolve():
        return True
    logger.warning("%s leads out of its folder and is not served", path)
    return False


def _stamp(path: Path) -> str:
    """Size, time and inode of a file; "" where there is none."""
    try:
        state = path.stat()
    except OSError:
        return ""
    return f"{state.st_size}-{state.st_mtime_ns}-{state.st_ino}"


def _item_or_nothing(path: Path) -> dict[str, Any]:
    """A STAC Item; nothing, and a line in the log, where it cannot be read: its map still can."""
    try:
        document = _read_json(path)
    except MapError as error:
        logger.warning("a map without its Item: %s", error)
        return {}
    if document.get("type") != "Feature" or not isinstance(document.get("properties"), dict):
        logger.warning("a map without its Item: %s is none", path)
        return {}
    return document


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise MapError("cannot read the maps", f"{path}: {error}", "Render them again.") from error
    if not isinstance(content, dict):
        raise MapError("cannot read the maps", f"{path} holds no object", "Render them again.")
    return content


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
