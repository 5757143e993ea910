import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.enums import ColorInterp, Resampling
from rasterio.warp import reproject
from scipy.ndimage import map_coordinates

from geomap import resample
from geomap.errors import ImageryError
from geomap.grid import Window, grid_from_bbox, named_grid
from geomap.imagery import (
    FakeImagery,
    ImagerySource,
    centres_lonlat,
    open_imagery,
    require_bands,
    require_cover,
)
from geomap.testing import file_server, shared_data, write_raster

PACIFIC = "+proj=cea +lat_ts=30 +lon_0=180 +datum=WGS84"
HALF_WORLD = 17_367_530.445  # of EPSG:6933 [m]


def geobox(crs, left, top, resolution, shape=(30, 40)):
    return GeoBox(shape, Affine(resolution, 0, left, 0, -resolution, top), crs)


def around(crs, lon, lat, resolution, shape=(30, 40)):
    """A geobox whose middle is a place, not on whole multiples of anything."""
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
    return geobox(crs, x - resolution * shape[1] / 2.13, y + resolution * shape[0] / 1.97, resolution, shape)


def source_around(path, crs, lon, lat, pixel, shape, bands, values, **options):
    box = around(crs, lon, lat, pixel, shape).boundingbox
    write_raster(path, crs, tuple(box.bbox), shape, bands, values, **options)
    return open_imagery(path)


def noise(shape, bands=2, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (bands, *shape))


def lon_and_lat(lonlat):
    return lonlat.T


@pytest.mark.parametrize("target", ["EPSG:3310", "EPSG:6933", "EPSG:32610", "EPSG:3857", "EPSG:4326"])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:3310", "EPSG:32610"])
@pytest.mark.parametrize("zoom", [0.3, 1.0, 2.7, 9.0])
def test_a_ramp_of_lon_and_lat_comes_back_at_the_pixel_centres(tmp_path, crs, target, zoom):
    metres = 1000.0
    pixel = metres / 111_000 if crs == "EPSG:4326" else metres
    source = source_around(
        tmp_path / "r.tif", crs, -120, 38, pixel, (200, 220), 2, lon_and_lat, dtype="float64"
    )
    size = metres * zoom / (111_000 if target == "EPSG:4326" else 1)
    box = around(target, -120.03, 38.02, size, (14, 11))
    values, valid = source.read(box)
    assert valid.all()
    off = (
        (values - np.moveaxis(centres_lonlat(box), -1, 0)) * 111_000 / metres
    )  # raster pixels, to 1e-2 in float32
    assert np.abs(off).max() < 0.03  # a corner taken for a centre would be 0.5


@pytest.mark.parametrize(
    ("dtype", "top"), [("uint8", 255), ("uint16", 60_000), ("int16", 300), ("float32", 1.5)]
)
def test_the_raster_itself_comes_back_bit_for_bit(tmp_path, dtype, top):
    values = (np.random.default_rng(1).uniform(-top if dtype == "int16" else 0, top, (5, 50, 70))).astype(
        dtype
    )
    write_raster(tmp_path / "r.tif", "EPSG:3310", (1000, 2000, 8000, 7000), (50, 70), 5, values, dtype=dtype)
    got, valid = open_imagery(tmp_path / "r.tif").read(geobox("EPSG:3310", 1000, 7000, 100, (50, 70)))
    assert valid.all() and got.dtype == np.float32
    assert np.array_equal(got, values.astype(np.float32))


