"""How a map is read and drawn: rio-tiler's reader with the map's edges made harmless, and palette PNGs."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from morecantile import Tile
from PIL import Image
from rio_tiler.errors import PointOutsideBounds, TileOutsideBounds
from rio_tiler.io import Reader
from rio_tiler.models import ImageData, PointData
from titiler.core.resources.enums import ImageType

from geomap.colour import levels, palette
from tiles.errors import QueryError

MAXZOOM = 24  # far below a metre; beyond it the arithmetic of tiles overflows


class MapReader(Reader):
    """Reads the tiles and points of one map.

    A tile of the world that the map does not reach is an empty tile, and a point off the map has no value:
    both are ordinary answers while somebody pans around. Bands and expressions cannot be chosen.
    """

    def tile(  # type: ignore[override]
        self, tile_x: int, tile_y: int, tile_z: int, tilesize: int | None = None, **kwargs: Any
    ) -> ImageData:
        """Read a tile; wholly masked where the map has nothing.

        Args:
            tile_x: Column, from 0 at the antimeridian eastwards.
            tile_y: Row, from 0 at the top.
            tile_z: Zoom level, 0..24.
            tilesize: Side in pixels, 256 when None.
            **kwargs: Passed on to rio-tiler.

        Returns:
            (1, tilesize, tilesize) float32, masked where there is no data.

        Raises:
            TileOutsideBounds: No such tile in the world.
        """
        if not (0 <= tile_z <= MAXZOOM and 0 <= tile_x < 2**tile_z and 0 <= tile_y < 2**tile_z):
            raise TileOutsideBounds(f"There is no tile {tile_z}/{tile_x}/{tile_y}.")
        side = tilesize or 256
        try:
            return super().tile(tile_x, tile_y, tile_z, tilesize=side, **kwargs)
        except TileOutsideBounds:
            return ImageData(
                np.ma.masked_all((1, side, side), dtype=np.float32),
                crs=self.tms.rasterio_crs,
                bounds=tuple(self.tms.xy_bounds(Tile(x=tile_x, y=tile_y, z=tile_z))),
            )

    def point(  # type: ignore[override]
        self, lon: float, lat: float, **kwargs: Any
    ) -> PointData:
        """Read the value at a place; masked where the map has nothing.

        Args:
            lon: Degrees east, WGS 84, -180..180.
            lat: Degrees north, -90..90.
            **kwargs: Passed on to rio-tiler.

        Raises:
            QueryError: Not a place on earth.
        """
        if not (math.isfinite(lon) and math.isfinite(lat) and abs(lon) <= 180 and abs(lat) <= 90):
            raise QueryError(
                "cannot read a value",
                f"lon {lon}, lat {lat}",
                "Give lon within -180..180 and lat within -90..90.",
            )
        try:
            return super().point(lon, lat, **kwargs)
        except PointOutsideBounds:
            return PointData(np.ma.masked_all(1, dtype=np.float32), coordinates=(lon, lat))


def palette_png(image: ImageData, output_format: ImageType | None = None, **_: Any) -> tuple[bytes, str]:
    """Draw a map as a PNG with the palette of its legend, clear where there is no data.

    Args:
        image: (1, h, w) values 0..1, masked where there is no data.
        output_format: PNG or None.
        **_: Options of titiler's own drawing, none of which is offered here.

    Returns:
        The file and its media type.

    Raises:
        QueryError: Another format was asked for.
    """
    if output_format not in (None, ImageType.png):
        raise QueryError("cannot draw the map", f"format {output_format.value}", "Ask for .png.")
    valid = ~np.ma.getmaskarray(image.array)[0]
    picture = Image.fromarray(levels(image.array.data[0].astype(np.float32), valid), mode="P")
    picture.putpalette(palette().tobytes(), rawmode="RGBA")
    file = io.BytesIO()
    # Level 1: a fifth of the time of level 6 for two per cent more bytes.
    picture.save(file, format="PNG", compress_level=1)
    return file.getvalue(), ImageType.png.mediatype
