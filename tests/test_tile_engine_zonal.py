"""Sums over polygons and whole maps against NumPy by brute force."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import shapely
from engine import open_map, write_map
from odc.geo.geobox import GeoBox

from geomap.entries import Threshold
from geomap.errors import GridError
from geomap.grid import Grid, Window, named_grid
from tiles import zonal
from tiles.maps import values

SHAPE = (60, 50)
BOXES = {
    "EPSG:3310": (-200_000.0, -300_000.0, 300_000.0, 300_000.0),
    "EPSG:6933": (-11_800_000.0, 4_200_000.0, -11_300_000.0, 4_800_000.0),
    "EPSG:3857": (-13_600_000.0, 4_200_000.0, -13_100_000.0, 4_800_000.0),
}
AREA = shapely.Polygon([(-121.5, 35.2), (-118.9, 35.0), (-118.2, 37.7), (-120.4, 38.4), (-121.0, 36.6)])


def cells(seed=0):
    rng = np.random.default_rng(seed)
    plane = np.round(rng.random(SHAPE), 4).astype(np.float32)
    plane[rng.random(SHAPE) < 0.3] = -9999
    return plane


@pytest.fixture(params=BOXES)
def chosen(request, tmp_path):
    path = write_map(tmp_path / "m.tif", request.param, BOXES[request.param], cells())
    thresholds = {
        "p10": Threshold(0.3, 0.1),
        "maxsss": Threshold(0.55, math.nan),
        "mtp": Threshold(math.nan, 0),
    }
    return open_map(path, thresholds=thresholds, default_threshold="p10")


def brute(chosen, polygon):
    """Values and areas of the cells with data inside, and the area of those without."""
    grid = Grid("t", GeoBox(chosen.shape, chosen.transform, chosen.crs), 16)
    lonlat, area = grid.cell_lonlat().reshape(-1, 2), grid.cell_area_km2().ravel()
    found = values(chosen.steps(Window(0, 0, *chosen.shape)), chosen.about.bands[0]).ravel()
    inside = shapely.intersects_xy(polygon, lonlat)
    there = inside & ~np.isnan(found)
    return found[there], area[there], area[inside & np.isnan(found)].sum()


@pytest.mark.parametrize("hole", [False, True])
def test_a_polygons_sums_are_those_of_its_cells(chosen, hole):
    polygon = AREA.difference(shapely.Point(-119.9, 36.4).buffer(0.5)) if hole else AREA
    found, area, gaps = brute(chosen, polygon)
    summary = zonal.summarise(chosen, polygon)
    assert summary["cells"] == len(found) > 300
    assert summary["area_km2"] == pytest.approx(area.sum(), abs=0.01)
    assert summary["nodata_km2"] == pytest.approx(gaps, abs=0.01)
    assert summary["mean"] == pytest.approx(np.average(found, weights=area), abs=1e-6)
    assert (summary["min"], summary["max"]) == pytest.approx((found.min(), found.max()), abs=1e-6)
    assert summary["unit"] == chosen.about.bands[0].unit and summary["representative"] is False
    assert set(summary["above"]) == {"p10", "maxsss"}
    for key, value in (("p10", 0.3), ("maxsss", 0.55)):
        expected = area[found >= value - 1e-9].sum()
        assert summary["above"][key]["area_km2"] == pytest.approx(expected, abs=0.01)
        assert summary["above"][key]["share"] == pytest.approx(expected / area.sum(), abs=1e-5)


def test_parts_of_a_multipolygon_add_up(chosen):
    halves = [
        AREA.intersection(shapely.box(-130, 30, -119.7, 40)),
        AREA.intersection(shapely.box(-119.7, 30, -110, 40)),
    ]
    both = zonal.summarise(chosen, shapely.MultiPolygon(halves))
    alone = [zonal.summarise(chosen, half) for half in halves]
    for key in ("cells", "area_km2", "nodata_km2"):
        assert both[key] == pytest.approx(sum(each[key] for each in alone), abs=0.01)


def test_a_polygon_between_the_centres_gets_the_cell_at_its_middle(chosen):
    grid = Grid("t", GeoBox(chosen.shape, chosen.transform, chosen.crs), 16)
    steps = chosen.steps(Window(0, 0, *chosen.shape))
    row, col = np.argwhere(steps[20:40, 20:40] != 65535)[7] + 20
    corner = grid.cell_lonlat(Window(row, col, 2, 2)).mean(axis=(0, 1))
    lon, lat = corner * 0.6 + grid.cell_lonlat(Window(row, col, 1, 1))[0, 0] * 0.4
    summary = zonal.summarise(chosen, shapely.Point(lon, lat).buffer(1e-4))
    assert summary["representative"] is True and summary["cells"] == 1
    assert summary["mean"] == pytest.approx(steps[row, col] / 10_000, abs=1e-6)
    far = zonal.summarise(chosen, shapely.box(10, 50, 10.01, 50.01))
    assert far["cells"] == 0 and far["mean"] is None and far["min"] is None and far["area_km2"] == 0


def test_statistics_are_those_of_all_cells(chosen):
    grid = Grid("t", GeoBox(chosen.shape, chosen.transform, chosen.crs), 16)
    found = values(chosen.steps(Window(0, 0, *chosen.shape)), chosen.about.bands[0])
    area, there = grid.cell_area_km2(), ~np.isnan(found)
    stats = zonal.statistics(chosen)
    assert stats["cells"] == there.sum() and stats["level"] == 0
    assert stats["area_km2"] == pytest.approx(area[there].sum(), rel=1e-6)
    assert stats["nodata_km2"] == pytest.approx(area[~there].sum(), rel=1e-6)
    expected, edges = np.histogram(found[there], np.linspace(0, 1, 51), weights=area[there])
    assert stats["histogram"]["edges"] == pytest.approx(edges.tolist())
    assert np.sum(stats["histogram"]["area_km2"]) == pytest.approx(expected.sum(), rel=1e-6)
    assert len(stats["curve"]) == 251 and stats["curve"][0] == pytest.approx(stats["area_km2"], rel=1e-6)
    levels = np.rint(found[there] * 250)
    for level in (1, 77, 250):
        assert stats["curve"][level] == pytest.approx(area[there][levels >= level].sum(), rel=0.02, abs=0.01)
    assert stats["curve"] == sorted(stats["curve"], reverse=True)


def test_polygons_across_the_antimeridian_and_at_the_pole(tmp_path):
    grid = replace(named_grid("global", 200_000.0), name="global")
    value = np.full(grid.shape, 0.5, np.float32)
    left, top = grid.transform.c, grid.transform.f
    bounds = (left, top - grid.shape[0] * 200_000, left + grid.shape[1] * 200_000, top)
    chosen = open_map(write_map(tmp_path / "w.tif", "EPSG:6933", bounds, value))
    lonlat = grid.cell_lonlat().reshape(-1, 2)
    lon, lat = np.nan_to_num(lonlat.T, nan=999)
    across = zonal.summarise(chosen, shapely.box(170, -20, 190, 20))
    expected = ((lon >= 170) | (lon <= -170)) & (np.abs(lat) <= 20)
    assert across["cells"] == expected.sum() > 0
    parts = shapely.MultiPolygon([shapely.box(170, -20, 180, 20), shapely.box(-180, -20, -170, 20)])
    assert zonal.summarise(chosen, parts)["cells"] == across["cells"]
    cap = zonal.summarise(chosen, shapely.box(-180, 60, 180, 90))
    assert cap["cells"] == (np.abs(lat - 75) <= 15).sum()
    assert zonal.statistics(chosen)["area_km2"] == pytest.approx(510_065_622, rel=0.01)


@pytest.mark.parametrize("shape", [shapely.Point(0, 0), shapely.Polygon(), shapely.box(0, 0, 900, 10)])
def test_what_is_no_area_on_earth_is_refused(chosen, shape):
    with pytest.raises(GridError):
        zonal.summarise(chosen, shape)
