"""Rendering: maps against the heads' own predictions, the same bytes, stops and refusals."""

import hashlib
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

import geomap.grid
import geomap.mapfile
import geomap.outputs
from geomap.catalog import Catalog
from geomap.cog import NODATA
from geomap.errors import MapError, OutputError, SchedulerError
from geomap.field import open_field
from geomap.grid import Window, grid_from_bbox
from geomap.heads import load_heads, save_heads
from geomap.render import main
from geomap.scores import score_cells
from geomap.target import FieldOptions
from geomap.testing_bundle import make_heads, small_california, write_field
from geomap.workers import workers_of

pytestmark = pytest.mark.usefixtures("shipped")
POPPY = "eschscholzia-californica"


@pytest.fixture
def maps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "maps"


def render(*options):
    return main([str(option) for option in options])


def files(folder):
    """Every file below a folder with its sha256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def values_of(path):
    with rasterio.open(path) as source:
        return source.read(1)


def oracle(name, grid=None):
    """The map of a species straight from field and heads, without any of the stages: (H, W) float32."""
    catalog = Catalog.open()
    heads, index = catalog.find(name)
    field = catalog.field("california")
    values, valid = field.read(field.grid.whole)
    scores = heads.predict(values[valid], [index])[:, 0]
    shown = np.full(valid.shape, NODATA, np.float32)
    shown[valid] = np.round(scores.astype(float), 4)
    return shown


def test_only_the_species_is_needed(maps, capsys):
    assert render("--species", "california POPPY") == 0
    assert sorted(files(maps)) == [
        f"california/{n}" for n in ("collection.json", f"{POPPY}.json", f"{POPPY}.tif")
    ]
    cog = maps / "california" / f"{POPPY}.tif"
    np.testing.assert_allclose(values_of(cog), oracle("Eschscholzia californica"), atol=1.01e-4)
    assert cog_validate(cog, strict=True, quiet=True)[0]
    printed = capsys.readouterr().out
    for text in (f"{POPPY}.tif", "1,022", "0.900 (0.850)", "suitability"):
        assert text in printed


def test_tags_item_and_table_agree(maps, capsys):
    assert render("--species", "wrentit") == 0
    folder = maps / "california"
    with rasterio.open(folder / "chamaea-fasciata.tif") as source:
        tags, values = source.tags(), source.read(1)
        assert source.descriptions == ("Chamaea fasciata: probability",)
        assert source.units == ("probability",)
    item = json.loads((folder / "chamaea-fasciata.json").read_text())
    said = item["properties"]
    heads, index = Catalog.open().find("wrentit")
    assert tags["GEOMAP_HEADS_HASH"] == said["geomap:heads_hash"] == heads.hash
    assert tags["GEOMAP_ENCODER_HASH"] == "e" * 64
    assert (tags["GEOMAP_MEANING"], tags["GEOMAP_LICENCE"]) == ("probability", "CC-BY-NC-4.0")
    assert (tags["GEOMAP_DATA_CREDIT"], tags["AREA_OR_POINT"]) == ("Made up for north-america-birds", "Area")
    told = json.loads(tags["GEOMAP_THRESHOLDS"])
    assert told == said["geomap:thresholds"]
    grid = small_california()
    for key, one in told.items():
        assert one["value"] == pytest.approx(heads.species[key].iloc[index], abs=1e-6)
        above = values >= np.float32(one["value"])
        assert one["area_km2"] == pytest.approx(grid.cell_area_km2()[above].sum(), abs=0.01)
    area = told[said["geomap:threshold"]]["area_km2"]
    assert f"{area:,.0f}" in capsys.readouterr().out
    assert item["assets"]["map"]["file:checksum"].endswith(files(folder)["chamaea-fasciata.tif"])


def test_all_species_by_their_best_heads(maps):
    assert render("--species", "all", "--png") == 0
    names = {path.stem for path in (maps / "california").glob("*.tif")}
    assert names == {
        "aptenodytes-forsteri", "carduelis-lawrencei", "chamaea-fasciata", POPPY, "quercus-lobata",
        "sequoia-sempervirens",
    }  # fmt: skip
    collection = json.loads((maps / "california" / "collection.json").read_text())
    assert {link["href"][2:-5] for link in collection["links"] if link["rel"] == "item"} == names
    item = json.loads((maps / "california" / f"{POPPY}.json").read_text())
    assert item["assets"]["preview"]["href"] == f"./{POPPY}.png"


def test_preview_has_the_colours_of_the_values(maps):
    from PIL import Image

    from geomap.colour import palette
    from geomap.preview import NOTHING

    assert render("--species", "wrentit", "--png") == 0
    picture = np.asarray(Image.open(maps / "california" / "chamaea-fasciata.png").convert("RGB"))
    values = values_of(maps / "california" / "chamaea-fasciata.tif")
    valid = values != NODATA
    np.testing.assert_array_equal(picture[valid], palette()[np.rint(values[valid] * 250).astype(int), :3])
    assert (picture[~valid] == NOTHING).all()


def test_same_input_same_bytes_alone_together_and_in_parallel(tmp_path):
    for out, options in (
        ("one", ("--species", "all")),
        ("two", ("--species", "all", "--workers", 2)),
        ("three", ("--species", "Quercus lobata")),
    ):
        assert render(*options, "--out", tmp_path / out) == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")
    alone = files(tmp_path / "three")
    assert alone["california/quercus-lobata.tif"] == files(tmp_path / "one")["california/quercus-lobata.tif"]


def test_scores_do_not_depend_on_the_species_asked_for_together():
    rng = np.random.default_rng(0)
    catalog = Catalog.open()
    heads = catalog.heads("california-plants")
    many = replace(
        heads,
        weights=rng.normal(size=(50, 16)).astype("f4"),
        bias=rng.normal(size=50).astype("f4"),
        calibration=np.tile(np.array([1, 0], "f4"), (50, 1)),
    )
    features = rng.normal(size=(5000, 6)).astype("f4")
    everything = score_cells(features, many, range(50))
    for chosen in ([0], [49], [17, 3], list(range(20, 45))):
        np.testing.assert_array_equal(score_cells(features, many, chosen), everything[chosen])
    np.testing.assert_allclose(everything.T / 1e4, many.predict(features), atol=1e-4)


def test_best_heads_are_used_and_named(maps, capsys):
    assert render("--species", "Spinus lawrencei") == 0
    said = json.loads((maps / "california" / "carduelis-lawrencei.json").read_text())["properties"]
    assert (said["geomap:group"], said["geomap:meaning"]) == ("north-america-birds", "probability")
    printed = capsys.readouterr().out
    assert "heads of north-america-birds (probability); world-birds has it, too" in printed


def test_json_has_the_files_and_what_their_items_say(maps, capsys):
    assert render("--species", "Spinus lawrencei", "--species", "wrentit", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert Path(told["folder"]).samefile(maps / "california")
    assert [(one["id"], one["kept"], one["also_in"]) for one in told["maps"]] == [
        ("carduelis-lawrencei", False, ["world-birds"]),
        ("chamaea-fasciata", False, []),
    ]
    for one in told["maps"]:
        item = json.loads(Path(one["file"]).with_suffix(".json").read_text())
        assert one["properties"] == item["properties"]
        assert cog_validate(one["file"], strict=True, quiet=True)[0]
    assert render("--species", "wrentit", "--json") == 0
    assert [one["kept"] for one in json.loads(capsys.readouterr().out)["maps"]] == [True]


def test_finished_maps_are_kept(maps, monkeypatch, capsys):
    assert render("--species", "wrentit") == 0
    before = files(maps)

    def never(*_):
        raise AssertionError("a finished map was made again")

    monkeypatch.setattr(geomap.mapfile, "make_map", never)
    assert render("--species", "wrentit") == 0
    assert "(kept)" in capsys.readouterr().out
    assert files(maps) == before


def test_missing_preview_is_drawn(maps):
    assert render("--species", "wrentit") == 0
    before = files(maps)
    assert render("--species", "wrentit", "--png") == 0
    after = files(maps)
    assert set(after) - set(before) == {"california/chamaea-fasciata.png"}
    assert after["california/chamaea-fasciata.tif"] == before["california/chamaea-fasciata.tif"]
    assert render("--species", "wrentit", "--png", "--out", "fresh") == 0
    assert files(Path("fresh")) == after


def test_stopped_render_goes_on(maps, monkeypatch):
    """Ctrl-C after two maps: they stay, nothing else does; called again, the bytes are those of one go."""
    assert render("--species", "all", "--out", "whole") == 0
    make, made = geomap.mapfile.make_map, []

    def stop(batch, position):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(make(batch, position))
        return made[-1]

    monkeypatch.setattr(geomap.mapfile, "make_map", stop)
    assert render("--species", "all") == 130
    assert len(list((maps / "california").glob("*.tif"))) == 2
    assert len(list((maps / "california").iterdir())) == 4
    monkeypatch.setattr(geomap.mapfile, "make_map", make)
    assert render("--species", "all") == 0
    assert files(maps) == files(Path("whole"))


def test_map_without_its_item_is_made_again(maps):
    assert render("--species", "wrentit") == 0
    before = files(maps)
    (maps / "california" / "chamaea-fasciata.json").unlink()
    assert render("--species", "wrentit") == 0
    assert files(maps) == before


def test_what_a_killed_render_left_is_cleared(maps):
    left = maps / "california" / ".render" / "world-birds-0"
    left.mkdir(parents=True)
    (left / "steps").write_bytes(b"x" * 1000)
    assert render("--species", "wrentit") == 0
    assert not (maps / "california" / ".render").exists()


def test_killed_render_can_be_taken_up(maps):
    """kill -9 in the middle of the maps, for real."""
    program = (
        "import geomap.grid, geomap.mapfile, os, signal, sys\n"
        "from geomap.render import main\n"
        "geomap.grid.NAMED['california'] = (None, 'EPSG:3310', 20_000.0)\n"
        "publish = geomap.mapfile.publish\n"
        "def stop(scratch, out, slug, item):\n"
        "    if slug == 'sequoia-sempervirens': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    publish(scratch, out, slug, item)\n"
        "geomap.mapfile.publish = stop\n"
        "main(['--species', 'all'])\n"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == -9
    assert len(list((maps / "california").glob("*.tif"))) == 2
    assert render("--species", "all") == 0
    assert render("--species", "all", "--out", "whole") == 0
    assert files(maps) == files(Path("whole"))


def test_later_species_join_the_collection(maps):
    assert render("--species", "wrentit") == 0
    assert render("--species", "valley oak") == 0
    collection = json.loads((maps / "california" / "collection.json").read_text())
    assert [link["href"] for link in collection["links"] if link["rel"] == "item"] == [
        "./chamaea-fasciata.json",
        "./quercus-lobata.json",
    ]


def test_part_of_the_grid_is_cut_from_its_field(maps):
    assert render("--species", "valley oak", "--bbox", -120, 36, -118.5, 38, "--resolution", 20_000) == 0
    (folder,) = maps.iterdir()
    with rasterio.open(folder / "quercus-lobata.tif") as source:
        cut, transform = source.read(1), source.transform
    whole = small_california()
    row = round((whole.transform.f - transform.f) / 20_000)
    col = round((transform.c - whole.transform.c) / 20_000)
    expected = oracle("Quercus lobata")[row : row + cut.shape[0], col : col + cut.shape[1]]
    np.testing.assert_allclose(cut, expected, atol=1.01e-4)
    assert (cut != NODATA).sum() > 20


def test_own_field_and_own_heads(bundle, maps):
    heads = shutil.copytree(bundle / "heads" / "world-birds", maps.parent / "mine")
    write_field(maps.parent / "own.zarr", replace(small_california(40_000.0), name="own", unit=8))
    assert render("--species", "all", "--field", "own.zarr", "--heads", heads, "--out", maps) == 0
    assert sorted(path.name for path in (maps / "own").glob("*.tif")) == [
        "aptenodytes-forsteri.tif",
        "spinus-lawrencei.tif",
    ]


@pytest.fixture(scope="module")
def encoding_bundle(tmp_path_factory):
    """A bundle with (untrained) encoders, heads for them, and imagery of the whole world."""
    from geomap.grid import named_grid
    from geomap.sweep import sweep
    from geomap.testing import write_raster
    from train.encoders.pair import random_encoders, save_encoders

    folder = tmp_path_factory.mktemp("encoding")
    save_encoders(random_encoders(seed=0), folder / "encoders")

    def waves(lonlat):
        lon, lat = np.radians(lonlat).T
        return np.stack([127 + 120 * np.sin(k * lon) * np.cos(2 * k * lat) for k in (3, 5, 8)])

    imagery = write_raster(
        folder / "world.tif", "EPSG:4326", (-180, -90, 180, 90), (360, 720), 3, waves, dtype="uint8"
    )
    grid = replace(named_grid("california", 80_000.0), name="coarse")
    field = sweep(folder / "encoders", imagery, grid, folder / "fields" / "coarse.zarr")
    heads = make_heads("world-birds", "suitability", [("Aptenodytes forsteri", "Emperor Penguin", "")], field)
    save_heads(heads, folder / "heads" / "world-birds")
    return folder


def test_area_across_the_antimeridian_is_encoded_from_imagery(encoding_bundle, maps, monkeypatch):
    monkeypatch.setenv("GEOMAP_BUNDLE", str(encoding_bundle))
    area = ("--species", "emperor penguin", "--bbox", 176, -20, -176, -15, "--resolution", 25_000)
    imagery = ("--imagery", encoding_bundle / "world.tif")
    assert render(*area, *imagery) == 0
    (folder,) = (path for path in maps.iterdir() if path.name != ".fields")
    item = json.loads((folder / "aptenodytes-forsteri.json").read_text())
    west, _, east, _ = item["bbox"]
    assert (west, east) == (pytest.approx(176, abs=0.5), pytest.approx(-176, abs=0.5))
    with rasterio.open(folder / "aptenodytes-forsteri.tif") as source:
        fiji = grid_from_bbox(176, -20, -176, -15, 25_000)
        np.testing.assert_array_equal(source.read(1) != NODATA, fiji.land_mask())
        assert fiji.land_mask().sum() > 20
    before = files(maps)
    assert render(*area, *imagery, "--overwrite") == 0  # from the field that was kept
    assert files(maps) == before


def test_imagery_that_cannot_be_used(capsys, maps, encoding_bundle, monkeypatch):
    from geomap.testing import write_raster

    monkeypatch.setenv("GEOMAP_BUNDLE", str(encoding_bundle))
    area = ("--species", "emperor penguin", "--bbox", 176, -20, -176, -15, "--resolution", 25_000)
    bounds = (0, 0, 10, 10)
    rasters = {
        "CRS": write_raster(maps.parent / "bare.tif", None, bounds, (20, 20), 3, lambda xy: xy[:, 0]),
        "land": write_raster(maps.parent / "far.tif", "EPSG:4326", bounds, (20, 20), 3, lambda xy: xy[:, 0]),
        "band": write_raster(maps.parent / "one.tif", "EPSG:4326", bounds, (20, 20), 1, lambda xy: xy[:, 0]),
    }
    for match, path in rasters.items():
        refused(capsys, maps, *area, "--imagery", path, match=match)
    refused(capsys, maps, *area, "--imagery", maps.parent / "none.tif", match="none.tif")


def refused(capsys, maps, *options, match, out=None):
    """The command ends with 2, says what in three lines, and leaves nothing."""
    before = files(maps.parent)
    folders = {path for path in maps.parent.rglob("*") if path.is_dir()}
    capsys.readouterr()
    assert render(*options, "--out", maps if out is None else out) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if line.strip()]) == 3, said
    assert match in " ".join(said), said
    assert files(maps.parent) == before
    assert {path for path in maps.parent.rglob("*") if path.is_dir()} == folders


def test_unknown_species(capsys, maps):
    refused(capsys, maps, "--species", "Querkus lobata", match="Quercus lobata")
    refused(capsys, maps, "--species", "wrentit", "--species", "yeti", match="'yeti'")
    refused(capsys, maps, "--species", "all", "--species", "yeti", match="'yeti'")


def test_unknown_grid_and_nonsense(capsys, maps):
    poppy = ("--species", "california poppy")
    refused(capsys, maps, *poppy, "--grid", "californa", match="california")
    for resolution in (0, -5):
        refused(capsys, maps, *poppy, "--resolution", resolution, match=f"{resolution:g}")
    refused(capsys, maps, *poppy, "--bbox", -140, 30, -139, 31, match="land")
    refused(capsys, maps, *poppy, "--bbox", -120, 36, -118, match="--bbox")
    refused(capsys, maps, *poppy, "--grid", "california", "--bbox", -120, 36, -118, 38, match="one of")
    refused(capsys, maps, *poppy, "--workers", 0, match="workers")
    refused(capsys, maps, match="--species")


def test_grid_that_no_field_has(capsys, maps):
    poppy = ("--species", "california poppy")
    refused(capsys, maps, *poppy, "--grid", "global", match="--imagery")
    refused(
        capsys,
        maps,
        *poppy,
        "--bbox",
        -118,
        36,
        -114,
        39,
        "--resolution",
        20_000,
        "--crs",
        "EPSG:3310",
        match="land cells",
    )
    refused(capsys, maps, *poppy, "--bbox", 170, -25, -170, -10, match="--imagery")


def test_heads_of_another_encoder(capsys, maps, bundle):
    other = replace(load_heads(bundle / "heads" / "world-birds"), encoder_hash="f" * 64)
    save_heads(other, maps.parent / "other")
    refused(capsys, maps, "--species", "all", "--heads", maps.parent / "other", match="encoder")


def test_corrupt_heads(capsys, maps, bundle):
    heads = shutil.copytree(bundle / "heads" / "world-birds", maps.parent / "broken")
    (heads / "card.json").write_text("{")
    refused(capsys, maps, "--species", "all", "--heads", heads, match="broken")
    refused(capsys, maps, "--species", "all", "--heads", "nothing", match="'nothing'")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "unfinished"])
def test_damaged_field(capsys, maps, damage):
    field = write_field(maps.parent / "own.zarr", small_california())
    chunk = max(
        (field.path / "embedding").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0
    )
    if damage == "truncated":
        chunk.write_bytes(chunk.read_bytes()[:-30])
    elif damage == "flipped":
        data = bytearray(chunk.read_bytes())
        data[len(data) // 2] ^= 0xFF
        chunk.write_bytes(data)
    elif damage == "missing":
        chunk.unlink()
    else:
        (field.path / "manifest.json").unlink()
    refused(capsys, maps, "--species", "wrentit", "--field", field.path, match="own.zarr")


def test_field_and_imagery_together(capsys, maps, bundle):
    field = bundle / "fields" / "california.zarr.zip"
    refused(capsys, maps, "--species", "wrentit", "--field", field, "--imagery", "x.tif", match="--imagery")
    refused(capsys, maps, "--species", "wrentit", "--field", maps / "none.zarr", match="does not exist")


def test_existing_output(capsys, maps, bundle):
    assert render("--species", "Lawrence's goldfinch", "--heads", "world-birds", "--out", maps) == 0
    other = ("--species", "spinus lawrencei", "--heads", maps.parent / "other")
    heads = load_heads(bundle / "heads" / "world-birds")
    save_heads(replace(heads, name="world-birds", bias=heads.bias + 1), maps.parent / "other")
    refused(capsys, maps, *other, match="--overwrite")
    before = files(maps)
    assert render(*other, "--out", maps, "--overwrite") == 0
    assert files(maps)["california/spinus-lawrencei.tif"] != before["california/spinus-lawrencei.tif"]


def test_foreign_and_damaged_files_are_not_replaced(capsys, maps):
    folder = maps / "california"
    folder.mkdir(parents=True)
    (folder / "chamaea-fasciata.tif").write_bytes(b"mine")
    refused(capsys, maps, "--species", "wrentit", match="--overwrite")
    (folder / "chamaea-fasciata.tif").unlink()
    (folder / "chamaea-fasciata.json").write_text("[]")
    refused(capsys, maps, "--species", "wrentit", match="no Item")
    assert render("--species", "wrentit", "--overwrite") == 0
    cog = folder / "chamaea-fasciata.tif"
    cog.write_bytes(cog.read_bytes()[:-100])
    refused(capsys, maps, "--species", "wrentit", match="damaged")
    assert render("--species", "wrentit", "--overwrite") == 0


def test_grid_too_large_for_the_disk(capsys, maps, monkeypatch):
    usage = shutil.disk_usage(maps.parent)._replace(free=100_000)
    monkeypatch.setattr(geomap.outputs.shutil, "disk_usage", lambda _: usage)
    refused(capsys, maps, "--species", "all", match="GB")


@pytest.mark.parametrize("limit", [3_000, 9_000, 12_000])
def test_full_disk_half_way(capsys, maps, limit):
    """Files may not grow past `limit` bytes: the scores, the plain map or the COG meet it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        capsys.readouterr()
        assert render("--species", "all") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Found:" in capsys.readouterr().err
    assert not maps.exists()


