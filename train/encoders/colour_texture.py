"""Colours and textures of a photo: a backbone that knows something before it has seen a single label.

A network of random weights needs many photos a species; with a handful of them the best start is what was
worked out by hand. Two descriptors of the whole image stand beside each other:

    colour    square roots of a joint histogram over light, red-green and blue-yellow, with linear votes
              between neighbouring bins (Swain and Ballard 1991, Color Indexing, for histograms over opponent
              axes; Arandjelovic and Zisserman 2012, Three things everyone should know to improve object
              retrieval, section 3, for the square root, by which Euclidean distances become Hellinger's)
    texture   logarithms of mean and deviation of the amplitude of Gabor filters of several orientations on
              every level of a pyramid and every opponent axis (Manjunath and Ma 1996, Texture Features for
              Browsing and Retrieval of Image Data)

What we changed: the filters and the opponent axes are weights, which learn with all else unless the backbone
is frozen; filters of one wavelength over a pyramid in place of a bank of wavelengths, because it is cheaper;
each amplitude is computed at every second pixel. `ImageConfig.backbone = "colour_texture"` asks for it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

NAME = "colour_texture"
SMALLEST = 32  # pixels, of which the coarsest level keeps four
ORIENTATIONS, LEVELS = 6, 4
SIDE, WAVELENGTH, WIDTH = 9, 3.5, 1.5  # of a filter [pixels]
SLENDER = 0.5  # width across a filter's waves over the width along its stripes
# Light, red minus green, blue minus the others, from normalised bands.
OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (0.5, -0.5, 0.0), (-0.25, -0.25, 0.5))
# First and last centre of the bins of each axis, and their number, in deviations of a band.
BINS = ((-1.6, 2.0, 5), (-0.8, 0.8, 7), (-1.0, 0.6, 7))
FLOOR = 0.02  # amplitude of noise: logarithms tell nothing below [deviations]
SPARSE = 1e-3  # share of the pixels below which square roots tell nothing


class ColourTexture(nn.Module):
    """Histogram of colours and amplitudes of Gabor filters.

    Args:
        bands: Number of bands; three, red, green and blue.
        size: Side of the images [pixels].

    Raises:
        ValueError: for other bands, or images too small for the coarsest level.
    """

    def __init__(self, bands: int, size: int) -> None:
        super().__init__()
        if bands != len(OPPONENT) or size < SMALLEST:
            raise ValueError(f"colours and textures are of 3 bands and {SMALLEST} pixels or more")
        self.opponent = nn.Parameter(torch.tensor(OPPONENT)[:, :, None, None])
        self.filters = nn.Parameter(gabor_filters())

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) normalised bands -> (n, width) float32."""
        axes = functional.conv2d(images, self.opponent)
        return torch.cat([self._colour(axes), self._texture(axes)], dim=1)

    def _colour(self, axes: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, bins of light * red-green * blue-yellow), of unit length but for `SPARSE`."""
        coarse = functional.avg_pool2d(axes, 2)
        light, red, blue = (
            votes(coarse[:, axis], *bins).flatten(2) for axis, bins in enumerate(BINS)
        )  # (n, bins, pixels) each
        hue = (red[:, :, None] * blue[:, None]).flatten(1, 2)
        share = torch.einsum("nlp,nhp->nlh", light, hue).flatten(1) / light.shape[-1]
        return (share + SPARSE).sqrt() - math.sqrt(SPARSE)

    def _texture(self, axes: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, levels * (mean and deviation) * axes * orientations)."""
        found = []
        for level in range(LEVELS):
            if level:
                axes = functional.avg_pool2d(axes, 2)
            alone = axes.flatten(0, 1)[:, None]  # each axis as an image of one band
            waves = functional.conv2d(alone, self.filters, padding=SIDE // 2, stride=2)
            pairs = waves.unflatten(1, (-1, 2))  # even and odd filter of each orientation
            amplitude = (pairs.square().sum(dim=2) + FLOOR**2).sqrt().flatten(2)
            spread = amplitude.var(dim=2, correction=0).add(FLOOR**2).sqrt()
            found += [each.log().reshape(len(axes), -1) for each in (amplitude.mean(dim=2), spread)]
        return torch.cat(found, dim=1)


def votes(values: Tensor, first: float, last: float, bins: int) -> Tensor:
    """Votes of values for bins with centres evenly from `first` to `last`.

    A value between two centres votes for both, by nearness; one beyond the ends for the end.

    Args:
        values: (n, h, w) float32.
        first: Centre of the first bin.
        last: Centre of the last bin, greater.
        bins: Number of bins, >= 2.

    Returns:
        (n, bins, h, w) float32 >= 0, which sum to 1 over the bins.
    """
    at = (values.clamp(first, last) - first) * ((bins - 1) / (last - first))
    centres = torch.arange(bins, dtype=values.dtype, device=values.device)[:, None, None]
    return (1 - (at[:, None] - centres).abs()).clamp(min=0)


def gabor_filters() -> Tensor:
    """(2 * ORIENTATIONS, 1, SIDE, SIDE) float32: even and odd filters in turn, blind to constant images."""
    offset = torch.arange(SIDE, dtype=torch.float32) - SIDE // 2
    down, right = torch.meshgrid(offset, offset, indexing="ij")
    made = []
    for number in range(ORIENTATIONS):
        angle = math.pi * number / ORIENTATIONS
        along = right * math.cos(angle) + down * math.sin(angle)
        across = down * math.cos(angle) - right * math.sin(angle)
        window = torch.exp(-(along**2 + (SLENDER * across) ** 2) / (2 * WIDTH**2))
        for wave in (torch.cos, torch.sin):
            each = window * wave(2 * math.pi / WAVELENGTH * along)
            each = each - window * (each.sum() / window.sum())
            made.append(each / each.abs().sum())
    return torch.stack(made)[:, None]
