import json
import pickle

import geopandas as gpd
import numpy as np
import pytest
import shapely
from dask.base import tokenize
from pyproj import Geod, Transformer

from geomap.errors import GridError
from geomap.grid import (
    NAMED,
    Grid,
    Window,
    grid_from_bbox,
    grid_from_options,
    grid_from_region,
    named_grid,
)
from geomap.land import is_land
from geomap.projection import crossings_lonlat, world_width
from geomap.regions import run_on

FIJI = (175.0, -20.0, -178.0, -15.0)  # across the antimeridian


def refused(*words, **options):
    """The refusal of a grid, which has three parts and names what was found."""
    with pytest.raises(GridError) as caught:
        grid_from_options(**options)
    assert all((caught.value.what, caught.value.found, caught.value.change))
    for word in words:
        assert word in str(caught.value)


@pytest.fixture(
    params=["california", "north-america", "global", "fiji", "fiji in EPSG:6933", "utm", "degrees"]
)
def grid(request):
    others = {
        "fiji": lambda: grid_from_bbox(*FIJI, resolution=10_000),
        "fiji in EPSG:6933": lambda: grid_from_bbox(*FIJI, resolution=10_000, crs="EPSG:6933"),
        "utm": lambda: grid_from_bbox(-122, 38, -120, 39, resolution=700, crs="EPSG:32610"),
        "degrees": lambda: grid_from_bbox(-122, 38, -120, 39, resolution=0.05, crs="EPSG:4326"),
    }
    return others.get(request.param, lambda: named_grid(request.param))()


def test_named_grids():
    california, america, world = (named_grid(name) for name in NAMED)
    assert [g.crs.epsg for g in (california, america, world)] == [3310, 6933, 6933]
    assert [g.resolution for g in (california, america, world)] == [1_000, 10_000, 25_000]
    assert [g.unit for g in (california, america, world)] == [256, 32, 16]
    assert [g.name for g in (california, america, world)] == list(NAMED)
    assert california.land_mask().sum() == pytest.approx(
        409_000, rel=0.005
    )  # km2 of the State with its lakes
    corners = np.array([[-170.0, 13.0], [-50.0, 13.0], [-50.0, 72.0], [-170.0, 72.0]])
    assert america.rowcol(corners)[2].all()


def test_origin_is_a_multiple_of_the_resolution(grid):
    res = grid.resolution
    origin = np.array([grid.transform.c, grid.transform.f]) / res
    assert origin == pytest.approx(np.round(origin), abs=1e-9)


def test_round_trip_of_cell_centres(grid):
    lonlat = grid.cell_lonlat()
    known = np.isfinite(lonlat).all(axis=-1)
    assert known.any()
    rows, cols, inside = grid.rowcol(lonlat[known])
    assert inside.all()
    expected = np.argwhere(known)
    assert np.array_equal(rows, expected[:, 0])
    assert np.array_equal(cols, expected[:, 1])


def test_centres_are_centres(grid):
    row, col = grid.shape[0] // 3, grid.shape[1] // 3
    x, y = grid.transform @ (col + 0.5, row + 0.5)
    expected = Transformer.from_crs(str(grid.crs), 4326, always_xy=True).transform(x, y)
    lonlat = grid.cell_lonlat(Window(row, col, 1, 1))[0, 0]
    assert np.exp(1j * np.radians(lonlat)) == pytest.approx(np.exp(1j * np.radians(expected)), abs=1e-12)


def test_points_outside_are_outside(grid):
    rows, cols, inside = grid.rowcol(np.array([[10.0, 89.5], [np.nan, 3.0], [-30.0, -60.0]]))
    world = grid.name == "global"
    assert inside.tolist() == [world, False, world]
    assert (rows[~inside] == -1).all() and (cols[~inside] == -1).all()


