"""Finds the items of a STAC catalogue or API: where they are, and which of their rasters hold the bands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import numpy as np
import pystac
import pystac_client
from odc.geo.geobox import GeoBox
from pystac_client.exceptions import APIError
from urllib3.exceptions import HTTPError

from geomap.errors import ImageryError
from geomap.projection import WGS84, project
from geomap.regions import run_on

OPTIONS = ("collection", "assets", "datetime", "composite")
COMPOSITES = ("first", "median")
NOT_IMAGERY = {"thumbnail", "overview", "metadata"}  # roles of assets that are pictures or text about an item
TIMEOUT_S = 60.0

BBox = tuple[float, float, float, float]


class Item(NamedTuple):
    """What is needed of a STAC item: id, time, boxes within -180..180, rasters in the order of the bands."""

    id: str
    day: str
    boxes: tuple[BBox, ...]
    hrefs: tuple[str, ...]


class Query(NamedTuple):
    """What to use of a catalogue."""

    collection: str | None
    assets: tuple[str, ...]
    datetime: str | None
    composite: str


@lru_cache(maxsize=16)
def read_root(address: str) -> pystac_client.Client | pystac.STACObject:
    """An API's client where the address offers a search, else the static catalogue, collection or item."""
    if address.startswith(("http://", "https://")) and not address.endswith(".json"):
        client = pystac_client.Client.open(address, timeout=TIMEOUT_S)
        if client.get_search_link() is not None:
            return client
    return pystac.read_file(address)


@contextmanager
def refused(address: str) -> Iterator[None]:
    """Turns what the STAC libraries raise into our own refusal."""
    try:
        yield
    except ImageryError:
        raise
    except (APIError, HTTPError, pystac.STACError, OSError, ValueError, KeyError) as error:
        change = "Check the address, and that the server can be reached."
        raise ImageryError("cannot read the STAC catalogue", f"{address}: {error!r}", change) from error


def parse_query(options: str) -> Query:
    """The options after the `#` of an address."""
    given = dict(parse_qsl(options, keep_blank_values=True))
    unknown = sorted(set(given) - set(OPTIONS))
    if unknown or (options and not given):
        raise ImageryError(
            "cannot use the options", f"'{options}'", f"Use {', '.join(OPTIONS)} as NAME=VALUE joined by &."
        )
    composite = given.get("composite", "first")
    if composite not in COMPOSITES:
        raise ImageryError("cannot make the composite", f"'{composite}'", f"Use {' or '.join(COMPOSITES)}.")
    assets = tuple(name for name in given.get("assets", "").split(",") if name)
    return Query(given.get("collection"), assets, given.get("datetime"), composite)


def shown(query: Query) -> str:
    """The query in words."""
    parts = [f"{name} {value}" for name, value in (("of", query.collection), ("in", query.datetime)) if value]
    return " ".join(parts) or "at all"


def static_items(root: Any, address: str, query: Query) -> Iterator[Item]:
    """All items below a static catalogue that the query asks for."""
    for item in [root] if isinstance(root, pystac.Item) else root.get_items(recursive=True):
        if query.collection in (None, item.collection_id) and _within(_day(item), query.datetime):
            yield _item(item, address, query)


def search(
    client: pystac_client.Client, address: str, query: Query, area: BBox | None, limit: int
) -> tuple[Item, ...]:
    """Up to `limit` items of an API that touch an area (None: anywhere)."""
    collections = [query.collection] if query.collection else None
    found = client.search(collections=collections, bbox=area, datetime=query.datetime, max_items=limit)
    return tuple(_item(item, address, query) for item in found.items())


def known_extent(client: pystac_client.Client, query: Query) -> tuple[BBox, ...]:
    """Where an API may have imagery: the extent of the collection, else the world."""
    if query.collection is None:
        return ((-180.0, -90.0, 180.0, 90.0),)
    collection = client.get_collection(query.collection)
    if collection is None:
        raise ImageryError(
            "cannot find the collection", f"'{query.collection}'", "Use one that the API offers."
        )
    return tuple(box for bbox in collection.extent.spatial.bboxes for box in _split(bbox))


def _item(item: pystac.Item, address: str, query: Query) -> Item:
    """What is needed of an item."""
    rasters = {name: asset for name, asset in item.assets.items() if not NOT_IMAGERY & set(asset.roles or ())}
    names = query.assets or tuple(rasters)
    if not names or (len(names) > 1 and not query.assets) or any(name not in item.assets for name in names):
        found = f"item '{item.id}' of {address} has the assets {', '.join(item.assets) or '(none)'}"
        wanted = ", ".join(query.assets)
        what = f"cannot find the assets {wanted}" if wanted else "cannot tell which asset to read"
        raise ImageryError(what, found, "Name the assets: #assets=NAME,NAME in the order of the bands.")
    if item.bbox is None:
        raise ImageryError(
            "cannot place an item on the map", f"'{item.id}' of {address} has no bbox", "Add its bbox."
        )
    hrefs = tuple(item.assets[name].get_absolute_href() or item.assets[name].href for name in names)
    return Item(item.id, _day(item), tuple(_split(item.bbox)), hrefs)


def _day(item: pystac.Item) -> str:
    """Date and time of an item as ISO text, else the start of its time range."""
    return item.datetime.isoformat() if item.datetime else str(item.properties.get("start_datetime", ""))


def _within(day: str, wanted: str | None) -> bool:
    """Whether an ISO time lies in a time or range of shorter ISO texts; `..` is open."""
    if wanted is None:
        return True
    start, _, end = wanted.partition("/") if "/" in wanted else (wanted, "", wanted)
    return (start in ("", "..") or day >= start) and (end in ("", "..") or day[: len(end)] <= end)


def _split(bbox: Sequence[float]) -> Iterator[BBox]:
    """A STAC bbox (4 or 6 numbers, west > east across the antimeridian) as boxes within -180..180."""
    west, south, east, north = bbox[0], bbox[1], bbox[len(bbox) // 2], bbox[len(bbox) // 2 + 1]
    if west > east:
        yield west, south, 180.0, north
        yield -180.0, south, east, north
    else:
        yield west, south, east, north


def overlap(a: BBox, b: BBox) -> bool:
    """Whether two boxes share a point."""
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def boxes_of(geobox: GeoBox) -> list[BBox]:
    """Boxes within -180..180 that hold a geobox and a little around it; none if it is nowhere on earth."""
    affine, steps = geobox.affine, np.linspace(0, 1, 33)
    col, row = (at.ravel() for at in np.meshgrid(steps * int(geobox.width), steps * int(geobox.height)))
    xy = np.column_stack(
        [affine.a * col + affine.b * row + affine.c, affine.d * col + affine.e * row + affine.f]
    )
    lonlat = project(xy, str(geobox.crs), WGS84)
    lonlat = lonlat[np.isfinite(lonlat).all(axis=1)]
    if not len(lonlat):
        return []
    (west, south), (east, north) = run_on(lonlat).min(axis=0), run_on(lonlat).max(axis=0)
    room = max(east - west, north - south) / 32 + 1e-6
    west, east = west - room, east + room
    south, north = max(south - room, -90.0), min(north + room, 90.0)
    if east - west >= 350 or max(-south, north) > 89:  # around a pole, or nearly
        return [(-180.0, south, 180.0, north)]
    west, east = (west + 180) % 360 - 180, (east + 180) % 360 - 180
    return list(_split((west, south, east, north)))
