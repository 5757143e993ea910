"""What `geomap fit` is asked for, and what of it makes no sense."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from geomap.errors import HeadsError, RecordsError


@dataclass(frozen=True)
class FitRequest:
    """Everything that `geomap.fit` is asked for."""

    out: Path | None  # folder of the heads; its name becomes theirs; None: they are not written
    records: Path | pd.DataFrame | None = None  # presence-only table
    surveys: Path | pd.DataFrame | None = None  # complete surveys
    field: Path | None = (
        None  # embedding field; None with grid and imagery None: the shipped one that fits the records
    )
    grid: str | None = None  # name of a shipped field
    imagery: str | None = None  # encodes what the field does not have, or all without --field and --grid
    encoders: Path | None = None  # for the imagery; None: the shipped ones
    folds: int = 5  # of the cross-validation
    block_degrees: float | None = None  # side of its blocks; None: 0.5 within 12 x 12 degrees, else 5
    min_records: int = 10  # cells or locations with the species; fewer: left out and listed
    max_uncertainty: float | None = (
        None  # m, of presence-only records; None: the side of a cell, at least 1 km
    )
    background: int = 10_000  # random land cells of presence-only fits
    seed: int = 0  # of folds, background, adapter and null model
    credit: str = ""  # of the records, kept in the heads
    licence: str = ""  # of the records, kept in the heads
    overwrite: bool = False
    period: tuple[str, str] | None = None  # first and last day of the records; None: as their eventDate says
    keep_records: bool = False  # write what the tile server may show of the records beside the heads


def refuse_nonsense(request: FitRequest) -> None:
    """Refuse options that contradict each other or make no sense.

    Raises:
        RecordsError: No table is given, or a number is out of its range.
        HeadsError: Two fields are named.
    """
    if request.records is None and request.surveys is None:
        raise RecordsError(
            "cannot fit species", "neither --records nor --surveys", "Give one of them, or both"
        )
    if request.field is not None and request.grid is not None:
        raise HeadsError(
            "cannot choose the field",
            f"--field {request.field} and --grid {request.grid}",
            "Give one of them",
        )
    if request.block_degrees is not None and not 0 < request.block_degrees <= 90:
        raise RecordsError(
            "cannot make blocks",
            f"--block-degrees {request.block_degrees:g}",
            "Give a side above 0 and up to 90",
        )
    if request.max_uncertainty is not None and not request.max_uncertainty > 0:
        raise RecordsError(
            "cannot sift the records", f"--max-uncertainty {request.max_uncertainty:g}", "Give metres above 0"
        )
