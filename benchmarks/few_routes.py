"""What pre-training is worth when few routes are surveyed: shipped encoders against the same ones untrained.

    python benchmarks/few_routes.py [--shared ../shared/data] [--seeds 3] [--quick] [--out RESULT.json]

Breeding Bird Survey 2001-2015, 5 folds of 5-degree blocks; each visit of a left-out route is a trial; means
over the species that an average year meets on at least 20 routes. Heads as the shipped ones are (shared
perceptrons, one weight vector a species; fewer steps and members) are fitted to 5, 10, 20 and 100 % of the
training routes of each fold. Smaller subsets lie in larger ones, every fold gives its share, and all arms see
the same routes. Dropout is that of the shipped heads, for all arms. The arms:

    pretrained    aerial and location embeddings of the shipped bundle (CSP), and the position features
    random        the same architecture at random initialisation, another one for each seed
    position      the position features alone (random Fourier features; fixed, so no part of either pair)
    coordinates   extremely randomised trees on the coordinates: the null model of all our scores

The aerial encoder standardises its window statistics before it projects them, and an untrained one knows no
statistics. They are taken from unlabelled places of the survey's extent (drawn on land, cut from the same
imagery), the random arm's only data; features of all arms are standardised by the fit, so the scale of an
embedding gives neither an advantage, and quantisation plays no part: nothing is stored as int8.

Scores are those of the uncalibrated probabilities: a calibration would need labels beyond the subset. The
seed draws folds, subsets, the random encoders and the start of the fit; the pre-trained weights are those of
one run. Pre-training saw imagery of all places, held-out blocks included, and no record of a species.

Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from odc.geo import CRS

HERE = Path(__file__).resolve().parent
sys.path = [path for path in sys.path if Path(path or ".").resolve() != HERE]  # benchmarks/train.py is there

from geomap.adapter import sigmoid  # noqa: E402
from geomap.background import Sites, extent_of  # noqa: E402
from geomap.catalog import bundle_path  # noqa: E402
from geomap.crossval import adapter_of, assign_folds, block_ids  # noqa: E402
from geomap.encode import encode_points  # noqa: E402
from geomap.fitting import MIN_TEST_PRESENCES  # noqa: E402
from geomap.gather import survey_sites  # noqa: E402
from geomap.imagery import ImagerySource, open_imagery  # noqa: E402
from geomap.metrics import score_species  # noqa: E402
from geomap.nullmodel import null_shares  # noqa: E402
from geomap.pointsource import PointSource  # noqa: E402
from geomap.pretraining import Area, cut_chips, draw_places  # noqa: E402
from geomap.records import read_surveys  # noqa: E402
from train.data.splits import label_subsets  # noqa: E402
from train.encoders.aerial import AerialEncoder  # noqa: E402
from train.encoders.pair import Encoders, build, load_encoders  # noqa: E402
from train.evaluation.report import PRETRAINED, Record, differences, spread  # noqa: E402
from train.spec import EncoderCard  # noqa: E402
from train.species import FitConfig, fit_group  # noqa: E402

SURVEY = "occurrences/north_america_birds_bbs_2001_2015.csv.gz"
IMAGERY = "imagery/bluemarble_north_america_z7.tif"
SCORES = ("auc", "ap", "brier")
RANDOM, POSITION, COORDINATES = "random", "position", "coordinates"
LEARNT = (PRETRAINED, RANDOM, POSITION)
LATTICE = "EPSG:6933"  # the pixel lattice of encode_points

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Scored = tuple[Record, dict[str, NDArray[np.float64]]]  # means, and the scores of each species (S,)


# The same number of steps for all subsets; the shipped heads take about 900, with 4 members.
FIT = FitConfig(members=2, epochs=200, max_steps=200)


@dataclass(frozen=True)
class Plan:
    """What a run does."""

    ratios: tuple[float, ...] = (0.05, 0.1, 0.2, 1.0)  # shares of the training routes
    folds: int = 5
    every: int = 1  # take every so many routes
    species: int = 0  # at most so many species, evenly chosen; 0 for all
    unlabelled: int = 1024  # places that give the statistics of untrained encoders
    fit: FitConfig = FIT


QUICK = Plan(
    ratios=(0.1, 1.0),
    folds=3,
    every=2,
    species=60,
    unlabelled=256,
    fit=FitConfig(members=1, epochs=150, max_steps=150),
)


def untrained(card: EncoderCard, source: ImagerySource, lonlat: NDArray[np.float64], seed: int) -> Encoders:
    """Encoders of the card's shape at random initialisation.

    Args:
        card: Shape.
        source: Imagery that the statistics of the aerial encoder are taken from.
        lonlat: (n, 2) degrees; unlabelled places.
        seed: Seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        aerial, location = build(card)
    statistics = window_statistics(aerial, source, lonlat)
    aerial.norm.running_mean = statistics.mean(dim=0)
    aerial.norm.running_var = statistics.var(dim=0)
    return Encoders(replace(card, training={"objective": "none", "seed": seed}), aerial, location)