def test_output_that_cannot_be_written(capsys, maps):
    (maps.parent / "file").write_text("")
    refused(capsys, maps, "--species", "wrentit", out=maps.parent / "file" / "maps", match="--out")
    maps.mkdir()
    (maps / "california").write_text("")
    refused(capsys, maps, "--species", "wrentit", match="--out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(capsys, maps):
    maps.mkdir(mode=0o500)
    refused(capsys, maps, "--species", "wrentit", match="--out")


def test_second_render_of_one_folder_is_refused(capsys, maps):
    with geomap.outputs.workplace(maps, "california"):
        before = files(maps)
        assert render("--species", "wrentit") == 2
        assert "another render" in capsys.readouterr().err
        assert files(maps) == before
    assert not maps.exists()


def test_map_that_fails_its_check_is_not_handed_out(capsys, maps, bundle):
    """Heads that say the same everywhere make a flat map."""
    heads = load_heads(bundle / "heads" / "world-birds")
    flat = replace(heads, weights=np.zeros_like(heads.weights))
    save_heads(flat, maps.parent / "flat")
    refused(
        capsys, maps, "--species", "all", "--heads", maps.parent / "flat", match="in all of its 1022 cells"
    )


def test_scores_that_are_not_finite_are_refused(capsys, maps, bundle):
    heads = load_heads(bundle / "heads" / "world-birds")
    bias = heads.bias.copy()
    bias[1] = np.nan
    save_heads(replace(heads, bias=bias), maps.parent / "nan")
    refused(
        capsys, maps, "--species", "emperor penguin", "--heads", maps.parent / "nan", match="not within 0..1"
    )


def spawned() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if any("spawn_main" in a for a in child.cmdline())]


