"""STAC of maps: one Item beside each COG, one Collection per folder (STAC 1.1; proj, raster, render, file).

Documents are plain dicts and hold no time of making, so the same map always has the same Item. Where nothing
is said about when the records were made, the Item's time is `UNDATED`, and its description says so.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from odc.geo.geobox import GeoBox
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.render import Render, RenderExtension

from geomap.cog import NODATA
from geomap.colour import DEFAULT
from geomap.entries import SpeciesEntry, known
from geomap.facts import MapFacts
from geomap.footprint import footprint

UNDATED = "1970-01-01T00:00:00Z"
RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
COLLECTION = "collection.json"
MEANINGS = {
    "suitability": "Relative suitability (0..1) from presence-only records; not a probability of occurrence.",
    "probability": "Probability (0..1) that one complete survey detects the species.",
}


@dataclass(frozen=True, eq=False)
class MapRecord:
    """A map and all that is said about it.

    Attributes:
        entry: The species, its thresholds and scores.
        grid: Name of the grid.
        geobox: Shape, transform and CRS.
        facts: What the map holds.
        tags: Tags of the file; in the Item they are the properties `geomap:...`.
        data: What the card of the heads says of its data: `licence`, `credit` and `period` ([first, last]
            ISO dates of the records) are used where they are there.
    """

    entry: SpeciesEntry
    grid: str
    geobox: GeoBox
    facts: MapFacts
    tags: Mapping[str, str]
    data: Mapping[str, Any]


def make_item(record: MapRecord, cog: Path, preview: Path | None = None) -> dict[str, Any]:
    """The STAC Item of a map that lies beside it.

    Args:
        record: What is said of the map.
        cog: The map file; its name is the href, its size and checksum are taken.
        preview: Its PNG, if there is one.

    Returns:
        The Item as JSON values; hrefs are relative to the folder.
    """
    entry = record.entry
    geometry, bbox = footprint(record.geobox)
    start, end = period(record.data)
    item = pystac.Item(
        id=entry.slug, geometry=geometry, bbox=bbox, datetime=None, collection=f"geomap-{record.grid}",
        properties={"datetime": None, "start_datetime": start, "end_datetime": end, **_properties(record)},
    )  # fmt: skip
    item.add_asset("map", _cog_asset(record, cog))
    _extend(item, record, cog)
    document = item.to_dict(include_self_link=False)
    document["links"] = [_link(rel, COLLECTION) for rel in ("root", "parent", "collection")]
    return document if preview is None else with_preview(document, preview)


def with_preview(item: Mapping[str, Any], preview: Path) -> dict[str, Any]:
    """An Item with a PNG that lies beside its map as one asset more."""
    asset = {
        "href": f"./{preview.name}", "type": "image/png", "title": "Preview", "roles": ["overview"],
        "file:size": preview.stat().st_size, "file:checksum": checksum(preview),
    }  # fmt: skip
    return {**item, "assets": {**item["assets"], "preview": asset}}


def make_collection(grid: str, items: Iterable[Mapping[str, Any]], geobox: GeoBox) -> dict[str, Any]:
    """The STAC Collection of a folder of maps of one grid.

    Args:
        grid: Name of the grid.
        items: The Items of the folder, at least one.
        geobox: Shape, transform and CRS of the grid.
    """
    members = sorted(items, key=lambda item: str(item["id"]))
    starts, ends = (
        sorted({str(m["properties"][key]) for m in members}) for key in ("start_datetime", "end_datetime")
    )
    licences = sorted({str(m["properties"]["license"]) for m in members})
    summary = {
        key: sorted({str(m["properties"][f"geomap:{key}"]) for m in members}) for key in ("meaning", "group")
    }
    return {
        "type": "Collection",
        "stac_version": pystac.get_stac_version(),
        "stac_extensions": [],
        "id": f"geomap-{grid}",
        "title": f"Species maps on the grid {grid}",
        "description": "Species distribution maps made by geomap; each Item says whether its values are "
        "suitability or probability.",
        "license": licences[0] if len(licences) == 1 else "other",
        "providers": _merged(m["properties"].get("providers", []) for m in members),
        "extent": {
            "spatial": {"bbox": [footprint(geobox)[1]]},
            "temporal": {"interval": [[starts[0], ends[-1]]]},
        },
        "summaries": {f"geomap:{key}": values for key, values in summary.items()},
        "links": [
            _link("root", COLLECTION),
            *(_link("item", f"{m['id']}.json", str(m["properties"]["title"])) for m in members),
        ],
    }


def to_json(document: Mapping[str, Any]) -> str:
    """A document as text; always the same for the same document."""
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def period(data: Mapping[str, Any]) -> tuple[str, str]:
    """First and last moment of the records in RFC 3339; `UNDATED` twice where nothing is said of it."""
    dates = data.get("period")
    if not dates:
        return UNDATED, UNDATED
    first, last = (str(np.datetime64(str(date)[:10], "D")) for date in dates)
    return f"{first}T00:00:00Z", f"{last}T23:59:59Z"


def spdx(licence: str) -> str:
    """A licence as STAC wants it: its SPDX identifier, or "other"; "CC BY-NC 4.0" is CC-BY-NC-4.0."""
    name = re.sub(r"\s+", "-", licence.strip())
    return name if re.fullmatch(r"(CC|ODbL|ODC|PDDL|MIT|LicenseRef)[\w.-]*", name) else "other"


def checksum(path: Path) -> str:
    """Multihash (sha2-256) of a file in hexadecimal, as the file extension has it."""
    return "1220" + sha256(path.read_bytes()).hexdigest()


def _properties(record: MapRecord) -> dict[str, Any]:
    """Common metadata, and all of ours under `geomap:`."""
    entry, facts = record.entry, record.facts
    undated = "" if record.data.get("period") else " Nothing is known of when the records were made."
    credits = (str(record.data.get("credit") or ""), record.tags.get("GEOMAP_IMAGERY_CREDIT", ""))
    return {
        "title": entry.title,
        "description": MEANINGS[entry.meaning] + undated,
        "license": spdx(str(record.data.get("licence") or "")),
        "providers": [{"name": name, "roles": ["producer"]} for name in credits if name],
        "geomap:species": entry.scientific,
        "geomap:vernacular": entry.vernacular,
        "geomap:group": entry.group,
        "geomap:meaning": entry.meaning,
        "geomap:grid": record.grid,
        "geomap:records": entry.records,
        "geomap:cells": facts.cells,
        "geomap:area_km2": round(facts.area_km2, 3),
        "geomap:threshold": entry.default_threshold,
        "geomap:thresholds": {
            key: known(
                {"value": t.value, "omission": t.omission, "area_km2": round(facts.area_above(t.value), 3)}
            )
            for key, t in entry.thresholds.items()
        },
        "geomap:scores": {key: known(score._asdict()) for key, score in entry.scores.items()},
        "geomap:n_test": entry.n_test,
        **{f"geomap:{key}": value for key, value in _identities(record.tags).items()},
    }


def _identities(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags that say which model, field and version made the map, under their names in lower case."""
    named = ("INPUTS", "MODEL", "ENCODER_HASH", "HEADS_HASH", "IMAGERY", "VERSION", "DATA_CREDIT", "LICENCE")
    return {key.lower(): tags[f"GEOMAP_{key}"] for key in named if f"GEOMAP_{key}" in tags}


