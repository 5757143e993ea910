"""Learning from a few labelled images on a fixed budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from train.data.augment import Augmentation
from train.encoders.image import ImageConfig, ImageEncoder
from train.errors import DivergedError, SpecError
from train.evaluation.supervised import LEAST, Budget, fit, guess
from train.landscape import Landscape, World

BUDGET = Budget(epochs=12, batch=16, change=Augmentation(pixels=32, crop=0.6, grey=0.1), looks=3)
CLASSES = np.arange(4)


class Ground(torch.nn.Module):
    """An encoder of photos, as objectives hold theirs."""

    views = ("ground",)

    def __init__(self, backbone="colour_texture", freeze="all"):
        super().__init__()
        self.ground = ImageEncoder(ImageConfig(backbone, size=32, dim=0, other_sizes="resize", freeze=freeze))

    def encode(self, view, batch):
        return self.ground(batch[view])

    def features(self, view, batch):
        return self.ground.features(batch[view])


@pytest.fixture(scope="module")
def data():
    return Landscape(0, World(species=4, pixels=40)).observations(200)


@pytest.fixture(scope="module")
def labels(data):
    return np.asarray(data.labels(), np.int64)


TRAIN, TEST = np.arange(60), np.arange(60, 200)


def test_species_are_learnt_and_shuffled_labels_are_not(data, labels):
    wrong = np.random.default_rng(0).permutation(labels[TRAIN])
    found = []
    for told in (labels[TRAIN], wrong):
        network = fit(Ground(), data, "ground", TRAIN, told, CLASSES, BUDGET, seed=0)
        assert not network.training
        scores = guess(network, data, "ground", TEST, CLASSES, BUDGET).scores(labels[TEST])
        found.append(scores["class_mean"])  # chance is one in four, however uneven the classes are
    assert found[0] > 0.5
    assert abs(found[1] - 0.25) < 0.12


def test_the_seed_decides_and_the_callers_generator_is_left_alone(data, labels):
    short = replace(BUDGET, epochs=1)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    made = [fit(Ground(), data, "ground", TRAIN, labels[TRAIN], CLASSES, short, seed) for seed in (1, 1, 2)]
    first, again, other = (guess(each, data, "ground", TEST, CLASSES, short).log_p for each in made)
    assert torch.equal(torch.rand(1), expected)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    np.testing.assert_allclose(np.exp(first).sum(axis=1), 1.0)


def test_looks_are_averaged_and_one_look_takes_the_image_as_it_is(data, labels):
    network = fit(Ground(), data, "ground", TRAIN, labels[TRAIN], CLASSES, replace(BUDGET, epochs=2), 0)
    once = replace(BUDGET, looks=1)
    plain = guess(network, data, "ground", TEST, CLASSES, once, seed=0).log_p
    np.testing.assert_array_equal(plain, guess(network, data, "ground", TEST, CLASSES, once, seed=1).log_p)
    many = replace(BUDGET, looks=24)
    few_apart, many_apart = (
        np.abs(
            guess(network, data, "ground", TEST, CLASSES, each, seed=0).log_p
            - guess(network, data, "ground", TEST, CLASSES, each, seed=1).log_p
        ).mean()
        for each in (replace(BUDGET, looks=2), many)
    )
    assert 0 < many_apart < 0.7 * few_apart


def test_a_frozen_encoder_stays_and_another_learns_at_its_own_rate(data, labels):
    given = (data, "ground", TRAIN, labels[TRAIN], CLASSES)
    frozen, slow, fast = Ground(), Ground(freeze="nothing"), Ground(freeze="nothing")
    start = frozen.ground.backbone.filters.detach().clone()
    short = replace(BUDGET, epochs=2)
    fit(frozen, *given, short, 0)
    fit(slow, *given, replace(short, encoder_factor=0.01), 0)
    fit(fast, *given, short, 0)
    assert torch.equal(frozen.ground.backbone.filters, start)
    moved = [float((each.ground.backbone.filters.detach() - start).abs().mean()) for each in (slow, fast)]
    assert 0 < moved[0] < 0.1 * moved[1]


def test_features_start_at_mean_zero_and_rare_ones_are_not_blown_up(data, labels):
    network = fit(Ground(), data, "ground", TRAIN, labels[TRAIN], CLASSES, replace(BUDGET, epochs=1), 0)
    assert len(network.std) == len(network.mean) == network.model.ground.width
    assert float(network.std.min()) >= 0.5 * LEAST * float(network.std.mean()) > 0


def test_labels_that_are_no_classes_and_budgets_that_make_no_sense(data, labels):
    with pytest.raises(SpecError, match="a label of a class for each row"):
        fit(Ground(), data, "ground", TRAIN, labels[TRAIN] + 9, CLASSES, BUDGET, 0)
    with pytest.raises(SpecError, match="60 rows"):
        fit(Ground(), data, "ground", TRAIN, labels[:3], CLASSES, BUDGET, 0)
    with pytest.raises(SpecError, match="Name views that are images"):
        fit(Ground(), data, "lonlat", TRAIN, labels[TRAIN], CLASSES, BUDGET, 0)
    for wrong in (
        {"epochs": 0},
        {"looks": 0},
        {"encoder_factor": 0.0},
        {"smoothing": 1.0},
        {"weight_decay": -1.0},
    ):
        with pytest.raises(SpecError, match=next(iter(wrong))):
            replace(BUDGET, **wrong)
    with pytest.raises(DivergedError, match="loss"):
        fit(Ground(), data, "ground", TRAIN, labels[TRAIN], CLASSES, replace(BUDGET, learning_rate=1e38), 0)
