"""Where chips around records lie on the pixel lattice, and their pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyproj
from numpy.typing import NDArray
from odc.geo import CRS
from pyproj.exceptions import CRSError

from geomap.errors import GridError, ImageryError
from geomap.imagery import ImagerySource
from geomap.lattice import Lattice, Limits, windows

WHAT = "cannot cut chips"
NEAR = 1024  # pixels: places are put in order by squares of this side, so that windows can be shared
READ = Limits(side=1024, overhead=20_000)


@dataclass(frozen=True)
class Shape:
    """What chips are like."""

    metres: float
    """Side of a pixel [m]."""
    pixels: int
    """Side of a chip [pixels]."""
    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    """Type of the stored values; imagery is rounded to whole numbers for the first two."""
    crs: str = "EPSG:6933"
    """CRS of the pixel lattice, in metres."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if not (0 < self.metres < math.inf) or self.pixels < 1:
            found = f"{self.pixels} pixels of {self.metres:g} m"
            raise GridError(WHAT, found, "Give at least one pixel of a positive size.")
        try:
            known = pyproj.CRS(self.crs)
        except CRSError as error:
            raise GridError(WHAT, f"no CRS {self.crs!r}", "Give one as EPSG:6933.") from error
        if not known.is_projected or known.axis_info[0].unit_name not in ("metre", "meter"):
            raise GridError(WHAT, f"{self.crs} has no metres", "Give a projected CRS, as EPSG:6933.")


@dataclass(frozen=True, eq=False)
class Places:
    """Where chips lie.

    Attributes:
        start: (chips, 2) int64, row and column of each chip's first pixel on the lattice.
        chip: (records,) int64, the chip of each record; -1 where the CRS has no such place.
    """

    start: NDArray[np.int64]
    chip: NDArray[np.int64]


def numbers(text: str | None) -> list[int] | None:
    """Bands as typed, "1,2,3"; None for None.

    Raises:
        ImageryError: They are no numbers.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ImageryError("cannot read the bands", repr(text), "Give numbers from 1, as 1,2,3.") from error


def places_of(lonlat: NDArray[np.float64], shape: Shape) -> Places:
    """The chips around places; places whose chips begin at the same pixel share one.

    The middle of a chip is within half a pixel of its place, for odd and even sides (pitfall 22).

    Args:
        lonlat: (n, 2) degrees WGS 84.
        shape: Size of chips.
    """
    to_lattice = pyproj.Transformer.from_crs("EPSG:4326", shape.crs, always_xy=True)
    xy = np.stack(to_lattice.transform(lonlat[:, 0], lonlat[:, 1]), axis=1)
    known = np.isfinite(xy).all(axis=1)
    at = Lattice(CRS(shape.crs), shape.metres).positions(xy[known])
    start = np.rint(at - (shape.pixels - 1) / 2).astype(np.int64)
    unique, member = np.unique(start, axis=0, return_inverse=True)
    order = np.lexsort((unique[:, 1], unique[:, 0], unique[:, 1] // NEAR, unique[:, 0] // NEAR))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    chip = np.full(len(lonlat), -1, np.int64)
    chip[known] = rank[member]
    return Places(unique[order], chip)


def read_chips(
    source: ImagerySource, shape: Shape, start: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Chips that begin at lattice pixels.

    Args:
        source: Imagery.
        shape: Size and type of chips.
        start: (n, 2) row and column of the first pixel.

    Returns:
        Chips (n, bands, pixels, pixels), and whether all pixels of each have imagery (n,) bool. Chips that
        lack some are 0.

    Raises:
        ImageryError: A value does not fit the type.
    """
    lattice, side = Lattice(CRS(shape.crs), shape.metres), shape.pixels
    chips = np.zeros((len(start), source.bands, side, side), shape.dtype)
    whole = np.zeros(len(start), bool)
    middle = start.astype(np.float64) + (side - 1) / 2
    for box, members in windows(middle, np.arange(len(start)), side // 2 + 1, READ):
        image, has_image = source.read(lattice.geobox(box))
        for place in members:
            row, col = start[place] - (box.row, box.col)
            view = (slice(row, row + side), slice(col, col + side))
            whole[place] = has_image[view].all()
            if whole[place]:
                chips[place] = _typed(image[(slice(None), *view)], shape.dtype)
    return chips, whole


def _typed(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    if not np.isfinite(values).all():
        raise ImageryError(WHAT, "a value that is not finite", "Declare such pixels as nodata.")
    if dtype == "float32":
        return values
    limits = np.iinfo(dtype)
    if values.min() < limits.min or values.max() > limits.max:
        found = f"values from {values.min():g} to {values.max():g} do not fit {dtype}"
        raise ImageryError(WHAT, found, "Give --dtype uint16 or float32.")
    return np.rint(values).astype(dtype)
