"""Records behind maps: what may be seen is seen, what may not is only counted, by every way to ask."""

import math

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from tile_extras import OAK, POPPY, REDWOOD, app_of, make_shelf

from tiles import records
from tiles.recordfile import Privacy, key_of, read_points
from tiles.settings import Settings
from tiles.sources import Options

OPEN = Privacy(frozenset(), 0, 10_000)
COLUMNS = ["scientificName", "decimalLongitude", "decimalLatitude", "eventDate", "license", "rightsHolder"]
PLAIN = [
    ("Eschscholzia californica", -119.5, 36.5, "2019-04-01", "CC-BY-4.0", "A. Botanist"),
    ("Eschscholzia californica", -120.25, 37.75, "2020-04-02", "CC0-1.0", None),
    ("Eschscholzia californica", -118.125, 34.5, None, None, None),
    ("Quercus lobata", -121.5, 38.5, "2001-01-01", "CC-BY-NC-4.0", "Herbarium"),
]
SECRET = (-122.98765, 39.12345)  # coordinates that no answer may hold


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    return make_shelf(tmp_path_factory.mktemp("shelf"))


def table(rows=PLAIN, **more):
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.assign(**more)


@pytest.fixture
def client(shelf, monkeypatch, tmp_path):
    """Makes a client over a table of records."""

    def make(frame=None, **options):
        path = tmp_path / "records.parquet"
        (table() if frame is None else frame).to_parquet(path, index=False)
        told = Options(records=(str(path),), **options)
        monkeypatch.setattr(Options, "of", lambda settings: told)
        records._store.cache_clear()
        return TestClient(app_of(shelf, monkeypatch))

    yield make
    records._store.cache_clear()


def places(answer):
    return sorted(tuple(feature["geometry"]["coordinates"]) for feature in answer["features"])


def test_records_are_geojson_with_date_licence_and_holder(client):
    answer = client().get(f"/species/{POPPY}/records")
    assert answer.headers["content-type"] == "application/geo+json"
    found = answer.json()
    assert places(found) == [(-120.25, 37.75), (-119.5, 36.5), (-118.125, 34.5)]
    assert {key: value for key, value in found.items() if key != "features"} == {
        "type": "FeatureCollection", "public": True, "total": 3, "withheld": 0, "matched": 3, "returned": 3,
    }  # fmt: skip
    said = {tuple(f["geometry"]["coordinates"]): f["properties"] for f in found["features"]}
    assert said[-119.5, 36.5] == {
        "eventDate": "2019-04-01",
        "license": "CC-BY-4.0",
        "rightsHolder": "A. Botanist",
    }
    assert said[-118.125, 34.5] == {}


@pytest.mark.parametrize(
    "column, value",
    [
        ("obscured", "true"), ("geoprivacy", "obscured"), ("taxonGeoprivacy", "private"),
        ("informationWithheld", "Coordinates hidden at the request of the owner"),
        ("dataGeneralizations", "Locality rounded to 10 km"), ("coordinateUncertaintyInMeters", 28_000.0),
    ],
)  # fmt: skip
def test_what_is_blurred_or_vague_is_counted_and_never_shown(client, column, value):
    rows = [*PLAIN, ("Eschscholzia californica", *SECRET, "2021-05-05", "CC0-1.0", "Somebody")]
    frame = table(rows)
    frame[column] = [None] * len(PLAIN) + [value]
    app = client(frame)
    for address in (
        f"/species/{POPPY}/records", f"/species/{POPPY}/records?bbox=-123,39,-122.9,39.2",
        f"/species/{POPPY}/point/{SECRET[0]},{SECRET[1]}",
    ):  # fmt: skip
        answer = app.get(address)
        assert answer.status_code == 200
        if "point" not in address:
            assert (answer.json()["withheld"], answer.json()["total"]) == (1, 4)
            assert not np.isclose([p[0] for p in places(answer.json())], SECRET[0], atol=0.5).any()
        assert "2021-05-05" not in answer.text


