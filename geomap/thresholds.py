"""Thresholds of a species map, each with the area above it and the share of held-out presences it loses.

    mtp      minimum training presence: no training presence falls below
    p10      10th percentile of the training presences
    lpt5     5th percentile of the held-out presences
    maxsss   maximum of sensitivity + specificity on the held-out sites

Maps are stored with four decimals, so thresholds are rounded down to four decimals: a presence at the
threshold stays above it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geomap.metrics import Steps

if TYPE_CHECKING:
    from geomap.field import EmbeddingField
    from geomap.heads import SpeciesHeads

Float = NDArray[np.float64]
QUANTILES = {"mtp": 0.0, "p10": 0.10, "lpt5": 0.05}
HALF_STEP = np.float32(0.5e-4)
SPECIES_AT_ONCE = 64


def rounded_down(threshold: NDArray[np.floating]) -> Float:
    """Thresholds cut after the fourth decimal; NaN stays NaN."""
    nearest = np.round(
        np.asarray(threshold, np.float64), 4
    )  # 0.3 as float32 is just below 0.3 and must not become 0.2999
    return np.where(nearest - threshold > 1e-7, np.round(nearest - 1e-4, 4), nearest)


def presence_quantile(scores: NDArray[np.floating], weights: NDArray[np.floating], share: float) -> Float:
    """Largest score below which lies at most a share of the presences.

    Args:
        scores: (n, S) scores at sites.
        weights: (n, S) weight of presences at each site (detections), 0 where absent.
        share: Share of the presences that may fall below, 0..1; 0 gives the minimum over presences.

    Returns:
        (S,) float64; NaN for a species without presence.
    """
    order = np.argsort(scores, axis=0, kind="stable")
    ranked = np.take_along_axis(np.asarray(scores, np.float64), order, axis=0)
    mass = np.cumsum(np.take_along_axis(weights, order, axis=0), axis=0, dtype=np.float64)
    first = np.argmax(mass > share * mass[-1] * (1 + 1e-12), axis=0)
    found = np.take_along_axis(ranked, first[None], axis=0)[0]
    return np.where(mass[-1] > 0, found, np.nan)


def maxsss(steps: Steps) -> Float:
    """Score that maximises sensitivity + specificity; the highest one where several do.

    Args:
        steps: Ranking of held-out sites, see `geomap.metrics.ranking`.

    Returns:
        (S,) float64; NaN for a species without positive or without negative trials.

    Reference:
        Liu et al. 2013, Selecting thresholds for the prediction of species occurrence with presence-only data
        (https://doi.org/10.1111/jbi.12058).
    """
    known = (steps.true[-1] > 0) & (steps.false[-1] > 0)
    sensitivity = steps.true / np.where(known, steps.true[-1], 1)
    fall_out = steps.false / np.where(known, steps.false[-1], 1)
    best = np.argmax(np.where(steps.last, sensitivity - fall_out, -np.inf), axis=0)
    return np.where(known, np.take_along_axis(steps.scores, best[None], axis=0)[0], np.nan)


def omission(
    scores: NDArray[np.floating], weights: NDArray[np.floating], threshold: NDArray[np.floating]
) -> Float:
    """Share of presences with a score below the threshold, as the map shows scores (four decimals).

    Args:
        scores: (n, S) scores at held-out sites.
        weights: (n, S) weight of presences.
        threshold: (S,) thresholds, NaN allowed.

    Returns:
        (S,) float64 in 0..1; NaN where there is no threshold or no presence.
    """
    below = (weights * (scores < threshold - HALF_STEP)).sum(axis=0, dtype=np.float64)
    total = weights.sum(axis=0, dtype=np.float64)
    share = np.divide(below, total, out=np.full(len(total), np.nan), where=total > 0)
    return np.where(np.isnan(threshold), np.nan, share)


def areas_above(
    heads: SpeciesHeads,
    field: EmbeddingField,
    thresholds: NDArray[np.floating],
    progress: Callable[[int], None] | None = None,
) -> Float:
    """Area of the field where each species reaches each of its thresholds [km2].

    Memory is bounded by one block of the field times 64 species.

    Args:
        heads: S species.
        field: A field of the same encoder.
        thresholds: (S, T), NaN allowed.
        progress: Called with the number of valid cells of each block done.

    Returns:
        (S, T) float64; NaN where there is no threshold.
    """
    heads.require_encoder(field.encoder_hash, f"the field {field.path}")
    total = np.zeros(thresholds.shape)
    cut = (thresholds - HALF_STEP).astype(np.float32)
    for window in field.blocks(stored=True):
        values, valid = field.read(window)
        z = heads.transform(values[valid])  # (cells, M)
        area = field.grid.cell_area_km2(window)[valid]
        for start in range(0, len(heads), SPECIES_AT_ONCE):
            chosen = range(start, min(start + SPECIES_AT_ONCE, len(heads)))
            total[chosen.start : chosen.stop] += _area_of(
                heads.predict_transformed(z, chosen), area, cut[chosen.start : chosen.stop]
            )
        if progress is not None:
            progress(int(valid.sum()))
    return np.where(np.isnan(thresholds), np.nan, total)


def _area_of(scores: NDArray[np.float32], area: Float, cut: NDArray[np.float32]) -> Float:
    return np.stack([area @ (scores >= cut[:, t]) for t in range(cut.shape[1])], axis=1)  # (species, T)
