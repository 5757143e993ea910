"""A cache bounded by bytes that threads may share; what is missing is computed once, however many ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

from cachetools import LRUCache

Value = TypeVar("Value")


class Lru(Generic[Value]):
    """Least recently used values go first when the bytes run out.

    Attributes:
        limit: Most bytes of all values together; a value larger than this is handed out and not kept.
    """

    def __init__(self, limit: int, size: Callable[[Value], int]) -> None:
        """Make an empty cache.

        Args:
            limit: Most bytes, at least 1.
            size: Bytes of a value; must not change while it is kept.
        """
        self.limit = limit
        self._size = size
        self._kept: LRUCache[Hashable, Value] = LRUCache(max(limit, 1), getsizeof=size)
        self._coming: dict[Hashable, Future[Value]] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made by the first who asks; the others wait for it.

        Args:
            key: What is asked for.
            make: Computes the value; what it raises reaches everybody who waits, and nothing is kept.
        """
        with self._lock:
            if key in self._kept:
                return self._kept[key]
            coming = self._coming.get(key)
            if coming is None:
                mine = self._coming[key] = Future()
        if coming is not None:
            return coming.result()
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                del self._coming[key]
            mine.set_exception(error)
            raise
        with self._lock:
            del self._coming[key]
            if self._size(value) <= self.limit:
                self._kept[key] = value
        mine.set_result(value)
        return value

    def peek(self, key: Hashable) -> Value | None:
        """The value of a key if it is kept; it counts as used."""
        with self._lock:
            return self._kept.get(key)

    def drop(self, wanted: Callable[[Hashable], bool]) -> None:
        """Forget the keys for which `wanted` is true."""
        with self._lock:
            for key in [key for key in self._kept if wanted(key)]:
                del self._kept[key]

    @property
    def bytes(self) -> int:
        """Bytes of all that is kept."""
        with self._lock:
            return int(self._kept.currsize)

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)