def window_statistics(
    aerial: AerialEncoder, source: ImagerySource, lonlat: NDArray[np.float64]
) -> torch.Tensor:
    """(n, width) float32, what the projection of an aerial encoder gets to see at places (n, 2)."""
    aerial.eval()
    parts = []
    for net in aerial.contexts:
        chips, valid = cut_chips(source, net.level, CRS(LATTICE), lonlat)  # type: ignore[arg-type, union-attr]
        with torch.inference_mode():
            pieces = zip(torch.from_numpy(chips).split(128), torch.from_numpy(valid).split(128), strict=True)
            parts.append(torch.cat([net(chip.float(), ok)[:, :, 0, 0] for chip, ok in pieces]))
    return torch.cat(parts, dim=1).clone()


def unlabelled_places(lonlat: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Random places on land in the extent of the survey (count, 2); none is a route."""
    box = extent_of(lonlat, margin=1.0)
    area = Area(box.west % 360 - 360, box.south, box.west % 360 - 360 + box.width, box.north, LATTICE, count)
    return draw_places(area, np.random.default_rng(0))


def open_sites(shared: Path, plan: Plan) -> tuple[Sites, Encoders, ImagerySource]:
    """Routes with the embeddings of the shipped encoders, those encoders, the imagery."""
    source, encoders = open_imagery(shared / IMAGERY), load_encoders(bundle_path() / "encoders")
    points = PointSource(None, encoders, source, encoders.hash, encoders.dim)
    sites = survey_sites(read_surveys(shared / SURVEY), points).sites
    yearly = np.asarray(sites.rates().sum(axis=0)).ravel()
    columns = np.flatnonzero(yearly >= 20)
    if plan.species and plan.species < len(columns):
        columns = columns[np.linspace(0, len(columns) - 1, plan.species).astype(np.int64)]
    return sites.species(columns).take(np.arange(0, len(sites), plan.every)), encoders, source


def held_out(sites: Sites, fold: Ints, k: int, arm: str, config: FitConfig) -> NDArray[np.float64]:
    """Probabilities (m, S) at the routes of fold k, from the other routes of `sites`; not calibrated."""
    train, test = sites.take(fold != k), sites.take(fold == k)
    if arm == COORDINATES:
        rates = train.rates()
        shares = null_shares(train.lonlat, train.trials, rates, test.lonlat, config.seed)
        return (shares @ rates).toarray()
    fit = fit_group(train.features, train.targets(), config)
    logits = adapter_of(fit).transform(test.features) @ fit.weights.T + fit.bias
    return sigmoid(logits).astype(np.float64)


def records_of(sites: Sites, features: dict[str, Floats], plan: Plan, seed: int) -> Iterator[Scored]:
    """A record for each share of the routes and each arm, and the scores of its species (S,)."""
    fold = assign_folds(block_ids(sites.lonlat, 5.0), plan.folds, seed)
    config = replace(plan.fit, seed=seed)
    # Strata are the folds, so that the draw of a route does not depend on which fold is held out.
    subsets = label_subsets(fold, plan.ratios, seed)
    positives, negatives = sites.counts(slice(None))
    enough = (positives > 0).sum(axis=0) >= MIN_TEST_PRESENCES
    for ratio, drawn in subsets.items():
        for arm in (*LEARNT, COORDINATES):
            began = time.perf_counter()
            whole = replace(sites, features=features.get(arm, features[POSITION]))
            predicted = np.empty(positives.shape)
            for k in range(plan.folds):
                rows = np.union1d(drawn[fold[drawn] != k], np.flatnonzero(fold == k))
                predicted[fold == k] = held_out(whole.take(rows), fold[rows], k, arm, config)
            scored = score_species(predicted, positives, negatives, np.ones(positives.shape[1]), enough)
            means = {name: float(np.nanmean(scored[name])) for name in SCORES}
            spent = time.perf_counter() - began
            print(f"seed {seed} {ratio:.0%} {arm}: {means} in {spent:.0f} s", file=sys.stderr)
            yield Record({"percent": 100 * ratio, "routes": routes(drawn, fold)}, arm, seed, means), scored


def routes(drawn: Ints, fold: Ints) -> int:
    """Training routes of a fold, on average."""
    return round(len(drawn) * (1 - 1 / len(np.unique(fold))))


def better(scored: list[Scored], percent: float, score: str, than: str) -> float:
    """Share of species that the pre-trained encoders predict better, by their mean over the seeds."""
    each = {
        arm: np.mean(
            [of[score] for record, of in scored if record.arm == arm and record.about["percent"] == percent],
            axis=0,
        )
        for arm in (PRETRAINED, than)
    }
    gain = each[PRETRAINED] - each[than]
    gain = -gain if score == "brier" else gain
    return float((gain[np.isfinite(gain)] > 0).mean())


def rounded(value: Any) -> Any:
    """The same with numbers of 4 digits behind the point."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def tables(scored: list[Scored]) -> dict[str, Any]:
    """Share of the routes -> arm -> score -> mean and sd; differences to the pre-trained arm beside."""
    records = [record for record, _ in scored]
    out: dict[str, Any] = {}
    for percent in dict.fromkeys(float(record.about["percent"]) for record in records):
        these = [record for record in records if record.about["percent"] == percent]
        row: dict[str, Any] = {"routes": these[0].about["routes"]}
        for arm in (*LEARNT, COORDINATES):
            of_arm = [record.scores for record in these if record.arm == arm]
            over = {name: spread([scores[name] for scores in of_arm]) for name in SCORES}
            row[arm] = {name: {"mean": s.mean, "sd": s.sd} for name, s in over.items() if s is not None}
        for than in (RANDOM, POSITION, COORDINATES):
            each = differences([replace(r, about={}) for r in these], PRETRAINED, than)
            row[f"pretrained_minus_{than}"] = {
                d["score"]: {
                    "mean": d["mean"],
                    "sd": d["sd"],
                    "species_better": better(scored, percent, d["score"], than),
                }
                for d in each
            }
        out[f"{percent:g}%"] = rounded(row)
    return out


def run(shared: Path, plan: Plan, seeds: int) -> dict[str, Any]:
    """All of it, as plain values."""
    began = time.perf_counter()
    sites, encoders, source = open_sites(shared, plan)
    width = encoders.card.location.position
    places = unlabelled_places(sites.lonlat, plan.unlabelled)
    scored = []
    for seed in range(seeds):
        fresh = untrained(encoders.card, source, places, seed)
        embedded, found = encode_points(fresh, source, sites.lonlat)
        if not found.all():  # the shipped encoders saw the same imagery
            raise AssertionError("routes without an embedding")
        features = {PRETRAINED: sites.features, RANDOM: embedded, POSITION: sites.features[:, -width:]}
        scored += list(records_of(sites, features, plan, seed))
    return {
        "benchmark": "few_routes",
        "routes": len(sites),
        "species": sites.successes.shape[1],
        "seeds": seeds,
        "folds": plan.folds,
        "encoders": encoders.hash[:12],
        "plan": {
            **asdict(plan),
            "fit": {k: getattr(plan.fit, k) for k in ("members", "max_steps", "dropout", "input_dropout")},
        },
        "percent_of_routes": tables(scored),
        "seconds": round(time.perf_counter() - began),
    }


def main() -> None:
    """Runs it and prints the line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=3, help="seeds of folds, subsets, encoders and fits")
    parser.add_argument("--quick", action="store_true", help="fewer routes, species, folds and steps")
    parser.add_argument("--out", type=Path, help="also write the result there, with the command")
    options = parser.parse_args()
    result = run(options.shared, QUICK if options.quick else Plan(), options.seeds)
    print(json.dumps(result))
    if options.out is not None:
        command = shlex.join(["python", "benchmarks/few_routes.py", *sys.argv[1:]])
        options.out.write_text(json.dumps({"command": command, **result}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
