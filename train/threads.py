"""How many CPU threads torch may use for a piece of work.

Sums are split by thread, so the last bit of a result depends on the number of threads. Work whose bytes must
not depend on the machine's load or the number of worker processes runs inside `one_thread()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside the block, then restore the number it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
