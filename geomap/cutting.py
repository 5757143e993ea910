"""Chips around records, cut block by block into a folder that `train.data.chip_folder` reads.

While it works the folder holds `plan.json`, what is to be cut, and `progress.jsonl`, a line for each block
that is on disk. card.json is written last; without it the folder is not finished.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from numpy.lib import format as npy
from numpy.typing import NDArray

from geomap.chipplaces import Places, Shape, places_of, read_chips
from geomap.errors import GeomapError, ImageryError, OutputError
from geomap.imagery import ImagerySource
from geomap.records import Records

WHAT = "cannot cut chips"
BLOCK = 256  # chips that are read, written and counted together
PLAN, PROGRESS, LOCK = "plan.json", "progress.jsonl", ".lock"
NO_IMAGE, OFF_MAP = "no imagery, or not all of it", "outside the CRS"


def cut(
    records: Records,
    source: ImagerySource,
    shape: Shape,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    credit: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Cuts a chip around every record and writes the folder.

    Args:
        records: Checked presence-only records.
        source: Imagery.
        shape: Size and type of chips.
        out: Folder to write.
        resume: Go on where a run was stopped.
        overwrite: Replace what is there.
        credit: Credit line of the imagery.
        progress: Told the number of chips done, and of all.

    Returns:
        The card. Records without (whole) imagery are dropped and counted.

    Raises:
        OutputError: The folder exists, belongs to another run, or cannot be written.
        ImageryError: No record has imagery, or values do not fit the type.
    """
    places = places_of(records.lonlat, shape)
    plan = _plan(records, source, shape, places)
    with _folder(out, plan, resume, overwrite) as done:
        lines = list(_blocks(out, source, shape, places.start, done, progress))
        return _finish(out, records, source, shape, places, lines, credit)


def _plan(records: Records, source: ImagerySource, shape: Shape, places: Places) -> dict[str, Any]:
    cells = hashlib.sha256(places.start.tobytes() + places.chip.tobytes()).hexdigest()
    return {"records": records.source, "imagery": source.id, "shape": asdict(shape), "places": cells}


@contextmanager
def _folder(out: Path, plan: dict[str, Any], resume: bool, overwrite: bool) -> Iterator[list[dict[str, Any]]]:
    """Holds the folder; gives the lines of the blocks that are done."""
    from train.data.chip_folder import CARD

    if out.exists() and not out.is_dir():
        raise OutputError(WHAT, f"{out} is a file", "Choose another folder with --out.")
    known = [name for name in (CARD, PLAN) if (out / name).exists()]
    made = not out.exists()
    foreign = out.is_dir() and not known and any(path.name != LOCK for path in out.iterdir())
    if foreign:  # not ours to delete
        raise OutputError(WHAT, f"{out} holds other files", "Choose another folder with --out.")
    if known and not (resume or overwrite):
        change = "Give --overwrite to replace it" + (
            ", or --resume to finish it." if known == [PLAN] else "."
        )
        raise OutputError(WHAT, f"{out} exists", change)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            WHAT, f"another run is writing {out}", "Wait for it, or give another --out."
        ) from error
    except OSError as error:
        raise OutputError(WHAT, f"{out}: {error.strerror or error}", "Choose another --out.") from error
    try:
        done = _prepared(out, plan, resume and not overwrite)
        try:
            yield done
        except GeomapError:  # a refusal leaves nothing behind; a run that was stopped can be resumed
            _clear(out)
            raise
    finally:
        lock.release()
        (out / LOCK).unlink(missing_ok=True)
        if made and not any(out.iterdir()):
            out.rmdir()


def _prepared(out: Path, plan: dict[str, Any], resume: bool) -> list[dict[str, Any]]:
    if resume and (out / PLAN).exists():
        found = json.loads((out / PLAN).read_text(encoding="utf-8"))
        if found != plan:
            differ = ", ".join(key for key in plan if found.get(key) != plan[key])
            raise OutputError(
                WHAT, f"{out} was begun with other {differ}", "Repeat the options, or --overwrite."
            )
        return _progress(out / PROGRESS)
    if resume and any(path.name != LOCK for path in out.iterdir()):
        raise OutputError(WHAT, f"{out} is finished", "There is nothing to resume; --overwrite replaces it.")
    _clear(out)
    (out / PLAN).write_text(json.dumps(plan), encoding="utf-8")
    return []


