"""The folder of a grid's maps: held by one render at a time, room enough, described by its Collection."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from geomap.cog import BLOCK
from geomap.errors import OutputError
from geomap.grid import Grid
from geomap.stac import COLLECTION, make_collection, to_json
from geomap.target import Target

WHAT = "cannot write maps"
SCRATCH = ".render"  # inside the folder, so that finished files are renamed and not copied
COG_BYTES = 4 * 1.4  # of a valid cell in the worst case: float32 that does not shrink, and overviews
GAP_BYTES = 0.05  # of a cell without data
FILE_BYTES = 100_000  # header, tags and Item


@contextmanager
def workplace(out: Path, grid: str) -> Iterator[tuple[Path, Path]]:
    """Hold the folder OUT/GRID; gives it and a scratch folder inside it, which is removed in the end.

    Folders that were made for this and are empty in the end are removed, too.

    Raises:
        OutputError: The folder cannot be written, or another render holds it.
    """
    folder = out / grid
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    scratch = folder / SCRATCH
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        lock = FileLock(scratch / "lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            WHAT, f"another render is writing {folder}", "wait for it, or give another --out"
        ) from error
    except OSError as error:
        _remove_empty(made)
        raise OutputError(
            WHAT, f"{folder}: {error.strerror or error}", "give another folder with --out"
        ) from error
    try:
        _clear(scratch)  # what a killed render left
        yield folder, scratch
    finally:
        lock.release()
        shutil.rmtree(scratch, ignore_errors=True)
        _remove_empty(made)


def require_room(folder: Path, target: Target, species: int, batch: int) -> None:
    """Refuse maps that the disk has no room for, before any is made.

    Args:
        folder: Where they go.
        target: Cells and embeddings.
        species: Number of maps.
        batch: Number of species that are scored together.

    Raises:
        OutputError: There is not enough room.
    """
    if species == 0:
        return
    height, width = target.grid.shape
    cells = height * width
    valid = target.field.valid_cells if target.whole else cells
    maps = species * (valid * COG_BYTES + cells * GAP_BYTES + FILE_BYTES)
    blocks = (height + BLOCK) * (width + BLOCK)
    need = maps + batch * 2 * valid + 9 * cells + 4 * blocks  # scores, valid and area, one uncompressed map
    free = shutil.disk_usage(folder).free
    if need > free:
        room = f"{need / 1e9:,.2f} GB, {folder} has {free / 1e9:,.2f} GB"
        found = f"{species} maps of {cells:,} cells need up to {room}"
        change = "free some space, render fewer species or a smaller grid, or give another --out"
        raise OutputError(WHAT, found, change)


def write_collection(folder: Path, scratch: Path, grid: Grid) -> None:
    """Write collection.json over all Items of a folder; without any Item, nothing.

    Raises:
        OutputError: The disk is full or the place cannot be written.
    """
    items = items_of(folder)
    if not items:
        return
    try:
        (scratch / COLLECTION).write_text(
            to_json(make_collection(grid.name, items, grid.geobox)), encoding="utf-8"
        )
        (scratch / COLLECTION).replace(folder / COLLECTION)
    except OSError as error:
        raise OutputError(
            WHAT, f"{folder / COLLECTION}: {error.strerror or error}", "free some space there"
        ) from error


def items_of(folder: Path) -> list[dict[str, Any]]:
    """The Items of the maps in a folder, those whose map is there."""
    items = []
    for path in sorted(folder.glob("*.json")):
        if path.name != COLLECTION and path.with_suffix(".tif").exists():
            item = json.loads(path.read_text(encoding="utf-8"))
            if item.get("type") == "Feature" and item.get("id") == path.stem:
                items.append(item)
    return items


def _clear(scratch: Path) -> None:
    for path in scratch.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


def _remove_empty(folders: list[Path]) -> None:
    """Remove the folders that are empty, the inner ones first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
