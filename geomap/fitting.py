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
from geomap.background import Sites
from geomap.calibration import pooled_platt, species_platt
from geomap.crossval import OutOfFold, Progress, adapter_of, cross_validate
from geomap.heads import THRESHOLDS, Meaning, SpeciesHeads, sigmoid
from geomap.thresholds import QUANTILES, areas_above, maxsss, omission, presence_quantile, rounded_down

if TYPE_CHECKING:
    from geomap.field import EmbeddingField
    from train.species import FitConfig

Float = NDArray[np.float64]
MIN_TEST_PRESENCES = 5  # sites; fewer give scores that mean nothing
SPECIES_AT_ONCE = 64
POOLED_ENTRIES = 4_000_000  # bound on the site-species pairs that the pooled calibration looks at


def species_blocks(count: int) -> Iterator[slice]:
    """Slices of species that bound memory."""
    for start in range(0, count, SPECIES_AT_ONCE):
        yield slice(start, min(start + SPECIES_AT_ONCE, count))


@dataclass(frozen=True)
class Calibrator:
    """Pooled slope and shift on all folds, and on all folds but one, from the surveyed sites.

    Attributes:
        everywhere: (2,) from all folds, for the heads.
        without: (folds, 2) from all folds but one, for the scores of that one.
    """

    everywhere: Float
    without: Float


def pooled_calibration(sites: Sites, out: OutOfFold) -> Calibrator:
    """Pooled calibration; of evenly spaced species where the group is large."""
    count = sites.successes.shape[1]
    stride = -(-count * len(sites) // POOLED_ENTRIES)
    columns = slice(0, count, stride)
    logits, (positives, negatives) = out.logits(columns), sites.counts(columns)

    def fitted(rows: NDArray[np.bool_]) -> Float:
        rows = rows & sites.surveyed
        return pooled_platt(logits[rows], positives[rows], negatives[rows])

    without = np.stack([fitted(out.fold != k) for k in range(len(out.parts))])
    return Calibrator(fitted(np.ones(len(sites), bool)), without)


def calibrated(
    logits: Float, positives: Float, negatives: Float, sites: Sites, out: OutOfFold, pooled: Calibrator
) -> tuple[Float, Float]:
    """Calibration of a block of species (s, 2); out-of-fold logits calibrated without their own fold (n, s)."""
    held_out = np.empty_like(logits)
    for k, part in enumerate(out.parts):
        rows = (out.fold != k) & sites.surveyed
        platt = species_platt(logits[rows], positives[rows], negatives[rows], pooled.without[k])
        held_out[part.rows] = logits[part.rows] * platt[:, 0] + platt[:, 1]
    rows = sites.surveyed
    return species_platt(logits[rows], positives[rows], negatives[rows], pooled.everywhere), held_out


def balanced(rate: Float, emphasis: Float) -> Float:
    """A rate among presences and background on the scale of suitability, where both weigh the same."""
    return emphasis * rate / (emphasis * rate + 1 - rate)


def score_block(sites: Sites, out: OutOfFold, columns: slice, pooled: Calibrator | None) -> dict[str, Float]:
    """Calibration, held-out thresholds, omission inputs and scores of a block of species.

    Scores are over surveyed sites where there are any, else over all.

    Returns:
        a, b (s,); auc, ap, brier, boyce, n_test and null_*; lpt5, maxsss; held (n', s) scores and positives
        (n', s).
    """
    logits, (positives, negatives) = out.logits(columns), sites.counts(columns)
    platt = np.tile([1.0, 0.0], (logits.shape[1], 1))
    if pooled is not None:
        platt, logits = calibrated(logits, positives, negatives, sites, out, pooled)
    emphasis = np.ones(logits.shape[1]) if pooled is not None else sites.emphasis()[columns]
    null = out.null(columns)
    null = null if pooled is not None else balanced(null, emphasis)
    rows = sites.surveyed if pooled is not None else slice(None)
    held = sigmoid(logits[rows].astype(np.float32))
    null, positives, negatives = null[rows], positives[rows], negatives[rows]
    present = (positives > 0).sum(axis=0)
    enough = present >= MIN_TEST_PRESENCES
    scores = metrics.score_species(held, positives, negatives, emphasis, enough)
    beside = metrics.score_species(null, positives, negatives, emphasis, enough)
    return {
        "a": platt[:, 0],
        "b": platt[:, 1],
        **scores,
        "n_test": present,
        **{f"null_{name}": value for name, value in beside.items()},
        "lpt5": rounded_down(presence_quantile(held, positives, QUANTILES["lpt5"])),
        "maxsss": rounded_down(maxsss(metrics.ranking(held, positives, negatives))),
        "held": held.astype(np.float64),
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
    pooled = pooled_calibration(sites, out) if meaning == "probability" else None
    progress("all sites")
    fit = fit_group(sites.features, sites.targets(), config)
    adapter = adapter_of(fit)
    z = adapter.transform(sites.features)
    tables, platt = [], []
    for columns in species_blocks(len(group.species)):
        scored = score_block(sites, out, columns, pooled)
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
    rows = sites.surveyed if sites.surveyed.any() else slice(None)
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