def _clear(out: Path) -> None:
    from train.data.chip_folder import CARD, CHIPS, RECORDS

    for name in (CARD, RECORDS, CHIPS, PROGRESS, PLAN):
        (out / name).unlink(missing_ok=True)


def _progress(path: Path) -> list[dict[str, Any]]:
    """Lines of the blocks that are done; a line cut off by a crash counts as not written."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _blocks(
    out: Path,
    source: ImagerySource,
    shape: Shape,
    start: NDArray[np.int64],
    done: list[dict[str, Any]],
    progress: Callable[[int, int], None],
) -> Iterator[dict[str, Any]]:
    """Cuts and writes what is not done yet; a line for every block, in order."""
    from train.data.chip_folder import CHIPS

    total = len(start)
    with (
        (out / CHIPS).open("r+b" if done else "w+b") as chips,
        (out / PROGRESS).open("w", encoding="utf-8") as log,
    ):
        entry = {
            "descr": npy.dtype_to_descr(np.dtype(shape.dtype)),
            "fortran_order": False,
            "shape": (total, source.bands, shape.pixels, shape.pixels),
        }
        npy.write_array_header_1_0(chips, entry)
        begin = chips.tell()
        size = source.bands * shape.pixels**2 * np.dtype(shape.dtype).itemsize
        for number, first in enumerate(range(0, total, BLOCK)):
            if number < len(done):
                line = done[number]
            else:
                values, whole = read_chips(source, shape, start[first : first + BLOCK])
                chips.seek(begin + first * size)
                chips.write(values.tobytes())
                chips.flush()
                os.fsync(chips.fileno())
                line = _line(values[whole], whole)
            log.write(json.dumps(line) + "\n")
            log.flush()
            progress(min(first + BLOCK, total), total)
            yield line


def _line(values: NDArray[Any], whole: NDArray[np.bool_]) -> dict[str, Any]:
    exact = values.astype(np.float64)
    return {
        "whole": np.flatnonzero(whole).tolist(),
        "sum": exact.sum(axis=(0, 2, 3)).tolist(),
        "squares": (exact**2).sum(axis=(0, 2, 3)).tolist(),
    }


def _finish(
    out: Path,
    records: Records,
    source: ImagerySource,
    shape: Shape,
    places: Places,
    lines: list[dict[str, Any]],
    credit: str,
) -> dict[str, Any]:
    """Writes the table and the card, and removes what only a resumed run needs."""
    from train.data.chip_folder import CARD, FORMAT, RECORDS
    from train.data.columns import digest_of

    whole = np.zeros(len(places.start) + 1, bool)  # the last stands for chip -1
    for number, line in enumerate(lines):
        whole[number * BLOCK + np.array(line["whole"], np.int64)] = True
    kept = whole[places.chip]
    lost = {OFF_MAP: int((places.chip < 0).sum()), NO_IMAGE: int((~kept & (places.chip >= 0)).sum())}
    if not kept.any():
        found = f"{source.id} covers none of the {len(kept)} records wholly"
        raise ImageryError(WHAT, found, "Use imagery of the area, or smaller chips.")
    table = records.table[kept].reset_index(drop=True)
    species = sorted(table["scientificName"].unique())
    label = pd.Categorical(table["scientificName"], species).codes.astype(np.int64)
    table.assign(label=label, chip=places.chip[kept]).to_parquet(out / RECORDS)
    count = int(whole.sum()) * shape.pixels**2
    mean = np.sum([line["sum"] for line in lines], axis=0) / count
    variance = np.sum([line["squares"] for line in lines], axis=0) / count - mean**2
    card = {
        "format": FORMAT,
        **asdict(shape),
        "bands": source.bands,
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(variance, 0)).clip(1e-3).tolist(),
        "imagery": source.id,
        "credit": credit,
        "source": records.source,
        "species": species,
        "records": len(table),
        "chips": int(whole.sum()),
        "dropped": {**records.dropped, **{reason: rows for reason, rows in lost.items() if rows}},
        "digest": digest_of([out / RECORDS]),
    }
    part = out / f"{CARD}.part"
    part.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    part.replace(out / CARD)
    for name in (PLAN, PROGRESS):
        (out / name).unlink()
    return card
