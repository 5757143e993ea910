"""Scores of species models, for many species at once and with weighted trials.

Every function takes scores (n, S) with the weight of the positive and of the negative trials at each site.
For surveys every
visit is one trial: the detections of a site are its positives and the other visits its negatives, both at the
score of the site. For presence-only tables a presence is one positive and a background cell one negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

Float = NDArray[np.float64]
BOYCE_WINDOWS = 100


@dataclass(frozen=True)
class Steps:
    """Cumulative positives and negatives down the ranking, one row per site, only tie-group ends counted.

    Attributes:
        scores: (n, S) scores, falling down each column.
        last: (n, S) bool, True where a group of tied scores ends.
        true, false: (n, S) weight of positives and negatives with a score at least as high.
        true_before, false_before: (n, S) the same at the end of the tie group above.
    """

    scores: Float
    last: NDArray[np.bool_]
    true: Float
    false: Float
    true_before: Float
    false_before: Float


def ranking(
    scores: NDArray[np.floating], positives: NDArray[np.floating], negatives: NDArray[np.floating]
) -> Steps:
    """Sort every species by falling score and add up its positives and negatives.

    Args:
        scores: (n, S) finite scores, any monotone scale.
        positives: (n, S) weight of positive trials, >= 0.
        negatives: (n, S) weight of negative trials, >= 0.

    Returns:
        The steps of the ranking in float64.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked = np.take_along_axis(np.asarray(scores, np.float64), order, axis=0)
    last = np.ones(ranked.shape, bool)
    last[:-1] = ranked[:-1] != ranked[1:]
    true = _cumulative(positives, order)
    false = _cumulative(negatives, order)
    return Steps(ranked, last, true, false, _before(true, last), _before(false, last))


def _cumulative(weights: NDArray[np.floating], order: NDArray[np.intp]) -> Float:
    shape = order.shape
    ordered = np.take_along_axis(np.broadcast_to(weights, shape), order, axis=0)
    return np.cumsum(ordered, axis=0, dtype=np.float64)


def _before(cumulative: Float, last: NDArray[np.bool_]) -> Float:
    ends = np.maximum.accumulate(np.where(last, cumulative, 0.0), axis=0)
    return np.vstack([np.zeros((1, ends.shape[1])), ends[:-1]])


def roc_auc(steps: Steps) -> Float:
    """Area under the ROC curve per species; ties count one half.

    Args:
        steps: A ranking of S species.

    Returns:
        (S,) float64 in 0..1; NaN where a species has no positive or no negative trial.
    """
    area = (steps.false - steps.false_before) * (steps.true + steps.true_before) / 2
    return _ratio(np.where(steps.last, area, 0.0).sum(axis=0), steps.true[-1] * steps.false[-1])


def average_precision(steps: Steps) -> Float:
    """Average precision per species, as a step function (no interpolation).

    Args:
        steps: A ranking of S species.

    Returns:
        (S,) float64 in 0..1; NaN where a species has no positive or no negative trial.
    """
    precision = _ratio(steps.true, steps.true + steps.false)
    gain = np.where(
        steps.last & (steps.true > steps.true_before), (steps.true - steps.true_before) * precision, 0.0
    )
    value = _ratio(gain.sum(axis=0), steps.true[-1])
    return np.where(steps.false[-1] > 0, value, np.nan)


def brier(
    scores: NDArray[np.floating], positives: NDArray[np.floating], negatives: NDArray[np.floating]
) -> Float:
    """Brier score per species: weighted mean of (score - outcome)^2 over all trials.

    Args:
        scores: (n, S) scores in 0..1.
        positives: (n, S) weight of positive trials.
        negatives: (n, S) weight of negative trials.

    Returns:
        (S,) float64 in 0..1, lower is better; NaN where a species has no trial.
    """
    value = np.asarray(scores, np.float64)
    loss = positives * (1 - value) ** 2 + negatives * value**2
    return _ratio(loss.sum(axis=0), (positives + negatives).sum(axis=0))


def _ratio(numerator: Float, denominator: Float) -> Float:
    out: Float = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def boyce(
    scores: NDArray[np.floating], positives: NDArray[np.floating], available: NDArray[np.floating]
) -> float:
    """Continuous Boyce index of one species.

    A window a tenth of the score range wide moves up in 100 steps; in each one the share of presences P is
    divided by the share of the available sites E. The index is Spearman's correlation of P/E with the
    window's start, over the windows that hold any site, each run of equal successive P/E counted once (its
    last window).

    Args:
        scores: (n,) scores.
        positives: (n,) weight of presences at each site.
        available: (n,) weight of each site as available area or trials (presences included).

    Returns:
        The index in -1..1; NaN where there is no presence, or P/E or the scores do not vary.

    Reference:
        Hirzel et al. 2006, Evaluating the ability of habitat suitability models to predict species presences
        (https://doi.org/10.1016/j.ecolmodel.2006.05.017); the R package ecospat, whose first 100 windows
        these are.
    """
    value = np.asarray(scores, np.float64)
    low, high = value.min(), value.max()
    if high <= low or positives.sum() <= 0:
        return float("nan")
    width = (high - low) / 10
    starts = low + np.arange(BOYCE_WINDOWS) * (high - low - width) / BOYCE_WINDOWS
    order = np.argsort(value, kind="stable")
    first = np.searchsorted(value[order], starts, side="left")
    end = np.searchsorted(value[order], starts + width, side="right")
    present, expected = (_windowed(weights[order], first, end) for weights in (positives, available))
    held = expected > 0
    ratio = np.round(present[held] / expected[held], 10)
    return _spearman(ratio, starts[held])


def _windowed(weights: NDArray[np.floating], first: NDArray[np.intp], end: NDArray[np.intp]) -> Float:
    total = np.concatenate([[0.0], np.cumsum(weights, dtype=np.float64)])
    inside: Float = (total[end] - total[first]) / total[-1]
    return np.where(end > first, inside, 0.0)


def _spearman(ratio: Float, starts: Float) -> float:
    kept = np.ones(len(ratio), bool)
    kept[:-1] = ratio[:-1] != ratio[1:]
    if kept.sum() < 2 or np.ptp(ratio[kept]) == 0:
        return float("nan")
    return float(spearmanr(ratio[kept], starts[kept]).statistic)


def score_species(
    scores: NDArray[np.floating],
    positives: NDArray[np.floating],
    negatives: NDArray[np.floating],
    emphasis: NDArray[np.floating],
    enough: NDArray[np.bool_],
) -> dict[str, Float]:
    """All scores of many species.

    Args:
        scores: (n, S) scores in 0..1.
        positives: (n, S) weight of positive trials.
        negatives: (n, S) weight of negative trials.
        emphasis: (S,) factor on the positives in the Brier score alone: 1 for surveys; for suitability the
            factor that makes presences and background weigh the same, since suitability is fitted on that
            scale (a constant 0.5 scores 0.25).
        enough: (S,) bool, False for species with too few test presences: their scores are NaN.

    Returns:
        auc, ap, brier, boyce: (S,) float64 each.
    """
    steps = ranking(scores, positives, negatives)
    available = positives + negatives
    index = [
        boyce(scores[:, s], positives[:, s], available[:, s]) if enough[s] else np.nan
        for s in range(scores.shape[1])
    ]
    values = {
        "auc": roc_auc(steps),
        "ap": average_precision(steps),
        "brier": brier(scores, positives * emphasis, negatives),
        "boyce": np.array(index, np.float64),
    }
    return {name: np.where(enough, value, np.nan) for name, value in values.items()}
