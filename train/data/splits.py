"""Rows for training, validation and test, folds, and few-label subsets that lie in one another.

Spatial blocks follow methods section 7.4: neighbouring observations share weather, soil and observers, so a
random split flatters. Few-label subsets follow CSP (methods section 1.3): stratified, at least one of every
class, drawn once and shared by all methods; ours also lie in one another (pitfall 18).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from train.errors import SpecError

RATIOS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 1.0)  # the subsets of Nature Multi-View
EARTH_KM = 6371.0
PARTS = ("train", "validation", "test")

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of a data set, sorted, none in two parts.

    Attributes:
        train: (n,) int64 rows to learn from.
        validation: Rows to choose by.
        test: Rows to report on.
        dropped: Reason -> rows in no part.
    """

    train: Rows
    validation: Rows
    test: Rows
    dropped: dict[str, int] = field(default_factory=dict)


def label_subsets(
    labels: NDArray[np.int64], ratios: Sequence[float] = RATIOS, seed: int = 0
) -> dict[float, Rows]:
    """Stratified few-label subsets, each part of every larger one.

    Of every class max(1, round(count * ratio)) observations are drawn. What is drawn of a class follows from
    the seed, the class and its rows alone.

    Args:
        labels: (n,) int64; rows with -1 are in no subset.
        ratios: Shares in 0..1.
        seed: Seed of the draw.

    Returns:
        Ratio -> sorted rows.

    Raises:
        SpecError: A ratio is outside ]0, 1], or no row has a label.
    """
    wrong = [ratio for ratio in ratios if not 0 < ratio <= 1]
    if wrong or not len(ratios):
        found = f"ratio {wrong[0]:g}" if wrong else "no ratio"
        raise SpecError(
            "cannot draw few-label subsets", found, "Give shares above 0 and up to 1, not percent."
        )
    if not (np.asarray(labels) >= 0).any():
        found = f"none of {len(labels)} observations has a label"
        raise SpecError("cannot draw few-label subsets", found, "Give observations with labels.")
    shuffled = [
        np.random.default_rng([seed, int(label)]).permutation(np.flatnonzero(labels == label))
        for label in np.unique(labels[labels >= 0])
    ]
    return {
        ratio: np.sort(
            np.concatenate([rows[: max(1, round(len(rows) * ratio))] for rows in shuffled])
        ).astype(np.int64)
        for ratio in ratios
    }


def random_split(
    count: int,
    shares: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
) -> Split:
    """Splits rows at random.

    Args:
        count: Number of rows; any (BirdSAT's split fails unless 5 divides it, methods section 3.6).
        shares: Of training, validation and test; they sum to 1.
        seed: Seed of the draw.
        groups: (count,) int64; rows of one group (a tile, an observation with several photos) stay together.
            -1 is a group of its own.

    Raises:
        SpecError: Shares make no sense, or a part would be empty.
    """
    numbers = np.arange(count)
    if groups is not None:
        own = np.asarray(groups) < 0
        numbers = np.where(own, np.arange(count) + (groups.max(initial=0) + 1), groups)
    return _assign(numbers, shares, seed)


def label_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, seed: int = 0
) -> NDArray[np.int64]:
    """Deals the observations of every class out to folds, those of a class and group together.

    Each group goes to the fold that has the fewest observations of the class, large groups first; which of
    equal folds comes first is drawn for each class.

    Args:
        labels: (n,) int64.
        groups: (n,) int64, equal for what must not be in two folds (photos of a plant, say).
        folds: Number of folds, >= 2.
        seed: Seed of the draw.

    Returns:
        (n,) int64 fold of each, from 0. A class of fewer groups than folds is missing from some.

    Raises:
        SpecError: Fewer than two folds, or a fold that is left empty.
    """
    if folds < 2:
        raise SpecError("cannot deal observations out", f"{folds} folds", "Ask for 2 or more.")
    out, rng = np.empty(len(labels), np.int64), np.random.default_rng(seed)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        _, number, sizes = np.unique(groups[rows], return_inverse=True, return_counts=True)
        load, first = np.zeros(folds, np.int64), rng.permutation(folds)
        shuffled = rng.permutation(len(sizes))
        for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
            fold = first[np.argmin(load[first])]
            out[rows[number == group]] = fold
            load[fold] += sizes[group]
    if len(np.unique(out)) < folds:
        found = f"{len(labels)} observations leave one of {folds} folds empty"
        raise SpecError("cannot deal observations out", found, "Ask for fewer folds.")
    return out


