"""Where the workers of the tile server run."""

from __future__ import annotations

import os

import psutil
import pytest
from serving import made_bundle, started, waited

from tiles.workers import core_of


@pytest.mark.parametrize(
    ("cores", "workers", "expected"),
    [
        ({0, 1}, 2, [0, 1]),
        ({3, 5}, 3, [3, 5, 3]),  # of a container that was given some cores only
        ({0, 1, 2, 3}, 2, [None, None]),
        ({0}, 2, [None, None]),
    ],
)
def test_workers_keep_to_a_core_where_there_is_one_for_every_core(monkeypatch, cores, workers, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores)
    assert [core_of(k, workers) for k in range(workers)] == expected


@pytest.fixture
def cores():
    """Two cores, or the only one, that this process and its children are kept to."""
    all_of_them = os.sched_getaffinity(0)
    some = sorted(all_of_them)[:2]
    os.sched_setaffinity(0, some)
    yield some
    os.sched_setaffinity(0, all_of_them)


def test_started_workers_share_out_the_cores(tmp_path_factory, tmp_path, cores):
    bundle = made_bundle(tmp_path_factory)
    with started(bundle, tmp_path, "--workers", "2") as (server, _):

        def places():
            children = psutil.Process(server.pid).children()
            workers = [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
            return sorted(sorted(os.sched_getaffinity(pid)) for pid in workers)

        assert waited(lambda: places() == [[cores[0]], [cores[-1]]]), places()
