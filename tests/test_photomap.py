"""Maps of where the land looks like photos."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image
from rio_cogeo import cog_validate

from geomap import photomap
from geomap.chip_encoders import ChipEncoders
from geomap.cli import main
from geomap.errors import MapError, OutputError
from geomap.grid import grid_from_options
from geomap.imagery import open_imagery
from geomap.photomap import PhotoRequest, render_photos
from geomap.rendering import Request, render_maps
from geomap.target import FieldOptions
from geomap.testing import write_raster
from train.calibration import Calibration
from train.distributed import World
from train.errors import CheckpointError, SpecError
from train.pretrain import pretrain
from train.recipe import read_recipe

BOX = (-121.0, 37.0, -120.6, 37.3)
FEW = ["data.options.n=150", "training.epochs=1", "training.batch=32", "data.metres_per_pixel=1000"]


def run_of(name, folder):
    pretrain(read_recipe(name, FEW), folder, World(0, 1, torch.device("cpu")))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: run_of(f"{name}-tiny", folder / name) for name in ("crisp", "birdsat-cve-meta", "csp")}


@pytest.fixture(scope="module")
def imagery(tmp_path_factory):
    """Noise on a slope, in the EPSG:6933 that the grid has too."""

    noise = np.random.default_rng(0).uniform(0, 120, (4, 140, 200))
    values = noise + np.arange(140)[:, None] % 120
    bounds = (-11_760_000.0, 4_380_000.0, -11_560_000.0, 4_520_000.0)
    path = tmp_path_factory.mktemp("imagery") / "four.tif"
    return write_raster(path, "EPSG:6933", bounds, (140, 200), 4, values)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tuple(sorted(folder.glob("*.png")))


@pytest.fixture(scope="module")
def grid():
    return grid_from_options(None, BOX, None, 5000.0, "EPSG:6933")


def request_of(run, imagery, photos, grid, out, **more):
    return PhotoRequest(photos, run, grid, str(imagery), out, "poppy", **more)


def read_all(path):
    with rasterio.open(path) as source:
        return source.read(masked=True).filled(np.nan), source.descriptions, source.tags(), source.units


def test_a_cell_is_the_cosine_of_its_chip_and_the_mean_photo(runs, imagery, photos, grid, tmp_path):
    path = render_photos(request_of(runs["crisp"], imagery, photos, grid, tmp_path))
    values, names, tags, units = read_all(path)
    assert names == ("habitat similarity",) and units == ("cosine",)
    assert tags["GEOMAP_PHOTOS"] == "2" and cog_validate(path, strict=True, quiet=True)[0]
    encoders = ChipEncoders(runs["crisp"])
    query = photomap.prototype(encoders, photos)
    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)
    row, col = grid.shape[0] // 2, grid.shape[1] // 2
    x, y = grid.transform * (col + 0.5, row + 0.5)
    source = open_imagery(imagery)
    left, top = math.floor(x / 1000) * 1000 - 16_000, (math.floor(y / 1000) + 1) * 1000 + 16_000
    image, valid = source.read(GeoBox((32, 32), Affine(1000, 0, left, 0, -1000, top), grid.crs))
    assert valid.all()
    alone = encoders.model.encode("aerial", {"aerial": torch.from_numpy(image[None])})[0].detach().numpy()
    assert values[0, row, col] == pytest.approx(float(alone @ query), abs=0.03)  # int8 of the field


def test_other_imagery_in_the_same_folder_gives_its_own_map(runs, imagery, photos, grid, tmp_path):
    """The field that is kept on the way belongs to the imagery that it was made of."""
    first = read_all(render_photos(request_of(runs["crisp"], imagery, photos, grid, tmp_path / "a")))[0]
    with rasterio.open(imagery) as source:
        turned, bounds = source.read()[:, ::-1], tuple(source.bounds)
    other = tmp_path / "turned.tif"
    write_raster(other, "EPSG:6933", bounds, turned.shape[1:], 4, turned)
    request = request_of(runs["crisp"], other, photos, grid, tmp_path / "a", overwrite=True)
    second = read_all(render_photos(request))[0]
    assert np.nanmax(np.abs(first - second)) > 0.05
    alone = read_all(render_photos(replace(request, out=tmp_path / "b")))[0]
    np.testing.assert_array_equal(second, alone)


def test_workers_and_resumption_give_the_same_map(runs, imagery, photos, grid, tmp_path):
    one = render_photos(request_of(runs["crisp"], imagery, photos, grid, tmp_path / "a"))
    again = render_photos(request_of(runs["crisp"], imagery, photos, grid, tmp_path / "a", overwrite=True))
    assert one == again
    np.testing.assert_array_equal(read_all(one)[0], read_all(again)[0])


def test_months_are_layers_that_differ(runs, imagery, photos, grid, tmp_path):
    run = runs["birdsat-cve-meta"]
    values, names, _, _ = read_all(
        render_photos(request_of(run, imagery, photos, grid, tmp_path, months=(1, 7)))
    )
    assert names == ("habitat similarity in month 1", "habitat similarity in month 7")
    assert np.nanmax(np.abs(values[0] - values[1])) > 1e-3


def test_the_product_joins_habitat_and_range(runs, imagery, photos, grid, tmp_path, monkeypatch):
    prior = np.linspace(0, 1, math.prod(grid.shape)).reshape(grid.shape).astype(np.float32)
    prior[0, 0] = np.nan

    def prior_map(request, scratch):
        path = scratch / "prior.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=grid.shape[0], width=grid.shape[1], count=1, dtype="float32",
            nodata=-9999, crs=str(grid.crs), transform=grid.transform,
        ) as target:  # fmt: skip
            target.write(np.nan_to_num(prior, nan=-9999), 1)
        return path

    card = json.loads((runs["crisp"] / "card.json").read_text())
    calibration = Calibration(**card["calibration"])
    monkeypatch.setattr(photomap, "prior_map", prior_map)
    path = render_photos(request_of(runs["crisp"], imagery, photos, grid, tmp_path, species="A b"))
    (similar, likely, both), names, _, _ = read_all(path)
    assert names == ("habitat similarity", "location prior: A b", "habitat and range")
    np.testing.assert_allclose(likely, prior, atol=1e-4)
    inside = np.clip(prior, 1e-4, 1 - 1e-4)
    odds = np.exp(calibration.log_odds(similar)) * inside / (1 - inside)
    np.testing.assert_allclose(both, odds / (1 + odds), atol=1e-3)
    assert np.isnan(both[0, 0])


def test_the_prior_comes_from_the_bundle_where_it_has_the_cells(runs, photos, tmp_path):
    box = (-120.6, 37.0, -120.4, 37.15)  # a part of the shipped California grid, 1 km
    grid = grid_from_options(bbox=box)
    noise = np.random.default_rng(1).uniform(0, 255, (4, 90, 90))
    left, top = grid.transform.c - 35_000, grid.transform.f + 35_000
    bounds = (left, top - 90_000, left + 90_000, top)
    imagery = write_raster(tmp_path / "four.tif", "EPSG:3310", bounds, (90, 90), 4, noise)
    asked = request_of(runs["crisp"], imagery, photos, grid, tmp_path / "a", species="California poppy")
    values, names, _, _ = read_all(render_photos(asked))
    assert names[1] == "location prior: California poppy"
    where = FieldOptions(cache=tmp_path / "fields")
    made = render_maps(Request(("Eschscholzia californica",), tmp_path / "b", None, grid, where))
    with rasterio.open(made.folder / "eschscholzia-californica.tif") as source:
        alone = source.read(1, masked=True).filled(np.nan)
    known = np.isfinite(values[1])
    assert known.sum() > 100
    np.testing.assert_allclose(values[1][known], alone[known], atol=1e-4)


def test_flat_and_empty_maps_are_refused(runs, photos, grid, tmp_path):
    bounds = (-11_760_000.0, 4_380_000.0, -11_560_000.0, 4_520_000.0)
    flat = write_raster(
        tmp_path / "flat.tif", "EPSG:6933", bounds, (140, 200), 4, np.full((4, 140, 200), 90.0)
    )
    with pytest.raises(MapError, match="all"):
        render_photos(request_of(runs["crisp"], flat, photos, grid, tmp_path / "out"))
    assert not list((tmp_path / "out").rglob("*.tif"))


def test_an_existing_map_is_kept(runs, imagery, photos, grid, tmp_path):
    request = request_of(runs["crisp"], imagery, photos, grid, tmp_path)
    path = render_photos(request)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        render_photos(request)
    assert path.read_bytes() == before


def test_runs_and_photos_that_do_not_serve_are_refused(runs, imagery, photos, grid, tmp_path):
    with pytest.raises(CheckpointError, match="csp"):
        render_photos(request_of(runs["csp"], imagery, photos, grid, tmp_path))
    with pytest.raises(CheckpointError, match="was not told dates"):
        render_photos(request_of(runs["crisp"], imagery, photos, grid, tmp_path, months=(5,)))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(SpecError, match="broken"):
        render_photos(request_of(runs["crisp"], imagery, (broken,), grid, tmp_path))
    with pytest.raises(CheckpointError, match=r"card\.json"):
        render_photos(request_of(tmp_path / "nowhere", imagery, photos, grid, tmp_path))


def test_the_command(runs, imagery, photos, tmp_path, capsys):
    area = ["--bbox", *map(str, BOX), "--resolution", "5000", "--crs", "EPSG:6933"]
    argv = [
        "render",
        "--photo",
        str(photos[0]),
        "--photo",
        str(photos[1]),
        *area,
        "--out",
        str(tmp_path / "maps"),
    ]
    assert main([*argv]) == 2
    assert "no --encoders" in capsys.readouterr().err
    argv += ["--encoders", str(runs["crisp"]), "--imagery", str(imagery), "--name", "mine"]
    assert main(argv) == 0
    assert "habitat similarity" in capsys.readouterr().out
    assert len(list((tmp_path / "maps").glob("*/mine.tif"))) == 1
    assert main([*argv, "--overwrite", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(*(tmp_path / "maps").glob("*/mine.tif"))
    (layer,) = told["layers"]
    assert (layer["name"], layer["unit"]) == ("habitat similarity", "cosine")
    assert -1 <= layer["p5"] <= layer["p50"] <= layer["p95"] <= 1 and layer["cells_read"] > 0
    assert main(["render"]) == 2
    assert "--species" in capsys.readouterr().err
