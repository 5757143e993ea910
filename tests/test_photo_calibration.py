"""The scale of similarities between photos and chips."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from train.calibration import calibrate
from train.errors import SpecError


def pairs(count, noise, seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(count, 8))
    views = [hidden + noise * rng.normal(size=hidden.shape) for _ in range(2)]
    return [view / np.linalg.norm(view, axis=1, keepdims=True) for view in views]


def test_it_is_the_balanced_logistic_regression():
    ground, aerial = pairs(60, 0.8)
    found = calibrate(ground, aerial)
    own = np.eye(60, dtype=bool).ravel()
    weight = np.where(own, 0.5 / own.sum(), 0.5 / (~own).sum())
    model = LogisticRegression(C=1e9, tol=1e-8, max_iter=1000)
    model.fit((ground @ aerial.T).reshape(-1, 1), own, sample_weight=weight * 1e3)
    assert found.slope == pytest.approx(model.coef_[0, 0], rel=1e-2)
    assert found.intercept == pytest.approx(model.intercept_[0], rel=1e-2)
    assert found.observations == 60 and 0 < found.log_loss < 0.5


def test_clearer_views_tell_more_and_noise_tells_nothing():
    clear, dim = calibrate(*pairs(100, 0.3)), calibrate(*pairs(100, 1.5))
    assert clear.log_loss < dim.log_loss < np.log(2)
    strangers = calibrate(pairs(400, 0.3)[0], pairs(400, 0.3, seed=1)[1])
    assert strangers.log_loss == pytest.approx(np.log(2), abs=0.01)
    assert np.abs(strangers.log_odds(np.linspace(-1, 1, 5))).max() < 0.5


def test_the_ratio_is_that_of_the_densities():
    """Two normal distributions of equal width: the log-odds are known."""
    rng = np.random.default_rng(0)
    angle = np.arccos(np.clip(rng.normal(0.5, 0.1, 400), -1, 1))
    ground = np.stack([np.ones(400), np.zeros(400)], axis=1)
    other = np.arccos(np.clip(rng.normal(0.2, 0.1, 400), -1, 1))
    aerial = np.stack([np.cos(other), np.sin(other)], axis=1)
    own = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # photo i is the first axis for all; every second chip is "own" by its position on the diagonal
    similarity = np.where(np.eye(400, dtype=bool), (ground * own).sum(1), (ground @ aerial.T))
    basis = np.eye(400)
    found = calibrate(basis, similarity.T)  # photo i dotted with chip j is similarity[i, j]
    assert found.log_odds(np.array([0.35]))[0] == pytest.approx(0, abs=0.4)
    assert found.slope == pytest.approx((0.5 - 0.2) / 0.1**2, rel=0.2)


@pytest.mark.parametrize("group", ["tile", "label"])
def test_pairs_of_one_tile_or_species_are_no_background(group):
    ground, aerial = pairs(50, 0.3)
    twice = [np.concatenate([view, view]) for view in (ground, aerial)]
    groups = np.tile(np.arange(50), 2)
    plain, masked = calibrate(*twice), calibrate(*twice, **{group: groups})
    assert masked.log_loss < plain.log_loss
    unknown = calibrate(*twice, **{group: np.full(100, -1)})
    assert unknown.log_loss == pytest.approx(plain.log_loss)


def test_too_few_observations_are_refused():
    with pytest.raises(SpecError, match="5 observations"):
        calibrate(*pairs(5, 0.3))
    with pytest.raises(SpecError, match="0 pairs"):
        calibrate(*pairs(20, 0.3), label=np.zeros(20, np.int64))