def test_masks_and_centres_do_not_depend_on_the_window(grid):
    lonlat, land = grid.cell_lonlat(), grid.land_mask()
    assert land.any()
    for window in [*grid.units()[:: max(len(grid.units()) // 8, 1)], Window(1, 2, 5, 3)]:
        rows, cols = (
            slice(window.row, window.row + window.height),
            slice(window.col, window.col + window.width),
        )
        assert np.array_equal(grid.land_mask(window), land[rows, cols])
        np.testing.assert_allclose(grid.cell_lonlat(window), lonlat[rows, cols], rtol=0, atol=1e-12)


def test_mask_is_the_land_at_cell_centres(grid):
    if grid.name == "california":
        lonlat = grid.cell_lonlat()
        assert not grid.land_mask()[(lonlat[..., 0] > -119) & (lonlat[..., 1] > 40)].any()
        assert grid.land_mask()[
            (lonlat[..., 0] < -121) & (lonlat[..., 0] > -122) & (abs(lonlat[..., 1] - 40) < 1)
        ].all()
    else:
        assert np.array_equal(grid.land_mask().ravel(), is_land(grid.cell_lonlat().reshape(-1, 2)))


def test_units_cover_every_cell_once(grid):
    seen = np.zeros(grid.shape, int)
    for row, col, height, width in grid.units():
        assert row % grid.unit == 0 and col % grid.unit == 0 and height <= grid.unit and width <= grid.unit
        seen[row : row + height, col : col + width] += 1
    assert (seen == 1).all()


def test_dict_pickle_and_token_agree(grid):
    again = Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert again == grid == pickle.loads(pickle.dumps(grid))
    assert tokenize(again) == tokenize(grid)
    other = Grid(grid.name, grid.geobox, grid.unit * 2, grid.mask, grid.region)
    assert tokenize(other) != tokenize(grid)


@pytest.mark.parametrize("name", list(NAMED))
def test_cells_have_equal_area(name):
    grid = named_grid(name)
    area = grid.cell_area_km2()
    inner = area[1:-1] if name == "global" else area  # the outermost rows reach beyond the poles
    np.testing.assert_allclose(inner, (grid.resolution / 1000) ** 2, rtol=1e-3)


@pytest.mark.parametrize(
    ("crs", "row", "col"), [("EPSG:3310", 400, 300), ("EPSG:32610", 100, 900), ("EPSG:3857", 5, 5)]
)
def test_area_is_that_of_the_geodesic_polygon(crs, row, col):
    grid = grid_from_bbox(-124, 34, -116, 42, resolution=1000, crs=crs)
    corners = [(col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1)]
    x, y = np.array([grid.transform @ corner for corner in corners]).T
    lon, lat = Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y)
    expected = abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0]) / 1e6
    assert grid.cell_area_km2(Window(row, col, 1, 1))[0, 0] == pytest.approx(expected, rel=1e-5)


def test_area_of_the_world():
    assert named_grid("global").cell_area_km2().sum() == pytest.approx(510_065_622, rel=1e-3)


def test_global_columns_cover_the_world_once():
    grid = named_grid("global")
    world, width = world_width("EPSG:6933"), grid.shape[1] * grid.resolution
    assert world <= width < world + grid.resolution
    lon = grid.cell_lonlat()[10, :, 0]
    assert (np.diff(lon) > 0).all() and lon[0] > -180 and lon[-1] < 180  # no column twice
    edge = np.array([[-180.0, 10.0], [180.0, 10.0], [179.9999, -40.0], [-179.9999, -40.0]])
    assert grid.rowcol(edge)[2].all()
    assert set(grid.rowcol(edge)[1].tolist()) == {0, grid.shape[1] - 1}


def test_a_width_that_does_not_divide_still_covers_every_longitude():
    grid = grid_from_options(grid="global", resolution=1_030_000.0)
    assert grid.shape[1] * grid.resolution - world_width("EPSG:6933") < grid.resolution
    lonlat = np.column_stack([np.linspace(-180, 180, 5000), np.zeros(5000)])
    _, cols, inside = grid.rowcol(lonlat)
    assert inside.all()
    assert np.unique(cols).tolist() == list(range(grid.shape[1]))


def test_global_rows_reach_the_poles():
    grid = named_grid("global")
    lat = grid.cell_lonlat()[:, 0, 1]
    assert lat[0] > 87 and lat[-1] < -87
    assert lat == pytest.approx(-lat[::-1])
    assert grid.land_mask()[-1].all() and not grid.land_mask()[0].any()  # Antarctica, Arctic Ocean


def test_rows_beyond_a_pole_are_no_place():
    y = np.array([7_342_000.0, 7_343_000.0])
    lat = crossings_lonlat(np.array([0.0]), y, "EPSG:6933")[:, 0, 1]
    assert lat[0] > 89 and np.isnan(lat[1])
    assert crossings_lonlat(np.array([0.0]), y, "EPSG:6933", clip=True)[1, 0, 1] == 90
    assert np.isnan(crossings_lonlat(np.array([0.0]), np.array([91.0]), "EPSG:4326")).all()


