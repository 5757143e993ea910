"""The tasks of train.evaluate: what is embedded, fitted and scored, for both arms and every seed.

classification   probes and fine-tuning at one or more shares of the labels
retrieval        both directions, both levels, with re-ranking where a model can match pairs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from train.data.splits import Split, label_subsets
from train.data.table import Selection
from train.encoders.location import LocationEncoder
from train.errors import SpecError
from train.evaluation.embed import device_of, embed_views, pair_of
from train.evaluation.finetune import finetune
from train.evaluation.parts import Kind, Pool, divide
from train.evaluation.prior import PRIOR_TUNING, Places, fit_prior, fused
from train.evaluation.probe import Rows, probe, tuned
from train.evaluation.report import CHANCE, PRETRAINED, SCRATCH, About, Record
from train.evaluation.rerank import SHORT_LIST, match_scores, reranked
from train.evaluation.retrieval import Retrieval, best_ranks, levels_of, nearest, score
from train.evaluation.scores import Prediction, prevalence
from train.evaluation.tuning import TuningConfig
from train.sampling import WORLD, Box

Method = Literal["probe", "finetune"]
Guess = tuple[Prediction, dict[str, float]]


@dataclass(frozen=True)
class Protocol:
    """Every setting that the numbers depend on."""

    splits: tuple[Kind, ...] = ("random", "blocks")
    seeds: int = 3
    ratios: tuple[float, ...] = (1.0,)  # shares of the training labels
    methods: tuple[Method, ...] = ("probe", "finetune")
    block: float = 1.0  # side of the blocks [degrees of a great circle]
    buffer_km: float = 0.0  # training rows nearer than this to the others are left out
    batch: int = 256  # observations of an encoder call
    workers: int = 0  # processes that load data
    gallery: int = 0  # rows that each seed draws for a retrieval; 0: all, once
    short_list: int = SHORT_LIST  # candidates that a match score puts in order
    tuning: TuningConfig | None = None  # None: the defaults of finetune and of prior

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.batch < 1 or self.gallery < 0 or self.short_list < 1 or self.workers < 0:
            found = f"seeds {self.seeds}, batch {self.batch}, gallery {self.gallery}, first {self.short_list}"
            raise SpecError("cannot evaluate the run", found, "Give positive numbers.")


@dataclass(frozen=True)
class Arms:
    """What is compared.

    Attributes:
        pretrained: The model of the run.
        scratch: Seed -> a model of the same shape as pre-training began with.
        matcher: Puts short lists in order; None: the model itself where it can match pairs.
    """

    pretrained: nn.Module
    scratch: Callable[[int], nn.Module]
    matcher: nn.Module | None = None


def usable(pool: Pool, model: nn.Module) -> Pool:
    """The pool without observations whose location the model would have to embed and nobody knows."""
    if "lonlat" not in pair_of(model):
        return pool
    known = np.flatnonzero(np.isfinite(pool.lonlat()).all(axis=1))
    if len(known) == len(pool.data):
        return pool
    return Pool(Selection(pool.data, known), pool.fresh[known], pool.splits)


def classification(arms: Arms, pool: Pool, protocol: Protocol) -> Iterator[Record]:
    """Records of both arms for each seed, split, share of the labels, method and choice of views.

    Args:
        arms: Models.
        pool: Labelled observations.
        protocol: Settings.

    Raises:
        SpecError: data, split and model do not fit.
        DivergedError: features or losses that are not finite.
    """
    labelled = np.flatnonzero(pool.labels() >= 0)
    if not len(labelled):
        found = f"none of {len(pool.data)} observations has a label"
        raise SpecError("cannot evaluate the run", found, "Give observations with labels.")
    pool = Pool(Selection(pool.data, labelled), pool.fresh[labelled], pool.splits)
    known = _features(arms.pretrained, pool, protocol)
    for seed in range(protocol.seeds):
        fresh = arms.scratch(seed)
        models = {PRETRAINED: (arms.pretrained, known), SCRATCH: (fresh, _features(fresh, pool, protocol))}
        for split in protocol.splits:
            parts = divide(pool, split, seed, protocol.block, protocol.buffer_km)
            for ratio, rows in label_subsets(pool.labels()[parts.train], protocol.ratios, seed).items():
                few = Split(parts.train[rows], parts.validation, parts.test)
                about: About = {"split": split, "percent": 100.0 * ratio}
                yield _guessing(about, seed, pool, few)
                for arm, (model, features) in models.items():
                    for method in protocol.methods:
                        guesses = _guesses(method, model, features, pool, few, protocol, seed)
                        yield from _scored(about, method, arm, seed, guesses, features.labels[few.test], few)


def _features(model: nn.Module, pool: Pool, protocol: Protocol) -> Rows:
    """Features of both views of all observations, each encoded once."""
    found = embed_views(model, pool.data, pair_of(model), protocol.batch, protocol.workers, layer="features")
    return Rows(found.vectors, pool.labels())


def _guessing(about: About, seed: int, pool: Pool, parts: Split) -> Record:
    labels = pool.labels()
    return Record(
        about, CHANCE, seed, prevalence(labels[parts.train], len(parts.test)).scores(labels[parts.test])
    )


def _guesses(
    method: Method,
    model: nn.Module,
    features: Rows,
    pool: Pool,
    parts: Split,
    protocol: Protocol,
    seed: int,
) -> dict[str, Guess]:
    """Views -> predictions at the test rows, and what was chosen."""
    if method == "probe":
        return probe(*(features.take(rows) for rows in (parts.train, parts.validation, parts.test)))
    if "lonlat" in features.views:
        return _prior_guesses(model, features, pool.lonlat(), parts, protocol, seed)
    config = protocol.tuning or TuningConfig(workers=protocol.workers)
    first, second = features.views
    return {
        name: finetune(model, pool.data, views, parts.train, parts.validation, parts.test, config, seed)
        for name, views in ((first, (first,)), (second, (second,)), ("concatenated", (first, second)))
    }


def _prior_guesses(
    model: nn.Module,
    features: Rows,
    lonlat: NDArray[np.float64],
    parts: Split,
    protocol: Protocol,
    seed: int,
) -> dict[str, Guess]:
    """Image only, location only, and both, as CSP puts them together."""
    location = getattr(model, "location", None)
    if not isinstance(location, LocationEncoder):
        found = f"a {type(model).__name__} without a location encoder"
        raise SpecError("cannot fine-tune", found, "Give a run of csp, or --methods probe.")
    image = next(view for view in features.views if view != "lonlat")
    held, test = (Places(lonlat[rows], features.labels[rows]) for rows in (parts.validation, parts.test))
    train = features.take(parts.train)
    seen = tuned(train.views[image], train.labels, features.views[image][parts.validation], held.labels)
    by_image = [seen.predict(features.views[image][rows]) for rows in (parts.validation, parts.test)]
    config = protocol.tuning or PRIOR_TUNING
    area = getattr(getattr(model, "config", None), "area", None)
    box = Box(*area) if area else WORLD
    prior, _, chosen = fit_prior(location, Places(lonlat[parts.train], train.labels), held, config, seed, box)
    both = fused(prior, held, by_image[0], test, by_image[1])
    both["lonlat"] = (both["lonlat"][0], chosen)
    return {image: (by_image[1], {"strength": seen.strength}), **both}


def _scored(
    about: About,
    method: str,
    arm: str,
    seed: int,
    guesses: dict[str, Guess],
    truth: NDArray[np.int64],
    parts: Split,
) -> Iterator[Record]:
    sizes = {"train_rows": float(len(parts.train)), "test_rows": float(len(parts.test))}
    for views, (prediction, chosen) in guesses.items():
        setting: About = {**about, "method": method, "views": views}
        yield Record(setting, arm, seed, prediction.scores(truth), {**chosen, **sizes})


def retrieval(arms: Arms, pool: Pool, protocol: Protocol) -> Iterator[Record]:
    """Records of both arms: both directions at both levels, on observations that the run never trained on.

    Args:
        arms: Models; the match score re-ranks where there is a matcher.
        pool: Observations, with or without labels.
        protocol: Settings; with a gallery size each seed draws its own gallery, else there is one.

    Raises:
        SpecError: data and model do not fit.
        DivergedError: embeddings that are not finite.
    """
    fresh = np.flatnonzero(pool.fresh)
    if protocol.gallery > len(fresh):
        found = f"{protocol.gallery} of {len(fresh)} observations that the run never trained on"
        raise SpecError("cannot draw a gallery", found, "Give a smaller --gallery, or --data.")
    drawn = 0 < protocol.gallery < len(fresh)
    for seed in range(protocol.seeds):
        rows = fresh
        if drawn:
            rows = np.sort(np.random.default_rng(seed).choice(fresh, protocol.gallery, replace=False))
        part = Pool(Selection(pool.data, rows), pool.fresh[rows])
        if drawn or seed == 0:
            yield from _ranked(arms.pretrained, arms.matcher, PRETRAINED, part, protocol, seed)
        yield from _ranked(arms.scratch(seed), None, SCRATCH, part, protocol, seed)


def _ranked(
    model: nn.Module, matcher: nn.Module | None, arm: str, pool: Pool, protocol: Protocol, seed: int
) -> Iterator[Record]:
    pair, device = pair_of(model), device_of(model)
    found = embed_views(model, pool.data, pair, protocol.batch, protocol.workers)
    levels = levels_of(found.tile, pool.labels())
    matcher = matcher or (model if hasattr(model, "match") else None)
    for query, gallery in (pair, pair[::-1]):
        sides = found.vectors[query], found.vectors[gallery]
        ranks = best_ranks(*sides, levels, device=device)
        for level, groups in levels.items():
            yield from _recalls("embedding", score(ranks[level], groups, level, query, gallery), arm, seed)
        if matcher is None:
            continue
        listed = nearest(*sides, protocol.short_list, device=device)
        scores = match_scores(matcher, pool.data, listed, query, protocol.batch)
        for level, groups in levels.items():
            better = reranked(ranks[level], listed, scores, groups)
            yield from _recalls("re-ranked", score(better, groups, level, query, gallery), arm, seed)


def _recalls(method: str, found: Retrieval, arm: str, seed: int) -> Iterator[Record]:
    about: About = {
        "method": method,
        "level": found.level,
        "views": f"{found.query} to {found.gallery}",
        "gallery": float(found.size),
    }
    counts = {"queries": float(found.queries), "unanswerable": float(found.unanswerable)}
    recalls = {f"recall@{k}": value for k, value in found.recall.items()}
    yield Record(about, arm, seed, {**recalls, "median_rank": found.median_rank}, counts)
    if arm == PRETRAINED:
        recalls = {f"recall@{k}": value for k, value in found.chance.items()}
        yield Record(about, CHANCE, seed, {**recalls, "median_rank": found.chance_rank})


def place(model: nn.Module) -> nn.Module:
    """The model on the accelerator, where there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")
