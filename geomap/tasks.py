"""Running many independent tasks: one after another in this process, or on Dask.

    for result in run_tasks(work, tasks, workers=4): ...

The same `work` function runs either way. Tasks are handed to Dask a few at a time, so that neither the
scheduler nor this process ever holds all of them, and what they carry should be small: paths, a grid, window
numbers.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from geomap.errors import SchedulerError

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 2  # tasks per worker thread on Dask at a time: one runs, one waits
TRIM = "MALLOC_TRIM_THRESHOLD_"  # of glibc
ANSWER_S = 8.0  # how long a scheduler and its first worker may take to answer [s]
# The client's errors are raised as a SchedulerError; the loop's are those of waits that Ctrl-C ended, and
# where it comes between two lines of distributed, a traceback of that.
TOLD_ELSEWHERE = ("distributed.client", "tornado.application")


def run_tasks(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    *,
    workers: int = 0,
    scheduler: str | None = None,
) -> Generator[Result, None, None]:
    """Yield the results of `work` on every task, in the order in which they finish.

    Args:
        work: A function that can be pickled.
        tasks: Drawn one by one as workers become free.
        workers: 0 or 1 run in this process without Dask; from 2 on, a local Dask cluster of so many processes
            with one thread each is started and closed again.
        scheduler: Address (`tcp://host:port`) of a running Dask scheduler to use instead.

    Raises:
        SchedulerError: The scheduler or its workers do not answer, or went away.
        Exception: What `work` raised; the tasks that wait are dropped.
    """
    if scheduler is None and workers <= 1:
        yield from map(work, tasks)
        return
    with _client(workers, scheduler) as client:
        yield from _run_on(client, work, iter(tasks))


def _run_on(client: Client, work: Callable[[Task], Result], tasks: Iterator[Task]) -> Iterator[Result]:
    from distributed import as_completed

    def submit(n: int) -> list[Future[Result]]:
        return [client.submit(work, task, pure=False) for task in islice(tasks, n)]

    running = as_completed(submit(AHEAD * max(1, sum(client.nthreads().values()))))
    for future in running:
        yield _result(future)
        running.update(submit(1))


def _result(future: Future[Result]) -> Result:
    """The result of a finished task; what went wrong with the cluster becomes a SchedulerError."""
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        found = f"a worker died {error.allowed_failures + 1} times on the same task"
        raise _gone(found, "give the workers more memory, or use fewer") from error
    except CancelledError as error:
        raise _gone("the scheduler dropped the tasks or went away", "start it, then --resume") from error
    except ImportError as error:
        raise _gone(f"a worker has no {error.name}", "install geomap where the workers run") from error


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Client]:
    """A client of the given scheduler, or of a local cluster that lives as long as the client."""
    import dask
    from distributed import Client

    with dask.config.set({"distributed.comm.timeouts.connect": ANSWER_S}), _quiet(*TOLD_ELSEWHERE):
        if scheduler is not None:
            with _connect(scheduler) as client:
                yield client
            return
        with _ignore_interrupts():  # workers inherit this: Ctrl-C stops this process, which stops them
            cluster = local_cluster(workers)
        with _closed(cluster), Client(cluster) as client:
            yield client


def local_cluster(workers: int) -> LocalCluster:
    """A Dask cluster of `workers` processes with one thread each on this machine.

    By custom Dask's workers hand all freed memory back at once. A sweep asks for the same arrays again for
    every unit, and the kernel would spend nearly as long on giving pages as the encoders on using them.
    """
    import dask
    from distributed import LocalCluster

    key = "distributed.nanny.pre-spawn-environ"
    environment = {name: value for name, value in dask.config.get(key).items() if name != TRIM}
    with dask.config.set({key: environment}):
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            memory_limit=None,
        )


@contextmanager
def _closed(cluster: LocalCluster) -> Iterator[None]:
    """Close the cluster at the end, also when a nanny is just then starting a worker that died anew."""
    try:
        yield
    finally:
        try:
            cluster.close()
        except AssertionError as error:
            if "can only join a started process" not in str(error):
                raise


def _connect(scheduler: str) -> Client:
    from distributed import Client

    with ThreadPoolExecutor(1) as thread:  # a loop of its own: a notebook's is running already
        thread.submit(asyncio.run, _probe(scheduler)).result()
    client = Client(scheduler, timeout=ANSWER_S)
    try:
        client.wait_for_workers(1, timeout=ANSWER_S)
    except TimeoutError as error:
        client.close()
        found = f"{scheduler} has no workers"
        raise _gone(found, f"start some with `dask worker {scheduler}`, or use --workers") from error
    return client


async def _probe(scheduler: str) -> None:
    """Ask whether a Dask scheduler lives at an address; a Client that cannot connect never quite closes."""
    from distributed import rpc

    change = "start `dask scheduler` and give its address, or use --workers"
    try:
        async with asyncio.timeout(ANSWER_S), rpc(scheduler) as remote:
            identity = await remote.identity()
    except (OSError, ValueError, MemoryError) as error:  # MemoryError: another protocol, read as a length
        reason = str(error) or f"nothing heard in {ANSWER_S:.0f} s"
        raise _gone(f"{scheduler} does not answer as a scheduler ({reason})", change) from error
    if identity.get("type") != "Scheduler":
        raise _gone(f"{scheduler} is a Dask {identity.get('type')}", change)


def _gone(found: str, change: str) -> SchedulerError:
    return SchedulerError("cannot run the tasks on Dask", found, change)


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Keep loggers silent inside the block."""
    logs = [logging.getLogger(name) for name in loggers]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)


@contextmanager
def _ignore_interrupts() -> Iterator[None]:
    """Ignore SIGINT inside the block; processes started there ignore it for good."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change signals
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
