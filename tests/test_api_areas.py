"""Sums over polygons against brute force, and figures by the colours of their pixels."""

import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import rasterio.features
import shapely

import geomap
import geomap.grid
from geomap import plotting
from geomap.catalog import Catalog
from geomap.colour import levels, palette
from geomap.errors import GridError, MapError, NameNotFoundError
from geomap.grid import grid_from_bbox
from geomap.preview import NOTHING
from geomap.testing_bundle import make_heads, write_field

pytestmark = pytest.mark.usefixtures("shipped")
NAMES = ["Eschscholzia californica", "Chamaea fasciata"]


@pytest.fixture(autouse=True)
def no_figure_left():
    yield
    plt.close("all")


def areas(grid):
    """Polygons in the CRS of a grid: overlapping ones, one with a hole, one in the sea, one of two parts."""
    west, south = grid.transform.c, grid.transform.f - grid.resolution * grid.shape[0]
    east, north = west + grid.resolution * grid.shape[1], grid.transform.f
    middle = shapely.Point((west + east) / 2, (south + north) / 2)
    reach = (east - west) / 4
    shapes = [
        middle.buffer(reach),
        middle.buffer(2 * reach).difference(middle.buffer(reach / 2)),
        shapely.box(west - 10 * reach, south, west - 9 * reach, north),
        shapely.MultiPolygon(
            [shapely.box(west, north - reach, west + reach, north), middle.buffer(reach / 3)]
        ),
    ]
    return gpd.GeoDataFrame({"name": list("abcd")}, geometry=shapes, crs=str(grid.crs), index=[5, 3, 8, 1])


def brute(polygons, name, map, grid):
    """The same sums from a rasterised mask and the values of the map."""
    entry = Catalog.open().find_entry(name)
    limit, values, area = entry.thresholds["p10"].value, map.values.astype(float), grid.cell_area_km2()
    for index, polygon in polygons.geometry.items():
        inside = rasterio.features.geometry_mask([polygon], grid.shape, grid.transform, invert=True)
        there = inside & np.isfinite(values)
        total, above = area[there].sum(), area[there & (np.round(values * 1e4) >= round(limit * 1e4))].sum()
        mean = (values[there] * area[there]).sum() / total if total else np.nan
        yield (
            index,
            entry.scientific,
            int(there.sum()),
            total,
            mean,
            above,
            above / total if total else np.nan,
        )


@pytest.mark.parametrize("crs", [None, "EPSG:4326"])
def test_sums_equal_brute_force(crs):
    grid = geomap.open("california").grid
    polygons = areas(grid)
    given = polygons if crs is None else polygons.assign(geometry=polygons.segmentize(5_000)).to_crs(crs)
    table = geomap.summary(given, NAMES)
    truth = [row for name in NAMES for row in brute(polygons, name, geomap.render(name), grid)]
    truth = pd.DataFrame(truth, columns=["polygon", "scientificName", "cells", "area_km2", "mean", "area_above_km2", "share_above"])  # fmt: skip  # noqa: E501
    assert table["polygon"].tolist() == [5, 5, 3, 3, 8, 8, 1, 1]
    mine = table.merge(truth, on=["polygon", "scientificName"], suffixes=("", "_true"), validate="1:1")
    assert len(mine) == 8
    assert mine["cells"].tolist() == mine["cells_true"].tolist()
    for column in ("area_km2", "mean", "area_above_km2", "share_above"):
        np.testing.assert_allclose(mine[column], mine[f"{column}_true"], rtol=1e-6)
    empty = table[table["polygon"] == 8]
    assert (empty["cells"] == 0).all()
    assert (empty["area_km2"] == 0).all()
    assert empty[["mean", "share_above"]].isna().all(axis=None)
    assert (table.loc[table["polygon"] == 5, "area_above_km2"] > 0).any()


def test_sums_run_over_units_and_take_heads_in_memory(tmp_path):
    field = write_field(tmp_path / "fine.zarr", grid_from_bbox(-124, 36, -119, 40, 1_000.0, "EPSG:3310"))
    heads = make_heads("mine", "suitability", [(name, "", "") for name in NAMES], field)
    assert len(field.grid.units()) > 2
    table = geomap.summary(areas(field.grid), "all", heads=heads, field=field)
    cells = field.read(field.grid.whole)[1]
    masks = [
        rasterio.features.geometry_mask([each], field.grid.shape, field.grid.transform, invert=True) & cells
        for each in areas(field.grid).geometry
    ]
    assert table["cells"].tolist() == [int(mask.sum()) for mask in masks for _ in NAMES]


def test_polygons_drawn_beyond_180_degrees_are_where_they_are_meant():
    west = gpd.GeoSeries([shapely.box(-121, 36, -119, 38)], crs="EPSG:4326")
    east = gpd.GeoSeries([shapely.box(239, 36, 241, 38)], crs="EPSG:4326")
    pd.testing.assert_frame_equal(geomap.summary(west, NAMES), geomap.summary(east, NAMES))
    assert (geomap.summary(west, NAMES)["cells"] > 0).all()


