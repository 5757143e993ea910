"""Calibration of survey heads: two numbers a species, drawn toward what all species share.

A head's logit x becomes a * x + b (Platt scaling), fitted on out-of-fold predictions. A rare species has too
few detections to fit its own a and b well, so they are held near the pooled ones by a normal prior.

Reference:
    Platt 1999, Probabilistic outputs for support vector machines.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
SLOPE_SPREAD = 0.2  # standard deviation of a around the pooled slope
SHIFT_SPREAD = 0.5  # of b around the pooled shift
FLATTEST = 0.2  # a never falls below this share of the pooled slope: a calibration must not turn a map round
STEPS = 12


def pooled_platt(
    logits: NDArray[np.floating], positives: NDArray[np.floating], negatives: NDArray[np.floating]
) -> Float:
    """One slope and shift for all species together.

    Args:
        logits: (n, S) out-of-fold logits.
        positives: (n, S) weight of positive trials.
        negatives: (n, S) weight of negative trials.

    Returns:
        (2,) float64 slope > 0 and shift.
    """
    flat = [np.asarray(part, np.float64).reshape(-1, 1) for part in (logits, positives, negatives)]
    fitted = _newton(flat[0], flat[1], flat[2], np.array([1.0, 0.0]), np.array([1.0, 1.0]))[0]
    return np.array([max(fitted[0], 0.1), fitted[1]])


def species_platt(
    logits: NDArray[np.floating],
    positives: NDArray[np.floating],
    negatives: NDArray[np.floating],
    prior: Float,
) -> Float:
    """Slope and shift of every species, shrunk toward the pooled ones.

    The visits of one site are not independent, so the trials of the average site weigh as one.

    Args:
        logits: (n, S) out-of-fold logits.
        positives: (n, S) weight of positive trials.
        negatives: (n, S) weight of negative trials.
        prior: (2,) pooled slope and shift.

    Returns:
        (S, 2) float64, slopes at least `FLATTEST` times the pooled one.
    """
    weight = max(float((positives + negatives).mean()), 1e-12)
    spread = np.array([SLOPE_SPREAD, SHIFT_SPREAD])
    x, met, missed = (
        np.asarray(part, np.float64) for part in (logits, positives / weight, negatives / weight)
    )
    fitted = _newton(x, met, missed, prior, spread)
    flat = fitted[:, 0] < FLATTEST * prior[0]
    if flat.any():  # fit the shift again on the slope at its bound
        bound = np.array([FLATTEST * prior[0], prior[1]])
        fixed = np.array([1e-6, SHIFT_SPREAD])
        fitted[flat] = _newton(x[:, flat], met[:, flat], missed[:, flat], bound, fixed)
    return fitted


def _newton(logits: Float, positives: Float, negatives: Float, prior: Float, spread: Float) -> Float:
    """Most likely (S, 2) slopes and shifts under a normal prior, by damped Newton steps for all at once."""
    theta = np.tile(prior, (logits.shape[1], 1))
    precision = 1 / spread**2
    trials = positives + negatives
    for _ in range(STEPS):
        p = _expit(logits * theta[:, 0] + theta[:, 1])
        residual, curvature = trials * p - positives, trials * p * (1 - p)
        gradient = np.stack([(residual * logits).sum(0), residual.sum(0)], axis=1) + precision * (
            theta - prior
        )
        cross = (curvature * logits).sum(0)
        first, second = (curvature * logits**2).sum(0) + precision[0], curvature.sum(0) + precision[1]
        determinant = first * second - cross**2
        slope = second * gradient[:, 0] - cross * gradient[:, 1]
        shift = first * gradient[:, 1] - cross * gradient[:, 0]
        step = np.stack([slope, shift], axis=1) / determinant[:, None]
        theta = theta - np.clip(step, -0.5, 0.5)  # bounded: the loss is convex but flat far away
    return theta


def _expit(x: Float) -> Float:
    return 0.5 * (1 + np.tanh(0.5 * x))
