"""Imagery to be read onto a grid: what every source offers, how one is opened, and checks that it fits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from geomap.errors import ImageryError
from geomap.grid import Grid
from geomap.projection import crossings_lonlat


@runtime_checkable
class ImagerySource(Protocol):
    """Imagery that can be read onto any geobox; safe to use from several threads, picklable, small.

    Attributes:
        bands: Number of bands.
        id: Identity of the imagery, the same on every machine; written into what is made from it.
    """

    @property
    def bands(self) -> int:
        """Number of bands."""

    @property
    def id(self) -> str:
        """Identity of the imagery, the same on every machine."""

    def read(self, geobox: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The imagery on a geobox: an area mean where its pixels are coarser, bilinear where they are finer.

        A pixel never depends on the window it is read with. Geoboxes may hang over the edge of the world in a
        CRS in which the world repeats.

        Returns:
            Values (bands, h, w) float32 in the source's own units, and valid (h, w) bool. Where less than
            half of a pixel has imagery valid is False and the values are 0.
        """

    def covers(self, lonlat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points (n, 2) lon, lat in degrees may have imagery: (n,) bool; looks at no pixel."""


@dataclass(frozen=True)
class FakeImagery:
    """Imagery computed from places, for tests and examples.

    Attributes:
        bands: Number of bands.
        paint: Gives (bands, n) or (n,) values for lonlat (n, 2); NaN where there is no imagery.
        id: Identity.
    """

    bands: int
    paint: Callable[[NDArray[np.float64]], NDArray[Any]]
    id: str = "fake"

    def read(self, geobox: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The values at the pixel centres; see `ImagerySource.read`."""
        lonlat = centres_lonlat(geobox)
        shape = lonlat.shape[:2]
        painted = np.full((self.bands, lonlat[..., 0].size), np.nan)
        places = lonlat.reshape(-1, 2)
        known = np.isfinite(places).all(axis=1)
        painted[:, known] = self.paint(places[known])
        valid = np.isfinite(painted).all(axis=0)
        values = np.where(valid, painted, 0).astype(np.float32)
        return values.reshape(self.bands, *shape), valid.reshape(shape)

    def covers(self, lonlat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Everywhere on earth."""
        return np.asarray(np.isfinite(lonlat).all(axis=1))


def open_imagery(uri: str | Path, bands: Sequence[int] | None = None) -> ImagerySource:
    """Opens imagery by what its address is.

    Args:
        uri: One of

            * a path or URL of a raster: GeoTIFF, COG, VRT or anything else GDAL opens;
            * a path or URL of a STAC catalogue, collection or item: it ends in `.json`;
            * `stac+URL` of a STAC API or of a catalogue.

            A STAC address may say what to use of it after a `#`:
            `stac+https://host/stac#collection=NAME&assets=red,green,blue&datetime=2023-06/2023-08&composite=median`
            (see `geomap.stac_imagery`).
        bands: Bands to read, 1 is the first; default all.

    Raises:
        ImageryError: It cannot be found, opened or placed on the map.
    """
    text = os.fspath(uri)
    if text.startswith("stac+") or text.partition("#")[0].endswith(".json"):
        from geomap.stac_imagery import StacSource

        return StacSource.open(text.removeprefix("stac+"), bands)
    from geomap.raster_source import RasterSource

    return RasterSource.open(text, bands)


def require_bands(source: ImagerySource, bands: int) -> None:
    """Refuses imagery with another number of bands than the encoder eats.

    Raises:
        ImageryError: The numbers differ.
    """
    if source.bands != bands:
        change = f"Use imagery with {bands} bands, or choose {bands} of them."
        raise ImageryError(
            "cannot use the imagery with these encoders", f"{source.id} has {source.bands}", change
        )


def require_cover(source: ImagerySource, grid: Grid) -> None:
    """Refuses imagery that no land cell of a grid has a pixel of.

    Raises:
        ImageryError: No land cell has valid imagery.
    """
    for window in grid.units():
        land = grid.land_mask(window)
        near = np.zeros_like(land)
        near[land] = source.covers(grid.cell_lonlat(window)[land])
        if near.any() and (source.read(grid.window_geobox(window))[1] & near).any():
            return
    found = f"{source.id} has no pixel on the land of grid '{grid.name}'"
    raise ImageryError(
        "cannot map the grid from the imagery", found, "Use imagery of the area, or another grid."
    )


def centres_lonlat(geobox: GeoBox) -> NDArray[np.float64]:
    """Lon, lat (h, w, 2) of the pixel centres of a north-up geobox; NaN where there is no place on earth."""
    affine = geobox.affine
    x = affine.c + affine.a * (np.arange(0.5, int(geobox.width), dtype=np.float64))
    y = affine.f + affine.e * (np.arange(0.5, int(geobox.height), dtype=np.float64))
    return crossings_lonlat(x, y, str(geobox.crs))
