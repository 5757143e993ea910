"""Every kind of data set by name, as recipes call it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train import landscape
from train.batch import Observations
from train.data import chip_folder, cinat, fmow, inat2018, nmv, photos
from train.errors import SpecError

OPENERS: dict[str, Callable[..., Observations]] = {
    "chips": chip_folder.open,
    "cinat": cinat.open,
    "fmow": fmow.open,
    "inat2018": inat2018.open,
    "landscape": landscape.open,
    "nmv": nmv.open,
    "photos": photos.open,
}


def open_observations(kind: str, path: str | Path | None = None, **options: Any) -> Observations:
    """Opens a data set.

    Args:
        kind: A key of `OPENERS`.
        path: Where it lies; a landscape is computed and has no path.
        options: Keyword options of that kind's `open`.

    Raises:
        SpecError: The kind or an option is unknown, a path is missing, or the data cannot be used.
    """
    if kind not in OPENERS:
        raise SpecError(
            "cannot open a data set", f"kind {kind!r}", f"Use one of: {', '.join(sorted(OPENERS))}."
        )
    opener = OPENERS[kind]
    known = options_of(kind)
    unknown = sorted(set(options) - set(known))
    if unknown:
        found = f"{kind} has no option {', '.join(unknown)}"
        raise SpecError("cannot open a data set", found, f"Its options are: {', '.join(sorted(known))}.")
    needs_path = "path" in inspect.signature(opener).parameters
    if needs_path != (path is not None):
        found, change = ("no path", "Give one") if needs_path else (f"path {path}", "Leave it out")
        raise SpecError(f"cannot open data of kind {kind}", found, f"{change}: path = ...")
    return opener(path, **options) if needs_path else opener(**options)


def options_of(kind: str) -> dict[str, Any]:
    """Options of a kind and their defaults."""
    parameters = inspect.signature(OPENERS[kind]).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
