"""Maps that lie in files: cloud-optimised GeoTIFFs of geomap.render, with one band or many.

A map of up to `LARGEST` cells is decoded once into steps, whose overviews are then averaged as in the file.
A larger one is read window by window, from the overview of the file that a tile needs.

A dataset is opened for one reading and belongs to the thread that reads. Maps are replaced by renaming, so a
dataset that is open goes on showing the old map: what is read is all old or all new.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from geomap.cog import GAP, SCALE
from geomap.errors import MapError
from geomap.footprint import footprint
from geomap.grid import Window
from geomap.stac import MEANINGS
from tiles.lru import Lru
from tiles.maps import About, Band, BBox, Steps
from tiles.pyramid import level_shape, overviews
from tiles.windows import check_window, cut

MONTH = re.compile(r"\s*\bin month (1[0-2]|[1-9])\b")
LARGEST = 16_000_000  # cells of a map that is held whole
SAMPLE = 1 << 20  # cells at most from which the range of a band is taken


@dataclass(frozen=True)
class MapFile:
    """A map file as it is found.

    Attributes:
        path: Path, or GDAL's name of a remote file.
        stamp: Something that changes with the file: size and time, or an entity tag.
        options: GDAL's settings while it is read.
    """

    path: str
    stamp: str
    options: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False)

    @contextmanager
    def opened(self, level: int = 0) -> Iterator[Any]:
        """The dataset at an overview level of the file, for one thread and one reading.

        Raises:
            MapError: It is missing, truncated or corrupt.
        """
        more = {} if level == 0 else {"overview_level": level - 1}
        try:
            options = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", **self.options}  # no .aux.xml beside it
            with rasterio.Env(**options), rasterio.open(self.path, driver="GTiff", **more) as source:
                yield source
        except (RasterioError, OSError) as error:
            found = f"{self.path}: {error.__cause__ or error}"
            raise MapError("cannot read the map", found, "render it again with --overwrite") from error


@dataclass(frozen=True)
class Layout:
    """Where the cells of a file lie, what its bands are, and what it says of itself."""

    crs: str
    transform: Affine
    shape: tuple[int, int]
    bbox: BBox
    bands: tuple[Band, ...]
    tags: dict[str, str] = field(hash=False)
    levels: int  # overviews in the file


@dataclass(frozen=True, eq=False)
class StoredMap:
    """A map from a file; see `tiles.maps.SpeciesMap`.

    Attributes:
        about: What is known of it.
        file: The file.
        layout: What it holds.
        kept: Keeps decoded bands: level 0 alone, or all overviews.
    """

    about: About
    file: MapFile
    layout: Layout
    kept: Lru[tuple[Steps, ...]]

    @property
    def crs(self) -> str:
        """CRS of the grid."""
        return self.layout.crs

    @property
    def transform(self) -> Affine:
        """From column, row to x, y."""
        return self.layout.transform

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return self.layout.shape

    @property
    def bbox(self) -> BBox:
        """West, south, east, north in degrees."""
        return self.layout.bbox

    def steps(self, window: Window, level: int = 0, band: int = 0) -> Steps:
        """Cells of a window; see `tiles.maps.SpeciesMap.steps`.

        Raises:
            GridError: No such window, level or band.
            MapError: The file is missing or corrupt.
        """
        check_window(self.shape, window, level, band, len(self.layout.bands))
        base = self._base
        if level < base:
            return self._read(window, level, band)
        if level == base:
            return cut(self._whole(band), window)
        return cut(
            self._kept("overviews", band, lambda: overviews(self._whole(band)))[level - base - 1], window
        )

    @property
    def _base(self) -> int:
        """The first level that is held whole."""
        for level in range(self.layout.levels):
            height, width = level_shape(self.shape, level)
            if height * width <= min(LARGEST, self.kept.limit // 8):
                return level
        return self.layout.levels

    def _whole(self, band: int) -> Steps:
        window = Window(0, 0, *level_shape(self.shape, self._base))
        return self._kept("cells", band, lambda: (self._read(window, self._base, band),))[0]

    def _kept(self, what: str, band: int, make: Callable[[], tuple[Steps, ...]]) -> tuple[Steps, ...]:
        return self.kept.get((self.file.path, self.file.stamp, what, band), make)

    def _read(self, window: Window, level: int, band: int) -> Steps:
        row, col, height, width = window
        with self.file.opened(level) as source:
            if (source.height, source.width) != level_shape(self.shape, level):
                found = f"{self.file.path} has {source.height} x {source.width} cells now"
                raise MapError("cannot read the map", found, "ask again: it was replaced")
            values = source.read(band + 1, window=RasterWindow(col, row, width, height), masked=True)
        steps = to_band_steps(np.ma.getdata(values), ~np.ma.getmaskarray(values), self.layout.bands[band])
        steps.flags.writeable = False
        return steps


def to_band_steps(values: NDArray[Any], valid: NDArray[np.bool_], band: Band) -> Steps:
    """Values of a band as steps between its ends, clipped there; `GAP` where not valid or not finite."""
    valid = valid & np.isfinite(values)
    share = (np.where(valid, values, band.low).astype(np.float64) - band.low) / (band.high - band.low)
    return np.where(valid, np.rint(np.clip(share, 0, 1) * SCALE), GAP).astype(np.uint16)


def read_layout(file: MapFile, meaning: str | None = None) -> Layout:
    """What a map file holds.

    Args:
        file: The file.
        meaning: Name of the first band, where it is known already.

    Raises:
        MapError: It is missing or corrupt, or has no CRS.
    """
    with file.opened() as source:
        if source.crs is None or source.count == 0:
            change = "render it again with --overwrite"
            raise MapError("cannot read the map", f"{file.path} states no CRS, or has no band", change)
        epsg = source.crs.to_epsg()
        crs = f"EPSG:{epsg}" if epsg else source.crs.to_wkt()
        said = [
            (text or "", unit or "") for text, unit in zip(source.descriptions, source.units, strict=True)
        ]
        ranges = _ranges(source, [unit for _, unit in said])
        shape = (source.height, source.width)
        west, south, east, north = footprint(GeoBox(shape, source.transform, crs))[1]
        bands = _bands(said, ranges, meaning)
        levels = len(source.overviews(1))
        return Layout(crs, source.transform, shape, (west, south, east, north), bands, source.tags(), levels)


def _bands(
    said: Sequence[tuple[str, str]], ranges: Mapping[str, tuple[float, float]], meaning: str | None
) -> tuple[Band, ...]:
    """Bands from their descriptions and units; every name is another."""
    bands: list[Band] = []
    for number, (text, unit) in enumerate(said):
        if number == 0 and (meaning or unit) in MEANINGS and (meaning or text.endswith(f": {unit}")):
            name = meaning or unit
        else:
            name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or f"band-{number + 1}"
        if name in [band.name for band in bands]:
            name = f"{name}-{number + 1}"
        month = MONTH.search(text)
        low, high = ranges[unit]
        bands.append(Band(name, text or name, unit, low, high, int(month[1]) if month else None))
    return tuple(bands)


def _ranges(source: Any, units: Sequence[str]) -> dict[str, tuple[float, float]]:
    """The range that bands of a unit are drawn in: 0..1, or for other units what they span together."""
    ranges = {unit: (0.0, 1.0) for unit in units if unit in MEANINGS or not unit}
    shrink = max(1.0, float(np.sqrt(source.height * source.width / SAMPLE)))
    shape = (max(1, int(source.height / shrink)), max(1, int(source.width / shrink)))
    for unit in {unit for unit in units if unit not in ranges}:
        spans = []
        for number in [number for number, each in enumerate(units, start=1) if each == unit]:
            values = source.read(number, out_shape=shape, masked=True).compressed()
            values = values[np.isfinite(values)]
            spans += [(float(values.min()), float(values.max()))] if values.size else []
        low, high = (min(low for low, _ in spans), max(high for _, high in spans)) if spans else (0.0, 1.0)
        low, high = float(np.floor(low * 100) / 100), float(np.ceil(high * 100) / 100)
        ranges[unit] = (low, high if high > low else low + 0.01)
    return ranges
