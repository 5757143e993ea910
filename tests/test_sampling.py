"""Random places: uniform by area, whatever the box or the mask."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from train.errors import SpecError
from train.sampling import WORLD, Box, sample_box, sample_sphere, sample_where

CALIFORNIA = Box(-124.5, 32.5, -114.1, 42.05)
PACIFIC = Box(170.0, -30.0, -160.0, 20.0)  # 30 degrees wide


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_places_on_the_sphere_are_uniform():
    """Pitfall 5, defects 4.6.1 and 4.6.2: every quadrant alike, and the poles not crowded."""
    lon, lat = sample_sphere(100_000, generator()).numpy().T
    assert stats.kstest(np.sin(np.radians(lat)), stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert stats.kstest(lon, stats.uniform(-180, 360).cdf).pvalue > 0.01
    for east in (lon > 0, lon < 0):
        for north in (lat > 0, lat < 0):
            assert (east & north).mean() == pytest.approx(0.25, abs=0.01)
    assert (np.abs(lat) > 60).mean() == pytest.approx(0.134, abs=0.005)


def test_published_samplers_would_fail_these_tests():
    """Defects 4.6.1 and 4.6.2: the north-east only, and latitudes uniform in degrees."""
    u = np.random.default_rng(0).random((100_000, 2))
    assert stats.kstest(np.sin(np.radians(180 * u[:, 0] - 90)), stats.uniform(-1, 2).cdf).pvalue < 1e-6
    assert (np.abs(180 * u[:, 0] - 90) > 60).mean() == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("box", [CALIFORNIA, PACIFIC, Box(-10, 60, 10, 90)], ids=str)
def test_places_in_a_box_are_uniform_by_area(box):
    """Pitfall 5 for a box: asin(U(sin south, sin north)), across the antimeridian too, up to the corners."""
    places = sample_box(50_000, box, generator(1))
    assert places.dtype == torch.float64
    lon, lat = places.numpy().T
    low, high = np.sin(np.radians([box.south, box.north]))
    assert stats.kstest(np.sin(np.radians(lat)), stats.uniform(low, high - low).cdf).pvalue > 0.01
    east = (lon - box.west) % 360.0  # degrees from the western edge
    assert stats.kstest(east, stats.uniform(0, box.width).cdf).pvalue > 0.01
    assert (lat >= box.south).all()
    assert (lat <= box.north).all()
    assert (np.abs(lon) <= 180).all()
    corner = (east > 0.95 * box.width) & (np.sin(np.radians(lat)) > low + 0.95 * (high - low))
    assert corner.mean() == pytest.approx(0.05**2, rel=0.3)


def test_a_box_across_the_antimeridian_has_both_sides():
    lon = sample_box(3000, PACIFIC, generator())[:, 0]
    assert PACIFIC.width == 30.0
    assert float((lon >= 170).double().mean()) == pytest.approx(1 / 3, abs=0.03)
    assert bool(((lon >= 170) | (lon <= -160)).all())


def test_a_mask_keeps_what_it_should_and_stays_uniform():
    """Half a box kept: what remains is the uniform law of that half."""
    box = Box(0, 0, 40, 60)
    places = sample_where(20_000, lambda lonlat: lonlat[:, 0] > 20, box, generator(2))
    assert places.shape == (20_000, 2)
    lon, lat = places.numpy().T
    assert (lon > 20).all()
    assert stats.kstest(lon, stats.uniform(20, 20).cdf).pvalue > 0.01
    top = math.sin(math.radians(60))
    assert stats.kstest(np.sin(np.radians(lat)), stats.uniform(0, top).cdf).pvalue > 0.01


def test_a_small_island_is_still_found():
    """One place in 3,000 is kept: drawn in larger and larger lots, far below the limit."""
    asked = []

    def island(lonlat):
        asked.append(len(lonlat))
        return (lonlat[:, 0].abs() < 2) & (lonlat[:, 1].abs() < 2)

    places = sample_where(30, island, generator=generator(3), draws=10_000)
    assert len(places) == 30
    assert bool((places.abs() < 2).all())
    assert sum(asked) < 30 * 10_000


def test_a_mask_may_speak_numpy_and_cannot_change_the_places():
    def keep(lonlat):
        array = lonlat.numpy()
        kept = array[:, 1] > 0
        array[:] = 0.0
        return kept

    places = sample_where(50, keep, generator=generator(4))
    assert bool((places[:, 1] > 0).all())


def test_a_mask_that_keeps_nothing_ends():
    asked = []

    def nothing(lonlat):
        asked.append(len(lonlat))
        return torch.zeros(len(lonlat), dtype=torch.bool)

    with pytest.raises(SpecError, match="cannot draw random places: the mask kept 0 of") as refusal:
        sample_where(5, nothing, generator=generator(), draws=100)
    assert sum(asked) == 5 * 100 + 4096
    assert "tighter box" in refusal.value.change


@pytest.mark.parametrize(
    "answer", [lambda p: p, lambda p: p[:, 0], lambda p: torch.ones(1, dtype=torch.bool)]
)
def test_a_mask_that_gives_no_bools_is_refused(answer):
    with pytest.raises(SpecError, match="cannot draw random places"):
        sample_where(5, answer, generator=generator())


@pytest.mark.parametrize(
    "edges",
    [(0, 10, 10, 5), (0, 5, 10, 5), (10, 0, 10, 5), (-181, 0, 0, 5), (0, -91, 1, 0), (0, 0, 1, float("nan"))],
)
def test_an_impossible_box_is_refused(edges):
    with pytest.raises(SpecError, match="cannot draw places in a box"):
        Box(*edges)


def test_the_seed_decides_and_the_global_generator_is_the_default():
    first, again = (sample_box(9, CALIFORNIA, generator(7)) for _ in range(2))
    assert torch.equal(first, again)
    torch.manual_seed(7)
    assert torch.equal(sample_box(9, CALIFORNIA), first)
    assert not torch.equal(sample_box(9, CALIFORNIA), first)
    assert sample_sphere(0).shape == sample_where(0, lambda lonlat: lonlat[:, 0] > 0).shape == (0, 2)
    assert WORLD.width == 360.0