def test_dead_worker_is_told():
    with pytest.raises(SchedulerError, match="worker process died"), workers_of(2) as workers:
        results = workers(time.sleep, [0.1] * 300)
        next(results)
        for child in spawned():
            child.kill()
        list(results)


def test_this_process_works_beside_the_others():
    where = "(__import__('time').sleep(0.1), __import__('os').getpid())[1]"
    with workers_of(2) as workers:
        seen = list(workers(eval, [where] * 100))
    assert len(seen) == 100 and len(set(seen)) == 2 and os.getpid() in seen


def test_what_work_raises_comes_through_from_any_process():
    for numbers in ([1, 2, 0], [0, 1, 2]):
        with pytest.raises(ZeroDivisionError), workers_of(2) as workers:
            list(workers(partial(divmod, 1), numbers))


@pytest.mark.parametrize("error", [MapError("a", "b", "c"), OutputError("a", "b", "c")])
def test_refusals_come_back_whole_from_workers(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.what, again.found, again.change) == (type(error), "a", "b", "c")


def test_target_reads_what_the_field_holds(bundle):
    from geomap.target import Target, missing_land, offset_in

    field = open_field(bundle / "fields" / "california.zarr.zip")
    part = grid_from_bbox(-120, 36, -118.5, 38, 20_000)
    row, col = offset_in(field.grid, part)
    target = Target(part, field, row, col)
    assert missing_land(target) == (0, 0, int(part.land_mask().sum()))
    values, valid = target.read(Window(1, 2, 5, 4))
    np.testing.assert_array_equal(part.cell_lonlat(), field.grid.cell_lonlat(Window(row, col, *part.shape)))
    np.testing.assert_array_equal(values, field.read(Window(row + 1, col + 2, 5, 4))[0])
    np.testing.assert_array_equal(valid, part.land_mask(Window(1, 2, 5, 4)))
    assert offset_in(field.grid, grid_from_bbox(-120, 36, -118.5, 38, 10_000)) is None
    assert offset_in(field.grid, grid_from_bbox(-100, 36, -98.5, 38, 20_000, "EPSG:3310")) is None


