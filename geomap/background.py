"""Sites that heads are fitted on: surveyed places, or cells with records and their background.

Presence-only records say where a species was met and never where it was not. Two backgrounds stand for
absence, each with
half of the weight: every cell with a record of any species of the table (the target group, which shares the
observers' habit of looking near roads and towns) and random land cells. A species' presences weigh as much as
all its background together, so that 0.5 means "as many records here as the background expects".

Reference:
    Phillips et al. 2009, Sample selection bias and presence-only distribution models: implications for
    background and pseudo-absence data (https://doi.org/10.1890/07-2153.1); Cole et al. 2023, Spatial Implicit
    Neural Representations for Global-Scale Species Mapping (https://arxiv.org/abs/2306.02564), whose "assume
    negative" losses these are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from geomap.errors import FieldError

if TYPE_CHECKING:
    from geomap.grid import Grid, Window
    from train.species import Targets

BACKGROUND = (
    "presences against the background of the held-out blocks: half of its weight on cells with a record of"
    " any species of the table (one a cell), half on random land cells of the field; each presence weighs 1"
)


@dataclass(frozen=True)
class Sites:
    """n sites with features, and what was met of S species there.

    Attributes:
        lonlat: (n, 2) float64 degrees WGS 84.
        features: (n, D) float32 embeddings, finite.
        trials: (n,) float32 weight of the trials: visits of a survey, or the weight of a background cell.
        successes: (n, S) float32 weight of the trials that met the species: detections, or the site's trials
            at a presence.
        surveyed: (n,) bool, True where an absence is real.
        silent: (S,) bool, species about which the unsurveyed sites say nothing: they are not in that table.
    """

    lonlat: NDArray[np.float64]
    features: NDArray[np.float32]
    trials: NDArray[np.float32]
    successes: sparse.csr_matrix
    surveyed: NDArray[np.bool_]
    silent: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """Number of sites."""
        return len(self.trials)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Sites:
        """Some of the sites."""
        return Sites(
            self.lonlat[rows],
            self.features[rows],
            self.trials[rows],
            self.successes[rows],
            self.surveyed[rows],
            self.silent,
        )

    def species(self, columns: NDArray[np.int64]) -> Sites:
        """The same sites with some of the species."""
        silent = None if self.silent is None else self.silent[columns]
        return replace(self, successes=self.successes[:, columns].tocsr(), silent=silent)

    def counts(self, columns: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight of positive and of negative trials of some species, both (n, s) float64, for scoring."""
        positives = self.successes[:, columns].toarray().astype(np.float64)
        return positives, self.trials[:, None] - positives

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Sites (n,) that calibrate and score: the surveyed ones if any, else all."""
        return self.surveyed if self.surveyed.any() else np.ones(len(self), bool)

    def evidence(self, columns: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positive and negative trials of some species, (n, s) float64, on the scale of independent sites.

        The visits of one location are not independent: those of the average location weigh as one. The
        background of a species weighs as much as its presences.
        """
        positives, negatives = self.counts(columns)
        if self.surveyed.any():
            visits = float(self.trials[self.surveyed].mean())
            return positives / visits, negatives / visits
        return positives, negatives / self.emphasis()[columns]

    def rates(self) -> sparse.csr_matrix:
        """Share of the trials that met each species, (n, S) in 0..1."""
        return (sparse.diags(1 / self.trials) @ self.successes).tocsr()

    def emphasis(self) -> NDArray[np.float64]:
        """Factor (S,) that makes presences of unsurveyed sites weigh as much as background; 1 without."""
        rows = ~self.surveyed
        met = np.asarray(self.successes[rows].sum(axis=0), np.float64).ravel()
        background = self.trials[rows].sum(dtype=np.float64) - met
        factor: NDArray[np.float64] = np.ones_like(met)
        np.divide(background, met, out=factor, where=(met > 0) & (background > 0))
        return factor

    def targets(self) -> Targets:
        """The same as weighted trials for the trainer."""
        from train.species import Targets  # imported here: torch is slow to load

        successes, mute = self._with_mute_entries()
        unsurveyed = np.repeat(~self.surveyed, np.diff(successes.indptr))
        boost = np.where(unsurveyed, self.emphasis()[successes.indices], 1.0)
        return Targets(
            trials=self.trials,
            indptr=successes.indptr.astype(np.int64),
            species=successes.indices.astype(np.int32),
            successes=successes.data.astype(np.float32),
            weights=np.where(mute, 0, successes.data * boost).astype(np.float32),
            count=successes.shape[1],
        )

    def _with_mute_entries(self) -> tuple[sparse.csr_matrix, NDArray[np.bool_]]:
        """Successes, and all trials of unsurveyed sites as entries of silent species: neither met nor missed.

        The second array (entries,) says which entries these are; they get no weight.
        """
        if self.silent is None or not self.silent.any():
            return self.successes, np.zeros(self.successes.nnz, bool)
        rows, columns = np.flatnonzero(~self.surveyed), np.flatnonzero(self.silent)
        where = np.repeat(rows, len(columns)), np.tile(columns, len(rows))
        mute = sparse.csr_matrix(
            (np.repeat(self.trials[rows], len(columns)), where), shape=self.successes.shape
        )
        both = (self.successes + mute).tocsr()
        unsurveyed = np.repeat(~self.surveyed, np.diff(both.indptr))
        return both, self.silent[both.indices] & unsurveyed


