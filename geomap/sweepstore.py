"""The unfinished field: what a sweep has written so far, who may write it, and how it becomes a field.

    .progress/lock              held by the sweep that writes
    .progress/done/I.J.json     unit I, J is whole: its files with sha256, its land and valid cells

A marker is written after the chunks it names, the manifest after all markers, and then `.progress` goes.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from geomap.errors import FieldError, ImageryError, OutputError
from geomap.fieldstore import FORMAT, MANIFEST, METADATA, PROGRESS, entry, manifest_bytes, write_atomic
from geomap.grid import Grid, Window

Unit = tuple[int, int]  # row and column of a processing unit, which is also a chunk
Marker = dict[str, Any]

WHAT = "cannot write the field"
DISK_SAMPLE = 64  # units whose land is counted when the disk might be too small
GB = 1e9


def require_space(grid: Grid, dim: int, out: Path) -> None:
    """Refuse a field that will not fit on the disk.

    The bytes are at most one per land cell and feature; what compression saves is kept as reserve.

    Raises:
        OutputError: There is too little space.
    """
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free + _bytes_in(out)
    cells = math.prod(grid.shape)
    if cells * (dim + 1) > free:  # land is looked at only when it matters
        cells = round(cells * _land_share(grid))
    if cells * (dim + 1) > free:
        found = f"about {cells * (dim + 1) / GB:,.1f} GB to write, {free / GB:,.1f} GB free in {place}"
        raise OutputError(WHAT, found, "choose a coarser --resolution, a smaller area or another disk")


def take_up(out: Path, attributes: Mapping[str, Any], resume: bool, overwrite: bool) -> bool:
    """Refuse an output that may not be written.

    Args:
        out: The store.
        attributes: What the field will say about itself.
        resume: Go on with an unfinished store.
        overwrite: Replace a field, finished or not.

    Returns:
        Whether the store is finished already, so that `resume` leaves nothing to do.

    Raises:
        OutputError: Something is there that may not be replaced.
        FieldError: The store to resume was begun with something else.
    """
    if resume and overwrite:
        raise OutputError(WHAT, "both --resume and --overwrite", "give one of them")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / PROGRESS).is_dir() and _attributes(out).get("format") != FORMAT:
        raise OutputError(WHAT, f"{out} exists and is no field", "choose another place with --out")
    if overwrite:
        return False
    finished = (out / MANIFEST).exists()
    if not resume and finished:
        raise OutputError(WHAT, f"{out} is a finished field", "give --overwrite, or choose another place")
    if not resume:
        raise OutputError(WHAT, f"{out} is an unfinished field", "give --resume to finish it, or --overwrite")
    _require_same(out, attributes)
    if finished:
        shutil.rmtree(out / PROGRESS, ignore_errors=True)  # a stop between the manifest and the clearing up
    return finished


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the store against another sweep; the lock goes with the process, however that ends.

    Raises:
        OutputError: Another sweep holds it, or the place cannot be written.
    """
    with told(out):
        (out / PROGRESS / "done").mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / PROGRESS / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise OutputError(WHAT, f"another sweep is writing {out}", "wait for it") from error
    try:
        yield
    finally:
        lock.release()


def prepare(out: Path, metadata: Mapping[str, bytes], overwrite: bool) -> dict[Unit, Marker]:
    """Clear or check what is there and write the metadata.

    Returns:
        The markers of the units that are done and whole.

    Raises:
        OutputError: The place cannot be written.
    """
    with told(out):
        if overwrite:
            _clear(out)
        for passing in out.rglob("*.partial"):
            passing.unlink()
        for name, data in metadata.items():
            (out / name).parent.mkdir(exist_ok=True)
            write_atomic(out / name, data)
        return {unit: marker for unit, marker in markers(out) if _is_whole(out, marker)}


def write_unit(out: Path, unit: Unit, files: Mapping[str, bytes], land: int, valid: int) -> None:
    """Write the chunks of a unit, then its marker.

    Args:
        out: The store.
        unit: Row and column of the unit.
        files: Chunk file name -> bytes; empty when no cell is valid.
        land: Land cells of the unit.
        valid: Cells with an embedding.

    Raises:
        OutputError: The disk is full, or the place cannot be written any more.
    """
    with told(out):
        for name, data in files.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out / name, data)
        marker = {"files": {name: entry(data) for name, data in files.items()}, "land": land, "valid": valid}
        write_atomic(_marker_path(out, unit), json.dumps(marker).encode())


