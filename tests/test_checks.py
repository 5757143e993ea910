import numpy as np
import pandas as pd
import pytest

from geomap.checks import Checks, Sifted, refuse_swapped, sift
from geomap.data import make_centroids
from geomap.errors import RecordsError
from geomap.recordtable import named, typed
from geomap.rules import CENTROID_FILE, RULES, later_ones
from geomap.testing import shared_data

GOOD = {"scientificName": "Poa secunda", "decimalLongitude": "-121.512", "decimalLatitude": "37.251"}


def everywhere(lonlat):
    return np.ones(len(lonlat), dtype=bool)


def west_is_land(lonlat):
    return np.asarray(lonlat)[:, 0] < 0


def dropped(checks=None, land=everywhere, **changes):
    """Reasons for which a good row and the same row with changes are dropped."""
    checks = checks or Checks()
    rows = pd.DataFrame([GOOD, {**GOOD, "decimalLatitude": "37.252", **changes}]).astype("str")
    frame = named(typed(rows.mask(rows == "nan")), checks)
    left = sift(Sifted(frame), RULES, checks, land)
    assert len(left.frame) + sum(left.dropped.values()) == 2
    return dict(left.dropped)


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("no name", {"scientificName": None}),
        ("not a species", {"scientificName": "Bromus sp"}),
        ("not a species", {"scientificName": "Quercus × macdonaldii"}),
        ("absent", {"occurrenceStatus": "ABSENT"}),
        ("absent", {"individualCount": "0"}),
        ("no coordinates", {"decimalLatitude": None}),
        ("no coordinates", {"decimalLongitude": "inf"}),
        ("impossible coordinates", {"decimalLatitude": "91.5"}),
        ("impossible coordinates", {"decimalLongitude": "-180.001"}),
        ("zero coordinates", {"decimalLongitude": "0", "decimalLatitude": "0.0"}),
        ("longitude equals latitude", {"decimalLongitude": "-37.2519", "decimalLatitude": "37.2519"}),
        ("obscured coordinates", {"obscured": "True"}),
        ("obscured coordinates", {"geoprivacy": "obscured"}),
        ("obscured coordinates", {"taxonGeoprivacy": "private"}),
        ("obscured coordinates", {"informationWithheld": "Coordinate uncertainty increased to 28000m"}),
        ("obscured coordinates", {"dataGeneralizations": "coordinates rounded to 0.1 degree"}),
        ("flagged by GBIF", {"issue": "COORDINATE_ROUNDED;COUNTRY_COORDINATE_MISMATCH"}),
        ("flagged by GBIF", {"hasGeospatialIssues": "true"}),
        ("captive or cultivated", {"captive": "true"}),
        ("captive or cultivated", {"degreeOfEstablishment": "cultivated"}),
        ("captive or cultivated", {"basisOfRecord": "LIVING_SPECIMEN"}),
        ("fossil", {"basisOfRecord": "FOSSIL_SPECIMEN"}),
        ("quality grade", {"qualityGrade": "needs_id"}),
        ("uncertainty above the limit", {"coordinateUncertaintyInMeters": "10001"}),
        ("rounded coordinates", {"decimalLongitude": "-122.5", "decimalLatitude": "37.0"}),
        ("centroid of a country or state", {"decimalLongitude": "-119.2702", "decimalLatitude": "37.2719"}),
        ("duplicate", {"decimalLatitude": "37.251"}),
    ],
)
def test_each_rule_drops_its_row_and_only_that(reason, changes):
    assert dropped(**changes) == {reason: 1}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"occurrenceStatus": "PRESENT"},
        {"individualCount": "10"},
        {"decimalLongitude": "-180", "decimalLatitude": "-90"},
        {"decimalLongitude": "0", "decimalLatitude": "51.4769"},
        {"decimalLongitude": "-122.5", "decimalLatitude": "37.01"},
        {"decimalLongitude": "-119.2702", "decimalLatitude": "37.2819"},  # 1.1 km from California's centroid
        {"obscured": "False", "geoprivacy": "open", "informationWithheld": "collector's name"},
        {"issue": "COORDINATE_ROUNDED;GEODETIC_DATUM_ASSUMED_WGS84", "hasGeospatialIssues": "false"},
        {"basisOfRecord": "HUMAN_OBSERVATION", "captive": "0", "qualityGrade": "research"},
        {"coordinateUncertaintyInMeters": "10000"},
        {"decimalLatitude": "37.251", "eventDate": "2020-01-02"},  # same place, another day
    ],
)
def test_good_rows_pass(changes):
    # The poles of the test are rounded numbers, too.
    checks = Checks(rounded_decimals=None) if changes.get("decimalLatitude") == "-90" else None
    assert dropped(checks, **changes) == {}


def test_the_first_rule_that_fails_takes_the_blame():
    assert dropped(scientificName="Poa sp", decimalLatitude="95", obscured="true") == {"not a species": 1}


