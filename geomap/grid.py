"""Grids: which cells a map has, where they lie, and which of them are land.

    grid = named_grid("california")                          # EPSG:3310, 1 km, the State of California
    grid = grid_from_bbox(-118.5, 34, -117, 35)              # west south east north, land only
    grid = grid_from_options(region="park.geojson", resolution=250)

Cell edges lie at multiples of the resolution from the CRS origin, so that grids of one CRS and resolution
fit each other. In a CRS where the world repeats (projection.world_width) a world-wide grid has just the
columns that cover the world once; less than a cell hangs over the edge, and points there are found in it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo import CRS
from odc.geo.geobox import GeoBox

from geomap.errors import GridError
from geomap.land import california, is_land, points_in
from geomap.layout import grid_name, known_crs, lay, unit_cells
from geomap.projection import WGS84, areas_km2, crossings_lonlat, metres_per_unit, project, world_width
from geomap.regions import Region, bbox_lonlat, load_region, run_on


class Window(NamedTuple):
    """A rectangle of cells: first row and column, height and width."""

    row: int
    col: int
    height: int
    width: int


@dataclass(frozen=True)
class Grid:
    """A regular grid of square cells, north up.

    Attributes:
        name: Name for folders: lower case, digits, '.', '_' and '-'.
        geobox: Shape, affine transform and CRS.
        unit: Side of the fixed processing block in cells.
        mask: Which cells count: "land", "california" (the State), or "region" (land inside `region`).
        region: The user's own polygon for the mask "region".
    """

    name: str
    geobox: GeoBox
    unit: int
    mask: str = "land"
    region: Region | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return int(self.geobox.height), int(self.geobox.width)

    @property
    def crs(self) -> CRS:
        """The CRS."""
        return self.geobox.crs  # type: ignore[return-value]  # every Grid has one

    @property
    def transform(self) -> Affine:
        """From column, row (0 at the outer edge of the first cell) to x, y."""
        return self.geobox.affine

    @property
    def resolution(self) -> float:
        """Side of a cell in the unit of the CRS: metres, or degrees in a geographic CRS."""
        return float(self.transform.a)

    @property
    def whole(self) -> Window:
        """All cells."""
        return Window(0, 0, *self.shape)

    def units(self) -> list[Window]:
        """The fixed blocks of unit x unit cells from row 0, column 0; those at the far edges are cut."""
        height, width = self.shape
        return [
            Window(row, col, min(self.unit, height - row), min(self.unit, width - col))
            for row in range(0, height, self.unit)
            for col in range(0, width, self.unit)
        ]

    def window_geobox(self, window: Window | None = None) -> GeoBox:
        """The cells of a window as a GeoBox; it may reach beyond the grid."""
        row, col, height, width = window or self.whole
        return GeoBox((height, width), self.transform * Affine.translation(col, row), self.crs)

    def cell_lonlat(self, window: Window | None = None) -> NDArray[np.float64]:
        """Centres of cells: (h, w, 2) float64 lon, lat in degrees WGS 84, lon in -180..180.

        A window may reach beyond the grid. Cells whose centre is no place on earth are NaN; cells beyond the
        seam of a CRS in which the world repeats lie on its other side.
        """
        row, col, height, width = window or self.whole
        return self._lonlat(row + np.arange(height) + 0.5, col + np.arange(width) + 0.5)

    def land_mask(self, window: Window | None = None, at: NDArray[Any] | None = None) -> NDArray[np.bool_]:
        """Whether cell centres (`at`, if known) are land and in the region: (h, w) bool, for any window."""
        centres = self.cell_lonlat(window) if at is None else at
        lonlat = centres.reshape(-1, 2)
        if self.mask == "california":
            inside = points_in(lonlat, (california(),))
        elif self.region is not None:
            inside = self.region.contains(lonlat)
            inside[inside] = is_land(lonlat[inside])
        else:
            inside = is_land(lonlat)
        return inside.reshape(centres.shape[:2])

    def rowcol(
        self, lonlat: NDArray[np.float64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
        """The cells that points lie in.

        Args:
            lonlat: (n, 2) degrees WGS 84.

        Returns:
            Rows (n,), columns (n,) and whether the point lies in the grid (n,); -1 where it does not.
        """
        xy = project(np.asarray(lonlat, dtype=np.float64), WGS84, str(self.crs))
        col, row = (
            (xy[:, 0] - self.transform.c) / self.resolution,
            (self.transform.f - xy[:, 1]) / self.resolution,
        )
        height, width = self.shape
        turn = world_width(str(self.crs))
        if turn is not None:
            for step in (turn / self.resolution, -turn / self.resolution):
                other = col + step
                col = np.where(((col < 0) | (col >= width)) & (other >= 0) & (other < width), other, col)
        inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
        rows, cols = (np.where(inside, np.floor(at), -1).astype(np.intp) for at in (row, col))
        return rows, cols, inside

    def cell_area_km2(self, window: Window | None = None) -> NDArray[np.float64]:
        """True area of cells on the WGS 84 ellipsoid: (h, w) float64 km².

        From the corners on the authalic sphere, joined by great circles. NaN where a corner is no place on
        earth; in a cylindrical CRS the part of a cell beyond a pole counts nothing.
        """
        row, col, height, width = window or self.whole
        return areas_km2(self._lonlat(row + np.arange(height + 1.0), col + np.arange(width + 1.0), clip=True))

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; `from_dict` gives the same grid back."""
        region = self.region and self.region.to_dict()
        crs, transform = str(self.crs), list(self.transform)[:6]
        cells = {"crs": crs, "transform": transform, "shape": list(self.shape), "unit": self.unit}
        return {"name": self.name, **cells, "mask": self.mask, "region": region}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Grid:
        """The grid that `to_dict` described.

        Raises:
            GridError: Something is missing or makes no sense.
        """
        try:
            geobox = GeoBox(tuple(stored["shape"]), Affine(*stored["transform"]), known_crs(stored["crs"]))
            region = stored["region"] and Region.from_dict(stored["region"])
            return cls(stored["name"], geobox, int(stored["unit"]), stored["mask"], region)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            change = "Make the file that holds it again."
            raise GridError("cannot read the description of a grid", repr(error), change) from error

    def __dask_tokenize__(self) -> tuple[str, str]:
        return "geomap.grid.Grid", repr(self.to_dict())

    def _lonlat(self, row: NDArray[Any], col: NDArray[Any], clip: bool = False) -> NDArray[np.float64]:
        """Lon, lat (h, w, 2) where fractional rows and columns cross."""
        x, y = self.transform.c + self.resolution * col, self.transform.f - self.resolution * row
        return crossings_lonlat(x, y, str(self.crs), clip)


