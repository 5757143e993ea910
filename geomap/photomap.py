"""Maps from photos: where the land looks like where they were taken, and where the species can be.

BirdSAT's mapping use case (methods section 6.1): photos are encoded and averaged to a prototype, every cell's
chip is encoded, and their cosine says how much the cell looks like the habitat. Look-alikes on other
continents score as high as the real thing, so the map has further layers:

    1 habitat similarity    cosine of prototype and chip, -1..1
    2 location prior        suitability or probability of the species by its heads, 0..1
    3 product               sigmoid(calibrated log-odds of 1 + log-odds of 2), 0..1: habitat and range

A run that was told dates gives one similarity, and one product, for each month asked for.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray

from geomap.chip_encoders import ChipEncoders
from geomap.embed import sweep_with_bar
from geomap.errors import FieldError, MapError, OutputError
from geomap.field import EmbeddingField
from geomap.grid import Grid, Window
from geomap.imagery import open_imagery
from geomap.layers import Layer, write_layers
from geomap.rendering import Request, render_maps
from geomap.target import FieldOptions, kept_field, no_field
from train.calibration import Calibration
from train.data.images import read_picture
from train.errors import CheckpointError

WHAT = "cannot map photos"
EDGE = 1e-4  # a prior is never surer than this: no cell is ruled out for good
FLAT = 1e-4  # a standard deviation of cosines below this says that the encoder does not see the land

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PhotoRequest:
    """Everything that a map of photos is asked for."""

    photos: tuple[Path, ...]  # of one species; their embeddings are averaged
    run: Path  # of an objective with photos and chips
    grid: Grid
    imagery: str
    out: Path  # the map goes to OUT/GRID/NAME.tif
    name: str
    months: tuple[int, ...] = ()  # one layer each, for runs that were told dates
    species: str | None = None  # whose heads give the location prior; None: no prior and no product
    heads: str | None = None
    metres: float | None = None  # per pixel of the chips, where the run does not say it
    workers: int = 1
    overwrite: bool = False


def render_photos(request: PhotoRequest) -> Path:
    """Sweeps the grid, compares it with the photos, and writes the layers.

    Args:
        request: What to map.

    Returns:
        The map: a COG with one band for each layer.

    Raises:
        CheckpointError, SpecError: The run or a photo cannot be used.
        GeomapError: See `geomap.sweep` and `geomap.rendering`.
        OutputError: The map exists.
        MapError: The similarity is flat or empty.
    """
    path = request.out / request.grid.name / f"{request.name}.tif"
    if path.exists() and not request.overwrite:
        raise OutputError(WHAT, f"{path} exists", "give --overwrite, or another --name")
    encoders = ChipEncoders(request.run, request.months[0] if request.months else None, request.metres)
    require_months(encoders, request)
    query, calibration = prototype(encoders, request.photos), calibration_of(encoders, request)
    fields = [swept(request, month) for month in request.months or (None,)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".photos-", dir=path.parent) as scratch:
        prior = prior_map(request, Path(scratch)) if request.species else None
        layers = layers_of(request, prior is not None)
        strips = compared(fields, query, prior, calibration, request.grid)
        write_layers(
            path, watched(strips, len(fields)), request.grid.geobox, layers, tags_of(request, encoders)
        )
    return path


def require_months(encoders: ChipEncoders, request: PhotoRequest) -> None:
    """Refuses months for a run that was not told dates.

    Raises:
        CheckpointError: naming the run's objective.
    """
    if request.months and "date" not in getattr(encoders.model, "views", ()):
        found = f"{request.run} ({encoders.card['objective']}) was not told dates"
        raise CheckpointError(
            "cannot map months", found, "Leave --month out, or give a run of a -meta recipe."
        )


def prototype(encoders: ChipEncoders, photos: tuple[Path, ...]) -> Floats:
    """Mean of the photos' embeddings, of unit length, (d,).

    Raises:
        CheckpointError: The run reads no photos.
        SpecError: A photo is missing or damaged.
    """
    if "ground" not in getattr(encoders.model, "views", ()):
        found = f"the run was trained by {encoders.card['objective']}, which reads no photos"
        raise CheckpointError(WHAT, found, "Give a run of crisp, birdsat or moco-geo.")
    size = int(encoders.card["model"]["ground"]["size"])
    pictures = np.stack([read_picture(photo, size) for photo in photos])
    with torch.inference_mode():
        each = encoders.model.encode("ground", {"ground": torch.from_numpy(pictures)})  # type: ignore[operator]
        mean: Floats = torch.nn.functional.normalize(each.mean(dim=0), dim=0).numpy()
    return mean


def calibration_of(encoders: ChipEncoders, request: PhotoRequest) -> Calibration | None:
    """The run's calibration; needed for the product, so only where a prior is asked for.

    Raises:
        CheckpointError: A prior is asked for and the run has no calibration.
    """
    noted = encoders.card.get("calibration")
    if noted is None and request.species:
        change = "Train it again with data.validation above 0, or leave --species out."
        raise CheckpointError("cannot join habitat and range", f"{request.run} has no calibration", change)
    return Calibration(**noted) if noted else None


def swept(request: PhotoRequest, month: int | None) -> EmbeddingField:
    """The grid's embeddings, taken up where an earlier call left them."""
    encoders = ChipEncoders(request.run, month, request.metres)
    imagery = open_imagery(request.imagery).id
    store = kept_field(request.out / ".fields", request.grid, imagery, encoders.hash)
    store.parent.mkdir(parents=True, exist_ok=True)
    return sweep_with_bar(
        request.run, request.imagery, request.grid, store,
        workers=request.workers, resume=store.exists(), month=month, metres=request.metres,
    )  # fmt: skip


