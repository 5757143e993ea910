"""Running the tasks of a render, in this process or in several, and showing how far it is."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from itertools import count, islice
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from geomap.errors import SchedulerError

if TYPE_CHECKING:
    from geomap.sweep import Progress as SweepProgress

Result = TypeVar("Result")
AHEAD = 2  # tasks that every other process has at hand, so that it never waits for this one


class Workers(Protocol):
    """Runs a function on numbers and yields the results as they come."""

    def __call__(self, work: Callable[[int], Result], numbers: Iterable[int]) -> Iterator[Result]:
        """Results of `work` on every number, in any order; what `work` raises is raised."""
        ...


@contextmanager
def workers_of(processes: int) -> Iterator[Workers]:
    """Workers for as long as the block runs; one process means this one.

    Raises:
        SchedulerError: A process died.
    """
    if processes <= 1:
        yield lambda work, numbers: map(work, numbers)
        return
    # This process works, too: it has something to do while the others still import what they need.
    # spawn: a fork would copy the threads' locks of libraries that this process has loaded
    pool = ProcessPoolExecutor(processes - 1, mp_context=get_context("spawn"), initializer=_ignore_interrupts)

    def run(work: Callable[[int], Result], numbers: Iterable[int]) -> Iterator[Result]:
        rest, away = iter(numbers), set[Future[Result]]()
        while True:
            for future in [future for future in away if future.done()]:
                away.remove(future)
                yield future.result()
            away |= {
                pool.submit(work, number) for number in islice(rest, AHEAD * (processes - 1) - len(away))
            }
            mine = list(islice(rest, 1))
            if mine:
                yield work(mine[0])
            elif away:
                wait(away, return_when=FIRST_COMPLETED)
            else:
                return

    try:
        yield run
    except BrokenProcessPool as error:
        raise SchedulerError(
            "cannot go on rendering",
            "a worker process died, most likely for want of memory",
            "use fewer --workers",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Bar:
    """A progress bar of which one stage shows at a time."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=None, visible=False)

    def start(self, stage: str, total: int) -> None:
        """Begin a stage of so many steps."""
        self._bar.reset(self._task, description=stage, total=total, visible=True)

    def at(self, stage: str, done: int) -> None:
        """So many steps are done, and this one is under way."""
        self._bar.update(self._task, description=stage, completed=done)

    def advance(self, steps: int) -> None:
        """So many steps more are done."""
        self._bar.advance(self._task, steps)

    def encoding(self, state: SweepProgress) -> None:
        """Show how far the encoding of imagery is."""
        self._bar.update(
            self._task, description="encoding imagery", total=state.total, completed=state.done, visible=True
        )


@contextmanager
def progress_bar(console: Console) -> Iterator[Bar]:
    """A bar that vanishes when the block ends; nothing where the output is no terminal."""
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True)
    with (
        bar if console.is_interactive or console.is_jupyter else nullcontext()
    ):  # rich would print a blank line
        yield Bar(bar)


@contextmanager
def stages_shown(console: Console, total: int) -> Iterator[Callable[[str], None]]:
    """Prints each stage with the seconds so far, above a bar of about so many that vanishes at the end."""
    began = time.monotonic()
    with progress_bar(console) as bar:
        bar.start("", total)
        steps = count()

        def tell(stage: str) -> None:
            console.print(f"{time.monotonic() - began:5.0f} s  {stage}")
            bar.at(stage, next(steps))

        yield tell


def _ignore_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; the parent alone decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
