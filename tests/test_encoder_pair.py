"""The pair of encoders: what it gives, its identity, and the way to disk and back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from train.encoders.pair import (
    CARD,
    WEIGHTS,
    Encoders,
    build,
    default_card,
    load_encoders,
    random_encoders,
    save_encoders,
)
from train.errors import CheckpointError, SpecError

PLACES = np.array([[-121.5, 38.6], [-180.0, 71.0], [180.0, 71.0], [0.0, -90.0], [12.3, 4.5]])


@pytest.fixture(scope="module")
def encoders():
    return random_encoders(channels=4)


@pytest.fixture
def checkpoint(encoders, tmp_path):
    save_encoders(encoders, tmp_path / "run")
    return tmp_path / "run"


def picture(encoders, level, extra=0):
    rng, side = np.random.default_rng(level), encoders.levels[level].pixels + extra
    return rng.uniform(0, 255, (3, side, side)).astype(np.float32), rng.random((side, side)) > 0.05


def contexts(encoders, n):
    """Statistics of n neighbouring places at each scale."""
    rows = np.arange(n)
    return [
        encoders.context_at(k, *picture(encoders, k, n - 1), rows, rows) for k in range(len(encoders.levels))
    ]


def test_a_chip_a_picture_and_some_pixels_give_the_same(encoders):
    """Pitfalls 6 and 13: chip by chip, dense, and at a few pixels."""
    for k, level in enumerate(encoders.levels):
        image, valid = picture(encoders, k, 6)
        dense = encoders.context(k, image, valid)
        assert dense.dtype == np.float32
        assert dense.shape == (encoders.aerial.contexts[k].dim, 7, 7)
        rows, cols = np.array([0, 6, 3, 3]), np.array([6, 0, 2, 2])
        np.testing.assert_array_equal(
            encoders.context_at(k, image, valid, rows, cols), dense[:, rows, cols].T
        )
        for row, col in zip(rows, cols, strict=True):
            cut = (slice(row, row + level.pixels), slice(col, col + level.pixels))
            chip = encoders.context(k, image[(slice(None), *cut)], valid[cut])
            np.testing.assert_allclose(chip[:, 0, 0], dense[:, row, col], atol=1e-5)


def test_bytes_are_numbers(encoders):
    """Pitfall 21: uint8 and float32 of the same values are the same picture."""
    image, valid = picture(encoders, 0)
    whole = np.rint(image)
    np.testing.assert_array_equal(
        encoders.context(0, whole.astype(np.uint8), valid), encoders.context(0, whole, valid)
    )


def test_embedding_has_unit_rows_of_three_equal_parts(encoders):
    embedded = encoders.embed(contexts(encoders, 5), PLACES)
    assert embedded.shape == (5, encoders.dim) == (5, 24)
    assert embedded.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1.0, atol=1e-5)
    for part in np.split(embedded, [8, 16], axis=1):
        np.testing.assert_allclose(np.linalg.norm(part, axis=1), 3**-0.5, atol=1e-5)


def test_embedding_is_what_both_encoders_say(encoders):
    """Pitfall 1: the pair hands longitude, latitude on in that order."""
    parts = contexts(encoders, 5)
    with torch.no_grad():
        aerial = encoders.aerial.join([torch.from_numpy(part) for part in parts])
        location = encoders.location(torch.from_numpy(PLACES))
        position = encoders.position(torch.from_numpy(PLACES))
    expected = torch.cat([aerial, location, position], dim=1) / 3**0.5
    np.testing.assert_allclose(encoders.embed(parts, PLACES), expected, atol=1e-6)
    with pytest.raises(SpecError, match="longitude, then latitude"):
        encoders.embed(parts, PLACES[:, ::-1] + [0.0, 1.0])


def test_both_sides_of_the_antimeridian_embed_alike(encoders):
    """Pitfall 3: the same chip at 180 and -180 degrees is the same place."""
    part = [part[[0, 0]] for part in contexts(encoders, 1)]
    west, east = encoders.embed(part, PLACES[1:3])
    np.testing.assert_allclose(west, east, atol=1e-6)


def test_same_input_same_bytes_and_no_hold_of_the_batch(encoders):
    """Pitfall 6."""
    parts = contexts(encoders, 5)
    whole = encoders.embed(parts, PLACES)
    np.testing.assert_array_equal(encoders.embed(parts, PLACES), whole)
    single = [encoders.embed([part[k : k + 1] for part in parts], PLACES[k : k + 1])[0] for k in range(5)]
    np.testing.assert_allclose(single, whole, atol=1e-5)


def test_encoding_leaves_encoders_and_inputs_alone():
    """Pitfalls 7 and 10: frozen, in evaluation mode; buffers and arrays are as before."""
    card = default_card(channels=4, dim=8)
    aerial, location = build(card)
    assert aerial.training
    assert location.training
    encoders = Encoders(card, aerial, location)
    modules = [*aerial.modules(), *location.modules()]
    assert not any(module.training for module in modules)
    assert not any(p.requires_grad for module in modules for p in module.parameters())
    before = {name: value.clone() for name, value in aerial.state_dict().items()}
    image, valid = picture(encoders, 0)
    kept, places = (image.copy(), valid.copy()), PLACES.copy()
    encoders.context(0, image, valid)
    encoders.embed(contexts(encoders, 5), places)
    assert all(torch.equal(value, before[name]) for name, value in aerial.state_dict().items())
    np.testing.assert_array_equal(image, kept[0])
    np.testing.assert_array_equal(valid, kept[1])
    np.testing.assert_array_equal(places, PLACES)
    assert encoders.hash == Encoders(card, aerial, location).hash


@pytest.mark.parametrize(
    ("image", "valid", "said"),
    [
        (np.zeros((2, 60, 60), np.float32), np.ones((60, 60), bool), "3 bands"),
        (np.zeros((60, 60), np.float32), np.ones((60, 60), bool), "3 bands"),
        (np.zeros((3, 60, 20), np.float32), np.ones((60, 20), bool), "chips of 29 pixels"),
        (np.zeros((3, 60, 60), np.float32), np.ones((1, 1), bool), "a mask of shape"),
    ],
)
def test_imagery_of_another_shape_is_refused(encoders, image, valid, said):
    with pytest.raises(SpecError, match=said):
        encoders.context(0, image, valid)


def test_seed_decides(encoders):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert random_encoders(channels=4).hash == encoders.hash
    assert torch.equal(torch.get_rng_state(), state)
    assert random_encoders(1, channels=4).hash != encoders.hash


def test_round_trip_keeps_every_bit(encoders, checkpoint):
    """Pitfall 23: two files, no pickle; the card last."""
    assert sorted(path.name for path in checkpoint.iterdir()) == [CARD, WEIGHTS]
    back = load_encoders(str(checkpoint))
    assert back.hash == encoders.hash
    assert back.card == encoders.card
    parts = contexts(encoders, 5)
    np.testing.assert_array_equal(back.embed(parts, PLACES), encoders.embed(parts, PLACES))
    np.testing.assert_array_equal(back.quant_scale, np.full(24, 1 / 127, np.float32))
    assert (back.bands, back.dim) == (3, 24)
    assert not any(module.training for module in back.aerial.modules())


def test_weights_say_how_bands_are_normalised(encoders, checkpoint):
    """Pitfall 21: mean and deviation travel in the card, and the weights hold the same."""
    said = json.loads((checkpoint / CARD).read_text())["aerial"]["levels"]
    weights = load_file(checkpoint / WEIGHTS)
    for k, level in enumerate(said):
        assert weights[f"aerial.contexts.{k}.mean"].flatten().tolist() == level["mean"] == [90.0] * 3
        assert weights[f"aerial.contexts.{k}.std"].flatten().tolist() == level["std"] == [60.0] * 3


def test_hash_hangs_on_every_tensor_and_on_the_card(encoders, checkpoint):
    """Pitfall 23: a changed encoder is another encoder."""
    hashes = {encoders.hash}
    names = [
        (module, name)
        for module in (encoders.aerial, encoders.location)
        for name, value in module.state_dict().items()
        if value.is_floating_point()
    ]
    for module, name in names:
        value = module.state_dict()[name].view(-1)
        before = value[0].clone()
        value[0] = torch.nextafter(before, torch.tensor(9e9, dtype=before.dtype))
        hashes.add(Encoders(encoders.card, encoders.aerial, encoders.location).hash)
        value[0] = before
    assert len(hashes) == len(names) + 1
    assert Encoders(encoders.card, encoders.aerial, encoders.location).hash == encoders.hash
    other = replace(encoders.card, training={"objective": "csp"})
    assert Encoders(other, encoders.aerial, encoders.location).hash not in hashes


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        load_encoders(folder)
    error = caught.value
    assert all((error.what, error.found, error.change))
    return str(error)


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_a_missing_file_is_named(checkpoint, name):
    (checkpoint / name).unlink()
    assert f"no {name} in {checkpoint}" in refusal(checkpoint)


def test_a_missing_folder_is_refused(tmp_path):
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 4, 200, 0.5, -1])
def test_truncated_weights_are_refused(checkpoint, keep):
    """Pitfall 23."""
    path = checkpoint / WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    assert str(path) in refusal(checkpoint)


def test_a_pickle_is_not_read(checkpoint):
    """Pitfall 23: weights are data only; a file that would run code when loaded is damage."""
    torch.save({"aerial.norm.running_mean": torch.zeros(3)}, checkpoint / WEIGHTS)
    assert "damaged" in refusal(checkpoint)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"{", b""])
def test_a_damaged_card_is_refused(checkpoint, content):
    (checkpoint / CARD).write_bytes(content)
    assert "card" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("location", {"kind": "h3"}),
        ("location", {"options": {"colour": 1}}),
        ("location", {"hidden": "wide"}),
        ("location", {"hidden": 32}),
        ("aerial", {"backbone": "no_such_net"}),
        ("aerial", {"kernel": 7}),
        ("aerial", {"channels": 8}),
    ],
)
def test_a_card_of_other_encoders_is_refused(checkpoint, part, change):
    card = json.loads((checkpoint / CARD).read_text())
    card[part] |= change
    (checkpoint / CARD).write_text(json.dumps(card))
    assert "cannot load the encoders" in refusal(checkpoint)


def test_another_normalisation_than_that_of_the_weights_is_refused(checkpoint):
    """Pitfall 21: an edited mean would silently do nothing."""
    card = json.loads((checkpoint / CARD).read_text())
    card["aerial"]["levels"][1]["mean"] = [90.0, 91.0, 90.0]
    (checkpoint / CARD).write_text(json.dumps(card))
    assert WEIGHTS in refusal(checkpoint)


@pytest.mark.parametrize("change", ["drop", "add", "stranger", "reshape"])
def test_weights_that_do_not_fit_the_card_are_refused(checkpoint, change):
    weights = load_file(checkpoint / WEIGHTS)
    if change == "drop":
        del weights["location.leave.bias"]
    elif change == "add":
        weights["location.extra"] = torch.zeros(2)
    elif change == "stranger":
        weights["ground.weight"] = torch.zeros(2)
    else:
        weights["location.leave.bias"] = torch.zeros(9)
    save_file(weights, checkpoint / WEIGHTS)
    assert WEIGHTS in refusal(checkpoint)


def test_a_stop_while_writing_leaves_no_checkpoint(encoders, checkpoint, monkeypatch):
    """The old card must not stand beside new weights."""

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.encoders.pair.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        save_encoders(encoders, checkpoint)
    assert f"no {CARD}" in refusal(checkpoint)
