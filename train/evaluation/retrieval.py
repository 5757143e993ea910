"""Cross-view retrieval: where the right partner of a query ranks in a gallery, beside the chance level.

Two levels, always said which (methods section 7.4). Instance: the partner is the very observation, or another
of the same aerial tile, for their tiles are one image. Class: the partner is any observation of the query's
class, as BirdSAT counts (methods section 3.4); the query's own observation is one of them.

The rank of a query is 1 + the number of wrong partners that are at least as similar as the best right one.
Ties count against us, so an encoder that maps everything to one point gets the last rank and not the first;
similarities within `TIE` of each other are ties, for a matrix product is no more exact than that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln
from torch import Tensor

from train.errors import SpecError

TIE = 1e-6
KS = (1, 5, 10)
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Groups:
    """Which gallery entries are right for which query: those of the same group.

    Attributes:
        query: (n,) int64, -1 for a query without a right partner.
        gallery: (m,) int64, -1 for an entry that is right for none.
    """

    query: Ints
    gallery: Ints

    def right(self) -> Ints:
        """(n,) number of gallery entries that are right for each query."""
        known, counts = np.unique(self.gallery[self.gallery >= 0], return_counts=True)
        if not len(known):
            return np.zeros(len(self.query), np.int64)
        at = np.searchsorted(known, self.query).clip(max=len(known) - 1)
        return np.where(known[at] == self.query, counts[at], 0)


@dataclass(frozen=True)
class Retrieval:
    """Scores of one direction at one level.

    Attributes:
        level: `instance` or `class`.
        query, gallery: Names of the views.
        recall: k -> share of queries with a right partner among the first k.
        chance: k -> the same for a random order of the gallery.
        median_rank: Median over queries of the rank of the best right partner.
        chance_rank: The same for a random order.
        queries: Number of queries with a right partner in the gallery; the scores are over these.
        unanswerable: Number of queries without one (no label, or a class that the gallery lacks).
        size: Number of gallery entries.
    """

    level: str
    query: str
    gallery: str
    recall: dict[int, float]
    chance: dict[int, float]
    median_rank: float
    chance_rank: float
    queries: int
    unanswerable: int
    size: int


def instances(tile: Ints) -> Ints:
    """(n,) instance of each observation: its tile, or an instance of its own where that is unknown."""
    own = np.arange(len(tile)) + tile.max(initial=-1) + 1
    return np.where(tile >= 0, tile, own)


def levels_of(tile: Ints, labels: Ints) -> dict[str, Groups]:
    """Level -> which partners are right, for a gallery of the queries' own observations.

    Args:
        tile: (n,) int64 aerial tile, -1 where unknown.
        labels: (n,) int64 class, -1 where unknown; without any label there is no class level.
    """
    same = instances(tile)
    levels = {"instance": Groups(same, same)}
    return {**levels, "class": Groups(labels, labels)} if (labels >= 0).any() else levels


def best_ranks(
    query: Floats,
    gallery: Floats,
    levels: Mapping[str, Groups],
    chunk: int = 2048,
    device: torch.device | None = None,
) -> dict[str, Ints]:
    """Rank of the best right partner of each query, counting ties against us.

    Similarities are computed in blocks of chunk x chunk, twice, and never kept: memory does not grow with the
    product of the sizes.

    Args:
        query: (n, d) float32 unit vectors.
        gallery: (m, d) float32 unit vectors, encoded once.
        levels: Name -> which partners are right.
        chunk: Side of a block.
        device: Where products are computed; the CPU when None.

    Returns:
        Name -> (n,) int64 ranks 1..m, 0 where the gallery holds no right partner.

    Raises:
        SpecError: for vectors or groups whose shapes do not belong together, or an empty gallery.
    """
    _require(query, gallery, levels)
    ranks = {name: np.zeros(len(query), np.int64) for name in levels}
    for rows in _slices(len(query), chunk):
        asking = torch.from_numpy(query[rows]).to(device)
        groups = {name: torch.from_numpy(level.query[rows]).to(device) for name, level in levels.items()}
        best = {name: torch.full((len(asking),), -torch.inf, device=device) for name in levels}
        for similarity, columns in _blocks(asking, gallery, chunk):
            for name, level in levels.items():
                right = _right(groups[name], level.gallery[columns])
                found = similarity.masked_fill(~right, -torch.inf).amax(dim=1)
                best[name] = torch.maximum(best[name], found)
        ahead = {name: torch.zeros(len(asking), dtype=torch.int64, device=device) for name in levels}
        for similarity, columns in _blocks(asking, gallery, chunk):
            for name, level in levels.items():
                wrong = ~_right(groups[name], level.gallery[columns])
                ahead[name] += (wrong & (similarity >= best[name][:, None] - TIE)).sum(dim=1)
        for name in levels:
            rank = torch.where(torch.isfinite(best[name]), ahead[name] + 1, 0)
            ranks[name][rows] = rank.cpu().numpy()
    return ranks


def nearest(
    query: Floats, gallery: Floats, k: int, chunk: int = 2048, device: torch.device | None = None
) -> Ints:
    """(n, min(k, m)) int64 rows of the most similar gallery entries, best first.

    Args:
        query: (n, d) float32 unit vectors.
        gallery: (m, d) float32 unit vectors.
        k: Length of the list.
        chunk: Side of a block of similarities.
        device: Where products are computed; the CPU when None.

    Raises:
        SpecError: for shapes that do not belong together, or an empty gallery.
    """
    _require(query, gallery, {})
    k = min(k, len(gallery))
    lists = []
    for rows in _slices(len(query), chunk):
        asking = torch.from_numpy(query[rows]).to(device)
        values = torch.full((len(asking), 0), 0.0, device=device)
        found = torch.zeros((len(asking), 0), dtype=torch.int64, device=device)
        for similarity, columns in _blocks(asking, gallery, chunk):
            here = torch.arange(columns.start, columns.start + similarity.shape[1], device=device)
            values = torch.cat([values, similarity], dim=1)
            found = torch.cat([found, here.expand_as(similarity)], dim=1)
            values, order = values.topk(min(k, values.shape[1]), dim=1)
            found = found.gather(1, order)
        lists.append(found.cpu().numpy())
    return np.concatenate(lists)


def _right(asking: Tensor, answering: Ints) -> Tensor:
    entries = torch.from_numpy(answering).to(asking.device)
    return (asking[:, None] == entries[None, :]) & (asking[:, None] >= 0)


def _blocks(asking: Tensor, gallery: Floats, chunk: int) -> Iterator[tuple[Tensor, slice]]:
    for columns in _slices(len(gallery), chunk):
        yield asking @ torch.from_numpy(gallery[columns]).to(asking.device).T, columns


def _slices(count: int, chunk: int) -> Iterator[slice]:
    for start in range(0, count, chunk):
        yield slice(start, min(start + chunk, count))


def chance_at(right: Ints, size: int, k: int) -> NDArray[np.float64]:
    """Probability that a random order puts a right partner among the first k: k / size where one is right.

    1 - C(size - right, k) / C(size, k), the hypergeometric probability of at least one success.

    Args:
        right: (n,) number of right partners of each query, >= 1.
        size: Number of gallery entries.
        k: Length of the list.
    """
    k = min(k, size)
    wrong = (size - right).astype(np.float64)
    possible = wrong >= k  # otherwise a right one must be among the first k
    wrong = np.where(possible, wrong, k)
    misses = gammaln(wrong + 1) - gammaln(wrong - k + 1) - gammaln(size + 1) + gammaln(size - k + 1)
    return np.where(possible, -np.expm1(misses), 1.0)


def chance_median(right: Ints, size: int) -> float:
    """Median rank of the best right partner when every query's gallery is in random order.

    Args:
        right: (n,) number of right partners of each query, >= 1.
        size: Number of gallery entries.
    """
    counts, weights = np.unique(right, return_counts=True)
    low, high = 1, size
    while low < high:  # smallest k that at least half of the queries reach
        middle = (low + high) // 2
        reached = np.average(chance_at(counts, size, middle), weights=weights)
        low, high = (low, middle) if reached >= 0.5 - 1e-12 else (middle + 1, high)
    return float(low)


def score(ranks: Ints, groups: Groups, level: str, query: str, gallery: str) -> Retrieval:
    """Recalls and median rank of a direction at a level.

    Args:
        ranks: (n,) int64 of `best_ranks`, 0 where there is no right partner.
        groups: Which partners are right.
        level: Name of the level.
        query: View that asks.
        gallery: View that answers.

    Raises:
        SpecError: when no query has a right partner.
    """
    answerable = ranks > 0
    if not answerable.any():
        found = f"no {query} whose {level} is in the gallery of {gallery}"
        raise SpecError("cannot score the retrieval", found, "Give observations with labels and both views.")
    found_at, right, size = ranks[answerable], groups.right()[answerable], len(groups.gallery)
    return Retrieval(
        level, query, gallery,
        {k: float((found_at <= k).mean()) for k in KS},
        {k: float(chance_at(right, size, k).mean()) for k in KS},
        float(np.median(found_at)), chance_median(right, size),
        len(found_at), int((~answerable).sum()), size,
    )  # fmt: skip


def retrieve(
    vectors: Mapping[str, Floats],
    tile: Ints,
    labels: Ints,
    chunk: int = 2048,
    device: torch.device | None = None,
) -> list[Retrieval]:
    """Both directions at both levels between two views of the same observations.

    Args:
        vectors: Two views, name -> (n, d) float32 unit vectors; row i of both is observation i.
        tile: (n,) int64 aerial tile, -1 where unknown.
        labels: (n,) int64 class, -1 where unknown; without any label there is no class level.
        chunk: Side of a block of similarities.
        device: Where products are computed; the CPU when None.
    """
    first, second = vectors
    levels = levels_of(tile, labels)
    out = []
    for query, gallery in ((first, second), (second, first)):
        ranks = best_ranks(vectors[query], vectors[gallery], levels, chunk, device)
        out += [score(ranks[name], level, name, query, gallery) for name, level in levels.items()]
    return out


def _require(query: Floats, gallery: Floats, levels: Mapping[str, Groups]) -> None:
    shapes = [(query.shape, gallery.shape)] + [(g.query.shape, g.gallery.shape) for g in levels.values()]
    whole = query.ndim == gallery.ndim == 2 and query.shape[1] == gallery.shape[1] and len(gallery) > 0
    if not whole or any((a[0], b[0]) != (len(query), len(gallery)) for a, b in shapes):
        raise SpecError("cannot retrieve", f"shapes {shapes}", "Give (n, d) and (m, d) with a group a row.")
