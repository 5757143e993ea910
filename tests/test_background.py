"""Sites, their weights, and the draw of random background cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from geomap import background
from geomap.background import Sites
from geomap.errors import FieldError


def presence_sites(met, lonlat=None, trials=None):
    n = len(met)
    lonlat = np.zeros((n, 2)) if lonlat is None else lonlat
    trials = np.ones(n, np.float32) if trials is None else trials
    features = np.arange(n, dtype=np.float32)[:, None]
    return Sites(lonlat, features, trials, sparse.csr_matrix(np.array(met, np.float32)), np.zeros(n, bool))


def test_presences_weigh_as_much_as_their_background():
    table = presence_sites([[1, 0], [1, 0], [0, 1]])
    sites = background.join(
        [table, background.random_sites(np.zeros((6, 2)), np.zeros((6, 1), np.float32), 3.0, 2)]
    )
    targets = sites.targets()
    positive, negative = targets.dense(np.arange(9))
    np.testing.assert_allclose(positive.sum(axis=0), negative.sum(axis=0))
    assert positive[:3].tolist() == [[2, 0], [2, 0], [0, 5]]
    assert negative[:3].tolist() == [[0, 1], [0, 1], [1, 0]]
    np.testing.assert_allclose(negative[3:], 0.5)
    np.testing.assert_allclose(targets.rates(), [positive.sum(axis=0), negative.sum(axis=0)])


def test_survey_visits_are_positives_and_negatives():
    met = sparse.csr_matrix(np.array([[3, 0], [15, 1]], np.float32))
    sites = Sites(
        np.zeros((2, 2)), np.zeros((2, 1), np.float32), np.full(2, 15, np.float32), met, np.ones(2, bool)
    )
    positive, negative = sites.targets().dense(np.array([1, 0]))
    assert positive.tolist() == [[15, 1], [3, 0]]
    assert negative.tolist() == [[0, 14], [12, 15]]
    assert sites.emphasis().tolist() == [1, 1]
    np.testing.assert_allclose(sites.rates().toarray(), [[0.2, 0], [1, 1 / 15]], rtol=1e-6)


def test_emphasis_leaves_surveyed_sites_alone():
    surveyed = Sites(
        np.zeros((1, 2)), np.zeros((1, 1), np.float32), np.full(1, 10, np.float32),
        sparse.csr_matrix(np.array([[4.0]], np.float32)), np.ones(1, bool),
    )  # fmt: skip
    both = background.join([surveyed, presence_sites([[1], [0], [0], [0]])])
    positive, negative = both.targets().dense(np.arange(5))
    assert positive.ravel().tolist() == [4, 3, 0, 0, 0]
    assert negative.ravel().tolist() == [6, 0, 1, 1, 1]


def test_species_absent_from_a_fold_has_finite_weights():
    sites = presence_sites([[1, 0], [1, 0]])
    positive, negative = sites.targets().dense(np.arange(2))
    assert np.isfinite(positive).all()
    assert negative[:, 1].tolist() == [1, 1]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6))
def test_sparse_rows_equal_dense_rows(seed):
    rng = np.random.default_rng(seed)
    met = sparse.random(12, 7, 0.3, format="csr", random_state=rng, dtype=np.float32)
    met.data[:] = 1
    rows = rng.permutation(12)[:5]
    positive, negative = presence_sites(met.toarray()).targets().dense(rows)
    emphasis = presence_sites(met.toarray()).emphasis()
    np.testing.assert_allclose(positive, met.toarray()[rows] * emphasis, rtol=1e-6)
    np.testing.assert_allclose(negative, 1 - met.toarray()[rows])


def test_extent_across_the_antimeridian():
    box = background.extent_of(np.array([[178.0, -17], [-179, -16], [179, -18]]), margin=1.0)
    assert box.width == pytest.approx(5.0)
    inside = box.holds(np.array([[180.0, -17], [-178.5, -17], [-177, -17], [176, -17], [178, -20]]))
    assert inside.tolist() == [True, True, False, False, False]


def test_world_wide_extent_holds_the_world():
    lon = np.arange(-180, 180, 10.0)
    box = background.extent_of(np.column_stack([lon, np.linspace(-80, 80, 36)]), margin=20.0)
    assert box.width == 360
    assert box.holds(np.column_stack([np.arange(-180, 180, 7.0), np.zeros(52)])).all()


@dataclass(frozen=True)
class Columns:
    """A grid whose right half has cells of three times the area."""

    def cell_lonlat(self, window):
        row, col, height, width = window
        y, x = np.mgrid[row : row + height, col : col + width]
        return np.stack([x * 1.0, y * 1.0], axis=-1)

    def cell_area_km2(self, window):
        return np.where(self.cell_lonlat(window)[..., 0] >= 40, 3.0, 1.0)


@dataclass(frozen=True)
class Wide:
    path: Path = Path("wide")
    dim: int = 1
    grid: Columns = Columns()

    def blocks(self, stored=False):
        from geomap.grid import Window

        return [Window(row, col, 20, 20) for row in (0, 20, 40, 60) for col in (0, 20, 40, 60)]

    def read(self, window):
        centres = self.grid.cell_lonlat(window)
        return (centres[..., :1] * 100 + centres[..., 1:]).astype(np.float32), centres[
            ..., 1
        ] >= 10  # ten rows of sea


WORLD = background.Extent(0, 360, -90, 90)


def test_background_follows_area_validity_and_extent():
    lonlat, features = background.sample_cells(Wide(), WORLD, 1000, seed=0)
    assert lonlat.shape == (1000, 2)
    assert len(np.unique(lonlat, axis=0)) == 1000
    assert (lonlat[:, 1] >= 10).all()
    np.testing.assert_array_equal(features[:, 0], lonlat[:, 0] * 100 + lonlat[:, 1])
    # Without replacement the large cells have a little less than 3/4: the urn gives 0.72 for 1000 of 5600.
    assert abs((lonlat[:, 0] >= 40).mean() - 0.72) < 0.04
    box = background.Extent(10, 20, 30, 50)
    assert box.holds(background.sample_cells(Wide(), box, 50, seed=0)[0]).all()


def test_background_is_repeatable_and_seeded():
    draws = [background.sample_cells(Wide(), WORLD, 30, seed)[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_all_cells_where_there_are_fewer():
    lonlat, _ = background.sample_cells(Wide(), WORLD, 10**6, seed=0)
    assert len(lonlat) == 70 * 80


def test_no_cell_near_the_records_is_refused():
    with pytest.raises(FieldError, match="none near the records"):
        background.sample_cells(Wide(), background.Extent(200, 1, 30, 31), 10, seed=0)
