"""Colours and textures as a backbone: what its numbers mean, and that it learns unless it is frozen."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from train.encoders.colour_texture import (
    BINS,
    LEVELS,
    NAME,
    ORIENTATIONS,
    ColourTexture,
    gabor_filters,
    votes,
)
from train.encoders.image import ImageConfig, ImageEncoder
from train.errors import SpecError
from train.objectives.crisp import TINY as CRISP
from train.objectives.crisp import Crisp

CONFIG = ImageConfig(NAME, size=64, dim=0, other_sizes="resize", freeze="all")
COLOURS = math.prod(bins for *_, bins in BINS)
AMPLITUDES = 3 * ORIENTATIONS  # of the means of a level, and of the deviations


def flat(colour, size=64):
    return torch.tensor(colour, dtype=torch.uint8)[None, :, None, None].expand(1, 3, size, size)


def stripes(angle, length, size=64):
    """Grey waves along an angle [radians] of a length [pixels]."""
    down, right = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    wave = torch.sin(2 * math.pi / length * (right * math.cos(angle) + down * math.sin(angle)))
    return (127.5 + 100 * wave).to(torch.uint8).expand(1, 3, size, size)


def amplitudes(encoder, image):
    """(levels, orientations) logarithms of mean amplitude of the light."""
    found = encoder.features(image)[0, COLOURS:].reshape(LEVELS, 2, 3, ORIENTATIONS)
    return found[:, 0, 0].detach()


def test_votes_are_shared_between_neighbours_and_none_is_lost():
    values = torch.tensor([[[-9.0, -1.0, -0.75, 0.0, 0.9, 7.0]]])
    given = votes(values, -1.0, 1.0, 5)
    assert given.shape == (1, 5, 1, 6)
    torch.testing.assert_close(given.sum(dim=1), torch.ones_like(values))
    expected = [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0.2, 0.8]]
    torch.testing.assert_close(given[0, :, 0, :5].T, torch.tensor(expected))
    assert given[0, 4, 0, 5] == 1


def test_the_histogram_tells_colours_and_not_places():
    encoder = ImageEncoder(CONFIG)
    red, green, blue = (
        encoder.features(flat(c))[0, :COLOURS] for c in ([220, 30, 30], [30, 160, 30], [40, 40, 220])
    )
    assert max(float(red @ green), float(red @ blue), float(green @ blue)) < 0.1
    assert min(float(each @ each) for each in (red, green, blue)) > 0.8  # near unit length
    half = torch.cat([flat([220, 30, 30])[..., :32], flat([30, 160, 30])[..., :32]], dim=3)
    turned = torch.rot90(half, 1, (2, 3))
    first, second = (encoder.features(each)[0, :COLOURS] for each in (half, turned))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)
    assert float(first @ red) > 0.6 and float(first @ green) > 0.6


def test_filters_ignore_constant_light_and_answer_to_their_orientation():
    filters = gabor_filters()
    assert filters.shape == (2 * ORIENTATIONS, 1, 9, 9)
    assert float(filters.sum(dim=(2, 3)).abs().max()) < 1e-6
    encoder = ImageEncoder(CONFIG)
    for number in range(ORIENTATIONS):
        found = amplitudes(encoder, stripes(math.pi * number / ORIENTATIONS, 3.5))
        assert int(found[0].argmax()) == number
    assert int(amplitudes(encoder, stripes(0.0, 3.5))[:, 0].argmax()) == 0  # fine waves, finest level
    assert int(amplitudes(encoder, stripes(0.0, 14.0))[:, 0].argmax()) == 2  # 4 times as long, two levels up


def test_grey_photos_have_no_coloured_texture():
    grey = ImageEncoder(CONFIG).features(stripes(0.3, 5.0))[0, COLOURS:].reshape(LEVELS, 2, 3, ORIENTATIONS)
    assert bool((grey[:, 0, 0] > grey[:, 0, 1:].amax(dim=1)).all())


def test_features_are_finite_and_stand_for_a_photo_alone():
    encoder = ImageEncoder(CONFIG)
    images = torch.cat([flat([0, 0, 0]), flat([255, 255, 255]), stripes(1.0, 4.0)])
    found = encoder.features(images)
    assert found.shape == (3, COLOURS + 2 * AMPLITUDES * LEVELS) == (3, encoder.width)
    assert bool(torch.isfinite(found).all())
    torch.testing.assert_close(encoder.features(images[1:2]), found[1:2], atol=1e-5, rtol=0)
    assert encoder.features(torch.zeros(1, 3, 80, 90, dtype=torch.uint8)).shape == (1, encoder.width)


def test_filters_learn_unless_frozen():
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    learning = ImageEncoder(replace(CONFIG, freeze="nothing"))
    learning.features(images).square().sum().backward()
    for weight in learning.parameters():
        assert weight.grad is not None and bool(torch.isfinite(weight.grad).all()) and bool(weight.grad.any())
    assert not any(weight.requires_grad for weight in ImageEncoder(CONFIG).parameters())
    projected = ImageEncoder(replace(CONFIG, freeze="backbone", dim=16))
    assert [name for name, weight in projected.named_parameters() if weight.requires_grad] == [
        "project.weight",
        "project.bias",
    ]
    assert projected(images).shape == (4, 16)


def test_objectives_take_it_as_a_tower():
    tower = replace(CONFIG, size=32, dim=64, freeze="nothing")
    model = Crisp(replace(CRISP, ground=tower))
    vectors = model.encode("ground", {"ground": stripes(0.5, 6.0, 40)})
    assert vectors.shape == (1, 64)
    assert model.features("ground", {"ground": stripes(0.5, 6.0, 40)}).shape == (
        1,
        COLOURS + 2 * AMPLITUDES * LEVELS,
    )


@pytest.mark.parametrize("change", [{"bands": 4, "mean": (127.0,) * 4, "std": (60.0,) * 4}, {"size": 16}])
def test_other_bands_and_small_images_are_refused(change):
    with pytest.raises(SpecError, match="3 bands and 32 pixels or more"):
        ImageEncoder(replace(CONFIG, **change))


def test_a_misspelt_name_is_told():
    with pytest.raises(SpecError) as refusal:
        ImageEncoder(replace(CONFIG, backbone="color_texture", freeze="nothing"))
    assert NAME in refusal.value.change


def test_the_module_refuses_by_itself():
    with pytest.raises(ValueError, match="3 bands"):
        ColourTexture(1, 64)
