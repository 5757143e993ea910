"""Pre-training from end to end on 64 made-up places, and all that it refuses."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from train import pretrain_pair as module
from train.chips import batch_of, card_for, check_chips, digest, read_chips
from train.encoders.pair import default_card, load_encoders
from train.errors import DivergedError, SpecError
from train.pretrain_pair import PretrainConfig, main, pretrain
from train.schedule import one_cycle
from train.spec import AerialSpec, ChipSpec, EncoderCard, LocationSpec
from train.towers import Towers

PLACES = 64
QUICK = PretrainConfig(epochs=6, batch=16, location_epochs=4, location_batch=32, learning_rate=1e-2)


def tiny_card():
    """Windows of 3 and 5 pixels at two scales, 4 channels, embeddings of 8."""
    mean, std = (0.0,) * 3, (1.0,) * 3
    levels = (ChipSpec(1000.0, (0, 1), 1, 3, mean, std), ChipSpec(8000.0, (2,), 1, 3, mean, std))
    aerial = AerialSpec(channels=4, depth=1, kernel=3, hidden=16, dim=8, levels=levels)
    location = LocationSpec("sphere_rff", {"scales": 3, "count": 8}, hidden=32, blocks=1, dim=8, position=8)
    card = EncoderCard(aerial, location, (), {"objective": "none"})
    return replace(card, quant_scale=(1 / 127,) * card.dim)


def places(seed=0, count=PLACES):
    """Chips whose colour, and seasons, follow the longitude and latitude of the place."""
    rng = np.random.default_rng(seed)
    lonlat = np.column_stack([rng.uniform(-120, -80, count), rng.uniform(30, 50, count)])
    lon, lat = (lonlat[:, 0] + 100) / 20, (lonlat[:, 1] - 40) / 10
    colour = 127 + 100 * np.column_stack([lon, lat, lon * lat])
    arrays = {"lonlat": lonlat, "season": np.column_stack([lat, -lat, lon, lon + lat]).astype(np.float32)}
    for k, level in enumerate(tiny_card().aerial.levels):
        noise = rng.normal(0, 5, (count, 3, level.pixels, level.pixels))
        arrays[f"chips_{k}"] = np.clip(colour[:, :, None, None] + noise, 0, 255).astype(np.uint8)
        arrays[f"valid_{k}"] = rng.random((count, level.pixels, level.pixels)) > 0.02
    extra = rng.uniform(-1, 1, (20, 2))
    arrays["extra_lonlat"] = extra * [20, 10] + [-100, 40]
    arrays["extra_season"] = np.column_stack([extra[:, 1], -extra[:, 1], extra[:, 0], extra.sum(1)]).astype(
        np.float32
    )
    return arrays


@pytest.fixture(scope="module")
def arrays():
    return places()


@pytest.fixture(scope="module")
def trained(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "deep" / "run"
    return pretrain(arrays, card_for(arrays, tiny_card(), "made up"), QUICK, folder), folder


def losses_of(folder):
    with (folder / "losses.csv").open() as file:
        return list(csv.DictReader(file))


def test_loss_goes_down_from_the_logarithm_of_the_batch(trained):
    rows = losses_of(trained[1])
    assert [row["stage"] for row in rows] == ["joint"] * 6 + ["location"] * 4
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4]
    first, last = rows[0], rows[5]
    for pair in ("aerial|location", "aerial|season", "location|season", "loss"):
        assert float(first[pair]) > math.log(16) - 1.5
        assert float(last[pair]) < float(first[pair]) - 0.3
    assert float(rows[9]["location|season"]) < float(rows[6]["location|season"])


def test_location_and_aerial_chip_of_new_places_find_each_other(trained):
    """On places that were not trained on, well above chance; not at all once they are shuffled."""
    encoders, fresh = trained[0], places(seed=7)
    contexts = [
        np.stack([encoders.context(k, chip, ok)[:, 0, 0] for chip, ok in zip(*pair, strict=True)])
        for k in range(2)
        for pair in [(fresh[f"chips_{k}"], fresh[f"valid_{k}"])]
    ]
    embedded = encoders.embed(contexts, fresh["lonlat"])
    order = (embedded[:, :8] @ embedded[:, 8:16].T).argsort(axis=1)[:, ::-1]
    rank = np.array([list(row).index(k) for k, row in enumerate(order)])  # 0 is best; 31.5 is chance
    shuffled = np.array([list(row).index((k + 29) % PLACES) for k, row in enumerate(order)])
    assert np.median(rank) < 8
    assert np.median(shuffled) > 20


def test_checkpoint_is_what_was_returned_and_says_how_it_was_made(arrays, trained):
    """Pitfalls 21 and 23: normalisation, objective, settings, credit and the data's hash are in the card."""
    encoders, folder = trained
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.json",
        "losses.csv",
        "weights.safetensors",
    ]
    assert load_encoders(folder).hash == encoders.hash
    notes = load_encoders(folder).card.training
    assert (notes["objective"], notes["places"], notes["imagery_credit"]) == ("csp", PLACES, "made up")
    assert notes["config"]["learning_rate"] == QUICK.learning_rate
    assert notes["chips_sha256"] == digest(arrays)
    assert notes["last"]["stage"] == "location"
    for k, level in enumerate(encoders.levels):
        np.testing.assert_allclose(level.mean, arrays[f"chips_{k}"].mean(axis=(0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(level.std, arrays[f"chips_{k}"].std(axis=(0, 2, 3)), rtol=1e-6)


def test_embeddings_fit_their_bytes(arrays, trained):
    """The step of each feature is as fine as its own range of values allows."""
    encoders = trained[0]
    values = module._embed(encoders, arrays, np.arange(PLACES))
    steps = np.abs(values / encoders.quant_scale).max(axis=0)
    assert steps.max() <= 127
    assert np.median(steps) > 100


def test_same_seed_same_encoders(arrays, trained, tmp_path):
    card = card_for(arrays, tiny_card(), "made up")
    torch.manual_seed(99)  # the state of the caller plays no part, and is left alone
    state = torch.get_rng_state()
    assert pretrain(arrays, card, QUICK, tmp_path / "again").hash == trained[0].hash
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("card.json", "weights.safetensors", "losses.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (trained[1] / name).read_bytes()
    assert pretrain(arrays, card, replace(QUICK, seed=1), tmp_path / "other").hash != trained[0].hash


def test_chip_set_is_left_alone(arrays, trained):
    """Pitfall 10."""
    assert digest(arrays) == digest(places())


def towers_and_batch(arrays, n=16):
    torch.manual_seed(0)
    card = card_for(arrays, tiny_card())
    return Towers(card, 4), batch_of(arrays, card, np.arange(n), 0.15, torch.Generator().manual_seed(0))


def test_gradients_reach_every_tower(arrays):
    """Pitfall 16 too: every temperature has a gradient."""
    towers, batch = towers_and_batch(arrays)
    towers.train()(*batch)["loss"].backward()
    names = {name for name, _ in towers.named_parameters()}
    assert {
        name for name, p in towers.named_parameters() if p.grad is not None and bool(p.grad.any())
    } == names
    assert {name.split(".")[0] for name in names} == {"aerial", "location", "season", "scales"}


def test_towers_share_nothing(arrays):
    """Pitfall 20."""
    tensors = list(towers_and_batch(arrays)[0].parameters())
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)


def test_untrained_towers_lose_about_the_logarithm_of_the_batch(arrays):
    """Scale 1 instead of 1 / 0.07, so that chance likenesses weigh little."""
    towers, batch = towers_and_batch(arrays)
    with torch.no_grad():
        for scale in towers.scales.values():
            scale.value.zero_()
        assert towers(*batch)["loss"].item() == pytest.approx(math.log(16), abs=0.5)


def test_frozen_aerial_tower_does_not_move(arrays):
    """Pitfall 7: the second stage trains the location tower alone; buffers stay too."""
    towers, _ = towers_and_batch(arrays)
    towers.train()
    chips = module._frozen_chips(towers.aerial, arrays)
    assert chips.shape == (PLACES, 8)
    before = {name: value.clone() for name, value in towers.aerial.state_dict().items()}
    start = towers.location.leave.weight.detach().clone()
    list(module._refine(towers, arrays, chips, QUICK))
    assert not towers.aerial.training
    assert all(torch.equal(value, before[name]) for name, value in towers.aerial.state_dict().items())
    assert not torch.equal(towers.location.leave.weight, start)


def test_widths_that_cannot_be_contrasted_are_refused(arrays):
    card = tiny_card()
    with pytest.raises(SpecError, match="widths 8 and 4"):
        Towers(replace(card, location=replace(card.location, dim=4)), 4)


def test_batches_flip_all_of_a_place_and_jitter_within_bounds(arrays):
    """Chips and masks stay together; with no gain the pixels are those of the chip set."""
    card, rows = tiny_card(), np.array([3, 8, 40])
    seen = set()
    for seed in range(12):
        chips, valid, lonlat, season = batch_of(arrays, card, rows, 0.0, torch.Generator().manual_seed(seed))
        np.testing.assert_array_equal(lonlat, arrays["lonlat"][rows])
        np.testing.assert_array_equal(season, arrays["season"][rows])
        flips = [
            axes
            for axes in ((), (-1,), (-2,), (-1, -2))
            if np.array_equal(np.flip(arrays["valid_0"][rows], axes), valid[0])
            and np.allclose(np.flip(arrays["chips_0"][rows], axes), chips[0], atol=1e-4)
            and np.allclose(np.flip(arrays["chips_1"][rows], axes), chips[1], atol=1e-4)
        ]
        assert len(flips) == 1
        seen.update(flips)
    assert len(seen) == 4
    plain = batch_of(arrays, card, rows, 0.0, torch.Generator().manual_seed(0))[0]
    bright = batch_of(arrays, card, rows, 0.15, torch.Generator().manual_seed(0))[0]
    middles = [(b.mean(dim=(2, 3)) / p.mean(dim=(2, 3))).numpy() for b, p in zip(bright, plain, strict=True)]
    np.testing.assert_allclose(middles[0], middles[1], rtol=1e-5)  # both scales of a place alike
    assert (np.abs(middles[0] - 1) <= 0.151).all()
    assert np.ptp(middles[0]) > 0.01


def test_epochs_visit_every_place_once():
    batches = list(module._epoch(70, 16, torch.Generator().manual_seed(0)))
    assert [len(batch) for batch in batches] == [16] * 4
    assert len(set(np.concatenate(batches))) == 64


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9, 10, 11, 20, 400])
def test_any_number_of_steps_has_a_schedule(steps):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule, rates = one_cycle(optimiser, 0.01, steps), []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
    assert max(rates) <= 0.01 * (1 + 1e-9)
    if steps > 1:
        assert max(rates) == pytest.approx(0.01, rel=0.02)
        assert int(np.argmax(rates)) == max(round(0.1 * steps) - 1, 1)
    if steps > 2:
        assert rates[-1] < 1e-4


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_nothing(arrays, tmp_path):
    spoilt = {**arrays, "season": np.full_like(arrays["season"], np.nan)}
    with pytest.raises(DivergedError, match="a loss of nan"):
        pretrain(spoilt, card_for(arrays, tiny_card()), QUICK, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (replace(QUICK, batch=65), "64 places for batches of 65"),
        (replace(QUICK, location_batch=85), "84 places for batches of 85"),
    ],
)
def test_too_few_places_are_said_before_any_work(arrays, tmp_path, monkeypatch, config, said):
    monkeypatch.setattr(module, "Towers", None)  # building them would be work
    with pytest.raises(SpecError, match=said):
        pretrain(arrays, card_for(arrays, tiny_card()), config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch": 1}, {"batch": -5}, {"location_batch": 0}, {"location_epochs": -1}]
)
def test_settings_that_train_nothing_are_refused(wrong):
    with pytest.raises(SpecError, match="cannot pre-train"):
        replace(QUICK, **wrong)


