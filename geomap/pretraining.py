"""Cuts what the encoders are pre-trained on out of imagery: places on land, their chips, and their seasons.

No species record is looked at. A place is drawn uniformly on the sphere inside an area, kept when it lies on
land, and cut at every scale of context from the pixel lattice that the sweep also reads (geomap.lattice), so
the encoders see in training what they will see on the map.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray
from odc.geo import CRS
from PIL import Image

from geomap.errors import GridError, ImageryError
from geomap.imagery import ImagerySource
from geomap.land import is_land
from geomap.lattice import Lattice, Limits, windows
from train.spec import ChipSpec

Lonlat = NDArray[np.float64]
READ = Limits(side=1024, overhead=20_000)
LARGEST_DRAWS = 200  # an area with less land than one part in 800 is given up
SEASON_RADII = (0, 2)  # pixels of the monthly composites whose mean is taken: about 7 and 37 km


@dataclass(frozen=True)
class Area:
    """Where places are drawn: west < east in -180..180, south < north."""

    west: float
    south: float
    east: float
    north: float
    crs: str
    """CRS of the pixel lattice, as the sweep of that area uses it."""
    places: int
    """How many places."""


def draw_places(area: Area, generator: np.random.Generator, count: int | None = None) -> Lonlat:
    """Places uniform on the sphere inside an area, on land.

    Args:
        area: Bounds and number.
        generator: Source of randomness.
        count: Another number of places than the area's.

    Returns:
        (count, 2) degrees WGS 84.

    Raises:
        GridError: when the area is inside out or has (almost) no land.
    """
    count = area.places if count is None else count
    if not (-180 <= area.west < area.east <= 180 and -90 <= area.south < area.north <= 90):
        raise GridError("cannot draw places", f"{area}", "give west < east and south < north in degrees")
    kept: list[Lonlat] = [np.empty((0, 2))]
    low, high = np.sin(np.deg2rad([area.south, area.north]))
    while sum(map(len, kept)) < count:
        if len(kept) > LARGEST_DRAWS:
            found = f"{sum(map(len, kept))} places on land in {LARGEST_DRAWS} draws of {4 * count} in {area}"
            raise GridError("cannot draw places", found, "give an area with more land")
        lon = generator.uniform(area.west, area.east, 4 * count)
        lat = np.rad2deg(np.arcsin(generator.uniform(low, high, 4 * count)))
        drawn = np.stack([lon, lat], axis=1)
        kept.append(drawn[is_land(drawn)])
    return np.concatenate(kept)[:count]


def cut_chips(
    source: ImagerySource, level: ChipSpec, crs: CRS, lonlat: Lonlat
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One chip for every place, around the lattice pixel that holds it.

    Args:
        source: Imagery with values 0..255.
        level: Size of the chips.
        crs: CRS of the lattice.
        lonlat: (n, 2) degrees WGS 84.

    Returns:
        chips (n, bands, pixels, pixels) uint8, valid (n, pixels, pixels) bool.

    Raises:
        ImageryError: when a value is outside 0..255 and would not survive as uint8.
    """
    lattice = Lattice(crs, level.metres_per_pixel)
    to_lattice = pyproj.Transformer.from_crs("EPSG:4326", crs.to_wkt(), always_xy=True)
    at = lattice.positions(np.stack(to_lattice.transform(lonlat[:, 0], lonlat[:, 1]), axis=1))
    side = level.pixels
    chips = np.zeros((len(at), source.bands, side, side), np.uint8)
    valid = np.zeros((len(at), side, side), bool)
    for box, members in windows(at, np.arange(len(at)), level.margin, READ):
        image, has_image = source.read(lattice.geobox(box))
        if image.size and (image.min() < 0 or image.max() > 255):
            found = f"values from {image.min():g} to {image.max():g}"
            raise ImageryError("cannot cut chips as bytes", found, "Give imagery scaled to 0..255.")
        pixel = np.rint(at[members]).astype(int) - (box.row, box.col) - level.margin
        for place, (row, col) in zip(members, pixel, strict=True):
            view = (slice(row, row + side), slice(col, col + side))
            chips[place] = np.rint(image[(slice(None), *view)])
            valid[place] = has_image[view]
    return chips, valid


def season_features(months: Sequence[Path], lonlat: Lonlat) -> NDArray[np.float32]:
    """What each month looks like at a place: mean colour at the pixel and in a 5 x 5 window.

    Args:
        months: World-wide plate-carree pictures (-180..180, 90..-90), one a month.
        lonlat: (n, 2) degrees WGS 84.

    Returns:
        (n, months * bands * 2) float32 in the pictures' units.

    Raises:
        ImageryError: when a picture cannot be read.
    """
    parts: list[NDArray[np.float64]] = []
    for path in months:
        pixels = _picture(path)
        parts.extend(_window_mean(pixels, radius, lonlat) for radius in SEASON_RADII)
    return np.concatenate(parts, axis=1).astype(np.float32)


def _picture(path: Path) -> NDArray[Any]:
    """(bands, h, w) pixels of a picture that carries no georeference."""
    try:
        with Image.open(path) as picture:  # GDAL would read a truncated picture without complaint
            pixels = np.asarray(picture)
    except (OSError, SyntaxError) as error:  # Pillow says SyntaxError of some damaged files
        raise ImageryError("cannot read a month's picture", f"{path}: {error}", "restore the file") from error
    return np.moveaxis(pixels.reshape(*pixels.shape[:2], -1), -1, 0)


def _window_mean(pixels: NDArray[Any], radius: int, lonlat: Lonlat) -> NDArray[np.float64]:
    """(n, bands) mean of windows that wrap around the antimeridian and stop at the poles."""
    bands, height, width = pixels.shape
    col = np.clip(((lonlat[:, 0] + 180.0) % 360.0) * width / 360.0, 0, width - 1).astype(int)
    row = np.clip((90.0 - lonlat[:, 1]) * height / 180.0, 0, height - 1).astype(int)
    offsets = range(-radius, radius + 1)
    total = np.zeros((bands, len(lonlat)))
    for down, right in itertools.product(offsets, offsets):
        total += pixels[:, np.clip(row + down, 0, height - 1), (col + right) % width]
    return total.T / len(offsets) ** 2


def cut_area(
    area: Area, source: ImagerySource, months: Sequence[Path], levels: Sequence[ChipSpec], seed: int
) -> dict[str, NDArray[Any]]:
    """Everything `train.pretrain_pair` wants to know of an area's places.

    Args:
        area: Where, and how many.
        source: Imagery.
        months: Monthly pictures.
        levels: Scales of context.
        seed: Seed of the places.
    """
    lonlat = draw_places(area, np.random.default_rng(seed))
    arrays: dict[str, NDArray[Any]] = {"lonlat": lonlat, "season": season_features(months, lonlat)}
    for number, level in enumerate(levels):
        chips, valid = cut_chips(source, level, CRS(area.crs), lonlat)
        arrays[f"chips_{number}"], arrays[f"valid_{number}"] = chips, valid
    return arrays
