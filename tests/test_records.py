import gzip
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomap.checks import Checks
from geomap.darwincore import RawTable
from geomap.errors import RecordsError
from geomap.grid import named_grid
from geomap.records import Records, _presence, main, read_either, read_records
from geomap.testing import shared_data

HEADER = "scientificName,decimalLongitude,decimalLatitude,coordinateUncertaintyInMeters,eventDate\n"
ROWS = [
    "Eschscholzia californica Cham.,-121.512,37.251,10,2020-04-01",
    "Lolium multiflorum,-121.613,37.352,,2020-04-02",
    "Festuca perennis,-121.714,37.453,20,",
    "Trifolium sp,-121.815,37.554,5,2020-04-03",
    "Poa secunda subsp. juncifolia,-120.915,37.655,5,2020-04-03",
    "Poa secunda,-121.0,37.0,5,2020-04-04",
]


def everywhere(lonlat):
    return np.ones(len(lonlat), dtype=bool)


def written(tmp_path, rows=ROWS, header=HEADER, name="records.csv"):
    path = tmp_path / name
    path.write_text(header + "\n".join(rows) + "\n")
    return path


def test_records_carry_todays_name_and_the_users_own(tmp_path):
    found = read_records(written(tmp_path), land=everywhere)
    assert found.species == ["Eschscholzia californica", "Festuca perennis", "Poa secunda"]
    assert found.table["verbatimName"].tolist()[:2] == [
        "Eschscholzia californica Cham.",
        "Lolium multiflorum",
    ]
    assert found.table["scientificName"].tolist()[:2] == ["Eschscholzia californica", "Festuca perennis"]
    assert found.lonlat.shape == (4, 2)
    assert found.lonlat[0].tolist() == [-121.512, 37.251]
    assert found.dropped == {"not a species": 1, "rounded coordinates": 1}
    assert found.first_dropped == {"not a species": (4,), "rounded coordinates": (6,)}
    assert found.notes == {
        "uncertainty not stated": 1,
        "subspecies or variety of the species": 1,
        "older name, now under today's": 1,
    }
    assert found.merged == {"Festuca perennis": ("Festuca perennis", "Lolium multiflorum")}


def test_subspecies_can_stay_apart(tmp_path):
    found = read_records(written(tmp_path), Checks(ranks="lowest", rounded_decimals=None), land=everywhere)
    assert {"Poa secunda", "Poa secunda juncifolia"} <= set(found.species)


def test_taxa_list_older_names_and_counts(tmp_path):
    rows = [
        f"{row},{english}" for row, english in zip(ROWS[:3], ["Poppy", "Ryegrass", "Ryegrass"], strict=True)
    ]
    found = read_records(written(tmp_path, rows, HEADER.replace("\n", ",commonName\n")), land=everywhere)
    taxa = found.taxa().set_index("scientificName")
    assert taxa["records"].to_dict() == {"Eschscholzia californica": 1, "Festuca perennis": 2}
    assert taxa.loc["Festuca perennis", "vernacularName"] == "Ryegrass"
    assert taxa.loc["Festuca perennis", "synonyms"] == "Lolium multiflorum; Lolium perenne"
    assert taxa.loc["Eschscholzia californica", "synonyms"] == ""


def test_strict_refuses_any_drop_and_names_rows(tmp_path):
    with pytest.raises(RecordsError) as caught:
        read_records(written(tmp_path), strict=True, land=everywhere)
    assert caught.value.found == "not a species: 1 (row 4); rounded coordinates: 1 (row 6)"
    clean = read_records(written(tmp_path, ROWS[:3]), strict=True, land=everywhere)
    assert len(clean.table) == 3


def test_nothing_left_is_refused_with_all_reasons(tmp_path):
    with pytest.raises(RecordsError, match="all 2 rows were dropped: not a species: 1"):
        read_records(written(tmp_path, [ROWS[3], ROWS[5]]), land=everywhere)


def test_numbers_that_are_no_numbers(tmp_path):
    odd = [*ROWS[:3], "Poa annua,-,-,,"]
    assert read_records(written(tmp_path, odd), land=everywhere).dropped == {"no coordinates": 1}
    words = [row.replace("-12", "west 12") for row in ROWS]
    with pytest.raises(RecordsError, match=r'"west 121\.512" in column decimalLongitude'):
        read_records(written(tmp_path, words), land=everywhere)


def test_swapped_columns_are_refused(tmp_path):
    swapped = HEADER.replace("decimalLongitude,decimalLatitude", "decimalLatitude,decimalLongitude")
    with pytest.raises(RecordsError, match="Swap longitude and latitude"):
        read_records(written(tmp_path, header=swapped), land=everywhere)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_either_reader_tells_the_kind(tmp_path, name):
    path = tmp_path / name
    path.write_text("site,lon,lat,species,visits,detections\na,-121.51,37.25,Poa annua,3,1\n")
    assert read_either(path).kind == "survey"
    assert read_either(written(tmp_path)).kind == "presence"


