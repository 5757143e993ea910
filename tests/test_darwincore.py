import gzip
import hashlib
import zipfile

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest

from geomap.columns import ALIASES, header_key, matched_headers
from geomap.darwincore import file_format, read_table, read_table_kind, sha256
from geomap.errors import RecordsError
from geomap.testing import shared_data

PLAIN = "scientificName,decimalLongitude,decimalLatitude\nPoa secunda,-122.5,37.25\nPoa annua,-121.125,38.5\n"
PLACES = [(-122.5, 37.25), (-121.125, 38.5)]
META = """<archive xmlns="http://rs.tdwg.org/dwc/text/"><core encoding="UTF-8" linesTerminatedBy="\\n"
 fieldsTerminatedBy="\\t" fieldsEnclosedBy="" ignoreHeaderLines="1" rowType="http://rs.tdwg.org/dwc/terms/{row}">
 <files><location>occurrence.txt</location></files><id index="0"/>
 <field index="0" term="http://rs.gbif.org/terms/1.0/gbifID"/>
 <field index="1" term="http://rs.tdwg.org/dwc/terms/scientificName"/>
 <field index="2" term="http://rs.tdwg.org/dwc/terms/decimalLatitude"/>
 <field index="3" term="http://rs.tdwg.org/dwc/terms/decimalLongitude"/>
 <field default="PRESENT" term="http://rs.tdwg.org/dwc/terms/occurrenceStatus"/></core></archive>"""
OCCURRENCES = (
    'gbifID\tscientificName\tdecimalLatitude\tdecimalLongitude\n1\tPoa "secunda\t37.25\t-122.5\n'
    "2\tPoa annua\t38.5\t-121.125\n"
)


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def places(path):
    frame = read_table(path).frame
    return [
        (float(x), float(y)) for x, y in zip(frame["decimalLongitude"], frame["decimalLatitude"], strict=True)
    ]


def archive(folder, row="Occurrence", **files):
    path = folder / "archive.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        for name, text in files.items():
            zipped.writestr(name.replace("_", "."), text.format(row=row) if name == "meta_xml" else text)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", PLAIN),
        ("a.tsv", PLAIN.replace(",", "\t")),
        ("a.csv", PLAIN.replace(".", "§").replace(",", ";").replace("§", ",")),  # 37,25 where ; divides
        ("a.csv", "\ufeff" + PLAIN),
        ("a.csv", PLAIN.replace("\n", "\r\n")),
        ("a.csv", PLAIN.replace("scientificName", '"Scientific Name"').replace("decimal", "dwc:decimal_")),
        ("a.csv.gz", gzip.compress(PLAIN.encode())),
        ("misnamed.csv", gzip.compress(PLAIN.encode())),
    ],
)
def test_text_tables_read_the_same_however_they_are_written(tmp_path, name, content):
    path = written(tmp_path, name, content)
    raw = read_table(path)
    assert places(path) == PLACES
    assert raw.frame["scientificName"].tolist() == ["Poa secunda", "Poa annua"]
    assert raw.kind == read_table_kind(path) == "presence"
    assert raw.source == f"{name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert sha256(path) in raw.source


def test_inaturalist_headers(tmp_path):
    text = (
        "id,observed_on,quality_grade,latitude,longitude,private_latitude,private_longitude,positional_accuracy,"
        "public_positional_accuracy,coordinates_obscured,captive_cultivated,scientific_name,common_name,license,"
        "description\n"
        '1,2020-05-01,research,37.25,-122.5,1,2,5,28000,true,false,Poa secunda,Bluegrass,CC0,"two\nlines"\n'
    )
    row = read_table(written(tmp_path, "observations.csv", text)).frame.iloc[0]
    assert (row["decimalLatitude"], row["decimalLongitude"]) == ("37.25", "-122.5")
    assert row["coordinateUncertaintyInMeters"] == "28000"
    assert (row["obscured"], row["captive"], row["qualityGrade"]) == ("true", "false", "research")
    assert (row["scientificName"], row["vernacularName"]) == ("Poa secunda", "Bluegrass")
    assert row["eventDate"] == "2020-05-01"


