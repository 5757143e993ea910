"""Speed of the sweep: beside the bare encoder, beside chips encoded one by one, and on two workers.

    python benchmarks/sweep.py [--imagery FILE] [--encoders FOLDER] [--repeats 3] [--quick]

On the California grid (1 km), with the bundle's encoders, or random ones of their shape where there is no
bundle:

    sweep       geomap.sweep.sweep in this process: read, encode, quantise, compress, write
    bare        the encoders alone, on the same windows of pixels, read beforehand, on the same single thread
    chips       a sample of cells, each from its own chips, read beforehand, one cell at a time
    one, two    the sweep on Dask clusters of one and two workers that are running already

The ratios are of times in one run, each the least of all repeats, which take turns. On a machine that others
use, wall time says little: `*_cpu` are the same ratios of this process's CPU time, and `two_processes` is how
much more two processes without anything in common get done than one, the most that two workers could reach.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path = [path for path in sys.path if Path(path or ".").resolve() != HERE]  # benchmarks/train.py is there

from geomap.catalog import bundle_path  # noqa: E402
from geomap.encode import EMBED_ROWS, ENCODE  # noqa: E402
from geomap.grid import Grid, Window, grid_from_bbox, named_grid  # noqa: E402
from geomap.imagery import ImagerySource, open_imagery  # noqa: E402
from geomap.lattice import Box, Lattice, lattice_crs, windows  # noqa: E402
from geomap.projection import project  # noqa: E402
from geomap.sweep import sweep  # noqa: E402
from geomap.tasks import local_cluster  # noqa: E402
from train.encoders.pair import Encoders, load_encoders, random_encoders, save_encoders  # noqa: E402
from train.threads import one_thread  # noqa: E402

TARGETS = {"sweep_to_bare": 0.8, "sweep_to_chips": 10.0, "two_to_one": 1.6}
SHARED = Path(os.environ.get("GEOMAP_SHARED", "../shared/data"))
IMAGERY = SHARED / "imagery/bluemarble_california_z8.tif"
Run = Callable[[str, str | None], int]  # name of the output and address of a scheduler; gives its cells
Pixels = tuple[NDArray[np.float32], NDArray[np.bool_]]  # as Encoders.context takes them


class Seconds(NamedTuple):
    """What a piece of work took."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Piece:
    """A window of pixels of one scale, and the cells of a unit that are encoded from it."""

    pixels: Pixels
    members: NDArray[np.intp]
    rows: NDArray[np.intp]
    cols: NDArray[np.intp]


