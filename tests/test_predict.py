"""geomap.predict: rows in order, columns untouched, values those of the heads, and all it refuses."""

from __future__ import annotations

import csv
import gzip
import json
import shutil

import numpy as np
import pytest

from geomap import predict as predict_module
from geomap.catalog import Catalog
from geomap.heads import load_heads
from geomap.predict import main
from geomap.testing_bundle import make_bundle, small_california, write_field

HEADER = ["plot", "decimalLongitude", "decimalLatitude", "note"]
ROWS = [
    ["007", "-121.50", "38.6000", "kept as it is"],
    ["x,y", "-119.0", "36.0", 'with "quotes", commas\nand a line break'],
    ["", "-116.5", "39.5", "Nevada"],
    ["1e5", "", "38", ""],
    ["ü", "-122.0", "abc", "no number"],
    ["6", "-120.5", "+37.50", " blanks "],
]
INSIDE = [0, 1, 5]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("shipped") / "bundle")


@pytest.fixture
def bundle(made, monkeypatch):
    monkeypatch.setenv("GEOMAP_BUNDLE", str(made))
    return made


def write(path, header=HEADER, rows=ROWS, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def read(path, delimiter=","):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, delimiter=delimiter))


@pytest.fixture
def points(tmp_path):
    return write(tmp_path / "points.csv")


def run(points, out, *more, heads="california-plants"):
    return main(["--heads", str(heads), "--points", str(points), "--out", str(out), *map(str, more)])


def test_rows_in_order_with_a_column_a_species(bundle, points, tmp_path, capsys):
    assert run(points, tmp_path / "out.csv") == 0
    header, *rows = read(tmp_path / "out.csv")
    heads = load_heads(bundle / "heads" / "california-plants")
    assert header == [*HEADER, *heads.species["scientificName"]]
    assert [row[:4] for row in rows] == ROWS
    field = Catalog.open().field("california")
    lonlat = np.array([[float(ROWS[i][1]), float(ROWS[i][2])] for i in INSIDE])
    expected = heads.predict(field.sample(lonlat)[0])
    np.testing.assert_allclose(np.array([rows[i][4:] for i in INSIDE], float), expected, atol=5.1e-5)
    assert all(row[4:] == [""] * 3 for i, row in enumerate(rows) if i not in INSIDE)
    told = " ".join(capsys.readouterr().err.split())
    assert "2 of 6 rows are empty: no usable coordinates" in told
    assert "1 of 6 rows are empty: no embedding there" in told


def test_json_counts_the_rows(bundle, points, tmp_path, capsys):
    assert run(points, tmp_path / "out.csv", "--species", "california poppy", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "file": str(tmp_path / "out.csv"),
        "heads": "california-plants",
        "meaning": "suitability",
        "species": ["Eschscholzia californica"],
        "rows": 6,
        "predicted": 3,
        "without_coordinates": 2,
        "without_embedding": 1,
    }


def test_chosen_species_by_any_name(bundle, points, tmp_path):
    assert (
        run(points, tmp_path / "o.csv", "--species", "quercus HINDSII", "--species", "california poppy") == 0
    )
    assert read(tmp_path / "o.csv")[0] == [*HEADER, "Quercus lobata", "Eschscholzia californica"]


def test_chunks_do_not_matter(bundle, points, tmp_path, monkeypatch):
    assert run(points, tmp_path / "a.csv") == 0
    monkeypatch.setattr(predict_module, "CHUNK", 2)
    assert run(points, tmp_path / "b.csv") == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("delimiter", ["\t", ";"])
def test_other_headers_and_delimiters(bundle, tmp_path, delimiter):
    rows = [["a", "38.6" if delimiter == "\t" else "38,6", "-121.5"]]
    path = write(tmp_path / "p.csv", ["id", "Latitude", "lon"], rows, delimiter)
    assert run(path, tmp_path / "o.csv") == 0
    header, row = read(tmp_path / "o.csv", delimiter)
    assert header[:3] == ["id", "Latitude", "lon"]
    assert row[:3] == rows[0]
    assert 0 <= float(row[3]) <= 1


