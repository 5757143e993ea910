"""Running tasks in this process, on a local Dask cluster and on a scheduler that is already there."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from distributed import LocalCluster

import geomap.tasks
from geomap.errors import OutputError, SchedulerError
from geomap.tasks import AHEAD, run_tasks


def test_without_dask_in_order():
    assert list(run_tasks(abs, [3, -1, 2], workers=1)) == [3, 1, 2]
    code = (
        "import sys; from geomap.tasks import run_tasks; print(*run_tasks(abs, [1]), 'dask' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "1 False"
    )


def test_without_dask_lazily():
    drawn = []
    results = run_tasks(abs, (drawn.append(n) or n for n in range(9)))
    next(results)
    assert drawn == [0]


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
    ) as cluster:
        yield cluster


def test_existing_scheduler(cluster):
    results = list(run_tasks(abs, range(-20, 0), scheduler=cluster.scheduler_address))
    assert sorted(results) == list(range(1, 21))


def test_few_tasks_are_drawn_ahead(cluster):
    """However many tasks there are, no more than AHEAD for each worker thread wait."""
    drawn = []
    results = run_tasks(abs, (drawn.append(n) or n for n in range(100)), scheduler=cluster.scheduler_address)
    for seen, _ in enumerate(results, start=1):
        assert len(drawn) <= seen + 2 * AHEAD
    assert len(drawn) == 100


def test_no_tasks(cluster):
    assert list(run_tasks(abs, [], scheduler=cluster.scheduler_address)) == []


def test_errors_of_the_work_come_through(cluster):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(run_tasks(os.listdir, ["/nowhere/at/all"] * 9, scheduler=cluster.scheduler_address))


def test_output_errors_travel(cluster):
    """An OSError's constructor looks at its arguments; all three parts must survive the way back."""
    code = "import geomap.errors\nraise geomap.errors.OutputError('cannot write', 'disk full', 'free space')"
    with pytest.raises(OutputError) as caught:
        list(run_tasks(exec, [code], scheduler=cluster.scheduler_address))
    assert (caught.value.what, caught.value.found, caught.value.change) == (
        "cannot write",
        "disk full",
        "free space",
    )


def test_worker_without_the_package(cluster):
    with pytest.raises(SchedulerError, match="no_such_package"):
        list(run_tasks(exec, ["import no_such_package"], scheduler=cluster.scheduler_address))


def test_local_workers_are_other_processes_and_go():
    pids = set(run_tasks(_pid_slowly, range(8), workers=2))
    assert len(pids) == 2 and os.getpid() not in pids
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)


def _pid_slowly(_: int) -> int:
    time.sleep(0.1)
    return os.getpid()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_worker_that_dies_again_and_again():
    with pytest.raises(SchedulerError, match="died"):
        list(run_tasks(os._exit, [1], workers=2))


@contextmanager
def silent_port():
    """An address that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "silent"])
def test_dead_scheduler(address, monkeypatch):
    monkeypatch.setattr(geomap.tasks, "ANSWER_S", 1.0)
    with silent_port() as silent:
        started = time.monotonic()
        with pytest.raises(SchedulerError) as caught:
            list(run_tasks(abs, [1], scheduler=silent if address == "silent" else address))
    assert time.monotonic() - started < 5
    assert "dask scheduler" in caught.value.change


def start(part: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"distributed.cli.dask_{part}", *arguments, "--no-dashboard"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def test_scheduler_that_dies_meanwhile(tmp_path, capfd):
    """Told at once, in words."""
    where = tmp_path / "scheduler.json"
    scheduler = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(where))
    worker = start("worker", "--scheduler-file", str(where), "--nthreads", "1", "--no-nanny")
    try:
        while not where.exists() or not where.read_text():
            time.sleep(0.05)
        address = json.loads(where.read_text())["address"]
        results = run_tasks(_pid_slowly, range(100), scheduler=address)
        next(results)
        scheduler.kill()
        started = time.monotonic()
        with pytest.raises(SchedulerError, match="went away"):
            list(results)
        assert time.monotonic() - started < 10
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()
    assert "Traceback" not in capfd.readouterr().err


def test_scheduler_without_workers(monkeypatch):
    monkeypatch.setattr(geomap.tasks, "ANSWER_S", 1.0)
    idle = LocalCluster(n_workers=0, processes=True, dashboard_address="127.0.0.1:0")
    with idle, pytest.raises(SchedulerError, match="has no workers"):
        list(run_tasks(abs, [1], scheduler=idle.scheduler_address))


def test_answers_within_ten_seconds():
    assert geomap.tasks.ANSWER_S < 10


def test_what_ctrl_c_leaves_in_the_event_loop_is_not_printed(caplog):
    loop = logging.getLogger("tornado.application")
    before = loop.level

    def work(task: int) -> int:
        return task

    for _ in run_tasks(work, [1, 2], workers=2):
        loop.error("Exception in callback of a wait that was ended")
    said = [record for record in caplog.records if record.name == loop.name]
    assert said == [] and loop.level == before
