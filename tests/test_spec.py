"""The card of the encoders: what may stand in it, to text and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from train.encoders.pair import default_card
from train.errors import CheckpointError, SpecError
from train.spec import ChipSpec, EncoderCard

CHIP = ChipSpec(1000.0, (0, 2, 5), 4, 2, (10.0, 20.0), (1.0, 2.0))


def test_chip_is_large_enough_for_its_largest_window_and_the_halo():
    assert (CHIP.margin, CHIP.pixels, CHIP.metres) == (9, 19, 19_000.0)
    coarse = replace(CHIP, metres_per_pixel=10_000.0, windows=(1,), halo=0)
    assert (coarse.margin, coarse.pixels, coarse.metres) == (1, 3, 30_000.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"metres_per_pixel": 0.0},
        {"metres_per_pixel": -5.0},
        {"metres_per_pixel": float("nan")},
        {"halo": -1},
        {"windows": ()},
        {"windows": (5, 2)},
        {"windows": (2, 2)},
        {"windows": (-1, 2)},
        {"bands": 3},
        {"bands": 0, "mean": (), "std": ()},
        {"mean": (1.0,)},
        {"mean": (1.0, float("nan"))},
        {"std": (1.0, 0.0)},
        {"std": (1.0, float("nan"))},
    ],
    ids=str,
)
def test_impossible_chips_are_refused(wrong):
    """Pitfall 21: no scale without a mean and a positive deviation for each band."""
    with pytest.raises(SpecError) as refusal:
        replace(CHIP, **wrong)
    assert all((refusal.value.what, refusal.value.found, refusal.value.change))


def test_card_comes_back_from_its_text():
    """Pitfall 23: the card says what the encoders are, how bands are normalised and how they were trained."""
    card = replace(default_card(), training={"objective": "csp", "imagery_credit": "NASA", "seed": 3})
    text = card.to_json()
    assert EncoderCard.from_json(text) == card
    assert EncoderCard.from_json(text).to_json() == text
    said = json.loads(text)
    assert said["training"]["imagery_credit"] == "NASA"
    assert said["location"]["kind"] == card.location.kind
    assert [level["mean"] for level in said["aerial"]["levels"]] == [[90.0] * 3] * 2
    assert [level["std"] for level in said["aerial"]["levels"]] == [[60.0] * 3] * 2


def test_width_is_the_sum_of_the_three_parts():
    card = default_card(channels=4, dim=8)
    assert card.dim == card.aerial.dim + card.location.dim + card.location.position == 24
    assert len(card.quant_scale) == card.dim


def damaged(**change):
    return json.dumps(json.loads(default_card().to_json()) | change)


def level(**change):
    data = json.loads(default_card().to_json())["aerial"]
    return damaged(aerial=data | {"levels": [data["levels"][0] | change]})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "{}",
        default_card().to_json()[:-40],
        damaged(format=99),
        damaged(aerial={"levels": []}),
        damaged(aerial=json.loads(default_card().to_json())["aerial"] | {"colour": 1}),
        damaged(location={"kind": "xyz", "colour": 1}),
        level(colour=1),
        level(std=[0.0, 1.0, 1.0]),
        level(windows=[3, 1]),
        damaged(quant_scale=[0.1]),
        damaged(quant_scale=[0.0] * default_card().dim),
        damaged(quant_scale=["wide"] * default_card().dim),
    ],
)
def test_a_text_that_is_no_card_is_refused(text):
    """Pitfall 23: truncated, of another format, with unknown or impossible values."""
    with pytest.raises(CheckpointError) as refusal:
        EncoderCard.from_json(text)
    error = refusal.value
    assert error.what == "cannot read the encoder card"
    assert error.found
    assert "card.json" in error.change