@pytest.mark.parametrize("times", [2, 3, 4, 8])
def test_coarser_pixels_are_means(tmp_path, times):
    values = noise((48, 96))
    write_raster(tmp_path / "r.tif", "EPSG:3310", (0, 0, 9600, 4800), (48, 96), 2, values)
    got, valid = open_imagery(tmp_path / "r.tif").read(
        geobox("EPSG:3310", 0, 4800, 100 * times, (48 // times, 96 // times))
    )
    means = values.reshape(2, 48 // times, times, 96 // times, times).mean(axis=(2, 4))
    assert valid.all()
    np.testing.assert_allclose(got, means, rtol=0, atol=12 / times)  # a mean of the bilinear surface ...
    if times != 3:
        inner = np.s_[:, 1:-1, 1:-1]
        assert np.corrcoef(got[inner].ravel(), means[inner].ravel())[0, 1] > 0.9
    assert got.mean() == pytest.approx(values.mean(), abs=1.0)


def test_finer_pixels_are_those_of_gdals_bilinear(tmp_path):
    values = noise((60, 80))
    source = source_around(tmp_path / "r.tif", "EPSG:3857", -120, 38, 1000, (60, 80), 2, values)
    box = around("EPSG:3310", -120, 38, 350, (40, 30))
    got, valid = source.read(box)
    oracle = np.zeros_like(got)
    with rasterio.open(tmp_path / "r.tif") as raster:
        reproject(
            rasterio.band(raster, [1, 2]), oracle, dst_transform=box.affine, dst_crs="EPSG:3310",
            resampling=Resampling.bilinear, tolerance=0,
        )  # fmt: skip
    assert valid.all()
    np.testing.assert_allclose(got, oracle, rtol=0, atol=0.5)  # GDAL approximates positions
    inverse = ~rasterio.open(tmp_path / "r.tif").transform
    x, y = box.affine @ tuple(np.meshgrid(np.arange(30) + 0.5, np.arange(40) + 0.5))
    x, y = Transformer.from_crs("EPSG:3310", "EPSG:3857", always_xy=True).transform(x, y)
    col, row = inverse @ (x, y)
    exact = [map_coordinates(band, [row - 0.5, col - 0.5], order=1) for band in values]
    np.testing.assert_allclose(got, exact, rtol=0, atol=1e-3)


def test_coarser_pixels_are_close_to_gdals_mean(tmp_path):
    def waves(lonlat):
        return 100 + 50 * np.sin(lonlat[:, 0] * 40) * np.cos(lonlat[:, 1] * 50)

    source = source_around(tmp_path / "r.tif", "EPSG:3857", -120, 38, 300, (500, 500), 1, waves)
    box = around("EPSG:3310", -120, 38, 2500, (30, 30))
    got, valid = source.read(box)
    oracle = np.zeros_like(got)
    with rasterio.open(tmp_path / "r.tif") as raster:
        reproject(
            rasterio.band(raster, 1), oracle, dst_transform=box.affine, dst_crs="EPSG:3310",
            resampling=Resampling.average, tolerance=0,
        )  # fmt: skip
    assert valid.all() and got.std() > 15
    assert np.abs(got - oracle).mean() < 0.05 * got.std()
    fine = GeoBox((600, 600), box.affine * Affine.scale(1 / 20), "EPSG:3310")
    exact = waves(centres_lonlat(fine).reshape(-1, 2)).reshape(30, 20, 30, 20).mean(axis=(1, 3))
    assert np.abs(got - exact).mean() < 0.03 * got.std()  # block means blur a little


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:3310"])
@pytest.mark.parametrize("target", ["EPSG:3310", "EPSG:6933"])
@pytest.mark.parametrize("metres", [300, 1900, 9000])
def test_a_pixel_does_not_depend_on_the_window(tmp_path, crs, target, metres):
    values = noise((600, 640), bands=1)
    values[:, 100:140, 200:260] = -1
    pixel = 1000 / (111_000 if crs == "EPSG:4326" else 1)
    source = source_around(
        tmp_path / "r.tif", crs, -120, 38, pixel, (600, 640), 1, values, nodata=-1, overviews=[2, 4]
    )
    box = around(target, -120.4, 38.3, metres, (70, 80))
    whole, valid = source.read(box)
    assert valid.any()
    for rows, cols in [
        (slice(0, 33), slice(0, 31)),
        (slice(33, 70), slice(31, 80)),
        (slice(7, 8), slice(11, 12)),
    ]:
        part, has = source.read(box[rows, cols])
        assert np.array_equal(has, valid[rows, cols])
        np.testing.assert_allclose(part, whole[:, rows, cols], rtol=0, atol=1e-3)


def test_blocks_leave_no_seams(tmp_path, monkeypatch):
    source = source_around(tmp_path / "r.tif", "EPSG:3857", -120, 38, 1000, (90, 90), 2, noise((90, 90)))
    for crs in ("EPSG:3310", "EPSG:6933"):
        box = around(crs, -120, 38, 900, (50, 60))
        whole, valid = source.read(box)
        monkeypatch.setattr(resample, "BLOCK", 16)
        pieces, has = source.read(box)
        monkeypatch.undo()
        assert np.array_equal(has, valid)
        np.testing.assert_allclose(pieces, whole, rtol=0, atol=1e-3)


@pytest.mark.parametrize("metres", [400, 1100, 5000])
def test_straight_lines_and_corners_give_the_same(tmp_path, monkeypatch, metres):
    values = noise((300, 300))
    values[:, 50:60] = np.nan
    source = source_around(tmp_path / "r.tif", "EPSG:3857", 179.5, 50, 1500, (300, 300), 2, values)
    box = around(PACIFIC, 179.6, 50, metres, (40, 50))
    fast, valid = source.read(box)
    monkeypatch.setattr(resample, "_line_edges", lambda geobox, pixels: None)
    slow, has = source.read(box)
    assert 0 < valid.mean() <= 1
    assert np.array_equal(has, valid)
    np.testing.assert_allclose(slow, fast, rtol=0, atol=1e-2)


def harmonics(lonlat):
    """Smooth on the whole sphere, different everywhere."""
    lon, lat = np.radians(lonlat).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]) * 100 + 120


@pytest.fixture(params=["EPSG:4326", "EPSG:3857"])
def world(tmp_path, request):
    edge = (
        (-180, -90, 180, 90)
        if request.param == "EPSG:4326"
        else tuple(20037508.342789244 * np.array([-1, -1, 1, 1]))
    )
    shape = (512, 1024) if request.param == "EPSG:4326" else (1024, 1024)
    return open_imagery(
        write_raster(tmp_path / "w.tif", request.param, edge, shape, 3, harmonics, overviews=[2, 4, 8])
    )


@pytest.mark.parametrize("metres", [9_000, 90_000, 250_000])
@pytest.mark.parametrize(
    ("crs", "left"),
    [(PACIFIC, -500_000), ("EPSG:6933", HALF_WORLD - 500_000), ("EPSG:6933", -HALF_WORLD - 500_000)],
)
def test_a_world_wide_raster_has_no_seam(world, crs, left, metres):
    box = geobox(crs, left, 3_000_000, metres, (20, 1_400_000 // metres))
    values, valid = world.read(box)
    assert valid.all()
    expected = FakeImagery(3, harmonics).read(box)[0]
    np.testing.assert_allclose(
        values, expected, rtol=0, atol=0.6
    )  # of 200; a seam or a shift would be several
    other = world.read(geobox(PACIFIC, left % (2 * HALF_WORLD) - HALF_WORLD, 3_000_000, metres, box.shape))
    if crs == "EPSG:6933":
        np.testing.assert_allclose(values, other[0], rtol=0, atol=1e-2)


def test_the_whole_world_at_once(world):
    grid = named_grid("global")
    values, valid = world.read(grid.window_geobox())
    known = np.isfinite(grid.cell_lonlat()).all(axis=-1) & (np.abs(grid.cell_lonlat()[..., 1]) < 84.5)
    assert valid[known].all()
    expected = FakeImagery(3, harmonics).read(grid.window_geobox())[0]
    np.testing.assert_allclose(values[:, known], expected[:, known], rtol=0, atol=1.5)


@pytest.mark.parametrize("crs", ["EPSG:3031", "EPSG:3413"])
def test_around_a_pole(tmp_path, crs):
    write_raster(tmp_path / "w.tif", "EPSG:4326", (-180, -90, 180, 90), (450, 900), 3, harmonics)
    box = geobox(crs, -1_000_000, 1_000_000, 50_000, (40, 40))
    values, valid = open_imagery(tmp_path / "w.tif").read(box)
    assert valid.all()
    np.testing.assert_allclose(values, FakeImagery(3, harmonics).read(box)[0], rtol=0, atol=0.6)


def test_a_raster_that_itself_crosses_the_antimeridian(tmp_path):
    west = write_raster(tmp_path / "a.tif", "EPSG:4326", (170, -20, 190, -10), (100, 200), 3, harmonics)
    metric = write_raster(tmp_path / "b.tif", "EPSG:3832", (2e6, -3e6, 4e6, -1e6), (200, 200), 3, harmonics)
    for path in (west, metric):
        source = open_imagery(path)
        for box in (
            geobox(PACIFIC, -200_000, -1_500_000, 10_000),
            geobox("EPSG:6933", HALF_WORLD - 200_000, -1_500_000, 10_000),
            geobox("EPSG:6933", -HALF_WORLD - 200_000, -1_500_000, 10_000),
            geobox("EPSG:32701", 0, 8_400_000, 5_000, (10, 60)),
        ):
            values, valid = source.read(box)
            assert valid.all()
            np.testing.assert_allclose(values, FakeImagery(3, harmonics).read(box)[0], rtol=0, atol=0.5)
        assert source.covers(np.array([[-179.0, -15.0], [179.0, -15.0], [0.0, -15.0]])).tolist() == [
            True,
            True,
            False,
        ]


def test_outside_the_raster_is_not_valid(tmp_path):
    source = source_around(tmp_path / "r.tif", "EPSG:3310", -120, 38, 1000, (50, 60), 2, noise((50, 60)) + 1)
    box = around("EPSG:6933", -120, 38, 1000, (120, 120))
    values, valid = source.read(box)
    covered = source.covers(centres_lonlat(box).reshape(-1, 2)).reshape(valid.shape)
    assert 0.15 < valid.mean() < 0.25
    assert (valid == covered).mean() > 0.995  # the edge runs through pixels
    assert (values[:, ~valid] == 0).all() and (values[:, valid] >= 1).all()
    far = source.read(geobox("EPSG:6933", 0, 0, 1000))
    assert not far[1].any() and not far[0].any()


@pytest.mark.parametrize("kind", ["nodata", "nan", "alpha", "mask"])
@pytest.mark.parametrize("metres", [400, 1000, 4300])
def test_missing_pixels_do_not_bleed(tmp_path, kind, metres):
    values = np.full((3, 120, 120), 50.0)
    gone = np.zeros((120, 120), bool)
    gone[40:80, 30:90] = True
    missing = {"nodata": -9999.0, "nan": np.nan}.get(kind, 200.0)
    values[:, gone] = missing
    path = tmp_path / "r.tif"
    transform = rasterio.transform.from_bounds(0, 0, 120_000, 120_000, 120, 120)
    profile = {"crs": "EPSG:3310", "transform": transform, "width": 120, "height": 120, "dtype": "float32"}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=4 if kind == "alpha" else 3,
            nodata=-9999 if kind == "nodata" else None,
            **profile,
        ) as raster,
    ):
        raster.write(values.astype("float32"), [1, 2, 3])
        if kind == "alpha":
            raster.write(np.where(gone, 0, 255).astype("float32"), 4)
            raster.colorinterp = [*raster.colorinterp[:3], ColorInterp.alpha]
        if kind == "mask":
            raster.write_mask(~gone)
    source = open_imagery(path)
    assert source.bands == 3
    count = 120_000 // metres
    got, valid = source.read(geobox("EPSG:3310", 0, 120_000, metres, (count, count)))
    assert (got[:, valid] == pytest.approx(50)) and (got[:, ~valid] == 0).all()
    centre = (np.arange(count) + 0.5) * metres / 1000
    inside = np.outer((centre > 40) & (centre < 80), (centre > 30) & (centre < 90))
    assert (valid == ~inside).mean() > 0.97
    assert not valid[count // 2, count // 2]


def test_half_of_a_pixel_is_enough(tmp_path):
    values = np.array([[[1, 2, -1, -1], [-1, 4, -1, 8]]], float)
    write_raster(tmp_path / "r.tif", "EPSG:3310", (0, 0, 4, 2), (2, 4), 1, values, nodata=-1)
    got, valid = open_imagery(tmp_path / "r.tif").read(geobox("EPSG:3310", 0, 2, 2, (1, 2)))
    assert valid.tolist() == [[True, False]]
    assert got[0, 0, 0] == pytest.approx(7 / 3, abs=0.5)


def test_overviews_are_used_where_they_suffice(tmp_path):
    values = noise((512, 512), 1)
    path = source_around(
        tmp_path / "r.tif", "EPSG:6933", 10, 5, 100, (512, 512), 1, values, overviews=[2, 4, 8]
    ).uri
    source = open_imagery(path)

    def level(metres):
        index, factor, pixels = source._level(geobox("EPSG:6933", 0, 0, metres))
        return None if index is None else source.overviews[index], factor, pixels.shape[0]

    pixel = source.pixel_m
    assert pixel == pytest.approx(115, abs=2)  # EPSG:6933 is stretched by 1.15 in x at the equator
    assert level(100) == (None, 1, 512)
    assert level(pixel * 2.9) == (None, 1, 512)
    assert level(pixel * 3.1) == (2, 1, 256)
    assert level(pixel * 6.1) == (4, 1, 128)
    assert level(pixel * 13) == (8, 1, 64)
    assert level(pixel * 50) == (8, 4, 16)  # beyond the last overview: means of it
    bare = source_around(tmp_path / "b.tif", "EPSG:6933", 10, 5, 100, (512, 512), 1, values)
    assert bare._level(geobox("EPSG:6933", 0, 0, pixel * 13))[:2] == (None, 8)
    box = around("EPSG:3310", 10, 5, 1, (1, 1))  # far away from EPSG:3310: only must not fail
    assert bare.read(box)[0].shape == (1, 1, 1)


@pytest.mark.parametrize("overviews", [(), (2, 4, 8)])
def test_much_coarser_pixels_are_still_means(tmp_path, overviews):
    values = noise((803, 805), 1)  # no multiple of anything
    write_raster(
        tmp_path / "r.tif", "EPSG:3310", (0, 0, 80_500, 80_300), (803, 805), 1, values, overviews=overviews
    )
    got, valid = open_imagery(tmp_path / "r.tif").read(geobox("EPSG:3310", 0, 80_300, 4000, (20, 20)))
    means = values[0, :800, :800].reshape(20, 40, 20, 40).mean(axis=(1, 3))
    assert valid.all()
    assert np.corrcoef(got[0].ravel(), means.ravel())[0, 1] > 0.8  # of white noise, the hardest
    assert got.mean() == pytest.approx(means.mean(), abs=0.3)


def test_bands_are_chosen_in_the_order_asked_for(tmp_path):
    values = np.arange(5)[:, None, None] * np.ones((5, 8, 8))
    path = write_raster(tmp_path / "r.tif", "EPSG:3310", (0, 0, 8, 8), (8, 8), 5, values)
    source = open_imagery(path, bands=[4, 1, 2])
    assert source.bands == 3
    assert source.read(geobox("EPSG:3310", 0, 8, 1, (8, 8)))[0][:, 3, 3].tolist() == [3, 0, 1]
    for wrong in ([0], [6], []):
        with pytest.raises(ImageryError, match="bands 1 to 5"):
            open_imagery(path, bands=wrong)


def test_a_source_is_small_and_safe_in_threads_and_processes(tmp_path):
    source = source_around(tmp_path / "r.tif", "EPSG:3857", -120, 38, 1000, (300, 300), 2, noise((300, 300)))
    assert isinstance(source, ImagerySource)
    assert len(pickle.dumps(source)) < 5_000
    box = around("EPSG:3310", -120, 38, 1000, (64, 64))
    expected = source.read(box)[0]
    with ThreadPoolExecutor(4) as pool:
        for got, _ in pool.map(pickle.loads(pickle.dumps(source)).read, [box] * 12):
            assert np.array_equal(got, expected)


def test_identity_does_not_depend_on_the_folder(tmp_path):
    path = write_raster(tmp_path / "r.tif", "EPSG:3310", (0, 0, 8, 8), (8, 8), 2, noise((8, 8)))
    (tmp_path / "x").mkdir()
    copy = shutil.copyfile(path, tmp_path / "x" / "r.tif")
    first = open_imagery(path).id
    assert first == open_imagery(copy).id and first.startswith("r.tif#")
    assert first != open_imagery(path, bands=[1]).id
    write_raster(copy, "EPSG:3310", (0, 0, 8, 9), (8, 8), 2, noise((8, 8)))
    assert first != open_imagery(copy).id


def test_other_pixels_in_a_file_of_the_same_name_and_size_are_other_imagery(tmp_path):
    """Otherwise a field kept from the mosaic before would be taken for one of the new mosaic."""
    path, values = tmp_path / "r.tif", noise((600, 700))
    ids, sizes = [], []
    for image in (values, values[..., ::-1], values):
        write_raster(path, "EPSG:3310", (0, 0, 700, 600), (600, 700), 2, image)
        ids.append(open_imagery(path).id)
        sizes.append(path.stat().st_size)
    assert ids[0] == ids[2] != ids[1] and len(set(sizes)) == 1


def test_a_url_reads_as_the_file_does(tmp_path):
    path = write_raster(
        tmp_path / "r.tif", "EPSG:3857", (0, 0, 512_000, 512_000), (512, 512), 3, noise((512, 512), 3),
        cog=True, dtype="uint8", blocksize=128,
    )  # fmt: skip
    box = geobox("EPSG:6933", 100_000, 300_000, 3000)
    with file_server(tmp_path) as url:
        far = open_imagery(f"{url}/r.tif")
        assert np.array_equal(far.read(box)[0], open_imagery(path).read(box)[0])
        with pytest.raises(ImageryError, match=r"none\.tif"):
            open_imagery(f"{url}/none.tif")


def test_vrt(tmp_path):
    write_raster(tmp_path / "r.tif", "EPSG:3310", (0, 0, 8000, 8000), (8, 8), 1, noise((8, 8), 1))
    (tmp_path / "v.vrt").write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><SRS>EPSG:3310</SRS>'
        "<GeoTransform>0, 1000, 0, 8000, 0, -1000</GeoTransform>"
        '<VRTRasterBand dataType="Float32" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">r.tif</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )
    box = geobox("EPSG:3310", 500, 7500, 700, (8, 8))
    virtual = open_imagery(tmp_path / "v.vrt")
    assert np.array_equal(virtual.read(box)[0], open_imagery(tmp_path / "r.tif").read(box)[0])
    (tmp_path / "r.tif").unlink()
    with pytest.raises(ImageryError, match=r"v\.vrt"):
        virtual.read(box)


def test_unusable_files_are_refused(tmp_path):
    with pytest.raises(ImageryError, match=r"cannot open the imagery: .*none\.tif.*GeoTIFF"):
        open_imagery(tmp_path / "none.tif")
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(ImageryError, match=r"text\.tif"):
        open_imagery(tmp_path / "text.tif")
    write_raster(tmp_path / "bare.tif", None, (0, 0, 8, 8), (8, 8), 1, noise((8, 8), 1))
    with pytest.raises(ImageryError, match=r"bare\.tif has not a CRS.*-a_srs"):
        open_imagery(tmp_path / "bare.tif")
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(
            tmp_path / "here.tif",
            "w",
            driver="GTiff",
            width=8,
            height=8,
            count=1,
            dtype="uint8",
            crs="EPSG:4326",
        ) as raster,
    ):
        raster.write(np.ones((1, 8, 8), "uint8"))
    with pytest.raises(ImageryError, match="has not a georeference"):
        open_imagery(tmp_path / "here.tif")
    write_raster(tmp_path / "p.tif", "EPSG:3310", (0, 0, 8, 8), (8, 8), 1, noise((8, 8), 1), dtype="uint8")
    with rasterio.open(tmp_path / "p.tif", "r+") as raster:
        raster.write_colormap(1, {i: (i, 0, 0) for i in range(256)})
    with pytest.raises(ImageryError, match=r"palette.*-expand rgb"):
        open_imagery(tmp_path / "p.tif")


@pytest.mark.parametrize("compress", ["jpeg", "deflate"])
def test_cut_off_and_damaged_files_are_refused(tmp_path, compress):
    path = write_raster(
        tmp_path / "r.tif", "EPSG:3310", (0, 0, 512_000, 512_000), (512, 512), 3, noise((512, 512), 3),
        dtype="uint8", tiled=True, blockxsize=128, blockysize=128, compress=compress,
    )  # fmt: skip
    box = geobox("EPSG:3310", 0, 512_000, 1000, (512, 512))
    open_imagery(path).read(box)
    whole = path.read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) * 2 // 3])
    middle = len(whole) // 2
    (tmp_path / "hurt.tif").write_bytes(whole[:middle] + b"\0" * 4000 + whole[middle + 4000 :])
    for name in ("cut.tif", "hurt.tif"):
        with pytest.raises(ImageryError, match=name) as caught:
            open_imagery(tmp_path / name).read(box)
        assert caught.value.change


