"""Reading an embedding field: windows, points, zip stores, and every kind of damage."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from odc.geo.geobox import GeoBox

from geomap.errors import FieldError, OutputError
from geomap.field import EmbeddingField, open_field, quantise
from geomap.fieldstore import MANIFEST, chunk_files, entry, metadata_files, pack_field, write_atomic
from geomap.grid import Grid, Window
from geomap.sweepstore import alone, finish, prepare, unit_counts, unit_window, write_unit

UNIT, DIM = 16, 5
GRID = Grid("tiny", GeoBox.from_bbox((-200_000, 0, -130_000, 60_000), "EPSG:3310", resolution=1000), UNIT)
SCALE = np.array([0.01, 0.02, 0.005, 1 / 127, 0.5], np.float32)
EMPTY = (1, 2)  # a unit without a valid cell


@pytest.fixture(scope="module")
def truth():
    """Embedding (60, 70, 5) int8 and valid (60, 70) bool; unit (1, 2) has no valid cell."""
    rng = np.random.default_rng(7)
    valid = rng.random(GRID.shape) < 0.7
    row, col, height, width = unit_window(GRID, EMPTY)
    valid[row : row + height, col : col + width] = False
    steps = rng.integers(-127, 128, (*GRID.shape, DIM)).astype(np.int8)
    return np.where(valid[..., None], steps, 0).astype(np.int8), valid


def attributes() -> dict[str, object]:
    return {
        "format": "geomap-field/1",
        "grid": GRID.to_dict(),
        "lattice": GRID.crs.to_wkt(),
        "encoder_hash": "e" * 64,
        "imagery_id": "i" * 64,
        "scale": SCALE.astype(float).tolist(),
        "credit": "nobody",
    }


def write_field(path: Path, steps, valid, last: int | None = None) -> Path:
    """A store with the first `last` units; finished if `last` is None."""
    rows, cols = unit_counts(GRID)
    with alone(path):
        prepare(path, metadata_files(GRID.shape, UNIT, DIM, attributes()), overwrite=False)
        for unit in [divmod(k, cols) for k in range(rows * cols)][:last]:
            row, col, height, width = unit_window(GRID, unit)
            part = np.s_[row : row + height, col : col + width]
            files = chunk_files(*unit, steps[part], valid[part], UNIT) if valid[part].any() else {}
            write_unit(path, unit, files, land=height * width, valid=int(valid[part].sum()))
        if last is None:
            finish(path, rows * cols)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, truth) -> Path:
    return write_field(tmp_path_factory.mktemp("field") / "tiny.zarr", *truth)


@pytest.fixture
def store(finished, tmp_path) -> Path:
    """A copy of the field that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "copy.zarr"))


@pytest.fixture(params=["directory", "zip"])
def field(request, finished, tmp_path) -> EmbeddingField:
    if request.param == "directory":
        return open_field(finished)
    pack_field(finished, tmp_path / "tiny.zarr.zip")
    return open_field(tmp_path / "tiny.zarr.zip")


def test_attributes_come_back(field, truth):
    assert field.grid == GRID
    assert (field.dim, field.encoder_hash, field.imagery_id, field.credit) == (
        DIM,
        "e" * 64,
        "i" * 64,
        "nobody",
    )
    np.testing.assert_array_equal(field.scale, SCALE)
    assert field.valid_cells == truth[1].sum()
    assert field.land_cells == 60 * 70


@pytest.mark.parametrize(
    "window",
    [
        Window(0, 0, 60, 70),  # everything
        Window(0, 0, 16, 16),  # one block
        Window(48, 64, 12, 6),  # the last block, cut at both edges
        Window(7, 9, 30, 50),  # across blocks
        Window(59, 69, 1, 1),
        Window(16, 32, 16, 16),  # the unit without a valid cell
        Window(5, 5, 0, 3),
    ],
)
def test_read_is_steps_times_scale(field, truth, window):
    steps, valid = truth
    part = np.s_[window.row : window.row + window.height, window.col : window.col + window.width]
    got, got_valid = field.read(window)
    assert got.dtype == np.float32 and got_valid.dtype == np.bool_
    np.testing.assert_array_equal(got, steps[part] * SCALE)
    np.testing.assert_array_equal(got_valid, valid[part])


