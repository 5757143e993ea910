"""Figures from records and surveys: reliability, background of presence-only fits, effort, novelty.

Each function draws one figure and gives the numbers that the pages quote. None of the records is kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from drawing import GREY, INK, NODATA, RAMP, finish, outline, say
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from geomap.background import WORLD, Sites, join, random_sites, sample_cells
from geomap.catalog import bundle_path
from geomap.crossval import adapter_of, assign_folds, block_ids, cross_validate
from geomap.field import EmbeddingField, open_field
from geomap.fitting import judged, score_block, species_blocks
from geomap.gather import Gathered, cell_ids, record_sites, survey_sites, without_rare
from geomap.heads import load_heads
from geomap.metrics import ranking, roc_auc
from geomap.pointsource import PointSource, point_source
from geomap.records import read_records, read_surveys
from train.species import FitConfig, fit_group

Float = NDArray[np.float64]
SURVEY = "occurrences/north_america_birds_bbs_2001_2015.csv.gz"
PLANTS = "occurrences/california_grassland_plants_gbif.csv.gz"
BIRDS = "occurrences/world_birds_xenocanto.csv.gz"
CONFIG = FitConfig(members=2, max_steps=400)  # a fit in a minute, near the shipped one in score
BINS = np.array([0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
FEWEST_ROUTES = 20  # with detections, for an AUC on the survey
RANDOM_SHARES = (0.0, 0.5, 0.95)  # of the background's weight
PARTS = {"looks": slice(0, 64), "place": slice(64, 192), "all": slice(0, 192)}  # of an embedding


def shipped(grid: str) -> PointSource:
    """The shipped field of a grid as a source of embeddings."""
    return point_source(open_field(bundle_path() / "fields" / f"{grid}.zarr.zip"), None, None)


def surveyed(shared: Path, grid: str, least: int) -> Gathered:
    """Survey routes with their embeddings, and the species met on at least so many of them."""
    return without_rare(survey_sites(read_surveys(shared / SURVEY), shipped(grid)), least)


class Reliability:
    """Predictions in bins, and what was met there: (bins,) sums of trials, of predictions, of detections."""

    def __init__(self) -> None:
        self.trials, self.said, self.met = (np.zeros(len(BINS) - 1) for _ in range(3))

    def add(self, scores: Float, positives: Float, trials: Float) -> None:
        """Take scores (n, s), detections (n, s) and trials (n,) of a block of species."""
        index = np.clip(np.digitize(scores, BINS) - 1, 0, len(BINS) - 2).ravel()
        weight = np.broadcast_to(trials[:, None], scores.shape).ravel()
        self.trials += np.bincount(index, weight, len(self.trials))
        self.said += np.bincount(index, weight * scores.ravel(), len(self.trials))
        self.met += np.bincount(index, positives.ravel(), len(self.trials))

    @property
    def curve(self) -> tuple[Float, Float]:
        """Mean prediction and share met, for bins with a thousand trials or more."""
        full = self.trials >= 1000
        return self.said[full] / self.trials[full], self.met[full] / self.trials[full]

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance from the diagonal, weighted by trials."""
        return float(np.abs(self.said - self.met).sum() / self.trials.sum())


def survey_reliability(shared: Path) -> tuple[Reliability, Reliability, dict[str, Any]]:
    """Of cross-validated heads of the survey and of their null model."""
    sites = surveyed(shared, "north-america", 5).sites
    fold = assign_folds(block_ids(sites.lonlat, 5.0), 5, 0)
    judge = judged(sites, cross_validate(sites, fold, CONFIG, say))
    heads, null = Reliability(), Reliability()
    for columns in species_blocks(sites.successes.shape[1]):
        scored = score_block(judge, columns)
        heads.add(scored["held"], scored["positives"], sites.trials)
        null.add(judge.null_scores(columns), scored["positives"], sites.trials)
    count = {"routes": len(sites), "species": sites.successes.shape[1], "trials": int(heads.trials.sum())}
    return heads, null, count