def test_without_further_places_or_a_second_stage(arrays, tmp_path):
    fewer = {name: value for name, value in arrays.items() if not name.startswith("extra")}
    card = card_for(fewer, tiny_card())
    config = replace(QUICK, epochs=1, location_epochs=0)
    assert pretrain(fewer, card, config, tmp_path / "joint").card.training["last"]["stage"] == "joint"
    config = replace(QUICK, epochs=1, location_epochs=1)
    assert pretrain(fewer, card, config, tmp_path / "both").card.training["last"]["stage"] == "location"


@pytest.mark.parametrize(
    "change",
    [
        {"lonlat": np.zeros((PLACES, 3))},
        {"lonlat": np.zeros((5, 2))},
        {"season": np.zeros((5, 4), np.float32)},
        {"chips_0": np.zeros((PLACES, 3, 9, 9), np.uint8)},
        {"chips_1": np.zeros((PLACES, 4, 7, 7), np.uint8)},
        {"chips_1": None},
        {"valid_1": None},
        {"valid_0": np.ones((PLACES, 3, 3), bool)},
    ],
)
def test_arrays_that_do_not_fit_are_named(arrays, change):
    (name,) = change
    wrong = {key: value for key, value in {**arrays, **change}.items() if value is not None}
    with pytest.raises(SpecError, match="lonlat|season|" + name):
        check_chips(wrong, tiny_card())
    with pytest.raises(SpecError, match="cannot pre-train on these chips"):
        card_for(wrong, tiny_card())