@pytest.mark.parametrize("window", [Window(-1, 0, 2, 2), Window(0, 60, 5, 11), Window(60, 0, 1, 1)])
def test_read_refuses_windows_off_the_grid(field, window):
    with pytest.raises(FieldError, match="60 x 70"):
        field.read(window)


def test_sample_finds_the_cells_of_points(field, truth):
    steps, valid = truth
    rng = np.random.default_rng(1)
    rows, cols = rng.integers(0, 60, 200), rng.integers(0, 70, 200)
    off = np.array([[0.0, 0.0], [-120.0, 89.0], [np.nan, 38.0]])
    lonlat = np.concatenate([GRID.cell_lonlat()[rows, cols], off])
    values, found = field.sample(lonlat)
    np.testing.assert_array_equal(found, np.concatenate([valid[rows, cols], [False] * 3]))
    np.testing.assert_array_equal(values[:200], steps[rows, cols] * SCALE)
    assert not values[200:].any()


def test_sample_of_no_points(field):
    values, found = field.sample(np.empty((0, 2)))
    assert values.shape == (0, DIM) and found.shape == (0,)


def test_blocks_cover_the_grid_once(field):
    count = np.zeros(GRID.shape, int)
    for row, col, height, width in field.blocks():
        count[row : row + height, col : col + width] += 1
    assert (count == 1).all()
    stored = set(field.blocks(stored=True))
    assert set(field.blocks()) - stored == {unit_window(GRID, EMPTY)}


def test_pickles_as_its_path(field):
    again = pickle.loads(pickle.dumps(field))
    np.testing.assert_array_equal(again.read(Window(0, 0, 9, 9))[0], field.read(Window(0, 0, 9, 9))[0])
    assert len(pickle.dumps(field)) < 500


def test_other_zarr_readers_see_the_same(finished, truth):
    array = zarr.open_array(finished, path="embedding", mode="r")
    np.testing.assert_array_equal(array[:], truth[0])
    assert array.metadata.dimension_names == ("y", "x", "feature")
    assert array.chunks == (UNIT, UNIT, DIM)


def test_same_field_packs_to_the_same_bytes(finished, tmp_path):
    pack_field(finished, tmp_path / "a.zip")
    copy = shutil.copytree(finished, tmp_path / "later.zarr")
    os.utime(copy / MANIFEST, (2e9, 2e9))
    pack_field(copy, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip", "b.zip", "later.zarr"]


def test_packed_field_is_smaller_and_says_the_same(tmp_path):
    """Of smooth planes with a little noise, as embeddings are."""
    y, x, feature = np.meshgrid(np.arange(60), np.arange(70), np.arange(DIM), indexing="ij")
    noise = np.random.default_rng(2).integers(-2, 3, y.shape)
    steps = np.round(60 * np.sin(x / 9 + feature) + 50 * np.cos(y / 13) + noise).astype(np.int8)
    store = write_field(tmp_path / "f.zarr", steps, np.ones(GRID.shape, bool))
    pack_field(store, tmp_path / "f.zarr.zip")
    loose, packed = open_field(store), open_field(tmp_path / "f.zarr.zip")
    packed.verify()
    assert list(packed.files) == list(loose.files) and packed.valid_cells == loose.valid_cells
    sizes = [sum(e["size"] for n, e in f.files.items() if "/c/" in n) for f in (packed, loose)]
    assert sizes[0] < 0.95 * sizes[1]
    for mine, other in zip(packed.read(GRID.whole), loose.read(GRID.whole), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_pack_refuses_a_damaged_chunk(store, tmp_path):
    flip(store / "embedding/c/0/0/0")
    with pytest.raises(FieldError, match="embedding/c/0/0/0 differs"):
        pack_field(store, tmp_path / "x.zip")
    assert not list(tmp_path.glob("*x.zip*"))


def test_pack_says_when_it_cannot_write(finished, tmp_path):
    with pytest.raises(OutputError, match=r"nowhere/x\.zip"):
        pack_field(finished, tmp_path / "nowhere" / "x.zip")


def test_missing_store(tmp_path):
    with pytest.raises(FieldError, match="does not exist"):
        open_field(tmp_path / "no.zarr")


def test_unfinished_store_names_resume(tmp_path, truth):
    with pytest.raises(FieldError, match="--resume"):
        open_field(write_field(tmp_path / "half.zarr", *truth, last=5))


def test_folder_that_is_no_field(tmp_path):
    with pytest.raises(FieldError, match=r"no manifest\.json"):
        open_field(tmp_path)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("name", ["embedding/c/0/0/0", "valid/c/3/4", "zarr.json", "embedding/zarr.json"])
@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_damaged_files_are_refused(store, name, damage):
    damage(store / name)
    with pytest.raises(FieldError, match="is damaged") as caught:
        open_field(store).read(Window(0, 0, *GRID.shape))
    assert "--overwrite" in caught.value.change


def test_chunk_lost_after_opening_is_not_read_as_zeros(store):
    field = open_field(store)
    (store / "valid/c/0/0").unlink()
    with pytest.raises(FieldError, match="valid/c/0/0"):
        field.read(Window(0, 0, 4, 4))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "geomap-field/9"}', '{"format": "geomap-field/1"}']
)
def test_damaged_manifest(store, text):
    (store / MANIFEST).write_text(text)
    with pytest.raises(FieldError):
        open_field(store)