def test_box_across_the_antimeridian():
    default, hanging = (
        grid_from_bbox(*FIJI, resolution=5000),
        grid_from_bbox(*FIJI, resolution=5000, crs="EPSG:6933"),
    )
    towns = np.array(
        [[179.36, -16.43], [178.0, -17.8], [-179.97, -16.8], [178.44, -18.12]]
    )  # on Fiji's islands
    for grid in (default, hanging):
        rows, cols, inside = grid.rowcol(towns)
        assert inside.all()
        assert grid.land_mask()[rows, cols].tolist() == is_land(grid.cell_lonlat()[rows, cols]).tolist()
        assert grid.land_mask()[rows, cols][:2].all()
        assert grid.shape[1] * grid.resolution < 800_000  # 7 degrees, not 353
        assert (
            grid.rowcol(np.array([[0.0, -17.0], [170.0, -17.0], [-170.0, -17.0]]))[2].tolist() == [False] * 3
        )
        assert grid.land_mask().sum() * 25 == pytest.approx(18_000, rel=0.15)  # km2 of Fiji
    assert world_width(str(default.crs)) is not None and "180" in str(default.crs)


@pytest.mark.parametrize(
    ("box", "crs"),
    [
        ((-123, 36, -119, 39), "EPSG:3310"),
        ((-125.5, 36, -119, 39), "EPSG:6933"),
        ((5, 45, 11, 48), "EPSG:6933"),
    ],
)
def test_default_crs(box, crs):
    grid = grid_from_bbox(*box)
    assert str(grid.crs) == crs
    assert grid.resolution == 1000
    assert grid.land_mask().any()


def test_default_resolution_keeps_cells_below_two_million():
    grid = grid_from_bbox(-130, 20, -60, 55)
    assert grid.resolution == 5_000 and np.prod(grid.shape) <= 2_000_000
    assert grid_from_bbox(-10, 35, 40, 70, crs="EPSG:4326").resolution == pytest.approx(0.05)


def test_every_point_of_the_box_is_in_the_grid():
    box = (-121.234, 35.111, -119.001, 37.717)
    grid = grid_from_bbox(*box)
    lonlat = np.stack(np.meshgrid(np.linspace(box[0], box[2], 90), np.linspace(box[1], box[3], 90)), -1)
    assert grid.rowcol(lonlat.reshape(-1, 2))[2].all()
    assert grid.name == "bbox_-121.234_35.111_-119.001_37.717_1km"


def test_named_area_at_another_resolution():
    grid = grid_from_options(grid="california", resolution=5000)
    assert grid.name == "california_5km" and grid.mask == "california" and grid.unit == 64
    assert grid.land_mask().sum() * 25 == pytest.approx(409_000, rel=0.01)
    assert grid_from_options() == named_grid("california")
    assert (
        grid_from_options(grid="global", crs="EPSG:8857", resolution=100_000).name == "global_100km_epsg8857"
    )


def region_file(path, shape, crs="EPSG:4326"):
    gpd.GeoDataFrame(geometry=[shape], crs=crs).to_file(path)
    return path


def test_region_in_its_own_crs(tmp_path):
    triangle = shapely.Polygon([(0, 0), (100_000, 0), (0, 80_000)])
    grid = grid_from_region(region_file(tmp_path / "Sierra Nord.gpkg", triangle, "EPSG:3310"), resolution=500)
    assert grid.name == "sierra-nord_500m" and str(grid.crs) == "EPSG:3310" and grid.mask == "region"
    assert grid.shape == (160, 200)
    row, col = np.mgrid[:160, :200] + 0.5
    expected = (160 - row) * 500 <= 80_000 - col * 500 * 0.8
    assert (grid.land_mask() == expected).mean() > 0.999
    assert grid.land_mask().sum() * 0.25 == pytest.approx(4000, rel=0.005)  # half of 100 km x 80 km
    again = Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert again == grid and np.array_equal(again.land_mask(), grid.land_mask())


@pytest.mark.parametrize("east", [-178.0 + 360, -178.0])
def test_region_across_the_antimeridian(tmp_path, east):
    if east > 180:
        shape = shapely.box(175, -20, east, -15)
    else:
        shape = shapely.MultiPolygon([shapely.box(175, -20, 180, -15), shapely.box(-180, -20, east, -15)])
    grid = grid_from_region(region_file(tmp_path / "fiji.geojson", shape), resolution=5000)
    assert grid.shape[1] * 5 < 800
    assert grid.land_mask().sum() * 25 == pytest.approx(18_000, rel=0.15)
    rows, cols, inside = grid.rowcol(np.array([[179.36, -16.43], [178.0, -17.8]]))
    assert inside.all() and grid.land_mask()[rows, cols].all()


