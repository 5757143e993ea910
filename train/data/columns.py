"""The columns of observations, checked: places, dates, classes; every row that is left out is counted.

Places are degrees WGS 84, longitude first (pitfall 1): a table whose columns are swapped is refused. Dates
become month and day, both NaN where either is unknown. Classes are numbered from 0.
"""

from __future__ import annotations

import calendar
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from train.errors import SpecError

OnError = Literal["raise", "drop"]
Empty = Literal["raise", "keep"]
Unplaced = Literal["drop", "keep", "raise"]
Mask = NDArray[np.bool_]

NO_PLACE, BAD_PLACE, BAD_DATE = "no coordinates", "coordinates out of range", "date out of range"
UNKNOWN_CLASS, FEW = "class not in the list", "class with too few samples"
SWAPPED = 0.2  # share of latitudes beyond the poles from which on columns count as swapped
MONTH_ENDS = np.cumsum([0, *(calendar.monthrange(2001, month)[1] for month in range(1, 13))])


class Sieve:
    """Rows of a table on their way into a data set.

    Args:
        frame: The table; the index is replaced by 0, 1, ... as rows of the source are counted.
        what: What errors say cannot be done.
        on_error: Whether faulty rows raise or are dropped and counted.

    Attributes:
        frame: The rows that are left; the index numbers the rows of the source.
        dropped: Reason -> rows.
    """

    def __init__(self, frame: pd.DataFrame, what: str, on_error: OnError = "raise") -> None:
        choose("on_error", on_error, ("raise", "drop"))
        self.frame = frame.reset_index(drop=True)
        self.what = what
        self.on_error = on_error
        self.dropped: dict[str, int] = {}

    def leave_out(self, reason: str, rows: Mask) -> None:
        """Drops rows and counts them."""
        if rows.any():
            self.dropped[reason] = self.dropped.get(reason, 0) + int(rows.sum())
            self.frame = self.frame[~rows]

    def refuse(self, reason: str, rows: Mask, change: str) -> None:
        """Drops and counts faulty rows, or raises, as `on_error` says.

        Raises:
            SpecError: With the number of rows and the first of them.
        """
        if not rows.any() or self.on_error == "drop":
            self.leave_out(reason, rows)
            return
        first = self.frame[rows].iloc[0]
        values = ", ".join(f"{column} {value}" for column, value in list(first.items())[:6])
        found = f"{reason} in {int(rows.sum())} rows, the first is row {first.name} ({values})"
        raise SpecError(self.what, found, f'{change}, or drop such rows with on_error = "drop".')

    def require_rows(self) -> None:
        """Refuses a split without a row.

        Raises:
            SpecError: With what was dropped.
        """
        if self.frame.empty:
            why = (
                ", ".join(f"{reason}: {rows}" for reason, rows in self.dropped.items())
                or "the table is empty"
            )
            raise SpecError(self.what, f"no observation is left ({why})", "Choose another split or subset.")

    def check_places(self, unplaced: Unplaced = "drop") -> None:
        """Checks columns `lon` and `lat` (float64 degrees, NaN where unknown).

        Args:
            unplaced: What becomes of rows without coordinates.

        Raises:
            SpecError: The columns are swapped, or a row is out of range and `on_error` is "raise".
        """
        choose("unplaced", unplaced, ("drop", "keep", "raise"))
        self._refuse_swapped()
        lon, lat = (self.frame[name].to_numpy(np.float64) for name in ("lon", "lat"))
        unknown = np.isnan(lon) | np.isnan(lat)
        bad = ~unknown & ~((np.abs(lat) <= 90) & (np.abs(lon) <= 180))  # infinity is bad, too
        self.refuse(BAD_PLACE, bad, "Give longitude -180..180 and latitude -90..90 in degrees")
        unknown = unknown[~bad]
        if unplaced == "raise":
            self.refuse(NO_PLACE, unknown, "Give every row its longitude and latitude")
        elif unplaced == "drop":
            self.leave_out(NO_PLACE, unknown)

    def _refuse_swapped(self) -> None:
        known = self.frame[["lon", "lat"]].dropna().to_numpy(np.float64)
        beyond = np.abs(known[:, 1]) > 90
        swapped = beyond & (np.abs(known[:, 1]) <= 180) & (np.abs(known[:, 0]) <= 90)
        could_be = bool((np.abs(known[:, 0]) <= 90).all())  # one wrong latitude is no swap
        if swapped.sum() > (SWAPPED if could_be else 0.5) * len(known):
            lon, lat = known[np.flatnonzero(swapped)[0]]
            found = f"longitude {lon:g} and latitude {lat:g}, and {int(swapped.sum()) - 1} more like it"
            raise SpecError(self.what, found, "Swap longitude and latitude.")

    def check_dates(self, column: str = "date") -> None:
        """Replaces a column of dates (text that begins with YYYY-MM-DD; missing: unknown) by month and day.

        Raises:
            SpecError: A date does not exist and `on_error` is "raise".
        """
        text = self.frame[column].astype("str").str.strip()
        unknown = (self.frame[column].isna() | text.isin(["", "nan", "None", "NaT"])).to_numpy(bool)
        parts = text.str.extract(r"^(\d{4})-(\d{2})(?:-(\d{2}))?(?:[T\s].*)?$")
        partial = (parts[0].notna() & parts[2].isna()).to_numpy(bool)  # a month without a day
        iso = parts[0] + "-" + parts[1] + "-" + parts[2].fillna("01")
        day = pd.to_datetime(iso, format="%Y-%m-%d", errors="coerce")
        known = day.notna().to_numpy(bool) & ~partial
        month_day = np.full((len(text), 2), np.nan, np.float32)
        month_day[known] = np.stack([day.dt.month[known], day.dt.day[known]], axis=1)
        bad = ~unknown & day.isna().to_numpy(bool)
        self.frame = self.frame.assign(month=month_day[:, 0], day=month_day[:, 1])
        self.refuse(BAD_DATE, bad, "Give dates as YYYY-MM-DD")

    def number_classes(
        self, classes: Sequence[str] | None = None, empty: Empty = "raise", least: int = 1
    ) -> tuple[str, ...]:
        """Adds column `label`, the number of the class named in column `name` (missing: -1).

        Args:
            classes: The classes in their order; the names found, sorted, when None.
            empty: Whether a class of `classes` without a sample raises.
            least: Leave out (and count) classes with fewer samples; only without `classes`.

        Returns:
            The classes.

        Raises:
            SpecError: A class is named twice, has no sample, or a row has another class.
        """
        choose("empty_classes", empty, ("raise", "keep"))
        name = self.frame["name"]
        if classes is None:
            counts = name.value_counts()
            rare = name.isin(counts.index[counts < least]).to_numpy(bool)
            self.leave_out(FEW, rare)
            classes = sorted(map(str, counts.index[counts >= least]))
        numbers = {str(each): number for number, each in enumerate(classes)}
        if len(numbers) < len(classes):
            twice = next(each for each in classes if list(classes).count(each) > 1)
            raise SpecError(self.what, f"class {twice!r} is listed twice", "List every class once.")
        name = self.frame["name"]
        label = name.map(numbers)
        foreign = (label.isna() & name.notna()).to_numpy(bool)
        self.refuse(UNKNOWN_CLASS, foreign, f"Use the {len(classes)} classes that the labels count along")
        self.frame = self.frame.assign(label=label[~foreign].fillna(-1).astype(np.int64))
        have = np.bincount(self.frame["label"][self.frame["label"] >= 0], minlength=len(classes))
        if empty == "raise" and (have == 0).any():
            none = [str(classes[k]) for k in np.flatnonzero(have == 0).tolist()]
            found = f"{len(none)} of {len(classes)} classes have no sample, the first is {none[0]!r}"
            change = 'Leave them out of the classes, or allow them with empty_classes = "keep".'
            raise SpecError(self.what, found, change)
        return tuple(map(str, classes))

    def require_labels(self, count: int) -> None:
        """Refuses labels that are not -1..count-1.

        Raises:
            SpecError: With the first such label.
        """
        label = self.frame["label"].to_numpy(np.int64)
        self.refuse(
            "label out of range",
            (label < -1) | (label >= count),
            f"Give labels 0..{count - 1}, or -1 for none",
        )


def dates_of_year(fraction: NDArray[np.float64]) -> NDArray[np.float32]:
    """Month and day (n, 2) of fractions of a year in 0..1 (iNat2018's `date_c`); NaN stays NaN."""
    known = np.isfinite(fraction)
    day = np.clip(np.floor(np.where(known, fraction, 0.0) * 365), 0, 364).astype(np.int64)
    month = np.searchsorted(MONTH_ENDS, day, side="right")
    found = np.stack([month, day - MONTH_ENDS[month - 1] + 1], axis=1).astype(np.float32)
    found[~known] = np.nan
    return found


def choose(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuses a value that is not among the allowed ones.

    Raises:
        SpecError: With the allowed values.
    """
    if value not in allowed:
        raise SpecError(
            f"cannot use option {name}", repr(value), f"Use one of: {', '.join(map(repr, allowed))}."
        )


def digest_of(paths: Iterable[Path]) -> str:
    """sha256 of the names and bytes of files, in the given order."""
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
