"""Where a map is made: the cells asked for, and the embedding field that has them.

A grid that has no field of its own is cut from a field of the same CRS and resolution whose cells coincide
with its own and that has its land, but for a rim at coasts and borders, where outlines differ. Nothing is
resampled: what cannot be cut is encoded from imagery, or refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from geomap.catalog import Catalog
from geomap.errors import FieldError, GeomapError
from geomap.field import EmbeddingField, open_field
from geomap.grid import Grid, Window

COAST = 3_000.0  # m by which outlines of coasts differ
LACKING = 0.01  # share of the land that a field may lack further away, as across a border


@dataclass(frozen=True, eq=False)
class Target:
    """The cells of a map and their embeddings.

    Attributes:
        grid: The cells of the map.
        field: A field that has them.
        row: Row of the field that is row 0 of the grid.
        col: Column of the field that is column 0 of the grid.
        gap: Says how many land cells the field lacks, which get no data; empty where it lacks none.
    """

    grid: Grid
    field: EmbeddingField
    row: int = 0
    col: int = 0
    gap: str = ""

    @property
    def whole(self) -> bool:
        """Whether the grid is the field's own."""
        return self.grid.to_dict() == self.field.grid.to_dict()

    def read(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Embeddings (h, w, D) float32 and valid (h, w) bool of a window of the grid.

        Raises:
            FieldError: The field is damaged.
        """
        outer = self.moved(window)
        inner, place = overlap(outer, self.field.grid.shape)
        if inner is None:
            empty = np.zeros((window.height, window.width, self.field.dim), np.float32)
            return empty, np.zeros((window.height, window.width), np.bool_)
        values, valid = self.field.read(inner)
        if inner != outer:
            rows, cols = place
            more = (window.height - rows - inner.height, window.width - cols - inner.width)
            sides = ((rows, more[0]), (cols, more[1]))
            values, valid = np.pad(values, (*sides, (0, 0))), np.pad(valid, sides)
        return values, valid if self.whole else valid & self.grid.land_mask(window)

    def field_land(self, window: Window) -> NDArray[np.bool_]:
        """Whether the cells of a window of the grid, which may reach beyond it, are land of the field."""
        outer = self.moved(window)
        inner, (row, col) = overlap(outer, self.field.grid.shape)
        land = np.zeros((window.height, window.width), np.bool_)
        if inner is not None:
            land[row : row + inner.height, col : col + inner.width] = self.field.grid.land_mask(inner)
        return land

    def moved(self, window: Window) -> Window:
        """The window of the field that a window of the grid is."""
        return Window(window.row + self.row, window.col + self.col, window.height, window.width)


@dataclass(frozen=True)
class FieldOptions:
    """Which field a user asks for.

    Attributes:
        field: A field of the user's own.
        imagery: Imagery to encode the grid from.
        cache: Folder where a field encoded from imagery is kept for the next time.
        workers: Processes that encode.
    """

    field: Path | None = None
    imagery: str | None = None
    cache: Path = Path("maps/.fields")
    workers: int = 1


def find_target(
    grid: Grid | None, options: FieldOptions, catalog: Catalog, progress: Callable[[Any], None] | None = None
) -> Target:
    """The embeddings of a grid: from the field given, from imagery given, or from the bundle.

    Args:
        grid: The cells; those of `options.field` if None.
        options: Field or imagery.
        catalog: The bundle.
        progress: Told how far the encoding of imagery is.

    Returns:
        The target.

    Raises:
        FieldError: No field has the cells and no imagery is given, or the field is damaged.
        ImageryError: The imagery cannot be used.
        GeomapError: Both a field and imagery are given.
    """
    if options.field is not None and options.imagery is not None:
        raise FieldError("cannot choose a field", "both --field and --imagery", "give one of them")
    if options.field is not None:
        field = open_field(options.field)
        return Target(field.grid, field) if grid is None else _cut(field, grid, str(options.field))
    assert grid is not None  # without a field the grid is always laid
    if options.imagery is not None:
        return Target(grid, _encode(grid, options, catalog, progress))
    return _from_bundle(grid, catalog)


def offset_in(field_grid: Grid, grid: Grid) -> tuple[int, int] | None:
    """Row and column of a field's grid at which another grid begins; None where its cells are others."""
    size = field_grid.resolution
    if str(field_grid.crs) != str(grid.crs) or not math.isclose(size, grid.resolution, rel_tol=1e-9):
        return None
    col = (grid.transform.c - field_grid.transform.c) / size
    row = (field_grid.transform.f - grid.transform.f) / size
    if max(abs(col - round(col)), abs(row - round(row))) > 1e-6:
        return None
    meets = (
        -grid.shape[0] < round(row) < field_grid.shape[0]
        and -grid.shape[1] < round(col) < field_grid.shape[1]
    )
    return (round(row), round(col)) if meets else None


def overlap(window: Window, shape: tuple[int, int]) -> tuple[Window | None, tuple[int, int]]:
    """The part of a window that lies within a shape (None: no part), and its row and column in the window."""
    top, left = max(window.row, 0), max(window.col, 0)
    bottom, right = min(window.row + window.height, shape[0]), min(window.col + window.width, shape[1])
    if top >= bottom or left >= right:
        return None, (0, 0)
    return Window(top, left, bottom - top, right - left), (top - window.row, left - window.col)


def missing_land(target: Target) -> tuple[int, int, int]:
    """Land cells of the grid: those that the field lacks, those of them beyond its rim, and all.

    The rim is `COAST` wide, at least a cell: outlines of different detail differ by as much at a coast.
    """
    if target.whole:
        return 0, 0, 0
    rim = max(1, math.ceil(COAST / target.grid.resolution))
    near = np.ones((2 * rim + 1, 2 * rim + 1), np.bool_)
    missing = beyond = found = 0
    for window in target.grid.units():
        land = target.grid.land_mask(window)
        if not land.any():
            continue
        around = Window(window.row - rim, window.col - rim, window.height + 2 * rim, window.width + 2 * rim)
        own = target.field_land(around)
        found += int(land.sum())
        missing += int((land & ~own[rim:-rim, rim:-rim]).sum())
        beyond += int((land & ~binary_dilation(own, near)[rim:-rim, rim:-rim]).sum())
    return missing, beyond, found


def _cut(field: EmbeddingField, grid: Grid, name: str) -> Target:
    """The part of a field that a grid is."""
    change = "leave out the options of the grid to use the field's own, or give --imagery instead of --field"
    offset = offset_in(field.grid, grid)
    if offset is None:
        found = f"{name} is on the grid {field.grid.name}, whose cells are not those of {grid.name}"
        raise FieldError("cannot render on this grid", found, change)
    target = Target(grid, field, *offset)
    missing, beyond, land = missing_land(target)
    lacks = f"{name} lacks {missing:,} of {land:,} land cells of {grid.name}"
    if beyond > LACKING * land:
        raise FieldError("cannot render on this grid", lacks, change)
    return replace(target, gap=f"{lacks}: they have no data") if missing else target


def _from_bundle(grid: Grid, catalog: Catalog) -> Target:
    """A field of the bundle, whole or cut."""
    own = [grid.name] if grid.name in catalog.field_paths else []
    reasons = []
    for name in [*own, *(n for n in catalog.field_paths if n != grid.name)]:
        try:
            return _cut(catalog.field(name), grid, f"the bundle's field {name}")
        except FieldError as error:
            if error.what != "cannot render on this grid":
                raise
            reasons.append(error.found)
    raise FieldError(
        no_field(grid),
        "; ".join(reasons) or f"no fields in {catalog.bundle}",
        "give --imagery to encode it, or use an area, CRS and resolution of a field"
        f" ({', '.join(catalog.field_paths) or 'none'})",
    )


def no_field(grid: Grid) -> str:
    """What cannot be done when the bundle has no field with the cells of a grid."""
    return f"cannot render on the grid {grid.name}"


def kept_field(cache: Path, grid: Grid, *made_of: str) -> Path:
    """Where a field that was encoded on the way is kept: another path for whatever else it is made of.

    Args:
        cache: Folder of such fields.
        grid: The cells.
        made_of: Identity of the imagery, and of encoders that are not the bundle's.
    """
    digest = hashlib.sha256("\n".join(made_of).encode()).hexdigest()
    return cache / f"{grid.name}-{digest[:12]}.zarr"


def _encode(
    grid: Grid, options: FieldOptions, catalog: Catalog, progress: Callable[[Any], None] | None
) -> EmbeddingField:
    """Encode a grid with the bundle's encoders, or take the field that an earlier call left."""
    from geomap.imagery import open_imagery
    from geomap.sweep import sweep  # loads torch

    assert options.imagery is not None
    encoders = catalog.bundle / "encoders"
    imagery = open_imagery(options.imagery)
    out = kept_field(options.cache, grid, imagery.id)
    if out.exists():
        try:
            kept = open_field(out)
        except FieldError:
            pass  # unfinished: the sweep below takes it up again, or says what is wrong with it
        else:
            if kept.grid.to_dict() == grid.to_dict() and kept.imagery_id == imagery.id:
                return kept
            raise _foreign(out)
    return sweep(
        encoders, options.imagery, grid, out, workers=options.workers, resume=out.exists(), progress=progress
    )


def _foreign(out: Path) -> GeomapError:
    return FieldError("cannot keep the field", f"{out} is of another grid or imagery", f"remove {out}")