def test_thinning_keeps_the_most_precise_record_of_a_cell_and_species(tmp_path):
    rows = [
        "Poa secunda,-120.1001,37.1001,500,2020-01-01",
        "Poa secunda,-120.1002,37.1002,5,2020-01-02",
        "Poa annua,-120.1001,37.1001,50,2020-01-01",
        "Poa secunda,-119.2001,36.1001,,2020-01-01",
        "Poa secunda,-73.9761,40.7123,5,1896-05-30",
    ]
    found = read_records(written(tmp_path, rows), land=everywhere)
    thinned = found.thin(named_grid("california"))
    assert dict(thinned.dropped) == {"outside the grid": 1, "duplicate cell": 1}
    assert thinned.rows_in == 5 == len(thinned.table) + 2
    assert thinned.table["coordinateUncertaintyInMeters"].tolist()[:2] == [5.0, 50.0]
    assert list(thinned.table.columns) == list(found.table.columns)
    assert thinned.thin(named_grid("california")).table.equals(thinned.table)
    with pytest.raises(RecordsError, match="none lies on the grid"):
        read_records(written(tmp_path, rows[4:]), land=everywhere).thin(named_grid("california"))


def test_surveys_are_not_thinned():
    surveys = Records(pd.DataFrame({"scientificName": []}), "survey", {}, 0, "")
    with pytest.raises(RecordsError, match="cannot thin"):
        surveys.thin(named_grid("california"))


NAMES = ("Poa annua", "Poa secunda J.Presl", "Vulpia myuros", "Festuca myuros", "Poa sp", "Poa", "", None)
TABLES = st.lists(
    st.fixed_dictionaries(
        {
            "scientificName": st.sampled_from(NAMES),
            "decimalLongitude": st.sampled_from(["-120.111", "-120.1", "0", "181", "37.123", "-", None]),
            "decimalLatitude": st.sampled_from(["37.123", "37.1", "0", "-91", None]),
            "eventDate": st.sampled_from(["2020-01-01", "2020-01-01T10:00", None]),
            "coordinateUncertaintyInMeters": st.sampled_from(["1", "99999", "0", None]),
            "obscured": st.sampled_from(["true", "false", None]),
        }
    ),
    min_size=1,
    max_size=12,
)


def raw(rows):
    columns = ["scientificName", "decimalLongitude", "decimalLatitude", "eventDate"]
    columns += ["coordinateUncertaintyInMeters", "obscured"]
    return RawTable(
        pd.DataFrame(rows, columns=columns, dtype="str").replace({"": None}), "presence", "table sha256:0"
    )


def presence(rows):
    """Records of some good rows and these, and whether they were refused."""
    good = {"scientificName": "Poa annua", "decimalLatitude": "37.199", "obscured": "false"}
    filler = [{**good, "decimalLongitude": f"-120.{n}1"} for n in range(100, 100 + len(rows))]
    return _presence(raw([*filler, *rows]), Checks(), False, everywhere)


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_rows_in_are_rows_kept_and_rows_dropped(rows):
    found = presence(rows)
    assert found.rows_in == 2 * len(rows) == len(found.table) + sum(found.dropped.values())
    assert len(found.table) >= len(rows)


