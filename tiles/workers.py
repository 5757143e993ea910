"""Running the server: in this process, or in several that this one looks after.

A signal to stop (SIGTERM, SIGINT) lets open requests finish and no new ones in; the exit status is then 0. A
worker that dies otherwise is started anew; one that cannot start at all ends the server with its status.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import NoReturn

from tiles.settings import Settings

FAILED = 2  # exit status of a worker that refuses its settings
HOPELESS = (FAILED, 3)  # 3: uvicorn could not start the app
DEATHS, WITHIN_S = 5, 60.0  # more deaths than this in so many seconds end the server
logger = logging.getLogger("tiles")


def serve(settings: Settings, sockets: Sequence[socket.socket]) -> int:
    """Serve until a signal says to stop.

    Args:
        settings: What to serve.
        sockets: Bound sockets, one for each worker.

    Returns:
        Exit status.

    Raises:
        GeomapError: With one worker: what is to be served cannot be opened.
    """
    if settings.workers == 1:
        return serve_here(settings, sockets[0])
    with tempfile.TemporaryDirectory(prefix="geomap-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        return _Supervisor(settings, sockets).run()


def serve_here(settings: Settings, listener: socket.socket) -> int:
    """Serve in this process.

    Returns:
        Exit status: 0 after a signal, else uvicorn's.

    Raises:
        GeomapError: What is to be served cannot be opened.
    """
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, _leave)  # uvicorn raises the signal again when it has drained
    import uvicorn

    from tiles.app import create_app

    app = create_app(settings)
    app.state.served.shown.open()  # a refusal here reads better than in the middle of uvicorn's start
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False,
        proxy_headers=True, forwarded_allow_ips=settings.proxies,
        timeout_graceful_shutdown=settings.drain_s, backlog=2048,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    return 0 if server.started else uvicorn.config.STARTUP_FAILURE


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def core_of(k: int, workers: int) -> int | None:
    """The core that worker `k` keeps to where there is a worker for every core, else None.

    Threads that pass the interpreter's lock from core to core draw half as many tiles as they do on one.
    Where cores are left over the system places the workers, since it knows what else runs.
    """
    if not hasattr(os, "sched_getaffinity"):  # macOS
        return None
    cores = sorted(os.sched_getaffinity(0))
    return cores[k % len(cores)] if 1 < len(cores) <= workers else None


def _work(settings: Settings, listener: socket.socket, core: int | None) -> NoReturn:
    """What runs in a worker process."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    from geomap.errors import GeomapError
    from tiles.observe import configure_logging

    configure_logging(settings)
    threading.Thread(target=_outlive_nobody, daemon=True).start()
    try:
        sys.exit(serve_here(settings, listener))
    except GeomapError as error:
        print(f"Error: {error}", file=sys.stderr, flush=True)
        sys.exit(FAILED)


def _outlive_nobody() -> None:
    """Stop when the process that looks after this one is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


class _Supervisor:
    """Starts workers, and starts them anew when they die."""

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket]) -> None:
        self.settings = settings
        self.sockets = sockets
        self.spawn = multiprocessing.get_context("spawn")
        self.workers: dict[int, SpawnProcess] = {}
        self.deaths: deque[float] = deque(maxlen=DEATHS + 1)
        self.stopping = False

    def run(self) -> int:
        """Look after the workers until a signal comes or one of them cannot start.

        Returns:
            Exit status.
        """
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._stop)
        for k in range(len(self.sockets)):
            self._start(k)
        status = 0
        while not self.stopping and status == 0:
            wait([process.sentinel for process in self.workers.values()], timeout=0.5)
            for k, process in list(self.workers.items()):
                if process.exitcode is not None and not self.stopping:
                    status = status or self._replace(k, process)
        self._finish()
        return status

    def _start(self, k: int) -> None:
        # One worker computes ahead; the others find its work in the cache folder.
        settings = self.settings.model_copy(update={"warm": self.settings.warm and k == 0})
        given = settings, self.sockets[k], core_of(k, len(self.sockets))
        process = self.spawn.Process(target=_work, args=given, name=f"worker {k}")
        process.start()
        self.workers[k] = process

    def _replace(self, k: int, process: SpawnProcess) -> int:
        """Start a worker anew; returns an exit status where that is hopeless."""
        status = process.exitcode or 0
        self.deaths.append(time.monotonic())
        if status in HOPELESS:
            return status
        if len(self.deaths) > DEATHS and self.deaths[-1] - self.deaths[0] < WITHIN_S:
            logger.error("worker %d ended with status %d, after too many others", k, status)
            return 1
        logger.error("worker %d ended with status %d and is started anew", k, status)
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
        self._start(k)
        return 0

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def _finish(self) -> None:
        """Tell every worker to stop and wait until it has."""
        processes = list(self.workers.values())
        for process in processes:
            process.terminate()
        end = time.monotonic() + self.settings.drain_s + 5
        for process in processes:
            process.join(max(0.1, end - time.monotonic()))
            if process.is_alive():
                logger.error("%s does not stop and is killed", process.name)
                process.kill()
                process.join()
