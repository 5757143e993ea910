"""Random changes of images while training; validation and test see the images as they are.

Photos keep up and down; chips from above may be turned, and are not scaled by default, because the size of a
pixel on the ground means something there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from train.batch import Batch, Observations
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

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.pixels < 0 or not 0 < self.crop <= 1 or not 0 <= self.stretch < 1 or not 0 <= self.jitter < 1:
            change = "Give pixels >= 0, crop in ]0, 1], stretch and jitter in [0, 1[."
            raise SpecError("cannot augment images", f"{self}", change)


GROUND = Augmentation()
AERIAL = Augmentation(crop=1.0, stretch=0.0, turn=True, jitter=0.1)


def augment(image: Tensor, how: Augmentation) -> Tensor:
    """Changes an image at random, by torch's global generator.

    Args:
        image: (bands, h, w), uint8, uint16 or float32.
        how: What may happen.

    Returns:
        (bands, side, side) of the same type; whole numbers stay in the range of their type.
    """
    x = _cropped(image, how)
    if how.flip and _draw() < 0.5:
        x = x.flip(-1)
    if how.turn:
        x = torch.rot90(x, int(torch.randint(4, ())), (-2, -1))
    if how.jitter:
        x = _jittered(x, how.jitter)
    if not image.is_floating_point():
        limits = torch.iinfo(image.dtype)
        x = x.round().clamp(limits.min, limits.max)
    return x.to(image.dtype).contiguous()


def _draw(low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand(()))


def _cropped(image: Tensor, how: Augmentation) -> Tensor:
    """A random part of the image at the wanted size, float32."""
    height, width = image.shape[-2:]
    side = how.pixels or min(height, width)
    if how.crop == 1.0:  # at the image's own resolution
        if side > min(height, width):
            found = f"{height} x {width} pixels, {side} wanted"
            raise SpecError("cannot crop an image", found, "Ask for fewer pixels, or allow crop < 1.")
        top, left = (int(torch.randint(free - side + 1, ())) for free in (height, width))
        return image[..., top : top + side, left : left + side].float()
    area = _draw(how.crop, 1.0) * min(height, width) ** 2
    ratio = math.exp(_draw(-1.0, 1.0) * math.log1p(how.stretch))
    tall, wide = min(height, round(math.sqrt(area / ratio))), min(width, round(math.sqrt(area * ratio)))
    tall, wide = max(1, tall), max(1, wide)
    top, left = (int(torch.randint(free + 1, ())) for free in (height - tall, width - wide))
    part = image[None, :, top : top + tall, left : left + wide].float()
    return functional.interpolate(part, (side, side), mode="bilinear", antialias=True, align_corners=False)[0]


def _jittered(x: Tensor, most: float) -> Tensor:
    bright, contrast, colour = (_draw(1 - most, 1 + most) for _ in range(3))
    middle = x.mean(dim=(1, 2), keepdim=True)
    x = (x - middle) * contrast + middle * bright
    if len(x) == 3:
        grey = x.mean(dim=0, keepdim=True)
        x = (x - grey) * colour + grey
    return x


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

    def labels(self) -> Tensor:
        """(n,) int64 labels."""
        return self.of.labels()

    def lonlat(self) -> Tensor:
        """(n, 2) float64 degrees; NaN where unknown."""
        return self.of.lonlat()
