"""A folder of photos with a CSV, as iNaturalist exports it or as one writes it by hand.

The CSV names the file, and as far as known the species, the place and the day. Its columns are told by their
headers (`ALIASES`; case and punctuation do not matter). Beside the photos, aerial chips can be had from a
folder that `geomap.chips` cut from the same CSV: a photo gets the chip at its coordinates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from train.data import chip_folder
from train.data.columns import Empty, OnError, Sieve, Unplaced, digest_of
from train.data.pictures import sift_pictures
from train.data.readers import ArrayFile, PictureFiles, Reader
from train.data.table import ObservationTable, table_of
from train.errors import SpecError

WHAT = "cannot read the photos"
NO_CHIP = "no chip at the coordinates"
# Column -> headers that mean it, best first.
ALIASES = {
    "file": ("file", "photo", "filename", "image", "path", "picture"),
    "name": ("scientificname", "species", "taxonname", "taxon", "name", "label"),
    "lon": ("lon", "longitude", "decimallongitude", "lng"),
    "lat": ("lat", "latitude", "decimallatitude"),
    "date": ("date", "observedon", "eventdate"),
}


def open(
    path: str | Path,
    *,
    pixels: int = 224,
    photos: str | Path | None = None,
    chips: str | Path | None = None,
    chip_pixels: int = 0,
    classes: Sequence[str] | None = None,
    empty_classes: Empty = "raise",
    least: int = 1,
    unplaced: Unplaced = "drop",
    on_error: OnError = "raise",
    cache: str | Path | None = None,
) -> ObservationTable:
    """Opens a folder of photos.

    Args:
        path: The CSV, or a folder that holds one CSV.
        pixels: Side of the squares that photos become [pixels].
        photos: Folder of the photos; that of the CSV when None.
        chips: Folder made by `geomap.chips` whose chips become the view `aerial`.
        chip_pixels: Cut out the middle of the chips; 0 keeps them whole.
        classes: Species in the order of the labels; those of the CSV, sorted, when None.
        empty_classes: Whether a class of `classes` without a photo raises.
        least: Leave out (and count) species with fewer photos; only without `classes`.
        unplaced: What becomes of rows without coordinates where the CSV has such columns.
        on_error: Whether faulty rows, and missing or damaged photos, raise or are dropped and counted.
        cache: Where verdicts on photos are kept (on_error "drop"); beside the CSV when None.

    Returns:
        Views `ground`, with coordinates `lonlat`, with dates `date`, with `chips` `aerial`. `tile` is the
        chip, -1 without `chips`. Photos without a species have label -1.

    Raises:
        SpecError: The CSV or a photo is missing or damaged, columns are missing or swapped, a class is
            unknown or empty, or nothing is left.
    """
    table = _csv_of(Path(path))
    sieve = Sieve(_columns(_read(table), table), WHAT, on_error)
    folder = Path(photos) if photos is not None else table.parent
    sieve.frame = sieve.frame.assign(file=[str(folder / str(file)) for file in sieve.frame["file"]])
    placed = bool(sieve.frame["lon"].notna().any())
    sieve.check_places(unplaced if placed else "keep")
    sieve.check_dates()
    readers: dict[str, Reader] = {}
    if chips is not None:
        _join(sieve, Path(chips))
    sift_pictures(sieve, "file", Path(cache) if cache is not None else table.with_suffix(".checked.json"))
    sieve.require_rows()
    names = sieve.number_classes(classes, empty_classes, least)
    sieve.require_rows()
    readers["ground"] = PictureFiles(tuple(sieve.frame["file"]), pixels)
    if chips is not None:
        rows = sieve.frame["tile"].to_numpy(np.int64)
        readers["aerial"] = ArrayFile(str(Path(chips) / chip_folder.CHIPS), rows, chip_pixels)
    return table_of(sieve, names, readers, digest_of([table]))


def _csv_of(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.csv"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "no CSV" if path.is_dir() else "no such file"
        raise SpecError(WHAT, f"{path}: {names}", "Give the path of the CSV that names the photos.")
    return found[0]


def _read(table: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(table, dtype=str, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise SpecError(WHAT, f"{table}: {error}", "Give a CSV in UTF-8 with a header.") from error


def _columns(raw: pd.DataFrame, table: Path) -> pd.DataFrame:
    """Columns file, name, lon, lat, date of a CSV; coordinates as numbers, unknown ones NaN."""
    keys = {re.sub(r"[^a-z0-9]", "", str(header).lower()): header for header in raw.columns}
    found = {
        column: next((keys[alias] for alias in aliases if alias in keys), None)
        for column, aliases in ALIASES.items()
    }
    if found["file"] is None:
        has = f"{table} has columns {', '.join(map(str, raw.columns))}"
        raise SpecError(WHAT, has, f"Name the column of the photos one of: {', '.join(ALIASES['file'])}.")
    if (found["lon"] is None) != (found["lat"] is None):
        raise SpecError(WHAT, f"{table} has only one of longitude and latitude", "Give both, or neither.")
    empty = pd.Series([None] * len(raw), dtype=object)
    frame = pd.DataFrame(
        {column: empty if header is None else raw[header].str.strip() for column, header in found.items()}
    )
    frame["name"] = frame["name"].where(frame["name"] != "", None)
    numbers = {
        column: pd.to_numeric(frame[column], errors="coerce").astype(np.float64) for column in ("lon", "lat")
    }
    for column, values in numbers.items():
        unread = (values.isna() & frame[column].notna() & (frame[column] != "")).to_numpy(bool)
        if unread.any():
            first = frame[column][unread].iloc[0]
            raise SpecError(
                WHAT, f"{first!r} in {found[column]}", "Give degrees as decimal numbers, -122.06."
            )
    return frame.assign(**numbers)


def _join(sieve: Sieve, folder: Path) -> None:
    """Adds column `tile`: the chip at the coordinates of each photo."""
    places = chip_folder.read_table(folder)
    known = {
        (lon, lat): int(chip)
        for lon, lat, chip in zip(
            places["decimalLongitude"].round(7),
            places["decimalLatitude"].round(7),
            places["chip"],
            strict=True,
        )
    }
    at = zip(sieve.frame["lon"].round(7), sieve.frame["lat"].round(7), strict=True)
    tile = np.array([known.get(place, -1) for place in at], np.int64)
    sieve.frame = sieve.frame.assign(tile=tile)
    sieve.refuse(NO_CHIP, tile < 0, f"Cut chips for this very CSV into {folder}")
