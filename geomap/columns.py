"""Columns of a table of records: Darwin Core names, the spellings that mean them, misspelt ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from geomap.errors import RecordsError

Kind = Literal["presence", "survey"]

# Column -> spellings that mean it, best first; compared without case, punctuation and prefix ("dwc:").
# `species` stands after `scientificName`: GBIF gives both, and only the latter keeps what was identified.
ALIASES = MappingProxyType(
    {
        "scientificName": ("scientificName", "species", "taxonName", "speciesName", "latinName", "taxon"),
        "vernacularName": ("vernacularName", "commonName", "englishName"),
        "decimalLongitude": ("decimalLongitude", "longitude", "lon", "long", "lng"),
        "decimalLatitude": ("decimalLatitude", "latitude", "lat"),
        "eventDate": ("eventDate", "observedOn", "observationDate", "date"),
        # iNaturalist's public accuracy counts the obscuring of coordinates in, the plain one does not.
        "coordinateUncertaintyInMeters": (
            "coordinateUncertaintyInMeters",
            "publicPositionalAccuracy",
            "positionalAccuracy",
        ),
        "obscured": ("obscured", "coordinatesObscured"),
        "geoprivacy": ("geoprivacy",),
        "taxonGeoprivacy": ("taxonGeoprivacy",),
        "informationWithheld": ("informationWithheld",),
        "dataGeneralizations": ("dataGeneralizations",),
        "occurrenceStatus": ("occurrenceStatus",),
        "individualCount": ("individualCount",),
        "basisOfRecord": ("basisOfRecord",),
        "issue": ("issue", "issues"),
        "hasGeospatialIssues": ("hasGeospatialIssues", "hasGeospatialIssue"),
        "captive": ("captive", "captiveCultivated", "cultivated"),
        "degreeOfEstablishment": ("degreeOfEstablishment",),
        "qualityGrade": ("qualityGrade",),
        "locationID": ("locationID", "siteID", "site", "routeID", "route", "stationID", "station"),
        "visits": ("visits", "numberOfVisits"),
        "detections": ("detections", "numberOfDetections"),
        "aouCode": ("aouCode", "AOU"),
        "license": ("license", "licence"),
    }
)
NEEDED: MappingProxyType[Kind, tuple[str, ...]] = MappingProxyType(
    {
        "presence": ("decimalLongitude", "decimalLatitude", "scientificName"),
        "survey": (
            "locationID",
            "decimalLongitude",
            "decimalLatitude",
            "scientificName",
            "visits",
            "detections",
        ),
    }
)


def header_key(header: str) -> str:
    """A header without prefix, case and punctuation: "dwc:decimal_latitude" -> "decimallatitude"."""
    return re.sub(r"[^a-z0-9]", "", re.split(r"[:/]", header)[-1].lower())


def matched_headers(path: Path, headers: Sequence[str], given: Sequence[str] = ()) -> dict[str, str]:
    """Which header stands for which column.

    Args:
        path: The file, named in errors.
        headers: All headers found.
        given: Columns that do not need a header (a geometry gives both coordinates).

    Returns:
        Header -> column of ALIASES. Headers that mean nothing to us are left out.

    Raises:
        RecordsError: A needed column is missing, stands twice, or a column's name is misspelt.
    """
    keys: dict[str, list[str]] = {}
    for header in headers:
        keys.setdefault(header_key(header), []).append(header)
    found: dict[str, str] = {}
    for column, spellings in ALIASES.items():
        if column not in given:
            matches = next((keys[key] for key in map(header_key, spellings) if key in keys), [])
            if len(matches) > 1:
                raise unreadable(
                    path, f"columns {' and '.join(matches)} both mean {column}", "Leave one of them"
                )
            found.update(dict.fromkeys(matches, column))
    _refuse_missing(path, headers, {*found.values(), *given})
    _refuse_misspelt(path, headers, found)
    return found


def _refuse_missing(path: Path, headers: Sequence[str], columns: set[str]) -> None:
    kind = table_kind(sorted(columns))
    missing = [column for column in NEEDED[kind] if column not in columns]
    if not missing:
        return
    near = [(column, _nearest_header(column, headers)) for column in missing]
    hints = [f'did you mean {column} by "{header}"?' for column, header in near if header]
    advice = f"Name the columns {', '.join(NEEDED[kind])}" + "".join(f"; {hint}" for hint in hints)
    raise unreadable(path, f"no column {', '.join(missing)} among {', '.join(headers)}", advice)


def _nearest_header(column: str, headers: Sequence[str]) -> str | None:
    spellings = [header_key(spelling) for spelling in ALIASES[column]]
    scores = {h: max(_likeness(header_key(h), spelling) for spelling in spellings) for h in headers}
    best = max(scores, key=lambda h: scores[h], default=None)
    return best if best is not None and scores[best] >= 0.7 else None


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _refuse_misspelt(path: Path, headers: Sequence[str], found: dict[str, str]) -> None:
    """Refuse a misspelt optional column: left unread, "coordinateUncertaintyInMeter" switches a check off."""
    absent = [column for column in ALIASES if column not in found.values() and len(column) >= 8]
    for header in headers:
        for column in absent:
            if header not in found and 0.93 <= _likeness(header_key(header), header_key(column)) < 1:
                raise unreadable(
                    path, f'a column "{header}"', f"Did you mean {column}? Rename the column, or drop it"
                )


def table_kind(columns: Sequence[str]) -> Kind:
    """The kind of a table with these (already renamed) columns."""
    return "survey" if {"visits", "detections"} & set(columns) else "presence"


def unreadable(path: Path, found: str, change: str) -> RecordsError:
    """The refusal of a file."""
    return RecordsError(f"cannot read the records in {path.name}", found, change)