def test_number_of_bands_is_checked():
    require_bands(FakeImagery(3, harmonics), 3)
    with pytest.raises(ImageryError, match=r"fake has 3.*12 bands"):
        require_bands(FakeImagery(3, harmonics), 12)


def test_cover_is_checked(tmp_path):
    grid = grid_from_bbox(-121, 37, -119, 38, resolution=2000)
    require_cover(FakeImagery(3, harmonics), grid)
    far = source_around(tmp_path / "far.tif", "EPSG:3857", 20, 50, 1000, (50, 50), 1, noise((50, 50), 1))
    empty = source_around(
        tmp_path / "empty.tif",
        "EPSG:3857",
        -120,
        37.5,
        1000,
        (500, 500),
        1,
        np.zeros((1, 500, 500)),
        nodata=0,
    )
    patch = source_around(
        tmp_path / "patch.tif", "EPSG:3310", -119.3, 37.2, 1000, (5, 5), 1, noise((5, 5), 1)
    )
    require_cover(patch, grid)
    for source in (far, empty):
        with pytest.raises(ImageryError, match=f"{source.id}.*{grid.name}"):
            require_cover(source, grid)
    sea = source_around(tmp_path / "sea.tif", "EPSG:3310", -125, 36, 1000, (50, 50), 1, noise((50, 50), 1))
    with pytest.raises(ImageryError, match="california"):
        require_cover(sea, named_grid("california"))