def recordings_on_survey(shared: Path) -> tuple[Reliability, Float, int]:
    """Suitability of the shipped world-birds heads at the routes of the survey, which they never saw.

    Returns:
        Reliability, AUC of each species met on enough routes, and the number of species that both know.
    """
    heads = load_heads(bundle_path() / "heads" / "world-birds")
    gathered = surveyed(shared, "global", 1)
    names = {name: k for k, name in enumerate(gathered.taxa["scientificName"])}
    both = [k for k, name in enumerate(heads.species["scientificName"]) if name in names]
    columns = np.array([names[heads.species["scientificName"].iloc[k]] for k in both])
    sites = gathered.sites.species(columns)
    scores = heads.predict(sites.features, both).astype(np.float64)
    met, missed = sites.counts(slice(None))
    found = Reliability()
    found.add(scores, met, sites.trials)
    enough = (met > 0).sum(axis=0) >= FEWEST_ROUTES
    return found, roc_auc(ranking(scores, met, missed))[enough], len(both)


def meaning(shared: Path, out: Path) -> dict[str, Any]:
    """Probability beside suitability: what they say, and what surveys met."""
    heads, null, count = survey_reliability(shared)
    suitability, auc, both = recordings_on_survey(shared)
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.1), sharey=True)
    for reliability, label, colour in ((null, "null model", GREY), (heads, "heads", RAMP(0.65))):
        axes[0].plot(*reliability.curve, "o-", color=colour, label=label, markersize=4)
    axes[1].plot(*suitability.curve, "o-", color=RAMP(0.65), markersize=4)
    for axis, title in zip(
        axes, ("Probability: held-out survey runs", "Suitability: the same survey"), strict=True
    ):
        axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
        axis.set(xlim=(0, 1), ylim=(0, 1), title=title, aspect="equal")
    axes[0].set(xlabel="probability said", ylabel="share of runs that met the species")
    axes[1].set(xlabel="suitability said")
    axes[0].legend(frameon=False)
    finish(figure, out / "meaning.webp")
    return {
        **count,
        "heads_calibration_error": heads.error,
        "null_calibration_error": null.error,
        "suitability_species": both,
        "suitability_calibration_error": suitability.error,
        "suitability_mean": float(suitability.said.sum() / suitability.trials.sum()),
        "met_mean": float(suitability.met.sum() / suitability.trials.sum()),
        "suitability_auc_species": len(auc),
        "suitability_auc_median": float(np.median(auc)),
        "suitability_auc_below_half": int((auc < 0.5).sum()),
    }


def backgrounds(shared: Path, out: Path) -> dict[str, Any]:
    """Presence-only fits with three backgrounds, judged by complete surveys, and how records are spread."""
    source = shipped("global")
    gathered = without_rare(record_sites(read_records(shared / BIRDS), source, None), 10)
    assert source.field is not None
    lonlat, features = sample_cells(source.field, WORLD, 10_000, 0)
    routes = surveyed(shared, "global", FEWEST_ROUTES)
    names = {name: k for k, name in enumerate(routes.taxa["scientificName"])}
    both = [k for k, name in enumerate(gathered.taxa["scientificName"]) if name in names]
    columns = np.array([names[gathered.taxa["scientificName"].iloc[k]] for k in both])
    test = routes.sites.species(columns)
    met, missed = test.counts(slice(None))
    found = {}
    for share in RANDOM_SHARES:
        say(f"background: {share:.0%} random")
        sites = gathered.sites
        if share > 0:
            total = float(sites.trials.sum()) * share / (1 - share)
            sites = join([sites, random_sites(lonlat, features, total, sites.successes.shape[1])])
        fit = fit_group(sites.features, sites.targets(), CONFIG)
        logits = adapter_of(fit).transform(test.features) @ fit.weights[both].T + fit.bias[both]
        found[share] = roc_auc(ranking(logits, met, missed))
    draw_effort(shared, found, out)
    half = found[0.5]
    return {
        "species": len(both),
        "routes": len(test),
        "auc_median": {f"{share:g}": float(np.median(auc)) for share, auc in found.items()},
        "auc_mean": {f"{share:g}": float(np.mean(auc)) for share, auc in found.items()},
        "half_better_than_random": int((half > found[0.95]).sum()),
        "half_better_than_target": int((half > found[0.0]).sum()),
        **effort(shared),
    }


