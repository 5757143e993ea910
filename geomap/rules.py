"""Rules that records must pass, in the order in which they are asked; each gives the rows that fail it.

A rule takes the table (numbers are numbers, scientificName is canonical, verbatimName the user's own),
the limits and the land test, and returns an (n,) mask. `geomap.checks.sift` asks them one after the other.

Reference:
    Zizka et al. (2019), CoordinateCleaner: standardized cleaning of occurrence records from biological
    collection databases, Methods in Ecology and Evolution 10, 744-751 (tests cc_val, cc_zero, cc_equ, cc_cen,
    cc_sea, cc_dupl).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geomap.checks import Checks, LandTest, Mask, Rule, lonlat_of, nowhere
from geomap.errors import RecordsError

CENTROID_FILE = Path(__file__).with_name("data") / "centroids.csv"
EARTH_RADIUS_M = 6_371_008.8
TRUE = frozenset({"true", "t", "yes", "y", "1"})
FALSE = frozenset({"false", "f", "no", "n", "0"})
# What GBIF counts as geospatial issues (hasGeospatialIssue), and its own guesses at where the place might be.
GBIF_ISSUES = (
    "ZERO_COORDINATE|COORDINATE_INVALID|COORDINATE_OUT_OF_RANGE|COUNTRY_COORDINATE_MISMATCH"
    "|PRESUMED_SWAPPED_COORDINATE|PRESUMED_NEGATED_L"
)


def true_values(frame: pd.DataFrame, column: str) -> Mask:
    """Where a column of yes and no says yes; missing is no.

    Raises:
        RecordsError: A value is neither.
    """
    if column not in frame:
        return nowhere(frame)
    words = frame[column].str.strip().str.lower()
    known = words.isna() | words.isin(TRUE | FALSE)
    if not known.all():
        found = f'"{frame[column][~known].iloc[0]}" in column {column}'
        raise RecordsError("cannot read the records", found, "Use true and false")
    return np.asarray(words.isin(TRUE), dtype=bool)


def is_obscured(frame: pd.DataFrame) -> Mask:
    """Where coordinates were blurred: iNaturalist's flags, or GBIF's note that something was withheld."""
    blurred = true_values(frame, "obscured")
    for column in ("geoprivacy", "taxonGeoprivacy"):
        blurred = blurred | _says(frame, column, "obscured|private")
    for column in ("informationWithheld", "dataGeneralizations"):
        blurred = blurred | _says(frame, column, "coordinate|location|locality")
    return blurred


def no_uncertainty(frame: pd.DataFrame) -> Mask:
    """Where no uncertainty is stated, or one that is not above zero."""
    if "coordinateUncertaintyInMeters" not in frame:
        return ~nowhere(frame)
    return np.asarray(~(frame["coordinateUncertaintyInMeters"] > 0), dtype=bool)


def _says(frame: pd.DataFrame, column: str, pattern: str) -> Mask:
    """Where a text column matches a regular expression, in any case."""
    if column not in frame:
        return nowhere(frame)
    found = frame[column].str.contains(pattern, case=False, regex=True, na=False)
    return np.asarray(found, dtype=bool)


def _no_name(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    return np.asarray(frame["verbatimName"].isna(), dtype=bool)


def _not_species(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    return np.asarray((frame["scientificName"] == ""), dtype=bool)


def _absent(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    counted_none = _says(frame, "individualCount", r"^\s*0+(?:\.0*)?\s*$")
    return _says(frame, "occurrenceStatus", r"absen|^\s*not ?detected") | counted_none


def _no_coordinates(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    return np.asarray(~np.isfinite(lonlat_of(frame)).all(axis=1))


def _impossible(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    lon, lat = np.abs(lonlat_of(frame)).T
    return np.asarray((lon > 180) | (lat > 90))


def _zero(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    return np.asarray((np.abs(lonlat_of(frame)) < 0.01).all(axis=1))


def _equal(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    lon, lat = np.abs(lonlat_of(frame)).T
    return np.asarray(lon == lat)


def _obscured(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    return is_obscured(frame) if checks.obscured == "drop" else nowhere(frame)


def _flagged(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    return _says(frame, "issue", GBIF_ISSUES) | true_values(frame, "hasGeospatialIssues")


def _not_wild(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    if checks.captive == "keep":
        return nowhere(frame)
    kept = _says(frame, "degreeOfEstablishment", "captive|cultivated") | true_values(frame, "captive")
    return kept | _says(frame, "basisOfRecord", "living_?specimen")


def _fossil(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    return _says(frame, "basisOfRecord", "fossil")


def _grade(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    if checks.quality_grades is None or "qualityGrade" not in frame:
        return nowhere(frame)
    grades = frame["qualityGrade"].str.strip().str.lower()
    return np.asarray((grades.notna() & ~grades.isin(checks.quality_grades)), dtype=bool)


def _uncertain(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    if checks.max_uncertainty_m is None or "coordinateUncertaintyInMeters" not in frame:
        return nowhere(frame)
    return np.asarray(frame["coordinateUncertaintyInMeters"].to_numpy() > checks.max_uncertainty_m)


def _unknown_uncertainty(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    return no_uncertainty(frame) if checks.missing_uncertainty == "drop" else nowhere(frame)


def _rounded(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    if checks.rounded_decimals is None:
        return nowhere(frame)
    scaled = lonlat_of(frame) * 10.0**checks.rounded_decimals
    return np.asarray((np.abs(scaled - np.round(scaled)) < 1e-6).all(axis=1))


def _centroid(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    if checks.centroid_distance_m is None:
        return nowhere(frame)
    chord = 2 * np.sin(min(checks.centroid_distance_m / EARTH_RADIUS_M, np.pi) / 2)
    distance, _ = _centroids().query(_on_sphere(lonlat_of(frame)), distance_upper_bound=chord)
    return np.asarray(np.isfinite(distance))


@cache
def _centroids() -> cKDTree:
    return cKDTree(_on_sphere(pd.read_csv(CENTROID_FILE)[["longitude", "latitude"]].to_numpy()))


def _on_sphere(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
    lon, lat = np.radians(lonlat).T
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def _at_sea(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    if not checks.land_only:
        return nowhere(frame)
    lon, lat = lonlat_of(frame).T
    where, places = pd.factorize(lon + 1j * lat)  # each place is looked up once, however many records it has
    dry = land(np.column_stack([places.real, places.imag]))
    return np.asarray(~dry[where], dtype=bool)


def _duplicate(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
    if not checks.duplicates:
        return nowhere(frame)
    day = frame["eventDate"].str[:10] if "eventDate" in frame else ""
    key = ["scientificName", "decimalLongitude", "decimalLatitude", "day"]
    return later_ones(frame.assign(day=day), key)


def later_ones(frame: pd.DataFrame, key: list[str]) -> Mask:
    """All rows but the best of those with the same key.

    The best has the smallest uncertainty, then the smallest values in the other columns: which row stays must
    not depend on the order of the rows.
    """
    shared = frame.duplicated(key, keep=False).to_numpy(dtype=bool)
    uncertainty = ["coordinateUncertaintyInMeters"] if "coordinateUncertaintyInMeters" in frame else []
    order = list(dict.fromkeys([*uncertainty, *frame.columns]))
    ranked = frame[shared].sort_values(order, kind="stable")
    later = ranked.index[ranked.duplicated(key).to_numpy(dtype=bool)]
    return np.asarray(frame.index.isin(later))


# Reason -> rule. Cheap and certain ones first; duplicates last, so that a dropped row never drops a good one.
RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "no name": _no_name,
        "not a species": _not_species,
        "absent": _absent,
        "no coordinates": _no_coordinates,
        "impossible coordinates": _impossible,
        "zero coordinates": _zero,
        "longitude equals latitude": _equal,
        "obscured coordinates": _obscured,
        "flagged by GBIF": _flagged,
        "captive or cultivated": _not_wild,
        "fossil": _fossil,
        "quality grade": _grade,
        "uncertainty above the limit": _uncertain,
        "no uncertainty": _unknown_uncertainty,
        "rounded coordinates": _rounded,
        "centroid of a country or state": _centroid,
        "at sea": _at_sea,
        "duplicate": _duplicate,
    }
)


def _whole_location(rule: Rule) -> Rule:
    """The rule, failed by a whole location when one row fails: half a survey would make false absences."""

    def fails(frame: pd.DataFrame, checks: Checks, land: LandTest) -> Mask:
        bad = frame["locationID"][rule(frame, checks, land)]
        return np.asarray(frame["locationID"].isin(bad.unique()), dtype=bool)

    return fails


# The places of surveys are planned, often on a round grid, and a location has a row for each species.
SURVEY_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        reason: _whole_location(RULES[reason])
        for reason in (
            "no coordinates",
            "impossible coordinates",
            "zero coordinates",
            "obscured coordinates",
            "uncertainty above the limit",
            "no uncertainty",
            "at sea",
        )
    }
)
SURVEY_NAME_RULES: Mapping[str, Rule] = MappingProxyType(
    {reason: RULES[reason] for reason in ("no name", "not a species")}
)
