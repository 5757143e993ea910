"""The null model beside every score: trees that know the coordinates and nothing else.

A model that reads imagery has to beat this one, not 0.5: nearby sites share species, so that coordinates
alone score high.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.ensemble import ExtraTreesRegressor

Float = NDArray[np.float64]
TREES = 200
LEAF = 2  # sites in a leaf, at least; 2 scored best of 2, 3, 5 and 8 on the bird survey
PROJECTIONS = 16  # cost 0.001 AUC on the bird survey, which is why small groups are not projected
EXACT_SIZE = 1_000_000  # sites times species up to which every species is an output of its own


def xyz(lonlat: NDArray[np.float64]) -> Float:
    """Points on the unit sphere (n, 3) from degrees (n, 2): no seam at the antimeridian or the poles."""
    lon, lat = np.radians(lonlat).T
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def null_shares(
    train_lonlat: NDArray[np.float64],
    trials: NDArray[np.floating],
    rates: sparse.csr_matrix,
    test_lonlat: NDArray[np.float64],
    seed: int,
) -> sparse.csr_matrix:
    """Fit extremely randomised trees on x, y, z; say how test sites follow from training sites.

    One multi-output forest serves all species. For large groups (n * S above a million) its splits are chosen
    on a random
    projection of the rates to 16 numbers: a multi-output tree minimises the summed variance of its outputs,
    which such a projection keeps (Johnson-Lindenstrauss), so that thousands of species cost no more than 16.
    The prediction of a leaf is the trial-weighted mean of its sites, for every species itself.

    Args:
        train_lonlat: (n, 2) degrees WGS 84.
        trials: (n,) weight of the trials at each training site, > 0.
        rates: (n, S) share of the trials that met each species, 0..1.
        test_lonlat: (m, 2) degrees WGS 84.
        seed: Seed of the projection and of the trees.

    Returns:
        (m, n) float64, rows adding up to 1. `shares @ rates` is the forest's prediction (m, S), for any block
        of species.

    Reference:
        Geurts et al. 2006, Extremely randomized trees (https://doi.org/10.1007/s10994-006-6226-1).
    """
    exact = rates.shape[0] * rates.shape[1] <= EXACT_SIZE
    outputs = rates.toarray() if exact else rates @ _projection(rates.shape[1], PROJECTIONS, seed)
    forest = ExtraTreesRegressor(TREES, min_samples_leaf=LEAF, random_state=seed)
    forest.fit(xyz(train_lonlat), outputs[:, 0] if outputs.shape[1] == 1 else outputs, sample_weight=trials)
    train, test = (_leaves(forest, xyz(points)) for points in (train_lonlat, test_lonlat))
    weighted = sparse.diags(np.asarray(trials, np.float64)) @ train
    total = np.asarray(weighted.sum(axis=0)).ravel()
    scale = np.divide(1 / TREES, total, out=np.zeros_like(total), where=total > 0)
    return (test @ (weighted @ sparse.diags(scale)).T).tocsr()


def _projection(species: int, width: int, seed: int) -> Float:
    normal: Float = np.random.default_rng(seed).standard_normal((species, width))
    return normal / float(np.sqrt(width))


def _leaves(forest: ExtraTreesRegressor, points: Float) -> sparse.csr_matrix:
    """(n, nodes of all trees): 1 where the point falls into the leaf."""
    sizes = np.array([tree.tree_.node_count for tree in forest.estimators_])
    columns = forest.apply(points) + (np.cumsum(sizes) - sizes)  # (n, trees)
    rows = np.arange(len(points) + 1) * TREES
    return sparse.csr_matrix((np.ones(columns.size), columns.ravel(), rows), shape=(len(points), sizes.sum()))
