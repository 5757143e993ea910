"""Servers in processes of their own, and the process of clients that asks them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


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


def environment(**more: str) -> dict[str, str]:
    """Variables of a process that finds this repository's packages and computes with one thread."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GEOMAP_TILES_")}
    return {**kept, **threads, "PYTHONPATH": paths, **more}


def helper(name: str) -> str:
    """Path of a program beside this file."""
    return str(HERE / name)


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
