"""Tiles against GDAL's own reprojection, at seams, at the ends of the earth, and as pictures."""

from __future__ import annotations

import io
import math
import threading

import numpy as np
import pytest
import rasterio
from engine import SHAPE, by_rasterio, exact_cells, noise, open_map, tile_at, write_map
from odc.geo.geobox import GeoBox
from PIL import Image

from geomap.cog import GAP, to_values
from geomap.colour import CLEAR, RAMPS, palette
from geomap.errors import GridError, MapError
from geomap.footprint import footprint
from geomap.grid import Grid, Window, grid_from_bbox, named_grid
from tiles import paint, positions, warp
from tiles.lru import Lru
from tiles.maps import values
from tiles.pyramid import deepest, level_shape, level_transform, overviews
from tiles.stored import read_layout, to_band_steps

PLACE = (-120.5, 37.5)
GRIDS = ("EPSG:3310", "EPSG:3857", "EPSG:6933")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    return {crs: write_map(folder / f"{crs[5:]}.tif", crs, blocksize=128) for crs in GRIDS}


def levels_of(chosen, tile, band=0):
    return paint.tile_levels(chosen, tile.tms, tile.z, tile.x, tile.y, band, tile.size)


@pytest.mark.parametrize("tms", ["WebMercatorQuad", "WorldCRS84Quad"])
@pytest.mark.parametrize("crs", GRIDS)
def test_a_tile_is_what_gdal_reprojects(files, crs, tms):
    chosen = open_map(files[crs])
    seen = set()
    for z in range(2, 9):
        tile = tile_at(tms, z, *PLACE)
        level = warp.level_of(paint.cells_of(chosen), tms, z, 256)
        seen.add(level)
        if level > 1:  # the file has one overview
            continue
        mine, theirs = levels_of(chosen, tile), by_rasterio(files[crs], tile, level)
        expected = np.where(np.isnan(theirs), CLEAR, np.rint(np.nan_to_num(theirs) * 250))
        other = np.abs(mine.astype(int) - expected) > 1
        col, row = exact_cells(chosen, tile, level_transform(chosen.transform, SHAPE, level))
        from_edge = np.minimum(np.abs(col - np.rint(col)), np.abs(row - np.rint(row)))
        # A pixel whose centre lies on an edge between cells may be either's; nowhere else do they differ.
        assert from_edge[other].max(initial=0) < positions.TOLERANCE
        assert other.mean() < 0.02
        assert (mine != CLEAR).any()
    assert {0, 1, 2} <= seen


@pytest.mark.parametrize("crs", GRIDS)
def test_overviews_are_those_of_the_file(files, crs):
    chosen = open_map(files[crs])
    with rasterio.open(files[crs], overview_level=0) as source:
        theirs, transform = source.read(1), source.transform
    mine = to_values(chosen.steps(Window(0, 0, *level_shape(SHAPE, 1)), 1))
    assert mine.shape == theirs.shape == level_shape(SHAPE, 1)
    assert ((mine == -9999) == (theirs == -9999)).all()
    np.testing.assert_allclose(mine, theirs, atol=6e-5)
    assert transform.almost_equals(level_transform(chosen.transform, SHAPE, 1), 1e-6)


def test_overviews_end_in_one_cell_and_of_nothing_are_nothing():
    empty = np.full((7, 12), GAP, np.uint16)
    assert [level.shape for level in overviews(empty)] == [(3, 6), (1, 3)]
    assert all((level == GAP).all() for level in overviews(empty))
    one = empty.copy()
    one[3, 5] = 5000
    assert set(np.unique(overviews(one)[-1])) == {5000, GAP}
    assert deepest((1, 9)) == 0 and overviews(np.zeros((1, 9), np.uint16)) == ()


@pytest.mark.parametrize("crs", [*GRIDS, "EPSG:32611", "EPSG:3571"])
@pytest.mark.parametrize("tms", ["WebMercatorQuad", "WorldCRS84Quad"])
def test_cells_under_pixels_are_within_a_twentieth_of_a_cell(crs, tms):
    if crs == "EPSG:3571":  # around the north pole
        grid = grid_from_bbox(-180, 45, 180, 90, 100_000.0, crs)
    else:
        grid = named_grid("california", 1000.0, crs)
    cells = warp.Cells(crs, grid.transform, grid.shape, tuple(footprint(grid.geobox)[1]))
    for z in (0, 3, 5, 7, 10):
        tile = tile_at(tms, z, *PLACE)
        col, row = positions.pixels(cells.crs, cells.transform, cells.shape[1], tile)
        exact_col, exact_row = exact_cells(cells, tile, cells.transform)
        near = (np.abs(exact_col) < 4 * grid.shape[1]) & (np.abs(exact_row) < 4 * grid.shape[0])
        error = np.maximum(np.abs(col - exact_col), np.abs(row - exact_row))[near]
        assert np.nanmax(error, initial=0) < positions.TOLERANCE, z


