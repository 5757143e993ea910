"""The sweep: encode a grid unit by unit into an embedding field that can be stopped and taken up again.

    field = sweep("geomap/bundle/encoders", "mosaic.tif", named_grid("california"), "california.zarr",
    workers=2)

Every unit of the grid is encoded alone (geomap.encode.encode_unit), its chunks are written, and then a
done-marker with their sha256. Stopping the sweep at any moment, even with kill -9, loses at most the units
under way; `resume` checks the finished ones against their markers and does the rest. When all are done the
manifest is written, which makes the store a field, and the markers go. The bytes of a field depend on the
encoders, the imagery and the grid alone, never on the size of tasks, the number of workers or where it was
stopped.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from geomap.encoder_kinds import SweepEncoders, encode_with, load_sweep_encoders
from geomap.errors import FieldError
from geomap.field import EmbeddingField, open_field, quantise
from geomap.fieldstore import FORMAT, chunk_files, metadata_files
from geomap.grid import Grid
from geomap.imagery import ImagerySource, open_imagery, require_bands, require_cover
from geomap.lattice import lattice_crs
from geomap.sweepstore import (
    Marker,
    Unit,
    alone,
    finish,
    prepare,
    require_space,
    take_up,
    unit_counts,
    unit_window,
    write_unit,
)
from geomap.tasks import run_tasks

Loaded = TypeVar("Loaded")


class Progress(NamedTuple):
    """How far a sweep is: cells looked at and in all, and land cells among those done."""

    done: int
    total: int
    land: int


@dataclass(frozen=True)
class Job:
    """What a worker has to know; small, because every task carries it."""

    encoders: str
    encoder_hash: str
    imagery: str
    imagery_id: str
    grid: Grid
    out: str
    month: int | None = None
    metres: float | None = None


def sweep(
    encoders_path: str | Path,
    imagery_uri: str | Path,
    grid: Grid,
    out: str | Path,
    *,
    workers: int = 0,
    scheduler: str | None = None,
    chunk: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    credit: str = "",
    month: int | None = None,
    metres: float | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> EmbeddingField:
    """Encode the land cells of a grid into an embedding field.

    Args:
        encoders_path: Folder of the encoders.
        imagery_uri: Raster, VRT, COG or STAC, as `geomap.imagery.open_imagery` takes it.
        grid: The cells.
        out: Directory store to write (`.zarr`).
        workers: Processes of a local Dask cluster; 0 and 1 work in this process.
        scheduler: Address of a running Dask scheduler to use instead; its workers must see the same files.
        chunk: Side of a task in cells, rounded up to whole units; one unit if not given.
        resume: Finish a sweep that was stopped.
        overwrite: Replace a field, finished or not.
        credit: Credit line of the imagery, kept in the field.
        month: 1..12, told to encoders of a training run that were told dates.
        metres: Side of a pixel of such a run's chips [m], where the run does not say it.
        progress: Called at the start and after every task.

    Returns:
        The finished field.

    Raises:
        CheckpointError: The encoders cannot be loaded.
        ImageryError: The imagery cannot be read, has too few bands, or has nothing on the grid's land.
        OutputError: `out` exists, cannot be written, or the disk is (or would be) full.
        FieldError: The unfinished store is of other encoders, imagery or grid.
        SchedulerError: The Dask scheduler does not answer.
    """
    store = Path(out)
    job, attributes = _plan(encoders_path, imagery_uri, grid, store, credit, month, metres)
    if take_up(store, attributes, resume, overwrite):
        return open_field(store)
    with alone(store):
        done = prepare(store, _metadata(grid, attributes), overwrite)
        work, tasks = partial(encode_task, job), _tasks(grid, done, chunk)
        with closing(run_tasks(work, tasks, workers=workers, scheduler=scheduler)) as reports:
            _follow(reports, grid, done, progress)
        finish(store, math.prod(unit_counts(grid)))
    return open_field(store)


def encode_task(job: Job, units: tuple[Unit, ...]) -> Progress:
    """Encode some units and write their chunks and done-markers; what runs on a Dask worker.

    Returns:
        Cells and land cells of these units.

    Raises:
        OutputError: A chunk cannot be written.
        FieldError: The encoders or the imagery are not the ones the sweep began with.
    """
    encoders, source = _encoders(job), _imagery(job.imagery, job.imagery_id)
    cells = land_cells = 0
    for unit in units:
        window = unit_window(job.grid, unit)
        centres = job.grid.cell_lonlat(window)
        land = job.grid.land_mask(window, centres)
        where = np.flatnonzero(land)
        steps, valid = np.zeros((*land.shape, encoders.dim), np.int8), np.zeros(land.shape, np.bool_)
        for found, embedding in encode_with(encoders, source, job.grid, window, land, centres[land]):
            steps.reshape(land.size, -1)[where[found]] = quantise(embedding, encoders.quant_scale)
            valid.flat[where[found]] = True
        files = chunk_files(*unit, steps, valid, job.grid.unit) if valid.any() else {}
        write_unit(Path(job.out), unit, files, int(land.sum()), int(valid.sum()))
        cells, land_cells = cells + land.size, land_cells + int(land.sum())
    return Progress(cells, cells, land_cells)


def _plan(
    encoders_path: str | Path,
    imagery_uri: str | Path,
    grid: Grid,
    out: Path,
    credit: str,
    month: int | None = None,
    metres: float | None = None,
) -> tuple[Job, dict[str, Any]]:
    """Check everything that can be checked before a byte is written; the job and the field's attributes."""
    encoders, source = load_sweep_encoders(encoders_path, month, metres), open_imagery(imagery_uri)
    require_bands(source, encoders.bands)
    require_space(grid, encoders.dim, out)
    require_cover(source, grid)
    job = Job(
        encoders=str(Path(encoders_path).resolve()),
        encoder_hash=encoders.hash,
        imagery=_absolute(imagery_uri),
        imagery_id=source.id,
        grid=grid,
        out=str(out.resolve()),
        month=month,
        metres=metres,
    )
    _LOADED[job.encoders, job.encoder_hash] = encoders  # for the units done in this process
    _LOADED[job.imagery, job.imagery_id] = source
    return job, _attributes(job, encoders, credit)


