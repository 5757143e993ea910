"""The dense block function against cutting one chip per cell, and against itself in other shapes."""

import math

import numpy as np
import pyproj
import pytest
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo import CRS
from odc.geo.geobox import GeoBox

from geomap.encode import encode_points, encode_unit
from geomap.errors import GridError
from geomap.grid import Grid, Window, grid_from_bbox
from geomap.imagery import FakeImagery
from geomap.lattice import Box, Lattice, Limits, bilinear, coverage, lattice_crs, windows
from train.encoders.pair import random_encoders

ENCODERS = random_encoders(seed=3)


def paint(lonlat):
    """Three bands that change over some ten kilometres."""
    lon, lat = lonlat.T
    return np.stack([110 + 50 * np.sin(9 * (k + 1) * lat + 3 * k) * np.cos(11 * lon + k) for k in range(3)])


IMAGERY = FakeImagery(3, paint)
HALF = FakeImagery(3, lambda lonlat: np.where(lonlat[:, 0] < -118.6, paint(lonlat), np.nan))


def grid_of(
    crs: str, left: float, top: float, resolution: float, shape: tuple[int, int], unit: int = 16
) -> Grid:
    return Grid("test", GeoBox(shape, Affine(resolution, 0, left, 0, -resolution, top), crs), unit)


COAST = grid_of("EPSG:3310", 100_000, -390_000, 1000, (60, 70))  # Los Angeles: land, sea and mountains
COARSE = grid_of("EPSG:6933", -11_520_000, 4_500_000, 25_000, (20, 24))
BETWEEN = grid_of("EPSG:3310", 100_200, -390_300, 700, (40, 40))  # cell centres between lattice pixels
DEGREES = grid_of("EPSG:4326", -118.5, 34.5, 0.02, (30, 30))
PACIFIC = grid_from_bbox(178, -19, -179, -16, resolution=5000)  # Fiji, across the antimeridian
GRIDS = {"coast": COAST, "coarse": COARSE, "between": BETWEEN, "degrees": DEGREES, "pacific": PACIFIC}


def chip_contexts(source, crs: CRS, level: int, row: int, col: int):
    """Context vector of one lattice pixel, from a chip cut around it; and the share of valid 3 x 3 pixels."""
    spec = ENCODERS.levels[level]
    size, margin = spec.metres_per_pixel, spec.margin
    corner = Affine(size, 0, (col - margin) * size, 0, -size, -(row - margin) * size)
    image, valid = source.read(GeoBox((spec.pixels, spec.pixels), corner, crs))
    share = valid[margin - 1 : margin + 2, margin - 1 : margin + 2].mean()
    return ENCODERS.context(level, image, valid)[:, 0, 0], share


def chip_by_chip(source, crs: CRS, xy, lonlat):
    """Embedding and validity of one place by the plainest way: whole chips, weighed by hand."""
    contexts, shares = [], []
    for level, spec in enumerate(ENCODERS.levels):
        col, row = xy[0] / spec.metres_per_pixel - 0.5, -xy[1] / spec.metres_per_pixel - 0.5
        mixed, share = 0.0, 0.0
        for y in (math.floor(row), math.floor(row) + 1):
            for x in (math.floor(col), math.floor(col) + 1):
                weight = (1 - abs(row - y)) * (1 - abs(col - x))
                if weight > 0:
                    context, valid = chip_contexts(source, crs, level, y, x)
                    mixed, share = mixed + weight * context, share + weight * valid
        contexts.append(np.asarray(mixed, np.float32)[None])
        shares.append(share)
    return ENCODERS.embed(contexts, lonlat[None])[0], shares[0] >= 0.5 - 1e-6


def centre_xy(grid: Grid, crs: CRS, row: int, col: int):
    lonlat = grid.cell_lonlat()[row, col]
    if crs == grid.crs:
        return np.array(grid.transform @ (col + 0.5, row + 0.5)), lonlat
    return np.array(
        pyproj.Transformer.from_crs(4326, crs.to_wkt(), always_xy=True).transform(*lonlat)
    ), lonlat