def named_grid(name: str, resolution: float | None = None, crs: str | None = None) -> Grid:
    """One of the grids in NAMED, or its area at another resolution or in another CRS.

    Raises:
        GridError: There is no such grid; the message has the nearest names.
    """
    if name not in NAMED:
        near = difflib.get_close_matches(name.lower(), NAMED, n=3, cutoff=0.4) or list(NAMED)
        change = f"Use {' or '.join(near)}, or --bbox or --region."
        raise GridError("cannot find the grid", f"'{name}'", change)
    return _named(name, resolution, crs)


@cache
def _named(name: str, resolution: float | None, crs: str | None) -> Grid:
    bbox, own_crs, own_resolution = NAMED[name]
    if bbox is None:
        lonlat, mask = shapely.get_coordinates(shapely.segmentize(california(), 0.05)), name
    else:
        lonlat, mask = bbox_lonlat(*bbox), "land"
    size = own_resolution if resolution is None and crs in (None, own_crs) else resolution
    geobox = lay(lonlat, size, crs or own_crs)
    if (geobox.affine.a, geobox.crs) == (own_resolution, CRS(own_crs)):
        return Grid(name, geobox, unit_cells(geobox), mask)
    return _with_land(Grid(grid_name(name, geobox, crs), geobox, unit_cells(geobox), mask), name)


