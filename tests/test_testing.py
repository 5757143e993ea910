import urllib.request

import numpy as np
import pytest
import rasterio

from geomap.testing import file_server, shared_data, write_raster


def test_shared_data_is_where_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMAP_SHARED", str(tmp_path))
    assert shared_data() == tmp_path


def test_without_shared_data_tests_are_skipped_but_not_in_ci(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMAP_SHARED", str(tmp_path / "none"))
    monkeypatch.setenv("CI", "false")
    with pytest.raises(pytest.skip.Exception, match="GEOMAP_SHARED"):
        shared_data()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(FileNotFoundError, match="GEOMAP_SHARED"):
        shared_data()


def test_write_raster_paints_pixel_centres(tmp_path):
    path = write_raster(
        tmp_path / "r.tif", "EPSG:4326", (10, 20, 14, 22), (2, 4), 1, lambda lonlat: lonlat[:, 0], -1
    )
    with rasterio.open(path) as raster:
        assert raster.read(1).tolist() == [[10.5, 11.5, 12.5, 13.5]] * 2
        assert raster.nodata == -1 and raster.bounds == (10, 20, 14, 22) and raster.crs == "EPSG:4326"


def test_write_raster_makes_cogs_with_averaged_overviews(tmp_path):
    values = np.random.default_rng(0).uniform(0, 1, (2, 64, 64))
    path = write_raster(
        tmp_path / "r.tif", "EPSG:3310", (0, 0, 64, 64), (64, 64), 2, values, cog=True, blocksize=128
    )
    plain = write_raster(tmp_path / "p.tif", "EPSG:3310", (0, 0, 64, 64), (64, 64), 2, values, overviews=[2])
    with rasterio.open(path) as raster, rasterio.open(plain, overview_level=0) as small:
        assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        np.testing.assert_allclose(small.read(), values.reshape(2, 32, 2, 32, 2).mean(axis=(2, 4)), atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "expected"), [("bytes=2-4", b"234"), ("bytes=7-", b"789"), ("bytes=-2", b"89")]
)
def test_file_server_gives_ranges(tmp_path, asked, expected):
    (tmp_path / "digits").write_bytes(b"0123456789")
    with file_server(tmp_path) as url:
        request = urllib.request.Request(f"{url}/digits", headers={"Range": asked})
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 206 and answer.read() == expected
        with urllib.request.urlopen(f"{url}/digits") as answer:
            assert answer.read() == b"0123456789"
