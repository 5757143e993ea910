"""Linear algebra on one thread of this process, so that the bytes of a map do not depend on the machine.

Several threads add up in another order, which may turn the last bit of a score. The limit belongs to the
whole process: `ONE_THREAD` counts who is inside, sets it for the first and lifts it after the last. Limits
that are set and lifted by each thread on its own undo one another while a third still adds up.
"""

from __future__ import annotations

import threading
from typing import Any

from threadpoolctl import OpenBLASController, ThreadpoolController  # type: ignore[import-untyped]


class OneThread:
    """A limit of one thread for BLAS, held while any thread of this process is inside; re-entrant.

    torch has threads of its own, see train.threads.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._gate = threading.Lock()
        self._pools: Any = None
        self._limit: Any = None
        self._inside = 0

    def __enter__(self) -> None:
        with self._gate:
            if self._inside == 0:
                # Found once: finding the pools takes longer than scoring a small unit.
                self._pools = self._pools or ThreadpoolController().select(user_api="blas")
                _take_control()
                self._limit = self._pools.limit(limits=1)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._gate:
            self._inside -= 1
            if self._inside == 0:
                _take_control()  # the last to leave need not be the first that came
                self._limit.restore_original_limits()
                _take_control()


def _take_control() -> None:
    """Let the thread at hand set the limit: from all but one thread, threadpoolctl ignores that silently."""
    OpenBLASController.clear_controlling_thread(force=True)


ONE_THREAD = OneThread()
_kept = threading.Event()


def keep_one_thread() -> None:
    """Set the limit for the rest of this process, for servers whose requests share the cores already."""
    if not _kept.is_set():
        _kept.set()
        ONE_THREAD.__enter__()
