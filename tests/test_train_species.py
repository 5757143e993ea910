"""Fitting of heads on frozen features: targets and losses against plain loops, fits against scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from train import species as module
from train.errors import DivergedError
from train.species import FitConfig, Targets, fit_group, fit_heads_on

QUICK = FitConfig(members=2, hidden=16, width=8, epochs=60, learning_rate=1e-2)


def targets_of(detections, trials, weights=None):
    """Compressed targets of a (n, S) table."""
    met = detections > 0
    sites, found = np.nonzero(met)
    indptr = np.concatenate([[0], np.cumsum(met.sum(axis=1))])
    successes = detections[sites, found].astype(np.float32)
    weights = successes if weights is None else weights[sites, found].astype(np.float32)
    return Targets(
        np.asarray(trials, np.float32), indptr, found.astype(np.int32), successes, weights, met.shape[1]
    )


@pytest.fixture(scope="module")
def sites():
    """Features (400, 6): the first decides on species 0, the second, the other way, on species 1."""
    rng = np.random.default_rng(0)
    features = rng.normal(3.0, 2.0, (400, 6)).astype(np.float32)
    x = (features - 3) / 2
    chances = 1 / (1 + np.exp(-np.column_stack([2 * x[:, 0] - 1, -2 * x[:, 1], np.full(400, -3.0)])))
    trials = rng.integers(1, 6, 400)
    return features, rng.binomial(trials[:, None], chances), trials


def test_dense_targets_are_those_of_the_table(sites):
    _, detections, trials = sites
    weights = detections * np.array([1.0, 10.0, 0.5])
    targets = targets_of(detections, trials, weights)
    rows = np.array([7, 3, 3, 399, 0])
    positive, negative = targets.dense(rows)
    np.testing.assert_allclose(positive, weights[rows], rtol=1e-6)
    np.testing.assert_allclose(negative, trials[rows, None] - detections[rows], rtol=1e-6)
    assert positive.dtype == negative.dtype == np.float32
    np.testing.assert_allclose(targets.rates()[0], weights.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(targets.rates()[1], (trials[:, None] - detections).sum(axis=0), rtol=1e-5)
    assert targets.dense(np.array([], int))[0].shape == (0, 3)


def test_sites_where_nothing_was_met():
    targets = targets_of(np.zeros((4, 2), int), np.full(4, 3))
    positive, negative = targets.dense(np.arange(4))
    assert positive.sum() == 0
    assert (negative == 3).all()


def test_loss_is_the_binomial_likelihood():
    logits = np.array([[[0.3, -2.0], [4.0, 0.0]]])
    met, missed = np.array([[1.0, 0.0], [2.0, 3.0]]), np.array([[4.0, 5.0], [0.0, 0.5]])
    chance = 1 / (1 + np.exp(-logits))
    expected = -(met * np.log(chance) + missed * np.log(1 - chance)).mean()
    found = module._loss(*(torch.from_numpy(each) for each in (logits, met, missed)))
    assert float(found) == pytest.approx(expected)


def logits_of(fit, features):
    """The formula of geomap.heads, written out."""
    x = (features - fit.mean) / fit.std
    z = [np.maximum(np.maximum(x @ w1 + b1, 0) @ w2 + b2, 0) for w1, b1, w2, b2 in fit.members]
    return np.concatenate(z, axis=1) @ fit.weights.T + fit.bias


def test_arrays_are_the_mean_of_the_members(sites):
    """What leaves the trainer predicts what the ensemble does without dropout."""
    features, detections, trials = sites
    torch.manual_seed(0)
    still = replace(QUICK, dropout=0.0, input_dropout=0.0)
    ensemble = module._Ensemble(6, targets_of(detections, trials), still)
    with torch.no_grad():
        ensemble.w3.mul_(100)
        expected = ensemble(torch.from_numpy(features)).mean(dim=0)
    members, weights, bias = ensemble.arrays()
    fit = module.GroupFit(np.zeros(6, np.float32), np.ones(6, np.float32), members, weights, bias)
    np.testing.assert_allclose(logits_of(fit, features), expected, atol=1e-4)
    assert weights.shape == (3, 2 * 8)


def test_input_dropout_takes_other_features_from_each_member(sites):
    ensemble = module._Ensemble(6, targets_of(*sites[1:]), replace(QUICK, dropout=0.0, input_dropout=0.5))
    with torch.no_grad():
        for parameter in (ensemble.w1, ensemble.w2, ensemble.w3):
            parameter[1] = parameter[0]
        first, second = ensemble(torch.from_numpy(sites[0]))
    assert not torch.allclose(first, second)


def test_members_start_from_different_weights(sites):
    """Pitfall 20: side by side, not the same one over and over."""
    ensemble = module._Ensemble(6, targets_of(*sites[1:]), QUICK)
    for parameter in (ensemble.w1, ensemble.w2, ensemble.w3):
        assert not torch.equal(parameter[0], parameter[1])


def test_a_group_learns_its_species(sites):
    features, detections, trials = sites
    fit = fit_group(features, targets_of(detections, trials), QUICK)
    np.testing.assert_allclose(fit.mean, features.mean(axis=0), rtol=1e-5)
    fresh = np.random.default_rng(9).normal(3.0, 2.0, (500, 6)).astype(np.float32)
    x, logits = (fresh - 3) / 2, logits_of(fit, fresh)
    assert np.corrcoef(logits[:, 0], x[:, 0])[0, 1] > 0.9
    assert np.corrcoef(logits[:, 1], -x[:, 1])[0, 1] > 0.9
    chance = 1 / (1 + np.exp(-logits[:, 0]))
    assert np.abs(chance - 1 / (1 + np.exp(1 - 2 * x[:, 0]))).mean() < 0.12
    rare = 1 / (1 + np.exp(-logits[:, 2]))
    assert rare.mean() == pytest.approx(detections[:, 2].sum() / trials.sum(), abs=0.04)


def test_same_seed_same_heads_and_nothing_else_is_touched(sites):
    """Pitfall 10: features are standardised in a copy; the random state of the caller is left alone."""
    features, detections, trials = sites
    targets, config = targets_of(detections, trials), replace(QUICK, epochs=3)
    kept, state = features.copy(), torch.get_rng_state()
    first = fit_group(features, targets, config)
    torch.manual_seed(77)
    second = fit_group(features, targets, config)
    other = fit_group(features, targets, replace(config, seed=1))
    np.testing.assert_array_equal(first.weights, second.weights)
    np.testing.assert_array_equal(first.members[1][0], second.members[1][0])
    assert not np.array_equal(first.weights, other.weights)
    np.testing.assert_array_equal(features, kept)
    torch.set_rng_state(state)
    fit_group(features, targets, config)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("sites_count", "epochs"), [(5, 1), (5, 2), (130, 5), (400, 2)])
def test_any_number_of_steps_is_trained(sites, sites_count, epochs):
    """Ten steps among them: a schedule must not divide by the length of its warm-up."""
    features, detections, trials = (each[:sites_count] for each in sites)
    fit = fit_group(features, targets_of(detections, trials), replace(QUICK, epochs=epochs))
    assert np.isfinite(logits_of(fit, features)).all()


def test_batches_are_whole_and_visit_every_site():
    torch.manual_seed(0)
    batches = module._batches(50, 20, 15)
    assert [len(batch) for batch in batches] == [20] * 15
    assert np.unique(np.concatenate(batches)).tolist() == list(range(50))
    assert [len(batch) for batch in module._batches(6, 20, 3)] == [6] * 3


@pytest.mark.parametrize("fit", ["group", "heads"])
def test_features_that_are_not_finite_stop_the_fit(sites, fit):
    features, detections, trials = sites
    spoilt, targets = features.copy(), targets_of(detections, trials)
    spoilt[0, 0] = np.nan
    with pytest.raises(DivergedError) as refusal:
        fit_group(spoilt, targets, QUICK) if fit == "group" else fit_heads_on(spoilt, targets, 1e-3)
    assert refusal.value.what == "cannot fit the species heads"
    assert "nan" in refusal.value.found


def test_new_heads_are_ridge_logistic_regressions(sites):
    """Against scikit-learn, on visits and detections written out as weighted rows."""
    features, detections, trials = sites
    l2 = 1e-2
    weights, bias = fit_heads_on(features, targets_of(detections, trials), l2)
    mean, std = features.mean(axis=0), features.std(axis=0) + np.float32(1e-3)
    x = (features - mean) / std
    for s in range(3):
        rows = np.concatenate([x, x])
        labels = np.repeat([1, 0], 400)
        weight = np.concatenate([detections[:, s], trials - detections[:, s]]) / trials.sum()
        oracle = LogisticRegression(C=1 / (2 * l2), tol=1e-8, max_iter=1000).fit(rows, labels, weight)
        np.testing.assert_allclose(weights[s] * std, oracle.coef_[0], atol=2e-3)
        assert bias[s] + weights[s] @ mean == pytest.approx(oracle.intercept_[0], abs=1e-2)


def test_new_heads_of_a_species_do_not_hang_on_the_others(sites):
    features, detections, trials = sites
    both = fit_heads_on(features, targets_of(detections, trials), 1e-2)
    alone = fit_heads_on(features, targets_of(detections[:, :1], trials), 1e-2)
    np.testing.assert_allclose(both[0][0], alone[0][0], atol=2e-3)
    np.testing.assert_allclose(both[1][0], alone[1][0], atol=1e-2)


def test_features_that_never_change_are_no_trouble(sites):
    """Adapter outputs may be zero everywhere."""
    features, detections, trials = sites
    dead = np.concatenate([features, np.zeros((400, 3), np.float32)], axis=1)
    weights, bias = fit_heads_on(dead, targets_of(detections, trials), 1e-2)
    plain, plain_bias = fit_heads_on(features, targets_of(detections, trials), 1e-2)
    np.testing.assert_allclose(weights[:, :6], plain, atol=2e-3)
    np.testing.assert_allclose(bias, plain_bias, atol=1e-2)
    assert np.abs(weights[:, 6:]).max() < 1e-6
