"""Maps as JSON: one line of a list, everything of one map, the links between answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from fastapi import Request

from tiles import words
from tiles.maps import About, SpeciesMap
from tiles.parameters import TMS
from tiles.shown import ordered_grids, unique


def root(request: Request) -> str:
    """The prefix of a proxy before every address, without a slash at its end; mostly empty."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def origin(request: Request) -> str:
    """The whole address of the server as the client sees it, with the prefix, without a slash at its end."""
    return str(request.base_url).rstrip("/")


def query_of(about: About, **more: str | None) -> str:
    """The query that names one map among those of its species, and its version."""
    names = {"grid": about.grid, "group": about.group or None, "v": about.version, **more}
    return urlencode({key: value for key, value in names.items() if value})


def links(about: About, base: str) -> dict[str, str]:
    """Addresses of everything there is of a map; those of tiles are templates.

    Args:
        about: The map.
        base: What stands before `/species`.
    """
    home, query = f"{base}/species/{about.id}", query_of(about)
    plain = query_of(about, v=None)
    tiles = f"{home}/tiles/{TMS[0]}/{{z}}/{{x}}/{{y}}"
    return {
        "self": f"{home}?{plain}",
        "tiles": f"{tiles}.png?{query}",
        "values": f"{tiles}/value?{query}",
        "tilejson": f"{home}/tilejson.json?{plain}",
        "wmts": f"{home}/WMTSCapabilities.xml?{plain}",
        "tilesets": f"{home}/tiles?{plain}",
        "legend": f"{home}/legend.json?{query}",
        "point": f"{home}/point/{{lon}},{{lat}}?{plain}",
        "stats": f"{home}/stats?{query}",
        "summary": f"{home}/summary?{plain}",
        "download": f"{home}/download?{plain}",
        "records": f"{home}/records?{plain}",
        "citation": f"{home}/citation?{plain}",
        "stac": f"{base}/stac",
    }


def summary(maps: Sequence[About], base: str) -> dict[str, Any]:
    """One species of a list, by the best of its maps."""
    about = maps[0]
    best = [each for each in maps if each.group == about.group]
    grids = ordered_grids(best)
    about = next(each for each in best if each.grid == grids[0])
    return {
        "id": about.id,
        "scientificName": about.scientific,
        "vernacularName": about.vernacular,
        "synonyms": synonyms(maps),
        "group": about.group,
        "groups": unique(each.group for each in maps),
        "grid": about.grid,
        "grids": ordered_grids(maps),
        "meaning": about.meaning,
        "records": about.records,
        "version": about.version,
        "href": f"{base}/species/{about.id}",
    }


def synonyms(maps: Sequence[About]) -> list[str]:
    """Other scientific names of a species than that of its best map."""
    every = [name for each in maps for name in (each.scientific, *each.synonyms)]
    return [name for name in unique(every) if name != maps[0].scientific]


def description(
    chosen: SpeciesMap, maps: Sequence[About], areas: Mapping[str, float], base: str
) -> dict[str, Any]:
    """Everything that is known of a map.

    Args:
        chosen: The map.
        maps: All maps of its species, the best first.
        areas: Threshold -> true area [km²] at or above it.
        base: What stands before `/species`.
    """
    about = chosen.about
    several = [each for each in maps if each.group == about.group]
    months = sorted({band.month for band in about.bands if band.month is not None})
    return {
        **summary(maps, base),
        "id": about.id,
        "scientificName": about.scientific,
        "vernacularName": about.vernacular,
        "group": about.group,
        "grid": about.grid,
        "grids": ordered_grids(several),
        "meaning": about.meaning,
        "unit": about.bands[0].unit,
        "explanation": words.explanation(about),
        "records": about.records,
        "n_test": about.n_test,
        "version": about.version,
        "bbox": list(chosen.bbox),
        "crs": chosen.crs,
        "resolution": resolution(chosen),
        "thresholds": {key: threshold(about, key, areas) for key in about.thresholds if known(about, key)},
        "default_threshold": default_threshold(about),
        "scores": {key: score._asdict() for key, score in about.scores.items()},
        "layers": [band._asdict() for band in about.bands],
        "months": months or None,
        "stored": about.stored,
        "nodata": words.NODATA,
        "credit": dict(about.credit),
        "links": links(about, base),
    }


def threshold(about: About, key: str, areas: Mapping[str, float]) -> dict[str, Any]:
    """One threshold with its omission, its area and its meaning."""
    found = about.thresholds[key]
    return {
        "value": found.value,
        "omission": found.omission,
        "area_km2": areas.get(key),
        "label": words.label(key),
        "explanation": words.about_threshold(key, found),
    }


def known(about: About, key: str) -> bool:
    """Whether the value of a threshold is known."""
    return not math.isnan(about.thresholds[key].value)


def default_threshold(about: About) -> str | None:
    """The threshold to use when none is asked for; None where none is known."""
    key = about.default_threshold
    if key is not None and key in about.thresholds and known(about, key):
        return key
    return next((each for each in about.thresholds if known(about, each)), None)


def resolution(chosen: SpeciesMap) -> float:
    """Side of a cell in units of the CRS."""
    return abs(float(chosen.transform.a))
