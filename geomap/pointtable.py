"""Tables of points: read row by row, their coordinates found, everything else left as it is."""

from __future__ import annotations

import csv
import gzip
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from geomap.columns import ALIASES, header_key
from geomap.errors import OutputError, RecordsError
from geomap.names import nearest

DELIMITERS = ",\t;"
Row = list[str]


@dataclass
class Counts:
    """What became of the rows.

    Attributes:
        rows: All rows.
        unplaced: Rows whose coordinates are missing, no number, or not on the globe.
        outside: Rows without an embedding: outside the field and the imagery.
        swapped: Rows whose latitude is beyond the poles while both would fit the other way round.
    """

    rows: int = 0
    unplaced: int = 0
    outside: int = 0
    swapped: int = 0


@contextmanager
def reading(path: Path) -> Iterator[IO[str]]:
    """A text file, plain or gzipped, with errors of reading in three parts."""
    if not path.is_file():
        raise RecordsError(f"cannot read the points {path}", "no such file", "Check the path")
    try:
        with path.open("rb") as head:
            packed = head.read(2) == b"\x1f\x8b"
        opener = gzip.open if packed else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as lines:
            yield lines
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, csv.Error) as error:
        raise RecordsError(
            f"cannot read the points {path}", str(error), "Give a whole CSV file in UTF-8"
        ) from error


@contextmanager
def written_whole(out: Path) -> Iterator[IO[str]]:
    """A text file that appears under its name only when the block ends without an error."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=f".{out.name}-", dir=out.parent)
        os.close(handle)
    except OSError as error:
        raise OutputError(
            f"cannot write {out}", error.strerror or str(error), "Choose another place for --out"
        ) from error
    try:
        opener = gzip.open if out.suffix == ".gz" else open
        with opener(scratch, "wt", encoding="utf-8", newline="") as target:
            yield target
        os.chmod(scratch, 0o666 & ~_umask())
        os.replace(scratch, out)
    except OSError as error:
        raise OutputError(
            f"cannot write {out}", error.strerror or str(error), "Choose a place with room"
        ) from error
    finally:
        Path(scratch).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def table_of(path: Path, lines: IO[str]) -> tuple[str, Row, Iterator[Row]]:
    """Delimiter, header and rows of a table; blank lines are no rows."""
    first = lines.readline()
    if not first.strip():
        raise RecordsError(
            f"cannot read the points {path}",
            "an empty first line",
            "Give a table whose first line names its columns",
        )
    delimiter = max(DELIMITERS, key=first.count)
    lines.seek(0)
    rows = (row for row in csv.reader(lines, delimiter=delimiter) if row)
    return delimiter, next(rows), rows


def coordinate_columns(path: Path, header: Row) -> tuple[int, int]:
    """Positions of longitude and latitude, by the same spellings as tables of records."""
    keys = [header_key(name) for name in header]
    found = []
    for column in ("decimalLongitude", "decimalLatitude"):
        spellings = [header_key(spelling) for spelling in ALIASES[column]]
        matches = next(([i for i, key in enumerate(keys) if key == s] for s in spellings if s in keys), [])
        if len(matches) != 1:
            what = (
                f"{len(matches)} columns for {column}"
                if matches
                else f"no column {column} among {', '.join(header)}"
            )
            near = nearest(column, header, n=1)
            hint = f"; did you mean it by {near[0]!r}?" if near and not matches else ""
            raise RecordsError(f"cannot read the points {path}", what, f"Name one column {column}{hint}")
        found.append(matches[0])
    return found[0], found[1]


def coordinates(
    path: Path, rows: list[Row], header: Row, where: tuple[int, int], counts: Counts
) -> NDArray[np.float64]:
    """Longitude and latitude of rows (n, 2); NaN where they are missing, no number, or not on the globe."""
    for row in rows:
        counts.rows += 1
        if len(row) != len(header):
            found = f"{len(row)} fields in row {counts.rows}, {len(header)} in the header"
            raise RecordsError(
                f"cannot read the points {path}", found, "Give every row as many fields as the header"
            )
    lonlat = np.array([[number(row[i]) for i in where] for row in rows])
    size = np.abs(lonlat)
    counts.swapped += int(((size[:, 1] > 90) & (size[:, 1] <= 180) & (size[:, 0] <= 90)).sum())
    on_globe = (size[:, 0] <= 180) & (size[:, 1] <= 90)  # False for NaN
    counts.unplaced += int((~on_globe).sum())
    return np.where(on_globe[:, None], lonlat, np.nan)


def number(text: str) -> float:
    """A coordinate, with a decimal point or comma; NaN when the text is none."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return float("nan")


def as_text(scores: NDArray[np.float32]) -> Iterator[Row]:
    """Rows of scores with four decimals, as the maps have them; empty where missing."""
    for row in scores:
        yield [""] * len(row) if np.isnan(row).any() else [f"{value:.4f}" for value in row.tolist()]
