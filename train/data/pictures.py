"""Rows whose pictures cannot be used: found before training starts, refused or counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.data.columns import Sieve
from train.data.images import CORRUPT, MISSING, check_pictures, require_pictures

CHANGE = "Restore the pictures"


def sift_pictures(sieve: Sieve, column: str, cache: Path) -> None:
    """Refuses or drops rows whose picture file is missing or damaged.

    With `on_error = "raise"` every file must exist, and a damaged one raises when it is read. With "drop"
    every file is decoded once, here, and rows of missing and damaged ones are counted.

    Args:
        sieve: Rows; `column` holds paths.
        column: Name of the column.
        cache: Where verdicts are kept.

    Raises:
        SpecError: A file is missing (on_error "raise"), or the cache cannot be written.
    """
    paths = [Path(path) for path in sieve.frame[column]]
    if sieve.on_error == "raise":
        require_pictures(paths)
        return
    verdicts = np.array(check_pictures(paths, cache), dtype=object)
    for reason in (MISSING, CORRUPT):
        bad = verdicts == reason
        sieve.leave_out(reason, bad)
        verdicts = verdicts[~bad]
