"""Thresholds against their definitions written out, and areas against a plain count of cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geomap import metrics, thresholds
from geomap.errors import HeadsError
from geomap.heads import Adapter, SpeciesHeads


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.05, 0.1, 0.5]),
)
def test_quantile_loses_at_most_its_share_and_no_higher_score_does(sites, share):
    scores, weights = np.array(sites, float).T
    found = thresholds.presence_quantile(scores[:, None], weights[:, None], share)[0]
    if weights.sum() == 0:
        assert np.isnan(found)
        return
    lost = weights[scores < found].sum() / weights.sum()
    assert lost <= share + 1e-9
    higher = scores[(scores > found) & (weights > 0)]
    if len(higher):
        assert weights[scores < higher.min()].sum() / weights.sum() > share


def test_minimum_training_presence_ignores_absences():
    scores = np.array([[0.05], [0.2], [0.4]])
    assert thresholds.presence_quantile(scores, np.array([[0.0], [3], [1]]), 0.0).tolist() == [0.2]


def test_maxsss_by_trying_every_threshold():
    rng = np.random.default_rng(0)
    scores = np.round(rng.random((50, 4)), 1)
    positives, negatives = rng.integers(0, 4, (50, 4)) * 1.0, rng.integers(0, 4, (50, 4)) * 1.0
    found = thresholds.maxsss(metrics.ranking(scores, positives, negatives))
    for s in range(4):

        def total(t, s=s):
            above = scores[:, s] >= t
            return (
                positives[above, s].sum() / positives[:, s].sum()
                - negatives[above, s].sum() / negatives[:, s].sum()
            )

        best = max(total(t) for t in np.unique(scores[:, s]))
        assert total(found[s]) == pytest.approx(best)
        assert found[s] == max(t for t in np.unique(scores[:, s]) if total(t) > best - 1e-12)


def test_maxsss_of_one_outcome_is_nan():
    steps = metrics.ranking(np.array([[0.1], [0.2]]), np.ones((2, 1)), np.zeros((2, 1)))
    assert np.isnan(thresholds.maxsss(steps)).all()


def test_rounding_keeps_what_stands_at_the_threshold():
    values = np.array([0.3, 0.12345, 0.99999, 0.0, 0.00004], np.float32)
    assert thresholds.rounded_down(values).tolist() == [0.3, 0.1234, 0.9999, 0.0, 0.0]
    assert np.isnan(thresholds.rounded_down(np.array([np.nan]))).all()


def test_omission_counts_weights_below():
    scores, weights = np.array([[0.1], [0.2], [0.3]]), np.array([[1.0], [2], [1]])
    assert thresholds.omission(scores, weights, np.array([0.2])).tolist() == [0.25]
    assert np.isnan(thresholds.omission(scores, weights, np.array([np.nan]))).all()
    assert np.isnan(thresholds.omission(scores, weights * 0, np.array([0.2]))).all()


@dataclass(frozen=True)
class PaintedGrid:
    def cell_area_km2(self, window):
        row, _, height, width = window
        return np.broadcast_to(np.arange(row, row + height)[:, None] + 1.0, (height, width))


@dataclass(frozen=True)
class PaintedField:
    """A field of known values, read block by block."""

    values: np.ndarray
    valid: np.ndarray
    path: Path = Path("painted")
    encoder_hash: str = "abc"
    grid: PaintedGrid = PaintedGrid()

    def blocks(self, stored=False):
        return [(row, col, 4, 4) for row in range(0, 12, 4) for col in range(0, 8, 4)]

    def read(self, window):
        row, col, height, width = window
        where = np.s_[row : row + height, col : col + width]
        return self.values[where], self.valid[where]


def painted(species):
    rng = np.random.default_rng(0)
    eye = np.eye(2, dtype=np.float32)
    adapter = Adapter(np.zeros(2, np.float32), np.ones(2, np.float32), ((eye, np.zeros(2, np.float32)) * 2,))
    fitted = rng.standard_normal((species, 2)).astype(np.float32), np.zeros(species, np.float32)
    calibration = np.tile(np.array([1, 0], np.float32), (species, 1))
    names = pd.DataFrame({"scientificName": [f"Genus species{s}" for s in range(species)]})
    heads = SpeciesHeads("g", "suitability", "abc", adapter, *fitted, calibration, names)
    field = PaintedField(rng.standard_normal((12, 8, 2)).astype(np.float32), rng.random((12, 8)) < 0.7)
    return heads, field


def test_area_equals_the_sum_over_cells_of_the_rounded_map():
    heads, field = painted(70)  # more than one block of species
    cut = np.tile([0.3, 0.5, np.nan], (70, 1))
    area = thresholds.areas_above(heads, field, cut)
    scores = np.round(heads.predict(field.values[field.valid]), 4)
    cells = np.broadcast_to(np.arange(1.0, 13)[:, None], (12, 8))[field.valid]
    for t, threshold in enumerate([0.3, 0.5]):
        np.testing.assert_allclose(area[:, t], cells @ (scores >= np.float32(threshold)))
    assert np.isnan(area[:, 2]).all()


def test_area_of_zero_threshold_is_the_whole_field():
    heads, field = painted(2)
    whole = np.broadcast_to(np.arange(1.0, 13)[:, None], (12, 8))[field.valid].sum()
    assert thresholds.areas_above(heads, field, np.zeros((2, 1))).tolist() == [[whole], [whole]]


def test_area_refuses_a_field_of_another_encoder():
    heads, field = painted(2)
    with pytest.raises(HeadsError, match="encoder"):
        thresholds.areas_above(
            heads, PaintedField(field.values, field.valid, encoder_hash="other"), np.zeros((2, 1))
        )
