"""Scores of the bird heads beside plain tools, on the same folds of the same survey.

    python benchmarks/scores.py [--shared ../shared/data] [--seeds 1] [--members 4]

Breeding Bird Survey 2001-2015, 5 folds of 5-degree blocks; each visit of a left-out route is a trial; means
over the species that an average year meets on at least 20 routes. The rows:

    coordinates      extremely randomised trees on the coordinates: the null model of all our scores
    location_mlp     our ensemble of perceptrons on xyz and random Fourier features of the location
    windows_mlp      the same with means and deviations of bands in image windows of 5 to 310 km
    encoders         the same on the embeddings of the shipped field, as the shipped heads are fitted

Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from odc.geo import CRS

HERE = Path(__file__).resolve().parent
sys.path = [path for path in sys.path if Path(path or ".").resolve() != HERE]  # benchmarks/train.py is there

from geomap.background import Sites  # noqa: E402
from geomap.catalog import bundle_path  # noqa: E402
from geomap.crossval import assign_folds, block_ids, cross_validate  # noqa: E402
from geomap.field import open_field  # noqa: E402
from geomap.fitting import judged, score_block  # noqa: E402
from geomap.gather import survey_sites  # noqa: E402
from geomap.imagery import open_imagery  # noqa: E402
from geomap.pointsource import point_source  # noqa: E402
from geomap.pretraining import cut_chips  # noqa: E402
from geomap.records import read_surveys  # noqa: E402
from train.encoders.location import Position  # noqa: E402
from train.spec import ChipSpec  # noqa: E402
from train.species import FitConfig  # noqa: E402

SURVEY = "occurrences/north_america_birds_bbs_2001_2015.csv.gz"
IMAGERY = "imagery/bluemarble_north_america_z7.tif"
Floats = NDArray[np.float32]
# Radii in pixels of 1 km and of 10 km: windows of 5, 11, 21, 41 km and of 70, 150, 310 km.
WINDOWS = ((1000.0, (2, 5, 10, 20)), (10_000.0, (3, 7, 15)))
SCORES = ("auc", "ap", "brier", "boyce")


def location_features(lonlat: NDArray[np.float64]) -> Floats:
    """Unit vector and 64 random Fourier features of it, (n, 67)."""
    import torch

    lam, phi = np.deg2rad(lonlat.T)
    xyz = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=1)
    fourier = Position(64)(torch.from_numpy(lonlat)).numpy()
    return np.concatenate([xyz, fourier], axis=1).astype(np.float32)


def window_features(lonlat: NDArray[np.float64], imagery: Path) -> Floats:
    """Means and standard deviations of the bands in square windows around each place, (n, 42)."""
    source, parts = open_imagery(imagery), []
    blank = (0.0,) * source.bands, (1.0,) * source.bands
    for metres, radii in WINDOWS:
        spec = ChipSpec(metres, radii, 0, source.bands, *blank)
        chips, _ = cut_chips(source, spec, CRS("EPSG:6933"), lonlat)
        for radius in radii:
            window = slice(spec.margin - radius, spec.margin + radius + 1)
            pixels = chips[:, :, window, window].astype(np.float32)
            parts += [pixels.mean(axis=(2, 3)), pixels.std(axis=(2, 3))]
    return np.concatenate(parts, axis=1)


def scored(
    sites: Sites, fold: NDArray[np.int64], config: FitConfig, name: str
) -> dict[str, dict[str, float]]:
    """Mean scores of a row, and of the null model on the same folds."""
    out = cross_validate(sites, fold, config, lambda stage: print(f"{name}: {stage}", file=sys.stderr))
    scores = score_block(judged(sites, out), slice(None))
    return {
        name: {score: float(np.nanmean(scores[score])) for score in SCORES},
        "coordinates": {score: float(np.nanmean(scores[f"null_{score}"])) for score in SCORES},
    }


def main() -> None:
    """Runs all rows and prints the line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--members", type=int, default=4, help="perceptrons of every ensemble")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of folds and fits that are averaged")
    parser.add_argument("--field", type=Path, default=bundle_path() / "fields" / "north-america.zarr.zip")
    options = parser.parse_args()
    surveys = read_surveys(options.shared / SURVEY)
    sites = survey_sites(surveys, point_source(open_field(options.field), None, None)).sites
    yearly = np.asarray((sites.rates()).sum(axis=0)).ravel()
    sites = sites.species(np.flatnonzero(yearly >= 20))
    place = location_features(sites.lonlat)
    windows = window_features(sites.lonlat, options.shared / IMAGERY)
    features = {
        "location_mlp": place,
        "windows_mlp": np.concatenate([place, windows], axis=1),
        "encoders": sites.features,
    }
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(options.seeds):
        fold = assign_folds(block_ids(sites.lonlat, 5.0), 5, seed)
        config = replace(FitConfig(), seed=seed, members=options.members)
        for name, values in features.items():
            for row, scores in scored(replace(sites, features=values), fold, config, name).items():
                rows.setdefault(row, []).append(scores)
    means = {
        row: {score: round(float(np.mean([each[score] for each in runs])), 4) for score in SCORES}
        for row, runs in rows.items()
    }
    shape = {"routes": len(sites), "species": sites.successes.shape[1], "seeds": options.seeds}
    print(json.dumps({"benchmark": "scores", **shape, **means}))


if __name__ == "__main__":
    main()
