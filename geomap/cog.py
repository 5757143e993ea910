"""Cloud-optimised GeoTIFFs of maps: float32 rounded to four decimals, always with the same layout.

Inside geomap a map is uint16 *steps* of 1/10000 with `GAP` for nodata; `write_cog` turns them into float32
by a table, so the rounding, the range and the nodata value of a file hold by construction. A map is written
strip by strip into a plain GeoTIFF and then copied by GDAL's COG driver, which makes the averaged
overviews: two passes, because a COG cannot be written in place. DEFLATE level 6 with the floating-point
predictor opens everywhere (ArcGIS and browsers too); level 9 takes six times as long for 1 % of the size,
ZSTD saves 4 %.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from geomap.errors import MapError, OutputError

NODATA = -9999.0  # a number, because ArcGIS reads NaN badly
BLOCK = 512
STRIP = 64  # rows of a block of the plain file: whole rows are written faster than tiles
SCALE = 10_000  # steps per 1
GAP = 65_535  # the step that means nodata
LAYOUT = {
    "compress": "DEFLATE", "level": 6, "predictor": "FLOATING_POINT", "blocksize": BLOCK,
    "overviews": "IGNORE_EXISTING", "overview_resampling": "AVERAGE", "bigtiff": "IF_SAFER", "num_threads": 1,
}  # fmt: skip
Strip = tuple[int, NDArray[np.uint16]]


@dataclass(frozen=True)
class CogSpec:
    """What a map file says about itself.

    Attributes:
        geobox: Shape, transform and CRS.
        description: Description of the band, e.g. `Spinus lawrencei: probability`.
        unit: Unit of the band, `suitability` or `probability`.
        tags: Tags of the file; they must not change from run to run, or the bytes would.
    """

    geobox: GeoBox
    description: str
    unit: str
    tags: Mapping[str, str]


def to_steps(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """Round a map to steps of 1/10000.

    Args:
        values: (...) float32 in 0..1 where valid; whatever stands elsewhere is ignored.
        valid: (...) bool.

    Returns:
        (...) uint16, 0..10000, `GAP` where not valid.

    Raises:
        MapError: A valid value is not finite or lies outside 0..1.
    """
    inside = (values >= 0) & (values <= 1)  # False for NaN too
    if not (inside | ~valid).all():
        bad = values[valid & ~inside]
        raise MapError(
            "cannot write the map", f"{bad.size} values that are not within 0..1, e.g. {bad[0]}",
            "check the heads: scores must be finite, between 0 and 1",
        )  # fmt: skip
    scaled = np.multiply(
        np.where(valid, values, 0), SCALE, dtype=np.float64
    )  # float32 would round ties otherwise
    return np.where(valid, np.rint(scaled), GAP).astype(np.uint16)


def to_values(steps: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 values of steps as they stand in the file, `NODATA` for `GAP`."""
    values: NDArray[np.float32] = _VALUES[steps]
    return values


def write_cog(path: Path, strips: Iterable[Strip], spec: CogSpec) -> int:
    """Write a map as a COG; `path` appears whole or not at all.

    Args:
        path: File to write; an existing one is replaced.
        strips: (first row, (h, w) uint16 steps) of whole rows, from the first to the last.
        spec: Georeference and tags.

    Returns:
        CRC-32 of the float32 values row by row, to compare with what is read back.

    Raises:
        OutputError: The place cannot be written or is full. Nothing is left behind.
    """
    with cannot_write(path), tempfile.TemporaryDirectory(prefix=".cog-", dir=path.parent) as folder:
        plain, cloud = Path(folder, "plain.tif"), Path(folder, "cloud.tif")
        crc = _write_plain(plain, strips, spec)
        rasterio.shutil.copy(plain, cloud, driver="COG", **LAYOUT)
        cloud.replace(path)
    return crc


def read_strips(path: Path, rows: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Read the first band of a map in strips of whole rows.

    Args:
        path: The map.
        rows: Rows per strip; whole blocks are quickest.

    Yields:
        First row, (h, w) float32 with `NODATA` where there is none.

    Raises:
        MapError: The file is missing, truncated or corrupt.
    """
    try:
        with rasterio.open(path) as source:
            for row in range(0, source.height, rows):
                window = RasterWindow(0, row, source.width, min(rows, source.height - row))
                yield row, source.read(1, window=window)
    except (RasterioError, OSError) as error:
        raise MapError(
            "cannot read the map", f"{path}: {error}", "render it again with --overwrite"
        ) from error


def _write_plain(path: Path, strips: Iterable[Strip], spec: CogSpec) -> int:
    """The map as an uncompressed GeoTIFF of strips; returns the CRC-32 of its values."""
    height, width = spec.geobox.shape
    crc = 0
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype="float32", nodata=NODATA,
        crs=str(spec.geobox.crs), transform=spec.geobox.transform,
        blockysize=STRIP, bigtiff="IF_SAFER",
    ) as target:  # fmt: skip
        for row, steps in strips:
            values = to_values(steps)
            crc = zlib.crc32(values.data, crc)
            target.write(values, 1, window=RasterWindow(0, row, width, len(values)))
        target.set_band_description(1, spec.description)
        target.units = (spec.unit,)
        target.update_tags(AREA_OR_POINT="Area", **spec.tags)
    return crc


@contextmanager
def cannot_write(path: Path) -> Iterator[None]:
    """Turn what GDAL and the operating system say while `path` is written into an OutputError.

    Raises:
        OutputError: The place cannot be written or is full.
    """
    try:
        yield
    except (RasterioError, OSError) as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"cannot write {path}", said(error), "free some space there, or choose another folder with --out"
        ) from error


def said(error: Exception) -> str:
    """The words of an error; GDAL puts the telling ones into the cause."""
    cause = error.__cause__ or error
    return str(getattr(cause, "strerror", None) or cause)


def _value_table() -> NDArray[np.float32]:
    """Step -> value; steps that no map holds are NaN, so that a mistake cannot pass for data."""
    table = np.full(GAP + 1, np.nan)
    table[: SCALE + 1] = np.arange(SCALE + 1) / SCALE
    table[GAP] = NODATA
    return table.astype(np.float32)


_VALUES = _value_table()
