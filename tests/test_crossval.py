"""Spatial blocks, their folds, and out-of-fold predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from geomap import crossval
from geomap.background import Sites
from geomap.errors import RecordsError
from train.species import FitConfig

QUICK = FitConfig(members=2, hidden=8, width=4, epochs=3)


def quiet(stage):
    pass


@pytest.fixture(scope="module")
def sites():
    rng = np.random.default_rng(0)
    lonlat = np.column_stack([rng.uniform(-120, -80, 150), rng.uniform(30, 50, 150)])
    detections = rng.binomial(4, np.clip((lonlat[:, :1] + 120) / 40 * np.array([0.5, 0.9, 0.2]), 0, 1))
    features = np.column_stack([lonlat, rng.standard_normal((150, 3))]).astype(np.float32)
    return Sites(
        lonlat,
        features,
        np.full(150, 4, np.float32),
        sparse.csr_matrix(detections, dtype=np.float32),
        np.ones(150, bool),
    )


@pytest.mark.parametrize(
    ("west", "east", "south", "north", "degrees"),
    [(-124, -114, 32.5, 42, 0.5), (-124, -111, 32.5, 42, 5), (-170, -50, 20, 70, 5), (-5, 5, 40, 53, 5)],
)
def test_blocks_follow_the_extent(west, east, south, north, degrees):
    corners = np.array([[west, south], [east, north], [west + 1, south + 1]], float)
    assert crossval.block_degrees(corners) == degrees


def test_extent_across_the_antimeridian_is_narrow():
    fiji = np.array([[178.0, -17.0], [-179.0, -16.0]])
    assert crossval.block_degrees(fiji) == 0.5


def test_block_edges():
    points = np.array(
        [[-180, 0], [180, 0], [-175.01, 4.99], [-175, 4.99], [-180, 5], [179.99, 0], [0, 90], [0, -90]]
    )
    blocks = crossval.block_ids(points, 5.0)
    assert blocks[0] == blocks[1] == blocks[2]
    assert len(set(blocks[2:].tolist())) == 6


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_folds_keep_blocks_whole_and_are_balanced(seed, folds):
    blocks = np.random.default_rng(seed).integers(0, 40, 300)
    fold = crossval.assign_folds(blocks, folds, seed)
    assert all(len(set(fold[blocks == block])) == 1 for block in np.unique(blocks))
    sizes = np.bincount(fold, minlength=folds)
    assert sizes.max() - sizes.min() <= np.bincount(blocks).max()
    np.testing.assert_array_equal(fold, crossval.assign_folds(blocks, folds, seed))


def test_another_seed_gives_other_folds():
    blocks = np.arange(200) // 4
    assert (crossval.assign_folds(blocks, 5, 0) != crossval.assign_folds(blocks, 5, 1)).any()


def test_too_few_blocks_are_refused():
    with pytest.raises(RecordsError, match="lie in 3 block"):
        crossval.assign_folds(np.array([1, 1, 2, 3]), 5, 0)


def test_out_of_fold_predictions_never_saw_their_fold(sites):
    fold = crossval.assign_folds(crossval.block_ids(sites.lonlat, 5.0), 3, 0)
    before = crossval.cross_validate(sites, fold, QUICK, quiet)
    changed = sites.successes.toarray()
    changed[fold == 1] = 4 - changed[fold == 1]  # turn the labels of one fold round
    after = crossval.cross_validate(replace(sites, successes=sparse.csr_matrix(changed)), fold, QUICK, quiet)
    everything, held = slice(0, 3), fold == 1
    np.testing.assert_array_equal(before.logits(everything)[held], after.logits(everything)[held])
    np.testing.assert_array_equal(before.null(everything)[held], after.null(everything)[held])
    assert np.abs(before.logits(everything)[~held] - after.logits(everything)[~held]).max() > 0.1
    assert np.abs(before.null(everything)[~held] - after.null(everything)[~held]).max() > 0.1


def test_blocks_of_species_agree_with_all_at_once(sites):
    fold = crossval.assign_folds(crossval.block_ids(sites.lonlat, 5.0), 3, 0)
    out = crossval.cross_validate(sites, fold, QUICK, quiet)
    for of in (out.logits, out.null):
        whole = of(slice(0, 3))
        assert whole.shape == (150, 3)
        np.testing.assert_allclose(np.hstack([of(slice(0, 2)), of(slice(2, 3))]), whole, rtol=1e-6, atol=1e-6)