def _attributes(job: Job, encoders: SweepEncoders, credit: str) -> dict[str, Any]:
    """What the field says about itself."""
    return {
        "format": FORMAT,
        "geomap_version": version("geomap"),
        "grid": job.grid.to_dict(),
        "crs": job.grid.crs.to_wkt(),
        "transform": list(job.grid.transform)[:6],
        "lattice": lattice_crs(job.grid).to_wkt(),
        "encoder_hash": job.encoder_hash,
        "imagery_id": job.imagery_id,
        "scale": encoders.quant_scale.astype(float).tolist(),
        "credit": credit,
    }


def _metadata(grid: Grid, attributes: dict[str, Any]) -> dict[str, bytes]:
    return metadata_files(grid.shape, grid.unit, len(attributes["scale"]), attributes)


def _tasks(grid: Grid, done: Container[Unit], chunk: int | None) -> Iterator[tuple[Unit, ...]]:
    """The units still to do, in squares of `chunk` cells rounded up to whole units."""
    side = 1 if chunk is None else -(-chunk // grid.unit)
    rows, cols = unit_counts(grid)
    for top in range(0, rows, side):
        for left in range(0, cols, side):
            square = product(range(top, min(top + side, rows)), range(left, min(left + side, cols)))
            units = tuple(unit for unit in square if unit not in done)
            if units:
                yield units


def _follow(
    reports: Iterable[Progress],
    grid: Grid,
    done: Mapping[Unit, Marker],
    progress: Callable[[Progress], None] | None,
) -> None:
    """Draw the results of the tasks, which makes them run, and tell how far they are."""
    cells = sum(math.prod(unit_window(grid, unit)[2:]) for unit in done)
    so_far = Progress(cells, math.prod(grid.shape), sum(marker["land"] for marker in done.values()))
    if progress is not None:
        progress(so_far)
    for report in reports:
        so_far = Progress(so_far.done + report.done, so_far.total, so_far.land + report.land)
        if progress is not None:
            progress(so_far)


def _absolute(uri: str | Path) -> str:
    """An address that workers with another working folder can follow: a local path in it is made absolute."""
    prefix = "stac+" if str(uri).startswith("stac+") else ""
    path, mark, choice = str(uri).removeprefix(prefix).partition("#")
    return f"{prefix}{Path(path).resolve()}{mark}{choice}" if Path(path).exists() else str(uri)


_LOADED: dict[tuple[str, str], Any] = {}  # encoders and imagery of this process, by path and identity
_LOADING = threading.Lock()


def _once(
    path: str, identity: str, load: Callable[[str], Loaded], identify: Callable[[Loaded], str]
) -> Loaded:
    """Load a thing once for each process; refuse it when it is not the one the sweep was planned with."""
    with _LOADING:
        if (path, identity) not in _LOADED:
            loaded = load(path)
            if identify(loaded) != identity:
                found = f"{path} has changed since the sweep was planned"
                raise FieldError("cannot encode", found, "leave it in place until the sweep is done")
            _LOADED[path, identity] = loaded
        found_loaded: Loaded = _LOADED[path, identity]
        return found_loaded


def _encoders(job: Job) -> SweepEncoders:
    load = partial(load_sweep_encoders, month=job.month, metres=job.metres)
    return _once(job.encoders, job.encoder_hash, load, lambda encoders: encoders.hash)


def _imagery(uri: str, identity: str) -> ImagerySource:
    return _once(uri, identity, open_imagery, lambda source: source.id)
