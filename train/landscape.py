"""Landscapes: seeded worlds whose truth is known, for tests, benchmarks and tutorials.

A landscape is a box of the earth with smooth environment fields, species with Gaussian niches in them and, if
wished, ranges (`train.ranges`), and observers who prefer cities. An observation is a place, the species drawn
there from the true probabilities, a day of that species' season, a photo of it (`train.scenery`), the aerial
chip of the tile around it, and features of the photo as a frozen network would give them. So a learnt map can
be held against the true one. The set-up follows methods section 7.3; it is a guide to choices and no evidence
about nature.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train import scenery
from train.data.readers import Held, Reader
from train.data.table import ObservationTable
from train.errors import SpecError
from train.ranges import Ranges
from train.world import World as World

Floats = NDArray[np.float64]
WAVES = 48  # cosines that make up a field
IMAGES = ("ground", "aerial", "feature")
SOUTH_WEST = np.array([-180.0, -90.0])  # where tiles are counted from
TILE_EDGE = 1e-6  # of a tile: an edge of the box so near to a tile's is that tile's
DAYS = 28  # of a month, all alike


class Landscape:
    """A world of known truth.

    Args:
        seed: Seed of the world.
        world: What it is like.

    Attributes:
        classes: Names of the species.
    """

    def __init__(self, seed: int, world: World | None = None) -> None:
        self.seed, self.world = seed, world or World()
        w, rng = self.world, np.random.default_rng([seed, 0])
        scales = np.geomspace(w.finest, w.coarsest, w.environment)
        self._waves = rng.normal(size=(2, w.environment, WAVES)) / scales[:, None]  # (2, fields, waves)
        self._phases = rng.uniform(0, 2 * math.pi, (w.environment, WAVES))
        self._middle, self._spread = np.zeros(w.environment), np.ones(w.environment)
        over = self.environment(self._grid(40, 40).reshape(-1, 2))
        self._middle, self._spread = over.mean(axis=0), over.std(axis=0)
        self._optimum = rng.normal(0, 1, (w.species, w.environment))
        self._care = rng.gamma(0.7, 1 / 0.7, (w.species, w.environment)) / w.niche**2
        self._cities = self._uniform(w.cities, rng)
        self._commonness = np.zeros(w.species)
        abundance, at = np.exp(rng.normal(0, w.commonness, w.species)), self.places(1_500, rng)
        homes = self._uniform(w.species, np.random.default_rng([seed, 4]))
        self._ranges = Ranges(w, homes, rng)
        self._balance(abundance, at)
        self._scenery = scenery.Scenery(seed, w.species, w.environment, w.bands, w.pixels, w.features)
        self.classes = tuple(f"species {number:03d}" for number in range(w.species))

    def environment(self, lonlat: Floats) -> Floats:
        """The environment at places: smooth fields with mean 0 and deviation 1 over the box.

        Args:
            lonlat: (n, 2) degrees, any place.

        Returns:
            (n, fields) float64, the finest field first.
        """
        flat = math.cos(math.radians((self.world.south + self.world.north) / 2))
        x, y = lonlat[:, 0] * flat, lonlat[:, 1]
        found = np.empty((len(lonlat), self.world.environment))
        for k in range(self.world.environment):
            angle = np.outer(x, self._waves[0, k]) + np.outer(y, self._waves[1, k]) + self._phases[k]
            found[:, k] = math.sqrt(2 / WAVES) * np.cos(angle).sum(axis=1)
        return (found - self._middle) / self._spread

    def truth(self, lonlat: Floats, month: int | None = None) -> Floats:
        """The probability that an observation at a place is of a species.

        Args:
            lonlat: (n, 2) degrees.
            month: 1..12, when it is known; over the whole year when None.

        Returns:
            (n, species) float64, rows sum to 1.

        Raises:
            SpecError: There is no such month.
        """
        if month is not None and month not in range(1, 13):
            raise SpecError("cannot give the truth", f"month {month}", "Give 1..12.")
        e = self.environment(lonlat)
        far = (
            (e**2) @ self._care.T
            - 2 * e @ (self._care * self._optimum).T
            + (self._care * self._optimum**2).sum(axis=1)
        )  # (n, species), sum of care * (e - optimum)²
        logits = self._commonness - far / 2 + self._ranges.log_presence(lonlat, month)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    def truth_map(self, rows: int, cols: int, month: int | None = None) -> tuple[Floats, Floats]:
        """The true maps on a grid over the box, north first.

        Args:
            rows: Rows.
            cols: Columns.
            month: As in `truth`.

        Returns:
            Lon, lat (rows, cols, 2) of the cells' centres, and probabilities (species, rows, cols).
        """
        lonlat = self._grid(rows, cols)
        p = self.truth(lonlat.reshape(-1, 2), month)
        return lonlat, p.T.reshape(self.world.species, rows, cols)

    def bayes_top1(self, lonlat: Floats | None = None) -> float:
        """How often the best guess from the place alone is right, expected at places.

        Args:
            lonlat: (n, 2) degrees; 5,000 places where observers go when None.
        """
        at = self.places(5_000, np.random.default_rng([self.seed, 1])) if lonlat is None else lonlat
        return float(self.truth(at).max(axis=1).mean())

    def places(self, n: int, rng: np.random.Generator) -> Floats:
        """Places where observers go, (n, 2) degrees: near cities, or anywhere in the box."""
        w = self.world
        lonlat = self._uniform(n, rng)
        urban = rng.random(n) < w.city_share
        near = self._cities[rng.integers(w.cities, size=n)] + rng.normal(0, w.city_spread, (n, 2))
        lonlat[urban] = near[urban]
        return np.clip(lonlat, [w.west, w.south], [w.east, w.north])

    def observations(self, n: int, seed: int = 0, views: Sequence[str] = IMAGES) -> ObservationTable:
        """Observations, held in memory; the same seed gives the same ones.

        Args:
            n: How many.
            seed: Seed of the draw; training and test data of one landscape take different seeds.
            views: Which of ground, aerial and feature to make.

        Returns:
            Also views lonlat and date. `tile` is the number of the tile in the box.

        Raises:
            SpecError: n is below 1, or a view is unknown.
        """
        if n < 1 or set(views) - set(IMAGES):
            found = f"{n} observations with views {list(views)}"
            raise SpecError(
                "cannot observe a landscape", found, f"Give n >= 1 and views among {', '.join(IMAGES)}."
            )
        rng = np.random.default_rng([self.seed, 2, seed])
        place = self.places(n, rng)
        label = self._drawn(self.truth(place), rng)
        month = self._drawn(self._ranges.months(place, label), rng) + 1
        date = np.stack([month, rng.integers(1, DAYS + 1, n)], axis=1).astype(np.float32)
        tile = self._tiles(place)
        readers: dict[str, Reader] = {}
        around = self.environment(place)
        looks = self._scenery.looks(label, self.world.look_alike, rng)
        each = np.arange(n)
        if "ground" in views:
            readers["ground"] = Held(self._scenery.photos(looks, around, self.world.photo_noise, rng), each)
        if "aerial" in views:
            tiles, member = np.unique(tile, return_inverse=True)
            chips = self._scenery.chips(tiles, self.environment(self._centres(tiles)), self.world.chip_noise)
            readers["aerial"] = Held(chips, member)
        if "feature" in views:
            w = self.world
            readers["feature"] = Held(
                self._scenery.features(looks, around, w.photo_noise, rng, w.style), each
            )
        told = json.dumps([self.seed, self._described(), n, seed, list(views)])
        digest = hashlib.sha256(told.encode()).hexdigest()
        return ObservationTable(self.classes, label, place, date, tile, readers, {}, digest)

    def survey(self, lonlat: Floats) -> ObservationTable:
        """Places as observations without a species, a photo or a date: what a sweep over them reads.

        Args:
            lonlat: (n, 2) degrees.

        Returns:
            Views aerial and lonlat; labels are -1.
        """
        n = len(lonlat)
        tiles = self._tiles(lonlat)
        readers: dict[str, Reader] = {"aerial": Held(self.chips(lonlat), np.arange(n))}
        date = np.full((n, 2), np.nan, np.float32)
        digest = hashlib.sha256(np.ascontiguousarray(lonlat).tobytes()).hexdigest()
        return ObservationTable(
            self.classes, np.full(n, -1), np.array(lonlat, float), date, tiles, readers, {}, digest
        )

    def mosaic(self) -> tuple[NDArray[np.uint8], tuple[float, float, float, float]]:
        """The whole box from above, the chips of its tiles edge to edge: imagery to sweep.

        Returns:
            Pixels (bands, rows, cols) uint8, north first, and west, south, east, north of their outer edges
            [degrees], which are those of tiles and so may lie a little outside the box.
        """
        w = self.world
        low = np.floor((np.array([w.west, w.south]) - SOUTH_WEST) / w.tile + TILE_EDGE).astype(np.int64)
        high = np.ceil((np.array([w.east, w.north]) - SOUTH_WEST) / w.tile - TILE_EDGE).astype(np.int64)
        rows, cols = np.arange(high[1] - 1, low[1] - 1, -1), np.arange(low[0], high[0])
        tiles = (rows[:, None] * self._across + cols).ravel()
        chips = self._scenery.chips(tiles, self.environment(self._centres(tiles)), w.chip_noise)
        laid = chips.reshape(len(rows), len(cols), w.bands, w.pixels, w.pixels).transpose(2, 0, 3, 1, 4)
        (west, south), (east, north) = (SOUTH_WEST + w.tile * edge for edge in (low, high))
        shape = (w.bands, len(rows) * w.pixels, len(cols) * w.pixels)
        return laid.reshape(shape), (float(west), float(south), float(east), float(north))

    def chips(self, lonlat: Floats) -> NDArray[np.uint8]:
        """The aerial chips at places, (n, bands, pixels, pixels) uint8, as a sweep over a grid reads them."""
        tiles, member = np.unique(self._tiles(lonlat), return_inverse=True)
        made = self._scenery.chips(tiles, self.environment(self._centres(tiles)), self.world.chip_noise)
        return made[member]

    def photos(self, species: int, lonlat: Floats, seed: int = 0) -> NDArray[np.uint8]:
        """Photos of a species at places, (n, 3, pixels, pixels) uint8, whether it occurs there or not."""
        rng = np.random.default_rng([self.seed, 3, seed, species])
        looks = self._scenery.looks(np.full(len(lonlat), species), self.world.look_alike, rng)
        return self._scenery.photos(looks, self.environment(lonlat), self.world.photo_noise, rng)

    def _described(self) -> dict[str, Any]:
        """The world for digests; those of worlds without style are older than style."""
        about = asdict(self.world)
        return about if self.world.style else {k: v for k, v in about.items() if k != "style"}

    def _grid(self, rows: int, cols: int) -> Floats:
        """(rows, cols, 2) lon, lat of cells' centres over the box, north first."""
        w = self.world
        lon = w.west + (np.arange(cols) + 0.5) * (w.east - w.west) / cols
        lat = w.north - (np.arange(rows) + 0.5) * (w.north - w.south) / rows
        return np.stack(np.meshgrid(lon, lat), axis=-1)

    def _uniform(self, n: int, rng: np.random.Generator) -> Floats:
        """(n, 2) places uniform on the sphere inside the box."""
        w = self.world
        low, high = np.sin(np.radians([w.south, w.north]))
        lat = np.degrees(np.arcsin(rng.uniform(low, high, n)))
        return np.stack([rng.uniform(w.west, w.east, n), lat], axis=1)

    def _balance(self, abundance: Floats, at: Floats) -> None:
        """Raises and lowers species until each is seen at places about as often as its abundance says."""
        share = abundance / abundance.sum()
        for _ in range(30):
            self._commonness += 0.7 * np.log(share / np.maximum(self.truth(at).mean(axis=0), 1e-6))

    @staticmethod
    def _drawn(p: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
        """One category for each row of probabilities (n, k)."""
        below = np.cumsum(p, axis=1) < rng.random(len(p))[:, None]
        return np.asarray(np.minimum(below.sum(axis=1), p.shape[1] - 1), np.int64)

    def _tiles(self, lonlat: Floats) -> NDArray[np.int64]:
        """Number of the tile of each place, row by row from the south-west of the world."""
        cell = np.floor((lonlat - SOUTH_WEST) / self.world.tile).astype(np.int64)
        return np.asarray(cell[:, 1] * self._across + cell[:, 0], np.int64)

    def _centres(self, tiles: NDArray[np.int64]) -> Floats:
        cell = np.stack([tiles % self._across, tiles // self._across], axis=1)
        return np.asarray((cell + 0.5) * self.world.tile + SOUTH_WEST)

    @property
    def _across(self) -> int:
        return math.ceil(360 / self.world.tile) + 1


def open(
    *,
    seed: int = 0,
    n: int = 4_000,
    draw: int = 0,
    views: Sequence[str] = IMAGES,
    world: Mapping[str, Any] | None = None,
) -> ObservationTable:
    """Observations of a landscape, as recipes ask for them.

    Args:
        seed: Seed of the landscape.
        n: Number of observations.
        draw: Seed of the observations.
        views: Which of ground, aerial and feature to make.
        world: Fields of `World` that differ from their defaults.

    Raises:
        SpecError: A field of `world` is unknown or makes no sense.
    """
    known = {each.name for each in fields(World)}
    unknown = sorted(set(world or {}) - known)
    if unknown:
        found = f"no field {', '.join(unknown)}"
        raise SpecError("cannot make a landscape", found, f"Its fields are: {', '.join(sorted(known))}.")
    return Landscape(seed, World(**(world or {}))).observations(n, draw, views)
