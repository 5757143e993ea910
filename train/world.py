"""What a landscape is like: the knobs of `train.landscape`."""

from __future__ import annotations

from dataclasses import dataclass

from train.errors import SpecError


@dataclass(frozen=True)
class World:
    """What a landscape is like; the defaults make a task on which the best map is right in 4 of 10 cases."""

    west: float = -124.0
    """Bounds of the box [degrees]."""
    south: float = 33.0
    east: float = -115.0
    north: float = 42.0
    species: int = 60
    """Number of species."""
    environment: int = 8
    """Number of environment fields."""
    finest: float = 0.3
    """Shortest length scale of a field [degrees]."""
    coarsest: float = 4.0
    """Longest length scale of a field [degrees]."""
    niche: float = 0.8
    """Width of niches, in deviations of the environment; the wider, the less a place tells of its species."""
    commonness: float = 0.7
    """Spread of the logarithm of species' abundance: the tail of rare ones."""
    seasonal: float = 0.5
    """Share of species that are seen mostly in some months."""
    range_spread: float = 0.0
    """Standard deviation of a species' range around its home [degrees]; 0: it has no home and no bounds."""
    migration: float = 0.0
    """How much further north ranges lie in July than in January [degrees]."""
    cities: int = 40
    """Number of cities."""
    city_share: float = 0.5
    """Share of observations near a city; the rest lie anywhere."""
    city_spread: float = 0.15
    """Standard deviation of those around their city [degrees]."""
    tile: float = 0.05
    """Side of an aerial tile [degrees]; observations in one tile share its chip."""
    pixels: int = 32
    """Side of photos and chips [pixels]."""
    bands: int = 4
    """Bands of the chips."""
    features: int = 64
    """Width of the photos' features."""
    look_alike: float = 0.6
    """Spread of looks within a species, relative to that between species."""
    photo_noise: float = 1.0
    """Strength of what in a photo says nothing: light, position, grain."""
    style: float = 0.0
    """Deviation of what in a photo's features says nothing and lies in a few directions common to all photos,
    root mean square over features (`train.scenery.STYLES`); 0: there is none."""
    chip_noise: float = 1.0
    """Strength of what in a chip says nothing: light, haze, grain."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        inside = -180 <= self.west < self.east <= 180 and -90 <= self.south < self.north <= 90
        whole = min(self.species, self.environment, self.cities, self.pixels, self.bands, self.features) >= 1
        positive = (
            min(self.finest, self.niche, self.tile, self.city_spread) > 0 and self.finest <= self.coarsest
        )
        shares = 0 <= self.seasonal <= 1 and 0 <= self.city_share <= 1
        noise = min(self.look_alike, self.photo_noise, self.chip_noise, self.commonness, self.style) >= 0
        ranges = self.range_spread >= 0 and (self.range_spread > 0 or self.migration == 0)
        if not (inside and whole and positive and shares and noise and ranges):
            change = (
                "Give west < east, south < north, counts above 0, positive scales, shares in 0..1, no"
                " negative noise or style; migration needs a range_spread above 0."
            )
            raise SpecError("cannot make a landscape", f"{self}", change)
