"""Hierarchical retrieval: a short list by embeddings, put in order by the match score of pairs.

Source: BirdSAT's CVM-MAE (methods section 3.4): the first 50 by CVE similarity, then re-ranked. What we
changed: location and date are always those of the aerial observation of a pair, never of the other side of
the loop (pitfall 8 of methods section 8), and a partner outside the short list keeps its rank.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from train.batch import Batch, Observations, collate, to_device
from train.errors import DivergedError, SpecError
from train.evaluation.embed import device_of, evaluating
from train.evaluation.retrieval import TIE, Floats, Groups, Ints

SHORT_LIST = 50
CACHED = 2048  # observations kept in memory, for neighbours ask for the same candidates


class Matcher(Protocol):
    """A joint encoder of pairs (train.objectives.birdsat_cvm)."""

    def match(self, ground: Batch, aerial: Batch) -> Tensor:
        """(n,) logits: how well photo i of `ground` belongs to chip i of `aerial`."""


def match_scores(
    model: nn.Module, data: Observations, shortlist: Ints, query: str, batch_size: int = 256
) -> Floats:
    """Match score (n, k) float32 of each query with each of its candidates.

    Args:
        model: A `Matcher`.
        data: n observations; queries and gallery are its rows.
        shortlist: (n, k) int64 rows of the candidates of each observation.
        query: View that asks, `ground` or `aerial`; the other one answers.
        batch_size: Pairs of a call, at least k.

    Raises:
        SpecError: for a model without `match`, or another view.
        DivergedError: for a score that is not finite.
    """
    if not hasattr(model, "match") or query not in ("ground", "aerial"):
        found = f"{type(model).__name__} and the query {query!r}"
        raise SpecError(
            "cannot match pairs", found, "Give a run of birdsat-cvm, and views ground and aerial."
        )
    device, step = device_of(model), max(1, batch_size // shortlist.shape[1])
    read = lru_cache(maxsize=CACHED)(data.__getitem__)
    console, scores = Console(stderr=True), []
    with evaluating(model), Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for start in bar.track(range(0, len(shortlist), step), description="matching"):
            candidates = shortlist[start : start + step]
            asking = np.repeat(np.arange(start, start + len(candidates)), candidates.shape[1])
            sides = {query: asking, _other(query): candidates.ravel()}
            ground, aerial = (
                to_device(collate([read(int(row)) for row in sides[view]]), device)
                for view in ("ground", "aerial")
            )
            scores.append(model.match(ground, aerial).float().cpu().reshape(candidates.shape).numpy())  # type: ignore[operator]
    matched: Floats = np.concatenate(scores)
    if not np.isfinite(matched).all():
        change = "Look for weights that diverged."
        raise DivergedError("cannot match pairs", "a score that is not finite", change)
    return matched


def _other(view: str) -> str:
    return "aerial" if view == "ground" else "ground"


def reranked(ranks: Ints, shortlist: Ints, scores: Floats, groups: Groups) -> Ints:
    """Ranks after the short list was put in the order of the match scores; ties count against us.

    Args:
        ranks: (n,) int64 of `retrieval.best_ranks`, 0 where there is no right partner.
        shortlist: (n, k) int64 gallery entries.
        scores: (n, k) float32 of `match_scores`.
        groups: Which partners are right.

    Returns:
        (n,) int64; a query whose partners are all outside its list keeps its rank, which is beyond k.
    """
    right: NDArray[np.bool_] = groups.gallery[shortlist] == groups.query[:, None]
    right &= groups.query[:, None] >= 0
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    ahead = (~right & (scores >= best - TIE)).sum(axis=1)
    outside = np.where(ranks > 0, np.maximum(ranks, shortlist.shape[1] + 1), 0)
    return np.where(right.any(axis=1), ahead + 1, outside)