def test_a_species_all_of_whose_places_are_secret_says_so(client):
    found = client(table(obscured="true")).get(f"/species/{POPPY}/records").json()
    assert (found["public"], found["withheld"], found["features"]) == (False, 3, [])
    assert "may not be shown" in found["reason"]


@pytest.mark.parametrize("name", [POPPY, "Eschscholzia californica", "eschscholzia californica"])
def test_sensitive_species_are_withheld_wholly(client, name):
    app = client(sensitive=(name,))
    found = app.get(f"/species/{POPPY}/records").json()
    assert (found["public"], found["withheld"], found["total"], found["features"]) == (False, 3, 3, [])
    assert "protect" in found["reason"]
    assert app.get(f"/species/{OAK}/records").json()["public"] is True


def test_sensitive_species_by_an_older_name(tmp_path):
    path = tmp_path / "birds.csv"
    pd.DataFrame(
        [("Spinus lawrencei", -119.03, 36.07), ("Chamaea fasciata", -119.5, 36.5)], columns=COLUMNS[:3]
    ).to_csv(path, index=False)
    found = read_points(path, Privacy(frozenset({"carduelis-lawrencei"}), 0, 10_000))
    assert (len(found[key_of("Carduelis lawrencei")].said), found[key_of("Spinus lawrencei")].withheld) == (
        0,
        1,
    )
    assert len(found[key_of("Chamaea fasciata")].said) == 1


def test_sensitive_species_in_cells(client):
    rows = [("Eschscholzia californica", -119.53, 36.51, "2019-04-01", "CC0-1.0", "A"),
            ("Eschscholzia californica", -119.57, 36.59, "2019-04-02", "CC0-1.0", "B"),
            ("Eschscholzia californica", -120.21, 37.71, "2019-04-03", "CC0-1.0", "C")]  # fmt: skip
    found = (
        client(table(rows), sensitive=(POPPY,), sensitive_cell=0.1).get(f"/species/{POPPY}/records").json()
    )
    assert places(found) == [(-120.25, 37.75), (-119.55, 36.55)]
    assert (found["public"], found["total"], found["withheld"], found["returned"]) == (True, 3, 0, 2)
    for feature in found["features"]:
        assert set(feature["properties"]) == {
            "records",
            "coordinateUncertaintyInMeters",
            "dataGeneralizations",
        }
        assert feature["properties"]["coordinateUncertaintyInMeters"] > 7800
    assert sum(feature["properties"]["records"] for feature in found["features"]) == 3


def test_no_records_is_an_answer_with_its_reason(shelf, monkeypatch):
    records._store.cache_clear()
    answer = TestClient(app_of(shelf, monkeypatch)).get(f"/species/{POPPY}/records")
    assert answer.status_code == 200
    found = answer.json()
    assert (found["type"], found["features"], found["public"]) == ("FeatureCollection", [], False)
    assert found["reason"] == records.NO_FILE


def test_a_species_without_records_in_a_file(client):
    found = client().get(f"/species/{REDWOOD}/records").json()
    assert (found["public"], found["total"], found["features"]) == (False, 0, [])


def test_records_beside_heads_hold_for_their_group(shelf, monkeypatch):
    records._store.cache_clear()
    path = shelf / "bundle" / "heads" / "california-plants" / records.KEPT
    try:
        table().to_parquet(path, index=False)
        client = TestClient(app_of(shelf, monkeypatch))
        assert client.get(f"/species/{POPPY}/records").json()["total"] == 3
        assert client.get("/species/chamaea-fasciata/records").json()["reason"] == records.NO_FILE
        table(PLAIN[:1]).to_parquet(path, index=False)  # read again because it changed
        assert client.get(f"/species/{POPPY}/records").json()["total"] == 1
    finally:
        path.unlink()
        records._store.cache_clear()


