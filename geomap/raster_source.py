"""Imagery from one raster: a GeoTIFF, COG, VRT or anything else GDAL opens, on disk or behind a URL."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj.exceptions import CRSError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geomap.errors import ImageryError
from geomap.projection import WGS84, metres_per_unit, project, world_width
from geomap.resample import Pixels, resample

REMOTE = ("http://", "https://", "s3://", "gs://", "az://", "/vsi")
GDAL_OPTIONS = {
    "GDAL_CACHEMAX": 64_000_000,  # bytes; GDAL's own default grows with the machine
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",  # else a damaged JPEG tile comes back grey
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
}
ACROSS = 1.5  # raster pixels at least across a pixel read from an overview
PIECE, PIECES = 2**16, 32  # bytes in a piece, and pieces, that tell a file from another of its name and size
STRIP = 2**24  # pixels that are averaged at a time where overviews are missing


@dataclass(frozen=True)
class RasterSource:
    """A raster that can be read onto any geobox; small and picklable, the file is opened for each read.

    Attributes:
        uri: Path or URL.
        indexes: The bands to read, 1 is the first.
        pixels: Lattice of the full-size raster.
        overviews: Factors of the file's overviews, ascending.
        pixel_m: Size of the largest pixel on the ground [m].
        id: Identity for records of what was read: file name and a digest of name, bytes and layout.
    """

    uri: str
    indexes: tuple[int, ...]
    pixels: Pixels
    overviews: tuple[int, ...]
    pixel_m: float
    id: str

    @classmethod
    def open(cls, uri: str | Path, bands: Sequence[int] | None = None) -> RasterSource:
        """Looks at a raster and says how it can be read.

        Args:
            uri: Path or URL of anything GDAL opens.
            bands: Bands to read, 1 is the first; default: all but alpha.

        Raises:
            ImageryError: It cannot be opened, has no CRS, no such band, or colours from a palette.
        """
        uri = str(uri)
        with opened(uri) as raster:
            pixels = _pixels(raster, uri)
            indexes = _indexes(raster, uri, bands)
            overviews = tuple(sorted(raster.overviews(1)))
            return cls(uri, indexes, pixels, overviews, _ground_size(pixels), _identity(raster, uri, indexes))

    @property
    def bands(self) -> int:
        """Number of bands that `read` gives."""
        return len(self.indexes)

    def read(self, geobox: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The imagery on a geobox; see `geomap.imagery.ImagerySource.read`.

        Raises:
            ImageryError: The file cannot be read any more, or is damaged where it is read.
        """
        level, factor, pixels = self._level(geobox)
        with opened(self.uri, level) as raster:
            read: Callable[..., Any] = partial(_read_pixels, raster, self.indexes)
            if factor > 1:
                read = partial(_read_means, read, factor, (raster.height, raster.width))
            try:
                return resample(read, pixels, self.bands, geobox)
            except RasterioError as error:
                raise _damaged(self.uri, error) from error

    def covers(self, lonlat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points (n, 2) lon, lat in degrees lie within the raster's frame: (n,) bool."""
        col, row = self.pixels.colrow(project(np.asarray(lonlat, np.float64), WGS84, self.pixels.crs))
        col = self.pixels.nearest_turn(col)
        height, width = self.pixels.shape
        return np.asarray((col >= 0) & (col <= width) & (row >= 0) & (row <= height))

    def _level(self, geobox: GeoBox) -> tuple[int | None, int, Pixels]:
        """Overview to open (None: full size), how many of its pixels each way to average, and their lattice.

        They follow from the size of the geobox's pixels alone: neighbouring windows read the same pixels.
        """
        height, width = self.pixels.shape
        metres = abs(geobox.affine.a * geobox.affine.e - geobox.affine.b * geobox.affine.d) ** 0.5
        metres *= metres_per_unit(pyproj.CRS(str(geobox.crs)))
        coarsest = max(metres / self.pixel_m / ACROSS * (1 + 1e-9), 1.0)
        fits = [f for f in self.overviews if f <= coarsest and not (self.pixels.closed and width % f)]
        overview = fits[-1] if fits else 1
        factor = 2 ** math.floor(math.log2(coarsest / overview))
        shape = -(-height // overview), -(-width // overview)  # as GDAL rounds
        while self.pixels.closed and shape[1] % factor:
            factor //= 2
        scale = Affine.scale(width / shape[1] * factor, height / shape[0] * factor)
        coarse = -(-shape[0] // factor), -(-shape[1] // factor)
        pixels = replace(self.pixels, transform=self.pixels.transform @ scale, shape=coarse)
        return self.overviews.index(overview) if fits else None, factor, pixels


@contextmanager
def opened(uri: str, level: int | None = None) -> Iterator[Any]:
    """The raster, or one of its overviews, with GDAL set up to be quiet and strict.

    Raises:
        ImageryError: It cannot be opened.
    """
    options = dict(GDAL_OPTIONS)
    if uri.startswith(REMOTE):
        options["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"
    choice = {} if level is None else {"overview_level": level}
    with rasterio.Env(**options):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)  # refused with our own words
                raster = rasterio.open(uri, **choice)
        except RasterioError as error:
            change = "Give the path or URL of a GeoTIFF, COG or VRT that GDAL can open."
            raise ImageryError("cannot open the imagery", f"{uri}: {error}", change) from error
        with raster:
            yield raster


def _pixels(raster: Any, uri: str) -> Pixels:
    """The lattice of a raster."""
    if raster.crs is None or raster.transform.is_identity:
        missing = "a CRS" if raster.crs is None else "a georeference"
        change = "Georeference it: gdal_translate -a_srs EPSG:CODE -a_ullr LEFT TOP RIGHT BOTTOM IN OUT.tif"
        raise ImageryError("cannot place the imagery on the map", f"{uri} has not {missing}", change)
    try:
        crs = pyproj.CRS(raster.crs.to_wkt()).to_string()
    except CRSError as error:
        raise ImageryError(
            "cannot use the imagery's CRS", f"{uri}: {error}", "Reproject it first."
        ) from error
    open_ended = Pixels(crs, raster.transform, (raster.height, raster.width), closed=False)
    around = open_ended.period
    closed = around is not None and abs(around - round(around)) < 0.01 and raster.width == round(around)
    if closed:  # the width to the last digit, so that the columns close without a gap
        width = world_width(crs) or 0.0
        step = math.copysign(width / raster.width, raster.transform.a)
        transform = Affine(step, 0, raster.transform.c, 0, raster.transform.e, raster.transform.f)
        return replace(open_ended, transform=transform, closed=True)
    return open_ended


def _indexes(raster: Any, uri: str, bands: Sequence[int] | None) -> tuple[int, ...]:
    """The bands to read."""
    if bands is None:
        chosen = tuple(i for i in raster.indexes if raster.colorinterp[i - 1] != ColorInterp.alpha)
    else:
        chosen = tuple(int(band) for band in bands)
    wrong = [band for band in chosen if band not in raster.indexes]
    if wrong or not chosen:
        change = f"Choose among the bands 1 to {raster.count}."
        raise ImageryError("cannot read the bands", f"{list(chosen)} of {uri}", change)
    if any(raster.colorinterp[band - 1] == ColorInterp.palette for band in chosen):
        change = "Make true colours of it: gdal_translate -expand rgb IN OUT.tif"
        raise ImageryError("cannot average colours of a palette", f"{uri} is paletted", change)
    return chosen


def _ground_size(pixels: Pixels) -> float:
    """The side of the largest of 9 x 9 pixels spread over a raster [m on the ground]."""
    height, width = pixels.shape
    col, row = (at.ravel() for at in np.meshgrid(np.linspace(0, width, 9), np.linspace(0, height, 9)))
    affine = pixels.transform

    def lonlat(dx: float, dy: float) -> NDArray[np.float64]:
        x = affine.a * (col + dx) + affine.b * (row + dy) + affine.c
        y = affine.d * (col + dx) + affine.e * (row + dy) + affine.f
        return project(np.column_stack([x, y]), pixels.crs, WGS84)

    geod, here = pyproj.Geod(ellps="WGS84"), lonlat(0, 0)
    sides = [geod.inv(*here.T, *lonlat(*step).T)[2] for step in ((1e-3, 0.0), (0.0, 1e-3))]
    size = np.max(sides, axis=0) * 1e3
    size = size[np.isfinite(size)]
    return float(size.max()) if len(size) else float(abs(affine.a))


def _identity(raster: Any, uri: str, indexes: tuple[int, ...]) -> str:
    """File name and a digest of what tells files apart without the folder or the time they were written.

    Of a file on this machine some of the bytes go in, too: a mosaic that was made anew has other pixels, but
    often the size and layout of the one before.
    """
    name = uri.rstrip("/").rsplit("/", 1)[-1]
    size, sample = _sampled(Path(uri)) if Path(uri).is_file() else (None, None)
    layout = [raster.crs.to_wkt(), list(raster.transform)[:6], raster.shape, raster.dtypes, raster.nodatavals]
    digest = hashlib.sha256(
        json.dumps([name, size, sample, indexes, layout], default=str).encode()
    ).hexdigest()
    return f"{name}#{digest[:16]}"


def _sampled(path: Path) -> tuple[int, str]:
    """Size of a file [bytes], and a digest of its bytes: all of a small file, 2 MiB of a large one."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in sorted({round(part * max(size - PIECE, 0) / (PIECES - 1)) for part in range(PIECES)}):
            file.seek(start)
            digest.update(file.read(PIECE))
    return size, digest.hexdigest()


def _read_pixels(
    raster: Any, indexes: tuple[int, ...], row: int, col: int, height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values (bands, h, w) float32 and valid (h, w) of a window of the raster.

    Valid is where nodata, masks and NaN leave every band, and alpha is above 0 unless it is read as a band.
    """
    window = rasterio.windows.Window(col, row, width, height)
    values = raster.read(indexes, window=window).astype(np.float32)
    valid = np.isfinite(values).all(axis=0)
    flags = [raster.mask_flag_enums[band - 1] for band in indexes]
    if any(MaskFlags.all_valid not in flag and MaskFlags.alpha not in flag for flag in flags):
        valid &= (raster.read_masks(indexes, window=window) > 0).all(axis=0)
    for band in raster.indexes:  # GDAL's own masks know alpha in some data types only
        if raster.colorinterp[band - 1] == ColorInterp.alpha and band not in indexes:
            valid &= raster.read(band, window=window) > 0
    return values, valid


def _read_means(
    read: Callable[..., tuple[NDArray[np.float32], NDArray[np.bool_]]],
    factor: int,
    shape: tuple[int, int],
    *window: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The same of factor x factor means of valid pixels, blocks counted from the raster's first pixel.

    A mean is valid where at least half of its pixels are; those beyond the raster do not count.
    """
    row, col, height, width = window
    lines = max(STRIP // (width * factor * factor), 1)  # of means in a strip
    strips = []
    for first in range(row, row + height, lines):
        tall = min(lines, row + height - first)
        top, left = first * factor, col * factor
        bottom, right = min(top + tall * factor, shape[0]), min(left + width * factor, shape[1])
        values, valid = read(top, left, bottom - top, right - left)
        pad = (0, tall * factor - (bottom - top)), (0, width * factor - (right - left))
        inside = _block_sums(np.pad(np.ones_like(valid), pad), factor)
        count = _block_sums(np.pad(valid, pad), factor)
        total = _block_sums(np.pad(np.where(valid, values, 0), ((0, 0), *pad)), factor)
        strips.append((total / np.maximum(count, 1), (count >= inside / 2) & (count > 0)))
    values, valid = (np.concatenate([strip[k] for strip in strips], axis=-2) for k in (0, 1))
    return values.astype(np.float32), valid.astype(bool)


def _block_sums(image: NDArray[Any], factor: int) -> NDArray[np.float64]:
    """Sums over factor x factor blocks of the last two axes."""
    height, width = image.shape[-2] // factor, image.shape[-1] // factor
    blocks = image.reshape(*image.shape[:-2], height, factor, width, factor)
    return np.asarray(blocks.sum(axis=(-3, -1), dtype=np.float64))


def _damaged(uri: str, error: Exception) -> ImageryError:
    found = f"{uri}: {error.__cause__ or error}"
    return ImageryError(
        "cannot read the imagery", found, "The file is cut off or damaged: fetch or make it again."
    )