@pytest.mark.parametrize("crs", GRIDS)
def test_four_children_are_one_tile_of_twice_the_size(files, crs):
    chosen = open_map(files[crs])
    for z in (4, 6, 8):
        parent = tile_at("WebMercatorQuad", z, *PLACE, size=512)
        whole = levels_of(chosen, parent)
        children = [
            [
                levels_of(chosen, positions.Tile(parent.tms, z + 1, 2 * parent.x + i, 2 * parent.y + j))
                for i in (0, 1)
            ]
            for j in (0, 1)
        ]
        assert (np.block(children) != whole).mean() < 0.002  # the lattice of 256 pixels is another
        assert (whole != CLEAR).any()


@pytest.mark.parametrize("crs", GRIDS)
def test_a_pixel_of_a_parent_is_one_of_the_four_below_it(files, crs):
    chosen = open_map(files[crs])
    parent = tile_at("WebMercatorQuad", 8, *PLACE)
    assert warp.level_of(paint.cells_of(chosen), parent.tms, 8, 256) == 0  # as for its children
    whole = levels_of(chosen, parent)
    below = levels_of(chosen, positions.Tile(parent.tms, 9, 2 * parent.x, 2 * parent.y))
    four = [below[i::2, j::2] for i in (0, 1) for j in (0, 1)]
    assert (np.any([each == whole[:128, :128] for each in four], axis=0)).mean() > 0.998


def test_one_level_serves_all_tiles_of_a_zoom(files):
    cells = paint.cells_of(open_map(files["EPSG:3310"]))
    picked = [warp.level_of(cells, "WebMercatorQuad", z, 256) for z in range(12)]
    assert picked == sorted(picked, reverse=True)
    assert picked[8:] == [0, 0, 0, 0]
    for z, level in enumerate(picked):
        assert warp.level_of(cells, "WebMercatorQuad", z + 1, 256) == warp.level_of(
            cells, "WebMercatorQuad", z, 512
        )
        if 0 < level < deepest(SHAPE):
            width = 4000 * 2**level  # of a cell; a pixel of Web Mercator at 37 degrees
            assert width <= 156_543 / 2**z * np.cos(np.radians(37)) * 1.05 < 2.2 * width


def world(tmp_path, crs="EPSG:6933", side=200_000.0):
    """A map of the whole world whose value grows with longitude and latitude, and its grid."""
    grid = named_grid("global", side, crs)
    lonlat = grid.cell_lonlat()
    value = np.round((lonlat[..., 0] + 180) / 720 + (lonlat[..., 1] + 90) / 360, 4)
    value = np.where(np.isnan(value), -9999, value).astype(np.float32)
    left, top = grid.transform.c, grid.transform.f
    height, width = grid.shape
    path = write_map(tmp_path / "w.tif", crs, (left, top - height * side, left + width * side, top), value)
    return open_map(path), grid


@pytest.mark.parametrize("tms", ["WebMercatorQuad", "WorldCRS84Quad"])
@pytest.mark.parametrize(
    "crs, side", [("EPSG:6933", 200_000.0), ("EPSG:4326", 2.0), ("EPSG:3857", 250_000.0)]
)
def test_world_maps_hold_to_the_antimeridian_and_the_poles(tmp_path, tms, crs, side):
    if crs == "EPSG:3857":
        value = np.tile(np.linspace(0, 1, 160).round(4).astype(np.float32), (160, 1))
        half = math.pi * 6378137
        chosen = open_map(write_map(tmp_path / "m.tif", crs, (-half, -half, half, half), value))
        grid = None
    else:
        chosen, grid = world(tmp_path, crs, side)
    z = 3
    for lon in (-179.99, 179.99):
        for lat in (-89.9, -84.0, 0.0, 84.0, 89.9):
            if tms == "WebMercatorQuad" and abs(lat) > 85:
                continue
            tile = tile_at(tms, z, lon, lat)
            found = levels_of(chosen, tile)
            if grid is None:
                continue
            centres = np.arange(256) + 0.5
            lon_, lat_ = np.meshgrid(tile.lon(centres), tile.lat(centres))
            rows, cols, inside = grid.rowcol(np.stack([lon_.ravel(), lat_.ravel()], axis=1))
            steps = chosen.steps(Window(0, 0, *chosen.shape))[rows, cols]
            expected = np.where(inside & (steps != GAP), paint.level_table()[steps], CLEAR).reshape(256, 256)
            assert warp.level_of(paint.cells_of(chosen), tms, z, 256) == 0
            assert (found != expected).mean() < 0.002
            assert (found[:, 0] != CLEAR).any() and (found[:, -1] != CLEAR).any()
    west = levels_of(chosen, tile_at(tms, z, -179.99, 0.0))[:, 0]
    east = levels_of(chosen, tile_at(tms, z, 179.99, 0.0))[:, -1]
    assert (west != CLEAR).all() and (east != CLEAR).all()