def test_gbif_simple_csv_has_tabs_and_no_quoting(tmp_path):
    text = (
        "gbifID\tspecies\tscientificName\toccurrenceStatus\tdecimalLatitude\tdecimalLongitude\tissue\trecordedBy\n"
        '1\tPoa secunda\tPoa secunda J.Presl\tPRESENT\t37.25\t-122.5\t\t"Smith\n'
        "2\tPoa annua\tPoa annua L.\tABSENT\t38.5\t-121.125\tZERO_COORDINATE\tNA\n"
    )
    frame = read_table(written(tmp_path, "0001.csv", text)).frame
    assert frame["scientificName"].tolist() == ["Poa secunda J.Presl", "Poa annua L."]
    assert frame["occurrenceStatus"].tolist() == ["PRESENT", "ABSENT"]
    assert frame["issue"].isna().tolist() == [True, False]


def test_darwin_core_archive_with_metafile_and_default_values(tmp_path):
    path = archive(tmp_path, meta_xml=META, occurrence_txt=OCCURRENCES)
    assert places(path) == PLACES
    frame = read_table(path).frame
    assert frame["scientificName"].tolist() == ['Poa "secunda', "Poa annua"]
    assert frame["occurrenceStatus"].tolist() == ["PRESENT", "PRESENT"]


def test_zip_with_a_single_table(tmp_path):
    assert places(archive(tmp_path, gbif_csv=OCCURRENCES.replace('"', ""))) == PLACES


def test_archive_whose_core_is_no_occurrence_is_refused(tmp_path):
    with pytest.raises(RecordsError, match="core is Occurrence"):
        read_table(archive(tmp_path, row="Event", meta_xml=META, occurrence_txt=OCCURRENCES))


@pytest.mark.parametrize("suffix", ["parquet", "gpkg"])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3310", "EPSG:6933"])
def test_points_in_any_crs_come_as_degrees(tmp_path, suffix, crs):
    points = gpd.GeoDataFrame(
        {"species": ["Poa secunda", "Poa annua"], "date": ["2020-01-02", None]},
        geometry=gpd.points_from_xy(*zip(*PLACES, strict=True)),
        crs="EPSG:4326",
    ).to_crs(crs)
    path = tmp_path / f"points.{suffix}"
    points.to_parquet(path) if suffix == "parquet" else points.to_file(path)
    raw = read_table(path)
    np.testing.assert_allclose(places(path), PLACES, atol=1e-7)
    assert raw.frame["scientificName"].tolist() == ["Poa secunda", "Poa annua"]
    assert raw.frame["eventDate"].isna().tolist() == [False, True]


def test_parquet_without_geometry_is_read_by_its_columns(tmp_path):
    path = tmp_path / "table.parquet"
    pd.DataFrame(
        {"lon": [-122.5, -121.125], "lat": [37.25, 38.5], "species": ["Poa secunda", ""]}
    ).to_parquet(path)
    assert places(path) == PLACES
    assert read_table(path).frame["scientificName"].isna().tolist() == [False, True]


def test_geometry_must_be_points_with_a_crs(tmp_path):
    points = gpd.GeoDataFrame({"species": ["Poa annua"]}, geometry=gpd.points_from_xy([0], [0]))
    points.to_parquet(tmp_path / "nocrs.parquet")
    with pytest.raises(RecordsError, match="no CRS"):
        read_table(tmp_path / "nocrs.parquet")
    discs = points.set_crs("EPSG:3310").assign(geometry=lambda found: found.buffer(1))
    discs.to_parquet(tmp_path / "polygons.parquet")
    with pytest.raises(RecordsError, match="Polygon"):
        read_table(tmp_path / "polygons.parquet")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (PLAIN.splitlines(keepends=True)[0].encode(), "the table has no rows"),
        (PLAIN.replace("Poa annua", "Poa annuä").encode("latin-1"), "text that is not UTF-8"),
        (PLAIN.replace("scientificName", "Ärt").encode("latin-1"), "text that is not UTF-8"),
        (PLAIN.encode("utf-16"), "binary data"),
        (gzip.compress(PLAIN.encode() * 500)[:-20], "a broken gzip file"),
        (b"\x1f\x8b" + b"nonsense" * 10, "a broken gzip file"),
        (b"PK\x03\x04" + b"nonsense" * 10, "not a readable Darwin Core archive"),
        (PLAIN.encode() + b"Poa alpina,1,2,3\n", "CSV parse error: Expected 3 columns, got 4"),
        (PLAIN.encode() + b"Poa alpi", "CSV parse error: Expected 3 columns, got 1"),
    ],
)
def test_unreadable_files_are_refused_with_what_was_found(tmp_path, content, found):
    with pytest.raises(RecordsError) as caught:
        read_table(written(tmp_path, "bad.csv", content))
    assert caught.value.what == "cannot read the records in bad.csv"
    assert caught.value.found.startswith(found)
    assert caught.value.change