def test_limits_can_be_loosened_and_tightened():
    assert dropped(Checks(obscured="keep"), obscured="true") == {}
    assert dropped(Checks(captive="keep"), captive="true", basisOfRecord="LIVING_SPECIMEN") == {}
    assert dropped(Checks(quality_grades=None), qualityGrade="casual") == {}
    assert dropped(Checks(max_uncertainty_m=None), coordinateUncertaintyInMeters="1e6") == {}
    assert dropped(Checks(max_uncertainty_m=100), coordinateUncertaintyInMeters="101") == {
        "uncertainty above the limit": 1
    }
    assert dropped(Checks(rounded_decimals=2), decimalLongitude="-122.51", decimalLatitude="37.26") == {
        "rounded coordinates": 1
    }
    assert dropped(Checks(rounded_decimals=None), decimalLongitude="-122.5", decimalLatitude="37.0") == {}
    assert dropped(Checks(duplicates=False), decimalLatitude="37.251") == {}
    centroid = {"decimalLongitude": "-119.2702", "decimalLatitude": "37.2719"}
    assert dropped(Checks(centroid_distance_m=None), **centroid) == {}


@pytest.mark.parametrize("value", ["0", "-5", None])
def test_missing_uncertainty_is_decided_explicitly(value):
    rows = {"coordinateUncertaintyInMeters": value}
    assert dropped(**rows) == {}
    # The good row of `dropped` has no uncertainty either.
    assert dropped(Checks(missing_uncertainty="drop"), **rows) == {"no uncertainty": 2}


def test_land_rule_asks_the_land_test_once_a_place_and_can_be_switched_off():
    assert dropped(land=west_is_land, decimalLongitude="122.512") == {"at sea": 1}
    assert dropped(Checks(land_only=False), land=west_is_land, decimalLongitude="122.512") == {}


def test_real_land_with_coastal_tolerance():
    from functools import partial

    from geomap.land import near_land

    pier, ocean = {"decimalLongitude": "-122.5155"}, {"decimalLongitude": "-123.9111"}
    land = partial(near_land, tolerance_m=Checks().coast_tolerance_m)
    assert (
        dropped(land=land, decimalLatitude="37.7555", **pier) == {}
    )  # a few hundred metres off San Francisco
    assert dropped(land=land, decimalLatitude="37.7555", **ocean) == {"at sea": 1}


def test_a_value_that_is_neither_yes_nor_no_is_refused():
    with pytest.raises(RecordsError, match='"perhaps" in column obscured'):
        dropped(obscured="perhaps")


@pytest.mark.parametrize("limit", [{"max_uncertainty_m": -1.0}, {"coast_tolerance_m": float("nan")}])
def test_senseless_limits_are_refused(limit):
    with pytest.raises(RecordsError, match="a limit of"):
        Checks(**limit)


def test_sifted_tells_reasons_and_rows():
    frame = pd.DataFrame({"a": range(6)})
    left = Sifted(frame).drop("odd", np.array([False, True] * 3)).drop("two", np.array([False, True, False]))
    assert left.frame["a"].tolist() == [0, 4]
    assert left.reasons() == "odd: 3 (row 2, 4, 6); two: 1 (row 3)"


def test_of_duplicates_the_most_precise_stays_whatever_the_order():
    frame = pd.DataFrame({"key": [1, 1, 1, 2], "coordinateUncertaintyInMeters": [50.0, 5.0, np.nan, 9.0]})
    assert later_ones(frame, ["key"]).tolist() == [True, False, True, False]
    turned = frame[::-1].reset_index(drop=True)
    assert later_ones(turned, ["key"]).tolist() == [False, True, False, True]


def places(lon, lat):
    return pd.DataFrame({"decimalLongitude": lon, "decimalLatitude": lat}, dtype="float64")


@pytest.mark.parametrize(
    ("lon", "lat", "found"),
    [
        ([37.1, 38.2], [-122.1, -121.3], "latitudes beyond 90"),
        ([37.1, 38.2], [-22.1, -21.3], "at sea, and on land the other way"),
        ([550_000.0, 560_000.0], [4_150_000.0, 4_160_000.0], "numbers such as 550000"),
    ],
)
def test_swapped_or_projected_coordinates_are_refused(lon, lat, found):
    with pytest.raises(RecordsError, match=found):
        refuse_swapped(places(lon, lat), Checks(), west_is_land)


@pytest.mark.parametrize(
    ("lon", "lat"),
    [
        ([-122.1, -121.3], [37.1, 38.2]),
        ([20.0, 30.0], [10.0, 40.0]),  # at sea either way
        ([-122.1, -121.3, 37.0], [37.1, 38.2, -122.0]),  # one wrong row is for the rules
        ([np.nan], [np.nan]),
        ([], []),
    ],
)
def test_other_tables_are_not_taken_for_swapped(lon, lat):
    refuse_swapped(places(lon, lat), Checks(), west_is_land)


def test_land_plays_no_part_in_swapping_when_the_sea_is_allowed():
    refuse_swapped(places([37.1, 38.2], [-22.1, -21.3]), Checks(land_only=False), west_is_land)


def test_centroids_are_what_their_script_makes(tmp_path, monkeypatch):
    monkeypatch.setattr(make_centroids, "OUT", tmp_path / "centroids.csv")
    make_centroids.main(shared_data() / "boundaries")
    made, shipped = pd.read_csv(tmp_path / "centroids.csv"), pd.read_csv(CENTROID_FILE)
    assert made["name"].tolist() == shipped["name"].tolist()
    np.testing.assert_allclose(made[["longitude", "latitude"]], shipped[["longitude", "latitude"]], atol=2e-4)
    assert shipped["longitude"].between(-180, 180).all()
    assert shipped["latitude"].between(-90, 90).all()