def test_limit_and_box(client):
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-124, -115, 500), rng.uniform(33, 42, 500)
    rows = [("Quercus lobata", x, y, None, None, None) for x, y in zip(lon, lat, strict=True)]
    app = client(table(rows))
    some = app.get(f"/species/{OAK}/records?limit=100").json()
    assert (some["total"], some["matched"], some["returned"], len(some["features"])) == (500, 500, 100, 100)
    # An even sample and not the first rows of the file: about a quarter of it in each quarter.
    west = np.mean([x < -119.5 for x, _ in places(some)])
    assert 0.35 < west < 0.65
    assert places(app.get(f"/species/{OAK}/records?limit=100").json()) == places(some)
    boxed = app.get(f"/species/{OAK}/records?bbox=-120,36,-118,38").json()
    inside = (lon >= -120) & (lon <= -118) & (lat >= 36) & (lat <= 38)
    assert boxed["matched"] == boxed["returned"] == inside.sum() > 0
    assert boxed["total"] == 500
    around = app.get(f"/species/{OAK}/records?bbox=170,33,-119,42").json()
    assert around["matched"] == (lon <= -119).sum()


@pytest.mark.parametrize(
    "query",
    ["bbox=1,2,3", "bbox=nan,0,1,1", "bbox=-200,0,1,1", "bbox=0,5,1,2", "bbox=0,0,1,91", "limit=0",
     "limit=99999", "limit=x", "format=csv"],
)  # fmt: skip
def test_parameters_it_does_not_take(client, query):
    assert client().get(f"/species/{POPPY}/records?{query}").status_code == 422


def test_rows_that_are_no_records_are_left_out(client):
    bad = [
        ("Eschscholzia californica", 0.0, 0.0, None, None, None),
        ("Eschscholzia sp.", -119.0, 36.0, None, None, None),
        ("Eschscholzia californica", None, 36.0, None, None, None),
    ]  # fmt: skip
    frame = table([*PLAIN, *bad]).assign(occurrenceStatus=["PRESENT"] * 2 + ["ABSENT"] + [None] * 4)
    found = client(frame).get(f"/species/{POPPY}/records").json()
    assert (found["total"], found["withheld"]) == (2, 0)


def test_surveys_show_where_a_species_was_met(tmp_path):
    path = tmp_path / "routes.csv"
    rows = [("R1", -119.0, 36.0, "Chamaea fasciata", 3, 2), ("R2", -119.5, 36.5, "Chamaea fasciata", 3, 0)]
    columns = ["locationID", "decimalLongitude", "decimalLatitude", "scientificName", "visits", "detections"]
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    found = read_points(path, OPEN)[key_of("Chamaea fasciata")]
    assert found.lonlat.tolist() == [[-119.0, 36.0]]


def test_the_nearest_records(client, shelf):
    client()
    settings = Settings(maps=(str(shelf / "maps"),), warm=False)

    class Poppy:
        scientific, synonyms, group = "Eschscholzia californica", (), "california-plants"

    found = records.nearest(settings, Poppy, -119.5, 36.6, k=2, max_km=500)
    assert [(each["lon"], each["lat"]) for each in found] == [(-119.5, 36.5), (-120.25, 37.75)]
    assert found[0]["distance_km"] == pytest.approx(0.1 * math.pi / 180 * 6371.0088, abs=0.01)
    assert found[0]["license"] == "CC-BY-4.0"
    assert records.nearest(settings, Poppy, -119.5, 36.6, max_km=5) == []


def test_a_broken_file_is_503_without_its_path(client, tmp_path):
    app = client()
    (tmp_path / "records.parquet").write_bytes(b"PAR1 and nothing more")
    answer = app.get(f"/species/{POPPY}/records")
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text


def test_withheld_maps_have_no_records(client, shelf, monkeypatch):
    client()
    app = TestClient(app_of(shelf, monkeypatch, withheld=(POPPY,)))
    assert app.get(f"/species/{POPPY}/records").status_code == 404
