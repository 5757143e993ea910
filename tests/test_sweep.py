"""The sweep: the same bytes however it is cut, run, stopped or taken up again; and what it refuses."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from distributed import LocalCluster
from odc.geo.geobox import GeoBox

import geomap.fieldstore
import geomap.sweep
import geomap.sweepstore
import geomap.tasks
from geomap.encode import encode_unit
from geomap.errors import FieldError, GridError, ImageryError, OutputError, SchedulerError
from geomap.field import open_field, quantise
from geomap.fieldstore import MANIFEST, PROGRESS
from geomap.grid import Grid
from geomap.imagery import open_imagery
from geomap.lattice import lattice_crs
from geomap.sweep import Progress, sweep
from geomap.sweepstore import unit_counts, unit_window
from geomap.testing import write_raster
from train.encoders.pair import load_encoders, random_encoders, save_encoders
from train.errors import CheckpointError

UNIT = 16


def grid_of(shape=(60, 70), resolution=1000, unit=UNIT, left=100_000, top=-390_000) -> Grid:
    """Cells around Los Angeles: mountains, a coast and the sea."""
    return Grid("coast", GeoBox(shape, Affine(resolution, 0, left, 0, -resolution, top), "EPSG:3310"), unit)


GRID = grid_of()
ENCODERS = random_encoders(seed=3)
BOUNDS = (118_000, -480_000, 200_000, -370_000)  # of the imagery: the western edge of the grid has none
ELSEWHERE = (-900_000, 900_000, -800_000, 1_000_000)


def paint(lonlat):
    lon, lat = lonlat.T
    waves = [np.sin(9 * (k + 1) * lat + 3 * k) * np.cos(11 * lon + k) for k in range(3)]
    return 110 + 50 * np.stack(waves)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with encoders, imagery of all but the western edge, and the field they give undisturbed."""
    folder = tmp_path_factory.mktemp("made")
    save_encoders(ENCODERS, folder / "encoders")
    save_encoders(random_encoders(seed=4), folder / "others")
    write_raster(folder / "imagery.tif", "EPSG:3310", BOUNDS, (220, 164), 3, paint, nodata=0)
    write_raster(folder / "two_bands.tif", "EPSG:3310", BOUNDS, (22, 17), 2, np.ones((2, 22, 17)))
    write_raster(folder / "elsewhere.tif", "EPSG:3310", ELSEWHERE, (22, 17), 3, np.ones((3, 22, 17)))
    run(folder, folder / "whole.zarr")
    return folder


@pytest.fixture(scope="module")
def scheduler():
    """Address of a scheduler with two workers, for the tests that need any."""
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


def run(made: Path, out: Path, grid: Grid = GRID, **options):
    return sweep(made / "encoders", made / "imagery.tif", grid, out, **options)


def digest(store: Path) -> dict[str, str]:
    """File name -> sha256 of every file in a folder."""
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_field_is_the_encoding_of_its_units(made):
    field = open_field(made / "whole.zarr")
    encoders, source = load_encoders(made / "encoders"), open_imagery(made / "imagery.tif")
    assert (field.encoder_hash, field.imagery_id) == (encoders.hash, source.id)
    assert field.grid == GRID and field.lattice == lattice_crs(GRID).to_wkt()
    land = np.zeros(GRID.shape, bool)
    for window in GRID.units():
        embedding, valid = encode_unit(encoders, source, GRID, window)
        values, got_valid = field.read(window)
        np.testing.assert_array_equal(got_valid, valid)
        np.testing.assert_array_equal(values, quantise(embedding, field.scale) * field.scale)
        np.testing.assert_allclose(values, embedding, atol=field.scale.max() / 2 + 1e-6)
        part = np.s_[window.row : window.row + window.height, window.col : window.col + window.width]
        land[part] = GRID.land_mask(window)
    assert field.land_cells == land.sum()
    assert 0.3 * land.sum() < field.valid_cells < land.sum()  # the west has no imagery


