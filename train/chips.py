"""Chip sets: what places look like, as pre-training reads them.

A chip set is an .npz with `lonlat` (n, 2) degrees; `chips_L` (n, bands, pixels, pixels) uint8 and `valid_L`
(n, pixels, pixels) bool for each scale of context L; `season` (n, k) float32; and, without chips, more places
to learn the seasons from: `extra_lonlat` (m, 2), `extra_season` (m, k).
"""

from __future__ import annotations

import hashlib
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
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise SpecError(
            "cannot read the chip set", f"{path}: {error}", "Cut it again with geomap.pretraining."
        ) from error
    missing = {"lonlat", "season", "chips_0", "valid_0"} - set(arrays)
    if missing:
        raise SpecError("cannot read the chip set", f"{path} lacks {sorted(missing)}", "Cut it again.")
    if arrays["chips_0"].ndim != 4 or arrays["chips_0"].size == 0:
        found = f"{path} has chips_0 of shape {arrays['chips_0'].shape}"
        raise SpecError("cannot read the chip set", found, "Cut it again.")
    return arrays


def digest(arrays: Arrays) -> str:
    """sha256 of a chip set, to be kept in the card of what was trained on it."""
    whole = hashlib.sha256()
    for name in sorted(arrays):
        whole.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        whole.update(np.ascontiguousarray(arrays[name]).data)
    return whole.hexdigest()


def card_for(arrays: Arrays, card: EncoderCard | None = None, credit: str = "") -> EncoderCard:
    """The default card with the band statistics of these chips.

    Args:
        arrays: The chip set.
        card: Another shape to start from.
        credit: Who is to be credited for the imagery.

    Raises:
        SpecError: when the chips do not fit the shape.
    """
    card = card or default_card(bands=arrays["chips_0"].shape[1])
    check_chips(arrays, card)
    levels = []
    for number, level in enumerate(card.aerial.levels):
        chips = arrays[f"chips_{number}"]
        mean, std = chips.mean(axis=(0, 2, 3)), np.maximum(chips.std(axis=(0, 2, 3)), 1e-3)
        levels.append(replace(level, mean=tuple(map(float, mean)), std=tuple(map(float, std))))
    training = {**card.training, "imagery_credit": credit}
    return replace(card, aerial=replace(card.aerial, levels=tuple(levels)), training=training)


def check_chips(arrays: Arrays, card: EncoderCard) -> None:
    """Refuses arrays of another shape than the encoders eat, or that do not belong together.

    Raises:
        SpecError: with the array and the shape found.
    """
    places = len(arrays["lonlat"])
    wanted: dict[str, tuple[int, ...]] = {
        "lonlat": (places, 2),
        "season": (places, arrays["season"].shape[-1]),
    }
    for number, level in enumerate(card.aerial.levels):
        wanted[f"valid_{number}"] = (places, level.pixels, level.pixels)
        wanted[f"chips_{number}"] = (places, level.bands, level.pixels, level.pixels)
    for name, shape in wanted.items():
        found = arrays[name].shape if name in arrays else "missing"
        if found != shape:
            change = f"Cut chips that make it {shape}."
            raise SpecError("cannot pre-train on these chips", f"{name}: {found}", change)


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
