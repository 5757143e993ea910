"""The aerial encoder: a timm backbone run densely, pooled over windows of several sizes, and a projection.

The first stage of a timm ConvNeXt (Liu et al. 2022), built without its down-sampling stem, gives every pixel
a feature vector at full resolution. A place is then described by the mean and standard deviation of these
features (and of the bands themselves) in square windows around it, at every scale of context. Because neither
convolution nor pooling has a stride, one pass over an image gives the chip feature of *every* pixel that has
a whole chip around it: neighbouring chips share all their work, and a chip alone gives the same numbers as
the same place inside a large image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from train.errors import SpecError
from train.spec import AerialSpec, ChipSpec
from train.timm_compat import import_timm

SPARSE = 0.3  # share of pixels up to which their window sums are cheaper one by one than all together


def stage_halo(depth: int, kernel: int) -> int:
    """Pixels that `depth` depthwise convolutions of side `kernel` see around a pixel."""
    return depth * (kernel // 2)


def _integral(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, c, h + 1, w + 1) float64 sums over all above and left: any box costs four reads."""
    return nn.functional.pad(x.double().cumsum(2).cumsum(3), (1, 0, 1, 0))


class Pixels(NamedTuple):
    """Pixels of the interior (those with a whole chip around them) whose statistics are wanted."""

    rows: Tensor
    cols: Tensor


def _boxes(integral: Tensor, radius: int, largest: int, pixels: Pixels | None) -> Tensor:
    """float64 sums over squares of side 2 radius + 1: (n, c, h', w') for interior pixels, or (n, c, k)."""
    # First and one past the last pixel of the square around interior pixel 0.
    near, far = largest - radius, largest + radius + 1
    h, w = integral.shape[-2] - 1 - 2 * largest, integral.shape[-1] - 1 - 2 * largest
    if pixels is not None and len(pixels.rows) <= SPARSE * h * w:
        top, left, low, right = pixels.rows + near, pixels.cols + near, pixels.rows + far, pixels.cols + far
        corner = integral[..., low, right] - integral[..., top, right]
        return corner - integral[..., low, left] + integral[..., top, left]
    tall = integral[..., far : far + h, :] - integral[..., near : near + h, :]
    sums = tall[..., far : far + w] - tall[..., near : near + w]
    return sums if pixels is None else sums.flatten(2).index_select(2, pixels.rows * w + pixels.cols)


def _centre(x: Tensor, radius: int) -> Tensor:
    """Sum over the square around the middle of (n, c, s, s): (n, c, 1, 1)."""
    middle = x.shape[-1] // 2
    window = slice(middle - radius, middle + radius + 1)
    return x[..., window, window].sum(dim=(2, 3), keepdim=True)


def _share(count: Tensor) -> Tensor:
    """What one pixel weighs in a mean over `count` valid ones; 0 where there is none."""
    return torch.where(count > 0.5, 1.0 / count.clamp(min=0.5), 0.0)


def _deviation(squares: Tensor, mean: Tensor, share: Tensor) -> Tensor:
    """sqrt(variance + 1e-4) from sums of squares; in float32 these cancel to noise on flat ground."""
    variance = squares * share - mean * mean
    return torch.sqrt(variance.clamp(min=0.0) + 1e-4)


def context_width(spec: AerialSpec, level: ChipSpec) -> int:
    """Statistics that one scale gives: a mean for each window, a deviation for each larger than a pixel."""
    return sum((spec.channels + level.bands) * (1 if radius == 0 else 2) for radius in level.windows)