def test_sea_and_places_without_imagery_are_not_valid(made):
    field = open_field(made / "whole.zarr")
    values, valid = field.read(GRID.whole)
    assert not valid[~GRID.land_mask()].any()
    assert not valid[:, :17].any()
    assert not values[~valid].any()
    assert sum(1 for _ in field.blocks(stored=True)) < sum(1 for _ in field.blocks())


def test_nothing_but_the_field_is_left(made):
    assert not (made / "whole.zarr" / PROGRESS).exists()
    manifest = json.loads((made / "whole.zarr" / MANIFEST).read_text())
    assert sorted([*manifest["files"], MANIFEST]) == list(digest(made / "whole.zarr"))
    open_field(made / "whole.zarr").verify()


@pytest.mark.parametrize("chunk", [1, 17, 40, 1000])
def test_same_bytes_for_any_task_size(made, tmp_path, chunk):
    run(made, tmp_path / "out.zarr", chunk=chunk)
    assert digest(tmp_path / "out.zarr") == digest(made / "whole.zarr")


@pytest.mark.parametrize("workers", [1, 2])
def test_same_bytes_for_any_number_of_workers(made, tmp_path, workers):
    run(made, tmp_path / "out.zarr", workers=workers)
    assert digest(tmp_path / "out.zarr") == digest(made / "whole.zarr")


@pytest.mark.parametrize("chunk", [None, 33])
def test_same_bytes_on_an_existing_scheduler(made, tmp_path, monkeypatch, scheduler, chunk):
    monkeypatch.chdir(made)
    sweep("encoders", "imagery.tif", GRID, tmp_path / "out.zarr", scheduler=scheduler, chunk=chunk)
    assert digest(tmp_path / "out.zarr") == digest(made / "whole.zarr")


def test_tasks_are_small(made):
    import cloudpickle

    job, _ = geomap.sweep._plan(made / "encoders", made / "imagery.tif", GRID, made / "x.zarr", "")
    tasks = list(geomap.sweep._tasks(GRID, {}, chunk=2 * UNIT))
    assert len(cloudpickle.dumps((partial(geomap.sweep.encode_task, job), tasks[0]))) < 5000
    assert [len(task) for task in tasks] == [4, 4, 2, 4, 4, 2]
    assert len({unit for task in tasks for unit in task}) == np.prod(unit_counts(GRID)) == 20


