"""Tables of records as the server shows them: what may be seen exactly, what coarsely, what only counted.

A record is shown exactly only if nothing says that its place is a secret: no flag of iNaturalist, no note
that coordinates were withheld or generalised, no uncertainty beyond the limit. The rest is only counted. Of
sensitive species nothing is shown, or only that there are records somewhere in a cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geomap import names, surveys
from geomap.checks import Checks, Sifted, sift
from geomap.darwincore import file_format, read_table
from geomap.errors import MapError, RecordsError
from geomap.recordtable import named, typed
from geomap.rules import RULES, is_obscured

# Rows that are no record of the species in the wild at a known place; what is coarse or a secret comes after.
CERTAIN = (
    "no name", "not a species", "absent", "no coordinates", "impossible coordinates", "zero coordinates",
    "flagged by GBIF", "captive or cultivated", "fossil",
)  # fmt: skip
PASSED_ON = ("eventDate", "coordinateUncertaintyInMeters", "license", "rightsHolder")
METRES = 111_195  # of a degree of latitude


@dataclass(frozen=True, eq=False)
class Points:
    """The records of a species.

    Attributes:
        lonlat: (n, 2) float64 degrees of those that may be seen, in a fixed random order, so that the first
            ones are an even sample.
        said: What is said of each of them, under names of Darwin Core.
        withheld: How many more there are.
    """

    lonlat: NDArray[np.float64]
    said: tuple[Mapping[str, Any], ...]
    withheld: int

    def to(self, lon: float, lat: float) -> NDArray[np.float64]:
        """(n,) distances [km] to a place on a sphere."""
        (x, y), (a, b) = np.radians(self.lonlat).T, np.radians([lon, lat])
        half = np.sin((y - b) / 2) ** 2 + np.cos(y) * np.cos(b) * np.sin((x - a) / 2) ** 2
        distance: NDArray[np.float64] = 2 * 6371.0088 * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
        return distance


NOTHING = Points(np.zeros((0, 2)), (), 0)


@dataclass(frozen=True)
class Privacy:
    """What may be seen.

    Attributes:
        sensitive: Ids of species whose places are secrets, by any of their names.
        cell: Side [degrees] of the cells that stand for records of sensitive species; 0 shows none.
        largest_m: Largest coordinate uncertainty [m] of a record that is shown.
    """

    sensitive: frozenset[str]
    cell: float
    largest_m: float

    def protects(self, scientific: str) -> bool:
        """Whether the places of a species are secrets, under today's name or an older one."""
        today = names.accepted(names.canonical(scientific)) or scientific
        every = (scientific, today, *names.synonyms_of(today))
        return not self.sensitive.isdisjoint(map(slug_of, every))


def key_of(scientific: str) -> str:
    """What all names of a species have in common: today's name, normalised."""
    return names.normalise(names.accepted(names.canonical(scientific)) or scientific)


def slug_of(name: str) -> str:
    """Id of a species from a name of it, as `geomap.entries` makes it."""
    return re.sub(r"[^a-z0-9]+", "-", names.normalise(name)).strip("-")


def read_points(path: Path, privacy: Privacy) -> dict[str, Points]:
    """Records of a file by species.

    Args:
        path: A table in any format of `geomap.darwincore`; of surveys the rows with a detection count.
        privacy: What may be seen.

    Returns:
        Key (see `key_of`) -> records.

    Raises:
        MapError: The table cannot be read.
    """
    try:
        raw = read_table(path)
        frame = typed(raw.frame)
        if raw.kind == "survey":
            frame = surveys.named_by_code(frame)
            frame = frame[(pd.to_numeric(frame["detections"], errors="coerce") > 0).to_numpy()]
        frame = _with_holders(path, frame)
        rules = {reason: RULES[reason] for reason in CERTAIN}
        frame = sift(Sifted(named(frame, Checks())), rules, Checks(), _anywhere).frame
        secret = is_obscured(frame)
    except RecordsError as error:
        raise MapError("cannot show records", str(error), "Mend the table, or leave it out.") from error
    if "coordinateUncertaintyInMeters" in frame:
        secret = secret | (frame["coordinateUncertaintyInMeters"].to_numpy() > privacy.largest_m)
    frame = frame.assign(secret=secret).sample(frac=1, random_state=0)
    return {
        key_of(str(name)): _points(rows, privacy)
        for name, rows in frame.groupby("scientificName", sort=False)
    }


def joined(parts: Iterable[Points]) -> Points:
    """Records of several files as one."""
    parts = list(parts)
    if len(parts) == 1:
        return parts[0]
    lonlat = np.concatenate([NOTHING.lonlat, *(part.lonlat for part in parts)])
    said = tuple(one for part in parts for one in part.said)
    order = np.random.default_rng(0).permutation(len(lonlat))
    withheld = sum(part.withheld for part in parts)
    return Points(lonlat[order], tuple(said[k] for k in order), withheld)


def _points(rows: pd.DataFrame, privacy: Privacy) -> Points:
    open_rows = rows[~rows["secret"].to_numpy()]
    lonlat = open_rows[["decimalLongitude", "decimalLatitude"]].to_numpy(np.float64)
    withheld = len(rows) - len(open_rows)
    if not privacy.protects(str(rows["scientificName"].iloc[0])):
        columns = [column for column in PASSED_ON if column in open_rows]
        said = tuple(_known(row) for row in open_rows[columns].to_dict("records"))
        return Points(np.round(lonlat, 5), said, withheld)
    if privacy.cell <= 0:
        return Points(NOTHING.lonlat, (), len(rows))
    return _coarse(lonlat, privacy.cell, withheld)


def _coarse(lonlat: NDArray[np.float64], cell: float, withheld: int) -> Points:
    """The middle of every cell that has records, with their number; no dates, which could tell the place."""
    cells, counts = np.unique(np.floor(lonlat / cell), axis=0, return_counts=True)
    note = f"coordinates generalised to cells of {cell:g} degrees"
    # Half a diagonal at the equator: the record lies this near at any latitude.
    within = round(cell * METRES / np.sqrt(2))
    said = tuple(
        {"records": int(count), "coordinateUncertaintyInMeters": within, "dataGeneralizations": note}
        for count in counts
    )
    return Points(np.round((cells + 0.5) * cell, 5), said, withheld)


def _known(row: Mapping[Any, Any]) -> dict[str, Any]:
    """What is not missing."""
    return {str(key): value for key, value in row.items() if value is not None and value == value}


def _with_holders(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """The table with the column rightsHolder, which `read_table` leaves out, where a Parquet file has it."""
    from pyarrow import parquet

    if file_format(path) != "parquet" or "rightsHolder" not in parquet.read_schema(path).names:
        return frame
    holders = parquet.read_table(path, columns=["rightsHolder"]).column(0).to_pandas()
    return frame.assign(rightsHolder=holders.reindex(frame.index).to_numpy())


def _anywhere(lonlat: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The land test of rules that do not ask for land."""
    return np.ones(len(lonlat), np.bool_)
