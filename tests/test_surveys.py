import numpy as np
import pandas as pd
import pytest

from geomap.checks import Checks
from geomap.errors import RecordsError
from geomap.records import read_records, read_surveys
from geomap.testing import shared_data

HEADER = (
    "locationID,decimalLongitude,decimalLatitude,aouCode,scientificName,vernacularName,visits,detections\n"
)
ROWS = [
    "b,-121.2,38.1,5110,Quiscalus quiscula,Common Grackle,5,2",
    "a,-122.5,37.2,5110,Quiscalus quiscula,Common Grackle,4,4",
    "a,-122.5,37.2,5670,,,4,1",
    "a,-122.5,37.2,5671,,,4,3",
    "c,-120.3,39.0,9999,,,3,2",
    "b,-121.2,38.1,5290,Carduelis tristis,American Goldfinch,5,1",
]


def written(tmp_path, rows=ROWS, header=HEADER):
    path = tmp_path / "survey.csv"
    path.write_text(header + "\n".join(rows) + "\n")
    return path


def everywhere(lonlat):
    return np.ones(len(lonlat), dtype=bool)


def read(tmp_path, rows=ROWS, header=HEADER, **options):
    return read_surveys(written(tmp_path, rows, header), land=everywhere, **options)


def test_a_species_without_a_row_was_met_in_no_visit(tmp_path):
    found = read(tmp_path)
    locations, species, visits, detections = found.detection_matrix()
    assert species == found.species == ["Junco hyemalis", "Quiscalus quiscula", "Spinus tristis"]
    assert locations["locationID"].tolist() == ["a", "b", "c"]
    assert locations["decimalLongitude"].tolist() == [-122.5, -121.2, -120.3]
    assert visits.tolist() == [4, 5, 3]
    # Forms of one species: at least the larger number of visits met it. Place c counts.
    assert detections.tolist() == [[3, 4, 0], [0, 2, 1], [0, 0, 0]]
    assert (visits.dtype, detections.dtype) == (np.int64, np.int64)


def test_every_row_is_accounted_for(tmp_path):
    found = read(tmp_path)
    assert found.dropped == {"no name": 1, "another form of the species there": 1}
    assert found.rows_in == 6 == len(found.table) + 2
    assert found.first_dropped == {"no name": (5,), "another form of the species there": (3,)}
    junco = found.table.set_index("scientificName").loc["Junco hyemalis"]
    assert (junco["verbatimName"], junco["vernacularName"]) == ("aouCode 5671", "Dark-eyed Junco")


def test_an_empty_visit_is_a_location_without_detections(tmp_path):
    rows = [*ROWS[:2], "d,-119.5,39.5,,,,2,"]
    locations, _, visits, detections = read(tmp_path, rows).detection_matrix()
    assert locations["locationID"].tolist() == ["a", "b", "d"]
    assert (visits[2], detections[2].sum()) == (2, 0)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("a,-122.5,37.3,1,Poa annua,,4,1", "differ in coordinates or visits"),
        ("a,-122.5,37.2,1,Poa annua,,6,1", "differ in coordinates or visits"),
        ("a,,37.2,1,Poa annua,,4,1", "differ in coordinates or visits"),
        ("d,-122.5,37.2,1,Poa annua,,4,5", r"detections 5 \(row 7, location d\)"),
        ("d,-122.5,37.2,1,Poa annua,,4,-1", "detections -1"),
        ("d,-122.5,37.2,1,Poa annua,,4,", "detections nan"),
        ("d,-122.5,37.2,1,Poa annua,,4,some", "detections some"),
        ("d,-122.5,37.2,1,Poa annua,,0,0", "visits 0"),
        ("d,-122.5,37.2,1,Poa annua,,2.5,0", "visits 2.5"),
        (",-122.5,37.2,1,Poa annua,,4,1", "no locationID"),
        ("a,-122.5,37.2,1,Quiscalus quiscula,,4,3", "two different numbers of detections"),
    ],
)
def test_a_survey_that_contradicts_itself_is_refused(tmp_path, row, found):
    with pytest.raises(RecordsError, match=found):
        read(tmp_path, [*ROWS, row])


def test_the_same_row_twice_is_a_duplicate(tmp_path):
    assert read(tmp_path, [*ROWS, ROWS[0]]).dropped["duplicate"] == 1


def test_a_location_is_dropped_whole(tmp_path):
    header = HEADER.replace("\n", ",coordinateUncertaintyInMeters\n")
    rows = [f"{row},{'50000' if row == ROWS[1] else '5'}" for row in ROWS]
    found = read(tmp_path, rows, header)
    assert found.dropped["uncertainty above the limit"] == 3
    assert found.detection_matrix()[0]["locationID"].tolist() == ["b", "c"]


def test_round_places_are_fine_in_surveys(tmp_path):
    found = read(tmp_path, ["g,-122,37,1,Poa annua,,4,1"])
    assert found.dropped == {}


def test_order_of_rows_does_not_matter(tmp_path):
    one, other = read(tmp_path), read(tmp_path, ROWS[::-1])
    assert one.dropped == other.dropped
    for a, b in zip(one.detection_matrix(), other.detection_matrix(), strict=True):
        assert np.array_equal(a, b)


def test_the_wrong_reader_is_refused(tmp_path):
    with pytest.raises(RecordsError, match="columns visits and detections"):
        read_records(written(tmp_path), land=everywhere)
    plain = tmp_path / "plain.csv"
    plain.write_text("species,lon,lat\nPoa annua,-122.51,37.21\n")
    with pytest.raises(RecordsError, match="no columns visits and detections"):
        read_surveys(plain, land=everywhere)
    with pytest.raises(RecordsError, match="presence-only"):
        read_records(plain, land=everywhere).detection_matrix()


def test_the_breeding_bird_survey():
    path = shared_data() / "occurrences" / "north_america_birds_bbs_2001_2015.csv.gz"
    found = read_surveys(path)
    locations, species, visits, detections = found.detection_matrix()
    assert (len(locations), len(species)) == (953, 567)
    assert set(visits.tolist()) == {15}
    assert found.rows_in == 86_852 == len(found.table) + sum(found.dropped.values())
    assert found.dropped == {"no name": 657, "another form of the species there": 71}
    met = pd.Series((detections > 0).sum(axis=0), index=species)
    assert (met["Spinus lawrencei"], met["Molothrus ater"]) == (9, 906)
    # Forms without a name of their own: without them 630, 2 and 168 routes.
    raw = pd.read_csv(path, low_memory=False)
    for name, codes in {
        "Colaptes auratus": [4120, 4123, 4125, 4130],
        "Junco hyemalis": [5660, 5670, 5671, 5677, 5680, 5690],
        "Setophaga coronata": [6550, 6556, 6560],
    }.items():
        assert met[name] == raw.loc[raw["aouCode"].isin(codes), "locationID"].nunique()
    assert met["Junco hyemalis"] > 250
    assert detections.max() == 15
    # Nothing else changed: the total over the one-to-one names.
    same = raw.dropna(subset=["scientificName"]).groupby("scientificName")["detections"].sum()
    assert detections[:, species.index("Chamaea fasciata")].sum() == same["Chamaea fasciata"]
    assert found.checks == Checks()
