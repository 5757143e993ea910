"""Probes against scikit-learn, tuned on validation rows, on encoders that they leave as they were."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from train.errors import DivergedError, SpecError
from train.evaluation.probe import Rows, fit_probe, probe, tuned
from train.evaluation.scores import Prediction, best_weight, fuse, prevalence


def blobs(seed, count=90, dim=6, classes=3, spread=1.5):
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return (centres[labels] + spread * rng.normal(size=(count, dim))).astype(np.float32), labels


@pytest.mark.parametrize("strength", [1e-2, 1.0, 30.0])
def test_a_probe_is_the_logistic_regression_of_scikit_learn(strength):
    x, y = blobs(0)
    new, _ = blobs(1)
    ours = fit_probe(x * 8 + 4, y, strength)
    x, new = x.astype(np.float64), new.astype(np.float64)  # the regression of scikit-learn keeps the type
    mean, std = x.mean(axis=0), x.std(axis=0)
    theirs = LogisticRegression(C=strength, max_iter=5000, tol=1e-10).fit((x - mean) / std, y)
    np.testing.assert_allclose(
        ours.predict(new * 8 + 4).log_p, theirs.predict_log_proba((new - mean) / std), atol=2e-4
    )


def test_a_start_does_not_change_where_the_fit_ends():
    x, y = blobs(2)
    start = fit_probe(x, y, 1e-3)
    before = start.weights.copy(), start.bias.copy()
    cold, warm = fit_probe(x, y, 1.0), fit_probe(x, y, 1.0, start)
    np.testing.assert_array_equal(start.weights, before[0])
    np.testing.assert_array_equal(start.bias, before[1])
    np.testing.assert_allclose(cold.weights, warm.weights, atol=1e-4)


def test_the_ridge_is_chosen_by_log_loss_on_validation_rows():
    x, y = blobs(3, count=30)
    other, truth = blobs(4, count=200)
    strengths = (1e-3, 1e-1, 10.0, 1e4)
    chosen = tuned(x, y, other, truth, strengths)
    losses = [fit_probe(x, y, s).predict(other).scores(truth)["log_loss"] for s in strengths]
    assert chosen.strength == strengths[int(np.argmin(losses))] != 1e4
    assert chosen.validation_loss == pytest.approx(min(losses), abs=1e-4)
    alone = fit_probe(x, y, chosen.strength)  # and no later fit has changed it
    np.testing.assert_allclose(chosen.predict(other).log_p, alone.predict(other).log_p, atol=1e-3)
    assert chosen.predict(other).scores(truth)["log_loss"] == chosen.validation_loss


def test_scores_by_hand():
    log_p = np.log(np.array([[0.5, 0.5 - 1e-9, 1e-9], [0.2, 0.7, 0.1], [0.25, 0.25, 0.5], [0.8, 0.1, 0.1]]))
    prediction = Prediction(log_p, np.array([0, 2, 5]))
    scores = prediction.scores(np.array([0, 2, 0, 3]))  # class 3 had no training label
    assert scores["top1"] == 0.5
    assert scores["unseen"] == 0.25
    assert scores["class_mean"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert scores["log_loss"] == pytest.approx(-(np.log(0.5) + np.log(0.7) + np.log(0.25)) / 3)
    assert np.isnan(prediction.scores(np.array([1, 3, 4, 9]))["log_loss"])
    with pytest.raises(SpecError, match="3 labels for 4"):
        prediction.scores(np.array([0, 2, 5]))


def test_scores_agree_with_scikit_learn_and_classes_that_are_missing_are_never_predicted():
    x, y = blobs(5, classes=4)
    prediction = fit_probe(x[y != 2], y[y != 2], 1.0).predict(x)
    assert prediction.classes.tolist() == [0, 1, 3]
    seen = y != 2
    expected = log_loss(y[seen], np.exp(prediction.log_p[seen]), labels=[0, 1, 3])
    assert prediction.scores(y)["log_loss"] == pytest.approx(expected)
    assert prediction.scores(y)["unseen"] == pytest.approx((y == 2).mean())


def test_one_class_alone_is_certain():
    x, _ = blobs(6, count=5)
    prediction = fit_probe(x, np.full(5, 7), 1.0).predict(x)
    assert prediction.scores(np.full(5, 7)) == {
        "top1": 1.0,
        "log_loss": 0.0,
        "class_mean": 1.0,
        "unseen": 0.0,
    }


def test_prevalence_is_the_entropy_floor_of_labels():
    labels = np.array([0, 0, 0, 4])
    scores = prevalence(labels, 4).scores(labels)
    assert scores["top1"] == 0.75
    assert scores["log_loss"] == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))


def test_late_fusion_is_the_weighted_geometric_mean():
    rng = np.random.default_rng(7)
    one, two = (Prediction(log_softmax(rng.normal(size=(5, 3)), axis=1), np.arange(3)) for _ in range(2))
    by_hand = np.exp(one.log_p) ** 0.25 * np.exp(two.log_p) ** 0.75
    np.testing.assert_allclose(
        np.exp(fuse(one, two, 0.75).log_p), by_hand / by_hand.sum(axis=1, keepdims=True), atol=1e-12
    )
    np.testing.assert_allclose(fuse(one, two, 0.0).log_p, one.log_p, atol=1e-12)
    with pytest.raises(SpecError, match="cannot fuse"):
        fuse(one, Prediction(two.log_p, np.arange(1, 4)), 0.5)


def test_the_weight_of_a_fusion_leaves_a_useless_view_out():
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 3, 300)
    good = Prediction(log_softmax(2.0 * np.eye(3)[labels] + rng.normal(size=(300, 3)), axis=1), np.arange(3))
    noise = Prediction(log_softmax(3.0 * rng.normal(size=(300, 3)), axis=1), np.arange(3))
    assert best_weight(good, noise, labels) <= 0.2
    assert best_weight(noise, good, labels) >= 0.8


def rows(seed, count):
    """Class = (sign of a hidden x, sign of a hidden y); each view shows one of them, noisily."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(count, 2))
    labels = (hidden[:, 0] > 0) * 2 + (hidden[:, 1] > 0)
    mix = np.random.default_rng(1).normal(size=(2, 5))
    views = {
        name: (hidden[:, [k]] @ mix[[k]] + 0.1 * rng.normal(size=(count, 5))).astype(np.float32)
        for k, name in enumerate(("ground", "aerial"))
    }
    return Rows(views, labels.astype(np.int64))


