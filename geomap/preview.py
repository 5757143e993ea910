"""Pictures of maps: small palette PNGs with the colours of geomap.colour, nodata in grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.enums import Resampling
from rasterio.errors import RasterioError

from geomap.cog import cannot_write
from geomap.colour import CLEAR, levels, palette
from geomap.errors import MapError

LONGEST = 1600  # pixels of the longer side
NOTHING = (214, 217, 220)  # nodata: on white paper the lightest values could not be told from a clear sea


def write_preview(cog: Path, png: Path) -> None:
    """Draw a map, averaged to at most 1600 pixels a side.

    Args:
        cog: The map.
        png: Picture to write.

    Raises:
        MapError: The map cannot be read.
        OutputError: The picture cannot be written.
    """
    try:
        with rasterio.open(cog) as source:
            shrink = max(1.0, max(source.shape) / LONGEST)
            shape = tuple(round(side / shrink) for side in source.shape)
            values = source.read(1, out_shape=shape, resampling=Resampling.average, masked=True)
    except RasterioError as error:
        raise MapError(
            "cannot read the map", f"{cog}: {error}", "render it again with --overwrite"
        ) from error
    valid = ~np.ma.getmaskarray(values)
    picture = Image.fromarray(levels(values.filled(0), valid)).convert("P")
    colours = palette()[:, :3].copy()
    colours[CLEAR] = NOTHING
    picture.putpalette(colours.tobytes())
    with cannot_write(png):
        picture.save(png, format="PNG", optimize=False)
