"""Speed of the tile server: beside stock TiTiler over the same files, and beside a route that does nothing.

    python benchmarks/tiles.py [--rounds 5] [--quick] [--work FOLDER] [--only PART ...] [--out RESULT.json]

Maps of 20 species of the bundle's california-plants on the California grid (EPSG:3310, as geomap.render
writes them) and the same warped to EPSG:3857; where there is no bundle, made-up ones. On loopback, each in a
process of its own with one worker, uvloop, httptools and one thread of linear algebra:

    stock   FastAPI with TiTiler's TilerFactory as it comes; only a file's path is made from the address
    ours    python -m tiles over the same files and the bundle, without its cache of finished tiles
    cached  the same with that cache
    two     ours with two workers
    null    a FastAPI route that answers 20 kB of zeros

Clients run in one more process, on connections that are kept, each asking as soon as it is answered: 8 of
them, or 1. They ask for random tiles of zooms 5 to 10 in California, equally by zoom, no pair of species and
tile twice in a round. Servers take turns in rounds, after one that warms all of them up; a number is the
median of the rounds, a ratio that of two numbers of one run. `*_cpu` are the same ratios of the servers' CPU
time, for machines that others use. What is measured:

    stored_*      tiles/s of rendered files, ours / stock, by CRS of the file
    live_first_*  first tile of a species without a file that nobody asked for before, one client: p50 of ours
                  / p50 of stock's tiles from files of that CRS
    live_*        further tiles of such species: tiles/s of ours / of stock's from files
    cached        requests/s of finished tiles / those of null
    tail_*        p99 / p50 of ours, 8 clients
    two_*         tiles/s from files, two workers / one, whose threads use more than one core; in
                  two_*_to_one_core it is kept to one, as each of the two is where there are two cores
    two_*_ms      p50 of one client of two workers: without TCP_NODELAY a kept connection would take 44 ms
    rss_growth    memory after 5000 tiles of all species / after 1000, less 1; small caches, full by then
    start_*_s     from the start of the process to the first tile of a species with and without a file
    heavy         modules that importing tiles.app must not load, and does

Pixels of both are compared as well (stock as .npy, ours as value tiles), in shares of those that have data:
whose value differs by more than 1/250, and where only one has data. Stock warps in its own way, which moves
edges of cells, so `beyond_a_pixel` counts what not even the 3 x 3 pixels around explain; in the fine zooms 7
to 10 that is `unexplained_*`. In the coarse ones, 5 and 6, stock also takes other overviews.

Prints one JSON line. PART is one of rounds, pixels, memory, start; --work keeps the maps for the next run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # before this folder, whose train.py is not the package `train`

from benchmarks.tileserver.asked import at_ours, draw  # noqa: E402
from benchmarks.tileserver.pixels import compare_pixels  # noqa: E402
from benchmarks.tileserver.rounds import QUICK, Rounds, Size, say  # noqa: E402
from benchmarks.tileserver.servers import Case, Clients, environment, helper, ours  # noqa: E402

CORES = len(os.sched_getaffinity(0))
HEAVY = ("torch", "torchvision", "timm", "distributed")
AT_LEAST = {
    "stored_3857": 5.0, "stored_3310": 5.0, "live_3857": 5.0, "live_3310": 5.0, "cached": 0.5,
    "two_3857": 1.6, "two_3310": 1.6,
}  # fmt: skip
AT_MOST = {
    "live_first_3857": 1.0, "live_first_3310": 1.0, "tail_3857": 3.0, "tail_3310": 3.0,
    "two_3857_ms": 15.0, "two_3310_ms": 15.0, "rss_growth": 0.1, "start_stored_s": 3.0, "start_live_s": 3.0,
    "heavy": 0, "unexplained_3857": 0.001, "unexplained_3310": 0.001,
}  # fmt: skip


def memory(case: Case, size: Size) -> dict[str, float]:
    """Memory while many tiles of many species are asked for, up to 20 of a species after each other."""
    few, many = size.memory
    rng = np.random.default_rng(1)
    with ExitStack() as stack:
        server = stack.enter_context(ours(case, tile_cache_mb=4, cache_mb=64, warm="no"))
        clients = Clients(stack)
        pairs = sorted(draw([*case.stored, *case.live], many, rng), key=lambda pair: pair[0])
        runs = [pairs[k : k + 20] for k in range(0, many, 20)]
        paths = at_ours([pair for k in rng.permutation(len(runs)).tolist() for pair in runs[k]])
        clients.ask(server, paths[:few])
        before, _ = server.rss()
        clients.ask(server, paths[few:])
        after, mapped = server.rss()
    memory_mb = {"rss_before_mb": before, "rss_after_mb": after, "rss_mapped_mb": mapped}
    return {**memory_mb, "rss_growth": after / before - 1}


def start(case: Case, size: Size) -> dict[str, Any]:
    """Seconds from the start of a server to a tile, its CPU seconds until then, and what importing takes.

    Settings are the default ones: maps of a field are computed ahead in the background meanwhile.
    """
    out: dict[str, Any] = {}
    tile = (6, 10, 24)
    with ExitStack() as stack:
        clients = Clients(stack)
        with ours(case) as server:  # fills the cache folder
            clients.ask(server, at_ours([(case.live[0], tile)]), clients=1)
        for kind, slug in (("stored", case.stored[0]), ("live", case.live[0])):
            spent = []
            for _ in range(size.starts):
                with ours(case) as server:
                    clients.ask(server, at_ours([(slug, tile)]), clients=1)
                    spent.append((time.perf_counter() - server.began, sum(server.cpu().values())))
            wall, cpu = zip(*spent, strict=True)
            out |= {f"start_{kind}_s": median(wall), f"start_{kind}_cpu_s": median(cpu)}
    return out | imported(size.starts)


def imported(repeats: int) -> dict[str, Any]:
    """What `import tiles.app` takes and loads."""
    code = (
        "import json, sys, time; began = time.perf_counter(); import tiles.app; "
        "print(json.dumps([time.perf_counter() - began, [n for n in sys.modules if '.' not in n]]))"
    )
    command = [sys.executable, "-c", code]
    said = [json.loads(subprocess.check_output(command, env=environment(), cwd=ROOT)) for _ in range(repeats)]
    loaded = set(said[0][1])
    return {
        "import_s": median(spent for spent, _ in said),
        "heavy": len(loaded & set(HEAVY)),
        "heavy_modules": sorted(loaded & set(HEAVY)),
        "dask_loaded": "dask" in loaded,  # by odc-geo, without distributed
    }


def measure(case: Case, size: Size, rounds: int, parts: Sequence[str]) -> dict[str, Any]:
    """The parts that are asked for, as plain values."""
    out: dict[str, Any] = {}
    if {"rounds", "pixels"} & set(parts):
        with ExitStack() as stack:
            turns = Rounds(case, size, stack)
            if "rounds" in parts:
                out |= turns.all(rounds)
            if "pixels" in parts:
                say("pixels")
                out |= compare_pixels(turns)
    others: dict[str, Callable[[Case, Size], dict[str, Any]]] = {"memory": memory, "start": start}
    for name, part in others.items():
        if name in parts:
            say(name)
            out |= part(case, size)
    return out


def prepare(work: Path, size: Size, quick: bool) -> Case:
    """The maps of a run, or those of an earlier one in the same folder."""
    say("maps")
    more = ["--made-up", "5000"] if quick else []
    command = [sys.executable, helper("maps.py"), str(work), "--species", str(size.species), *more]
    said = json.loads(subprocess.check_output(command, env=environment(), cwd=ROOT))
    return Case(work, said["bundle"], said["shipped"], tuple(said["stored"]), tuple(said["live"]))


def rounded(value: Any) -> Any:
    """The same with numbers of 4 digits."""
    if isinstance(value, Mapping):
        return {name: rounded(each) for name, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def judged(result: Mapping[str, Any]) -> dict[str, Any]:
    """Targets of what was measured, and which of them are met."""
    targets = {name: f">= {bound:g}" for name, bound in AT_LEAST.items()}
    targets |= {name: f"<= {bound:g}" for name, bound in AT_MOST.items()}
    met = {name: result[name] >= bound for name, bound in AT_LEAST.items() if name in result}
    met |= {name: result[name] <= bound for name, bound in AT_MOST.items() if name in result}
    return {"targets": {name: targets[name] for name in met}, "met": met}


def main() -> None:
    """Run it and print the line."""
    parts = ("rounds", "pixels", "memory", "start")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="[default: 5; with --quick 1]")
    parser.add_argument("--quick", action="store_true", help="few made-up species, cells of 5 km")
    parser.add_argument("--work", type=Path, help="folder of maps and caches [default: a passing one]")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="parts to measure")
    parser.add_argument("--out", type=Path, help="also write the result there, with the command")
    args = parser.parse_args()
    size, rounds = QUICK if args.quick else Size(), args.rounds or (1 if args.quick else 5)
    with TemporaryDirectory(prefix="geomap-bench-") as passing:
        work = (args.work or Path(passing)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        case = prepare(work, size, args.quick)
        result = rounded(measure(case, size, rounds, args.only))
    about = {"shipped": case.shipped, "stored": len(case.stored), "live": len(case.live), "rounds": rounds}
    machine = {"cpus": CORES, "load": os.getloadavg()[0]}
    line = {"benchmark": "tiles", "quick": args.quick, **about, **result, **judged(result), **machine}
    print(json.dumps(line))
    if args.out is not None:
        command = shlex.join(["python", "benchmarks/tiles.py", *sys.argv[1:]])
        args.out.write_text(json.dumps({"command": command, **line}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
