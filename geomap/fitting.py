"""Fits a group of species: cross-validation beside its null model, calibration, thresholds, scores.

out = cross_validate(sites, fold, config, seed)     # what every fold says about the sites it never saw
heads = fit_species(sites, ...)                     # all of it, as SpeciesHeads
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geomap import metrics
from geomap.adapter import sigmoid
from geomap.background import Sites
from geomap.calibration import Pooled, cross_fitted, pooled_calibration
from geomap.crossval import OutOfFold, Progress, adapter_of, cross_validate
from geomap.heads import THRESHOLDS, Meaning, SpeciesHeads
from geomap.thresholds import QUANTILES, areas_above, maxsss, omission, presence_quantile, rounded_down

if TYPE_CHECKING:
    from geomap.field import EmbeddingField
    from train.species import FitConfig

Float = NDArray[np.float64]
MIN_TEST_PRESENCES = 5  # sites; fewer give scores that mean nothing
SPECIES_AT_ONCE = 64
SOFT = 0.01  # added to the null model's scores before their logit
POOLED_ENTRIES = 4_000_000  # bound on the site-species pairs that the pooled calibration looks at


def species_blocks(count: int) -> Iterator[slice]:
    """Slices of species that bound memory."""
    for start in range(0, count, SPECIES_AT_ONCE):
        yield slice(start, min(start + SPECIES_AT_ONCE, count))


@dataclass(frozen=True)
class Judged:
    """Out-of-fold predictions of the heads and of the null model, ready to be calibrated and scored.

    Attributes:
        sites: n sites.
        out: Predictions.
        heads: Pooled calibration of the heads.
        null: Pooled calibration of the null model for presence-only records; None for surveys, whose rates a
            forest gives as they are (calibrated they scored worse on the bird survey).
    """

    sites: Sites
    out: OutOfFold
    heads: Pooled
    null: Pooled | None

    def null_scores(self, columns: slice) -> Float:
        """Scores (n, s) of the null model: rates for surveys, else on the scale of suitability."""
        rates = self.out.null(columns)
        return rates if self.sites.surveyed.any() else balanced(rates, self.sites.emphasis()[columns])


def judged(sites: Sites, out: OutOfFold) -> Judged:
    """Fit the pooled calibrations, on evenly spaced species where the group is large."""
    count = sites.successes.shape[1]
    columns = slice(0, count, -(-count * len(sites) // POOLED_ENTRIES))
    evidence = sites.evidence(columns)
    heads = pooled_calibration(out.logits(columns), *evidence, out.fold, sites.counted)
    uncalibrated = Judged(sites, out, heads, None)
    if sites.surveyed.any():
        return uncalibrated
    logits = softened(uncalibrated.null_scores(columns))
    return replace(uncalibrated, null=pooled_calibration(logits, *evidence, out.fold, sites.counted))


def balanced(rate: Float, emphasis: Float) -> Float:
    """A rate among presences and background on the scale of suitability, where both weigh the same."""
    return emphasis * rate / (emphasis * rate + 1 - rate)


def softened(scores: Float) -> Float:
    """Logits of scores that may be exactly 0 or 1."""
    return np.log(scores + SOFT) - np.log(1 - scores + SOFT)


def score_block(judged: Judged, columns: slice) -> dict[str, Float]:
    """Calibration, held-out thresholds, omission inputs and scores of a block of species.

    Returns:
        a, b (s,); auc, ap, brier, boyce, n_test and null_*; lpt5, maxsss; held (n', s) calibrated scores and
        positives (n', s) at the n' sites that count: surveyed ones if any.
    """
    sites, rows = judged.sites, judged.sites.counted
    evidence, (positives, negatives) = sites.evidence(columns), sites.counts(columns)
    platt, logits = cross_fitted(judged.out.logits(columns), *evidence, judged.heads)
    held = sigmoid(logits[rows].astype(np.float32)).astype(np.float64)
    positives, negatives = positives[rows], negatives[rows]
    emphasis = np.ones(held.shape[1]) if sites.surveyed.any() else sites.emphasis()[columns]
    enough = (positives > 0).sum(axis=0) >= MIN_TEST_PRESENCES
    null = judged.null_scores(columns)
    beside = metrics.score_species(null[rows], positives, negatives, emphasis, enough)
    if judged.null is not None:  # zeros of the forest cost it too much in the Brier score: calibrate it too
        _, null_logits = cross_fitted(softened(null), *evidence, judged.null)
        smooth = sigmoid(null_logits[rows].astype(np.float32))
        beside["brier"] = np.where(enough, metrics.brier(smooth, positives * emphasis, negatives), np.nan)
    return {
        "a": platt[:, 0],
        "b": platt[:, 1],
        **metrics.score_species(held, positives, negatives, emphasis, enough),
        "n_test": (positives > 0).sum(axis=0),
        **{f"null_{name}": value for name, value in beside.items()},
        "lpt5": rounded_down(presence_quantile(held, positives, QUANTILES["lpt5"])),
        "maxsss": rounded_down(maxsss(metrics.ranking(held, positives, negatives))),
        "held": held,
        "positives": positives,
    }


@dataclass(frozen=True)
class Group:
    """What is known of a group of species before it is fitted.

    Attributes:
        name: Name of the group.
        species: One row a species: scientificName, vernacularName, synonyms, records, cells.
        encoder_hash: Encoders of the features.
        card: Plain values about the data, kept in the heads.
    """

    name: str
    species: pd.DataFrame
    encoder_hash: str
    card: dict[str, Any]


def fit_species(
    sites: Sites,
    group: Group,
    fold: NDArray[np.int64],
    config: FitConfig,
    field: EmbeddingField | None,
    progress: Progress,
) -> SpeciesHeads:
    """Cross-validate, calibrate and fit a group of species.

    Args:
        sites: n sites of S species; surveyed ones make the result a probability.
        group: Names and card, S rows.
        fold: (n,) fold of each site.
        config: Settings of the fit.
        field: Where areas are measured; None leaves them NaN.
        progress: Told about each stage.

    Returns:
        Heads with calibration, thresholds and scores.
    """
    from train.species import fit_group  # imported here: torch is slow to load

    out = cross_validate(sites, fold, config, progress)
    meaning: Meaning = "probability" if sites.surveyed.any() else "suitability"
    judge = judged(sites, out)
    progress("all sites")
    fit = fit_group(sites.features, sites.targets(), config)
    adapter = adapter_of(fit)
    z = adapter.transform(sites.features)
    tables, platt = [], []
    for columns in species_blocks(len(group.species)):
        scored = score_block(judge, columns)
        calibration = np.stack([scored.pop("a"), scored.pop("b")], axis=1)
        logits = (z @ fit.weights[columns].T + fit.bias[columns]) * calibration[:, 0] + calibration[:, 1]
        tables.append(with_thresholds(scored, sites, sigmoid(logits.astype(np.float32)), columns))
        platt.append(calibration)
    table = pd.concat([group.species.reset_index(drop=True), pd.concat(tables, ignore_index=True)], axis=1)
    fitted = fit.weights, fit.bias, np.concatenate(platt).astype(np.float32)
    heads = SpeciesHeads(
        group.name, meaning, group.encoder_hash, adapter, *fitted, species=table, card=group.card
    )
    return with_areas(heads, field, progress)


def with_thresholds(
    scored: dict[str, Float], sites: Sites, fitted: NDArray[np.float32], columns: slice
) -> pd.DataFrame:
    """Thresholds and held-out omission of a block beside its scores; `fitted` are final scores (n, s)."""
    held, positives = scored.pop("held"), scored.pop("positives")
    rows = sites.counted
    present = sites.counts(columns)[0][rows]
    for name in ("mtp", "p10"):
        scored[name] = rounded_down(presence_quantile(fitted[rows], present, QUANTILES[name]))
    for name in THRESHOLDS:
        scored[f"omission_{name}"] = omission(held, positives, scored[name])
    return pd.DataFrame(scored)


def with_areas(heads: SpeciesHeads, field: EmbeddingField | None, progress: Progress) -> SpeciesHeads:
    """The same heads with the area above each threshold [km2]; NaN without a field."""
    columns = [f"area_km2_{name}" for name in THRESHOLDS]
    area = np.full((len(heads), len(THRESHOLDS)), np.nan)
    if field is not None:
        progress("areas above the thresholds")
        area = areas_above(heads, field, heads.species[list(THRESHOLDS)].to_numpy())
    return replace(heads, species=heads.species.assign(**dict(zip(columns, area.T, strict=True))))
