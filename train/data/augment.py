"""Random changes of images while training; validation and test see the images as they are.

Photos keep up and down; chips from above may be turned, and are not scaled by default, because the size of a
pixel on the ground means something there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from train.batch import Batch, Observations
from train.data.table import batch_of, tiles_of
from train.errors import SpecError


@dataclass(frozen=True)
class Augmentation:
    """What may happen to an image."""

    pixels: int = 0
    """Side of what comes out [pixels]; 0 keeps the side of the image."""
    crop: float = 0.35
    """Least share of the area that a random crop keeps; 1 crops only where `pixels` asks for it."""
    stretch: float = 0.25
    """Largest change of the aspect ratio of a crop, relative."""
    flip: bool = True
    """Mirror left and right."""
    turn: bool = False
    """Turn by quarters, for images from above."""
    jitter: float = 0.2
    """Largest change of brightness, contrast and (of three bands) saturation, relative."""
    grey: float = 0.0
    """Share of the images (of three bands) that lose their colour, so that grey photos are met as well."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        shares = 0 < self.crop <= 1 and 0 <= self.grey <= 1
        if self.pixels < 0 or not shares or not 0 <= self.stretch < 1 or not 0 <= self.jitter < 1:
            change = "Give pixels >= 0, crop in ]0, 1], grey in [0, 1], stretch and jitter in [0, 1[."
            raise SpecError("cannot augment images", f"{self}", change)


GROUND = Augmentation()
AERIAL = Augmentation(crop=1.0, stretch=0.0, turn=True, jitter=0.1)


def augment(image: Tensor, how: Augmentation) -> Tensor:
    """Changes an image at random, by torch's global generator; see `augment_batch`."""
    return augment_batch(image[None], how)[0]


def augment_batch(images: Tensor, how: Augmentation) -> Tensor:
    """Changes every image of a batch at random, each in its own way, by torch's global generator.

    Args:
        images: (n, bands, h, w), uint8 or float32.
        how: What may happen.

    Returns:
        (n, bands, side, side) of the same type; whole numbers stay in the range of their type.

    Raises:
        SpecError: The images are smaller than the crop that is asked for.
    """
    side = how.pixels or min(images.shape[-2:])
    x = _windows(images, side) if how.crop == 1.0 else _scaled_crops(images, side, how)
    x = torch.where(_chance(len(x), how.flip), x.flip(-1), x)
    if how.turn:
        quarters = torch.randint(4, (len(x), 1, 1, 1))
        for turns in (1, 2, 3):
            x = torch.where(quarters == turns, torch.rot90(x, turns, (-2, -1)), x)
    if how.jitter:
        x = _jittered(x, how.jitter)
    if how.grey and x.shape[1] == 3:
        x = torch.where(torch.rand(len(x), 1, 1, 1) < how.grey, _grey(x), x)
    if not images.is_floating_point():
        limits = torch.iinfo(images.dtype)
        x = x.round().clamp(limits.min, limits.max)
    return x.to(images.dtype).contiguous()


def _chance(n: int, wanted: bool) -> Tensor:
    """(n, 1, 1, 1) bool, True with probability one half."""
    return (torch.rand(n, 1, 1, 1) < 0.5) & wanted


def _between(n: int, low: float, high: float) -> Tensor:
    """(n, 1, 1, 1) numbers in a range."""
    return low + (high - low) * torch.rand(n, 1, 1, 1)


def _windows(images: Tensor, side: int) -> Tensor:
    """Random squares of the images' own pixels, float32."""
    height, width = images.shape[-2:]
    if side > min(height, width):
        found = f"{height} x {width} pixels, {side} wanted"
        raise SpecError("cannot crop an image", found, "Ask for fewer pixels, or allow crop < 1.")
    if side == height == width:
        return images.float()
    tops, lefts = (torch.randint(free - side + 1, (len(images),)).tolist() for free in (height, width))
    at = zip(images, tops, lefts, strict=True)
    return torch.stack([image[:, top : top + side, left : left + side] for image, top, left in at]).float()


