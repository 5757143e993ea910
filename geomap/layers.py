"""Maps of several layers: float32 bands with names and units in one cloud-optimised GeoTIFF."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.windows import Window as RasterWindow

from geomap.cog import LAYOUT, NODATA, STRIP, cannot_write

DECIMALS = 4


@dataclass(frozen=True)
class Layer:
    """A band: what it shows, and its unit."""

    description: str
    unit: str


def write_layers(
    path: Path,
    strips: Iterable[tuple[int, NDArray[np.float32]]],
    geobox: GeoBox,
    layers: list[Layer],
    tags: Mapping[str, str],
) -> None:
    """Writes layers as a COG; `path` appears whole or not at all.

    Args:
        path: File to write; an existing one is replaced.
        strips: (first row, (bands, h, w) float32) of whole rows, from the first to the last; NaN becomes
            nodata, values are rounded to four decimals.
        geobox: Shape, transform and CRS.
        layers: One for each band.
        tags: Tags of the file.

    Raises:
        OutputError: The place cannot be written or is full. Nothing is left behind.
    """
    height, width = geobox.shape
    with cannot_write(path), tempfile.TemporaryDirectory(prefix=".cog-", dir=path.parent) as folder:
        plain, cloud = Path(folder, "plain.tif"), Path(folder, "cloud.tif")
        with rasterio.open(
            plain, "w", driver="GTiff", height=height, width=width, count=len(layers), dtype="float32",
            nodata=NODATA, crs=str(geobox.crs), transform=geobox.transform, blockysize=STRIP,
            bigtiff="IF_SAFER", interleave="band",
        ) as target:  # fmt: skip
            for row, values in strips:
                filled = np.where(np.isfinite(values), np.round(values, DECIMALS), np.float32(NODATA))
                target.write(filled.astype(np.float32), window=RasterWindow(0, row, width, values.shape[1]))
            target.descriptions = tuple(layer.description for layer in layers)
            target.units = tuple(layer.unit for layer in layers)
            target.update_tags(AREA_OR_POINT="Area", **tags)
        rasterio.shutil.copy(plain, cloud, driver="COG", **LAYOUT)
        cloud.replace(path)