@pytest.mark.parametrize("source", [IMAGERY, HALF], ids=["everywhere", "half"])
@pytest.mark.parametrize("name", GRIDS)
def test_dense_equals_chip_by_chip(name, source):
    grid = GRIDS[name]
    crs = lattice_crs(grid)
    embedding, valid = encode_unit(ENCODERS, source, grid, grid.whole)
    cells = np.argwhere(grid.land_mask())
    picked = cells[:: max(1, len(cells) // 7)]
    assert len(picked) >= 4
    for row, col in picked:
        expected, expected_valid = chip_by_chip(source, crs, *centre_xy(grid, crs, row, col))
        assert valid[row, col] == expected_valid
        if expected_valid:
            np.testing.assert_allclose(embedding[row, col], expected, atol=1e-4)


def test_lattice_meets_cell_centres_of_a_kilometre_grid():
    """There the embedding is that of the one chip around the cell, nothing is interpolated."""
    assert lattice_crs(COAST) == COAST.crs
    embedding, _ = encode_unit(ENCODERS, IMAGERY, COAST, COAST.whole)
    row, col = np.argwhere(COAST.land_mask())[0]
    xy, lonlat = centre_xy(COAST, COAST.crs, row, col)
    finest = chip_contexts(IMAGERY, COAST.crs, 0, round(-xy[1] / 1000 - 0.5), round(xy[0] / 1000 - 0.5))[0]
    coarser = np.zeros((1, 1))
    spec = ENCODERS.levels[1]
    at = np.array([-xy[1], xy[0]]) / spec.metres_per_pixel - 0.5
    low = np.floor(at).astype(int)
    for y in (0, 1):
        for x in (0, 1):
            weight = abs(1 - y - (at - low)[0]) * abs(1 - x - (at - low)[1])
            coarser = coarser + weight * chip_contexts(IMAGERY, COAST.crs, 1, low[0] + y, low[1] + x)[0]
    expected = ENCODERS.embed([finest[None], coarser.astype(np.float32)], lonlat[None])[0]
    np.testing.assert_allclose(embedding[row, col], expected, atol=1e-4)


@pytest.mark.parametrize("name", GRIDS)
def test_rows_are_unit_length_and_only_on_land(name):
    grid = GRIDS[name]
    embedding, valid = encode_unit(ENCODERS, IMAGERY, grid, grid.whole)
    np.testing.assert_array_equal(valid, grid.land_mask())
    np.testing.assert_allclose(np.linalg.norm(embedding[valid], axis=1), 1, atol=1e-5)
    assert not embedding[~valid].any()
    assert embedding.dtype == np.float32 and embedding.shape == (*grid.shape, ENCODERS.dim)


@pytest.mark.parametrize("name", GRIDS)
def test_units_agree_with_the_whole(name):
    grid = GRIDS[name]
    whole, whole_valid = encode_unit(ENCODERS, HALF, grid, grid.whole)
    for window in grid.units():
        part = np.s_[window.row : window.row + window.height, window.col : window.col + window.width]
        embedding, valid = encode_unit(ENCODERS, HALF, grid, window)
        np.testing.assert_array_equal(valid, whole_valid[part])
        np.testing.assert_allclose(embedding, whole[part], atol=1e-4)


def test_same_bytes_with_any_number_of_torch_threads():
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(encode_unit(ENCODERS, IMAGERY, COAST, COAST.whole)[0].tobytes())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("name", GRIDS)
def test_points_at_cell_centres_equal_the_unit(name):
    grid = GRIDS[name]
    embedding, valid = encode_unit(ENCODERS, HALF, grid, grid.whole)
    land = grid.land_mask()
    lonlat = grid.cell_lonlat()[land]
    order = np.random.default_rng(0).permutation(len(lonlat))
    got, got_valid = encode_points(ENCODERS, HALF, lonlat[order], crs=lattice_crs(grid))
    np.testing.assert_array_equal(got_valid, valid[land][order])
    np.testing.assert_allclose(got, embedding[land][order], atol=1e-4)


def test_points_use_the_world_lattice_by_default():
    lonlat = COARSE.cell_lonlat()[COARSE.land_mask()][::9]
    got, valid = encode_points(ENCODERS, IMAGERY, lonlat)
    same, _ = encode_points(ENCODERS, IMAGERY, lonlat, crs="EPSG:6933")
    assert valid.all()
    np.testing.assert_array_equal(got, same)


def test_points_that_are_no_places():
    lonlat = np.array([[np.nan, 1], [0, 91], [-118.0, 34.0], [np.inf, 0], [0, -90]])
    embedding, valid = encode_points(ENCODERS, IMAGERY, lonlat)
    np.testing.assert_array_equal(valid[:4], [False, False, True, False])
    assert not embedding[~valid].any()
    alone, _ = encode_points(ENCODERS, IMAGERY, lonlat[2:3])
    np.testing.assert_allclose(embedding[2], alone[0], atol=1e-6)


def test_no_points():
    embedding, valid = encode_points(ENCODERS, IMAGERY, np.empty((0, 2)))
    assert embedding.shape == (0, ENCODERS.dim) and valid.shape == (0,)


def test_points_on_both_sides_of_the_antimeridian():
    """One place with two longitudes; the lattice is cut there by a part of a pixel, the imagery is not."""
    smooth = FakeImagery(3, lambda lonlat: 100 + 60 * np.sin(8 * np.radians(lonlat[:, 0])))
    cut = FakeImagery(3, lambda lonlat: np.where(lonlat[:, 0] < 0, np.nan, smooth.paint(lonlat)))
    lonlat = np.array([[180.0, -17.0], [-180.0, -17.0]])
    embedding, valid = encode_points(ENCODERS, smooth, lonlat)
    assert valid.all()
    np.testing.assert_allclose(embedding[0], embedding[1], atol=5e-3)
    one_side, _ = encode_points(ENCODERS, cut, lonlat[:1])
    assert np.abs(embedding[0] - one_side[0]).max() > 2e-2


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:2229"])
def test_points_refuse_a_lattice_of_another_size(crs):
    """Degrees, a scale of 1.2 in California, and feet."""
    with pytest.raises(GridError, match="chips"):
        encode_points(ENCODERS, IMAGERY, np.array([[-118.0, 34.0]]), crs=crs)


def test_nothing_is_read_where_there_is_no_land():
    class Unreadable(FakeImagery):
        def read(self, geobox):
            raise AssertionError("read")

    sea = grid_of("EPSG:3310", -500_000, -400_000, 1000, (16, 16))
    embedding, valid = encode_unit(ENCODERS, Unreadable(3, paint), sea, sea.whole)
    assert not valid.any() and not embedding.any()


class Counting(FakeImagery):
    """Imagery that counts what is read of it."""

    def read(self, geobox):
        self.__dict__.setdefault("boxes", []).append(geobox)
        return super().read(geobox)

    @property
    def pixels(self) -> int:
        return sum(box.shape[0] * box.shape[1] for box in self.__dict__["boxes"])


def test_overlapping_chips_are_read_once():
    source = Counting(3, paint)
    _, valid = encode_unit(ENCODERS, source, COAST, COAST.whole)
    chips = valid.sum() * sum(spec.pixels**2 for spec in ENCODERS.levels)
    assert source.pixels < chips / 100


def test_points_far_apart_are_not_read_as_one_window():
    source = Counting(3, paint)
    encode_points(ENCODERS, source, np.array([[-118.0, 34.0], [20.0, 10.0], [140.0, -30.0]]))
    assert source.pixels <= 3 * sum((spec.pixels + 1) ** 2 for spec in ENCODERS.levels)


def test_only_the_land_of_a_unit_is_read():
    source = Counting(3, paint)
    grid = grid_of("EPSG:3310", 0, -460_000, 1000, (256, 256), unit=256)  # islands in the south-west, a coast
    land = grid.land_mask()
    assert 0 < land.mean() < 0.4
    encode_unit(ENCODERS, source, grid, grid.whole)
    finest = [box for box in source.__dict__["boxes"] if box.resolution.x == 1000]
    assert sum(box.shape[0] * box.shape[1] for box in finest) < (256 + 2 * ENCODERS.levels[0].margin) ** 2


# The lattice itself


@given(
    st.lists(st.tuples(st.floats(-500, 500), st.floats(-500, 500)), min_size=1, max_size=40),
    st.integers(1, 9),
    st.sampled_from([Limits(40, 10), Limits(1000, 100_000), Limits(8, 0)]),
)
def test_windows_serve_every_place_once(places, margin, limits):
    at = np.array(places)
    found = windows(at, np.arange(len(at)), margin, limits)
    members = np.concatenate([inside for _, inside in found])
    assert sorted(members.tolist()) == list(range(len(at)))
    for box, inside in found:
        assert (
            max(box.height, box.width) <= limits.side + 2 * margin + 1
            or len(np.unique(at[inside], axis=0)) == 1
        )
        local = at[inside] - (box.row, box.col)
        assert (np.floor(local) >= margin).all()
        assert (np.ceil(local) <= np.array([box.height, box.width]) - 1 - margin).all()


def test_windows_of_sparse_places_are_chips():
    at = (
        np.stack(np.meshgrid(np.arange(0, 1000, 100), np.arange(0, 1000, 100)), axis=-1)
        .reshape(-1, 2)
        .astype(float)
    )
    found = windows(at, np.arange(100), margin=3, limits=Limits(2000, 10))
    assert {(box.height, box.width) for box, _ in found} == {(7, 7)}


def test_windows_of_dense_places_are_one():
    at = np.stack(np.meshgrid(np.arange(50), np.arange(50)), axis=-1).reshape(-1, 2).astype(float)
    ((box, members),) = windows(at, np.arange(2500), margin=3, limits=Limits(256, 10))
    assert box == (-3, -3, 56, 56) and len(members) == 2500


def test_bilinear_by_hand():
    maps = np.array([[[0, 1], [2, 3]], [[10, 10], [10, 50]]], np.float32)
    at = np.array([[0, 0], [1, 1], [0.5, 0.5], [0.25, 0], [0, 0.75]])
    expected = [[0, 10], [3, 50], [1.5, 20], [0.5, 10], [0.75, 10]]
    np.testing.assert_allclose(bilinear(maps, at), expected, rtol=1e-6)


def test_coverage_by_hand():
    has_image = np.zeros((5, 6), bool)
    has_image[1:3, 2:5] = True
    np.testing.assert_allclose(coverage(has_image, 2) * 9, [[[4, 6]]], rtol=1e-6)


def test_positions_and_geobox_agree():
    lattice = Lattice(CRS("EPSG:3310"), 1000.0)
    box = Box(-3, 5, 4, 7)
    geobox = lattice.geobox(box)
    centre = geobox.affine @ (2.5, 1.5)  # third column, second row
    np.testing.assert_allclose(lattice.positions(np.array([centre])), [[-2, 7]])


@pytest.mark.parametrize(
    ("grid", "expected"),
    [(COAST, 3310), (COARSE, 6933), (DEGREES, 6933), (grid_of("EPSG:3857", -1.3e7, 4e6, 1000, (9, 9)), 6933)],
)
def test_lattice_crs(grid, expected):
    assert lattice_crs(grid).to_epsg() == expected


def test_pacific_grid_has_its_own_lattice():
    assert lattice_crs(PACIFIC) == PACIFIC.crs
    mask = PACIFIC.land_mask()
    lon = PACIFIC.cell_lonlat()[..., 0]
    assert (lon[mask] > 0).any() and (lon[mask] < 0).any()
    assert Window(0, 0, *PACIFIC.shape) == PACIFIC.whole
