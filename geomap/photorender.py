"""`geomap render --photo`: from options to a map of photos, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rich.console import Console
from rich.table import Table

from geomap.errors import GeomapError
from geomap.grid import Grid


def render_photo_option(
    photos: list[Path],
    species: list[str] | None,
    encoders: Path | None,
    imagery: str | None,
    grid: Grid,
    out: Path,
    name: str,
    months: list[int] | None,
    heads: str | None,
    metres: float | None,
    workers: int,
    overwrite: bool,
) -> None:
    """Checks the options that photos need, renders, and prints a table of the layers.

    Raises:
        GeomapError: An option is missing, or more than one species is named.
    """
    if encoders is None or imagery is None:
        missing = "--encoders" if encoders is None else "--imagery"
        change = "Give the run of train.pretrain as --encoders, and its kind of imagery as --imagery"
        raise GeomapError("cannot map photos", f"no {missing}", change)
    if species and len(species) > 1:
        found = f"{len(species)} species"
        raise GeomapError("cannot map photos", found, "Give photos of one species, and its name once")
    from geomap.photomap import PhotoRequest, render_photos  # imported here: torch is slow to load

    request = PhotoRequest(
        tuple(photos), encoders, grid, imagery, out, name, tuple(months or ()),
        species[0] if species else None, heads, metres, workers, overwrite,
    )  # fmt: skip
    path = render_photos(request)
    print_layers(path)


def print_layers(path: Path) -> None:
    """A table of the bands of a map: name, unit, cells, 5th, 50th and 95th percentile."""
    table = Table("layer", "unit", "cells", "5 %", "median", "95 %", title=str(path))
    with rasterio.open(path) as source:
        for band, (layer, unit) in enumerate(zip(source.descriptions, source.units, strict=True), start=1):
            values = source.read(
                band, masked=True, out_shape=_small(source.height, source.width)
            ).compressed()
            low, middle, high = np.percentile(values, [5, 50, 95])
            table.add_row(layer, unit, f"{values.size:,}", f"{low:.3f}", f"{middle:.3f}", f"{high:.3f}")
    Console().print(table)


def _small(height: int, width: int) -> tuple[int, int]:
    """Shape to read at, so that memory does not grow with the map: overviews serve it."""
    shrink = max(1.0, max(height, width) / 4096)
    return max(1, round(height / shrink)), max(1, round(width / shrink))