def test_encoders_and_imagery_are_loaded_once_per_process(made, tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(geomap.sweep, "_LOADED", {})
    monkeypatch.setattr(
        geomap.sweep, "load_sweep_encoders", lambda path, *_, **__: loads.append(path) or load_encoders(path)
    )
    run(made, tmp_path / "out.zarr")
    assert len(loads) == 1  # for the plan and all twenty units


def test_imagery_that_changes_under_the_sweep(made, tmp_path, monkeypatch):
    monkeypatch.setattr(geomap.sweep, "_LOADED", {})
    job, _ = geomap.sweep._plan(made / "encoders", made / "imagery.tif", GRID, tmp_path / "x.zarr", "")
    other = geomap.sweep.Job(**{**vars(job), "imagery_id": "another"})
    geomap.sweep._LOADED.clear()  # as in another process
    with pytest.raises(FieldError, match="has changed"):
        geomap.sweep.encode_task(other, ((0, 0),))


def test_progress_adds_up(made, tmp_path):
    seen: list[Progress] = []
    field = run(made, tmp_path / "out.zarr", progress=seen.append)
    assert seen[0] == Progress(0, 4200, 0)
    assert seen[-1] == Progress(4200, 4200, field.land_cells)
    assert len(seen) == 21


# Stopping and taking up again


class Stop(Exception):
    """Stands for whatever ends a sweep in this process."""


def stop_after(n: int, error: BaseException):
    """A progress callback that ends the sweep after `n` tasks."""
    seen = []

    def progress(state: Progress) -> None:
        seen.append(state)
        if len(seen) > n:
            raise error

    return progress


@pytest.fixture
def half(made, tmp_path) -> Path:
    """A store that was stopped after nine of twenty units."""
    with pytest.raises(Stop):
        run(made, tmp_path / "half.zarr", progress=stop_after(9, Stop()))
    assert len(list((tmp_path / "half.zarr" / PROGRESS / "done").iterdir())) == 9
    return tmp_path / "half.zarr"


@pytest.mark.parametrize("on", ["no cluster", "a cluster"])
def test_resume_gives_the_same_bytes(made, half, scheduler, on):
    seen: list[Progress] = []
    address = scheduler if on == "a cluster" else None
    run(made, half, resume=True, scheduler=address, progress=seen.append)
    assert digest(half) == digest(made / "whole.zarr")
    assert seen[0].done >= 9 * 16 * 6  # what was done is not done again
    assert len(seen) == 12


def test_resume_does_damaged_units_again(made, half):
    chunk = next((half / "embedding/c").rglob("0"), None)
    chunks = sorted(path for path in (half / "embedding/c").rglob("*") if path.is_file())
    assert chunk is not None and len(chunks) >= 2
    chunks[0].write_bytes(chunks[0].read_bytes()[:-5])
    chunks[1].unlink()
    run(made, half, resume=True)
    assert digest(half) == digest(made / "whole.zarr")


def test_resume_clears_passing_files(made, half):
    (half / "embedding/c/0.partial").write_bytes(b"half a chunk")
    run(made, half, resume=True)
    assert digest(half) == digest(made / "whole.zarr")


def test_resume_of_nothing_starts(made, tmp_path):
    run(made, tmp_path / "new.zarr", resume=True)
    assert digest(tmp_path / "new.zarr") == digest(made / "whole.zarr")


def test_resume_after_a_stop_before_the_metadata(made, tmp_path):
    (tmp_path / "new.zarr" / PROGRESS / "done").mkdir(parents=True)
    run(made, tmp_path / "new.zarr", resume=True)
    assert digest(tmp_path / "new.zarr") == digest(made / "whole.zarr")


def test_resume_of_a_finished_field_leaves_it(made, tmp_path):
    store = shutil.copytree(made / "whole.zarr", tmp_path / "done.zarr")
    (store / PROGRESS / "done").mkdir(parents=True)  # stopped between the manifest and the clearing up
    run(made, store, resume=True, progress=stop_after(0, Stop()))
    assert digest(store) == digest(made / "whole.zarr")
    assert not (store / PROGRESS).exists()


def test_unfinished_store_is_refused_without_resume(made, half):
    before = digest(half)
    with pytest.raises(OutputError, match="unfinished") as caught:
        run(made, half)
    assert "--resume" in caught.value.change and "--overwrite" in caught.value.change
    assert digest(half) == before


def test_finished_field_is_refused_without_overwrite(made, tmp_path):
    store = shutil.copytree(made / "whole.zarr", tmp_path / "done.zarr")
    with pytest.raises(OutputError, match="finished field") as caught:
        run(made, store)
    assert "--overwrite" in caught.value.change
    assert digest(store) == digest(made / "whole.zarr")


@pytest.mark.parametrize("state", ["half", "done"])
def test_overwrite_starts_again(made, half, state):
    if state == "done":
        run(made, half, resume=True)
    field = run(made, half, grid=grid_of((20, 20)), overwrite=True)
    assert field.grid.shape == (20, 20)
    run(made, half.with_name("fresh.zarr"), grid=grid_of((20, 20)))
    assert digest(half) == digest(half.with_name("fresh.zarr"))


def test_resume_and_overwrite_together(made, half):
    with pytest.raises(OutputError, match="both"):
        run(made, half, resume=True, overwrite=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoders_path": "others"}, "encoder_hash"),
        ({"imagery_uri": "other.tif"}, "imagery_id"),
        ({"grid": grid_of((60, 71))}, "grid"),
        ({"credit": "somebody"}, "credit"),
    ],
)
@pytest.mark.parametrize("state", ["half", "done"])
def test_resume_with_something_else(made, half, change, named, state):
    if state == "done":
        run(made, half, resume=True)
    before = digest(half)
    write_raster(made / "other.tif", "EPSG:3310", BOUNDS, (220, 164), 3, lambda at: paint(at) + 1, nodata=0)
    options = {"encoders_path": "encoders", "imagery_uri": "imagery.tif", "grid": GRID, "credit": ""} | change
    paths = {key: made / options.pop(key) for key in ("encoders_path", "imagery_uri")}
    with pytest.raises(FieldError, match=named) as caught:
        sweep(**paths, **options, out=half, resume=True)
    assert "--overwrite" in caught.value.change
    assert digest(half) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_field_is_never_touched(made, tmp_path, kind, overwrite):
    out = tmp_path / "precious"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.txt").write_text("years of work")
    else:
        out.write_text("years of work")
    with pytest.raises(OutputError, match="is no field"):
        run(made, out, overwrite=overwrite)
    assert (out / "thesis.txt" if kind == "folder" else out).read_text() == "years of work"