def test_truncated_parquet_geopackage_and_archive_are_refused(tmp_path):
    points = gpd.GeoDataFrame(
        {"species": ["Poa annua"] * 500},
        geometry=gpd.points_from_xy([0.5] * 500, [1.5] * 500),
        crs="EPSG:4326",
    )
    points.to_parquet(tmp_path / "a.parquet")
    points.to_file(tmp_path / "a.gpkg")
    archive(tmp_path, meta_xml=META, occurrence_txt=OCCURRENCES * 100)
    for name in ("a.parquet", "a.gpkg", "archive.zip"):
        whole = (tmp_path / name).read_bytes()
        path = written(tmp_path, f"half.{name}", whole[: len(whole) // 2])
        with pytest.raises(RecordsError):
            read_table(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RecordsError, match="no such file"):
        read_table(tmp_path / "nowhere.csv")


def test_a_misspelt_column_is_named_with_the_nearest(tmp_path):
    path = written(tmp_path, "a.csv", PLAIN.replace("decimalLongitude", "decimalLongitud"))
    with pytest.raises(RecordsError) as caught:
        read_table(path)
    assert (
        "no column decimalLongitude among scientificName, decimalLongitud, decimalLatitude"
        in caught.value.found
    )
    assert 'did you mean decimalLongitude by "decimalLongitud"?' in caught.value.change


@pytest.mark.parametrize("header", ["coordinateUncertaintyInMeter", "ocurrenceStatus", "informationWitheld"])
def test_a_misspelt_optional_column_would_switch_a_check_off_and_is_refused(tmp_path, header):
    text = PLAIN.replace("\n", ",\n").replace("decimalLatitude,", f"decimalLatitude,{header}")
    with pytest.raises(RecordsError, match="Did you mean"):
        read_table(written(tmp_path, "a.csv", text))


def test_survey_columns_make_a_survey_and_must_be_complete(tmp_path):
    assert (
        read_table_kind(
            written(
                tmp_path,
                "s.csv",
                "site,lon,lat,species,visits,detections\na,-122.5,37.25,Poa annua,3,1\n",
            )
        )
        == "survey"
    )
    with pytest.raises(RecordsError, match="no column locationID"):
        read_table(
            written(tmp_path, "s.csv", "lon,lat,species,visits,detections\n-122.5,37.25,Poa annua,3,1\n")
        )


def test_two_headers_of_the_same_meaning_are_refused(tmp_path):
    with pytest.raises(RecordsError, match="both mean decimalLatitude"):
        matched_headers(tmp_path / "a.csv", ["species", "lon", "decimalLatitude", "decimal_latitude"])


def test_no_spelling_means_two_columns():
    keys = [header_key(spelling) for spellings in ALIASES.values() for spelling in dict.fromkeys(spellings)]
    assert len(keys) == len(set(keys))


def test_format_is_told_by_content(tmp_path):
    assert file_format(written(tmp_path, "a.parquet", PLAIN)) == "text"


@pytest.mark.parametrize(
    ("name", "kind", "rows"),
    [
        ("california_grassland_plants_gbif", "presence", 71_049),
        ("california_desert_plants_gbif", "presence", 6_303),
        ("california_coast_inaturalist", "presence", 15_790),
        ("north_america_birds_bbs_2001_2015", "survey", 86_852),
        ("world_birds_xenocanto", "presence", 31_309),
    ],
)
def test_the_real_tables_are_read_whole(name, kind, rows):
    raw = read_table(shared_data() / "occurrences" / f"{name}.csv.gz")
    assert (raw.kind, len(raw.frame)) == (kind, rows)
