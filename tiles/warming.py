"""The adapter's output of whole grids, computed in the background when the server starts."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence

from geomap.errors import GeomapError
from geomap.onethread import keep_one_thread
from tiles.live import LiveGroup

logger = logging.getLogger(__name__)


class Warmer(threading.Thread):
    """Computes the adapter's output on all cells of groups in the background."""

    def __init__(self, groups: Sequence[LiveGroup], report: Callable[[int, int], None] | None = None) -> None:
        """Prepare; `start` begins.

        Args:
            groups: Which ones, in this order. Overviews of grids that are not held whole are left out.
            report: Told (parts done, parts in all) after every part.
        """
        super().__init__(name="geomap-warm", daemon=True)
        self._parts = [(group, part) for group in groups for part in group.store().parts()]
        self._report, self._stopped = report, threading.Event()
        self.done, self.total = 0, len(self._parts)

    def run(self) -> None:
        """Compute; a damaged field ends it, and the tiles that need it say so themselves."""
        keep_one_thread()
        yield_to_requests()
        for group, part in self._parts:
            if self._stopped.is_set():
                return
            try:
                group.store().blocks(part)
            except GeomapError as error:
                logger.warning("%s cannot be computed ahead: %s", group.heads.name, error)
                return
            self.done += 1
            if self._report is not None:
                self._report(self.done, self.total)

    def stop(self) -> None:
        """End after the part at hand, and wait for that."""
        self._stopped.set()
        if self.is_alive():
            self.join()


def yield_to_requests() -> None:
    """Let this thread run only where nobody waits for an answer; Linux alone gives threads a priority."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
