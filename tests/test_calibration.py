"""Calibration finds what was put in, and shrinks what the data do not say."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from geomap import calibration


def trials(true_slope, true_shift, sites=4000, species=3, visits=5):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((sites, species)) * 2
    p = 1 / (1 + np.exp(-(true_slope * logits + true_shift)))
    met = rng.binomial(visits, p).astype(float)
    return logits, met, visits - met


def test_pooled_calibration_recovers_slope_and_shift():
    slope, shift = calibration.pooled_platt(*trials(0.6, -0.8))
    assert abs(slope - 0.6) < 0.02
    assert abs(shift + 0.8) < 0.03


def test_species_calibration_maximises_the_penalised_likelihood():
    logits, met, missed = trials(np.array([0.5, 1.0, 1.4]), np.array([0.0, -1.0, 0.5]), sites=60)
    prior = np.array([1.0, 0.0])
    found = calibration.species_platt(logits, met / 5, missed / 5, prior)
    spread = np.array([calibration.SLOPE_SPREAD, calibration.SHIFT_SPREAD])
    for s in range(3):

        def loss(theta, s=s):
            x = theta[0] * logits[:, s] + theta[1]
            fit = met[:, s] * np.logaddexp(0, -x) + missed[:, s] * np.logaddexp(0, x)
            return fit.sum() / 5 + (((theta - prior) / spread) ** 2).sum() / 2

        np.testing.assert_allclose(found[s], minimize(loss, prior).x, atol=1e-3)


def test_species_without_detections_stays_finite_and_lower():
    logits, met, missed = trials(1.0, 0.0, sites=50, species=1)
    found = calibration.species_platt(logits, met * 0, met + missed, np.array([1.0, 0.0]))
    assert np.isfinite(found).all()
    assert found[0, 1] < 0


def test_calibration_never_turns_a_map_round():
    logits, met, missed = trials(-2.0, 0.0, sites=3000)
    found = calibration.species_platt(logits, met, missed, np.array([1.0, 0.0]))
    np.testing.assert_allclose(found[:, 0], calibration.FLATTEST, atol=1e-3)
    assert calibration.pooled_platt(logits, met, missed)[0] > 0


def test_far_away_start_converges():
    logits, met, missed = trials(0.05, -3.0)
    slope, shift = calibration.pooled_platt(logits * 4, met, missed)
    assert slope >= 0.1 * 0.1
    assert abs(shift + 3.0) < 0.2
