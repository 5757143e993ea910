"""Nature Multi-View: the published columns, tiles as bytes, few-label subsets, faults."""

from __future__ import annotations

import pickle
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from train.batch import collate
from train.data import nmv, unpack
from train.errors import SpecError

LAYOUTS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("layouts.py"))))


@pytest.fixture
def made(tmp_path):
    return tmp_path, LAYOUTS.write_nmv(tmp_path)


def rewritten(root, change, name="train-00000-of-00002"):
    """One of the files again, with its rows changed."""
    path = root / "data" / "train" / f"{name}.parquet"
    table = change(pq.read_table(path))
    pq.write_table(table, path, row_group_size=5)


def replaced(table, name, values):
    at = table.column_names.index(name)
    return table.set_column(at, name, pa.array(values, table.schema.field(name).type))


def test_every_row_has_its_own_photo_tile_place_date_and_label(made):
    root, tiles = made
    data = nmv.open(root, ground_pixels=24)
    assert (len(data), data.classes, data.dropped) == (12, LAYOUTS.SPECIES, {})
    assert data.views == ("ground", "aerial", "lonlat", "date")
    for row in range(12):
        item = data[row]
        assert item["ground"].shape == (3, 24, 24)
        assert (item["ground"].int() - LAYOUTS.colour(row)[0]).abs().max() <= 3
        np.testing.assert_array_equal(item["aerial"], tiles[row])
        assert item["label"] == row % 3 and item["row"] == row
        assert item["lonlat"].tolist() == pytest.approx([-122.0 + 0.25 * (row // 2), 33.0 + 0.5 * (row // 2)])
        assert item["date"].tolist() == [1 + row % 12, 1 + row]
    assert data[0]["aerial"].dtype == torch.uint8
    assert data[0]["tile"] == data[1]["tile"] != data[2]["tile"]  # photos of one observation share the tile


def test_equal_tiles_are_kept_once(made):
    root, tiles = made
    nmv.open(root)
    (folder,) = (root / "unpacked").iterdir()
    kept = np.load(folder / "tiles.npy", mmap_mode="r")
    assert kept.shape == (6, 4, 16, 16) and kept.dtype == np.uint8
    assert (folder / "tiles.npy").stat().st_size < 6 * tiles[0].nbytes + 300


def test_a_second_opening_unpacks_nothing(made, monkeypatch):
    root, _ = made
    first = nmv.open(root)
    monkeypatch.setattr(unpack, "_write", lambda *_: pytest.fail("unpacked again"))
    again = nmv.open(root)
    assert again.digest == first.digest
    assert torch.equal(again[4]["aerial"], first[4]["aerial"])


def test_memory_of_tiles_is_about_that_of_bytes(tmp_path):
    """Methods 1.1: as int64 a row of this table takes 8 times its bytes; reading must not hold rows that way.

    Arrow may hold the one row that is being turned into bytes, and what decoding it takes.
    """
    rows, pixels = 96, 64
    tiles = np.stack([LAYOUTS.nmv_tile(row, 4, pixels) for row in range(rows)])
    path = tmp_path / "train.parquet"
    table = LAYOUTS.nmv_table([LAYOUTS.nmv_row(row, rows) for row in range(24)] * 4, tiles)
    pq.write_table(table, path, row_group_size=rows)  # one group
    as_bytes, as_int64 = tiles.nbytes, table.column("rs_image").nbytes
    del table, tiles
    assert as_int64 > 7.9 * as_bytes
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(pool)
    try:
        data = nmv.open(path, ground=False, on_error="drop")
    finally:
        pa.set_memory_pool(before)
    assert len(data) == rows
    peak = pool.max_memory()
    assert 0 < peak < as_bytes, f"{peak / as_bytes:.2f} times the bytes"
    assert peak < 5 * as_int64 / rows  # what is held does not grow with the rows


@pytest.mark.parametrize(("percent", "rows"), [(0.25, 3), (5.0, 3), (5, 3), (100, 12)])
def test_few_label_subsets(made, percent, rows):
    assert len(nmv.open(made[0], percent=percent)) == rows


def test_rows_of_a_subset_keep_their_images(made):
    root, tiles = made
    data = nmv.open(root, only=["rs_classification", "supervised"])
    wanted = [row for row in range(12) if row % 2 == 0 and row >= 3]
    assert len(data) == len(wanted)
    for row, source in enumerate(wanted):
        np.testing.assert_array_equal(data[row]["aerial"], tiles[source])
        assert (data[row]["ground"].int() - LAYOUTS.colour(source)[0]).abs().max() <= 3


def test_other_splits_and_single_files(made):
    root, _ = made
    assert len(nmv.open(root, split="validation")) == 3
    assert len(nmv.open(root / "data", split="test")) == 3
    assert len(nmv.open(root / "data" / "train" / "train-00001-of-00002.parquet")) == 6


def test_bands_crop_and_views_can_be_chosen(made):
    root, tiles = made
    item = nmv.open(root, ground=False, bands=[3, 1], aerial_pixels=10)[5]
    np.testing.assert_array_equal(item["aerial"], tiles[5][[2, 0], 3:13, 3:13])
    assert "ground" not in item
    photos = nmv.open(root, aerial=False)
    assert photos.views == ("ground", "lonlat", "date")
    assert photos[0]["tile"] == photos[1]["tile"] != photos[2]["tile"]  # by the observation
    assert nmv.open(root, label="taxon_id").classes == ("48662", "48663", "48664")
    few = nmv.open(root, max_uncertainty=65.0)
    assert len(few) == 6 and few.dropped == {"uncertain position": 6}


def test_workers_read_the_same(made):
    root, _ = made
    data = nmv.open(root)
    batch = collate([data[row] for row in range(12)])
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[3]["aerial"], data[3]["aerial"]) and torch.equal(
        copy[3]["ground"], data[3]["ground"]
    )
    loader = torch.utils.data.DataLoader(data, 12, num_workers=1, collate_fn=collate)
    (loaded,) = loader
    assert all(torch.equal(loaded[name], batch[name]) for name in batch)
    assert all(torch.equal(value, batch[name]) for name, value in data.batch(np.arange(12)).items())


def without(name):
    return lambda table: table.drop_columns([name])


def photo(row, value):
    def change(table):
        images = table.column("gl_image").to_pylist()
        images[row] = value
        return replaced(table, "gl_image", images)

    return change


def tile(row, value):
    def change(table):
        cells = table.column("rs_image").to_pylist()
        cells[row] = value(cells[row])
        return replaced(table, "rs_image", cells)

    return change


def swapped(table):
    names = {"latitude": "longitude", "longitude": "latitude"}
    return table.rename_columns([names.get(name, name) for name in table.column_names])


FAULTS = {
    "a photo without bytes": (photo(2, {"bytes": None, "path": "gone.jpg"}), "picture missing"),
    "no photo": (photo(2, None), "picture missing"),
    "a damaged photo": (photo(2, {"bytes": LAYOUTS.photo_bytes(2)[:300], "path": None}), "picture damaged"),
    "no tile": (tile(2, lambda _: None), "tile missing"),
    "a place beyond the pole": (
        lambda table: replaced(table, "latitude", [33.0, 33.0, 95.0, 34.0, 34.0, 34.0]),
        "coordinates out of range",
    ),
    "a day that does not exist": (
        lambda table: replaced(
            table, "gl_image_date", ["2012-01-01"] * 2 + ["2012-02-31"] + ["2012-01-01"] * 3
        ),
        "date out of range",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_rows_raise_or_are_dropped_and_counted(made, fault):
    """Pitfall 11; methods 2.6, defects 1 and 2: no noise, no other row's tile."""
    root, tiles = made
    change, reason = FAULTS[fault]
    rewritten(root, change)
    with pytest.raises(SpecError) as refusal:
        nmv.open(root)
    assert reason in refusal.value.found and "row 2" in refusal.value.found
    data = nmv.open(root, on_error="drop")
    assert len(data) == 11 and data.dropped == {reason: 1}
    for row, source in enumerate([0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11]):
        np.testing.assert_array_equal(data[row]["aerial"], tiles[source])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swapped, "Swap longitude and latitude"),  # pitfall 1
        (without("rs_image"), "no column rs_image"),
        (without("gl_image_date"), "no column gl_image_date"),
        (tile(1, lambda cell: [[[300] * 16] * 16] * 4), "values from 300 to 300"),
        (tile(1, lambda cell: cell[:3]), "one number of bands"),
        (tile(1, lambda cell: [[[1, 2], [3]]]), "different lengths"),
    ],
)
def test_tables_that_cannot_be_used(made, change, said):
    root, _ = made
    for name in ("train-00000-of-00002", "train-00001-of-00002"):
        rewritten(root, change, name)
    with pytest.raises(SpecError, match=said):
        nmv.open(root)
    unpacked = root / "unpacked"
    assert not unpacked.exists() or not list(unpacked.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"percent": 3.0}, "It has: 0.25, 0.5, 1, 2.5, 5, 10, 20, 100"),
        ({"split": "all"}, "'train', 'validation', 'test'"),
        ({"only": ["red"]}, "no column red"),
        ({"bands": [5]}, "bands 1 to 4"),
        ({"label": "rank"}, "'name', 'taxon_id'"),
        ({"classes": ["Abies grandis"]}, "class not in the list in 8 rows"),
        ({"classes": [*LAYOUTS.SPECIES, "Drosera"]}, "'Drosera'"),
        ({"classes": [*LAYOUTS.SPECIES, "Abies grandis"]}, "listed twice"),
        ({"max_uncertainty": 1.0}, "no observation is left"),
        ({"on_error": "noise"}, "'raise', 'drop'"),
        ({"aerial_pixels": 500}, None),
    ],
)
def test_options_that_cannot_be_used(made, options, said):
    with pytest.raises(SpecError) as refusal:
        nmv.open(made[0], **options)[0]
    assert said is None or said in str(refusal.value)