def test_gzip_and_byte_order_mark(bundle, tmp_path):
    text = "\ufefflongitude,latitude\n-121.5,38.6\n"
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(text.encode()))
    assert run(tmp_path / "p.csv.gz", tmp_path / "o.csv.gz") == 0
    with gzip.open(tmp_path / "o.csv.gz", "rt") as file:
        assert next(csv.reader(file))[:2] == ["longitude", "latitude"]


def test_heads_in_a_folder_and_another_shipped_grid(bundle, points, tmp_path):
    shutil.copytree(bundle / "heads" / "north-america-birds", tmp_path / "mine")
    assert run(points, tmp_path / "a.csv", "--grid", "california", heads=tmp_path / "mine") == 0
    assert run(points, tmp_path / "b.csv", "--grid", "california", heads="north-america-birds") == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.slow
def test_points_off_the_field_are_encoded_from_imagery(tmp_path, bundle, monkeypatch):
    from dataclasses import replace

    from geomap.encode import encode_points
    from geomap.heads import Adapter, save_heads
    from geomap.imagery import open_imagery
    from geomap.testing import write_raster
    from train.encoders.pair import random_encoders, save_encoders

    pair = random_encoders(0)
    save_encoders(pair, tmp_path / "encoders")
    image = tmp_path / "i.tif"
    write_raster(
        image, "EPSG:4326", (-118, 38, -115, 41), (300, 300), 3, lambda p: p[:, 0] % 1 * 200, dtype="uint8"
    )
    rng = np.random.default_rng(0)
    w1, w2 = (rng.standard_normal(shape).astype(np.float32) for shape in ((pair.dim, 8), (8, 4)))
    adapter = Adapter(
        np.zeros(pair.dim, np.float32), np.ones(pair.dim, np.float32), ((w1, w1[0], w2, w2[0]),)
    )
    heads = load_heads(bundle / "heads" / "california-plants")
    weights = rng.standard_normal((3, 4)).astype(np.float32)
    mine = replace(heads, adapter=adapter, weights=weights, encoder_hash=pair.hash, card={"grid": None})
    save_heads(mine, tmp_path / "mine")
    path = write(tmp_path / "p.csv")
    options = ["--imagery", image, "--encoders", tmp_path / "encoders"]
    assert run(path, tmp_path / "o.csv", *options, heads=tmp_path / "mine") == 0
    rows = read(tmp_path / "o.csv")[1:]
    features, valid = encode_points(pair, open_imagery(image), np.array([[-116.5, 39.5]]))
    assert valid.all()
    np.testing.assert_allclose(np.array(rows[2][4:], float), mine.predict(features)[0], atol=5.1e-5)
    assert rows[0][4:] == ["", "", ""]  # neither field nor imagery there


def test_predicting_from_a_field_loads_no_torch(bundle, points, tmp_path):
    import subprocess
    import sys

    out = str(tmp_path / "o.csv")
    code = (
        "import sys; from geomap.predict import main; "
        f"code = main(['--heads', 'california-plants', '--points', {str(points)!r}, '--out', {out!r}]); "
        "sys.exit(code or ('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def refused(capsys, code, out, *words):
    message = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert [line.split(":")[0] for line in message[-3:]] == ["Error", "Found", "Change"]
    for word in words:
        assert word in "\n".join(message)
    assert not out.exists()
    assert not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]