def test_two_sweeps_never_write_one_store(made, half):
    with geomap.sweepstore.alone(half), pytest.raises(OutputError, match="another sweep"):
        run(made, half, resume=True)
    run(made, half, resume=True)
    assert digest(half) == digest(made / "whole.zarr")


# Refusals before a byte is written


@pytest.mark.parametrize(
    ("encoders", "imagery", "error"),
    [
        ("nowhere", "imagery.tif", CheckpointError),
        ("encoders", "nowhere.tif", ImageryError),
        ("encoders", "two_bands.tif", ImageryError),
        ("encoders", "elsewhere.tif", ImageryError),
    ],
)
def test_bad_input_leaves_nothing(made, tmp_path, encoders, imagery, error):
    with pytest.raises(error):
        sweep(made / encoders, made / imagery, GRID, tmp_path / "out.zarr")
    assert not list(tmp_path.iterdir())


def test_dead_scheduler(made, tmp_path, monkeypatch):
    monkeypatch.setattr(geomap.tasks, "ANSWER_S", 0.5)
    with pytest.raises(SchedulerError):
        run(made, tmp_path / "out.zarr", scheduler="tcp://127.0.0.1:1")
    run(made, tmp_path / "out.zarr", resume=True)
    assert digest(tmp_path / "out.zarr") == digest(made / "whole.zarr")


class Usage:
    def __init__(self, free: float) -> None:
        self.free = free


def test_too_large_for_the_disk(made, tmp_path, monkeypatch):
    need = GRID.land_mask().sum() * (ENCODERS.dim + 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(need * 0.5))
    with pytest.raises(OutputError, match="GB free"):
        run(made, tmp_path / "out.zarr")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(need * 1.5))  # the sea takes no space
    run(made, tmp_path / "out.zarr")


def test_huge_grid_is_refused_at_once(made, tmp_path):
    """A metre grid of half the world: nothing that grows with it may be made before the refusal."""
    huge = grid_of((4_000_000, 4_000_000), resolution=1, unit=256, left=-2_000_000, top=2_000_000)
    started = time.monotonic()
    with pytest.raises((OutputError, GridError)):
        run(made, tmp_path / "out.zarr", grid=huge)
    assert time.monotonic() - started < 30
    assert not list(tmp_path.iterdir())


# Places that cannot be written