def test_tiles_of_places_that_a_map_does_not_reach_are_empty(files):
    chosen = open_map(files["EPSG:3310"])
    for lon, lat in ((60.0, 37.5), (-120.0, -37.0), (-150.0, 40.0), (100.0, 60.0)):
        tile = tile_at("WebMercatorQuad", 5, lon, lat)
        assert (levels_of(chosen, tile) == CLEAR).all()


def test_extremes_of_tiles(files):
    chosen = open_map(files["EPSG:3310"])
    for tms, columns in (("WebMercatorQuad", 1), ("WorldCRS84Quad", 2)):
        deepest_tile = positions.Tile(tms, 24, (columns << 24) - 1, (1 << 24) - 1)
        assert (levels_of(chosen, deepest_tile) == CLEAR).all()
        near = tile_at(tms, 24, *PLACE)
        assert len(np.unique(levels_of(chosen, near))) == 1
        for z, x, y in ((-1, 0, 0), (25, 0, 0), (0, columns, 0), (0, 0, 1), (3, -1, 0), (3, 0, 8)):
            with pytest.raises(GridError):
                paint.tile_levels(chosen, tms, z, x, y)
    with pytest.raises(GridError):
        paint.tile_levels(chosen, "Mars", 0, 0, 0)
    with pytest.raises(GridError):
        paint.tile_levels(chosen, "WebMercatorQuad", 0, 0, 0, size=8192)
    with pytest.raises(GridError):
        paint.tile_levels(chosen, "WebMercatorQuad", 5, 5, 12, band=1)


def test_pngs_and_webps_show_the_palette_and_values_the_entries():
    tile = np.arange(256, dtype=np.uint8).reshape(16, 16).copy()
    tile[tile > 250] = CLEAR
    for ramp in RAMPS:
        for encode in (paint.encode_png, paint.encode_webp):
            shown = np.asarray(Image.open(io.BytesIO(encode(tile, ramp))).convert("RGBA"))
            expected = palette(ramp)[tile]
            assert (shown[..., 3] == expected[..., 3]).all()
            assert (shown[expected[..., 3] > 0] == expected[expected[..., 3] > 0]).all()
    grey = Image.open(io.BytesIO(paint.encode_value(tile)))
    assert grey.mode == "L" and (np.asarray(grey) == tile).all()
    with pytest.raises(ValueError):
        paint.encode_png(tile, "jet")


def test_empty_tiles_are_small_and_always_the_same():
    clear = np.full((256, 256), CLEAR, np.uint8)
    assert len(paint.encode_png(clear)) < 200 and paint.encode_png(clear) is paint.encode_png(clear, "greys")
    assert np.asarray(Image.open(io.BytesIO(paint.encode_png(clear))).convert("RGBA"))[..., 3].max() == 0
    assert np.asarray(Image.open(io.BytesIO(paint.encode_webp(clear))).convert("RGBA"))[..., 3].max() == 0
    assert (np.asarray(Image.open(io.BytesIO(paint.encode_value(clear)))) == CLEAR).all()
    assert Image.open(io.BytesIO(paint.encode_png(np.full((512, 512), CLEAR, np.uint8)))).size == (512, 512)


def test_a_point_is_the_cell_that_holds_it(files):
    for crs, path in files.items():
        chosen = open_map(path)
        lonlat = Grid("t", GeoBox(SHAPE, chosen.transform, crs), 8).cell_lonlat()
        with rasterio.open(path) as source:
            stored = source.read(1)
        for row, col in ((0, 60), (262, 228), (100, 100), (131, 50), (17, 201)):
            value = paint.point(chosen, *lonlat[row, col])
            expected = stored[row, col]
            assert value == [None] if expected == -9999 else value == [pytest.approx(expected, abs=1e-6)]
        assert paint.point(chosen, 10.0, 50.0) == [None]
        for lon, lat in ((181.0, 0.0), (0.0, 91.0), (float("nan"), 0.0), (float("inf"), 0.0)):
            with pytest.raises(GridError):
                paint.point(chosen, lon, lat)


