"""Checks of a written map: it is opened again, and a map that looks wrong is refused rather than handed out.

Flat maps, shifted maps and seams at the borders of processing blocks are the known silent failures of tools
of this kind, so every map is held against what is known beforehand: where there is data, what was written,
where the records are, and that a block border is an accident of processing which the map must not show.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rio_cogeo.cogeo import cog_validate

from geomap.cog import BLOCK, NODATA, SCALE, read_strips
from geomap.errors import MapError
from geomap.facts import MapFacts
from geomap.seams import SeamGauge

RETRY = "render it again with --overwrite; if it happens again, make the field or the heads again"
# Nine of ten presences reach the 10th-percentile threshold; a map of which as much does tells nothing.
P10_SHARE = 0.9


@dataclass(frozen=True, eq=False)
class Expectation:
    """What is known of a map before it is opened.

    Attributes:
        geobox: Shape, transform and CRS.
        valid: (H, W) bool, where there must be data.
        unit: Side of the processing blocks [cells].
        crc: CRC-32 of the float32 values row by row, as `geomap.cog.write_cog` returns it.
        facts: What was written.
        p10: Value that nine of ten presences reach; NaN when not known.
        home: The grid is the one the heads were fitted on, so the species must occur on it and must be
            missing from a part of it. On other grids it may be everywhere or nowhere.
    """

    geobox: GeoBox
    valid: NDArray[np.bool_]
    unit: int
    crc: int
    facts: MapFacts
    p10: float = math.nan
    home: bool = False


def check_map(path: Path, expected: Expectation) -> None:
    """Open a map again and hold it against what is known.

    Args:
        path: A map file, float32 with `NODATA` where there is no data.
        expected: What is known.

    Raises:
        MapError: The file cannot be read, is not georeferenced as asked, not a strictly valid COG, not
            finite, flat, has data in the wrong cells, other values than were written, presences not above
            the background, or seams.
    """
    _check_header(path, expected.geobox)
    _check_cells(path, expected)
    _check_flat(path, expected.facts, expected.home)
    if expected.home:
        _check_presences(path, expected)


def _check_header(path: Path, geobox: GeoBox) -> None:
    """CRS, transform, shape, nodata and the layout of a COG."""
    try:
        with rasterio.open(path) as source:
            shape, transform, nodata = source.shape, source.transform, source.nodata
            crs_fits = source.crs == rasterio.CRS.from_user_input(str(geobox.crs))
        good, errors, warnings = cog_validate(path, strict=True, quiet=True)
    except (RasterioError, OSError) as error:
        raise MapError("cannot read the map", f"{path}: {error}", RETRY) from error
    if shape != tuple(geobox.shape) or not crs_fits or not transform.almost_equals(geobox.affine, 1e-6):
        raise _wrong(path, f"{shape} cells from {transform.c}, {transform.f}, not the grid asked for")
    if nodata != NODATA:
        raise _wrong(path, f"nodata {nodata}, not {NODATA}")
    if not good:
        raise _wrong(path, f"not a valid COG: {'; '.join([*errors, *warnings])}")


def _check_cells(path: Path, expected: Expectation) -> None:
    """Go through the map once: data in the right cells, finite, as written, and without seams."""
    gauge = SeamGauge(expected.valid.shape, expected.unit)
    crc = 0
    for row, values in read_strips(path, expected.unit * max(1, BLOCK // expected.unit)):
        valid = expected.valid[row : row + len(values)]
        off = int(np.count_nonzero((values != NODATA) != valid))
        if off:
            raise _wrong(path, f"{off} cells have data where the field has none, or none where it has")
        shown = np.where(valid, values, np.float32(np.nan))
        inside = (shown >= 0) & (shown <= 1)  # False for NaN
        if not np.array_equal(inside, valid):
            raise _wrong(path, "values that are not finite or not within 0..1")
        crc = zlib.crc32(np.ascontiguousarray(values).data, crc)
        gauge.add(row, shown)
    if crc != expected.crc:
        raise _wrong(path, "other values than were written")
    seam = gauge.verdict()
    if seam is not None:
        raise _wrong(path, seam)


def _check_flat(path: Path, facts: MapFacts, home: bool) -> None:
    """A map of one value is wrong; but zero all over is right on a foreign grid without the species."""
    present = np.flatnonzero(facts.cells_by_step)
    if present.size == 0:
        raise _wrong(path, "no cell with data")
    if present.size == 1 and facts.cells > 1 and (home or present[0] != 0):
        raise _wrong(path, f"{present[0] / SCALE} in all of its {facts.cells} cells")


def _check_presences(path: Path, expected: Expectation) -> None:
    """Presences must stand above the background, and the threshold must part the map."""
    share = expected.facts.area_above(expected.p10) / expected.facts.area_km2
    if not (0 < share < P10_SHARE or math.isnan(share)):
        found = f"{share:.0%} of the area reaches {expected.p10:.4f}, which nine of ten presences reach"
        raise _wrong(path, f"{found}: the map does not part the species from its background")


def _wrong(path: Path, found: str) -> MapError:
    return MapError("cannot hand out the map, its check failed", f"{path.name}: {found}", RETRY)