def _cog_asset(record: MapRecord, cog: Path) -> pystac.Asset:
    statistics = {k: v for k, v in record.facts.statistics().items() if not math.isnan(v)}
    band = {
        "name": record.entry.slug,
        "description": f"{record.entry.scientific}: {record.entry.meaning}",
        "data_type": "float32",
        "nodata": NODATA,
        "unit": record.entry.meaning,
        "statistics": {**statistics, "valid_percent": _share(record)},
    }
    fields = {"bands": [band], "raster:sampling": "area", "raster:scale": 1.0, "raster:offset": 0.0}
    fields["raster:spatial_resolution"] = float(record.geobox.affine.a)
    return pystac.Asset(
        f"./{cog.name}",
        title=f"Map of {record.entry.title}",
        media_type=COG_TYPE,
        roles=["data"],
        extra_fields=fields,
    )


def _share(record: MapRecord) -> float:
    height, width = record.geobox.shape
    return round(100 * record.facts.cells / (height * width), 4)


def _extend(item: pystac.Item, record: MapRecord, cog: Path) -> None:
    """Add projection, raster, file and render extensions."""
    box, affine = record.geobox, record.geobox.affine
    crs = box.crs
    assert crs is not None  # every grid has one
    projection = ProjectionExtension.ext(item, add_if_missing=True)
    projection.apply(
        code=f"EPSG:{crs.epsg}" if crs.epsg else None, wkt2=None if crs.epsg else crs.to_wkt(),
        shape=[int(n) for n in box.shape], transform=[float(v) for v in affine[:6]],
        bbox=[float(v) for v in box.boundingbox.bbox],
    )  # fmt: skip
    file = FileExtension.ext(item.assets["map"], add_if_missing=True)
    file.apply(size=cog.stat().st_size, checksum=checksum(cog))
    item.stac_extensions.append(RASTER)
    title = f"{record.entry.meaning.capitalize()} from 0 to 1"
    render = Render.create(
        assets=["map"],
        title=title,
        rescale=[[0.0, 1.0]],
        nodata=NODATA,
        colormap_name=DEFAULT,
        resampling="nearest",
    )
    RenderExtension.ext(item, add_if_missing=True).apply({"map": render})


def _link(rel: str, name: str, title: str | None = None) -> dict[str, str]:
    kind = "application/geo+json" if rel == "item" else "application/json"
    return {"rel": rel, "href": f"./{name}", "type": kind} | ({"title": title} if title else {})


def _merged(lists: Iterable[Iterable[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """Every provider once, by name."""
    by_name = {str(provider["name"]): provider for providers in lists for provider in providers}
    return [by_name[name] for name in sorted(by_name)]