def join(parts: list[Sites], silent: NDArray[np.bool_] | None = None) -> Sites:
    """Sites of several kinds with the same species, one under another; see `Sites` for `silent`."""
    return Sites(
        np.concatenate([part.lonlat for part in parts]),
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.trials for part in parts]),
        sparse.vstack([part.successes for part in parts], format="csr"),
        np.concatenate([part.surveyed for part in parts]),
        silent,
    )


def random_sites(
    lonlat: NDArray[np.float64], features: NDArray[np.float32], total: float, species: int
) -> Sites:
    """Background sites without records that weigh `total` together."""
    trials = np.full(len(lonlat), total / len(lonlat), np.float32)
    return Sites(
        lonlat,
        features,
        trials,
        sparse.csr_matrix((len(lonlat), species), dtype=np.float32),
        np.zeros(len(lonlat), bool),
    )


class CellSource(Protocol):
    """Cells with features, read in blocks: an embedding field, or anything in its shape."""

    @property
    def path(self) -> object:
        """What errors call it."""

    @property
    def dim(self) -> int:
        """Number of features."""

    @property
    def grid(self) -> Grid:
        """The cells."""

    def blocks(self, stored: bool = False) -> Iterator[Window]:
        """Windows that cover the cells."""

    def read(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Features (h, w, dim) and whether a cell has any (h, w)."""


@dataclass(frozen=True)
class Extent:
    """A box of longitude and latitude that may lie across the antimeridian.

    Attributes:
        west: Western edge [degrees].
        width: Width eastwards [degrees], at most 360.
        south, north: Edges [degrees].
    """

    west: float
    width: float
    south: float
    north: float

    def holds(self, lonlat: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether points (..., 2) lie inside, (...) bool."""
        east_of_west = (lonlat[..., 0] - self.west) % 360 <= self.width
        return east_of_west & (lonlat[..., 1] >= self.south) & (lonlat[..., 1] <= self.north)


WORLD = Extent(-180.0, 360.0, -90.0, 90.0)


def extent_of(lonlat: NDArray[np.float64], margin: float) -> Extent:
    """The narrowest box around points (n, 2), widened by `margin` degrees on each side."""
    ordered = np.sort(lonlat[:, 0] % 360)
    gaps = np.diff(np.append(ordered, ordered[0] + 360))
    widest = int(np.argmax(gaps))
    west = ordered[(widest + 1) % len(ordered)] - margin
    width = min(360.0, 360 - gaps[widest] + 2 * margin)
    return Extent(
        float(west), float(width), float(lonlat[:, 1].min() - margin), float(lonlat[:, 1].max() + margin)
    )


def sample_cells(
    field: CellSource, extent: Extent, count: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Random valid cells of a field, each square kilometre as likely as any other.

    Every cell draws an exponential waiting time at a rate of its area, and the shortest times win: a weighted
    draw without replacement in one pass over the blocks, which never holds more than a block and the sample.

    Args:
        field: An open field.
        extent: Box outside which no cell is drawn.
        count: Number of cells; all, where there are fewer.
        seed: Seed; the draw of a block depends on it and on the block's place alone.

    Returns:
        Cell centres (m, 2) float64 degrees and their embeddings (m, D) float32, m <= count, in the order of
        the waiting times.

    Raises:
        FieldError: No valid cell lies inside the extent.
    """
    times, lonlat, features = np.empty(0), np.empty((0, 2)), np.empty((0, field.dim), np.float32)
    for window in field.blocks(stored=True):
        centres = field.grid.cell_lonlat(window)
        rng = np.random.default_rng([seed, window.row, window.col])
        waiting = rng.exponential(size=centres.shape[:2]) / field.grid.cell_area_km2(window)
        if not extent.holds(centres).any():
            continue
        values, valid = field.read(window)
        inside = valid & extent.holds(centres)
        times = np.concatenate([times, waiting[inside]])
        best = np.argsort(times, kind="stable")[:count]
        lonlat = np.concatenate([lonlat, centres[inside]])[best]
        features = np.concatenate([features, values[inside]])[best]
        times = times[best]
    if not len(times):
        raise FieldError(
            "cannot draw background cells",
            f"{field.path} has none near the records",
            "Use a field that covers them",
        )
    return lonlat, features
