"""Where pre-training looks: places on land, chips around them, and their seasons."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyproj
import pytest
from odc.geo import CRS
from PIL import Image
from scipy import stats

from geomap import pretraining
from geomap.errors import GridError, ImageryError
from geomap.imagery import FakeImagery, open_imagery
from geomap.land import is_land
from geomap.lattice import Box, Lattice
from geomap.pretraining import Area, cut_area, cut_chips, draw_places, season_features
from geomap.testing import write_raster
from train.chips import card_for
from train.encoders.pair import default_card
from train.spec import AerialSpec, ChipSpec, EncoderCard, LocationSpec

SAHARA = Area(2.0, 18.0, 28.0, 28.0, "EPSG:6933", 20_000)
WORLD = Area(-180.0, -90.0, 180.0, 90.0, "EPSG:6933", 200_000)
CALIFORNIA = Area(-121.0, 36.0, -119.0, 38.0, "EPSG:3310", 40)
LEVEL = ChipSpec(1000.0, (0, 3), 2, 1, (0.0,), (1.0,))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_places_are_uniform_on_the_sphere(monkeypatch):
    """Pitfall 5: sin(lat) uniform, quadrants equal, 13.4 % beyond 60 degrees, were all the world land."""
    monkeypatch.setattr(pretraining, "is_land", lambda lonlat: np.ones(len(lonlat), bool))
    lon, lat = draw_places(WORLD, rng()).T
    assert stats.kstest(np.sin(np.radians(lat)), stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert stats.kstest(lon, stats.uniform(-180, 360).cdf).pvalue > 0.01
    for east in (lon > 0, lon < 0):
        for north in (lat > 0, lat < 0):
            assert (east & north).mean() == pytest.approx(0.25, abs=0.01)
    assert (np.abs(lat) > 60).mean() == pytest.approx(0.134, abs=0.003)


def test_places_are_uniform_inside_an_area():
    """Pitfalls 1 and 5: longitude first, inside the bounds, as dense in the south as in the north."""
    lon, lat = draw_places(SAHARA, rng()).T
    assert (len(lon), lon.min() >= 2, lon.max() <= 28, lat.min() >= 18, lat.max() <= 28) == (
        20_000,
        *[True] * 4,
    )
    low, high = np.sin(np.radians([18, 28]))
    assert stats.kstest(np.sin(np.radians(lat)), stats.uniform(low, high - low).cdf).pvalue > 0.01
    assert stats.kstest(lon, stats.uniform(2, 26).cdf).pvalue > 0.01


def test_places_lie_on_land_and_follow_the_seed():
    coast = replace(CALIFORNIA, west=-124.0, places=500)
    first = draw_places(coast, rng(3))
    assert first.shape == (500, 2)
    assert is_land(first).all()
    np.testing.assert_array_equal(draw_places(coast, rng(3)), first)
    assert not np.array_equal(draw_places(coast, rng(4)), first)
    assert draw_places(coast, rng(3), 7).shape == (7, 2)
    assert draw_places(coast, rng(3), 0).shape == (0, 2)


@pytest.mark.parametrize(
    ("area", "said"),
    [
        (Area(-150.0, -40.0, -140.0, -30.0, "EPSG:6933", 5), "0 places on land"),
        (Area(170.0, 50.0, -170.0, 70.0, "EPSG:6933", 5), "west < east"),
        (Area(10.0, 50.0, 20.0, 40.0, "EPSG:6933", 5), "south < north"),
        (Area(38.0, -122.0, 40.0, -120.0, "EPSG:6933", 5), "in degrees"),
    ],
)
def test_areas_without_land_or_inside_out_are_refused(area, said):
    """Pitfall 1: an area with latitude first has no such latitude. Open sea must not be searched for ever."""
    with pytest.raises(GridError) as refusal:
        draw_places(area, rng())
    assert said in f"{refusal.value.found} {refusal.value.change}"


def ramp(axis):
    """Imagery that climbs from 28 to 228 over two degrees of longitude (axis 0) or latitude (axis 1)."""
    start = (CALIFORNIA.west, CALIFORNIA.south)[axis]
    return FakeImagery(1, lambda lonlat: 28 + 100 * (lonlat[:, axis] - start))


@pytest.mark.parametrize("axis", [0, 1])
def test_chips_are_centred_on_their_place(axis):
    """Pitfall 22: on a ramp the middle pixel has the value of the place; half a pixel aside would show."""
    places, source = draw_places(CALIFORNIA, rng(), 400), ramp(axis)
    chips, valid = cut_chips(source, LEVEL, CRS("EPSG:3310"), places)
    assert chips.shape == (400, 1, 11, 11)
    assert chips.dtype == np.uint8
    assert valid.all()
    gap = chips[:, 0, 5, 5] - source.paint(places)
    step = 100 / 111.2 if axis else 100 / 88.8  # of the ramp, a kilometre [units]
    assert np.abs(gap).max() < 0.71 * step + 0.6  # half a pixel's diagonal, and rounding
    assert abs(gap.mean()) < 0.1 * step


def test_chips_lie_as_maps_do():
    """Columns go east and rows go south."""
    places = draw_places(CALIFORNIA, rng(), 20)
    east = cut_chips(ramp(0), LEVEL, CRS("EPSG:3310"), places)[0].astype(int)[:, 0]
    north = cut_chips(ramp(1), LEVEL, CRS("EPSG:3310"), places)[0].astype(int)[:, 0]
    assert (east[:, :, -1] - east[:, :, 0] > 5).all()
    assert (north[:, 0] - north[:, -1] > 5).all()


@pytest.mark.parametrize(("crs", "metres"), [("EPSG:3310", 1000.0), ("EPSG:6933", 8000.0)])
def test_a_chip_is_what_is_read_around_its_place_alone(tmp_path, crs, metres):
    """Pitfalls 12 and 13: the pixels that the sweep reads, however places share windows."""
    picture = write_raster(
        tmp_path / "picture.tif", "EPSG:4326", (-121.5, 35.5, -118.5, 38.5), (300, 300), 2,
        rng(1).integers(0, 256, (2, 300, 300)), dtype="uint8",
    )  # fmt: skip
    source, level = open_imagery(picture), replace(LEVEL, metres_per_pixel=metres)
    places = draw_places(CALIFORNIA, rng(2))
    chips, valid = cut_chips(source, level, CRS(crs), places)
    lattice = Lattice(CRS(crs), metres)
    xy = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(*places.T)
    for k, (x, y) in enumerate(zip(*xy, strict=True)):
        row, col = int(np.floor(-y / metres)), int(np.floor(x / metres))
        values, has_image = source.read(lattice.geobox(Box(row - 5, col - 5, 11, 11)))
        np.testing.assert_array_equal(chips[k], np.rint(values))
        np.testing.assert_array_equal(valid[k], has_image)


def test_no_imagery_is_not_black():
    """Pitfall 14: the mask says so, pixel by pixel."""
    source = FakeImagery(1, lambda lonlat: np.where(lonlat[:, 0] > -120, 77.0, np.nan))
    chips, valid = cut_chips(source, LEVEL, CRS("EPSG:3310"), np.array([[-120.0, 37.0], [-119.0, 37.0]]))
    assert valid[1].all()
    assert (chips[1] == 77).all()
    assert 40 < valid[0].sum() < 81
    np.testing.assert_array_equal(chips[0, 0], np.where(valid[0], 77, 0))


def test_chips_across_the_antimeridian_are_whole():
    """Pitfall 3: on both sides of 180 degrees the ramp goes on."""
    source = FakeImagery(1, lambda lonlat: 128 + 50 * (lonlat[:, 0] % 360 - 180))
    places = np.array([[179.99, -17.0], [-179.99, -17.0], [180.0, 66.0], [-180.0, 66.0]])
    chips, valid = cut_chips(source, LEVEL, CRS("EPSG:6933"), places)
    assert valid.all()
    steps = np.diff(chips[:, 0].astype(int), axis=2)
    assert steps.min() >= 0
    assert steps.max() <= 1  # 50 units a degree, 96.5 km a degree in this CRS
    np.testing.assert_allclose(chips[:, 0, 5, 5], source.paint(places), atol=1)


@pytest.mark.parametrize("value", [-1.0, 256.0])
def test_values_that_are_no_bytes_are_refused(value):
    """Pitfall 21: reflectances of 0 to 10000 would wrap around silently."""
    source = FakeImagery(1, lambda lonlat: np.full(len(lonlat), value))
    with pytest.raises(ImageryError, match=f"{value:g}") as refusal:
        cut_chips(source, LEVEL, CRS("EPSG:3310"), np.array([[-120.0, 37.0]]))
    assert "0..255" in refusal.value.change


@pytest.fixture
def months(tmp_path):
    """Three world-wide pictures of 10 degrees a pixel, and their values."""
    pixels = rng(5).integers(0, 256, (3, 18, 36, 3)).astype(np.uint8)
    for k, values in enumerate(pixels):
        Image.fromarray(values).save(tmp_path / f"2004{k + 1:02}.png")
    return sorted(tmp_path.glob("2004*.png")), pixels.astype(float)


ODD_PLACES = np.array(
    [
        [-180.0, 0.0],
        [180.0, 0.0],
        [179.9, 45.0],
        [-179.9, 45.0],
        [0.0, 90.0],
        [0.0, -90.0],
        [13.2, -33.9],
        [-5.0, 5.0],
    ]
)


def test_seasons_are_window_means_that_wrap(months):
    """Pitfalls 3, 4 and 22: a loop over the pixels around each place, wrapping in x, held at the poles."""
    paths, pixels = months
    found = season_features(paths, ODD_PLACES)
    assert found.shape == (8, 3 * 3 * 2)
    assert found.dtype == np.float32
    for place, row in zip(ODD_PLACES, found, strict=True):
        col, line = int((place[0] + 180) % 360 // 10), min(int((90 - place[1]) // 10), 17)
        expected = []
        for month in pixels:
            for radius in (0, 2):
                lines = np.clip(np.arange(line - radius, line + radius + 1), 0, 17)
                cols = np.arange(col - radius, col + radius + 1) % 36
                expected.append(month[np.ix_(lines, cols)].mean(axis=(0, 1)))
        np.testing.assert_allclose(row, np.concatenate(expected), rtol=1e-6)
    np.testing.assert_array_equal(found[0], found[1])


def test_place_is_looked_up_in_its_own_pixel(months):
    """Pitfalls 1 and 22: a picture whose pixels are numbered, and a place in the middle of each."""
    numbers = np.arange(18 * 36).reshape(18, 36)
    path = months[0][0]
    Image.fromarray(np.dstack([numbers % 256, numbers // 256, numbers * 0]).astype(np.uint8)).save(path)
    lon, lat = np.meshgrid(np.arange(-175, 180, 10), np.arange(85, -90, -10))
    found = season_features([path], np.column_stack([lon.ravel(), lat.ravel()]))
    np.testing.assert_array_equal(found[:, 0] + 256 * found[:, 1], numbers.ravel())


def test_a_damaged_picture_is_named(months):
    paths, _ = months
    paths[1].write_bytes(paths[1].read_bytes()[:100])
    with pytest.raises(ImageryError, match="200402"):
        season_features(paths, ODD_PLACES)


def test_an_area_gives_all_that_pre_training_reads(months):
    """Pitfall 10 besides: places are not changed by what is cut around them."""
    levels = (replace(LEVEL, windows=(0, 1)), replace(LEVEL, metres_per_pixel=4000.0))
    arrays = cut_area(CALIFORNIA, ramp(0), months[0], levels, seed=5)
    assert sorted(arrays) == ["chips_0", "chips_1", "lonlat", "season", "valid_0", "valid_1"]
    np.testing.assert_array_equal(arrays["lonlat"], draw_places(CALIFORNIA, rng(5)))
    shape = default_card().aerial
    aerial = AerialSpec(channels=4, depth=1, kernel=5, levels=levels)
    assert card_for(arrays, EncoderCard(aerial, LocationSpec(), ())).aerial.levels[1].mean[0] > 28
    assert shape.levels[0].bands == 3