@pytest.mark.parametrize("where", ["a_file/out.zarr", "/proc/out.zarr"])
def test_folder_that_cannot_be_written(made, tmp_path, where):
    (tmp_path / "a_file").write_text("x")
    with pytest.raises(OutputError) as caught:
        run(made, tmp_path / where)
    assert caught.value.change


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(made, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission"):
        run(made, tmp_path / "out.zarr")


@pytest.mark.parametrize("victim", ["embedding", "valid", PROGRESS, MANIFEST])
def test_disk_full_half_way(made, tmp_path, monkeypatch, victim):
    """The disk fills with the fifth chunk or marker, or the manifest; freed, the same bytes come out."""
    real, written = geomap.fieldstore.write_atomic, []

    def full(path: Path, data: bytes) -> None:
        if victim in str(path.relative_to(tmp_path / "out.zarr")) and "zarr.json" not in path.name:
            written.append(path)
            if len(written) == (1 if victim == MANIFEST else 5):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    monkeypatch.setattr(geomap.sweepstore, "write_atomic", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        run(made, tmp_path / "out.zarr")
    assert "--resume" in caught.value.change
    monkeypatch.undo()
    with pytest.raises(FieldError, match="unfinished"):
        open_field(tmp_path / "out.zarr")
    run(made, tmp_path / "out.zarr", resume=True)
    assert digest(tmp_path / "out.zarr") == digest(made / "whole.zarr")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a small disk")
def test_disk_really_full(made, tmp_path):
    """A disk of 800 kB, which is then given more room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("no permission to mount")
    try:
        noise = np.random.default_rng(0).uniform(0, 255, (3, 220, 170))
        write_raster(tmp_path / "noise.tif", "EPSG:3310", (1e5, -5e5, 2e5, -3.7e5), (220, 170), 3, noise)
        go = partial(sweep, made / "encoders", tmp_path / "noise.tif", GRID)
        usage = shutil.disk_usage
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda _: usage(tmp_path))  # as if others filled it meanwhile
            (disk / "ballast").write_bytes(bytes(650_000))
            with pytest.raises(OutputError, match="No space left"):
                go(disk / "out.zarr")
        (disk / "ballast").unlink()
        go(disk / "out.zarr", resume=True)
        go(tmp_path / "out.zarr")
        assert digest(disk / "out.zarr") == digest(tmp_path / "out.zarr")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# In processes of their own

SCRIPT = """
import sys
from pathlib import Path
from affine import Affine
from odc.geo.geobox import GeoBox
from geomap.grid import Grid
from geomap.sweep import sweep
if __name__ == "__main__":
    made, out, height, width, unit, workers, resume = sys.argv[1:]
    geobox = GeoBox((int(height), int(width)), Affine(1000, 0, 100_000, 0, -1000, -390_000), "EPSG:3310")
    sweep(Path(made) / "encoders", Path(made) / "imagery.tif", Grid("coast", geobox, int(unit)), out,
          workers=int(workers), resume=resume == "resume")
"""


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_killed_half_way_and_resumed(made, tmp_path, workers):
    """kill -9 of the process while it sweeps; its workers go with it."""
    out = tmp_path / "out.zarr"
    shape = (200, 200)
    run(made, tmp_path / "whole.zarr", grid=grid_of(shape))
    command = [sys.executable, "-c", SCRIPT, str(made), str(out), *map(str, shape), str(UNIT), str(workers)]
    if workers:  # multiprocessing has to find the script again
        (tmp_path / "script.py").write_text(SCRIPT)
        command[1:3] = [str(tmp_path / "script.py")]
    process = subprocess.Popen([*command, "new"], start_new_session=True)
    try:
        wait_for(lambda: len(list(out.glob(f"{PROGRESS}/done/*.json"))) >= 20)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with pytest.raises(FieldError, match="--resume"):
        open_field(out)
    wait_for(lambda: not members(process.pid))
    run(made, out, grid=grid_of(shape), resume=True)
    assert digest(out) == digest(tmp_path / "whole.zarr")


def wait_for(condition, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def members(session: int) -> list[str]:
    """Processes of a session that still live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its) == session and state != "Z":
            found.append(stat.parent.name)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in kB")
def test_memory_does_not_grow_with_the_grid(made, tmp_path):
    """Four times the cells, at most 15 % more memory."""
    sizes = {"small": (200, 200), "large": (400, 400)}
    peak = {}
    for name, shape in sizes.items():
        code = SCRIPT + "\n    import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        arguments = [str(made), str(tmp_path / name), *map(str, shape), "32", "0", "new"]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        peak[name] = int(done.stdout)
    assert peak["large"] <= 1.15 * peak["small"]
    assert unit_window(grid_of(sizes["large"], unit=32), (12, 12)) == (384, 384, 16, 16)
