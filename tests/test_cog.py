"""COG writing: values, overviews, layout, tags, the same bytes, and nothing left when it fails."""

import hashlib
import resource

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from rasterio import Affine
from rio_cogeo.cogeo import cog_validate

from geomap.cog import GAP, NODATA, CogSpec, read_strips, to_steps, to_values, write_cog
from geomap.errors import MapError, OutputError

SHAPE = (700, 1100)
BOX = GeoBox(SHAPE, Affine(1000, 0, -380_000, 0, -1000, 460_000), "EPSG:3310")
SPEC = CogSpec(
    BOX, "Spinus lawrencei: probability", "probability", {"GEOMAP_MODEL": "m 1", "GEOMAP_CREDIT": "Çà © 2"}
)


@pytest.fixture(scope="module")
def truth():
    """Smooth values (700, 1100) float32 and valid: a diagonal band and a single cell."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    values = (0.5 + 0.5 * np.sin(x / 40) * np.cos(y / 25)).astype(np.float32)
    valid = np.abs(x / SHAPE[1] - y / SHAPE[0]) < 0.3
    valid[-1, 0] = True
    return values, valid


def strips(steps, rows):
    return [(row, steps[row : row + rows]) for row in range(0, len(steps), rows)]


@pytest.fixture(scope="module")
def written(truth, tmp_path_factory):
    path = tmp_path_factory.mktemp("cog") / "map.tif"
    crc = write_cog(path, strips(to_steps(*truth), 512), SPEC)
    return path, crc


def test_values_are_rounded_and_gaps_are_nodata(truth, written):
    values, valid = truth
    with rasterio.open(written[0]) as source:
        read = source.read(1)
        assert (source.dtypes, source.nodata, source.crs.to_epsg()) == (("float32",), NODATA, 3310)
        assert source.transform == BOX.affine
    np.testing.assert_array_equal(
        read, np.where(valid, np.round(values.astype(float), 4), NODATA).astype("f4")
    )


def test_overviews_are_means_of_the_cells_with_data(truth, written):
    """Against block means in plain NumPy; a block with no data is nodata, one with some their mean."""
    values, valid = truth
    stored = np.where(valid, np.round(values.astype(float), 4), np.nan)
    blocks = stored.reshape(SHAPE[0] // 2, 2, SHAPE[1] // 2, 2)
    count = np.isfinite(blocks).sum(axis=(1, 3))
    means = np.nansum(blocks, axis=(1, 3)) / np.maximum(count, 1)
    with rasterio.open(written[0]) as source:
        assert source.overviews(1)[0] == 2
        half = source.read(1, out_shape=(SHAPE[0] // 2, SHAPE[1] // 2))
    np.testing.assert_array_equal(half != NODATA, count > 0)
    np.testing.assert_allclose(half[count > 0], means[count > 0], atol=1e-6)
    assert half[count > 0].min() >= 0


def test_layout_is_strictly_valid(written):
    assert cog_validate(written[0], strict=True, quiet=True) == (True, [], [])
    with rasterio.open(written[0]) as source:
        assert source.block_shapes == [(512, 512)]
        image = source.tags(ns="IMAGE_STRUCTURE")
    assert (image["LAYOUT"], image["COMPRESSION"], image["PREDICTOR"]) == ("COG", "DEFLATE", "3")


def test_description_unit_and_tags(written):
    with rasterio.open(written[0]) as source:
        assert source.descriptions == ("Spinus lawrencei: probability",)
        assert source.units == ("probability",)
        tags = source.tags()
    assert tags == {**SPEC.tags, "AREA_OR_POINT": "Area"}


@pytest.mark.parametrize("rows", [256, 512, 700])
def test_same_map_same_bytes(truth, written, tmp_path, rows):
    crc = write_cog(tmp_path / "again.tif", strips(to_steps(*truth), rows), SPEC)
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in (written[0], tmp_path / "again.tif")]
    assert digests[0] == digests[1]
    assert crc == written[1]


def test_steps_and_values():
    values = np.array([0, 0.00004, 0.00006, 0.12344, 1, 0.5, np.nan, 7], np.float32)
    valid = np.array([True] * 5 + [False] * 3)
    steps = to_steps(values, valid)
    assert steps.tolist() == [0, 0, 1, 1234, 10000, GAP, GAP, GAP]
    np.testing.assert_array_equal(to_values(steps)[:5], np.array([0, 0, 1e-4, 0.1234, 1], np.float32))
    assert (to_values(steps)[5:] == NODATA).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.001, 1.001])
def test_values_that_are_no_scores_are_refused(bad):
    with pytest.raises(MapError, match=r"not within 0\.\.1"):
        to_steps(np.array([0.5, bad], np.float32), np.array([True, True]))


@pytest.mark.parametrize("limit", [20_000, 400_000, 3_000_000])
def test_full_disk_leaves_nothing(truth, tmp_path, limit):
    """Files of this process may not grow past `limit`, which GDAL meets like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "map.tif").write_bytes(b"the old one")
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*map\.tif"):
            write_cog(tmp_path / "map.tif", strips(to_steps(*truth), 512), SPEC)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]
    assert (tmp_path / "map.tif").read_bytes() == b"the old one"


def test_ctrl_c_leaves_nothing(truth, tmp_path):
    def interrupted():
        yield 0, to_steps(*truth)[:512]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cog(tmp_path / "map.tif", interrupted(), SPEC)
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written(truth, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="another folder with --out"):
        write_cog(tmp_path / "file" / "map.tif", strips(to_steps(*truth), 512), SPEC)


def test_truncated_map_is_refused(written, tmp_path):
    data = written[0].read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(MapError, match="cannot read the map"):
        list(read_strips(tmp_path / "cut.tif", 512))


def test_strips_come_back(truth, written):
    read = np.concatenate([values for _, values in read_strips(written[0], 256)])
    np.testing.assert_array_equal(read, to_values(to_steps(*truth)))
