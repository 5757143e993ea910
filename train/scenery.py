"""What things look like in a landscape: photos of species, chips from above, features of photos.

A species has looks: two colours, and a pattern's grain and direction. A photo shows an individual, whose
looks differ a little, before a background that depends on the environment, in some light, somewhere in the
frame. A chip shows its tile's environment as colours and textures, in some light and haze. Nothing here is
learnt and all of it is seeded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
LOOKS = 8  # colour (3), second colour (3), grain, direction
CHUNK = 512  # images in memory as float32 at a time
TEXTURES = 24  # of each grain
GRAINS = (0.6, 1.5, 4.0)  # pixels
STYLES = 8  # directions of the features in which style lies
CHIP_DRAWS = 12  # random numbers that belong to a tile


class Scenery:
    """How a landscape looks.

    Args:
        seed: Seed of the landscape.
        species: Number of species.
        environment: Number of environment fields.
        bands: Bands of chips.
        pixels: Side of photos and chips.
        features: Width of features.
    """

    def __init__(
        self, seed: int, species: int, environment: int, bands: int, pixels: int, features: int
    ) -> None:
        rng = np.random.default_rng([seed, 10])
        self.seed, self.bands, self.pixels = seed, bands, pixels
        self._looks = rng.normal(size=(species, LOOKS))
        self._ground = rng.normal(size=(environment, 3)) / np.sqrt(environment)
        self._bands = rng.normal(size=(environment, bands)) / np.sqrt(environment)
        self._grains = rng.normal(size=(environment, len(GRAINS))) / np.sqrt(environment)
        self._shades = rng.uniform(0.5, 1.5, (len(GRAINS), bands)) * rng.choice([-1, 1], (len(GRAINS), bands))
        self._from_looks = rng.normal(size=(LOOKS, features)) / np.sqrt(LOOKS)
        self._from_around = rng.normal(size=(environment, features)) / np.sqrt(environment)
        towards = np.random.default_rng([seed, 12]).normal(size=(features, min(STYLES, features)))
        self._styles = np.linalg.qr(towards).Q.T  # (styles, features), orthonormal
        self._textures = _textures(pixels, rng)  # (grains, TEXTURES, pixels, pixels)

    def looks(self, label: NDArray[np.int64], spread: float, rng: np.random.Generator) -> Floats:
        """(n, LOOKS) looks of individuals of species `label` (n,)."""
        return self._looks[label] + spread * rng.normal(size=(len(label), LOOKS))

    def photos(self, looks: Floats, around: Floats, noise: float, rng: np.random.Generator) -> Bytes:
        """Photos of individuals.

        Args:
            looks: (n, LOOKS).
            around: (n, fields) environment.
            noise: Strength of light, position and grain.
            rng: Source of randomness.

        Returns:
            (n, 3, pixels, pixels) uint8.
        """
        photos = np.empty((len(looks), 3, self.pixels, self.pixels), np.uint8)
        for start in range(0, len(looks), CHUNK):
            part = slice(start, start + CHUNK)
            photos[part] = self._photos(looks[part], around[part], noise, rng)
        return photos

    def _photos(self, looks: Floats, around: Floats, noise: float, rng: np.random.Generator) -> Bytes:
        n, line = len(looks), (np.arange(self.pixels, dtype=np.float32) + 0.5) / self.pixels - 0.5
        at = 0.18 * noise * rng.uniform(-1, 1, (n, 2))
        y, x = (line[None, :, None] - at[:, :1, None], line[None, None, :] - at[:, 1:, None])
        radius = 0.26 * np.exp(0.25 * noise * rng.normal(size=n))[:, None, None]
        body = 1 / (1 + np.exp(((x**2 + y**2) / radius**2 - 1) * 6))  # (n, p, p): 1 inside, 0 outside
        turn = np.pi * _squash(looks[:, 7]) + 0.2 * noise * rng.normal(size=n)
        waves = 2 + 5 * _squash(looks[:, 6])
        along = x * np.cos(turn)[:, None, None] + y * np.sin(turn)[:, None, None]
        stripes = 0.5 + 0.5 * np.cos(
            2 * np.pi * waves[:, None, None] * along + rng.uniform(0, 6.28, n)[:, None, None]
        )
        first, second = (40 + 190 * _squash(looks[:, k : k + 3])[:, :, None, None] for k in (0, 3))
        ground = 60 + 140 * _squash(1.5 * around @ self._ground)[:, :, None, None]
        ground = ground + 18 * noise * self._drawn_textures(1, n, rng)[:, None]
        image = ground + body[:, None] * (first + stripes[:, None] * (second - first) - ground)
        light = 1 + 0.2 * noise * rng.normal(size=(n, 1, 1, 1)) + 0.05 * noise * rng.normal(size=(n, 3, 1, 1))
        image = image * light + 8 * noise * rng.normal(size=(n, 1, self.pixels, self.pixels))
        return _bytes(image)

    def chips(self, tiles: NDArray[np.int64], around: Floats, noise: float) -> Bytes:
        """Chips of tiles; each depends on its number and environment alone.

        Args:
            tiles: (n,) numbers.
            around: (n, fields) environment at their centres.
            noise: Strength of light, haze and grain.

        Returns:
            (n, bands, pixels, pixels) uint8.
        """
        chips = np.empty((len(tiles), self.bands, self.pixels, self.pixels), np.uint8)
        for start in range(0, len(tiles), CHUNK):
            part = slice(start, start + CHUNK)
            chips[part] = self._chips(tiles[part], around[part], noise)
        return chips

    def _chips(self, tiles: NDArray[np.int64], around: Floats, noise: float) -> Bytes:
        u = np.stack([np.random.default_rng([self.seed, 11, int(tile)]).random(CHIP_DRAWS) for tile in tiles])
        colour = 50 + 150 * _squash(1.5 * around @ self._bands)  # (n, bands)
        image = np.repeat(colour[:, :, None], self.pixels**2, axis=2).reshape(
            *colour.shape, *[self.pixels] * 2
        )
        strength = 24 * _squash(1.5 * around @ self._grains)  # (n, grains)
        for grain in range(len(GRAINS)):
            which = (u[:, grain] * TEXTURES).astype(np.intp)
            texture = self._rolled(self._textures[grain][which], u[:, 3 + grain])
            shade = strength[:, grain, None] * self._shades[grain]  # (n, bands)
            image += shade[:, :, None, None] * texture[:, None]
        light = 1 + 0.3 * noise * (u[:, 6] - 0.5)
        haze = 40 * noise * u[:, 7] ** 3
        grain_noise = self._rolled(self._textures[0][(u[:, 8] * TEXTURES).astype(np.intp)], u[:, 9])
        image = (
            image * light[:, None, None, None] + haze[:, None, None, None] + 5 * noise * grain_noise[:, None]
        )
        return _bytes(image)

    def features(
        self, looks: Floats, around: Floats, noise: float, rng: np.random.Generator, style: float = 0.0
    ) -> NDArray[np.float32]:
        """What a frozen network says of photos.

        Looks and environment, with noise alike in all directions, squashed. Style is what photos differ by
        beside that: normal, of one strength in `STYLES` directions that all photos of the landscape share,
        and independent of what is shown and where. It is added after squashing, so that it hides no signal
        from a linear map that leaves its directions out.

        Args:
            looks: (n, LOOKS).
            around: (n, fields) environment.
            noise: Strength of the noise.
            rng: Source of randomness.
            style: Deviation of style, root mean square over features.

        Returns:
            (n, features) float32.
        """
        signal = looks @ self._from_looks + around @ self._from_around
        found = np.tanh(signal + 1.5 * noise * rng.normal(size=signal.shape))
        if style:
            count, width = self._styles.shape
            found += style * np.sqrt(width / count) * rng.normal(size=(len(looks), count)) @ self._styles
        return np.asarray(found, np.float32)

    def _drawn_textures(self, grain: int, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
        """(n, pixels, pixels) textures of a grain, shifted at random."""
        return self._rolled(self._textures[grain][rng.integers(TEXTURES, size=n)], rng.random(n))

    def _rolled(self, textures: NDArray[np.float32], shift: Floats) -> NDArray[np.float32]:
        """Textures (n, p, p) shifted round by `shift` (n,) of their pixels."""
        flat = textures.reshape(len(textures), -1)
        step = (shift * flat.shape[1]).astype(np.intp)
        at = (np.arange(flat.shape[1]) + step[:, None]) % flat.shape[1]
        return np.asarray(np.take_along_axis(flat, at, axis=1).reshape(textures.shape))


def _textures(pixels: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(grains, TEXTURES, pixels, pixels) smooth noise of deviation 1, without a seam."""
    white = rng.normal(size=(len(GRAINS), TEXTURES, pixels, pixels))
    smooth = np.stack(
        [
            gaussian_filter(part, (0, grain, grain), mode="wrap")
            for part, grain in zip(white, GRAINS, strict=True)
        ]
    )
    return np.asarray(smooth / smooth.std(axis=(2, 3), keepdims=True).clip(1e-6), np.float32)


def _squash(x: Floats) -> Floats:
    """Any number to 0..1."""
    return np.asarray(1 / (1 + np.exp(-1.5 * x)))


def _bytes(image: NDArray[np.floating]) -> Bytes:
    return np.asarray(np.clip(np.rint(image), 0, 255), np.uint8)
