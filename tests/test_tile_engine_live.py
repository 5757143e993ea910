"""Live maps against rendered ones, the adapter's output on disk, and the library that finds both."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from engine import tile_at, write_map

from geomap import render
from geomap.catalog import Catalog
from geomap.colour import CLEAR
from geomap.errors import FieldError, GridError, HeadsError, MapError, NameNotFoundError
from geomap.grid import Window, named_grid
from geomap.heads import load_heads, save_heads
from geomap.testing_bundle import GROUPS, make_bundle, small_california
from tiles import paint
from tiles.blockfile import PAGE, RECORD, lift
from tiles.blocks import BlockStore, FieldSource
from tiles.library import Library, cache_folder
from tiles.live import LiveMap
from tiles.lru import Lru
from tiles.maps import values
from tiles.pyramid import level_shape

POPPY = "eschscholzia-californica"


def fitted_on(bundle: Path, grid: str) -> Path:
    """Let the heads of a bundle say which grid they were fitted on."""
    for folder in sorted((bundle / "heads").iterdir()):
        heads = load_heads(folder)
        save_heads(replace(heads, card={**heads.card, "grid": grid}), folder, overwrite=True)
    return bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Heads that do not tell their area, and two fields, so that every group is offered on both."""
    world = replace(named_grid("global", 200_000.0), name="global")
    return fitted_on(make_bundle(tmp_path_factory.mktemp("b") / "bundle", [small_california(), world]), "")


@pytest.fixture(scope="module")
def rendered(bundle, tmp_path_factory):
    """Maps of one group, as `geomap render` writes them."""
    out = tmp_path_factory.mktemp("maps")
    os.environ["GEOMAP_BUNDLE"] = str(bundle)
    try:
        grid = ["--field", str(bundle / "fields" / "california.zarr.zip")]
        chosen = ["--species", "all", "--heads", "california-plants", *grid]
        assert render.main([*chosen, "--out", str(out)]) == 0
    finally:
        del os.environ["GEOMAP_BUNDLE"]
    return out