def block_split(
    lonlat: NDArray[np.float64],
    side: float = 1.0,
    shares: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    buffer_km: float = 0.0,
) -> Split:
    """Splits rows by blocks on the sphere; no block is shared.

    Args:
        lonlat: (n, 2) degrees; rows that are not finite are in no part and counted.
        side: Side of a block in degrees of a great circle.
        shares: Of training, validation and test.
        seed: Seed of the draw.
        buffer_km: Leave out training rows nearer to a validation or test row [km], and validation rows nearer
            to a test row: at least the side of a tile, so that no pixel is seen in two parts.

    Raises:
        SpecError: An option makes no sense, or a part would be empty.
    """
    known = np.flatnonzero(np.isfinite(lonlat).all(axis=1))
    blocks = blocks_of(lonlat[known], side)
    split = _assign(blocks, shares, seed)
    parts = {name: known[getattr(split, name)] for name in PARTS}
    dropped = {"no coordinates": len(lonlat) - len(known)} if len(known) < len(lonlat) else {}
    if not 0 <= buffer_km < np.pi * EARTH_KM:
        raise SpecError(
            "cannot split by blocks", f"a buffer of {buffer_km:g} km", "Give kilometres, 0 for none."
        )
    if buffer_km > 0:
        parts, near = _buffered(lonlat, parts, buffer_km)
        dropped |= {"nearer than the buffer to another part": near} if near else {}
    _require_parts(parts)
    owner = np.full(len(lonlat), -1)
    for number, name in enumerate(PARTS):
        owner[parts[name]] = number
    seen = owner[known] >= 0
    pairs = np.unique(np.stack([blocks[seen], owner[known][seen]], axis=1), axis=0)
    assert len(pairs) == len(np.unique(pairs[:, 0])), "a block in two parts"
    return Split(parts["train"], parts["validation"], parts["test"], dropped)


def blocks_of(lonlat: NDArray[np.float64], side: float) -> NDArray[np.int64]:
    """(n,) number of the block of every place.

    Bands of latitude of equal height are cut into blocks of about equal width on the ground, so blocks are as
    large near the poles as at the equator, and 180 and -180 degrees are one meridian.

    Args:
        lonlat: (n, 2) finite degrees.
        side: Side of a block in degrees of a great circle.

    Raises:
        SpecError: The side is not above 0 and at most 90.
    """
    if not 0 < side <= 90:
        raise SpecError("cannot make blocks", f"a side of {side:g} degrees", "Give a side above 0, up to 90.")
    bands = int(np.ceil(180 / side))
    height = 180 / bands
    band = np.clip(np.floor((lonlat[:, 1] + 90) / height), 0, bands - 1).astype(np.int64)
    middle = np.radians((np.arange(bands) + 0.5) * height - 90)
    across = np.maximum(1, np.round(360 * np.cos(middle) / side)).astype(np.int64)
    turn = (lonlat[:, 0] + 180) / 360 % 1.0
    column = np.minimum(np.floor(turn * across[band]).astype(np.int64), across[band] - 1)
    return np.asarray(np.concatenate([[0], np.cumsum(across)])[band] + column, np.int64)


def _assign(groups: NDArray[np.int64], shares: Sequence[float], seed: int) -> Split:
    """Shuffles groups and deals them out: each to the part that lacks most of its share."""
    if len(shares) != 3 or min(shares) < 0 or shares[0] <= 0 or abs(sum(shares) - 1) > 1e-6:
        change = "Give three shares that sum to 1, as 0.7, 0.15, 0.15."
        raise SpecError("cannot split observations", f"shares {list(shares)}", change)
    names, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    owner = np.zeros(len(names), np.int64)
    target = np.asarray(shares, np.float64) * len(groups)
    have = np.zeros(3)
    for group in order[np.argsort(-sizes[order], kind="stable")]:  # large ones first: they fit worse later
        part = int(np.argmax(target - have))
        owner[group] = part
        have[part] += sizes[group]
    parts = {name: np.flatnonzero(owner[member] == number) for number, name in enumerate(PARTS)}
    wanted = {name: rows for (name, rows), share in zip(parts.items(), shares, strict=True) if share > 0}
    _require_parts(wanted, len(names))
    return Split(parts["train"], parts["validation"], parts["test"])


def _require_parts(parts: dict[str, Rows], groups: int = 0) -> None:
    empty = [name for name, rows in parts.items() if not len(rows)]
    if empty:
        found = f"no observation is left for {empty[0]}" + (
            f", of {groups} groups or blocks" if groups else ""
        )
        change = "Give more observations, smaller blocks, a smaller buffer or other shares."
        raise SpecError("cannot split observations", found, change)


def _buffered(
    lonlat: NDArray[np.float64], parts: dict[str, Rows], buffer_km: float
) -> tuple[dict[str, Rows], int]:
    """Parts without the rows nearer than the buffer to a later part, and how many these were."""
    chord = 2 * np.sin(buffer_km / EARTH_KM / 2)
    lam, phi = np.radians(lonlat).T
    xyz = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=1)
    kept, near = dict(parts), 0
    for name, others in (("train", ("validation", "test")), ("validation", ("test",))):
        beyond = np.concatenate([parts[other] for other in others])
        rows = parts[name]
        if len(beyond) and len(rows):
            far = cKDTree(xyz[beyond]).query(xyz[rows], distance_upper_bound=chord)[0] >= chord
            kept[name], near = rows[far], near + int((~far).sum())
    return kept, near
