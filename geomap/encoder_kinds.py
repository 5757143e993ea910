"""What a sweep can encode with: the dense encoders of maps, or the aerial side of a training run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from geomap.chip_encoders import ChipEncoders
from geomap.encode import encode_cells
from geomap.grid import Grid, Window
from geomap.imagery import ImagerySource
from geomap.lattice import Index
from train.encoders.pair import CARD, Encoders, load_encoders
from train.errors import CheckpointError

SweepEncoders: TypeAlias = Encoders | ChipEncoders


def load_sweep_encoders(
    path: str | Path, month: int | None = None, metres: float | None = None
) -> SweepEncoders:
    """Encoders from a folder: of geomap's own bundle, or a run of `train.pretrain`.

    Args:
        path: The folder.
        month: 1..12, told to encoders of a run that were told dates.
        metres: Side of a pixel of a run's chips [m], where the run does not say it.

    Raises:
        CheckpointError: nothing there that can be used, or month and metres for encoders that take neither.
    """
    folder = Path(path)
    if not _is_run(folder):
        if month is not None or metres is not None:
            found = f"{folder} holds dense encoders, which know neither months nor chips"
            raise CheckpointError("cannot use --month or --metres", found, "Leave them out.")
        return load_encoders(folder)
    return ChipEncoders(folder, month, metres)


def _is_run(folder: Path) -> bool:
    try:
        return "objective" in json.loads((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # load_encoders says what is wrong


def encode_with(
    encoders: SweepEncoders,
    source: ImagerySource,
    grid: Grid,
    window: Window,
    cells: NDArray[np.bool_],
    lonlat: NDArray[np.float64],
) -> Iterator[tuple[Index, NDArray[np.float32]]]:
    """`geomap.encode.encode_cells` by whatever encoders."""
    if isinstance(encoders, ChipEncoders):
        return encoders.encode_cells(source, grid, window, cells, lonlat)
    return encode_cells(encoders, source, grid, window, cells, lonlat)