def test_fake_imagery():
    fake = FakeImagery(2, lambda lonlat: np.where(lonlat[:, 0] < 0, lonlat[:, 1], np.nan))
    assert isinstance(fake, ImagerySource)
    values, valid = fake.read(geobox("EPSG:6933", -2000, 2000, 1000, (4, 4)))
    assert valid.tolist() == [[True, True, False, False]] * 4
    assert values.shape == (2, 4, 4) and values.dtype == np.float32
    assert values[0, :, 0] == pytest.approx(values[1, :, 1]) and (np.diff(values[0, :, 0]) < 0).all()
    assert not fake.read(geobox("EPSG:6933", 0, 8_000_000, 100_000, (3, 3)))[1].any()  # beyond the pole


def test_blue_marble_lies_on_california():
    source = open_imagery(shared_data() / "imagery" / "bluemarble_california_z8.tif")
    grid = named_grid("california")
    window = Window(300, 0, 500, 500)  # the coast from north of San Francisco to Point Conception
    values, valid = source.read(grid.window_geobox(window))
    assert source.bands == 3 and valid.all()
    sea = values[2] > 1.5 * values[0]
    lonlat = grid.cell_lonlat(window).reshape(-1, 2)
    from geomap.land import is_land

    land = is_land(lonlat).reshape(sea.shape)

    def agreement(dy, dx):
        return (np.roll(land, (dy, dx), (0, 1)) != sea)[10:-10, 10:-10].mean()

    shifts = {(dy, dx): agreement(dy, dx) for dy in range(-4, 5) for dx in range(-4, 5)}
    assert max(shifts, key=shifts.get) in {(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)}
    assert shifts[0, 0] > 0.97


def test_blue_marble_of_three_zooms_agree():
    folder = shared_data() / "imagery"
    names = ("bluemarble_california_z8.tif", "bluemarble_north_america_z7.tif", "bluemarble_global_z6.tif")
    box = around("EPSG:3310", -119.5, 37, 8000, (60, 60))
    reads = [open_imagery(folder / name).read(box) for name in names]
    assert all(valid.all() for _, valid in reads)
    for values, _ in reads[1:]:
        for band in range(3):
            assert np.corrcoef(values[band].ravel(), reads[0][0][band].ravel())[0, 1] > 0.97


def test_sentinel_2_patch_reads_as_it_is():
    path = min((shared_data() / "aerial_samples").glob("sentinel2_*.tif"))
    source = open_imagery(path)
    assert source.bands == 12
    with rasterio.open(path) as raster:
        expected, transform, crs = raster.read(), raster.transform, raster.crs
    values, valid = source.read(GeoBox(expected.shape[1:], transform, crs.to_string()))
    assert valid.all() and np.array_equal(values, expected.astype(np.float32))
    lonlat = np.array(Transformer.from_crs(crs, 4326, always_xy=True).transform(*(transform @ (128, 128))))
    assert source.covers(lonlat[None]).all()