def records_per_cell(shared: Path) -> NDArray[np.int64]:
    """Records of plants in each kilometre cell of California that has any, falling."""
    records = read_records(shared / PLANTS)
    cells, first = cell_ids(records.lonlat, shipped("california"))
    return np.sort(np.bincount(cells, minlength=len(first)))[::-1]


def effort(shared: Path) -> dict[str, Any]:
    """How records are spread over cells."""
    counts = records_per_cell(shared)
    cells = open_field(bundle_path() / "fields" / "california.zarr.zip").valid_cells
    share = np.cumsum(counts) / counts.sum()
    return {
        "plant_records": int(counts.sum()),
        "plant_cells": len(counts),
        "plant_cells_share_of_land": len(counts) / cells,
        "share_in_busiest_tenth": float(share[len(counts) // 10]),
        "busiest_cell": int(counts[0]),
    }


def draw_effort(shared: Path, found: dict[float, Float], out: Path) -> None:
    """Concentration of records, and AUC on surveys by background."""
    counts = records_per_cell(shared)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.9))
    axes[0].plot(np.linspace(0, 1, len(counts)), np.cumsum(counts) / counts.sum(), color=RAMP(0.65))
    axes[0].plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    axes[0].set(
        xlabel="share of the cells with a record, busiest first", ylabel="share of the records",
        title="Plant records, California, 1 km cells", xlim=(0, 1), ylim=(0, 1),
    )  # fmt: skip
    labels = ["cells with records\nalone", "half and half\n(as shipped)", "95 % random\nland"]
    axes[1].boxplot(
        list(found.values()), tick_labels=labels, medianprops={"color": RAMP(0.65)}, widths=0.5, whis=(5, 95),
        showfliers=False,
    )  # fmt: skip
    for k, auc in enumerate(found.values(), 1):
        jitter = np.linspace(-0.12, 0.12, len(auc))
        axes[1].plot(k + jitter, auc, ".", color=GREY, markersize=3)
    axes[1].set(title="Fitted on recordings, tested on surveys", ylabel="AUC of a species on survey routes")
    finish(figure, out / "background.webp")


def dissimilarity(sites: Float, near: Iterable[Float], fold: NDArray[np.int64]) -> tuple[list[Float], float]:
    """Distance of each place to the nearest site, in units of the mean distance between sites.

    Args:
        sites: (n, d) features of the sites.
        near: Arrays (m, d) of features of places.
        fold: (n,) fold of each site.

    Returns:
        Dissimilarity (m,) of each array, and the threshold: the upper whisker (third quartile and 1.5
        interquartile ranges) of the sites' own, each measured to the sites of other folds.

    Reference:
        Meyer and Pebesma 2021, Predicting into unknown space? Estimating the area of applicability of spatial
        prediction models (https://doi.org/10.1111/2041-210X.13650), without weights of the predictors.
    """
    mean, std = sites.mean(axis=0), sites.std(axis=0) + 1e-9
    scaled = (sites - mean) / std
    unit = float(np.mean([np.linalg.norm(scaled - row, axis=1).mean() for row in scaled[::7]]))
    own = np.empty(len(sites))
    for k in np.unique(fold):
        held = fold == k
        own[held] = cKDTree(scaled[~held]).query(scaled[held])[0] / unit
    low, high = np.quantile(own, [0.25, 0.75])
    tree = cKDTree(scaled)
    return [tree.query((part - mean) / std)[0] / unit for part in near], float(high + 1.5 * (high - low))