def test_a_box_may_reach_into_the_sea_and_beyond_the_field(bundle, maps, capsys):
    """Land that the field lacks at its rim gets no data, and that is told: outlines differ at coasts."""
    from geomap.target import find_target

    field = open_field(bundle / "fields" / "california.zarr.zip")
    grid = grid_from_bbox(-128, 36.5, -119.9, 40, 20_000, "EPSG:3310")
    target = find_target(grid, FieldOptions(), Catalog.open())
    assert target.col < 0
    assert "land cells of" in target.gap and "they have no data" in target.gap
    everything, valid = target.read(Window(0, 0, *grid.shape))
    rows, cols = np.nonzero(valid)
    inside = Window(target.row + rows.min(), target.col + cols.min(), np.ptp(rows) + 1, np.ptp(cols) + 1)
    values, there = field.read(inside)
    part = (slice(rows.min(), rows.max() + 1), slice(cols.min(), cols.max() + 1))
    np.testing.assert_array_equal(everything[part], values)
    np.testing.assert_array_equal(valid[part], there & grid.land_mask()[part])
    assert valid.sum() > 50 and not everything[~valid & (np.arange(grid.shape[1]) < -target.col)].any()
    west = Window(0, 0, 3, 2)  # wholly outside
    assert not target.read(west)[1].any() and target.read(west)[0].shape == (3, 2, field.dim)
    box = ("--bbox", -128, 36.5, -119.9, 40, "--resolution", 20_000, "--crs", "EPSG:3310")
    assert render("--species", "california poppy", *box) == 0
    assert "land cells of" in capsys.readouterr().err
    (path,) = maps.rglob("*.tif")
    np.testing.assert_array_equal(values_of(path) != NODATA, valid)
