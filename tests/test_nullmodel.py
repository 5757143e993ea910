"""The coordinates-only forest against scikit-learn's own prediction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.ensemble import ExtraTreesRegressor

from geomap import nullmodel


@pytest.fixture(scope="module")
def places():
    rng = np.random.default_rng(0)
    lonlat = np.column_stack([rng.uniform(-180, 180, 120), rng.uniform(-60, 70, 120)])
    met = rng.random((120, 20)) < 0.5 + 0.4 * np.sin(np.radians(lonlat[:, :1]))
    return lonlat, rng.integers(1, 5, 120).astype(np.float32), sparse.csr_matrix(met * 0.5)


def test_exact_shares_give_the_forests_own_prediction(places):
    lonlat, trials, rates = places
    shares = nullmodel.null_shares(lonlat[:90], trials[:90], rates[:90], lonlat[90:], seed=3)
    forest = ExtraTreesRegressor(nullmodel.TREES, min_samples_leaf=nullmodel.LEAF, random_state=3)
    forest.fit(nullmodel.xyz(lonlat[:90]), rates[:90].toarray(), sample_weight=trials[:90])
    np.testing.assert_allclose(
        (shares @ rates[:90]).toarray(), forest.predict(nullmodel.xyz(lonlat[90:])), atol=1e-9
    )


def test_one_species(places):
    lonlat, trials, rates = places
    shares = nullmodel.null_shares(lonlat[:90], trials[:90], rates[:90, :1], lonlat[90:], seed=0)
    assert (shares @ rates[:90, :1]).shape == (30, 1)


def test_shares_add_up_to_one_and_projection_learns_the_pattern(places, monkeypatch):
    lonlat, trials, rates = places
    monkeypatch.setattr(nullmodel, "EXACT_SIZE", 0)
    shares = nullmodel.null_shares(lonlat[:90], trials[:90], rates[:90], lonlat[90:], seed=0)
    np.testing.assert_allclose(np.asarray(shares.sum(axis=1)).ravel(), 1)
    predicted = (shares @ rates[:90]).toarray().mean(axis=1)
    assert np.corrcoef(predicted, np.sin(np.radians(lonlat[90:, 0])))[0, 1] > 0.8


def test_xyz_has_no_seam():
    ends = nullmodel.xyz(np.array([[-180.0, 10], [180.0, 10], [0, 90], [77, 90]]))
    np.testing.assert_allclose(ends[0], ends[1], atol=1e-12)
    np.testing.assert_allclose(ends[2], ends[3], atol=1e-12)
