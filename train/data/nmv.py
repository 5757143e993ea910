"""Nature Multi-View, which CRISP was trained on: parquet with photos and aerial tiles inside (methods 1.1).

    ROOT/data/train/*.parquet, ROOT/data/validation/*.parquet, ROOT/data/test/*.parquet

Tiles are lists in lists of int64, eight times their size as bytes. They are read a few rows at a time, turned
into uint8 at once and written, each different tile once, to a file that is memory-mapped from then on
(`train.data.unpack`); photos go beside it as they are. That is done once for every selection of rows.

What we changed against the prototype (methods section 2.6): a photo or tile that is missing or damaged
raises, or its row is left out and counted; tiles are never looked up by position; values stay 0..255 and are
normalised in the encoder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet as pq
from numpy.typing import NDArray

from train.data.columns import Empty, OnError, Sieve, choose
from train.data.images import CORRUPT, MISSING
from train.data.readers import Reader
from train.data.table import ObservationTable, table_of
from train.data.unpack import NO_TILE, PhotoFile, TileFile, unpack
from train.errors import SpecError

WHAT = "cannot read Nature Multi-View"
SPLITS = ("train", "validation", "test")
NEEDED = ("observation_uuid", "latitude", "longitude", "name", "gl_image_date")
PERCENT = re.compile(r"finetune_([0-9.]+)percent")


def open(
    path: str | Path,
    *,
    split: str = "train",
    percent: float | None = None,
    only: Sequence[str] = (),
    label: str = "name",
    max_uncertainty: float | None = None,
    ground: bool = True,
    aerial: bool = True,
    ground_pixels: int = 256,
    aerial_pixels: int = 0,
    bands: Sequence[int] = (),
    classes: Sequence[str] | None = None,
    empty_classes: Empty = "raise",
    least: int = 1,
    on_error: OnError = "raise",
    cache: str | Path | None = None,
) -> ObservationTable:
    """Opens a split.

    Args:
        path: ROOT, ROOT/data, or one parquet file.
        split: "train", "validation" or "test"; ignored for one file.
        percent: Only the rows of this few-label subset (columns finetune_*percent): 0.25, 0.5, 1, 2.5, 5, 10,
            20 or 100.
        only: Further Boolean columns that must be true: "supervised", "rs_classification".
        label: Column that names the class: "name" or "taxon_id".
        max_uncertainty: Leave out (and count) rows whose `positional_accuracy` is larger [m].
        ground: Whether to read photos.
        aerial: Whether to read tiles.
        ground_pixels: Side of the squares that photos become [pixels].
        aerial_pixels: Cut out the middle of the tiles [pixels]; 0 keeps them whole.
        bands: Bands of the tiles to give, 1 is the first; all when empty.
        classes: Classes in the order of the labels; those of the rows, sorted, when None.
        empty_classes: Whether a class of `classes` without a row raises.
        least: Leave out (and count) classes with fewer rows; only without `classes`.
        on_error: Whether faulty rows, photos and tiles raise or are dropped and counted.
        cache: Folder for the unpacked photos and tiles; ROOT/unpacked when None.

    Returns:
        Views `ground`, `aerial`, `lonlat`, `date`. Rows have the same `tile` when their tiles are equal, byte
        by byte; without tiles, when they belong to one observation.

    Raises:
        SpecError: Files or columns are missing or damaged, a photo or tile is missing or damaged, places are
            swapped, a class is unknown or empty, or nothing is left.
    """
    choose("label", label, ("name", "taxon_id"))
    files, root = _files(Path(path), split)
    named = [*only, *([_percent_column(files[0], percent)] if percent is not None else [])]
    images = [column for column, wanted in (("gl_image", ground), ("rs_image", aerial)) if wanted]
    table = _read(files, named, images, label, max_uncertainty is not None)
    chosen = table[named].fillna(False).astype(bool).all(axis=1).to_numpy(bool)
    sieve = Sieve(_columns(table, label), WHAT, on_error)
    sieve.frame = sieve.frame[chosen]
    if max_uncertainty is not None:
        sieve.leave_out("uncertain position", ~(sieve.frame["accuracy"] <= max_uncertainty).to_numpy(bool))
    sieve.check_places("drop")
    sieve.check_dates()
    sieve.require_rows()
    digest = _digest(table, files)
    readers: dict[str, Reader] = {}
    if images:
        folder = unpack(files, sieve.frame[["part", "at"]], images, Path(cache or root / "unpacked"), digest)
        sieve.frame = sieve.frame.assign(**_sift_images(folder, images))
        for column, reason in (("photo", MISSING), ("photo", CORRUPT), ("rs", NO_TILE)):
            bad = (sieve.frame[column] == reason).to_numpy(bool)
            sieve.refuse(reason, bad, "Get the file again")
        sieve.require_rows()
    names = sieve.number_classes(classes, empty_classes, least)
    sieve.require_rows()
    if ground:
        readers["ground"] = PhotoFile(str(folder), sieve.frame["entry"].to_numpy(np.int64), ground_pixels)
    if aerial:
        rows = sieve.frame["tile"].to_numpy(np.int64)
        readers["aerial"] = TileFile(str(folder), rows, aerial_pixels, _bands(folder, bands))
    else:
        sieve.frame = sieve.frame.assign(tile=pd.factorize(sieve.frame["observation"])[0])
    return table_of(sieve, names, readers, digest)


def _files(path: Path, split: str) -> tuple[list[Path], Path]:
    """Parquet files of a split, in the order of their names, and the root folder."""
    if path.is_file():
        return [path], path.parent
    choose("split", split, SPLITS)
    for folder in (path / "data", path):
        found = sorted({*(folder / split).glob("**/*.parquet"), *folder.glob(f"{split}-*.parquet")})
        if found:
            return found, path
    found_text = f"no parquet file of split {split!r} below {path}"
    raise SpecError(WHAT, found_text, "Give the folder that holds data/train, data/validation and data/test.")


def _percent_column(file: Path, percent: float) -> str:
    names = _schema(file).names
    known: dict[float, str] = {float(match[1]): name for name in names if (match := PERCENT.fullmatch(name))}
    if float(percent) not in known:
        shares = ", ".join(f"{share:g}" for share in sorted(known)) or "none"
        raise SpecError(WHAT, f"no few-label subset of {percent:g} percent in {file}", f"It has: {shares}.")
    return known[float(percent)]


def _schema(file: Path) -> Any:
    try:
        return pq.read_schema(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise SpecError(WHAT, f"{file}: {error}", "Get the file again.") from error


def _read(
    files: Sequence[Path], flags: Sequence[str], images: Sequence[str], label: str, uncertainty: bool
) -> pd.DataFrame:
    """All columns but the images, with `part`, the number of the file, and `at`, the row in it."""
    columns = list(dict.fromkeys([*NEEDED, label, *flags, *(["positional_accuracy"] if uncertainty else [])]))
    parts = []
    for number, file in enumerate(files):
        lacking = [name for name in [*columns, *images] if name not in _schema(file).names]
        if lacking:
            has = ", ".join(_schema(file).names)
            raise SpecError(WHAT, f"{file} has no column {', '.join(lacking)}", f"Its columns are: {has}.")
        try:
            part = pq.read_table(file, columns=columns).to_pandas()
        except (OSError, pyarrow.ArrowException) as error:
            raise SpecError(WHAT, f"{file}: {error}", "Get the file again.") from error
        parts.append(part.assign(part=number, at=np.arange(len(part))))
    return pd.concat(parts, ignore_index=True)


def _columns(table: pd.DataFrame, label: str) -> pd.DataFrame:
    name = table[label]
    frame = pd.DataFrame(
        {
            "name": name.astype(object).where(name.notna(), None).map(str, na_action="ignore"),
            "lon": table["longitude"].to_numpy(np.float64, na_value=np.nan),
            "lat": table["latitude"].to_numpy(np.float64, na_value=np.nan),
            "date": table["gl_image_date"],
            "observation": table["observation_uuid"],
            "part": table["part"],
            "at": table["at"],
        }
    )
    if "positional_accuracy" in table:
        frame["accuracy"] = table["positional_accuracy"].to_numpy(np.float64, na_value=np.nan)
    return frame


def _digest(table: pd.DataFrame, files: Sequence[Path]) -> str:
    """sha256 of the columns but the images, and of names and sizes of the files."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name} {file.stat().st_size}\n".encode())
    rows: NDArray[np.uint64] = pd.util.hash_pandas_object(table, index=False).to_numpy()
    whole.update(rows.tobytes())
    return whole.hexdigest()


def _sift_images(folder: Path, images: Sequence[str]) -> dict[str, Any]:
    """What unpacking found of every row: verdicts, entry of the photo, number of the tile."""
    found = pd.read_parquet(folder / "rows.parquet")
    blank = np.full(len(found), "", dtype=object)
    return {
        "photo": found["photo"].to_numpy(object) if "gl_image" in images else blank,
        "rs": np.where(found["tile"] < 0, NO_TILE, "") if "rs_image" in images else blank,
        "entry": np.arange(len(found), dtype=np.int64),
        "tile": found["tile"].to_numpy(np.int64),
    }


def _bands(folder: Path, bands: Sequence[int]) -> tuple[int, ...]:
    layers = np.load(folder / "tiles.npy", mmap_mode="r").shape[1]
    if any(not 1 <= band <= layers for band in bands):
        raise SpecError(WHAT, f"bands {list(bands)} of {layers}", f"Choose among the bands 1 to {layers}.")
    return tuple(band - 1 for band in bands)