def _scaled_crops(images: Tensor, side: int, how: Augmentation) -> Tensor:
    """Random rectangles of the images, scaled to squares of a side; float32, bilinear."""
    n, _, height, width = images.shape
    x = images.float()
    most = math.ceil(1.5 * side / math.sqrt(how.crop))
    if min(height, width) > most:  # sampling far apart would alias: shrink by area first
        scale = most / min(height, width)
        shrunk = (round(height * scale), round(width * scale))
        x = functional.interpolate(x, shrunk, mode="bilinear", antialias=True, align_corners=False)
    area = _between(n, how.crop, 1.0).flatten() * min(height, width) ** 2
    ratio = torch.exp(_between(n, -1.0, 1.0).flatten() * math.log1p(how.stretch))
    wide = (torch.sqrt(area * ratio) / width).clamp(max=1.0)  # of the whole
    tall = (torch.sqrt(area / ratio) / height).clamp(max=1.0)
    right, down = ((2 * torch.rand(n) - 1) * (1 - part) for part in (wide, tall))
    nothing = torch.zeros(n)
    theta = torch.stack([wide, nothing, right, nothing, tall, down], dim=1).reshape(n, 2, 3)
    grid = functional.affine_grid(theta, [n, x.shape[1], side, side], align_corners=False)
    return functional.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _jittered(x: Tensor, most: float) -> Tensor:
    bright, contrast, colour = (_between(len(x), 1 - most, 1 + most) for _ in range(3))
    middle = x.mean(dim=(2, 3), keepdim=True)
    x = (x - middle) * contrast + middle * bright
    if x.shape[1] == 3:
        grey = x.mean(dim=1, keepdim=True)
        x = (x - grey) * colour + grey
    return x


def _grey(x: Tensor) -> Tensor:
    """(n, 3, h, w) with the luma of ITU-R BT.601 in all bands, which grey files hold (Pillow's mode L)."""
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype)[:, None, None]
    return (x * luma).sum(dim=1, keepdim=True).expand_as(x)


class Augmented(Dataset[Batch]):
    """Observations whose images change at random whenever they are asked for.

    Args:
        of: The observations (a training part, see `train.data.table.Selection`).
        how: View -> what may happen to it.

    Raises:
        SpecError: The observations have no such view.
    """

    def __init__(self, of: Observations, how: Mapping[str, Augmentation]) -> None:
        unknown = set(how) - ({"ground", "aerial"} & set(of.views))
        if unknown:
            found = f"views {sorted(unknown)}, of {list(of.views)}"
            raise SpecError("cannot augment images", found, "Name views that are images and that there are.")
        self.of, self.how = of, dict(how)
        self.classes, self.views = of.classes, of.views
        self.dropped, self.digest = of.dropped, of.digest

    def __len__(self) -> int:
        """Number of observations."""
        return len(self.of)

    def __getitem__(self, row: int) -> Batch:
        """One observation."""
        item = self.of[row]
        return {**item, **{view: augment(item[view], how) for view, how in self.how.items()}}

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """Several observations at once; their images are changed together, which is much quicker."""
        batch = batch_of(self.of, rows)
        return {**batch, **{view: augment_batch(batch[view], how) for view, how in self.how.items()}}

    def labels(self) -> Tensor:
        """(n,) int64 labels."""
        return self.of.labels()

    def lonlat(self) -> Tensor:
        """(n, 2) float64 degrees; NaN where unknown."""
        return self.of.lonlat()

    def tiles(self) -> Tensor:
        """(n,) int64, equal where observations belong together."""
        return tiles_of(self.of)


def augmented(of: Observations, tables: Mapping[str, Mapping[str, Any]]) -> Augmented:
    """Augmented observations as recipes ask for them.

    Args:
        of: The observations.
        tables: View -> fields of `Augmentation` that differ from the defaults for it (`GROUND`, `AERIAL`).

    Raises:
        SpecError: A view is no image, or a field is unknown or makes no sense.
    """
    known = {each.name for each in fields(Augmentation)}
    for view, table in tables.items():
        unknown = sorted(set(table) - known)
        if unknown:
            change = f"Its fields are: {', '.join(sorted(known))}."
            raise SpecError(f"cannot augment {view}", f"no field {', '.join(unknown)}", change)
    start = {"ground": GROUND, "aerial": AERIAL}
    return Augmented(of, {view: replace(start.get(view, GROUND), **table) for view, table in tables.items()})
