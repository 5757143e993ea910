"""Chip sets: what places look like, as pre-training reads them.

A chip set is an .npz with `lonlat` (n, 2) degrees; `chips_L` (n, bands, pixels, pixels) uint8 and `valid_L`
(n, pixels, pixels) bool for each scale of context L; `season` (n, k) float32; and, without chips, more places
to learn the seasons from: `extra_lonlat` (m, 2), `extra_season` (m, k).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.encoders.pair import default_card
from train.errors import SpecError
from train.spec import EncoderCard

Arrays = Mapping[str, NDArray[Any]]


def read_chips(path: Path) -> dict[str, NDArray[Any]]:
    """Reads a chip set.

    Raises:
        SpecError: when the file is missing, damaged or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SpecError(
            "cannot read the chip set", f"{path}: {error}", "Cut it again with geomap.pretraining."
        ) from error
    missing = {"lonlat", "season", "chips_0", "valid_0"} - set(arrays)
    if missing:
        raise SpecError("cannot read the chip set", f"{path} lacks {sorted(missing)}", "Cut it again.")
    return arrays


def card_for(arrays: Arrays, card: EncoderCard | None = None, credit: str = "") -> EncoderCard:
    """The default card with the band statistics of these chips.

    Args:
        arrays: The chip set.
        card: Another shape to start from.
        credit: Who is to be credited for the imagery.
    """
    card = card or default_card(bands=arrays["chips_0"].shape[1])
    levels = []
    for number, level in enumerate(card.aerial.levels):
        chips = arrays[f"chips_{number}"]
        mean, std = chips.mean(axis=(0, 2, 3)), np.maximum(chips.std(axis=(0, 2, 3)), 1e-3)
        levels.append(replace(level, mean=tuple(map(float, mean)), std=tuple(map(float, std))))
    training = {**card.training, "imagery_credit": credit}
    return replace(card, aerial=replace(card.aerial, levels=tuple(levels)), training=training)


def check_chips(arrays: Arrays, card: EncoderCard) -> None:
    """Refuses chips of another size than the encoders eat.

    Raises:
        SpecError: with the shape found.
    """
    for number, level in enumerate(card.aerial.levels):
        shape = arrays[f"chips_{number}"].shape
        if shape[1:] != (level.bands, level.pixels, level.pixels):
            wanted = f"Cut chips of {level.pixels} pixels and {level.bands} bands."
            raise SpecError("cannot pre-train on these chips", f"chips_{number} of shape {shape}", wanted)


def batch_of(
    arrays: Arrays, card: EncoderCard, rows: NDArray[np.int64], gain: float, generator: torch.Generator
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Chips (jittered once per place, flipped at random), their validity, locations, seasons.

    Args:
        arrays: The chip set.
        card: Shape of the encoders.
        rows: (n,) places.
        gain: Brightness and contrast jitter, relative.
        generator: Source of randomness.
    """
    n = len(rows)
    bright, contrast = (1.0 + gain * (2.0 * torch.rand(2, n, 1, 1, 1, generator=generator) - 1.0)).unbind(0)
    flips = [axis for axis in (-1, -2) if float(torch.rand(1, generator=generator)) < 0.5]
    chips, valid = [], []
    for number in range(len(card.aerial.levels)):
        pixels = torch.from_numpy(arrays[f"chips_{number}"][rows]).float()
        middle = pixels.mean(dim=(2, 3), keepdim=True)
        chips.append(((pixels - middle) * contrast + middle * bright).flip(flips))
        valid.append(torch.from_numpy(arrays[f"valid_{number}"][rows]).flip(flips))
    lonlat = torch.from_numpy(arrays["lonlat"][rows])
    return chips, valid, lonlat, torch.from_numpy(arrays["season"][rows])
