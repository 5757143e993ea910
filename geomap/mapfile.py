"""From scores to one finished map: written, checked, described, and only then put in its place.

    OUT/GRID/SLUG.tif, [SLUG.png,] SLUG.json        in this order; a map without its Item is not finished

Everything is made in a scratch folder inside OUT/GRID, so whatever stops the work leaves no half map behind.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from geomap.cog import LAYOUT, CogSpec, cannot_write, write_cog
from geomap.entries import SpeciesEntry, known
from geomap.errors import MapError, OutputError
from geomap.facts import MapFacts, tally
from geomap.heads import SpeciesHeads, load_heads
from geomap.mapcheck import Expectation, check_map
from geomap.preview import write_preview
from geomap.scores import ScoreStore, score_unit
from geomap.stac import MapRecord, checksum, make_item, to_json, with_preview
from geomap.target import Target

WHAT = "cannot write the map"


@dataclass(frozen=True, eq=False)
class Batch:
    """Some species of one group that are scored together; what a worker process is given.

    Attributes:
        target: Cells and embeddings.
        heads: Folder of the heads.
        entries: The species.
        out: Folder of the finished maps, OUT/GRID.
        scratch: Folder inside it, removed in the end.
        png: Draw previews, too.
    """

    target: Target
    heads: Path
    entries: tuple[SpeciesEntry, ...]
    out: Path
    scratch: Path
    png: bool

    @property
    def store(self) -> ScoreStore:
        """The scores of the batch."""
        return _store(self.scratch, self.target, len(self.entries))

    def drop(self) -> None:
        """Remove the scratch folder of the batch."""
        shutil.rmtree(self.scratch)


@lru_cache(maxsize=1)
def _store(scratch: Path, target: Target, species: int) -> ScoreStore:
    return ScoreStore(scratch, target.grid, species)


@lru_cache(maxsize=1)
def unpack(payload: bytes) -> Batch:
    """A batch from its pickle; the last one is kept, so that a worker opens field and heads once."""
    batch: Batch = pickle.loads(payload)
    return batch


_heads = lru_cache(maxsize=1)(load_heads)


def forget() -> None:
    """Forget what earlier renders of this process opened; it may have changed on the disk."""
    for opened in (_store, unpack, _heads, _field_hash):
        opened.cache_clear()


def score_task(payload: bytes, k: int) -> int:
    """Score a batch on unit `k`; returns the number of its cells. What runs in a worker process."""
    batch = unpack(payload)
    store = batch.store
    score_unit(store, batch.target, _heads(batch.heads), [entry.index for entry in batch.entries], k)
    return store.units[k].height * store.units[k].width


def map_task(payload: bytes, position: int) -> dict[str, Any]:
    """Make the map of one species of a scored batch; returns its Item. What runs in a worker process."""
    return make_map(unpack(payload), position)


def make_map(batch: Batch, position: int) -> dict[str, Any]:
    """Write, check, describe and publish the map of one species.

    Args:
        batch: A batch whose units are all scored.
        position: Number of the species in the batch.

    Returns:
        The STAC Item.

    Raises:
        MapError: The map failed its check.
        OutputError: The place cannot be written or is full.
    """
    entry, store, target = batch.entries[position], batch.store, batch.target
    heads = _heads(batch.heads)
    facts = tally(store.parts(position))
    tags = map_tags(entry, heads, target)
    tags["GEOMAP_THRESHOLDS"] = _compact(thresholds(entry, facts))
    cog, png = batch.scratch / f"{entry.slug}.tif", batch.scratch / f"{entry.slug}.png"
    spec = CogSpec(target.grid.geobox, f"{entry.scientific}: {entry.meaning}", entry.meaning, tags)
    crc = write_cog(cog, store.strips(position), spec)
    home = target.whole and heads.card.get("grid") == target.grid.name
    p10 = entry.thresholds["p10"].value
    check_map(cog, Expectation(target.grid.geobox, store.valid, target.grid.unit, crc, facts, p10, home))
    if batch.png:
        write_preview(cog, png)
    record = MapRecord(entry, target.grid.name, target.grid.geobox, facts, tags, heads.card.get("data", {}))
    item = make_item(record, cog, png if batch.png else None)
    publish(batch.scratch, batch.out, entry.slug, item)
    return item


def publish(scratch: Path, out: Path, slug: str, item: Mapping[str, Any]) -> None:
    """Move what was made of a species to its place, the Item last.

    Raises:
        OutputError: The disk is full or the place cannot be written.
    """
    with cannot_write(out / f"{slug}.json"):
        (scratch / f"{slug}.json").write_text(to_json(item), encoding="utf-8")
        for name in (f"{slug}.tif", f"{slug}.png", f"{slug}.json"):
            if (scratch / name).exists():
                (scratch / name).replace(out / name)


def map_tags(entry: SpeciesEntry, heads: SpeciesHeads, target: Target) -> dict[str, str]:
    """Tags of a map file that follow from what it is made of; GEOMAP_INPUTS is the hash of it all."""
    data = heads.card.get("data", {})
    tags = {
        "SPECIES": entry.scientific,
        "VERNACULAR": entry.vernacular,
        "MEANING": entry.meaning,
        "MODEL": f"{heads.name} {heads.hash[:12]}",
        "ENCODER_HASH": heads.encoder_hash,
        "HEADS_HASH": heads.hash,
        "IMAGERY": target.field.imagery_id,
        "IMAGERY_CREDIT": target.field.credit,
        "DATA_CREDIT": str(data.get("credit") or ""),
        "LICENCE": str(data.get("licence") or ""),
        "GRID": target.grid.name,
        "RECORDS": str(entry.records),
        "THRESHOLD": entry.default_threshold,
        "SCORES": _compact({key: known(score._asdict()) for key, score in entry.scores.items()}),
        "VERSION": version("geomap"),
    }
    said = {f"GEOMAP_{key}": value for key, value in tags.items() if value}
    values = {key: known(threshold._asdict()) for key, threshold in entry.thresholds.items()}
    made_of = [said, values, _field_hash(target), target.grid.to_dict(), LAYOUT]
    return {**said, "GEOMAP_INPUTS": sha256(_compact(made_of).encode()).hexdigest()}


def thresholds(entry: SpeciesEntry, facts: MapFacts) -> dict[str, dict[str, float | None]]:
    """Every threshold of a species with its omission and the area [km²] of this map at or above it."""
    return {
        key: known(
            {"value": t.value, "omission": t.omission, "area_km2": round(facts.area_above(t.value), 3)}
        )
        for key, t in entry.thresholds.items()
    }


def finished(out: Path, entry: SpeciesEntry, tags: Mapping[str, str]) -> dict[str, Any] | None:
    """The Item of a map that is there already and was made of the same; None where nothing is there.

    Raises:
        OutputError: Another map is there, or the one that is there is damaged.
    """
    tif, described = out / f"{entry.slug}.tif", out / f"{entry.slug}.json"
    item = _read_item(described)
    if item is None:
        if tif.exists() and _inputs_of(tif) != tags["GEOMAP_INPUTS"]:  # else it was stopped before its Item
            raise OutputError(
                WHAT, f"{tif} exists and is not from here", "give --overwrite, or another --out"
            )
        return None
    if item["properties"].get("geomap:inputs") != tags["GEOMAP_INPUTS"]:
        found = f"{tif} exists and was made of other heads, another field or version"
        raise OutputError(WHAT, found, "give --overwrite, or another --out")
    if tif.exists() and checksum(tif) != item["assets"]["map"].get("file:checksum"):
        found = f"{tif} exists and is damaged: its checksum is not that of its Item"
        raise OutputError(WHAT, found, "give --overwrite")
    return item if tif.exists() else None


def draw_missing(out: Path, scratch: Path, item: dict[str, Any]) -> dict[str, Any]:
    """Draw the preview of a finished map that has none; returns its Item."""
    slug = str(item["id"])
    if "preview" in item["assets"] and (out / f"{slug}.png").exists():
        return item
    write_preview(out / f"{slug}.tif", scratch / f"{slug}.png")
    item = with_preview(item, scratch / f"{slug}.png")
    publish(scratch, out, slug, item)
    return item


def _read_item(path: Path) -> dict[str, Any] | None:
    """The Item in a file; None if there is no file."""
    try:
        item = json.loads(path.read_text(encoding="utf-8"))
        if item["type"] == "Feature" and "map" in item["assets"] and isinstance(item["properties"], dict):
            return dict(item)
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError):
        pass
    raise OutputError(WHAT, f"{path} exists and is no Item of a map", "give --overwrite, or another --out")


def _inputs_of(tif: Path) -> str | None:
    try:
        with rasterio.open(tif) as source:
            return str(source.tags().get("GEOMAP_INPUTS"))
    except RasterioError:
        return None


@lru_cache(maxsize=1)
def _field_hash(target: Target) -> str:
    """Hash of all chunks of the field."""
    files = sorted((name, entry["sha256"]) for name, entry in target.field.files.items())
    return sha256(json.dumps(files).encode()).hexdigest()


def _compact(values: Any) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise MapError(WHAT, f"{value!r} in its description", "make the heads again")
