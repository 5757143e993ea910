import numpy as np
import pytest
import shapely

from geomap.land import LAND_FILE, california, is_land, land_shapes, near_land, points_in, wrapped

PLACES = {  # lon, lat, whether it is land
    "Fresno": (-119.8, 36.7, True),
    "Pacific": (-130.0, 36.7, False),
    "Santa Cruz Island": (-119.75, 34.02, True),
    "Antarctica": (0.0, -80.0, True),
    "south pole": (12.0, -90.0, True),
    "north pole": (12.0, 90.0, False),
    "Chukotka, west of the antimeridian": (179.5, 67.5, True),
    "Chukotka, east of the antimeridian": (-179.5, 67.5, True),
    "Chukotka, on the antimeridian": (180.0, 67.5, True),
    "Chukotka, on the antimeridian from the east": (-180.0, 67.5, True),
    "Vanua Levu": (179.3, -16.6, True),
    "Pacific at the antimeridian": (180.0, 0.0, False),
    "Caspian Sea": (51.0, 42.0, False),
    "Lake Superior": (-88.0, 47.6, True),
    "longitude beyond 180": (360.0 - 119.8, 36.7, True),
    "nowhere": (np.nan, 10.0, False),
}


def test_known_places():
    lonlat = np.array([place[:2] for place in PLACES.values()])
    found = dict(zip(PLACES, is_land(lonlat).tolist(), strict=True))
    assert found == {name: place[2] for name, place in PLACES.items()}


def test_each_point_is_judged_alone():
    lonlat = np.random.default_rng(0).uniform([-180, -90], [180, 90], (3000, 2))
    alone = np.concatenate([is_land(lonlat[i : i + 99]) for i in range(0, len(lonlat), 99)])
    assert np.array_equal(alone, is_land(lonlat))
    assert 300 < alone.sum() < 2000
    assert is_land(np.empty((0, 2))).shape == (0,)


def test_agrees_with_plain_point_in_polygon():
    lonlat = np.random.default_rng(1).uniform([-180, -90], [180, 90], (400, 2))
    world = shapely.union_all([*land_shapes(), *california().geoms])
    assert is_land(lonlat).tolist() == [world.intersects(shapely.Point(p)) for p in lonlat]


def test_share_of_land_on_earth():
    lat = np.degrees(np.arcsin(np.linspace(-1, 1, 402)[1:-1]))
    lonlat = np.stack(np.meshgrid(np.linspace(-180, 180, 801)[:-1], lat), axis=-1).reshape(-1, 2)
    assert is_land(lonlat).mean() == pytest.approx(0.289, abs=0.003)  # 147.4 of 510 million km2


def test_california_is_the_state():
    assert california().bounds == pytest.approx((-124.41, 32.53, -114.13, 42.01), abs=0.01)
    places = {(-121.5, 38.6): True, (-118.4, 33.4): True, (-119.8, 39.5): False, (-117.0, 32.4): False}
    assert points_in(np.array(list(places)), (california(),)).tolist() == list(places.values())
    assert not california().buffer(0).intersects(shapely.Point(-122.3, 37.65))  # San Francisco Bay


def test_near_land_measures_metres():
    from pyproj import Geod

    lonlat = np.array(
        [[-124.0, 36.0], [-119.8, 36.7], [179.9, -17.5], [170.0, 69.0], [np.nan, 0.0], [5.0, 86.0]]
    )
    edges = shapely.get_parts([shape.boundary for shape in [*land_shapes(), california()]])
    for point in lonlat[[0, 2, 3]]:  # the true distance: the least of many geodesics to the coasts around
        around = shapely.intersection(edges, shapely.Point(point).buffer(4))
        coast = shapely.get_coordinates(shapely.segmentize(around, 0.01))
        distance = Geod(ellps="WGS84").inv(*np.broadcast_to(point, coast.shape).T, *coast.T)[2].min()
        assert distance > 5_000
        assert not near_land(point[None], distance * 0.98)[0]
        assert near_land(point[None], distance * 1.02)[0]
    assert near_land(lonlat, 0.0).tolist() == [False, True, False, False, False, False]


def test_a_coast_across_the_antimeridian_is_near():
    west = np.array([[-179.97, 67.0]])
    assert near_land(np.array([[179.995, -16.1]]), 60_000)[0]
    assert near_land(west, 300_000)[0]


def test_wrapped_keeps_longitudes_bit_for_bit():
    lon = np.array([-180.0, -0.1, 180.0, 190.0, -190.0, 540.0])
    assert wrapped(lon).tolist() == [-180.0, -0.1, 180.0, -170.0, 170.0, -180.0]


def test_the_file_is_small_geoparquet():
    import geopandas as gpd

    assert LAND_FILE.stat().st_size < 1_000_000
    table = gpd.read_parquet(LAND_FILE)
    assert set(table["region"]) == {"land", "california"}
    assert table.geometry.is_valid.all()
    assert np.array_equal(
        table.geometry.get_coordinates().to_numpy() * 1024 % 1, np.zeros((len(table.get_coordinates()), 2))
    )