@pytest.fixture
def library(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMAP_BUNDLE", str(bundle))
    return Library.open(cache_dir=tmp_path / "cache")


def whole(chosen, level=0):
    return chosen.steps(Window(0, 0, *level_shape(chosen.shape, level)), level)


def levels_of(chosen, tile):
    return paint.tile_levels(chosen, tile.tms, tile.z, tile.x, tile.y, 0, tile.size)


def test_live_maps_are_the_rendered_ones(library, rendered):
    for species in (POPPY, "quercus-lobata", "sequoia-sempervirens"):
        live = library.find(species, "california")
        stored = Library.open(maps=(rendered,), bundle=False).find(species, "california")
        assert not live.about.stored and stored.about.stored
        for level in (0, 1, 3):
            a, b = whole(live, level), whole(stored, level)
            assert ((a == 65535) == (b == 65535)).all()
            assert np.abs(a.astype(int) - b).max() <= 40  # 1/250; half of it is never reached
            assert (a != 65535).any()
        for z in (4, 6, 8):
            tile = tile_at("WebMercatorQuad", z, -120.0, 37.0)
            a, b = levels_of(live, tile), levels_of(stored, tile)
            assert ((a == CLEAR) == (b == CLEAR)).all() and np.abs(a.astype(int) - b).max() <= 1


def test_only_the_blocks_that_a_tile_needs_are_computed(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMAP_BUNDLE", str(bundle))
    monkeypatch.setattr("tiles.blocks.SIDE", 8)
    monkeypatch.setattr("tiles.blockfile.SIDE", 8)
    monkeypatch.setattr("tiles.live.SIDE", 8)
    library = Library.open(cache_dir=tmp_path)
    live = library.find(POPPY, "california")
    assert isinstance(live, LiveMap)
    store = live.group.store()
    live.steps(Window(9, 9, 3, 3))
    assert store.done() == 1
    live.steps(Window(7, 9, 2, 3))
    assert store.done() == 2
    whole(live, 1)
    assert store.done() == store.rows * store.cols
    assert not any("lawrencei" in str(path) for path in tmp_path.iterdir())
    other = library.find("quercus-lobata", "california")
    monkeypatch.setattr(FieldSource, "read", None)  # everything is there for the next species
    assert (whole(other) != 65535).any()


def test_a_second_process_finds_the_blocks(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMAP_BUNDLE", str(bundle))
    first = whole(Library.open(cache_dir=tmp_path).find(POPPY, "california"))
    monkeypatch.setattr(FieldSource, "read", None)
    again = Library.open(cache_dir=tmp_path)
    assert (whole(again.find(POPPY, "california")) == first).all()


@pytest.mark.parametrize("damage", ["block", "record", "header", "short", "foreign"])
def test_damaged_blocks_and_foreign_files_are_made_anew(bundle, tmp_path, monkeypatch, caplog, damage):
    monkeypatch.setenv("GEOMAP_BUNDLE", str(bundle))
    first = whole(Library.open(cache_dir=tmp_path).find(POPPY, "california"))
    (path,) = tmp_path.glob("*.z")
    data = bytearray(path.read_bytes())
    slots = PAGE + PAGE
    if damage == "block":
        data[slots + 700 : slots + 720] = b"\1" * 20
    elif damage == "record":
        data[PAGE : PAGE + RECORD.itemsize] = b"\xff" * RECORD.itemsize
    elif damage == "header":
        data[:4] = b"\0" * 4
    path.write_bytes(
        bytes(data[:9000]) if damage == "short" else b"x" if damage == "foreign" else bytes(data)
    )
    with caplog.at_level(logging.WARNING, logger="tiles"):
        again = whole(Library.open(cache_dir=tmp_path).find(POPPY, "california"))
    assert (again == first).all()
    assert damage == "record" or caplog.records
    monkeypatch.setattr(FieldSource, "read", None)
    assert (whole(Library.open(cache_dir=tmp_path).find(POPPY, "california")) == first).all()


def test_a_folder_that_cannot_be_written_costs_a_warning(bundle, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("GEOMAP_BUNDLE", str(bundle))
    (tmp_path / "file").write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="tiles"):
        blocked = whole(Library.open(cache_dir=tmp_path / "file" / "cache").find(POPPY, "california"))
    assert "stay in memory" in caplog.text
    assert (blocked == whole(Library.open(cache_dir=tmp_path / "c").find(POPPY, "california"))).all()


def test_a_full_disk_costs_a_warning(library, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tiles.blockfile._put", full)
    with caplog.at_level(logging.WARNING, logger="tiles"):
        first = whole(library.find(POPPY, "california"))
    monkeypatch.undo()
    assert "stay in memory" in caplog.text
    assert (first != 65535).any()


def test_float16_of_the_adapter_is_read_without_conversion(bundle):
    heads = load_heads(bundle / "heads" / "california-plants")
    field = Catalog.open(bundle=bundle).field("california")
    store = BlockStore(heads, FieldSource(field), "x", None, Lru(1 << 24, lambda block: block.bytes))
    block = store.blocks([0])[0]
    features, valid = field.read(store.window(0))
    z = heads.transform(features[valid])
    kept = np.zeros_like(z)
    kept[:, block.columns] = block.z.view(np.float16)
    np.testing.assert_allclose(kept, z, rtol=6e-4, atol=7e-5)
    np.testing.assert_allclose(
        block.logits(lift(heads.weights[1])), kept @ heads.weights[1], rtol=1e-5, atol=1e-6
    )


def test_adapters_that_are_not_finite_are_refused(bundle):
    heads = load_heads(bundle / "heads" / "california-plants")
    field = Catalog.open(bundle=bundle).field("california")
    heads.adapter.members[0][1][0] = np.nan
    store = BlockStore(heads, FieldSource(field), "x", None, Lru(1 << 24, lambda block: block.bytes))
    with pytest.raises(MapError):
        store.blocks([0])


def test_grids_too_large_to_hold_are_decimated(bundle, library, monkeypatch):
    held = library.find(POPPY, "california")
    expected = whole(held)
    monkeypatch.setattr("tiles.live.LARGEST", 100)
    live = library.find(POPPY, "california")
    assert (whole(live) == expected).all()
    assert (live.steps(Window(20, 10, 7, 9)) == expected[20:27, 10:19]).all()
    height, width = live.shape
    for level in (1, 2):
        rows, cols = level_shape(live.shape, level)
        middle = np.ix_(
            ((np.arange(rows) + 0.5) * height / rows).astype(int),
            ((np.arange(cols) + 0.5) * width / cols).astype(int),
        )
        assert (whole(live, level) == expected[middle]).all()


def test_warming_computes_all_blocks_and_can_be_stopped(library):
    told = []
    warmer = library.warm("california-plants", "california", lambda done, total: told.append((done, total)))
    warmer.join(30)
    store = library.find(POPPY, "california").group.store()
    assert store.done() == store.rows * store.cols
    assert told[-1] == (warmer.total, warmer.total) and len(told) == warmer.total
    stopped = library.warm()
    stopped.stop()
    assert not stopped.is_alive() and stopped.done <= stopped.total


def test_sixteen_threads_draw_what_one_does(library, rendered):
    tiles = [
        tile_at("WebMercatorQuad", z, lon, lat) for z in (5, 7) for lon in (-122, -119) for lat in (35, 39)
    ]
    names = [about.id for about in library.all() if about.grid == "california"]
    both = (Library.open(cache_dir=library._folder / "other"), Library.open(maps=(rendered,), bundle=False))
    for shared in both:
        jobs = [(n, t) for n in names for t in tiles if shared is both[0] or n == POPPY]
        serial = [levels_of(library.find(n, "california"), t) for n, t in jobs]
        with ThreadPoolExecutor(16) as pool:
            maps = [shared.find(n, "california") for n, _ in jobs]
            found = list(pool.map(levels_of, maps, [t for _, t in jobs]))
        for mine, theirs in zip(found, serial, strict=True):
            assert np.abs(mine.astype(int) - theirs).max() <= 1


def test_the_library_lists_every_group_on_every_grid_that_fits(library):
    everything = library.all()
    assert len(everything) == 2 * sum(len(species) for _, species in GROUPS.values())
    assert everything == library.all()
    assert [group.name for group in library.groups()] == sorted(GROUPS)
    plants = library.groups()[0]
    assert (plants.species, plants.grids, plants.meaning) == (3, ("california", "global"), "suitability")
    assert plants.credit == "Made up for california-plants" and plants.licence == "CC-BY-NC-4.0"
    california, world = library.grids()
    assert (california.name, california.crs, california.resolution) == ("california", "EPSG:3310", 20_000.0)
    assert world.bbox == (-180, -90, 180, 90) or world.bbox[0] == -180
    library.ready()


def test_finding_a_map(library):
    poppy = library.find(POPPY)
    assert poppy is library.find(POPPY) is library.find("California Poppy") is library.find(POPPY.upper())
    assert poppy.about.grid == "california" and poppy.about.thresholds["p10"].value > 0
    assert library.find(POPPY, "global").about.grid == "global"
    goldfinch = library.find("spinus-lawrencei")  # two groups have it, under two names
    assert goldfinch.about.meaning == "probability" and goldfinch.about.id == "carduelis-lawrencei"
    assert library.find("carduelis-lawrencei", group="world-birds").about.scientific == "Spinus lawrencei"
    assert library.find("quercus-hindsii").about.id == "quercus-lobata"
    with pytest.raises(NameNotFoundError, match="eschscholzia-californica"):
        library.find("eschscholzia-californika")
    with pytest.raises(GridError, match="grid=california"):
        library.find(POPPY, "mars")
    with pytest.raises(HeadsError, match="california-plants"):
        library.find(POPPY, group="world-birds")


def test_versions_change_with_heads_and_field(library, bundle, tmp_path):
    poppy, world = library.find(POPPY), library.find(POPPY, "global")
    assert len(poppy.about.version) == 12 and poppy.about.version != world.about.version
    heads = load_heads(bundle / "heads" / "california-plants")
    save_heads(replace(heads, bias=heads.bias + np.float32(0.01)), tmp_path / "own")
    other = Library.open(heads=(tmp_path / "own",), cache_dir=tmp_path / "c")
    assert other.find(POPPY).about.version != poppy.about.version
    only = Library.open(heads=("world-birds",), bundle=False, cache_dir=tmp_path / "c")
    assert {about.group for about in only.all()} == {"world-birds"}


def test_files_win_over_live_maps_of_the_same_group(rendered, library, tmp_path):
    both = Library.open(maps=(str(rendered),), cache_dir=tmp_path / "c")
    assert len(both.all()) == len(library.all())
    poppy = both.find(POPPY)
    assert poppy.about.stored and both.item(POPPY).item["id"] == POPPY
    live = library.find(POPPY).about
    same = ("id", "scientific", "vernacular", "group", "grid", "meaning", "records", "n_test", "thresholds",
            "default_threshold", "bands", "credit", "synonyms")  # fmt: skip
    for name in same:
        assert getattr(poppy.about, name) == getattr(live, name), name
    assert not both.find(POPPY, "global").about.stored
    assert both.find(POPPY).bbox == pytest.approx(library.find(POPPY).bbox)


def test_a_places_species_are_ranked_by_value_over_threshold(library):
    found = library.at(-120.0, 37.0)
    assert {about.grid for about, _ in found} == {"california"} and len(found) == 6  # one bird has two names
    for about, value in found:
        chosen = library.find(about.id, "california", about.group)
        assert paint.point(chosen, -120.0, 37.0) == [pytest.approx(value, abs=2e-4)]
    above = [value >= about.thresholds[about.default_threshold].value for about, value in found]
    assert above == sorted(above, reverse=True)
    assert len(library.at(-120.0, 37.0, limit=2)) == 2
    assert {about.group for about, _ in library.at(-120.0, 37.0, group="world-birds")} == {"world-birds"}
    assert {about.grid for about, _ in library.at(15.0, 50.0)} == {"global"}
    assert library.at(-150.0, 0.0) == []
    with pytest.raises(GridError):
        library.at(-120.0, 37.0, grid="mars")


def test_new_changed_and_vanished_files_are_seen(rendered, tmp_path, monkeypatch):
    folder = tmp_path / "california"
    folder.mkdir()
    library = Library.open(maps=(tmp_path,), bundle=False)
    assert library.all() == []
    with pytest.raises(MapError):
        library.ready()

    def publish(*slugs, value=0.5):
        for slug in slugs:
            write_map(tmp_path / "new.tif", values=np.full((40, 50), value, np.float32))
            (tmp_path / "new.tif").replace(folder / f"{slug}.tif")
            item = json.loads((rendered / "california" / f"{POPPY}.json").read_text()) | {"id": slug}
            item["properties"]["geomap:species"] = slug.replace("-", " ").capitalize()
            (folder / f"{slug}.json").write_text(json.dumps(item))
        links = [{"rel": "item", "href": f"./{slug}.json", "title": slug} for slug in slugs]
        (folder / "collection.json").write_text(json.dumps({"links": links}))

    publish("aquila-alba")
    library.refresh()
    (first,) = library.all()
    assert whole(library.find("aquila-alba")).max() == 5000
    library.refresh()
    assert library.all()[0] is first
    publish("aquila-alba", "aquila-nova", value=0.25)
    library.refresh()
    assert {about.id for about in library.all()} == {"aquila-alba", "aquila-nova"}
    assert library.find("aquila-alba").about.version != first.version
    assert whole(library.find("aquila-alba")).max() == 2500
    library.ready()
    publish("aquila-nova")
    library.refresh()
    with pytest.raises(NameNotFoundError):
        library.find("aquila-alba")


def test_unsafe_links_and_symlinks_are_not_served(rendered, tmp_path, caplog):
    folder = tmp_path / "maps" / "california"
    folder.mkdir(parents=True)
    outside = write_map(tmp_path / "secret.tif")
    (folder / "evil.tif").symlink_to(outside)
    (folder / "evil.json").write_text("{}")
    (folder / "half-written.tif").write_bytes(b"II*\0")
    hrefs = ["../../secret.json", "/etc/secret.json", "a/b.json", None, "./evil.json"]
    links = [{"rel": "item", "href": href} for href in hrefs]
    (folder / "collection.json").write_text(json.dumps({"links": links}))
    with caplog.at_level(logging.WARNING, logger="tiles.shelf"):
        assert Library.open(maps=(tmp_path / "maps",), bundle=False).all() == []
    assert "leads out of its folder" in caplog.text and "../../secret.json" in caplog.text
    (folder / "collection.json").write_text("{")
    with pytest.raises(MapError):
        Library.open(maps=(tmp_path / "maps",), bundle=False).all()
    with pytest.raises(MapError):
        Library.open(maps=(tmp_path / "none",))


def test_maps_of_photos_are_found_without_an_item(tmp_path):
    (tmp_path / "california").mkdir()
    path = write_map(tmp_path / "california" / "photos.tif", values=np.full((40, 50), 0.3, np.float32))
    library = Library.open(maps=(tmp_path,), bundle=False)
    assert library.all() == []  # a file that says nothing is not ours
    with rasterio.open(path, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as target:
        target.update_tags(GEOMAP_PHOTOS="2", GEOMAP_MODEL="crisp 123", GEOMAP_SPECIES="")
        target.descriptions, target.units = ("habitat similarity",), ("cosine",)
    os.utime(tmp_path / "california")
    library.refresh()
    (about,) = library.all()
    assert (about.id, about.group, about.meaning, about.stored) == ("photos", "", "similarity", True)
    assert about.bands[0].name == "habitat-similarity" and about.credit == {"model": "crisp 123"}
    assert paint.point(library.find("photos"), -120.0, 37.0)[0] is not None


def test_a_sweep_that_replaces_maps_tears_no_tile(rendered, tmp_path):
    folder = tmp_path / "maps" / "california"
    folder.mkdir(parents=True)
    item = (rendered / "california" / f"{POPPY}.json").read_text()
    (folder / f"{POPPY}.json").write_text(item)
    links = [{"rel": "item", "href": f"./{POPPY}.json"}]
    (folder / "collection.json").write_text(json.dumps({"links": links}))
    for k, value in enumerate((0.2, 0.8)):
        write_map(tmp_path / f"{k}.tif", values=np.full((150, 120), value, np.float32))
    data = [(tmp_path / f"{k}.tif").read_bytes() for k in (0, 1)]

    def publish(k):
        (folder / ".new").write_bytes(data[k % 2])
        (folder / ".new").replace(folder / f"{POPPY}.tif")

    publish(0)
    library = Library.open(maps=(tmp_path / "maps",), bundle=False)
    stop, torn, seen = threading.Event(), [], set()

    def read():
        tile = tile_at("WebMercatorQuad", 6, -119.0, 37.0)
        while not stop.is_set():
            found = set(np.unique(levels_of(library.find(POPPY), tile)).tolist()) - {CLEAR}
            seen.update(found)
            if len(found) != 1:
                torn.append(found)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    ends = time.monotonic() + 20
    for k in range(1000):
        publish(k)
        library.refresh()
        time.sleep(0.01)
        if (k > 40 and seen == {50, 200}) or time.monotonic() > ends:
            break
    stop.set()
    for reader in readers:
        reader.join()
    assert torn == [] and seen == {50, 200}


def test_damaged_fields_are_field_errors(bundle, tmp_path, monkeypatch, caplog):
    copy = tmp_path / "bundle"
    subprocess.run(["cp", "-r", str(bundle), str(copy)], check=True)
    (copy / "fields" / "california.zarr.zip").write_bytes(b"PK")
    monkeypatch.setenv("GEOMAP_BUNDLE", str(copy))
    library = Library.open(cache_dir=tmp_path / "c")
    with caplog.at_level(logging.ERROR, logger="tiles.library"):
        assert {about.grid for about in library.all()} == {"global"}
    assert "california" in caplog.text
    with pytest.raises(FieldError):
        library.find(POPPY, "california")
    with pytest.raises(FieldError):
        library.ready()


def test_the_cache_folder_is_that_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "geomap" / "tiles"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "geomap" / "tiles"


def test_importing_the_library_loads_neither_torch_nor_a_cluster():
    code = (
        "import sys, tiles.library, tiles.zonal;"
        "print(*sorted({'torch', 'timm', 'dask.array', 'distributed', 'geopandas'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.strip() == ""


def test_poppies_of_the_shipped_bundle_are_on_the_coast_and_not_in_the_sea(tmp_path, monkeypatch):
    monkeypatch.delenv("GEOMAP_BUNDLE", raising=False)
    poppy = Library.open(cache_dir=tmp_path).find(POPPY, "california")
    coast = levels_of(poppy, tile_at("WebMercatorQuad", 11, -121.9, 36.9))
    sea = levels_of(poppy, tile_at("WebMercatorQuad", 11, -124.5, 36.0))
    assert (coast != CLEAR).mean() > 0.2 and coast[coast != CLEAR].max() > 50
    assert (sea == CLEAR).all()
    (value,) = paint.point(poppy, -122.42, 37.77)
    assert 0 <= value <= 1 and paint.point(poppy, -123.2, 37.2) == [None]
    assert values(poppy.steps(Window(0, 0, 1, 1)), poppy.about.bands[0]).shape == (1, 1)


def test_live_maps_open_on_the_grid_of_their_records_and_are_not_offered_beyond_it(tmp_path, monkeypatch):
    world = replace(named_grid("global", 500_000), name="global")
    bundle = make_bundle(tmp_path / "bundle", [small_california(), world])
    monkeypatch.setenv("GEOMAP_BUNDLE", str(bundle))
    fitted_on(bundle, "california")
    library = Library.open(cache_dir=tmp_path / "cache")
    assert {about.grid for about in library.all()} == {"california"}
    with pytest.raises(GridError, match="no map of it on grid 'global'"):
        library.find(POPPY, "global")
    fitted_on(bundle, "global")
    library = Library.open(cache_dir=tmp_path / "cache")
    assert {about.grid for about in library.all()} == {"california", "global"}
    assert library.find(POPPY).about.grid == "global" and library.find(POPPY).about.home
    assert not library.find(POPPY, "california").about.home


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives threads a priority")
def test_computing_ahead_yields_to_requests(library):
    seen = []
    before = own_priority()
    library.warm("california-plants", "california", lambda *_: seen.append(own_priority())).join()
    assert set(seen) == {10} and own_priority() == before < 10


def own_priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
