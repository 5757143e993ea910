"""Species heads: the maths against a reference written out, and the way to disk and back."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from geomap.adapter import sigmoid
from geomap.errors import HeadsError, NameNotFoundError, OutputError
from geomap.heads import Adapter, SpeciesHeads, load_heads, save_heads

DIM, HIDDEN, WIDTH, MEMBERS = 5, 4, 3, 2


def numbers(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


@pytest.fixture
def heads():
    rng = np.random.default_rng(0)
    members = tuple(
        (numbers(rng, DIM, HIDDEN), numbers(rng, HIDDEN), numbers(rng, HIDDEN, WIDTH), numbers(rng, WIDTH))
        for _ in range(MEMBERS)
    )
    adapter = Adapter(numbers(rng, DIM), np.abs(numbers(rng, DIM)) + 0.5, members)
    table = pd.DataFrame(
        {
            "scientificName": ["Spinus lawrencei", "Corvus corax", "Corvus brachyrhynchos"],
            "vernacularName": ["Lawrence's Goldfinch", "Common Raven", "American Crow"],
            "synonyms": ["Carduelis lawrencei", "", ""],
            "mtp": [0.1, 0.2, np.nan],
        }
    )
    calibration = np.array([[1, 0], [0.5, -0.25], [2, 1]], np.float32)
    fitted = numbers(rng, 3, MEMBERS * WIDTH), numbers(rng, 3), calibration
    return SpeciesHeads("birds", "probability", "abc", adapter, *fitted, species=table, card={"folds": 5})


def test_prediction_is_what_the_formula_says(heads):
    x = numbers(np.random.default_rng(1), 7, DIM)
    expected = np.empty((7, 3))
    for i, row in enumerate((x.astype(float) - heads.adapter.mean) / heads.adapter.std):
        z = []
        for w1, b1, w2, b2 in heads.adapter.members:
            z.extend(np.maximum(np.maximum(row @ w1 + b1, 0) @ w2 + b2, 0))
        for s in range(3):
            a, b = heads.calibration[s]
            expected[i, s] = 1 / (1 + np.exp(-(a * (heads.weights[s] @ np.array(z) + heads.bias[s]) + b)))
    found = heads.predict(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_array_equal(heads.predict(x, [2, 0]), heads.predict(x)[:, [2, 0]])
    assert heads.transform(x).shape == (7, heads.adapter.width) == (7, 6)


def test_missing_embedding_gives_missing_score(heads):
    x = np.zeros((2, DIM), np.float32)
    x[1, 3] = np.nan
    assert np.isnan(heads.predict(x)).all(axis=1).tolist() == [False, True]


def test_sigmoid_does_not_overflow():
    assert sigmoid(np.array([-1e30, 0, 1e30], np.float32)).tolist() == [0, 0.5, 1]


def test_round_trip_keeps_everything(heads, tmp_path):
    save_heads(heads, tmp_path / "birds")
    back = load_heads(tmp_path / "birds")
    x = numbers(np.random.default_rng(1), 4, DIM)
    np.testing.assert_array_equal(back.predict(x), heads.predict(x))
    pd.testing.assert_frame_equal(back.species, heads.species)
    assert (back.name, back.meaning, back.encoder_hash, back.card, back.hash) == (
        heads.name, heads.meaning, heads.encoder_hash, heads.card, heads.hash,
    )  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["birds"]


def test_hash_follows_what_predictions_depend_on(heads):
    assert replace(heads, card={}).hash == heads.hash
    assert replace(heads, bias=heads.bias + np.float32(1)).hash != heads.hash
    assert replace(heads, meaning="suitability").hash != heads.hash


@pytest.mark.parametrize("name", ["Spinus lawrencei", "carduelis LAWRENCEI", "lawrence's goldfinch"])
def test_names_in_any_case_and_older_ones(heads, name):
    assert heads.index(name) == 0


def test_near_names_are_suggested_never_taken(heads):
    with pytest.raises(NameNotFoundError, match="Corvus corax"):
        heads.index("Corvus corx")


def test_heads_of_another_encoder_are_refused(heads):
    heads.require_encoder("abc", "the field f")
    with pytest.raises(HeadsError, match="encoder abd there"):
        heads.require_encoder("abd", "the field f")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("file", ["card.json", "heads.safetensors", "species.parquet"])
@pytest.mark.parametrize(
    "damage", [truncate, flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")]
)
def test_damaged_heads_are_refused(heads, tmp_path, file, damage):
    save_heads(heads, tmp_path / "birds")
    damage(tmp_path / "birds" / file)
    with pytest.raises(HeadsError, match="cannot read species heads"):
        load_heads(tmp_path / "birds")


def test_card_that_names_other_members_is_refused(heads, tmp_path):
    save_heads(heads, tmp_path / "birds")
    path = tmp_path / "birds" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"members": 3}))
    with pytest.raises(HeadsError, match=r"adapter\.2"):
        load_heads(tmp_path / "birds")


def test_nothing_there_is_refused(tmp_path):
    with pytest.raises(HeadsError, match=r"card\.json is missing"):
        load_heads(tmp_path / "none")


def test_existing_heads_are_kept_unless_told(heads, tmp_path):
    save_heads(heads, tmp_path / "birds")
    other = replace(heads, bias=heads.bias + np.float32(1))
    with pytest.raises(OutputError, match="exists already"):
        save_heads(other, tmp_path / "birds")
    assert load_heads(tmp_path / "birds").hash == heads.hash
    save_heads(other, tmp_path / "birds", overwrite=True)
    assert load_heads(tmp_path / "birds").hash == other.hash
    assert sorted(p.name for p in tmp_path.iterdir()) == ["birds"]


def test_overwrite_never_removes_another_folder(heads, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.md").write_text("years of work")
    with pytest.raises(OutputError, match="does not hold species heads"):
        save_heads(heads, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "text.md").read_text() == "years of work"


def test_failed_write_leaves_nothing(heads, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OutputError, match="No space left"):
        save_heads(heads, tmp_path / "birds")
    assert list(tmp_path.iterdir()) == []


def test_reading_heads_loads_neither_torch_nor_dask():
    code = "import sys, geomap.heads; sys.exit(bool({'torch', 'distributed', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