def test_a_flat_band_is_not_divided_by_zero(arrays):
    """Pitfall 21: the deviation of equal values has a floor."""
    flat = {**arrays, "chips_0": np.full_like(arrays["chips_0"], 7)}
    level = card_for(flat, tiny_card()).aerial.levels[0]
    assert (level.mean, level.std) == ((7.0,) * 3, (1e-3,) * 3)


def test_the_hash_of_a_chip_set_hangs_on_every_array(arrays):
    """Pitfall 23."""
    hashes = {digest(arrays)}
    for name, value in arrays.items():
        other = value.copy()
        other.flat[-1] = not other.flat[-1] if other.dtype == bool else other.flat[-1] + 1
        hashes.add(digest({**arrays, name: other}))
    assert len(hashes) == len(arrays) + 1
    assert digest(dict(reversed(arrays.items()))) == digest(arrays)


# The command.


@pytest.fixture
def chip_set(arrays, tmp_path):
    np.savez(tmp_path / "chips.npz", **arrays)
    return tmp_path / "chips.npz"


OPTIONS = ["--epochs", "1", "--batch", "16", "--location-epochs", "1", "--location-batch", "32"]


def test_command_trains(chip_set, tmp_path, monkeypatch):
    monkeypatch.setattr("train.chips.default_card", lambda bands: tiny_card())
    code = main([str(chip_set), "--out", str(tmp_path / "run"), *OPTIONS, "--seed", "4", "--credit", "me"])
    assert code == 0
    training = load_encoders(tmp_path / "run").card.training
    assert (training["config"]["seed"], training["config"]["batch"]) == (4, 16)
    assert training["imagery_credit"] == "me"


