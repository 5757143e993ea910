"""What is checked in records: the limits, and the sieve that drops a row for the first rule that it fails.

The rules stand in `geomap.rules`; every limit is a field of Checks, with the reason for its default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geomap.errors import RecordsError

SAMPLE = 2_000  # points looked at when asking whether longitude and latitude are swapped

# True where a point (n, 2) lon, lat may carry a record of a land species.
LandTest = Callable[[NDArray[np.float64]], NDArray[np.bool_]]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Checks:
    """What is dropped from a table of records.

    Attributes:
        max_uncertainty_m: Largest coordinate uncertainty [m]. The default, 10 km, is the cell of the
            north-america grid; 1000 suits a grid of 1 km. None: no limit.
        missing_uncertainty: What becomes of records without a stated uncertainty (a value that is not above
            zero says nothing either: Darwin Core). Many good collections state none, so they are kept by
            default, and counted in the report.
        obscured: What becomes of coordinates that were blurred on purpose.
        captive: What becomes of captive or cultivated organisms.
        quality_grades: iNaturalist grades that count, where the table has them; None: all.
        land_only: Drop records at sea.
        coast_tolerance_m: Distance from land [m] up to which a record is not at sea: coasts are drawn
            coarsely.
        centroid_distance_m: Drop records this near [m] to the centroid of a country or state; None: do not.
        rounded_decimals: Drop records both of whose coordinates have no more decimals than this; 1 is a grid
            of 11 km. None: do not.
        duplicates: Drop records of the same species, place and day but one.
        ranks: "species" counts subspecies, varieties and forms as their species; "lowest" keeps them apart.
    """

    max_uncertainty_m: float | None = 10_000.0
    missing_uncertainty: Literal["keep", "drop"] = "keep"
    obscured: Literal["keep", "drop"] = "drop"
    captive: Literal["keep", "drop"] = "drop"
    quality_grades: tuple[str, ...] | None = ("research",)
    land_only: bool = True
    coast_tolerance_m: float = 5_000.0
    centroid_distance_m: float | None = 1_000.0
    rounded_decimals: int | None = 1
    duplicates: bool = True
    ranks: Literal["species", "lowest"] = "species"

    def __post_init__(self) -> None:
        """Refuse limits that make no sense."""
        limits = (
            self.max_uncertainty_m,
            self.coast_tolerance_m,
            self.centroid_distance_m,
            self.rounded_decimals,
        )
        bad = [limit for limit in limits if limit is not None and not limit >= 0]
        if bad:
            raise RecordsError(
                "cannot check records", f"a limit of {bad[0]}", "Give zero or a positive number"
            )


Rule = Callable[[pd.DataFrame, Checks, LandTest], Mask]


@dataclass(frozen=True)
class Sifted:
    """What a sieve leaves.

    Attributes:
        frame: The rows left; the index numbers the rows of the file from 0.
        dropped: Reason -> rows dropped.
        first: Reason -> its first rows, counted from 1.
    """

    frame: pd.DataFrame
    dropped: Mapping[str, int] = field(default_factory=dict)
    first: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def drop(self, reason: str, fails: Mask) -> Sifted:
        """The same without the rows that fail."""
        if not fails.any():
            return self
        rows = tuple(int(row) + 1 for row in self.frame.index[fails][:3])
        dropped = {**self.dropped, reason: int(fails.sum())}
        return Sifted(self.frame[~fails], dropped, {**self.first, reason: rows})

    def reasons(self) -> str:
        """Reasons, rows and the first row numbers as text."""
        return "; ".join(
            f"{reason}: {n} (row {', '.join(map(str, self.first[reason]))}{' ...' if n > 3 else ''})"
            for reason, n in self.dropped.items()
        )


def sift(sifted: Sifted, rules: Mapping[str, Rule], checks: Checks, land: LandTest) -> Sifted:
    """Drop the rows that fail a rule, each for the first rule that it fails.

    Args:
        sifted: A table as `recordtable.named` leaves it.
        rules: Reason -> rule, in the order in which they are asked.
        checks: The limits.
        land: Where land species may be.
    """
    for reason, rule in rules.items():
        sifted = sifted.drop(reason, rule(sifted.frame, checks, land))
    return sifted


def refuse_swapped(frame: pd.DataFrame, checks: Checks, land: LandTest) -> None:
    """Refuse a table whose coordinates are plainly something else than longitude and latitude in degrees.

    Raises:
        RecordsError: Most latitudes are beyond the poles and would be longitudes; most points are at sea and
            would be on land with the columns swapped; or most numbers are too large to be degrees.
    """
    lonlat = (
        frame[["decimalLongitude", "decimalLatitude"]]
        .dropna()
        .drop_duplicates()
        .sort_values(["decimalLongitude", "decimalLatitude"])
        .to_numpy()
    )
    if not len(lonlat):
        return
    lon, lat = np.abs(lonlat).T
    if np.mean(np.maximum(lon, lat) > 360) > 0.5:
        found = f"numbers such as {lonlat[0, 0]:g}, {lonlat[0, 1]:g}"
        raise RecordsError(
            "cannot use the coordinates", found, "Give longitude and latitude in degrees, WGS 84"
        )
    swapped = np.mean((lat > 90) & (lat <= 180) & (lon <= 90)) > 0.5
    if swapped or (checks.land_only and _land_when_swapped(lonlat, land)):
        found = (
            "latitudes beyond 90 degrees" if swapped else "most points are at sea, and on land the other way"
        )
        raise RecordsError("cannot use the coordinates", found, "Swap longitude and latitude")


def _land_when_swapped(lonlat: NDArray[np.float64], land: LandTest) -> bool:
    points = lonlat[np.linspace(0, len(lonlat) - 1, min(SAMPLE, len(lonlat))).astype(int)]
    points = points[(np.abs(points) <= 90).all(axis=1) & (points != 0).any(axis=1)]
    return len(points) > 0 and bool(land(points).mean() < 0.5 < land(points[:, ::-1].copy()).mean())


def nowhere(frame: pd.DataFrame) -> Mask:
    """A mask without a true value."""
    return np.zeros(len(frame), dtype=bool)


def lonlat_of(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Longitude and latitude, (n, 2) float64 degrees."""
    return np.asarray(frame[["decimalLongitude", "decimalLatitude"]], dtype=np.float64)
