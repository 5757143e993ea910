"""`geomap render --photo`: from options to a map of photos, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rich.console import Console
from rich.table import Table

from geomap.errors import GeomapError
from geomap.grid import Grid
from geomap.report import print_json


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
    as_json: bool = False,
) -> None:
    """Checks the options that photos need, renders, and prints the layers as a table or as JSON.

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
    layers = layers_of(path)
    if as_json:
        print_json({"file": str(path), "layers": layers})
    else:
        Console().print(layer_table(path, layers))


def layers_of(path: Path) -> list[dict[str, Any]]:
    """Of each band of a map: name, unit, cells read (of an overview if it is large) and percentiles."""
    layers = []
    with rasterio.open(path) as source:
        for band, (name, unit) in enumerate(zip(source.descriptions, source.units, strict=True), start=1):
            values = source.read(
                band, masked=True, out_shape=_small(source.height, source.width)
            ).compressed()
            low, middle, high = np.percentile(values, [5, 50, 95]).tolist()
            layers.append(
                {"name": name, "unit": unit, "cells_read": values.size, "p5": low, "p50": middle, "p95": high}
            )
    return layers


def layer_table(path: Path, layers: Iterable[Mapping[str, Any]]) -> Table:
    """The layers of a map, a row each."""
    table = Table("layer", "unit", "cells read", "5 %", "median", "95 %", title=str(path))
    for layer in layers:
        percentiles = (f"{layer[key]:.3f}" for key in ("p5", "p50", "p95"))
        table.add_row(layer["name"], layer["unit"], f"{layer['cells_read']:,}", *percentiles)
    return table


def _small(height: int, width: int) -> tuple[int, int]:
    """Shape to read at, so that memory does not grow with the map: overviews serve it."""
    shrink = max(1.0, max(height, width) / 4096)
    return max(1, round(height / shrink)), max(1, round(width / shrink))