def test_default_shape_is_that_of_the_shipped_encoders(arrays):
    with pytest.raises(SpecError, match=str(default_card().aerial.levels[0].pixels)):
        card_for(arrays)


def broken(path, kind):
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("lonlat, chips")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "missing":
        path.unlink()
    elif kind == "pickle":
        np.savez(path, lonlat=np.array([{}], dtype=object))
    elif kind == "no seasons":
        np.savez(path, lonlat=np.zeros((3, 2)), chips_0=np.zeros((3, 1, 5, 5)), valid_0=np.ones((3, 5, 5)))
    elif kind == "one array":
        with path.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif kind == "flat":
        np.savez(path, lonlat=[], chips_0=[], valid_0=[], season=[])
    return path


@pytest.mark.parametrize(
    "kind",
    ["truncated", "text", "empty", "missing", "pickle", "no seasons", "one array", "flat", "other size"],
)
def test_command_refuses_a_chip_set_it_cannot_use(chip_set, tmp_path, capsys, kind):
    """Pitfalls 11 and 23: nothing is guessed, nothing is unpickled."""
    code = main([str(broken(chip_set, kind)), "--out", str(tmp_path / "run"), *OPTIONS])
    said = capsys.readouterr().err
    assert code == 2
    assert "chip" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [["--batch", "1"], ["--epochs", "0"], ["--location-batch", "-3"]])
def test_command_refuses_settings(chip_set, tmp_path, capsys, options):
    assert main([str(chip_set), "--out", str(tmp_path / "run"), *options]) == 2
    assert "batches of at least 2" in capsys.readouterr().err


def test_command_refuses_a_folder_that_is_a_file(chip_set, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("train.chips.default_card", lambda bands: tiny_card())
    monkeypatch.setattr(module, "Towers", None)  # said before any work
    assert main([str(chip_set), "--out", str(chip_set), *OPTIONS]) == 2
    assert main([str(chip_set), "--out", str(chip_set / "run"), *OPTIONS]) == 2
    assert capsys.readouterr().err.count("is a file") == 2


def test_command_ends_without_a_traceback(tmp_path):
    command = [
        sys.executable,
        "-m",
        "train.pretrain_pair",
        str(tmp_path / "none.npz"),
        "--out",
        str(tmp_path / "run"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "none.npz" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_reading_gives_back_what_was_saved(arrays, chip_set):
    back = read_chips(chip_set)
    assert digest(back) == digest(arrays)