@pytest.mark.parametrize(
    ("lons", "first", "last"),
    [
        (np.linspace(-121.3, -119.1, 40), -121.3, -119.1),
        (np.linspace(175.5, 183.25, 40), 175.5, 183.25),
        (np.append(np.linspace(175.5, 180, 9), np.linspace(-180, -176.75, 9)), 175.5, 183.25),
        (np.linspace(-0.1, 0.1, 7), -0.1, 0.1),
        (np.linspace(-180, 180, 721), -180.0, 179.5),
        (np.array([-120.7]), -120.7, -120.7),
    ],
)
def test_longitudes_run_on_from_the_widest_gap(lons, first, last):
    for lonlat in (np.column_stack([lons, lons * 0]), np.column_stack([lons[::-1], lons * 0])):
        lon = run_on(lonlat)[:, 0]
        assert lon.min() == pytest.approx(first, abs=0.51 if len(lons) > 100 else 1e-9)
        assert lon.max() - lon.min() == pytest.approx(last - first, abs=0.51 if len(lons) > 100 else 1e-9)
        np.testing.assert_allclose((lon - lonlat[:, 0] + 180) % 360 - 180, 0, atol=1e-9)


def test_refused_boxes():
    refused("-130", "none of its", "land", bbox=(-135, 30, -130, 35))
    refused("south must lie below north", bbox=(-120, 39, -119, 36))
    refused("W S E N", bbox=(-120, 36, -120, 39))
    refused("-90..90", bbox=(34, -118, 35, -117))
    refused("-180..180", bbox=(-190, 30, -180, 35))
    refused("-180..180", bbox=(float("nan"), 30, -180, 35))
    refused("3 numbers", bbox=(1, 2, 3))


@pytest.mark.parametrize("resolution", [0.0, -1000.0, float("nan"), float("inf")])
def test_refused_resolutions(resolution):
    refused("resolution", f"{resolution:g}", "above 0", grid="california", resolution=resolution)
    refused("resolution", "above 0", bbox=(-120, 36, -119, 37), resolution=resolution)


def test_refused_grids():
    refused("'californa'", "california", grid="californa")
    refused("'xyz'", "california", "north-america", "global", grid="xyz")
    refused("--grid california and --bbox", grid="california", bbox=(1, 2, 3, 4))
    refused("'EPSG:99999'", "EPSG:3310", grid="california", crs="EPSG:99999")
    refused("1000 degrees", "in metres", bbox=(-120, 36, -119, 37), resolution=1000, crs="EPSG:4326")
    refused("'nonsense'", grid="california", crs="nonsense")
    refused("no map plane", grid="california", crs="EPSG:4978")
    refused("coarser --resolution", grid="global", resolution=100.0)
    half = "+proj=gnom +lat_0=40 +lon_0=-120"  # has room for less than half of the earth
    refused("no place", half, "--crs", grid="global", crs=half, resolution=100_000.0)
    refused("california: none of its 2 x 2 cells", grid="california", resolution=1e7)


def test_refused_regions(tmp_path):
    gpd.GeoDataFrame(geometry=[shapely.box(-120, 36, -119, 37)]).to_parquet(tmp_path / "a.parquet")
    refused("no file", region=tmp_path / "none.geojson")
    (tmp_path / "text.geojson").write_text("{")
    refused("text.geojson", "GeoJSON", region=tmp_path / "text.geojson")
    refused("states no CRS", region=tmp_path / "a.parquet")
    refused("Point", "polygons only", region=region_file(tmp_path / "b.geojson", shapely.Point(1, 2)))
    gpd.GeoDataFrame(geometry=[], crs="EPSG:4326").to_file(tmp_path / "c.gpkg")
    refused("no shape at all", region=tmp_path / "c.gpkg")
    refused("land", region=region_file(tmp_path / "d.geojson", shapely.box(-135, 30, -130, 35)))


def test_a_broken_description_is_refused():
    stored = named_grid("california").to_dict()
    for broken in [
        {**stored, "transform": None},
        {},
        {**stored, "crs": "EPSG:0"},
        {**stored, "region": {"x": 1}},
    ]:
        with pytest.raises(GridError, match=r"description of a grid|CRS"):
            Grid.from_dict(broken)


def test_a_grid_loads_nothing_heavy():
    import subprocess
    import sys

    heavy = ("torch", "distributed", "geopandas", "rasterio")
    script = f"import sys, geomap.grid; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