def test_two_views_tell_more_than_one():
    results = probe(rows(0, 400), rows(1, 200), rows(2, 400))
    truth = rows(2, 400).labels
    top1 = {name: prediction.scores(truth)["top1"] for name, (prediction, _) in results.items()}
    assert set(top1) == {"ground", "aerial", "concatenated", "late"}
    assert 0.3 < top1["ground"] < 0.65 and 0.3 < top1["aerial"] < 0.65
    assert top1["concatenated"] > 0.85 and top1["late"] > 0.85
    assert 0.2 <= results["late"][1]["weight_aerial"] <= 0.8


def test_a_view_without_information_stays_at_the_prevalence():
    made = [rows(seed, 300) for seed in (3, 4, 5)]
    rng = np.random.default_rng(0)
    blank = [Rows({"ground": rng.normal(size=(300, 5)).astype(np.float32)}, r.labels) for r in made]
    results = probe(*blank)
    assert set(results) == {"ground"}
    got = results["ground"][0].scores(made[2].labels)
    floor = prevalence(made[0].labels, 300).scores(made[2].labels)
    assert abs(got["top1"] - floor["top1"]) < 0.12
    assert -0.01 < got["log_loss"] - floor["log_loss"] < 0.1


def test_input_that_cannot_be_fitted_is_refused():
    x, y = blobs(9)
    with pytest.raises(SpecError, match="cannot fit a probe"):
        fit_probe(x, y[:-1], 1.0)
    with pytest.raises(SpecError, match="cannot fit a probe"):
        fit_probe(x, y - 1, 1.0)
    with pytest.raises(DivergedError, match="not finite"):
        fit_probe(np.where(x > 1, np.nan, x), y, 1.0)
    with pytest.raises(SpecError, match="none of 90 validation rows"):
        tuned(x, y, x, y + 10)