def planes(field: EmbeddingField, every: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Embeddings (h, w, D) and validity of every so many cells of a field."""
    height, width = field.grid.shape
    rows, cols = range(0, height, every), range(0, width, every)
    values = np.zeros((len(rows), len(cols), field.dim), np.float32)
    valid = np.zeros(values.shape[:2], np.bool_)
    for block in field.blocks(stored=True):
        part, known = field.read(block)
        ys = np.arange(-block.row % every, block.height, every)
        xs = np.arange(-block.col % every, block.width, every)
        there = np.ix_((block.row + ys) // every, (block.col + xs) // every)
        values[there], valid[there] = part[np.ix_(ys, xs)], known[np.ix_(ys, xs)]
    return values, valid


PLACES = {
    "Hawaii": (-161, 18.5, -154, 22.5),
    "northern Quebec": (-78, 56, -66, 61),
    "Hispaniola": (-75, 17, -68, 20.5),
}


def novelty(shared: Path, out: Path, every: int = 3) -> dict[str, Any]:
    """The Wrentit where nobody surveyed, and how far each cell is from all surveyed ones."""
    field = open_field(bundle_path() / "fields" / "north-america.zarr.zip")
    heads = load_heads(bundle_path() / "heads" / "north-america-birds")
    sites: Sites = surveyed(shared, "north-america", 5).sites
    fold = assign_folds(block_ids(sites.lonlat, 5.0), 5, 0)
    values, valid = planes(field, every)
    cells = values[valid]
    lonlat = field.grid.cell_lonlat(field.grid.whole)[::every, ::every][valid]
    row = heads.index("Wrentit")
    wrentit = heads.predict(cells, [row])[:, 0]
    limit = float(heads.species["p10"].iloc[row])
    found: dict[str, Any] = {"sites": len(sites), "wrentit_p10": limit, "cells": len(cells)}
    index = {}
    for name, part in PARTS.items():
        (index[name],), threshold = dissimilarity(sites.features[:, part], [cells[:, part]], fold)
        index[name] = index[name] / threshold
        found[f"share_novel_{name}"] = float((index[name] > 1).mean())
    for name, (west, south, east, north) in PLACES.items():
        inside = ((lonlat > (west, south)) & (lonlat < (east, north))).all(axis=1)
        found[name] = {
            "cells": int(inside.sum()),
            "wrentit_max": float(wrentit[inside].max()),
            **{f"novel_{part}": float((each[inside] > 1).mean()) for part, each in index.items()},
        }
    draw_novelty(field, valid, every, wrentit, index["all"], sites.lonlat, out)
    return found


def draw_novelty(
    field: EmbeddingField, valid: NDArray[np.bool_], every: int, wrentit: NDArray[np.float32],
    index: Float, routes: Float, out: Path,
) -> None:  # fmt: skip
    """Two maps side by side: the Wrentit and the dissimilarity."""
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.6))
    grid = field.grid
    for axis, values, title in (
        (axes[0], wrentit, "Wrentit: probability"),
        (axes[1], index, "Dissimilarity from surveyed places"),
    ):
        plane = np.full(valid.shape, np.nan)
        plane[valid] = values
        is_map = axis is axes[0]
        colours = RAMP if is_map else mpl.colormaps["PuOr_r"].with_extremes(bad=NODATA)
        top = 1.0 if is_map else 2.0
        shown = axis.imshow(
            plane, extent=outline(grid), cmap=colours, vmin=0, vmax=top, interpolation="nearest"
        )
        label = "probability" if is_map else "1: limit of held-out routes; above it, extrapolation"
        figure.colorbar(shown, ax=axis, orientation="horizontal", shrink=0.8, pad=0.03, label=label)
        axis.set(title=title, xticks=[], yticks=[])
    from geomap.projection import project

    at = project(routes, "EPSG:4326", str(grid.crs))
    axes[1].plot(at[:, 0], at[:, 1], ".", color="black", markersize=0.8)
    hawaii = project(np.array([[-157.5, 20.5]]), "EPSG:4326", str(grid.crs))[0]
    for axis in axes:
        axis.annotate("Hawaii", (hawaii[0], hawaii[1] + 260_000), ha="left", fontsize=8)
    finish(figure, out / "novelty.webp")