@pytest.mark.parametrize("name", ["embedding/c/2/1/0", "valid/c/0/0", "zarr.json", MANIFEST])
def test_damaged_zip(finished, tmp_path, name):
    path = tmp_path / "f.zarr.zip"
    pack_field(finished, path)
    with zipfile.ZipFile(path) as archive:
        packed, part = path.read_bytes(), archive.read(name)
    at = packed.index(part) + len(part) // 2
    path.write_bytes(packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :])
    with pytest.raises(FieldError):
        open_field(path).read(Window(0, 0, *GRID.shape))


def test_truncated_zip(finished, tmp_path):
    path = tmp_path / "f.zarr.zip"
    pack_field(finished, path)
    truncate(path)
    with pytest.raises(FieldError, match="is damaged"):
        open_field(path)


def test_file_that_is_no_zip(tmp_path):
    path = tmp_path / "f.zarr.zip"
    path.write_bytes(b"not a zip file")
    with pytest.raises(FieldError, match="is damaged"):
        open_field(path)


def test_verify_finds_a_changed_file(store):
    field = open_field(store)
    field.verify()
    flip(store / "valid/c/2/2")
    with pytest.raises(FieldError, match="valid/c/2/2 differs"):
        field.verify()


def rewrite_attribute(store: Path, key: str, value: object) -> None:
    """Change an attribute and its manifest entry, as a writer of another version would."""
    group = json.loads((store / "zarr.json").read_text())
    group["attributes"][key] = value
    (store / "zarr.json").write_text(json.dumps(group))
    manifest = json.loads((store / MANIFEST).read_text())
    manifest["files"]["zarr.json"] = entry((store / "zarr.json").read_bytes())
    (store / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("key", "value"),
    [("scale", [1.0]), ("scale", [0.0] * DIM), ("scale", ["a"] * DIM), ("grid", {}), ("grid", None)],
)
def test_metadata_that_do_not_fit(store, key, value):
    rewrite_attribute(store, key, value)
    with pytest.raises(FieldError, match="is damaged"):
        open_field(store)


def test_quantise_rounds_and_clips():
    scale = np.array([0.1, 0.1, 0.1, 0.1, 0.1], np.float32)
    values = np.array([0.0, 0.149, -0.151, 99.0, -99.0], np.float32)
    np.testing.assert_array_equal(quantise(values, scale), np.array([0, 1, -2, 127, -127], np.int8))


def test_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_atomic(tmp_path / "x", b"data")
    assert not list(tmp_path.iterdir())


def test_reading_needs_neither_torch_nor_dask():
    code = "import sys, geomap.field; print(*{'torch', 'distributed', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
