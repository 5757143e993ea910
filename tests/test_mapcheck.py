"""Self-checks: a right map passes, and every known way of being silently wrong is found."""

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from rasterio import Affine

from geomap.cog import NODATA, CogSpec, to_steps, write_cog
from geomap.errors import MapError
from geomap.facts import MapFacts, tally
from geomap.mapcheck import Expectation, check_map
from geomap.seams import SeamGauge

SHAPE, UNIT = (300, 400), 64
BOX = GeoBox(SHAPE, Affine(1000, 0, 0, 0, -1000, 300_000), "EPSG:3310")
BLOCK = np.s_[128:192, 192:256]  # one unit amid others


def smooth(seed: int = 0, shape=SHAPE, noise: float = 0.003):
    """A map like real ones: waves of random length and direction, a little noise, a sigmoid at the end."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    logit = rng.normal(0, 0.02, shape) * noise / 0.003
    for _ in range(12):
        angle, length, phase = rng.uniform(0, 7), rng.uniform(15, 200), rng.uniform(0, 7)
        logit += rng.normal() * np.sin((x * np.cos(angle) + y * np.sin(angle)) / length * 6.28 + phase)
    return (1 / (1 + np.exp(-logit + rng.uniform(0, 3)))).astype(np.float32)


def island(shape=SHAPE):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (x / shape[1] - 0.5) ** 2 + (y / shape[0] - 0.5) ** 2 < 0.2


def written(tmp_path, values, valid=None, **known):
    """A map file and what is expected of it."""
    valid = island() if valid is None else valid
    steps = to_steps(values, valid)
    strips = [(row, steps[row : row + 512]) for row in range(0, len(steps), 512)]
    crc = write_cog(tmp_path / "map.tif", strips, CogSpec(BOX, "a: suitability", "suitability", {}))
    facts = tally([(steps[valid], np.ones(int(valid.sum())))])
    return tmp_path / "map.tif", Expectation(**{
        "geobox": BOX, "valid": valid, "unit": UNIT, "crc": crc, "facts": facts, "p10": facts.quantile(0.7),
        "home": True, **known,
    })  # fmt: skip


def refused(path, expected, match):
    with pytest.raises(MapError, match=match):
        check_map(path, expected)


def test_right_map_passes(tmp_path):
    check_map(*written(tmp_path, smooth()))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("unit", [8, 16, 32, 64, 256])
def test_right_maps_have_no_seams(unit, seed):
    values = np.where(island(), smooth(seed, noise=0.003 * (seed % 3)), np.float32(np.nan))
    assert gauged(values, unit) is None


def gauged(values, unit):
    gauge = SeamGauge(values.shape, unit)
    rows = unit * max(1, 128 // unit)
    for row in range(0, len(values), rows):
        gauge.add(row, values[row : row + rows])
    return gauge.verdict()


@pytest.mark.parametrize("offset", [0.04, -0.04, 0.2])
def test_planted_seam(tmp_path, offset):
    values = np.clip(smooth(3) * 0.8 + 0.1, 0.1, 0.9)
    values[BLOCK] = np.clip(values[BLOCK] + offset, 0, 1)
    path, expected = written(tmp_path, values)
    refused(path, expected, "a seam at the block border before (column 192|column 256|row 128|row 192)")


def test_planted_shift_of_a_block(tmp_path):
    values = smooth(4)
    values[BLOCK] = np.roll(values[BLOCK], 9, axis=0)
    refused(
        *written(tmp_path, values),
        "a seam at the block border before (column 192|column 256|row 128|row 192)",
    )


def test_block_of_another_place(tmp_path):
    values = smooth(5)
    values[BLOCK] = smooth(6)[BLOCK]
    refused(*written(tmp_path, values), "a seam at the block border")


def test_faint_seams_all_over():
    """Offsets that no single border shows, at every border: units standardised one by one, say."""
    values, rng = smooth(7, (512, 640), noise=0) * 0.6 + 0.2, np.random.default_rng(0)
    for row in range(0, 512, 32):
        for col in range(0, 640, 32):
            values[row : row + 32, col : col + 32] += rng.normal() * 0.006
    assert gauged(values.astype(np.float32), 32) is not None


def test_planted_shift_of_the_whole_map(tmp_path):
    path, expected = written(tmp_path, smooth(), np.roll(island(), 1, axis=1))
    refused(path, replaced(expected, valid=island()), r"\d+ cells have data where the field has none")


def replaced(expected, **known):
    return Expectation(**{**vars(expected), **known})


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_flat_map(tmp_path, value):
    path, expected = written(tmp_path, np.full(SHAPE, value, np.float32), p10=np.nan)
    refused(path, expected, f"{value} in all of its")


def test_absent_species_on_a_foreign_grid_is_zero_all_over(tmp_path):
    path, expected = written(tmp_path, np.zeros(SHAPE, np.float32), p10=0.4, home=False)
    check_map(path, expected)
    path, expected = written(tmp_path, np.full(SHAPE, 0.3, np.float32), p10=0.4, home=False)
    refused(path, expected, "0.3 in all")


def test_all_nodata(tmp_path):
    refused(*written(tmp_path, smooth(), np.zeros(SHAPE, bool)), "no cell with data")


def test_presences_not_above_the_background(tmp_path):
    path, expected = written(tmp_path, smooth())
    refused(path, replaced(expected, p10=expected.facts.quantile(0.05)), "does not part the species")
    refused(path, replaced(expected, p10=1.1), "0% of the area")
    check_map(path, replaced(expected, p10=1.1, home=False))


def rewritten(path, change, **profile):
    """The same file written again by rasterio after `change`, as a COG again."""
    with rasterio.open(path) as source:
        values, told = source.read(1), {**source.profile, **profile}
    plain = path.with_name("plain.tif")
    with rasterio.open(plain, "w", **told) as target:
        target.write(change(values), 1)
    rasterio.shutil.copy(plain, path, driver="COG", blocksize=512, overview_resampling="average")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5, 1.5])
def test_values_that_are_no_scores(tmp_path, bad):
    path, expected = written(tmp_path, smooth())

    def spoil(values):
        values[150, 200] = bad
        return values

    rewritten(path, spoil)
    refused(path, expected, "not finite or not within 0..1")


def test_other_values_than_were_written(tmp_path):
    path, expected = written(tmp_path, smooth())
    rewritten(
        path, lambda values: np.where(values == NODATA, values, np.clip(values + 1e-4, 0, 1)).astype("f4")
    )
    refused(path, expected, "other values than were written")


def test_wrong_nodata(tmp_path):
    path, expected = written(tmp_path, smooth())
    rewritten(path, lambda values: values, nodata=-1.0)
    refused(path, expected, "nodata -1.0")


def test_wrong_place(tmp_path):
    path, expected = written(tmp_path, smooth())
    rewritten(path, lambda values: values, transform=Affine(1000, 0, 1000, 0, -1000, 300_000))
    refused(path, expected, "not the grid asked for")
    rewritten(path, lambda values: values, crs="EPSG:5070", transform=BOX.affine)
    refused(path, expected, "not the grid asked for")


def test_no_cog(tmp_path):
    box = GeoBox((600, 700), BOX.affine, "EPSG:3310")
    with rasterio.open(
        tmp_path / "plain.tif", "w", driver="GTiff", height=600, width=700, count=1, dtype="float32",
        nodata=NODATA, crs="EPSG:3310", transform=box.affine,
    ) as target:  # fmt: skip
        target.write(smooth(0, (600, 700)), 1)
    expected = Expectation(box, np.ones((600, 700), bool), UNIT, 0, tally([]))
    refused(tmp_path / "plain.tif", expected, "not a valid COG")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_truncated_file(tmp_path, share):
    path, expected = written(tmp_path, smooth())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused(path, expected, "cannot read the map|check failed")


def test_facts_against_numpy():
    rng = np.random.default_rng(1)
    steps, area = rng.integers(0, 10001, 5000).astype(np.uint16), rng.uniform(0.5, 2, 5000)
    facts = tally([(steps[:2000], area[:2000]), (steps[2000:], area[2000:])])
    values = steps / 10_000
    assert facts.cells == 5000
    assert facts.area_km2 == pytest.approx(area.sum())
    for threshold in (0.0, 0.2, 0.4321, 1.0, values[7]):
        assert facts.area_above(threshold) == pytest.approx(area[values >= threshold].sum())
    statistics = facts.statistics()
    assert statistics["minimum"] == values.min()
    assert statistics["maximum"] == values.max()
    assert statistics["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert statistics["stddev"] == pytest.approx(values.std(), abs=1e-6)
    order = np.argsort(values, kind="stable")
    half = values[order][np.searchsorted(np.cumsum(area[order]), area.sum() / 2)]
    assert facts.quantile(0.5) == pytest.approx(half, abs=2e-4)


def test_facts_of_nothing():
    empty: MapFacts = tally([])
    assert np.isnan(empty.area_above(np.nan))
    assert np.isnan(empty.quantile(0.5))
    assert np.isnan(empty.statistics()["mean"])
