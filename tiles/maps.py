"""What the tile server knows of a map, and what every map can be asked for, wherever its pixels come from.

A map's pixels are uint16 *steps*: 0..10000 between the low and the high end of a band's range, `GAP` where
there is no data (see geomap.cog). Overview level k has cells of 2**k x 2**k cells of the grid; level 0 is the
grid itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from geomap.cog import GAP, SCALE
from geomap.entries import Score, Threshold
from geomap.grid import Window

__all__ = ["About", "Band", "GridAbout", "GroupAbout", "Score", "SpeciesMap", "Threshold", "Window", "values"]

Steps = NDArray[np.uint16]
BBox = tuple[float, float, float, float]


class Band(NamedTuple):
    """One layer of a map.

    Attributes:
        name: Slug: "suitability" or "probability" for the first band of a species map, else of the
            description.
        description: What the layer shows.
        unit: Unit of its values.
        low: Value of step 0 and of palette entry 0.
        high: Value of step 10000 and of palette entry 250.
        month: 1..12 where the band is one month's, else None.
    """

    name: str
    description: str
    unit: str
    low: float = 0.0
    high: float = 1.0
    month: int | None = None


@dataclass(frozen=True, eq=False)
class About:
    """Everything known of a map, without its pixels.

    Attributes:
        id: Slug of the species, or of the file for a map of photos.
        scientific: Scientific name; for a map of photos its title.
        vernacular: Common name, or "".
        synonyms: Older names.
        group: Group of heads; "" for a map from a file that names none.
        grid: Name of the grid.
        meaning: "suitability", "probability", or the unit of the first band.
        records: Records that the species was fitted on; None where not known.
        n_test: Held-out presences behind the scores; None where not known.
        thresholds: mtp, p10, lpt5, maxsss; empty where not known.
        default_threshold: The threshold to use when none is asked for.
        scores: auc, ap, brier, boyce beside those of the null model; empty where not known.
        version: 12 hexadecimal digits that change whenever a pixel could.
        bands: The layers, at least one.
        credit: data_credit, licence, imagery_credit, model and period where known.
        stored: Whether the pixels come from a rendered file.
        home: Whether it lies on the grid that its group was fitted on.
    """

    id: str
    scientific: str
    vernacular: str
    synonyms: tuple[str, ...]
    group: str
    grid: str
    meaning: str
    records: int | None
    n_test: int | None
    thresholds: dict[str, Threshold]
    default_threshold: str | None
    scores: dict[str, Score]
    version: str
    bands: tuple[Band, ...]
    credit: dict[str, str] = field(default_factory=dict)
    stored: bool = False
    home: bool = False


class SpeciesMap(Protocol):
    """A map whose cells can be read."""

    @property
    def about(self) -> About:
        """What is known of the map."""

    @property
    def crs(self) -> str:
        """CRS of the grid, as in "EPSG:3310", or WKT."""

    @property
    def transform(self) -> Affine:
        """From column, row of the grid at full resolution to x, y."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""

    @property
    def bbox(self) -> BBox:
        """West, south, east, north in degrees WGS 84; west > east across the antimeridian."""

    def steps(self, window: Window, level: int = 0, band: int = 0) -> Steps:
        """Cells of a window.

        Args:
            window: Rows and columns of overview `level`, inside it.
            level: Overview level; 0 is the grid itself.
            band: Number of the layer, from 0.

        Returns:
            (h, w) uint16, 0..10000 between the band's low and high end, `GAP` for nodata. Not to be written.

        Raises:
            MapError: The file is missing or corrupt.
            FieldError: The embedding field is damaged.
            GridError: The window leaves the overview, or there is no such level or band.
        """


@dataclass(frozen=True)
class GroupAbout:
    """A group of species.

    Attributes:
        name: Name of the heads.
        title: Name to show.
        meaning: "suitability", "probability" or another unit.
        species: Number of species.
        grids: Grids that its species can be shown on.
        credit: Credit line of the records.
        licence: Licence of the records.
    """

    name: str
    title: str
    meaning: str
    species: int
    grids: tuple[str, ...]
    credit: str
    licence: str


@dataclass(frozen=True)
class GridAbout:
    """A grid that maps lie on.

    Attributes:
        name: Name of the grid.
        title: Name to show.
        crs: CRS, as in "EPSG:3310".
        resolution: Side of a cell in units of the CRS.
        unit: "m" or "degree", the unit of the resolution.
        bbox: West, south, east, north in degrees WGS 84.
        cells: Rows times columns.
    """

    name: str
    title: str
    crs: str
    resolution: float
    unit: str
    bbox: BBox
    cells: int


def values(steps: Steps, band: Band) -> NDArray[np.float64]:
    """Values of steps in the unit of their band, float64; NaN for `GAP`."""
    scaled = band.low + steps.astype(np.float64) * ((band.high - band.low) / SCALE)
    return np.where(steps == GAP, np.nan, scaled)
