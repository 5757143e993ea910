"""The aerial encoder of a training run, swept over a grid chip by chip.

The encoders of the bundle are dense: a pass over a window gives every pixel its context. An encoder of
`train.pretrain` is any backbone with strides and pooling, so each cell's chip is cut out and encoded by
itself. Chips lie on the pixel lattice of geomap.lattice, so that a cell has the same chip whatever window or
process it is encoded in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geomap.errors import ImageryError
from geomap.grid import Grid, Window
from geomap.imagery import ImagerySource
from geomap.lattice import Index, Lattice, Limits, lattice_crs, windows
from geomap.projection import WGS84, project
from train.checkpoint import WEIGHTS
from train.errors import CheckpointError
from train.pretrain import load_model
from train.threads import one_thread

BATCH = 64  # chips encoded at once
COVERED = 0.5  # share of a chip that must have imagery
MIDDLE_OF_MONTH = 15
RANGE = 6.0  # standard deviations of an embedding's numbers that int8 spans; 1 is the bound of a unit vector
READ = Limits(side=1024, overhead=20_000)


class ChipEncoders:
    """The aerial side of a run, frozen.

    Args:
        run: Folder of a finished run of an objective that reads chips.
        month: 1..12, for encoders that were told dates; None where the date is unknown.
        metres: Side of a pixel of the chips [m]; None: as the run's data say.

    Raises:
        CheckpointError: no such run, or one that reads no chips, or chips of unknown size on the ground.
        SpecError: a damaged card.
    """

    def __init__(self, run: Path, month: int | None = None, metres: float | None = None) -> None:
        model, self.card = load_model(run)
        self.model: nn.Module = model.requires_grad_(False)
        if "aerial" not in getattr(model, "views", ()):
            found = (
                f"{run} was trained by {self.card['objective']} on {', '.join(getattr(model, 'views', ()))}"
            )
            raise CheckpointError("cannot encode imagery", found, "Give a run that reads chips.")
        pixel = metres or self.card.get("metres_per_pixel")
        if not pixel:
            change = "Say how many metres a pixel has: --metres."
            raise CheckpointError("cannot cut chips", f"{run} does not say their size on the ground", change)
        self.metres, self.month = float(pixel), month
        aerial = self.card["model"]["aerial"]
        self.bands, self.size = int(aerial["bands"]), int(aerial["size"])
        self.fill = np.asarray(aerial["mean"], np.float32)[:, None, None]
        self.dim = self._encode(
            np.zeros((1, self.bands, self.size, self.size)) + self.fill, np.zeros((1, 2))
        ).shape[1]
        step = min(1.0, RANGE / np.sqrt(self.dim)) / 127
        self.quant_scale = np.full(self.dim, step, np.float32)
        self.hash = _digest(run, self.card, month, self.metres)

    def encode_cells(
        self,
        source: ImagerySource,
        grid: Grid,
        window: Window,
        cells: NDArray[np.bool_],
        lonlat: NDArray[np.float64],
    ) -> Iterator[tuple[Index, NDArray[np.float32]]]:
        """Embeddings of the chosen cells of a window; see `geomap.encode.encode_cells`.

        A chip of even size has its middle half a pixel south-east of the pixel that holds the cell's centre.
        Pixels without imagery get the mean of the training chips; a chip with less than half of its pixels,
        or without imagery in its middle, is not encoded.
        """
        crs = lattice_crs(grid)
        lattice = Lattice(crs, self.metres)
        at = np.rint(lattice.positions(project(lonlat, WGS84, crs.to_wkt())))
        before = self.size // 2
        for box, members in windows(at, np.arange(len(at)), before, READ):
            image, has_image = source.read(lattice.geobox(box))
            corner = at[members].astype(int) - (box.row + before, box.col + before)
            for start in range(0, len(members), BATCH):
                rows = members[start : start + BATCH]
                chips, enough = self._cut(image, has_image, corner[start : start + BATCH])
                if enough.any():
                    yield rows[enough], self._encode(chips[enough], lonlat[rows[enough]])

    def _cut(
        self, image: NDArray[np.float32], has_image: NDArray[np.bool_], corner: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Chips (k, bands, size, size), and which of them have enough imagery."""
        size, middle = self.size, self.size // 2
        chips = np.empty((len(corner), self.bands, size, size), np.float32)
        enough = np.zeros(len(corner), np.bool_)
        for number, (row, col) in enumerate(corner):
            view = (slice(row, row + size), slice(col, col + size))
            valid = has_image[view]
            enough[number] = valid.mean() >= COVERED and valid[middle, middle]
            chips[number] = np.where(valid, image[(slice(None), *view)], self.fill)
        return chips, enough

    def _encode(self, chips: NDArray[np.floating], lonlat: NDArray[np.float64]) -> NDArray[np.float32]:
        """(k, dim) float32 unit vectors."""
        day = (float(self.month), float(MIDDLE_OF_MONTH)) if self.month else (np.nan, np.nan)
        batch: dict[str, Tensor] = {
            "aerial": torch.from_numpy(np.asarray(chips, np.float32)),
            "lonlat": torch.from_numpy(np.asarray(lonlat, np.float64)),
            "date": torch.tensor([day] * len(chips), dtype=torch.float32),
        }
        with one_thread(), torch.inference_mode():
            encoded: Tensor = self.model.encode("aerial", batch)  # type: ignore[operator]
        return np.asarray(encoded.numpy(), np.float32)


def _digest(run: Path, card: dict[str, Any], month: int | None, metres: float) -> str:
    """sha256 of weights and of what else decides on an embedding."""
    digest = hashlib.sha256((run / WEIGHTS).read_bytes())
    digest.update(repr((card["objective"], card["model"], month, float(metres))).encode())
    return digest.hexdigest()


def require_same_bands(encoders: ChipEncoders, source: ImagerySource) -> None:
    """Refuses imagery with other bands than the chips that the run was trained on.

    Raises:
        ImageryError: with both numbers.
    """
    if source.bands != encoders.bands:
        found = f"{source.bands} bands in the imagery, {encoders.bands} in the chips of the run"
        raise ImageryError("cannot encode the imagery", found, "give imagery with the bands of the training")