@pytest.mark.parametrize(
    ("header", "rows", "word"),
    [
        (
            ["plot", "decimalLongitude", "decimalLattitude", "note"],
            ROWS,
            "did you mean it by 'decimalLattitude'",
        ),
        (["lon", "longitude", "lat", "note"], ROWS, None),
        (HEADER, [], "no rows"),
        (HEADER, [["a", "", "", ""]] * 3, "not one row with coordinates"),
        (HEADER, [["a", "38.6", "-121.5", ""]] * 3, "Swap longitude and latitude"),
        (HEADER, [*ROWS, ["1", "2"]], "2 fields in row 7"),
        ([*HEADER[:3], "Quercus lobata"], ROWS, "Rename that column"),
        ([*HEADER[:3], "decimalLatitude"], ROWS, "2 columns for decimalLatitude"),
        ([], [], "empty first line"),
    ],
)
def test_bad_tables(bundle, tmp_path, capsys, header, rows, word):
    path = write(tmp_path / "p.csv", header, rows)
    code = run(path, tmp_path / "o.csv")
    if word is None:  # longitude is the better spelling than lon
        assert code == 0
        return
    refused(capsys, code, tmp_path / "o.csv", word)


def test_all_points_off_the_field_are_refused(bundle, tmp_path, capsys):
    path = write(tmp_path / "p.csv", rows=[["a", "10.5", "47.1", ""], ["b", "11.5", "47.1", ""]])
    refused(capsys, run(path, tmp_path / "o.csv"), tmp_path / "o.csv", "none of 2 points")


def test_missing_file_broken_gzip_and_bytes(bundle, tmp_path, capsys):
    out = tmp_path / "o.csv"
    refused(capsys, run(tmp_path / "none.csv", out), out, "no such file")
    whole = gzip.compress(b"lon,lat\n" + b"-121.5,38.6\n" * 1000)
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    refused(capsys, run(tmp_path / "cut.csv.gz", out), out, "cannot read the points")
    (tmp_path / "latin.csv").write_bytes("lon,lat,név\n-121.5,38.6,ő\n".encode("latin2"))
    refused(capsys, run(tmp_path / "latin.csv", out), out, "UTF-8")


def test_existing_output_is_kept_unless_told(bundle, points, tmp_path, capsys):
    out = tmp_path / "o.csv"
    out.write_text("mine")
    assert run(points, out) == 2
    assert out.read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err
    assert run(points, out, "--overwrite") == 0
    assert read(out)[0][:4] == HEADER


def test_unknown_species_and_heads(bundle, points, tmp_path, capsys):
    out = tmp_path / "o.csv"
    refused(capsys, run(points, out, "--species", "Quercus lobatta"), out, "Quercus lobata")
    refused(capsys, run(points, out, heads="california-plant"), out, "california-plants")


def test_field_of_another_encoder(bundle, points, tmp_path, capsys):
    write_field(tmp_path / "other.zarr", small_california(), encoder_hash="f" * 64)
    code = run(points, tmp_path / "o.csv", "--field", tmp_path / "other.zarr")
    refused(capsys, code, tmp_path / "o.csv", "encoder ffff", "encoder eeee")


def test_field_and_grid_together_and_unknown_grid(bundle, points, tmp_path, capsys):
    out = tmp_path / "o.csv"
    refused(capsys, run(points, out, "--field", "f.zarr", "--grid", "california"), out, "Give one of them")
    refused(capsys, run(points, out, "--grid", "calfornia"), out, "calfornia")


@pytest.mark.parametrize("file", ["card.json", "heads.safetensors", "species.parquet"])
def test_corrupt_heads(bundle, points, tmp_path, capsys, file):
    shutil.copytree(bundle / "heads" / "california-plants", tmp_path / "mine")
    path = tmp_path / "mine" / file
    path.write_bytes(path.read_bytes()[:50])
    code = run(points, tmp_path / "o.csv", heads=tmp_path / "mine")
    refused(capsys, code, tmp_path / "o.csv", "cannot read species heads")


def test_output_in_a_place_that_is_no_folder(bundle, points, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run(points, tmp_path / "file" / "o.csv") == 2
    assert "cannot write" in capsys.readouterr().err