NAMED: dict[str, tuple[tuple[float, float, float, float] | None, str, float]] = {
    "california": (None, "EPSG:3310", 1_000.0),  # None: the outline of the State
    "north-america": ((-170.0, 13.0, -50.0, 72.0), "EPSG:6933", 10_000.0),
    "global": ((-180.0, -90.0, 180.0, 90.0), "EPSG:6933", 25_000.0),
}


def grid_from_bbox(
    west: float,
    south: float,
    east: float,
    north: float,
    resolution: float | None = None,
    crs: str | None = None,
) -> Grid:
    """The land cells of a box in degrees; west > east crosses the antimeridian.

    Args:
        west: Western edge, -180..180.
        south: Southern edge, -90..90.
        east: Eastern edge, -180..180.
        north: Northern edge, above `south`.
        resolution: Side of a cell in the unit of the CRS. Default: 1 km, or the first of 2, 5, 10, 25, 50,
            100 km with at most two million cells (in a geographic CRS 0.01 degrees instead of 1 km).
        crs: Default: EPSG:3310 inside California's box; a cylindrical equal-area CRS centred on 180 across
            the antimeridian; else EPSG:6933.

    Raises:
        GridError: The box is not one, holds no land, or the resolution or CRS makes no sense.
    """
    geobox = lay(bbox_lonlat(west, south, east, north), resolution, crs)
    name = grid_name(f"bbox_{west:g}_{south:g}_{east:g}_{north:g}", geobox, crs)
    shown = f"west {west:g}, south {south:g}, east {east:g}, north {north:g}"
    return _with_land(Grid(name, geobox, unit_cells(geobox)), shown)


def grid_from_region(path: str | Path, resolution: float | None = None, crs: str | None = None) -> Grid:
    """The land cells inside the polygons of a file; resolution and CRS as in `grid_from_bbox`.

    Raises:
        GridError: The file, resolution or CRS cannot be used, or the polygons hold no land.
    """
    lonlat = run_on(load_region(path).outline_lonlat())
    geobox = lay(lonlat, resolution, crs)
    cell_m = geobox.affine.a * metres_per_unit(pyproj.CRS(str(geobox.crs)))
    region = load_region(path, cell_m / 100)
    stem = "".join(c if c.isascii() and c.isalnum() else "-" for c in region.name.lower()).strip("-")
    name = grid_name(stem or "region", geobox, crs)
    return _with_land(Grid(name, geobox, unit_cells(geobox), "region", region), str(path))


def grid_from_options(
    grid: str | None = None,
    bbox: Sequence[float] | None = None,
    region: str | Path | None = None,
    resolution: float | None = None,
    crs: str | None = None,
) -> Grid:
    """The grid that the options --grid, --bbox, --region, --resolution and --crs of a command ask for.

    Without grid, bbox and region it is `california`.

    Raises:
        GridError: More than one of grid, bbox and region is given, or one cannot be used.
    """
    given = [f"--{k} {v}" for k, v in (("grid", grid), ("bbox", bbox), ("region", region)) if v is not None]
    if len(given) > 1:
        raise GridError("cannot lay one grid", " and ".join(given), "Give one of --grid, --bbox, --region.")
    if bbox is not None:
        if len(bbox) != 4:
            raise GridError("cannot use the box", f"{len(bbox)} numbers", "Give four: W S E N.")
        west, south, east, north = bbox
        return grid_from_bbox(west, south, east, north, resolution, crs)
    if region is not None:
        return grid_from_region(region, resolution, crs)
    return named_grid(grid or "california", resolution, crs)


def _with_land(grid: Grid, shown: str) -> Grid:
    """The grid itself, if it has a land cell."""
    if not any(grid.land_mask(window).any() for window in grid.units()):
        found = f"{shown}: none of its {grid.shape[0]} x {grid.shape[1]} cells has its centre on land"
        raise GridError("cannot lay the grid", found, "Choose an area with land, or a finer --resolution.")
    return grid
