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
import base64
import io
import json
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
from PIL import Image
from pyproj import Transformer
from pyproj.enums import TransformDirection
from scipy.ndimage import maximum_filter, minimum_filter

HERE = Path(__file__).resolve().parent
GRIDS = {"3857": "california-3857", "3310": "california"}  # CRS -> folder of maps
BOX = (-370_000.0, -600_000.0, 536_000.0, 446_000.0)  # within the grid: west, south, east, north [m]
CORES = len(os.sched_getaffinity(0))
HALF = 20_037_508.342789244  # half the side of the world in Web Mercator [m]
ZOOMS = range(5, 11)
COLOURS = ".png?rescale=0,1&colormap_name=ylorbr"  # of stock: those that ours has without being asked
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
Pair = tuple[str, tuple[int, int, int]]  # a species and a tile


@dataclass(frozen=True)
class Size:
    """How much is asked for.

    Attributes:
        species: Species with files.
        pairs: Tiles in a leg with 8 clients.
        single: Tiles in a leg with one client.
        stock_s: Seconds after which a leg of stock ends.
        repeats: How often finished tiles are asked for.
        pixels: Tiles of either CRS whose pixels are compared.
        memory: Requests before and at the end of the watch on memory.
        starts: Starts of a server, and imports.
    """

    species: int = 20
    pairs: int = 480
    single: int = 36
    stock_s: float = 3.0
    repeats: int = 8
    pixels: int = 60
    memory: tuple[int, int] = (1000, 5000)
    starts: int = 3


QUICK = Size(3, 36, 6, 1.0, 4, 12, (60, 120), 1)


@dataclass(frozen=True)
class Case:
    """What is served: ids of species with and without files, and where everything lies."""

    work: Path
    bundle: str
    shipped: bool
    stored: tuple[str, ...]
    live: tuple[str, ...]


@dataclass(frozen=True)
class Leg:
    """What clients got from a server; see benchmarks/tileserver/clients.py.

    Attributes:
        ms: What each answer took.
        seconds: What all took.
        bytes: Of all bodies.
        client_s: CPU seconds of the clients.
        server_s: CPU seconds of each process of the server.
        bodies: Path -> body, if they were asked for.
    """

    ms: Sequence[float]
    seconds: float
    bytes: int
    client_s: float
    server_s: Sequence[float]
    bodies: Mapping[str, bytes]

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.ms) / self.seconds

    def quantile(self, share: float) -> float:
        """What a share of the answers took at most [ms]."""
        return float(np.quantile(self.ms, share))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def environment(**more: str) -> dict[str, str]:
    """Variables of a process that finds this repository's packages and computes with one thread."""
    paths = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GEOMAP_TILES_")}
    return {**kept, **threads, "PYTHONPATH": paths, **more}


def helper(name: str) -> str:
    return str(HERE / "tileserver" / name)


class Server:
    """A server in processes of its own."""

    def __init__(self, process: subprocess.Popen[str], began: float) -> None:
        """Remember the process, and when it was started."""
        self.began, self._popen, self._process = began, process, psutil.Process(process.pid)

    @cached_property
    def address(self) -> tuple[str, int]:
        """Host and port, with which the first line ends that the process prints; waits for it."""
        assert self._popen.stdout is not None
        said = self._popen.stdout.readline().split()
        if not said:
            raise RuntimeError(f"a server ended with status {self._popen.wait()}; see its log")
        host, port = said[-1].removeprefix("http://").rstrip("/").rsplit(":", 1)
        return host, int(port)

    def cpu(self) -> dict[int, float]:
        """CPU seconds so far of the process and of each that it started, by their ids."""
        family = [self._process, *self._process.children(recursive=True)]
        times = {each.pid: each.cpu_times() for each in family}
        return {pid: spent.user + spent.system for pid, spent in times.items()}

    def pin(self, cores: Collection[int]) -> None:
        """Let all threads of the process run on these cores only."""
        for thread in self._process.threads():
            os.sched_setaffinity(thread.id, cores)

    def rss(self) -> tuple[float, float]:
        """Memory [MB] of the process, and the part of it that mapped files take."""
        used = self._process.memory_info()
        return used.rss / 1e6, used.shared / 1e6


