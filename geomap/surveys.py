"""Complete surveys: locations visited a number of times, and in how many of the visits each species was met.

A species without a row at a visited location was met in none of its visits. Therefore a location is used as a
whole or not at all, and one that contradicts itself is refused.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geomap.checks import Sifted
from geomap.errors import RecordsError

# Locations, names of the species (S), visits (n,), detections (n, S).
Matrix = tuple[pd.DataFrame, list[str], NDArray[np.int64], NDArray[np.int64]]

# Codes of the North American Breeding Bird Survey for forms of one species, which come without a name.
# Left out, three of the continent's commonest birds would be absent wherever another form of them lives.
FORMS_BY_CODE = MappingProxyType(
    {
        4123: ("Colaptes auratus", "Northern Flicker"),  # unidentified Red/Yellow-shafted
        4125: ("Colaptes auratus", "Northern Flicker"),  # Red-shafted x Yellow-shafted, within the species
        4130: ("Colaptes auratus", "Northern Flicker"),  # Red-shafted
        5670: ("Junco hyemalis", "Dark-eyed Junco"),  # Slate-colored
        5671: ("Junco hyemalis", "Dark-eyed Junco"),  # Oregon
        5677: ("Junco hyemalis", "Dark-eyed Junco"),  # unidentified race
        5680: ("Junco hyemalis", "Dark-eyed Junco"),  # Pink-sided
        5690: ("Junco hyemalis", "Dark-eyed Junco"),  # Gray-headed
        6556: ("Setophaga coronata", "Yellow-rumped Warbler"),  # unidentified Myrtle/Audubon's
        6560: ("Setophaga coronata", "Yellow-rumped Warbler"),  # Audubon's
    }
)


def named_by_code(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the rows without a name, whose code stands for a form of one species, the name of the species.

    Args:
        frame: Columns scientificName, verbatimName, maybe vernacularName and aouCode.

    Returns:
        The frame with those names filled in; verbatimName becomes "aouCode 5670".
    """
    if "aouCode" not in frame:
        return frame
    codes = pd.to_numeric(frame["aouCode"], errors="coerce")
    form = frame["scientificName"].isna() & codes.isin(FORMS_BY_CODE)
    names = codes[form].map({code: name for code, (name, _) in FORMS_BY_CODE.items()})
    english = codes[form].map({code: english for code, (_, english) in FORMS_BY_CODE.items()})
    filled = frame.assign(
        scientificName=frame["scientificName"].where(~form, names),
        verbatimName=frame["verbatimName"].where(~form, "aouCode " + codes.astype("Int64").astype("str")),
    )
    if "vernacularName" in frame:
        filled = filled.assign(vernacularName=frame["vernacularName"].where(~form, english))
    return filled


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """Visits and detections as int64; a row without a name may leave detections empty ("nothing met").

    Raises:
        RecordsError: A location has no ID, a number is not whole, visits are below one, detections are
            negative or more than the visits.
    """
    if frame["locationID"].isna().any():
        raise _refusal(frame, frame["locationID"].isna(), "no locationID", "Give every row its locationID")
    visits = pd.to_numeric(frame["visits"], errors="coerce")
    _require(frame, visits.ge(1) & visits.mod(1).eq(0), "visits", "Give whole numbers from 1")
    empty = frame["detections"].isna() & frame["verbatimName"].isna()
    detections = pd.to_numeric(frame["detections"], errors="coerce").mask(empty, 0)
    _require(frame, detections.ge(0) & detections.mod(1).eq(0), "detections", "Give whole numbers from 0")
    _require(frame, detections.le(visits), "detections", "Give at most as many detections as visits")
    return frame.assign(visits=visits.astype(np.int64), detections=detections.astype(np.int64))


def locations_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The visited locations, sorted by ID: locationID, decimalLongitude, decimalLatitude, visits.

    Raises:
        RecordsError: Rows of one location differ in coordinates or visits.
    """
    columns = ["locationID", "decimalLongitude", "decimalLatitude", "visits"]
    places = frame[columns].drop_duplicates()
    twice = places.duplicated("locationID", keep=False)
    if twice.any():
        raise _refusal(
            places,
            twice,
            "rows that differ in coordinates or visits",
            "Give all rows of a location the same coordinates and visits",
        )
    return places.sort_values("locationID").reset_index(drop=True)


def merged_forms(sifted: Sifted) -> Sifted:
    """One row per location and species.

    Where several rows of a location belong to one species (subspecies, older names), the largest number of
    detections stands: at least that many visits met the species.

    Raises:
        RecordsError: The same name stands twice at a location with different detections.
    """
    frame = sifted.frame
    row = ["locationID", "scientificName", "verbatimName"]
    again = frame.duplicated([*row, "detections"])
    once = sifted.drop("duplicate", np.asarray(again, dtype=bool))
    twice = once.frame.duplicated(row, keep=False)
    if twice.any():
        found = "two different numbers of detections of one species"
        raise _refusal(once.frame, twice, found, "Leave one row for each species")
    ranked = once.frame.sort_values(["detections", "verbatimName"], ascending=[False, True], kind="stable")
    later = ranked.index[ranked.duplicated(["locationID", "scientificName"])]
    return once.drop("another form of the species there", np.asarray(once.frame.index.isin(later)))


def detection_matrix(table: pd.DataFrame, locations: pd.DataFrame) -> Matrix:
    """Detections of every species at every location, zeros included.

    Args:
        table: One row per location and species met there: locationID, scientificName, detections.
        locations: All visited locations (`locations_of`).

    Returns:
        locations, the sorted names (S), visits (n,), detections (n, S), rows in the order of locations.
    """
    species = sorted(table["scientificName"].unique())
    rows = pd.Index(locations["locationID"]).get_indexer(table["locationID"])
    columns = pd.Index(species).get_indexer(table["scientificName"])
    detections = np.zeros((len(locations), len(species)), dtype=np.int64)
    detections[rows, columns] = table["detections"].to_numpy()
    return locations, species, locations["visits"].to_numpy(dtype=np.int64), detections


def _require(frame: pd.DataFrame, good: pd.Series, column: str, change: str) -> None:
    if not good.all():
        value = frame[column][~good].iloc[0]
        raise _refusal(frame, ~good, f"{column} {value}", change)


def _refusal(frame: pd.DataFrame, bad: pd.Series, found: str, change: str) -> RecordsError:
    row = int(frame.index[bad][0])
    place = frame["locationID"].loc[row]
    return RecordsError("cannot use the survey", f"{found} (row {row + 1}, location {place})", change)