@pytest.mark.parametrize(
    ("polygons", "words"),
    [
        (gpd.GeoSeries([shapely.box(0, 0, 1, 1)]), "CRS"),
        (gpd.GeoSeries([shapely.Point(0, 0)], crs="EPSG:4326"), "Point"),
        (gpd.GeoSeries([], crs="EPSG:4326"), "no row"),
        (pd.DataFrame({"crs": [1]}), "DataFrame"),
    ],
)
def test_what_is_no_polygons_is_refused(polygons, words):
    with pytest.raises(GridError, match=words) as caught:
        geomap.summary(polygons, NAMES)
    assert caught.value.change


def test_a_name_that_no_heads_carry_is_refused():
    with pytest.raises(NameNotFoundError):
        geomap.summary(gpd.GeoSeries([shapely.box(-121, 36, -119, 38)], crs="EPSG:4326"), "Nobody")


def pixels(axes):
    """The drawn figure (H, W, 4) uint8."""
    axes.figure.canvas.draw()
    return np.asarray(axes.figure.canvas.buffer_rgba())


def colour_at(axes, picture, x, y):
    """Colour of the pixel at map coordinates."""
    column, up = axes.transData.transform((x, y))
    return tuple(int(part) for part in picture[picture.shape[0] - 1 - int(up), int(column), :3])


def test_a_figure_has_the_colours_of_the_ramp_whatever_the_map_holds():
    map = geomap.render(NAMES[0]).load()
    axes = geomap.plot(map)
    picture = pixels(axes)
    colours = palette()[levels(map.values, np.isfinite(map.values))]
    cells = np.argwhere(np.isfinite(map.values))
    right = 0
    for row, col in cells:
        want = tuple(int(part) for part in colours[row, col, :3])
        right += colour_at(axes, picture, float(map.x[col]), float(map.y[row])) == want
    assert right > 0.9 * len(cells)  # lines of the coast and the scale bar cover some
    assert colour_at(axes, picture, float(map.x[-1]), float(map.y[0])) == NOTHING
    half = geomap.plot(map * 0 + 0.5)  # not stretched to what is there
    lone = tuple(int(part) for part in palette()[125, :3])
    picture, (row, col) = pixels(half), cells[len(cells) // 2]
    assert colour_at(half, picture, float(map.x[col]), float(map.y[row])) == lone


def test_a_figure_has_title_colour_bar_scale_and_coast():
    axes = geomap.plot(geomap.render("wrentit"))
    bar = axes.figure.axes[1]
    assert axes.get_title() == "Chamaea fasciata (Wrentit): probability"
    assert bar.get_ylabel() == "probability (0 to 1, no unit)"
    assert [tick.get_text() for tick in bar.get_yticklabels()] == ["0", "0.25", "0.5", "0.75", "1"]
    (line,) = axes.lines
    (label,) = axes.texts
    assert label.get_text() == "200 km"
    assert np.ptp(line.get_xdata()) == pytest.approx(200_000, rel=0.01)
    (coast,) = axes.collections
    assert sum(len(part) for part in coast.get_segments()) > 100


def test_a_part_of_a_map_is_drawn_on_given_axes():
    map, (_, axes) = geomap.render(NAMES[0]), plt.subplots()
    assert geomap.plot(map.isel(x=slice(5, 15), y=slice(5, 15)), ax=axes, title="") is axes
    assert axes.get_title() == ""
    west, east = axes.get_xlim()
    assert (east - west) == pytest.approx(10 * 20_000)


@pytest.mark.parametrize(("crs", "latitude"), [("EPSG:6933", 60), ("EPSG:6933", 0), ("EPSG:4326", 60)])
def test_the_scale_is_true_at_the_middle_of_the_map(crs, latitude):
    here = gpd.GeoSeries([shapely.Point(10, latitude)], crs="EPSG:4326").to_crs(crs).iloc[0]
    unit = 1.0 if crs == "EPSG:4326" else 100_000.0
    bounds = (here.x - unit, here.y - unit, here.x + unit, here.y + unit)
    per_km, at = plotting.units_per_km(crs, bounds)
    assert at == pytest.approx(latitude, abs=1e-6)
    # EPSG:6933 is true at 30 degrees: there a kilometre is 1000 units, here in the ratio of the cosines.
    truth = 1 / (111.32 * np.cos(np.radians(latitude))) if crs == "EPSG:4326" else (
        1000 * np.cos(np.radians(30)) / np.cos(np.radians(latitude)))  # fmt: skip
    assert per_km == pytest.approx(truth, rel=0.005)


@pytest.mark.parametrize(
    ("km", "length"), [(1.0, 1), (1.99, 1), (2, 2), (4.9, 2), (70, 50), (0.3, 0.2), (999, 500)]
)
def test_lengths_of_scale_bars_are_round(km, length):
    assert plotting.round_length(km) == pytest.approx(length)


def test_a_line_is_cut_where_it_jumps_or_leaves():
    line = np.array([[0, 0], [1, 0], [9, 0], [10, 0], [np.nan, np.nan], [10, 1], [9, 1.0]])
    parts = plotting._pieces(line, 5.0)
    assert [part.tolist() for part in parts] == [[[0, 0], [1, 0]], [[9, 0], [10, 0]], [[10, 1], [9, 1]]]


def test_what_is_no_map_is_refused():
    map = geomap.render(NAMES[0])
    for other in (map.to_dataset(), map.values, map.drop_vars("spatial_ref"), map[::-1], map + 1):
        with pytest.raises(MapError) as caught:
            geomap.plot(other)
        assert caught.value.change