@settings(max_examples=60, deadline=None)
@given(TABLES, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    one, other = presence(rows), presence(shuffled)
    assert dict(one.dropped) == dict(other.dropped)
    assert one.notes == other.notes
    assert one.merged == other.merged
    columns = list(one.table.columns)
    left, right = (found.table.sort_values(columns).reset_index(drop=True) for found in (one, other))
    pd.testing.assert_frame_equal(left, right)


@pytest.mark.parametrize(
    ("name", "species", "dropped"),
    [
        (
            "california_grassland_plants_gbif",
            55,
            {"not a species", "rounded coordinates", "centroid of a country or state", "duplicate"},
        ),
        ("california_desert_plants_gbif", 7, {"duplicate"}),
        (
            "california_coast_inaturalist",
            1385,
            {"not a species", "obscured coordinates", "uncertainty above the limit", "at sea", "duplicate"},
        ),
        (
            "world_birds_xenocanto",
            411,
            {"not a species", "no coordinates", "rounded coordinates", "at sea", "duplicate"},
        ),
    ],
)
def test_the_real_tables(name, species, dropped):
    path = shared_data() / "occurrences" / f"{name}.csv.gz"
    found = read_records(path)
    lines = gzip.decompress(path.read_bytes()).count(b"\n") - 1
    assert found.rows_in == lines == len(found.table) + sum(found.dropped.values())
    assert set(found.dropped) == dropped
    assert len(found.species) == species
    assert np.isfinite(found.lonlat).all()


def test_the_grassland_table_has_one_ryegrass():
    found = read_records(shared_data() / "occurrences" / "california_grassland_plants_gbif.csv.gz")
    assert found.merged == {"Festuca perennis": ("Festuca perennis", "Lolium multiflorum")}
    assert {"Festuca myuros", "Festuca microstachys"} <= set(found.species)
    assert not any(name.endswith(" sp") for name in found.species)
    assert found.dropped["not a species"] == 7336 + 1168 + 283


def test_the_obscured_observations_are_dropped():
    path = shared_data() / "occurrences" / "california_coast_inaturalist.csv.gz"
    assert read_records(path).dropped["obscured coordinates"] == 290  # 291, one of a genus only
    assert read_records(path, Checks(obscured="keep")).notes["coordinates obscured"] == 195


def test_command_prints_the_reasons_and_writes_the_report(tmp_path, capsys):
    report = tmp_path / "report.json"
    assert main([str(written(tmp_path)), "--report", str(report)]) == 0
    printed = capsys.readouterr().out
    assert "not a species" in printed
    assert "Lolium multiflorum" in printed
    stored = json.loads(report.read_text())
    assert (stored["rows_in"], stored["rows_kept"], stored["species"]) == (6, 4, 3)
    assert stored["dropped"] == {"not a species": 1, "rounded coordinates": 1}
    assert stored["checks"]["missing_uncertainty"] == "keep"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["records.csv", "report.json"]
    assert main([str(tmp_path / "records.csv"), "--report", str(report)]) == 2  # exists
    assert "--overwrite" in capsys.readouterr().err
    assert main([str(tmp_path / "records.csv"), "--report", str(report), "--overwrite"]) == 0


def test_command_options_reach_the_checks(tmp_path, capsys):
    report = tmp_path / "report.json"
    options = ["--max-uncertainty", "7", "--missing-uncertainty", "drop", "--obscured", "keep", "--sea"]
    assert main([str(written(tmp_path)), *options, "--report", str(report)]) == 0
    stored = json.loads(report.read_text())
    assert stored["dropped"]["uncertainty above the limit"] == 2
    assert stored["dropped"]["no uncertainty"] == 1
    assert (stored["checks"]["obscured"], stored["checks"]["land_only"]) == ("keep", False)


@pytest.mark.parametrize(
    ("content", "options", "found"),
    [
        (HEADER, [], "the table has no rows"),
        ("", [], "an empty file"),
        (HEADER.replace("Longitude", "Longitud") + ROWS[0] + "\n", [], "no column decimalLongitude"),
        (HEADER + ROWS[3] + "\n", [], "all 1 rows were dropped: not a species: 1"),
        (HEADER + "\n".join(ROWS) + "\n", ["--strict"], "not a species: 1 (row 4)"),
        (
            HEADER.replace("decimalLongitude,decimalLatitude", "lat,lon") + "\n".join(ROWS) + "\n",
            [],
            "latitudes beyond 90",
        ),
        (HEADER + ROWS[0] + "\n", ["--max-uncertainty", "-1"], "a limit of -1"),
    ],
)
def test_bad_input_ends_with_code_2_three_lines_and_nothing_left_behind(
    tmp_path, capsys, content, options, found
):
    path = written(tmp_path, [], content)
    path.write_text(content)
    assert main([str(path), "--report", str(tmp_path / "report.json"), *options]) == 2
    errors = capsys.readouterr().err
    assert found in errors
    assert len(errors.strip().splitlines()) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["records.csv"]


def test_unreadable_bytes_end_with_code_2(tmp_path, capsys):
    whole = gzip.compress((HEADER + "\n".join(ROWS * 200) + "\n").encode())
    for name, content in {
        "half.csv.gz": whole[: len(whole) // 2],
        "latin.csv": (HEADER + ROWS[0]).replace("Cham.", "Chäm.").encode("latin-1"),
        "half.parquet": b"PAR1" + b"\x00" * 50,
    }.items():
        (tmp_path / name).write_bytes(content)
        assert main([str(tmp_path / name)]) == 2
        assert name in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere.csv")]) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_a_million_rows_take_seconds_not_minutes(tmp_path):
    import time

    rng = np.random.default_rng(0)
    n = 1_000_000
    pd.DataFrame(
        {
            "scientificName": rng.choice(["Poa annua L.", "Poa secunda J.Presl", "Trifolium sp"], n),
            "decimalLongitude": rng.uniform(-121, -118, n).round(5),
            "decimalLatitude": rng.uniform(35, 38, n).round(5),
        }
    ).to_csv(tmp_path / "many.csv", index=False)
    start = time.perf_counter()
    found = read_records(tmp_path / "many.csv")
    assert found.rows_in == n
    assert time.perf_counter() - start < 60
