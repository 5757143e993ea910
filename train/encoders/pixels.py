"""Pixels as every image encoder eats them: checked, in their own units, normalised once."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from train.errors import SpecError

OtherSizes = Literal["refuse", "resize"]
IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of 0..255 RGB
IMAGENET_STD = (58.395, 57.12, 57.375)
FARTHEST = 100.0  # pixels this many deviations from the mean are in other units: clouds are within 30


class Normalise(nn.Module):
    """Checks pixels and brings them to mean 0 and deviation 1, once (pitfall 21 of methods section 8).

    Args:
        size: Side of the images [pixels].
        mean: Per-band mean in the imagery's units.
        std: Per-band standard deviation in the imagery's units.
        other_sizes: Whether images of another size are refused or resized (bilinear, antialiased).

    Raises:
        SpecError: unless there is one finite mean and one positive deviation for each of >= 1 bands.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: int,
        bands: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        other_sizes: OtherSizes = "refuse",
    ) -> None:
        super().__init__()
        whole = bands == len(mean) == len(std) > 0 and all(map(math.isfinite, mean))
        if not whole or not all(0 < s < math.inf for s in std):
            found = f"{bands} bands, mean {mean}, std {std}"
            raise SpecError("cannot normalise images", found, "Give a mean and a positive std for each band.")
        if size < 1 or other_sizes not in ("refuse", "resize"):
            found = f"size {size}, other_sizes {other_sizes!r}"
            raise SpecError("cannot normalise images", found, "Give a size >= 1, and refuse or resize.")
        self.size, self.bands, self.other_sizes = size, bands, other_sizes
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        limits = zip(mean, std, strict=True)
        self._bytes_fit = all(max(abs(m), abs(255.0 - m)) <= FARTHEST * s for m, s in limits)
        self._bytes_meant = all(m > 10.0 and s > 1.0 for m, s in zip(mean, std, strict=True))

    def forward(self, images: Tensor) -> Tensor:
        """(n, bands, h, w) in the imagery's units -> (n, bands, size, size) float32, normalised.

        Raises:
            SpecError: for another number of bands or size, a pixel that is not finite (fill or drop missing
                ones beforehand), or values that cannot be in the units of mean and std: more than 100
                deviations off, or all within 0..1 where the statistics are those of 0..255.
        """
        if images.ndim != 4 or images.shape[1] != self.bands:
            found = f"shape {tuple(images.shape)}"
            raise SpecError("cannot encode images", found, f"Give (n, {self.bands}, height, width).")
        if images.shape[2:] != (self.size, self.size) and self.other_sizes == "refuse":
            found = f"{images.shape[2]} x {images.shape[3]} pixels"
            change = f"Cut {self.size} x {self.size}, or set size or other_sizes = resize."
            raise SpecError("cannot encode images", found, change)
        x = (images.float() - self.mean) / self.std
        self._check_units(images.detach(), x.detach())
        if x.shape[2:] != (self.size, self.size):
            side = (self.size, self.size)
            x = nn.functional.interpolate(x, side, mode="bilinear", align_corners=False, antialias=True)
        return x

    def _check_units(self, images: Tensor, x: Tensor) -> None:
        if images.dtype == torch.uint8:  # known without looking, so a GPU need not be waited for
            fits, low, high = self._bytes_fit, 0.0, 255.0
        elif images.numel() == 0:
            return
        else:
            low, high = (float(v) for v in torch.aminmax(images))
            if not (math.isfinite(low) and math.isfinite(high)):
                found, change = "a pixel that is not finite", "Fill missing pixels, or drop the observation."
                raise SpecError("cannot encode images", found, change)
            fits = float(x.abs().max()) <= FARTHEST and not (0.0 < high <= 1.0 and self._bytes_meant)
        if not fits:
            mean, std = (tuple(round(float(v), 3) for v in b.flatten()) for b in (self.mean, self.std))
            found = f"values {low:g} to {high:g} with mean {mean} and std {std}"
            raise SpecError("cannot normalise images", found, "Give mean and std in the imagery's own units.")
