"""Which observations labels are learnt from, chosen by and reported on; the last two were never trained on.

A run has seen its training images, though not their labels. Scores are only taken where it has not: on the
observations that the recipe held out (`fresh`), or on a data set that it never met.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from train.batch import Observations
from train.data.registry import open_observations
from train.data.splits import Split, block_split, random_split
from train.errors import SpecError
from train.pretrain import recipe_of
from train.recipe import split_of

Kind = Literal["random", "blocks"]
RANDOM_SHARES = (0.7, 0.15, 0.15)
BLOCK_SHARES = (0.5, 0.2, 0.3)  # of a run's own data only a part of the last two is fresh
PLACE = 1e-4  # degrees; observations nearer than that (10 m) are of one place


@dataclass(frozen=True, eq=False)
class Pool:
    """Observations with what the run knows of them.

    Attributes:
        data: n observations.
        fresh: (n,) bool, True where the run never trained on the images.
        splits: Kinds of split that these allow.
    """

    data: Observations
    fresh: NDArray[np.bool_]
    splits: tuple[Kind, ...] = ("random", "blocks")

    def labels(self) -> NDArray[np.int64]:
        """(n,) int64 labels, -1 where unknown."""
        return np.asarray(self.data.labels(), np.int64)

    def groups(self) -> NDArray[np.int64]:
        """(n,) tile of each observation, or its place where the data know no tiles; -1 where unknown."""
        tiles = getattr(self.data, "tiles", None)
        return places(self.lonlat()) if tiles is None else np.asarray(tiles(), np.int64)

    def lonlat(self) -> NDArray[np.float64]:
        """(n, 2) degrees, NaN where unknown."""
        return np.asarray(self.data.lonlat(), np.float64)


def open_pool(card: dict[str, Any], path: Path | None = None, kind: str = "", **options: Any) -> Pool:
    """The observations to evaluate a run on.

    Args:
        card: Of the run.
        path: Another data set than that of the run; all of it is fresh.
        kind: Its layout, as train.data.registry names it; that of the run when empty.
        options: Of its loader. Without path, kind and options it is the run's own data.

    Raises:
        SpecError: when the run held nothing out, or `path` is what it was trained on.
    """
    recipe = recipe_of(card)
    if path is None and not kind and not options:
        data = open_observations(recipe.data.kind, recipe.data.path or None, **recipe.data.options)
        fresh = np.ones(len(data), bool)
        fresh[split_of(data, recipe).train] = False
        if not fresh.any():
            found = "all observations of the recipe were trained on"
            change = "Give --data, or pre-train with data.validation or data.test above 0."
            raise SpecError("cannot evaluate the run", found, change)
        return Pool(data, fresh, ("random", "blocks") if recipe.data.split == "random" else ("blocks",))
    data = open_observations(kind or recipe.data.kind, path, **options)
    if data.digest == card.get("data", {}).get("digest"):
        found = f"{path or kind} is what the run was trained on"
        change = "Leave --data and --kind out: what the run held out is used."
        raise SpecError("cannot evaluate the run", found, change)
    return Pool(data, np.ones(len(data), bool))


def divide(pool: Pool, split: Kind, seed: int, side: float = 1.0, buffer_km: float = 0.0) -> Split:
    """Labelled rows for training, validation and test; the last two are fresh.

    Random: what the run has seen is for training and the rest is halved; data that it never met are dealt out
    70 : 15 : 15, observations of one tile or place together. Blocks: whole blocks are dealt out 50 : 20 : 30.

    Args:
        pool: Observations.
        split: `random` or `blocks`.
        seed: Of the draw.
        side: Side of a block [degrees of a great circle].
        buffer_km: Training rows nearer than this to the others are left out [km].

    Raises:
        SpecError: when a part would be empty.
    """
    rows = np.flatnonzero(pool.labels() >= 0)
    fresh = pool.fresh[rows]
    if split == "blocks":
        dealt = block_split(pool.lonlat()[rows], side, BLOCK_SHARES, seed, buffer_km)
        validation, test = (part[fresh[part]] for part in (dealt.validation, dealt.test))
        return _whole(rows[dealt.train], rows[validation], rows[test], dealt.dropped)
    if fresh.all():
        dealt = random_split(len(rows), RANDOM_SHARES, seed, pool.groups()[rows])
        return _whole(rows[dealt.train], rows[dealt.validation], rows[dealt.test], {})
    new = rows[fresh]
    halves = random_split(len(new), (0.5, 0.5, 0.0), seed, pool.groups()[new])
    return _whole(rows[~fresh], new[halves.train], new[halves.validation], {})


def places(lonlat: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) number of the place of each observation, -1 where unknown."""
    known = np.isfinite(lonlat).all(axis=1)
    out = np.full(len(lonlat), -1)
    if known.any():
        rounded = np.round(lonlat[known] / PLACE).astype(np.int64)
        out[known] = np.unique(rounded, axis=0, return_inverse=True)[1].ravel()
    return out


def _whole(
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    test: NDArray[np.int64],
    dropped: dict[str, int],
) -> Split:
    sizes = {"training": len(train), "validation": len(validation), "test": len(test)}
    if not all(sizes.values()):
        found = ", ".join(f"{count} labelled observations for {name}" for name, count in sizes.items())
        change = "Give more data with --data, hold out more in the recipe, or smaller blocks with --block."
        raise SpecError("cannot divide the observations", found, change)
    return Split(train, validation, test, dropped)