def test_bands_of_other_ranges_keep_their_units(tmp_path):
    cosine = np.where(noise((40, 50)) == -9999, -9999, noise((40, 50), 3, 0) * 0.6 - 0.3)
    other = np.where(noise((40, 50)) == -9999, -9999, noise((40, 50), 4, 0) * 0.2 - 0.1)
    path = write_map(tmp_path / "photos.tif", values=np.stack([cosine, noise((40, 50)), other]))
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as target:
        target.descriptions = (
            "habitat similarity in month 1",
            "location prior: Aquila",
            "habitat similarity in month 12",
        )
        target.units = ("cosine", "suitability", "cosine")
    chosen = open_map(path)
    january, prior, december = chosen.about.bands
    assert [band.name for band in chosen.about.bands] == [
        "habitat-similarity-in-month-1", "location-prior-aquila", "habitat-similarity-in-month-12",
    ]  # fmt: skip
    assert [band.month for band in chosen.about.bands] == [1, None, 12]
    assert (january.low, january.high) == (december.low, december.high) == (-0.3, 0.3)
    assert (prior.low, prior.high, prior.unit) == (0.0, 1.0, "suitability")
    for band, expected in ((0, cosine), (2, other)):
        found = values(chosen.steps(Window(0, 0, 40, 50), 0, band), chosen.about.bands[band])
        np.testing.assert_allclose(found, np.where(expected == -9999, np.nan, expected), atol=4e-5)
    tile = tile_at("WebMercatorQuad", 7, *PLACE)
    assert not (levels_of(chosen, tile, 0) == levels_of(chosen, tile, 1)).all()
    assert to_band_steps(np.array([np.nan, 9.0, -9.0]), np.ones(3, bool), january).tolist() == [
        GAP,
        10_000,
        0,
    ]


def test_large_files_are_read_window_by_window_with_the_same_result(files, monkeypatch):
    held = open_map(files["EPSG:3310"])
    monkeypatch.setattr("tiles.stored.LARGEST", 20_000)
    windowed = open_map(files["EPSG:3310"])
    for z in (3, 4, 5, 6, 8):
        tile = tile_at("WebMercatorQuad", z, *PLACE)
        a, b = levels_of(held, tile).astype(int), levels_of(windowed, tile).astype(int)
        assert ((a == CLEAR) == (b == CLEAR)).all() and np.abs(a - b).max() <= 1
    assert windowed.kept.bytes < SHAPE[0] * SHAPE[1]


def test_corrupt_files_are_map_errors(tmp_path):
    path = write_map(tmp_path / "m.tif")
    chosen = open_map(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(MapError):
        chosen.steps(Window(0, 0, *SHAPE))
    path.unlink()
    with pytest.raises(MapError):
        read_layout(chosen.file)
    with pytest.raises(MapError):
        chosen.steps(Window(0, 0, 5, 5), 2)


def test_windows_that_leave_the_map_are_refused(files):
    chosen = open_map(files["EPSG:3310"])
    for window, level in (((0, 0, 264, 1), 0), ((-1, 0, 1, 1), 0), ((0, 0, 132, 115), 1), ((0, 0, 1, 1), 8)):
        with pytest.raises(GridError):
            chosen.steps(Window(*window), level)
    assert not chosen.steps(Window(3, 4, 5, 6)).flags.writeable


def test_lru_forgets_the_oldest_and_never_exceeds_its_bytes():
    kept = Lru(1000, len)
    for k in range(50):
        kept.get(k, lambda: b"x" * 90)
        kept.get(0, lambda: b"y" * 90)
        assert kept.bytes <= 1000
    assert kept.peek(0) is not None and kept.peek(49) is not None and kept.peek(10) is None
    assert len(kept.get("large", lambda: b"x" * 5000)) == 5000
    assert kept.peek("large") is None and len(kept) == 11
    kept.drop(lambda key: key == 0)
    assert kept.peek(0) is None


def test_what_many_ask_for_is_made_once_and_errors_reach_all():
    kept, made, gate = Lru(1000, len), [], threading.Event()

    def make():
        made.append(1)
        gate.wait(10)
        return b"value"

    def fail():
        gate.wait(10)
        raise MapError("a", "b", "c")

    results = []

    def ask(key, how):
        try:
            results.append(kept.get(key, how))
        except MapError as error:
            results.append(error)

    for how in (make, fail):
        gate.clear()
        results.clear()
        threads = [threading.Thread(target=ask, args=(how.__name__, how)) for _ in range(16)]
        for thread in threads:
            thread.start()
        gate.set()
        for thread in threads:
            thread.join()
        assert len(results) == 16
        assert {type(result) for result in results} == {bytes if how is make else MapError}
    assert made == [1]
    assert kept.get("fail", make) == b"value"


def test_warps_are_shared_and_bounded(files):
    warps = warp.Warps(1 << 20)
    cells = paint.cells_of(open_map(files["EPSG:3310"]))
    tile = tile_at("WebMercatorQuad", 8, *PLACE)
    assert warps.get(cells, tile) is warps.get(paint.cells_of(open_map(files["EPSG:3310"])), tile)
    for x in range(40, 46):
        for y in range(96, 102):
            warps.get(cells, positions.Tile("WebMercatorQuad", 8, x, y))
            assert warps.bytes <= 1 << 20
