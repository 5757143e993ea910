"""Scores against scikit-learn and a hand-worked Boyce index."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from geomap import metrics


def expand(scores, positives, negatives):
    """One row per weighted trial of one species, as scikit-learn wants it."""
    outcome = np.r_[np.ones(len(scores)), np.zeros(len(scores))]
    return outcome, np.r_[scores, scores], np.r_[positives, negatives]


@pytest.fixture
def trials():
    rng = np.random.default_rng(3)
    scores = np.round(rng.random((60, 5)), 1).astype(np.float32)  # rounded: many ties
    visits = rng.integers(1, 16, (60, 1))
    detections = rng.binomial(visits, scores.clip(0.05, 0.8))
    return scores, detections.astype(float), (visits - detections).astype(float)


def test_weighted_auc_and_average_precision_equal_sklearn(trials):
    steps = metrics.ranking(*trials)
    auc, ap = metrics.roc_auc(steps), metrics.average_precision(steps)
    for s in range(5):
        outcome, score, weight = expand(*(array[:, s] for array in trials))
        assert auc[s] == pytest.approx(roc_auc_score(outcome, score, sample_weight=weight), abs=1e-12)
        assert ap[s] == pytest.approx(
            average_precision_score(outcome, score, sample_weight=weight), abs=1e-12
        )


def test_brier_counts_every_visit(trials):
    value = metrics.brier(*trials)
    for s in range(5):
        outcome, score, weight = expand(*(array[:, s].astype(float) for array in trials))
        assert value[s] == pytest.approx(np.average((score - outcome) ** 2, weights=weight))


def test_a_visit_weighted_site_equals_its_visits_written_out(trials):
    scores, positives, negatives = (array[:, :1] for array in trials)
    times = (positives + negatives)[:, 0].astype(int)
    single = np.repeat(scores, times, axis=0)
    outcome = np.concatenate(
        [
            np.r_[np.ones(int(p)), np.zeros(int(n))]
            for p, n in zip(positives[:, 0], negatives[:, 0], strict=True)
        ]
    )
    auc = metrics.roc_auc(metrics.ranking(scores, positives, negatives))
    written_out = metrics.roc_auc(metrics.ranking(single, outcome[:, None], 1 - outcome[:, None]))
    assert auc == pytest.approx(written_out, abs=1e-12)


def test_species_without_both_outcomes_are_nan():
    scores = np.array([[0.1, 0.1], [0.9, 0.9]])
    positives, negatives = np.array([[0.0, 1], [0, 1]]), np.array([[1.0, 0], [1, 0]])
    steps = metrics.ranking(scores, positives, negatives)
    assert np.isnan(metrics.roc_auc(steps)).all()
    assert np.isnan(metrics.average_precision(steps)).all()


pairs = hnp.arrays(float, st.tuples(st.integers(2, 30), st.just(2)), elements=st.floats(0, 1, width=32))


@settings(deadline=None, max_examples=60)
@given(pairs, st.integers(0, 1000))
def test_auc_properties(scores, seed):
    rng = np.random.default_rng(seed)
    positives = rng.integers(0, 3, scores.shape).astype(float)
    positives[0], negatives = 1, rng.integers(0, 3, scores.shape) + 1.0
    steps = metrics.ranking(scores, positives, negatives)
    auc, ap = metrics.roc_auc(steps), metrics.average_precision(steps)
    assert ((auc >= 0) & (auc <= 1) & (ap > 0) & (ap <= 1)).all()
    reversed_auc = metrics.roc_auc(metrics.ranking(-scores, positives, negatives))
    assert auc + reversed_auc == pytest.approx(1, abs=1e-9)
    swapped = metrics.roc_auc(metrics.ranking(scores, negatives, positives))
    assert auc + swapped == pytest.approx(1, abs=1e-9)
    assert metrics.roc_auc(metrics.ranking(8 * scores, 2 * positives, 5 * negatives)) == pytest.approx(
        auc, abs=1e-9
    )


def literal_boyce(fit, obs, windows=100):
    """The definition written out, one window at a time, unweighted."""
    low, high = fit.min(), fit.max()
    width = (high - low) / 10
    found = []
    for k in range(windows):
        start = low + k * (high - low - width) / windows
        present = np.mean((obs >= start) & (obs <= start + width))
        expected = np.mean((fit >= start) & (fit <= start + width))
        if expected > 0:
            found.append((round(present / expected, 10), start))
    kept = [
        pair for pair, after in zip(found, [*found[1:], (None, None)], strict=True) if pair[0] != after[0]
    ]
    return spearmanr(*zip(*kept, strict=True)).statistic


@pytest.mark.parametrize("seed", range(4))
def test_boyce_equals_the_written_out_definition(seed):
    rng = np.random.default_rng(seed)
    scores = rng.random(400)
    present = rng.random(400) < scores ** (seed + 1)
    assert metrics.boyce(scores, present * 1.0, np.ones(400)) == pytest.approx(
        literal_boyce(scores, scores[present])
    )


def test_boyce_worked_by_hand():
    # Scores 0, 0.5 and 1; windows are 0.1 wide and start at 0.009 k. Only the one at 0 holds the score 0,
    # those from 0.405 to 0.495 hold 0.5, none reaches 1, as in ecospat. P/E is 0 (no presence at 0), then 1
    # (a third of the presences in a third of the sites) again and again: without repeats two are left.
    scores, present = np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0, 2.0])
    assert metrics.boyce(scores, present, np.ones(3)) == pytest.approx(1.0)
    assert metrics.boyce(scores, np.array([2.0, 1.0, 0.0]), np.ones(3)) == pytest.approx(-1.0)


def test_boyce_of_flat_scores_is_nan():
    assert np.isnan(metrics.boyce(np.full(9, 0.5), np.ones(9), np.ones(9)))
    assert np.isnan(metrics.boyce(np.arange(9.0), np.zeros(9), np.ones(9)))


def test_score_species_hides_scores_of_rare_species_only(trials):
    enough = np.array([True, False, True, True, True])
    table = metrics.score_species(*trials, emphasis=np.ones(5), enough=enough)
    for name in ("auc", "ap", "brier", "boyce"):
        assert np.isnan(table[name]).tolist() == (~enough).tolist()


def test_emphasis_balances_brier_alone():
    scores = np.full((6, 1), 0.5)
    positives, negatives = np.eye(6)[:, :1], 1 - np.eye(6)[:, :1]
    scores[0] = 0.8
    table = metrics.score_species(scores, positives, negatives, np.array([5.0]), np.array([True]))
    assert table["brier"] == pytest.approx([(0.2**2 + 0.5**2) / 2])
    assert table["auc"] == pytest.approx([1.0])
