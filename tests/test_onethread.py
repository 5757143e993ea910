"""The limit of one thread for linear algebra: for all threads of a process, lifted after the last."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from geomap import onethread
from geomap.catalog import Catalog
from geomap.onethread import OneThread
from geomap.scores import score_cells


@pytest.fixture
def blas():
    """Threads of the BLAS pools, two each at the start."""
    pools = ThreadpoolController().select(user_api="blas")
    with pools.limit(limits=2):
        yield lambda: {pool["num_threads"] for pool in pools.info()}


def test_the_limit_holds_until_the_last_has_left(blas):
    limit = OneThread()
    with limit:
        with limit:
            assert blas() == {1}
        assert blas() == {1}
    assert blas() == {2}


def test_the_limit_is_lifted_after_an_error(blas):
    limit = OneThread()
    with pytest.raises(ZeroDivisionError), limit:
        1 / 0  # noqa: B018
    assert blas() == {2}


def test_threads_that_come_and_go_never_lift_it_for_one_another(blas):
    limit, wrong = OneThread(), []

    def come_and_go(_):
        for _ in range(50):
            with limit:
                if blas() != {1}:
                    wrong.append(blas())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(come_and_go, range(4)))
    assert wrong == []
    assert blas() == {2}


def test_scores_have_the_same_bytes_in_any_number_of_threads(bundle, blas):
    catalog = Catalog.open(bundle=bundle)
    field, heads = catalog.field("california"), catalog.heads("california-plants")
    features, valid = field.read(field.grid.units()[0])
    cells = np.tile(features[valid], (20, 1))
    alone = score_cells(cells, heads, [0])
    with ThreadPoolExecutor(4) as threads:
        for steps in threads.map(lambda _: score_cells(cells, heads, [0]), range(16)):
            np.testing.assert_array_equal(steps, alone)
    assert blas() == {2}


def test_a_server_keeps_it(blas, monkeypatch):
    limit = OneThread()
    monkeypatch.setattr(onethread, "ONE_THREAD", limit)
    monkeypatch.setattr(onethread, "_kept", threading.Event())
    onethread.keep_one_thread()
    onethread.keep_one_thread()
    with limit:
        pass
    assert blas() == {1}
    limit.__exit__()  # once is enough: the second call has changed nothing
    assert blas() == {2}
