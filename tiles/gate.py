"""The threads that draw: a bounded number of them, a bounded queue before them, and a refusal beyond.

Everything that reads pixels goes through here, so the event loop stays free for what needs no thread: tiles
that are finished already, and /healthz.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

from tiles.errors import BusyError

P = ParamSpec("P")
T = TypeVar("T")


class Gate:
    """A bounded pool of threads for one event loop.

    Attributes:
        threads: How many requests are worked on at once.
        queue: How many may wait.
        inside: How many are there, worked on or waiting.
        sharing: How many wait for work that may be shared.
    """

    def __init__(self, threads: int, queue: int) -> None:
        self.threads = threads
        self.queue = queue
        self.inside = 0
        self.sharing = 0
        self._pool: ThreadPoolExecutor | None = None
        self._running: dict[Any, asyncio.Future[Any]] = {}

    async def run(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do a piece of work in a thread.

        Raises:
            BusyError: The queue is full.
        """
        if self.inside >= self.threads + self.queue:
            raise BusyError(
                "cannot answer now", f"{self.inside} requests before this one", "Ask again in a second."
            )
        self.inside += 1
        try:
            loop = asyncio.get_running_loop()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="tiles")
            # The context carries the request's id into what the thread logs.
            inner = partial(copy_context().run, work, *args, **kwargs)
            return await loop.run_in_executor(self._pool, inner)
        finally:
            self.inside -= 1

    async def once(self, key: Any, work: Callable[[], T]) -> T:
        """Do a piece of work once for all who ask for the same at the same time.

        Args:
            key: What is asked for.
            work: Makes it.

        Raises:
            BusyError: The queue is full.
        """
        running = self._running.get(key)
        if running is None:
            running = asyncio.ensure_future(self.run(work))
            self._running[key] = running
            running.add_done_callback(lambda _: self._running.pop(key, None))
        # Whoever goes away must not take the work from the others.
        self.sharing += 1
        try:
            result: T = await asyncio.shield(running)
        finally:
            self.sharing -= 1
        return result

    def close(self) -> None:
        """End the threads, what runs first; whoever comes later starts new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