def test_classes_of_training_fit_validation(made):
    root, _ = made
    names = (*LAYOUTS.SPECIES, "Drosera")
    data = nmv.open(root, split="validation", classes=names, empty_classes="keep")
    assert data.classes == names and data.labels().tolist() == [0, 1, 2]


def test_missing_and_damaged_files(made):
    root, _ = made
    with pytest.raises(SpecError, match="no parquet file"):
        nmv.open(root / "nowhere")
    path = root / "data" / "train" / "train-00000-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(SpecError, match="Get the file again"):
        nmv.open(root)


def test_an_interrupted_unpacking_leaves_nothing(made, monkeypatch):
    root, _ = made
    real = unpack.check_picture
    calls = []

    def stopped(encoded):
        calls.append(encoded)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(encoded)

    monkeypatch.setattr(unpack, "check_picture", stopped)
    with pytest.raises(KeyboardInterrupt):
        nmv.open(root)
    assert not list((root / "unpacked").iterdir())
    monkeypatch.setattr(unpack, "check_picture", real)
    assert len(nmv.open(root)) == 12


def test_the_cache_must_be_writable(made):
    root, _ = made
    (root / "file").write_text("")
    with pytest.raises(SpecError, match="cache = "):
        nmv.open(root, cache=root / "file" / "cache")


def test_the_layout_is_the_published_one(made):
    """Methods 1.1: names and types of the columns."""
    schema = pq.read_schema(made[0] / "data" / "train" / "train-00000-of-00002.parquet")
    image = schema.field("rs_image").type
    depth = 0
    while pa.types.is_list(image):
        image, depth = image.value_type, depth + 1
    assert (depth, image) == (3, pa.int64())
    assert schema.field("latitude").type == pa.float32()
    assert schema.field("gl_image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert [name for name in schema.names if name.startswith("finetune_")] == [
        f"finetune_{share}percent" for share in LAYOUTS.PERCENTS
    ]
    assert pc.all(pc.is_valid(pa.array(schema.names))).as_py()
