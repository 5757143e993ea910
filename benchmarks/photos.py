"""Whether the ground path learns species from real photos on disk, grey and CMYK ones among them.

    python benchmarks/photos.py [--shared ../shared/data] [--quick] [--out RESULT.json]
    python benchmarks/photos.py --choose benchmarks/results/photos_choice.json

312 photos of 52 plant species from one campus, six a species (a 53rd has a single photo and is left out). The
photos of a species are dealt out to five folds; those of one day, and those uploaded soon after one another,
stay together, for they may show one plant. A network learns from four folds, five photos a species, and is
judged on the fifth, so that every photo is judged once. A fifth of the photos is replaced by grey JPEGs and a
fifth by CMYK ones, made in a temporary folder that is deleted in the end; all others are read where they lie.
Every photo is decoded from its file whenever it is asked for.

No network has weights from elsewhere. What is learnt, and how, is one of `SETTINGS`: a small network from
random weights, or colours and textures (train.encoders.colour_texture) and a linear head, which learns alone
("all" is frozen) or with the filters. For each fold `--choose` takes the setting with the greatest mean
reciprocal rank on inner folds: of the four folds learnt from, each is held out in turn, and the fifth is not
looked at. The choice is a file, `CHOICE`, that the run reads.

Beside what is learnt stand

    chance      one in as many as there are species
    shuffled    the same training with the labels of the training photos shuffled: what a leak would betray
    fresh       the photos of the half of the species that were never looked at while the settings were
                written; what their author tried by hand was tried on the other half (`DESIGNED_ON`)

`met` says that top-1 over all held-out photos is at least `TARGET` times chance and that the chance of as
many right answers by guessing is below `LUCK`. The target was 3 before the first run of this program, in
which a small network from random weights gave 2.3 ("network-64" is its like); it was 2 for a while after
that, and is 3 again since before the first run with the settings below. Ground and aerial cannot be paired
here: all photos bear the coordinates of one campus, so that there is one chip for all of them (the pairing is
judged on landscapes).

Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binom
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path = [path for path in sys.path if Path(path or ".").resolve() != HERE]  # benchmarks/train.py is there

from train.batch import Batch  # noqa: E402
from train.data import photos  # noqa: E402
from train.data.augment import Augmentation  # noqa: E402
from train.data.images import read_picture  # noqa: E402
from train.data.readers import Held, PictureFiles  # noqa: E402
from train.data.splits import label_folds  # noqa: E402
from train.data.table import ObservationTable  # noqa: E402
from train.encoders.image import Freeze, ImageConfig, ImageEncoder  # noqa: E402
from train.evaluation.report import spread  # noqa: E402
from train.evaluation.supervised import Budget, fit, guess  # noqa: E402

FOLDS = 5
TARGET = 3.0  # times chance
LUCK = 0.01
NEAR = 3000  # uploads between two photos that may be of one walk
SCORES = {"top1": 1, "top5": 5}  # guesses that may hold the species
MODES = ("RGB", "L", "CMYK")  # as Pillow calls them
DESIGNED_ON = 2026  # seed that draws the half of the species that settings were tried on by hand
SHARE = 0.2  # of the photos, of either kind that is made
CHOICE = HERE / "results" / "photos_choice.json"

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """What learns, and how."""

    image: ImageConfig
    budget: Budget

    @property
    def read(self) -> int:
        """Side of the squares that photos become [pixels]; crops of them are what the encoder sees."""
        return self.image.size * 5 // 4


def setting(backbone: str, size: int, freeze: Freeze = "nothing", **budget: Any) -> Setting:
    """An encoder of a size [pixels] and what differs from the budget of all."""
    image = ImageConfig(backbone, size=size, dim=0, other_sizes="resize", freeze=freeze)
    change = Augmentation(pixels=size, crop=0.5, stretch=0.1, jitter=0.1, grey=0.2)
    return Setting(image, replace(Budget(epochs=25, change=change, looks=8), **budget))


SETTINGS = {
    "network-64": setting("test_resnet", 64),
    "colour-texture-64": setting("colour_texture", 64, "all"),
    "colour-texture-64-learnt": setting("colour_texture", 64, encoder_factor=0.1),
    "colour-texture-96": setting("colour_texture", 96, "all"),
}
QUICK, QUICK_SPECIES, QUICK_FOLDS = setting("colour_texture", 64, "all", epochs=15, looks=4), 30, 3


class Ground(nn.Module):
    """An image encoder as the objectives hold theirs."""

    views = ("ground",)

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.ground = ImageEncoder(config)

    def encode(self, view: str, batch: Batch) -> Tensor:
        """(n, d) unit vectors."""
        embedded: Tensor = self.ground(batch[view])
        return embedded

    def features(self, view: str, batch: Batch) -> Tensor:
        """(n, width) before the projection."""
        return self.ground.features(batch[view])


@dataclass(frozen=True, eq=False)
class Study:
    """Photos and how they are dealt out.

    Attributes:
        data: The photos.
        labels: (n,) of each.
        modes: (n,) mode of each file.
        off: Greatest mean difference of a CMYK version from its original [0..255].
        fold: (n,) in which each is judged.
        fresh: (n,) whether its species was never looked at while the settings were written.
    """

    data: ObservationTable
    labels: Ints
    modes: NDArray[np.str_]
    off: float
    fold: Ints
    fresh: NDArray[np.bool_]

    def read_at(self, pixels: int, held: bool = False) -> ObservationTable:
        """The photos as squares of so many pixels, decoded at every look or once."""
        files = self.data.readers["ground"]
        assert isinstance(files, PictureFiles)
        reader = replace(files, pixels=pixels)
        if not held:
            return replace(self.data, readers={"ground": reader})
        every = np.arange(len(self.data))
        once = Held(np.stack([reader(int(row)) for row in every]), every)
        return replace(self.data, readers={"ground": once})


def prepare(source: Path, folder: Path, species: int) -> tuple[pd.DataFrame, float]:
    """Writes a table of the photos with some in grey and CMYK.

    Args:
        source: Folder of the photos; nothing is written there.
        folder: Temporary folder, where `photos.csv` will be.
        species: At most so many; 0 for all.

    Returns:
        The table with the mode of each file, and the greatest mean difference of a CMYK version, as it is
        read by train.data.images, from its original [0..255].
    """
    source = source.resolve()  # the table that is written lies elsewhere
    table = pd.read_csv(source / "photos.csv")
    names = several(table)[: species or None]
    table = table[table["scientific_name"].isin(names)].reset_index(drop=True)
    draws = np.random.default_rng(0).random(len(table))
    modes = np.where(draws < SHARE, "L", np.where(draws < 2 * SHARE, "CMYK", "RGB"))
    files, off = [], 0.0
    for name, mode in zip(table["file"], modes, strict=True):
        file = source / name
        if mode != "RGB":
            original, file = file, folder / name
            with Image.open(original) as picture:
                picture.convert(str(mode)).save(file, quality=95)
            if mode == "CMYK":
                pair = (read_picture(each, 64).astype(np.float64) for each in (original, file))
                off = max(off, float(np.abs(np.subtract(*pair)).mean()))
        files.append(str(file))
    table = table.assign(file=files)
    table.to_csv(folder / "photos.csv", index=False)
    return table.assign(mode=modes), off


def several(table: pd.DataFrame) -> list[str]:
    """Names of the species with more than one photo, sorted."""
    counts = table["scientific_name"].value_counts()
    return sorted(counts.index[counts > 1])


def occasions(table: pd.DataFrame) -> Ints:
    """(n,) equal for photos of a species that were taken on one day or uploaded soon after one another."""
    species, day = (pd.factorize(table[name])[0] for name in ("scientific_name", "observed_on"))
    upload, out = table["inat_id"].to_numpy(np.int64), np.arange(len(table))
    for one, other in combinations(range(len(table)), 2):
        near = day[one] == day[other] or abs(upload[one] - upload[other]) < NEAR
        if species[one] == species[other] and near:
            out[out == out[other]] = out[one]
    return out


def opened(shared: Path, folder: Path, species: int, folds: int) -> Study:
    """The photos of so many species (0 for all), dealt out."""
    source = shared / "photos"
    table, off = prepare(source, folder, species)
    data = photos.open(folder / "photos.csv", pixels=64, cache=folder / "checked.json")
    assert len(data) == len(table), (len(data), len(table))  # so that their rows are the same
    labels = np.asarray(data.labels(), np.int64)
    fold = label_folds(labels, occasions(table), folds)
    names = several(pd.read_csv(source / "photos.csv"))
    half = np.random.default_rng(DESIGNED_ON).permutation(names)[: len(names) // 2]
    fresh = ~np.isin(table["scientific_name"], half)
    return Study(data, labels, table["mode"].to_numpy(), off, fold, fresh)


@dataclass(frozen=True, eq=False)
class Task:
    """A network to be fitted, and photos to judge it on.

    Attributes:
        data: The photos at the setting's size.
        rows: (n,) rows to learn from.
        told: (n,) labels of them.
        asked: Several sets of rows to judge.
        seed: Of the start.
    """

    study: Study
    how: Setting
    data: ObservationTable
    rows: Ints
    told: Ints
    asked: tuple[Ints, ...]
    seed: int = 0


def ranks_of(task: Task) -> list[Ints]:
    """Number of species that are guessed before the true one, (n,) for each of the asked sets of rows."""
    torch.set_num_threads(1)  # processes share the cores
    classes, budget = np.arange(len(task.study.data.classes)), task.how.budget
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.seed)
        model = Ground(task.how.image)
    network = fit(model, task.data, "ground", task.rows, task.told, classes, budget, task.seed)
    out = []
    for asked in task.asked:
        log_p = guess(network, task.data, "ground", asked, classes, budget, task.seed).log_p
        own = log_p[np.arange(len(asked)), task.study.labels[asked]]
        out.append((log_p >= own[:, None]).sum(axis=1) - 1)  # of equals the true one is last
    return out


def done(tasks: list[Task]) -> Iterator[list[Ints]]:
    """Ranks of every task in turn, worked out in two processes."""
    began = time.perf_counter()
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for number, (task, ranks) in enumerate(zip(tasks, pool.map(ranks_of, tasks), strict=True)):
            said = f"{task.how.image.backbone} {task.how.image.size}, {len(task.rows)} photos"
            spent = f"{time.perf_counter() - began:.0f} s"
            print(f"{number + 1} of {len(tasks)}: {said}, after {spent}", file=sys.stderr)
            yield ranks


def choose(shared: Path) -> dict[str, Any]:
    """Scores of every setting on inner folds, and the best of each fold."""
    tried: dict[str, list[dict[str, float]]] = {}
    pairs = list(combinations(range(FOLDS), 2))  # one is held out for the choice of the other
    with tempfile.TemporaryDirectory() as folder:
        study = opened(shared, Path(folder), 0, FOLDS)
        for name, how in SETTINGS.items():
            data = study.read_at(how.read, held=True)
            tasks = []
            for pair in pairs:
                rows = np.flatnonzero(~np.isin(study.fold, pair))
                inner = tuple(np.flatnonzero(study.fold == fold) for fold in pair)
                tasks.append(Task(study, how, data, rows, study.labels[rows], inner))
            found: list[list[Ints]] = [[] for _ in range(FOLDS)]
            for pair, ranks in zip(pairs, done(tasks), strict=True):
                for inner_ranks, outer in zip(ranks, pair[::-1], strict=True):
                    found[outer].append(inner_ranks)
            tried[name] = [scores_of(np.concatenate(each)) for each in found]
            print(f"{name}: {[each['mrr'] for each in tried[name]]}", file=sys.stderr)
    best = [max(tried, key=lambda name: tried[name][fold]["mrr"]) for fold in range(FOLDS)]
    return {
        "benchmark": "photos, the choice of settings",
        "rule": "greatest mean reciprocal rank on the inner folds of the folds learnt from",
        "chosen": best,
        "tried": tried,
        "settings": {name: asdict(how) for name, how in SETTINGS.items()},
    }


def run(study: Study, chosen: list[Setting]) -> dict[str, Any]:
    """Learns from all folds but one, and is judged on that, for each in turn; as plain values."""
    began = time.perf_counter()
    held, tasks = [np.flatnonzero(study.fold == fold) for fold in range(len(chosen))], []
    for fold, how in enumerate(chosen):
        rows = np.flatnonzero(study.fold != fold)
        data, truth = study.read_at(how.read), study.labels[rows]
        for told in (truth, np.random.default_rng(fold).permutation(truth)):
            tasks.append(Task(study, how, data, rows, told, (held[fold], rows), fold))
    found = list(done(tasks))
    places = {"trained": [each[0] for each in found[::2]], "shuffled": [each[0] for each in found[1::2]]}
    fitted = [scores_of(each[1])["top1"] for each in found[::2]]
    chance, order = 1 / len(study.data.classes), np.concatenate(held)
    first = np.concatenate(places["trained"]) == 0
    luck = float(binom.sf(first.sum() - 1, len(first), chance))
    factor = float(first.mean() / chance)
    return {
        "photos": len(study.data),
        "species": len(study.data.classes),
        "made": {mode: int((study.modes == mode).sum()) for mode in MODES},
        "cmyk_off_by": round(study.off, 2),
        "folds": len(chosen),
        "training_photos": round(float(np.mean([len(order) - len(rows) for rows in held]))),
        "held_out": len(order),
        "chance": {name: round(count * chance, 4) for name, count in SCORES.items()},
        **{arm: over_folds(each) for arm, each in places.items()},
        "paired_difference": over_folds(places["trained"], places["shuffled"]),
        "top1_of_training_photos": round(float(np.mean(fitted)), 4),
        "top1_by_mode": {m: round(float(first[study.modes[order] == m].mean()), 4) for m in MODES},
        "fresh": {arm: scores_of(np.concatenate(each)[study.fresh[order]]) for arm, each in places.items()},
        "right": int(first.sum()),
        "times_chance": round(factor, 2),
        "p_of_guessing": float(f"{luck:.2g}"),
        "target": TARGET,
        "met": factor >= TARGET and luck < LUCK,
        "seconds": round(time.perf_counter() - began),
    }


def scores_of(ranks: Ints) -> dict[str, float]:
    """Share of (n,) ranks among the first guesses, and the mean reciprocal rank."""
    shares = {name: round(float((ranks < count).mean()), 4) for name, count in SCORES.items()}
    return {**shares, "mrr": round(float((1 / (ranks + 1)).mean()), 4)}


def over_folds(one: list[Ints], less: list[Ints] | None = None) -> dict[str, dict[str, float | None]]:
    """Mean and sd over the folds of either score, or of its difference on the same photos.

    Folds differ in size, so the mean is that over all photos.
    """
    out: dict[str, dict[str, float | None]] = {}
    for name, count in SCORES.items():
        hits = [(each < count).astype(float) for each in one]
        if less is not None:
            hits = [mine - (each < count) for mine, each in zip(hits, less, strict=True)]
        found = spread([float(each.mean()) for each in hits])
        assert found is not None
        sd = None if found.sd is None else round(found.sd, 4)
        out[name] = {"mean": round(float(np.concatenate(hits).mean()), 4), "sd": sd}
    return out


def main() -> None:
    """Runs it and prints the line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--quick", action="store_true", help="fewer species, folds and epochs")
    parser.add_argument("--choose", type=Path, help="try the settings on inner folds; the choice goes there")
    parser.add_argument("--out", type=Path, help="also write the result there, with the command")
    options = parser.parse_args()
    if options.choose is not None:
        result, path = choose(options.shared), options.choose
    else:
        with tempfile.TemporaryDirectory() as folder:
            if options.quick:
                chosen = {"chosen": ["quick"] * QUICK_FOLDS}
                study = opened(options.shared, Path(folder), QUICK_SPECIES, QUICK_FOLDS)
            else:
                chosen = json.loads(CHOICE.read_text(encoding="utf-8"))
                study = opened(options.shared, Path(folder), 0, FOLDS)
            settings = [SETTINGS.get(name, QUICK) for name in chosen["chosen"]]
            result = {"benchmark": "photos", "chosen": chosen["chosen"], **run(study, settings)}
        path = options.out
    print(json.dumps(result))
    if path is not None:
        command = shlex.join(["python", "benchmarks/photos.py", *sys.argv[1:]])
        path.write_text(json.dumps({"command": command, **result}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
