"""Imagery from STAC: a static catalogue, collection or item, or an API that is searched for each window.

    stac+https://HOST/stac#collection=NAME&assets=red,green,blue&datetime=2023-06/2023-08&composite=median

After the `#`: `collection` (an id), `assets` (their names in the order of the bands; needed where items have
more than one raster), `datetime` (`2023`, `2023-06`, `2023-06-01`, or two of them joined by `/`, `..` for an
open end) and `composite`: `first` takes each pixel from the newest item that has it, `median` the median
of all. Pixels are read and put onto a geobox just as those of a single raster are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pystac_client
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geomap.errors import ImageryError
from geomap.raster_source import RasterSource
from geomap.stac_items import (
    BBox,
    Item,
    Query,
    boxes_of,
    known_extent,
    overlap,
    parse_query,
    read_root,
    refused,
    search,
    shown,
    static_items,
)

MOST_ITEMS = 500  # that one window may need


@dataclass(frozen=True)
class StacSource:
    """The items of a STAC catalogue as one image; small and picklable.

    Attributes:
        address: Path or URL of the catalogue or API.
        query: What to use of it.
        items: All items of a static catalogue; None for an API, which is searched for each read.
        boxes: Where there may be imagery: west, south, east, north in degrees.
        layers: Number of bands in an item's rasters together.
        chosen: Which of them to give, 1 is the first.
        id: Identity for records of what was read.
    """

    address: str
    query: Query
    items: tuple[Item, ...] | None
    boxes: tuple[BBox, ...]
    layers: int
    chosen: tuple[int, ...]
    id: str

    @classmethod
    def open(cls, address: str, bands: Sequence[int] | None = None) -> StacSource:
        """Looks at a catalogue and its first item.

        Args:
            address: Path or URL, with options after a `#` as in the header of this module.
            bands: Bands of the joined assets to read, 1 is the first; default all.

        Raises:
            ImageryError: It cannot be reached or read, an option is unknown, it has no item, or an item lacks
                the assets.
        """
        address, _, options = address.partition("#")
        query = parse_query(options)
        with refused(address):
            root = read_root(address)
            if isinstance(root, pystac_client.Client):
                items, some, boxes = None, search(root, address, query, None, 1), known_extent(root, query)
            else:
                items = some = tuple(static_items(root, address, query))
                boxes = tuple(box for item in items for box in item.boxes)
        if not some:
            raise ImageryError(
                "cannot find imagery", f"{address} has no item {shown(query)}", "Widen the search."
            )
        layers = sum(raster(href).bands for href in some[0].hrefs)
        chosen = tuple(bands) if bands is not None else tuple(range(1, layers + 1))
        if not chosen or not all(1 <= band <= layers for band in chosen):
            change = f"Choose among the bands 1 to {layers}."
            raise ImageryError("cannot read the bands", f"{list(chosen)} of {address}", change)
        return cls(address, query, items, boxes, layers, chosen, _identity(address, query, items, chosen))

    @property
    def bands(self) -> int:
        """Number of bands that `read` gives."""
        return len(self.chosen)

    def read(self, geobox: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The composite of all items on a geobox; see `geomap.imagery.ImagerySource.read`.

        Raises:
            ImageryError: The API or a raster cannot be read, or items differ in their bands.
        """
        layers = (self._layer(item, geobox) for item in self._items(geobox))
        shape = int(geobox.height), int(geobox.width)
        if self.query.composite == "median":
            return _median(list(layers), (self.bands, *shape))
        values, valid = np.zeros((self.bands, *shape), np.float32), np.zeros(shape, bool)
        for layer, has in layers:
            new = has & ~valid
            values[:, new] = layer[:, new]
            valid |= new
            if valid.all():
                break
        return values, valid

    def covers(self, lonlat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points (n, 2) lon, lat lie in the box of an item, or of the API's collection: (n,) bool."""
        inside = np.zeros(len(lonlat), bool)
        for west, south, east, north in self.boxes:
            inside |= (
                (lonlat[:, 0] >= west)
                & (lonlat[:, 0] <= east)
                & (lonlat[:, 1] >= south)
                & (lonlat[:, 1] <= north)
            )
        return inside

    def _items(self, geobox: GeoBox) -> list[Item]:
        """The items that may touch a geobox, the newest first; of one day in the order of their ids."""
        areas = boxes_of(geobox)
        if self.items is not None:
            found = [item for item in self.items if any(overlap(a, b) for a in areas for b in item.boxes)]
        else:
            with refused(self.address):
                found = [item for area in areas for item in self._search(area)]
        if len(found) > MOST_ITEMS:
            much = f"more than {MOST_ITEMS} items of {self.address} for one window"
            raise ImageryError("cannot read so many items", much, "Narrow the search by #datetime=... .")
        return sorted(sorted(set(found), key=lambda item: item.id), key=lambda item: item.day, reverse=True)

    def _search(self, area: BBox) -> tuple[Item, ...]:
        client = read_root(self.address)
        assert isinstance(client, pystac_client.Client)  # as it was when the source was opened
        return search(client, self.address, self.query, area, MOST_ITEMS + 1)

    def _layer(self, item: Item, geobox: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The rasters of one item on a geobox; a pixel is valid where all of them are."""
        sources = [raster(href) for href in item.hrefs]
        layers = sum(source.bands for source in sources)
        if layers != self.layers:
            found = f"item '{item.id}' has {layers}, others {self.layers}"
            raise ImageryError(
                "cannot join items with different numbers of bands", found, "Choose #assets=... ."
            )
        parts = [source.read(geobox) for source in sources]
        valid = np.logical_and.reduce([part[1] for part in parts])
        values = np.concatenate([part[0] for part in parts])[np.array(self.chosen) - 1]
        return np.where(valid, values, np.float32(0)), valid


@lru_cache(maxsize=1024)
def raster(href: str) -> RasterSource:
    """The raster behind an asset; what was learnt of it on opening is kept."""
    return RasterSource.open(href)


def _median(
    layers: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]], shape: tuple[int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The median of the valid layers of each pixel (bands, h, w), 0 without one, and where there is one."""
    stacked = [np.where(valid, values, np.float32(np.nan)) for values, valid in layers]
    values, valid = np.zeros(shape, np.float32), np.zeros(shape[1:], bool)
    if stacked:
        stack = np.stack(stacked)
        valid = np.isfinite(stack[:, 0]).any(axis=0)
        values[:, valid] = np.nanmedian(stack[:, :, valid], axis=0)
    return values, valid


def _identity(address: str, query: Query, items: tuple[Item, ...] | None, chosen: tuple[int, ...]) -> str:
    """Name and digest of what is read; paths of folders are left out."""
    name = (
        address.rstrip("/").rsplit("/", 1)[-1]
        if items is not None
        else address.partition("://")[2].rstrip("/")
    )
    parts = [[item.id, item.day, [href.rsplit("/", 1)[-1] for href in item.hrefs]] for item in items or ()]
    digest = hashlib.sha256(json.dumps([name, query, parts, chosen]).encode()).hexdigest()
    return f"{name}#{digest[:16]}"