def finish(out: Path, units: int) -> None:
    """Turn a store with a marker for each of its `units` into a field: write the manifest, drop the markers.

    Raises:
        ImageryError: No cell of the whole grid has imagery.
        OutputError: The place cannot be written any more.
    """
    done = dict(markers(out))
    assert len(done) == units, f"{len(done)} of {units} units are done"
    valid = sum(marker["valid"] for marker in done.values())
    if valid == 0:
        raise ImageryError(
            "cannot make a field", "no land cell of the grid has imagery", "give other imagery"
        )
    files = {name: entry((out / name).read_bytes()) for name in METADATA}
    for unit in sorted(done):
        files |= done[unit]["files"]
    land = sum(marker["land"] for marker in done.values())
    manifest = {"format": FORMAT, "land_cells": land, "valid_cells": valid, "files": files}
    with told(out):
        write_atomic(out / MANIFEST, manifest_bytes(manifest))
        shutil.rmtree(out / PROGRESS)


def markers(out: Path) -> Iterator[tuple[Unit, Marker]]:
    """Every done-marker with its unit, in no order."""
    for path in (out / PROGRESS / "done").glob("*.json"):
        row, col = path.stem.split(".")
        yield (int(row), int(col)), json.loads(path.read_bytes())


@contextmanager
def told(out: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an OutputError; what is on disk can be taken up again."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        found = f"{error.filename or out}: {error.strerror or error}"
        change = "free some space or allow writing there, then run it again with --resume"
        raise OutputError(WHAT, found, change) from error


def unit_window(grid: Grid, unit: Unit) -> Window:
    """The cells of a unit, cut at the grid's edge."""
    (height, width), (row, col) = grid.shape, (n * grid.unit for n in unit)
    return Window(row, col, min(grid.unit, height - row), min(grid.unit, width - col))


def unit_counts(grid: Grid) -> tuple[int, int]:
    """Rows and columns of units in a grid."""
    return -(-grid.shape[0] // grid.unit), -(-grid.shape[1] // grid.unit)


def _require_same(out: Path, attributes: Mapping[str, Any]) -> None:
    begun, now = _attributes(out), json.loads(json.dumps(attributes))
    differ = sorted(key for key in now if begun and begun.get(key) != now[key])
    if differ:
        found = f"{out} was begun with another {', '.join(differ)}"
        raise FieldError("cannot resume the sweep", found, "give what it was begun with, or --overwrite")


def _attributes(out: Path) -> dict[str, Any]:
    """The attributes of a store; none if it has none, or none that can be read."""
    try:
        attributes = json.loads((out / METADATA[0]).read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return attributes if isinstance(attributes, dict) else {}


def _clear(out: Path) -> None:
    """Remove everything but the lock, the manifest first: a half-removed field must not look finished."""
    (out / MANIFEST).unlink(missing_ok=True)
    for path in out.iterdir():
        if path.name != PROGRESS and path.is_dir():
            shutil.rmtree(path)
        elif path.name != PROGRESS:
            path.unlink()
    for path in (out / PROGRESS / "done").iterdir():
        path.unlink()


def _is_whole(out: Path, marker: Marker) -> bool:
    """Whether the chunks of a marker are there as written; after a power cut they may not be."""
    try:
        return all(entry((out / name).read_bytes()) == was for name, was in marker["files"].items())
    except FileNotFoundError:
        return False


def _marker_path(out: Path, unit: Unit) -> Path:
    return out / PROGRESS / "done" / f"{unit[0]}.{unit[1]}.json"


def _bytes_in(out: Path) -> int:
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def _land_share(grid: Grid) -> float:
    """Share of land cells, from units spread evenly over the grid."""
    rows, cols = unit_counts(grid)
    picked = np.unique(np.linspace(0, rows * cols - 1, DISK_SAMPLE).astype(np.int64))
    masks = [grid.land_mask(unit_window(grid, divmod(int(k), cols))) for k in picked]
    return float(sum(mask.sum() for mask in masks) / sum(mask.size for mask in masks))