@contextmanager
def started(arguments: Sequence[str], log: Path, **variables: str) -> Iterator[Server]:
    """Run a server with Python; what it says besides its address goes to a file."""
    began = time.perf_counter()
    with (
        log.open("a") as errors,
        subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, cwd=log.parent,
            env=environment(**variables),
        ) as process,
    ):  # fmt: skip
        try:
            yield Server(process, began)
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def ours(case: Case, **settings: object) -> Any:
    """`python -m tiles` over the maps and the bundle; settings by their names."""
    arguments = ["-m", "tiles", "--port", "0", "--maps", str(case.work / "maps")]
    given = {"cache_dir": case.work / "cache", "log_level": "warning", **settings}
    variables = {f"GEOMAP_TILES_{name.upper()}": str(value) for name, value in given.items()}
    return started(arguments, case.work / "ours.log", GEOMAP_BUNDLE=case.bundle, **variables)


class Clients:
    """The process of the clients."""

    def __init__(self, stack: ExitStack) -> None:
        """Start it; it ends with the stack."""
        command = [sys.executable, helper("clients.py")]
        self._process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )

    def ask(self, server: Server, paths: Sequence[str], **how: Any) -> Leg:
        """Have a server asked.

        Raises:
            RuntimeError: An answer had another status than 200.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        host, port = server.address
        before = server.cpu()
        load = {"host": host, "port": port, "paths": paths, **how}
        self._process.stdin.write(json.dumps(load) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the clients stopped at paths like {paths[0]}")
        got = json.loads(line)
        if set(got["statuses"]) != {"200"}:
            raise RuntimeError(f"statuses {got['statuses']} for paths like {paths[0]}")
        spent = [total - before.get(pid, 0.0) for pid, total in server.cpu().items()]
        bodies = {path: base64.b64decode(body) for path, body in got["bodies"].items()}
        return Leg(got["ms"], got["seconds"], got["bytes"], got["cpu_s"], spent, bodies)


@cache
def tiles_of(zoom: int) -> list[tuple[int, int, int]]:
    """Tiles of Web Mercator that meet the box; stock has no others in EPSG:3310."""
    back = Transformer.from_crs("EPSG:3857", "EPSG:3310", always_xy=True)
    west, south, east, north = back.transform_bounds(*BOX, direction=TransformDirection.INVERSE)
    side = 2 * HALF / 2**zoom
    found = []
    for x in range(int((west + HALF) / side), int((east + HALF) / side) + 1):
        for y in range(int((HALF - north) / side), int((HALF - south) / side) + 1):
            left, top = x * side - HALF, HALF - y * side
            bounds = back.transform_bounds(left, top - side, left + side, top)
            if bounds[0] < BOX[2] and bounds[2] > BOX[0] and bounds[1] < BOX[3] and bounds[3] > BOX[1]:
                found.append((zoom, x, y))
    return found


def draw(
    species: Sequence[str], count: int, rng: np.random.Generator, zooms: Sequence[int] = ZOOMS
) -> list[Pair]:
    """Random pairs of a species and a tile, none twice; zooms in turn, a zoom until it has no more pairs."""
    pools: list[list[Pair]] = []
    for zoom in zooms:
        pairs = [(slug, tile) for slug in species for tile in tiles_of(zoom)]
        pools.append([pairs[k] for k in rng.permutation(len(pairs))[:count].tolist()])
    drawn: list[Pair] = []
    while len(drawn) < count and any(pools):
        drawn += [pool.pop() for pool in pools if pool]
    return drawn[:count]


def at_ours(pairs: Sequence[Pair], grid: str = GRIDS["3310"], what: str = ".png") -> list[str]:
    """Paths of tiles at our server."""
    form = "/species/{}/tiles/WebMercatorQuad/{}/{}/{}{}?grid={}"
    return [form.format(slug, *tile, what, grid) for slug, tile in pairs]


def at_stock(pairs: Sequence[Pair], grid: str, what: str = COLOURS) -> list[str]:
    """Paths of the same tiles at stock TiTiler."""
    form = "/{}/{}/tiles/WebMercatorQuad/{}/{}/{}{}"
    return [form.format(grid, slug, *tile, what) for slug, tile in pairs]


class Rounds:
    """Servers that take turns, and the legs of each by name."""

    def __init__(self, case: Case, size: Size, stack: ExitStack) -> None:
        """Start the servers; they end with the stack."""
        self.case, self.size, self.clients = case, size, Clients(stack)
        self.rng = np.random.default_rng(0)
        self.legs: dict[str, list[Leg]] = {}
        plain = {"stock": ["stock", str(case.work / "maps")], "null": ["null"]}
        bare = {"tile_cache_mb": 0, "warm": "no"}
        own = {"ours": bare, "cached": {"warm": "no"}, "two": {**bare, "workers": 2}}
        self.servers = {
            name: stack.enter_context(started([helper("other.py"), *arguments], case.work / f"{name}.log"))
            for name, arguments in plain.items()
        } | {name: stack.enter_context(ours(case, **settings)) for name, settings in own.items()}

    def leg(self, name: str, server: str, paths: Sequence[str], **how: Any) -> None:
        """Have a server asked, and note what came."""
        leg = self.clients.ask(self.servers[server], paths, **how)
        self.legs.setdefault(name, []).append(leg)
        say(f"  {name}: {leg.rate:.0f}/s, p50 {leg.quantile(0.5):.1f} ms")

    def all(self, rounds: int) -> dict[str, Any]:
        """Every round, and what they say together."""
        first, *fresh = self.case.live
        began = time.perf_counter()
        self.clients.ask(self.servers["ours"], at_ours([(first, (5, 5, 12))]), clients=1)
        spent = time.perf_counter() - began  # with an empty cache folder, for the whole group
        share = len(fresh) // (rounds + 1)
        for k in range(rounds + 1):
            say(f"round {k} of {rounds}{'' if k else ', to warm up'}")
            self.stored()
            self.live(fresh[k * share : (k + 1) * share])
            self.finished()
        return {"live_group_s": spent, **numbers(self.legs)}

    def stored(self) -> None:
        """Tiles from files, by all who serve them."""
        size, cores = self.size, os.sched_getaffinity(0)
        for crs, grid in GRIDS.items():
            pairs = draw(self.case.stored, size.pairs, self.rng)
            few = pairs[: size.single]
            self.leg(f"stock_{crs}", "stock", at_stock(pairs, grid), seconds=size.stock_s)
            self.leg(f"ours_{crs}", "ours", at_ours(pairs, grid))
            self.leg(f"stock_{crs}_single", "stock", at_stock(few, grid), clients=1, seconds=size.stock_s)
            self.leg(f"ours_{crs}_single", "ours", at_ours(few, grid), clients=1)
            self.servers["ours"].pin(sorted(cores)[:1])
            self.leg(f"core_{crs}", "ours", at_ours(draw(self.case.stored, size.pairs, self.rng), grid))
            self.servers["ours"].pin(cores)
            self.leg(f"two_{crs}", "two", at_ours(pairs, grid))
            self.leg(f"two_{crs}_single", "two", at_ours(few, grid), clients=1)

    def live(self, fresh: Sequence[str]) -> None:
        """Tiles of species that have no file and were never asked for."""
        firsts = [draw([slug], len(ZOOMS), self.rng)[k % len(ZOOMS)] for k, slug in enumerate(fresh)]
        self.leg("live_first", "ours", at_ours(firsts), clients=1)
        self.leg("live", "ours", at_ours(draw(fresh, self.size.pairs, self.rng)))

    def finished(self) -> None:
        """Tiles that are finished already, and the route that does nothing."""
        paths = at_ours(draw(self.case.stored, self.size.pairs, self.rng))
        self.clients.ask(self.servers["cached"], paths)
        self.leg("cached", "cached", paths * self.size.repeats)
        self.leg("null", "null", ["/null"] * (len(paths) * self.size.repeats))


def table(legs: Sequence[Leg]) -> dict[str, float]:
    """Medians of the rounds of a leg."""
    rows = [
        {
            "per_s": leg.rate,
            "p50_ms": leg.quantile(0.5),
            "p99_ms": leg.quantile(0.99),
            "tail": leg.quantile(0.99) / leg.quantile(0.5),
            "kb": leg.bytes / 1000 / len(leg.ms),
            "cpu_ms": 1000 * sum(leg.server_s) / len(leg.ms),
            "server_cores": sum(leg.server_s) / leg.seconds,
            "client_cores": leg.client_s / leg.seconds,
        }
        for leg in legs
    ]
    return {name: float(median(row[name] for row in rows)) for name in rows[0]}


def numbers(legs: Mapping[str, Sequence[Leg]]) -> dict[str, Any]:
    """What the rounds say; the first one warmed up."""
    of = {name: table(rounds[1:]) for name, rounds in legs.items()}
    first_ms = float(median(ms for leg in legs["live_first"][1:] for ms in leg.ms))
    out: dict[str, Any] = {"live_first_ms": first_ms}
    for crs in GRIDS:
        mine, theirs, single = of[f"ours_{crs}"], of[f"stock_{crs}"], of[f"stock_{crs}_single"]
        for key, each in (("stored", mine), ("live", of["live"])):
            out[f"{key}_{crs}"] = each["per_s"] / theirs["per_s"]
            out[f"{key}_{crs}_cpu"] = theirs["cpu_ms"] / max(each["cpu_ms"], 0.01)
        out[f"stored_{crs}_single"] = single["p50_ms"] / of[f"ours_{crs}_single"]["p50_ms"]
        out[f"stored_{crs}_warming_up"] = legs[f"ours_{crs}"][0].rate / theirs["per_s"]
        out[f"live_first_{crs}"] = first_ms / single["p50_ms"]
        out[f"tail_{crs}"] = mine["tail"]
        out[f"bytes_{crs}"] = mine["kb"] / theirs["kb"]
        out[f"two_{crs}"] = of[f"two_{crs}"]["per_s"] / mine["per_s"]
        out[f"two_{crs}_to_one_core"] = of[f"two_{crs}"]["per_s"] / of[f"core_{crs}"]["per_s"]
        shares = [[spent / leg.seconds for spent in leg.server_s if spent] for leg in legs[f"two_{crs}"][1:]]
        out[f"two_{crs}_cores"] = [[round(share, 2) for share in each] for each in shares]
        out[f"two_{crs}_ms"] = of[f"two_{crs}_single"]["p50_ms"]
    out["cached"] = of["cached"]["per_s"] / of["null"]["per_s"]
    return {**out, "legs": of}


def compare_pixels(rounds: Rounds) -> dict[str, Any]:
    """Shares of the pixels with data in which tiles of both servers differ, by CRS and kind of zoom."""
    out: dict[str, Any] = {"differences": {}}
    for crs, grid in GRIDS.items():
        for kind, zooms in (("coarse", ZOOMS[:2]), ("fine", ZOOMS[2:])):
            pairs = draw(rounds.case.stored, rounds.size.pixels, rounds.rng, zooms)
            paths = at_ours(pairs, grid, "/value"), at_stock(pairs, grid, ".npy")
            mine = rounds.clients.ask(rounds.servers["ours"], paths[0], keep=True).bodies
            theirs = rounds.clients.ask(rounds.servers["stock"], paths[1], keep=True).bodies
            totals: Counter[str] = Counter()
            for one, other in zip(*paths, strict=True):
                totals.update(differences(mine[one], theirs[other]))
            count = totals.pop("pixels")
            shares = {name: differing / count for name, differing in totals.items()}
            out["differences"][f"{crs}_{kind}"] = {"pixels": count, **shares}
        out[f"unexplained_{crs}"] = shares["beyond_a_pixel"]
    return out


def differences(value_png: bytes, npy: bytes) -> dict[str, int]:
    """Pixels in which a value tile of ours and stock's array differ.

    A value of ours is a step of 1/250; stock's mask is the least float32 where there is no data.
    """
    level = np.asarray(Image.open(io.BytesIO(value_png)))
    values, mask = np.load(io.BytesIO(npy))
    here, there, step = level != 255, mask > 0, 1 / 250 + 1e-6
    value = level / 250.0
    low = minimum_filter(np.where(there, values, np.inf), size=3) - step
    high = maximum_filter(np.where(there, values, -np.inf), size=3) + step
    some, every = maximum_filter(there, size=3), minimum_filter(there, size=3)
    beyond = np.where(here, ~some | (value < low) | (value > high), every)
    return {
        "pixels": int((here | there).sum()),
        "data_differs": int((here != there).sum()),
        "value_differs": int((here & there & (np.abs(value - values) > step)).sum()),
        "beyond_a_pixel": int(beyond.sum()),
    }


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
    said = [
        json.loads(subprocess.check_output(command, env=environment(), cwd=HERE.parent))
        for _ in range(repeats)
    ]
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
    said = json.loads(subprocess.check_output(command, env=environment(), cwd=HERE.parent))
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