def prior_map(request: PhotoRequest, scratch: Path) -> Path:
    """The map of the species on the same grid, by its heads: on a field of the bundle that has these cells.

    Where none has them, the imagery is encoded; it then has to be of the kind that the heads' encoders eat.

    Raises:
        GeomapError: The species is not known, or no field has this grid and the imagery does not fit.
        MapError: The map came out on other cells.
    """
    assert request.species is not None
    where = FieldOptions(None, None, request.out / ".fields", request.workers)
    asked = Request((request.species,), scratch, request.heads, request.grid, where, request.workers)
    try:
        made = render_maps(asked)
    except FieldError as error:
        if error.what != no_field(request.grid):
            raise
        made = render_maps(replace(asked, where=replace(where, imagery=request.imagery)))
    path = made.folder / f"{next(iter(made.items))}.tif"
    with rasterio.open(path) as source:
        same = (source.height, source.width) == request.grid.shape
        if not same or source.transform != request.grid.transform:
            found = (
                f"the prior has {source.width} x {source.height} cells, the grid {request.grid.shape[::-1]}"
            )
            raise MapError(WHAT, found, "give a grid that the heads' field has")
    return path


def layers_of(request: PhotoRequest, with_prior: bool) -> list[Layer]:
    """Names and units of the bands, in order."""
    months = [f" in month {month}" for month in request.months] or [""]
    layers = [Layer(f"habitat similarity{month}", "cosine") for month in months]
    if with_prior:
        layers += [Layer(f"location prior: {request.species}", "suitability")]
        layers += [Layer(f"habitat and range{month}", "suitability") for month in months]
    return layers


def compared(
    fields: list[EmbeddingField],
    query: Floats,
    prior: Path | None,
    calibration: Calibration | None,
    grid: Grid,
) -> Iterator[tuple[int, Floats]]:
    """First row and layers (bands, h, w) float32 of strips of whole rows, NaN where there is nothing."""
    height, width = grid.shape
    for row in range(0, height, grid.unit):
        window = Window(row, 0, min(grid.unit, height - row), width)
        bands = [similarity(field, window, query) for field in fields]
        if prior is not None and calibration is not None:
            likely = read_prior(prior, window)
            bands += [likely, *(joined(each, likely, calibration) for each in bands)]
        yield row, np.stack(bands)


def similarity(field: EmbeddingField, window: Window, query: Floats) -> Floats:
    """(h, w) cosine of the prototype and each cell; NaN where not valid."""
    values, valid = field.read(window)
    length = np.linalg.norm(values, axis=-1)  # not quite 1 after rounding to int8
    cosine = np.divide(values @ query, length, out=np.full(valid.shape, np.nan, np.float32), where=valid)
    return np.asarray(np.clip(cosine, -1, 1), np.float32)


def read_prior(path: Path, window: Window) -> Floats:
    """(h, w) values of a map; NaN where it has none."""
    with rasterio.open(path) as source:
        part = rasterio.windows.Window(window.col, window.row, window.width, window.height)
        values: Floats = source.read(1, window=part, masked=True).filled(np.nan)
    return values


def joined(cosine: Floats, prior: Floats, calibration: Calibration) -> Floats:
    """Habitat and range on one scale: the prior's odds times the likelihood ratio of the appearance."""
    inside = np.clip(prior.astype(np.float64), EDGE, 1 - EDGE)
    odds = calibration.log_odds(cosine) + np.log(inside) - np.log1p(-inside)
    return (1 / (1 + np.exp(-np.clip(odds, -50, 50)))).astype(np.float32)


def watched(strips: Iterator[tuple[int, Floats]], similarities: int) -> Iterator[tuple[int, Floats]]:
    """The same strips; refuses a similarity that is empty or flat once all are through.

    Raises:
        MapError: saying which.
    """
    count, total, squares = np.zeros(similarities), np.zeros(similarities), np.zeros(similarities)
    for row, bands in strips:
        values = bands[:similarities].astype(np.float64)
        count += np.isfinite(values).sum(axis=(1, 2))
        total += np.nansum(values, axis=(1, 2))
        squares += np.nansum(values**2, axis=(1, 2))
        yield row, bands
    if (count == 0).any():
        raise MapError(WHAT, "no cell of the grid has imagery", "give imagery of the area")
    spread = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))
    if (spread < FLAT).any():
        found = f"similarities that are all {total[0] / count[0]:.4f}"
        raise MapError(WHAT, found, "check that the imagery has the units and pixel size of the training")


def tags_of(request: PhotoRequest, encoders: ChipEncoders) -> dict[str, str]:
    """What the file says about itself."""
    return {
        "GEOMAP_MEANING": "similarity of appearance to the photos; the product is relative suitability",
        "GEOMAP_MODEL": f"{encoders.card['objective']} {encoders.hash[:12]}",
        "GEOMAP_PHOTOS": str(len(request.photos)),
        "GEOMAP_MONTHS": ",".join(map(str, request.months)),
        "GEOMAP_SPECIES": request.species or "",
        "GEOMAP_CALIBRATION": json.dumps(encoders.card.get("calibration"), sort_keys=True),
        "GEOMAP_GRID": request.grid.name,
        "GEOMAP_VERSION": version("geomap"),
    }