@dataclass(frozen=True)
class Preloaded:
    """A unit of the grid: where its land cells are, and for each scale the windows they need."""

    lonlat: NDArray[np.float64]
    levels: tuple[tuple[Piece, ...], ...]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def timed(work: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def take_turns(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, Seconds]:
    """The least time of each work; in turns, so that whatever slows the machine down slows all of them."""
    times: dict[str, list[Seconds]] = {name: [] for name in works}
    for repeat in range(repeats):
        for name, work in works.items():
            times[name].append(timed(work))
            say(f"{repeat + 1}/{repeats} {name}: {times[name][-1].wall:.2f} s, CPU {times[name][-1].cpu:.2f}")
    return {name: Seconds(*(min(column) for column in zip(*of, strict=True))) for name, of in times.items()}


def preload(encoders: Encoders, source: ImagerySource, grid: Grid) -> list[Preloaded]:
    """Reads every window of pixels that the sweep needs."""
    units = ((unit, grid.land_mask(unit)) for unit in grid.units())
    return [_preload_unit(encoders, source, grid, unit, land) for unit, land in units if land.any()]


def _preload_unit(
    encoders: Encoders, source: ImagerySource, grid: Grid, unit: Window, land: NDArray[np.bool_]
) -> Preloaded:
    lonlat = grid.cell_lonlat(unit)[land]
    levels = []
    for lattice, at, margin in _lattices(encoders, grid, lonlat):
        near = np.rint(at)
        pieces = []
        for box, members in windows(near, np.arange(len(near)), margin, ENCODE):
            rows, cols = (near[members] - (box.row + margin, box.col + margin)).astype(np.intp).T
            pieces.append(Piece(source.read(lattice.geobox(box)), members, rows, cols))
        levels.append(tuple(pieces))
    return Preloaded(lonlat, tuple(levels))


def _lattices(
    encoders: Encoders, grid: Grid, lonlat: NDArray[np.float64]
) -> Iterator[tuple[Lattice, NDArray[np.float64], int]]:
    """Lattice, positions of the cells on it and margin of every scale."""
    crs = lattice_crs(grid)
    xy = project(lonlat, "EPSG:4326", crs.to_wkt())
    for spec in encoders.levels:
        lattice = Lattice(crs, spec.metres_per_pixel)
        yield lattice, lattice.positions(xy), spec.margin


def encode_bare(encoders: Encoders, units: list[Preloaded]) -> None:
    """Nothing but the encoders: contexts of each window, then the embeddings of its cells."""
    with one_thread():
        for unit in units:
            levels = [_contexts(encoders, level, pieces) for level, pieces in enumerate(unit.levels)]
            for start in range(0, len(unit.lonlat), EMBED_ROWS):
                part = slice(start, start + EMBED_ROWS)
                encoders.embed([context[part] for context in levels], unit.lonlat[part])


def _contexts(encoders: Encoders, level: int, pieces: tuple[Piece, ...]) -> NDArray[np.float32]:
    found = [encoders.context_at(level, *piece.pixels, piece.rows, piece.cols) for piece in pieces]
    members = np.concatenate([piece.members for piece in pieces])
    return found[0] if len(found) == 1 else np.concatenate(found)[np.argsort(members)]


def cut_chips(
    encoders: Encoders, source: ImagerySource, grid: Grid, count: int
) -> tuple[list[list[Pixels]], NDArray[np.float64]]:
    """Chips of every scale of cells spread evenly over the land, and their lonlat (n, 2)."""
    lonlat = grid.cell_lonlat(grid.whole)[grid.land_mask(grid.whole)]
    lonlat = lonlat[np.linspace(0, len(lonlat) - 1, count).astype(np.intp)]
    levels = []
    for lattice, at, margin in _lattices(encoders, grid, lonlat):
        corners = np.rint(at).astype(np.intp) - margin
        boxes = [Box(row, col, 2 * margin + 1, 2 * margin + 1) for row, col in corners.tolist()]
        levels.append([source.read(lattice.geobox(box)) for box in boxes])
    return levels, lonlat


def encode_chips(encoders: Encoders, levels: list[list[Pixels]], lonlat: NDArray[np.float64]) -> None:
    """Cell by cell: the contexts of its own chips, then its embedding."""
    with one_thread():
        for k in range(len(lonlat)):
            contexts = [encoders.context(n, *chips[k])[:, 0, 0][None] for n, chips in enumerate(levels)]
            encoders.embed(contexts, lonlat[k : k + 1])


def beside_encoders(
    encoders: Encoders, source: ImagerySource, grid: Grid, run: Run, args: argparse.Namespace
) -> dict[str, Any]:
    """The sweep in this process beside the bare encoder and chips, in turns."""
    say(f"reading the windows and chips of {grid.name}")
    units = preload(encoders, source, grid)
    chips = cut_chips(encoders, source, grid, args.chips)
    cells = sum(len(unit.lonlat) for unit in units)
    counts = {"bare": cells, "sweep": cells, "chips": args.chips}
    works: dict[str, Callable[[], object]] = {
        "bare": lambda: encode_bare(encoders, units),
        "sweep": lambda: run("alone", None),
        "chips": lambda: encode_chips(encoders, *chips),
    }
    best = take_turns(works, args.repeats)
    rates = {name: counts[name] / best[name].wall for name in works}
    cpu = {name: counts[name] / best[name].cpu for name in works}
    result: dict[str, Any] = {"cells": cells}
    result |= {f"{name}_cells_per_s": rate for name, rate in rates.items()}
    for name in ("bare", "chips"):
        result[f"sweep_to_{name}"] = rates["sweep"] / rates[name]
        result[f"sweep_to_{name}_cpu"] = cpu["sweep"] / cpu[name]
    return result


def beside_workers(run: Run, repeats: int) -> dict[str, float]:
    """The sweep on running clusters of one and two workers, in turns, after a round that warms them."""
    with local_cluster(1) as one, local_cluster(2) as two:
        works: dict[str, Callable[[], object]] = {
            "dask_one": lambda: run("one", one.scheduler_address),
            "dask_two": lambda: run("two", two.scheduler_address),
        }
        take_turns(works, 1)
        best = take_turns(works, repeats)
    seconds = {name: best[name].wall for name in works}
    return {
        **{f"{name}_s": value for name, value in seconds.items()},
        "two_to_one": seconds["dask_one"] / seconds["dask_two"],
    }


def spin(rounds: int) -> None:
    """Arithmetic that shares nothing with another process."""
    with one_thread():
        matrix = torch.ones(256, 256)
        for _ in range(rounds):
            matrix = matrix @ matrix / 256


def two_processes(rounds: int) -> float:
    """How much more two processes get done than one on this machine, now."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(spin, [1, 1]))
        list(pool.map(spin, [1, 1]))
        alone = timed(lambda: list(pool.map(spin, [rounds]))).wall
        return 2 * alone / timed(lambda: list(pool.map(spin, [rounds, rounds]))).wall


def benchmark(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    grid = named_grid("california")
    if args.quick:
        grid = replace(grid_from_bbox(-120.6, 36.6, -119.9, 37.3, resolution=1000.0), unit=32)
    path = args.encoders
    if path is None:
        path = folder / "encoders"
        save_encoders(random_encoders(channels=16, dim=64), path)
    encoders, source = load_encoders(path), open_imagery(args.imagery)

    def run(name: str, scheduler: str | None) -> int:
        field = sweep(path, args.imagery, grid, folder / f"{name}.zarr", scheduler=scheduler, overwrite=True)
        return field.valid_cells

    result = beside_encoders(encoders, source, grid, run, args)
    result |= beside_workers(run, args.repeats)
    result["two_processes"] = two_processes(200 if args.quick else 4000)
    return {
        "grid": grid.name,
        "encoders": "random" if args.encoders is None else str(args.encoders),
        **result,
    }


def main() -> None:
    shipped = bundle_path() / "encoders"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--imagery", type=Path, default=IMAGERY, help="imagery of California")
    parser.add_argument("--encoders", type=Path, default=shipped if shipped.is_dir() else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chips", type=int, default=None, help="cells encoded from chips of their own")
    parser.add_argument("--quick", action="store_true", help="a small area, one repeat")
    args = parser.parse_args()
    args.repeats = 1 if args.quick else args.repeats
    args.chips = args.chips or (64 if args.quick else 512)
    with TemporaryDirectory(prefix="geomap-bench-") as folder:
        result = benchmark(args, Path(folder))
    met = {name: result[name] >= target for name, target in TARGETS.items()}
    shown = {
        key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in result.items()
    }
    extra = {"targets": TARGETS, "met": met, "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps({"benchmark": "sweep", "quick": args.quick, **shown, **extra}))


if __name__ == "__main__":
    main()
