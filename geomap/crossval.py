"""Spatial-block cross-validation: sites are held out by whole blocks of longitude and latitude."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from geomap.adapter import Adapter
from geomap.background import Sites, extent_of
from geomap.errors import RecordsError
from geomap.nullmodel import null_shares

if TYPE_CHECKING:
    from train.species import FitConfig, GroupFit

Float = NDArray[np.float64]
Progress = Callable[[str], None]

REGIONAL_DEGREES = 0.5
CONTINENTAL_DEGREES = 5.0
REGIONAL_EXTENT = 12.0  # degrees; California is 10.4 wide and 9.5 high


def block_degrees(lonlat: NDArray[np.float64]) -> float:
    """Side of the blocks for data of this extent [degrees].

    Args:
        lonlat: (n, 2) degrees WGS 84.

    Returns:
        0.5 where the data fit in 12 by 12 degrees (a state such as California), else 5.
    """
    extent = extent_of(lonlat, margin=0)
    side = max(extent.width, extent.north - extent.south)
    return REGIONAL_DEGREES if side <= REGIONAL_EXTENT else CONTINENTAL_DEGREES


def block_ids(lonlat: NDArray[np.float64], degrees: float) -> NDArray[np.int64]:
    """Block of each site.

    Args:
        lonlat: (n, 2) degrees WGS 84; longitude 180 falls into the block of -180.
        degrees: Side of a block, > 0.

    Returns:
        (n,) int64, equal for sites of one block. Blocks are anchored at longitude -180 and latitude -90.
    """
    column = np.floor((lonlat[:, 0] + 180) % 360 / degrees).astype(np.int64)
    row = np.floor((lonlat[:, 1] + 90) / degrees).astype(np.int64)
    return row * int(np.ceil(360 / degrees) + 1) + column


def assign_folds(blocks: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Share blocks out to folds of nearly equal numbers of sites.

    Blocks are shuffled by the seed, then taken from the largest to the smallest (ties in shuffled order),
    each to the fold that has the fewest sites so far.

    Args:
        blocks: (n,) block of each site.
        folds: Number of folds, at least 2.
        seed: Seed of the shuffle.

    Returns:
        (n,) int64 fold of each site, 0..folds-1; sites of one block share a fold.

    Raises:
        RecordsError: Fewer blocks than folds.
    """
    unique, inverse, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    if len(unique) < folds:
        raise RecordsError(
            f"cannot cross-validate in {folds} folds of spatial blocks",
            f"the sites lie in {len(unique)} block(s)",
            "Give smaller --block-degrees, fewer --folds, or records of a wider area",
        )
    shuffled = np.random.default_rng(seed).permutation(len(unique))
    load, fold_of = np.zeros(folds, np.int64), np.empty(len(unique), np.int64)
    for block in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        fold_of[block] = np.argmin(load)
        load[fold_of[block]] += sizes[block]
    return fold_of[inverse]


@dataclass(frozen=True)
class HeldOut:
    """What one fold, fitted on the others, says about its own sites, for any block of species.

    Attributes:
        rows: (m,) int64 the sites held out.
        z: (m, M) float32 output of the fold's adapter there.
        weights: (S, M) float32 heads of the fold.
        bias: (S,) float32.
        shares: (m, n') share of each training site in the null model's prediction; of surveyed ones if any.
        rates: (n', S) rates at the training sites.
    """

    rows: NDArray[np.int64]
    z: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    shares: sparse.csr_matrix
    rates: sparse.csc_matrix


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for every site by the model that was fitted without its fold.

    Attributes:
        fold: (n,) int64 fold of each site.
        parts: One a fold.
    """

    fold: NDArray[np.int64]
    parts: tuple[HeldOut, ...]

    def logits(self, columns: slice) -> Float:
        """(n, s) logits of some species, uncalibrated."""
        out = np.empty((len(self.fold), len(range(*columns.indices(len(self.parts[0].bias))))))
        for part in self.parts:
            out[part.rows] = part.z @ part.weights[columns].T + part.bias[columns]
        return out

    def null(self, columns: slice) -> Float:
        """(n, s) rates of some species by the null model, 0..1."""
        out = np.empty((len(self.fold), len(range(*columns.indices(len(self.parts[0].bias))))))
        for part in self.parts:
            out[part.rows] = (part.shares @ part.rates[:, columns]).toarray()
        return out


def adapter_of(fit: GroupFit) -> Adapter:
    """The adapter of a fit."""
    return Adapter(fit.mean, fit.std, fit.members)


def cross_validate(sites: Sites, fold: NDArray[np.int64], config: FitConfig, progress: Progress) -> OutOfFold:
    """Fit adapter, heads and null model once a fold without its sites.

    Args:
        sites: n sites of S species.
        fold: (n,) fold of each site.
        config: Settings of the fit; its seed serves the null model too.
        progress: Told about each fold.

    Returns:
        Out-of-fold predictions.
    """
    from train.species import fit_group  # imported here: torch is slow to load

    parts = []
    for k in range(int(fold.max()) + 1):
        progress(f"fold {k + 1} of {int(fold.max()) + 1}")
        train, rows = sites.take(fold != k), np.flatnonzero(fold == k)
        fit = fit_group(train.features, train.targets(), config)
        known = train.take(train.surveyed) if train.surveyed.any() else train
        rates = known.rates()
        shares = null_shares(known.lonlat, known.trials, rates, sites.lonlat[rows], config.seed)
        z = adapter_of(fit).transform(sites.features[rows])
        parts.append(HeldOut(rows, z, fit.weights, fit.bias, shares, rates.tocsc()))
    return OutOfFold(fold, tuple(parts))