class ContextNet(nn.Module):
    """One scale of context: backbone and pooled statistics.

    Args:
        spec: The encoder's shape.
        level: This scale of context.

    Raises:
        SpecError: when the halo is not the one the backbone has, or the backbone is unknown to timm.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: AerialSpec, level: ChipSpec) -> None:
        super().__init__()
        if level.halo != stage_halo(spec.depth, spec.kernel):
            found = f"halo {level.halo}, backbone halo {stage_halo(spec.depth, spec.kernel)}"
            raise SpecError("cannot build the aerial encoder", found, "Set halo to depth * (kernel // 2).")
        self.backbone = _stage(spec, level.bands)
        self.level = level
        self.register_buffer("mean", torch.tensor(level.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(level.std)[:, None, None])
        self.dim = context_width(spec, level)

    def forward(self, image: Tensor, valid: Tensor, pixels: Pixels | None = None) -> Tensor:
        """Window statistics of pixels with a whole chip around them.

        Args:
            image: (n, bands, h, w) float32 in the imagery's units.
            valid: (n, h, w) bool; pixels that are False weigh nothing.
            pixels: Which pixels of the interior; all of them when None.

        Returns:
            (n, dim, h - 2 margin, w - 2 margin) float32, or (n, dim, k) for k pixels: for each window the
            means of bands and features, then, if it is larger than a pixel, sqrt(variance + 1e-4). A window
            without a valid pixel has means of 0 and deviations of 0.01.
        """
        weight = valid[:, None].to(torch.float32)  # (n, 1, h, w)
        bands = torch.where(valid[:, None], (image - self.mean) / self.std, 0.0)  # NaN * 0 would stay NaN
        (features,) = self.backbone(bands)  # (n, channels, h, w)
        halo = self.level.halo  # features nearer to the edge than this have seen padding
        inner = slice(halo, -halo if halo else None)
        weight, bands = weight[..., inner, inner], bands[..., inner, inner]
        x = torch.cat([bands, features[..., inner, inner]], dim=1) * weight
        # One chip a place, as in training: four sums are cheaper than tables of all sums.
        alone = pixels is None and x.shape[-1] == x.shape[-2] == 2 * self.level.windows[-1] + 1
        return self._of_chips(x, weight) if alone else self._of_places(x, weight, pixels)

    def _of_chips(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.training:  # training does without the second half of the digits
            x, weight = x.double(), weight.double()
        parts = []
        for radius in self.level.windows:
            share = _share(_centre(weight, radius))
            parts.append(_centre(x, radius) * share)
            if radius:
                parts.append(_deviation(_centre(x * x, radius), parts[-1], share))
        return torch.cat(parts, dim=1).float()

    def _of_places(self, x: Tensor, weight: Tensor, pixels: Pixels | None) -> Tensor:
        """Channel by channel, so that its sums stay in the cache: less than half the time of all at once."""
        windows, channels = self.level.windows, x.shape[1]
        sums = _integral(weight)
        shares = [_share(_boxes(sums, radius, windows[-1], pixels)) for radius in windows]
        statistics = x.new_empty((len(x), self.dim, *shares[0].shape[2:]))
        for channel, part in enumerate(x.split(1, dim=1)):
            first, second = _integral(part), _integral(part * part)
            at = channel  # its place among the statistics: all means of a window, then all deviations
            for radius, share in zip(windows, shares, strict=True):
                mean = _boxes(first, radius, windows[-1], pixels) * share
                statistics[:, at : at + 1] = mean
                at += channels
                if radius:
                    spread = _deviation(_boxes(second, radius, windows[-1], pixels), mean, share)
                    statistics[:, at : at + 1] = spread
                    at += channels
        return statistics


def _stage(spec: AerialSpec, bands: int) -> nn.Module:
    timm = import_timm()
    try:
        module: nn.Module = timm.create_model(
            spec.backbone,
            pretrained=False,
            in_chans=bands,
            patch_size=1,
            depths=(spec.depth, 1, 1, 1),
            dims=(spec.channels,) * 4,
            kernel_sizes=spec.kernel,
            features_only=True,
            out_indices=(0,),
        )
    except (RuntimeError, TypeError) as error:
        raise SpecError(
            "cannot build the backbone", str(error), "Name a timm model of the ConvNeXt family."
        ) from error
    return module


class AerialEncoder(nn.Module):
    """Window statistics of every scale of context, standardised and projected to unit length.

    Args:
        spec: Shape of the encoder, with one `ChipSpec` for each scale.
        dropout: Dropout in the projection while training.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, spec: AerialSpec, dropout: float = 0.1) -> None:
        super().__init__()
        self.contexts = nn.ModuleList(ContextNet(spec, level) for level in spec.levels)
        width = sum(context_width(spec, level) for level in spec.levels)
        self.norm = nn.BatchNorm1d(width, affine=False)  # standardises; frozen statistics in evaluation
        self.project = nn.Sequential(
            nn.Linear(width, spec.hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(spec.hidden, spec.dim)
        )

    def join(self, contexts: list[Tensor]) -> Tensor:
        """[(n, dim_l)] statistics of each scale -> (n, dim) float32 of unit length."""
        return nn.functional.normalize(self.project(self.norm(torch.cat(contexts, dim=1))), dim=1)

    def forward(self, chips: list[Tensor], valid: list[Tensor]) -> Tensor:
        """[(n, bands, pixels, pixels)] chips of each scale and their validity -> (n, dim)."""
        nets = zip(self.contexts, chips, valid, strict=True)
        return self.join([net(chip, ok)[:, :, 0, 0] for net, chip, ok in nets])
