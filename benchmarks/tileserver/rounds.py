"""Rounds in which servers take turns, and what they say together."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks.tileserver.asked import GRIDS, ZOOMS, at_ours, at_stock, draw
from benchmarks.tileserver.servers import Case, Clients, Leg, helper, ours, started


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


def say(text: str) -> None:
    """Say on stderr how far it is."""
    print(text, file=sys.stderr, flush=True)


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
