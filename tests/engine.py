"""What the tests of the tile engine share: maps from small files, and tiles by rasterio to compare with."""

from __future__ import annotations

import numpy as np
import pyproj
import rasterio
from rasterio.transform import from_bounds
from rasterio.vrt import WarpedVRT

from geomap.testing import write_raster
from tiles.lru import Lru
from tiles.maps import About
from tiles.positions import Tile
from tiles.stored import MapFile, StoredMap, read_layout

HALF = np.pi * 6378137
BOXES = {  # CRS -> bounds of a piece of California in cells of 4 or 5 km; an odd number of them on purpose
    "EPSG:3310": (-374_000.0, -602_000.0, 542_000.0, 450_000.0),
    "EPSG:3857": (-13_850_000.0, 3_833_000.0, -12_705_000.0, 5_148_000.0),
    "EPSG:6933": (-12_000_000.0, 3_950_000.0, -11_084_000.0, 5_002_000.0),
}
SHAPE = (263, 229)


def noise(shape, seed=0, gaps=0.2):
    """(h, w) float32 of four decimals where every cell differs from its neighbours, with nodata strewn in."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.random(shape), 4).astype(np.float32)
    values[rng.random(shape) < gaps] = -9999
    values[:, : shape[1] // 5] = -9999
    return values


def write_map(path, crs="EPSG:3310", bounds=None, values=None, **more):
    """A map as geomap.render lays it out, of noise if no values are given."""
    values = noise(SHAPE) if values is None else values
    bounds = BOXES[crs] if bounds is None else bounds
    cube = values if values.ndim == 3 else values[None]
    return write_raster(path, crs, bounds, cube.shape[1:], len(cube), cube, -9999, cog=True, **more)


def open_map(path, kept=None, **about):
    """The StoredMap of a file."""
    state = path.stat()
    file = MapFile(str(path), f"{state.st_mtime_ns}-{state.st_ino}")
    layout = read_layout(file)
    known = {
        "id": path.stem, "scientific": path.stem, "vernacular": "", "synonyms": (), "group": "",
        "grid": "test", "meaning": "suitability", "records": None, "n_test": None, "thresholds": {},
        "default_threshold": None, "scores": {}, "version": "0" * 12, "bands": layout.bands,
    }  # fmt: skip
    return StoredMap(
        About(**(known | about)),
        file,
        layout,
        kept or Lru(64 << 20, lambda levels: sum(level.nbytes for level in levels)),
    )


def tile_bounds(tile):
    """Bounds of a tile in its own CRS, and that CRS."""
    if tile.tms == "WorldCRS84Quad":
        side = 180 / 2**tile.z
        west, north = -180 + tile.x * side, 90 - tile.y * side
        return "EPSG:4326", (west, north - side, west + side, north)
    side = 2 * HALF / 2**tile.z
    west, north = -HALF + tile.x * side, HALF - tile.y * side
    return "EPSG:3857", (west, north - side, west + side, north)


def by_rasterio(path, tile, level):
    """Values of a tile (size, size) by GDAL's exact nearest neighbour from a level; NaN for nodata."""
    crs, bounds = tile_bounds(tile)
    options = {} if level == 0 else {"overview_level": level - 1}
    target = from_bounds(*bounds, tile.size, tile.size)
    with (
        rasterio.open(path, **options) as source,
        WarpedVRT(
            source, crs=crs, transform=target, width=tile.size, height=tile.size, tolerance=1e-6, nodata=-9999
        ) as warped,
    ):
        values = warped.read(1)
    return np.where(values == -9999, np.nan, values)


def exact_cells(chosen, tile, level_transform):
    """Fractional columns and rows (size, size) of pixel centres by pyproj alone."""
    crs, (west, south, east, north) = tile_bounds(tile)
    step = np.arange(tile.size) + 0.5
    x, y = np.meshgrid(west + (east - west) * step / tile.size, north - (north - south) * step / tile.size)
    x, y = pyproj.Transformer.from_crs(crs, chosen.crs, always_xy=True).transform(x, y)
    return (x - level_transform.c) / level_transform.a, (y - level_transform.f) / level_transform.e


def tile_at(tms, z, lon, lat, size=256):
    """The tile that holds a place."""
    if tms == "WorldCRS84Quad":
        side = 180 / 2**z
        return Tile(tms, z, int((lon + 180) / side), int((90 - lat) / side), size)
    down = np.arcsinh(np.tan(np.radians(lat))) / np.pi
    return Tile(tms, z, int((lon + 180) / 360 * 2**z), int((1 - down) / 2 * 2**z), size)
