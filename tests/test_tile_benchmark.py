"""The benchmark of the tile server: its clients, what it asks for, how it compares, and its quick mode."""

from __future__ import annotations

import base64
import http.server
import importlib.util
import io
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyproj import Transformer

from benchmarks.tileserver import asked, pixels

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
LIMIT = 300  # seconds; about 20 on an idle machine


def loaded(name, path):
    """A program of the benchmarks as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)  # dataclasses look there
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def clients():
    yield from loaded("tile_clients", BENCHMARKS / "tileserver" / "clients.py")


@pytest.fixture(scope="module")
def tiles():
    yield from loaded("tile_benchmark", BENCHMARKS / "tiles.py")


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers with the path, in pieces; /gone with 404, /empty without a body, /end by closing."""

    protocol_version = "HTTP/1.1"
    asked: Counter[str]
    lines: set[int]

    def do_GET(self):
        self.asked[self.path] += 1
        self.lines.add(self.client_address[1])
        if self.path == "/end":
            self.close_connection = True
            return
        if self.path == "/empty":
            self.send_response_only(304)
            self.end_headers()
            return
        body = self.path.encode() * 1000
        self.send_response(404 if self.path == "/gone" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for first in range(0, len(body), 3000):
            self.wfile.write(body[first : first + 3000])
            self.wfile.flush()

    def log_message(self, *_):
        """Nothing is logged."""


@pytest.fixture
def answering():
    """A small server: its address, and what it was asked by whom."""
    handler = type("Noting", (Answers,), {"asked": Counter(), "lines": set()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield *server.server_address, handler
        finally:
            server.shutdown()
            thread.join()


def test_clients_ask_for_every_path_once_on_lines_that_they_keep(clients, answering):
    host, port, handler = answering
    paths = [f"/{k}" for k in range(50)] + ["/gone", "/empty"]
    outcome = clients.carry_out(clients.Load(host, port, paths, clients=4, keep=True))
    assert handler.asked == Counter(paths)
    assert len(handler.lines) == 4
    assert outcome.statuses == {"200": 50, "404": 1, "304": 1}
    assert len(outcome.ms) == 52
    assert min(outcome.ms) > 0
    assert {path: base64.b64decode(body) for path, body in outcome.bodies.items()} == {
        path: b"" if path == "/empty" else path.encode() * 1000 for path in paths
    }
    assert outcome.bytes == 1000 * sum(len(path) for path in paths if path != "/empty")
    assert max(outcome.ms) / 1000 <= outcome.seconds


def test_clients_stop_asking_when_their_time_is_over(clients, answering):
    host, port, handler = answering
    outcome = clients.carry_out(clients.Load(host, port, ["/a"] * 100, clients=3, seconds=0.0))
    assert outcome.statuses == {"200": 3}  # one each, asked before the time began to count
    assert handler.asked == {"/a": 3}
    assert outcome.bodies == {}


def test_a_server_that_goes_away_is_an_error(clients, answering):
    host, port, _ = answering
    with pytest.raises(ConnectionError, match="/end"):
        clients.carry_out(clients.Load(host, port, ["/a", "/end"], clients=1))


def test_clients_as_a_process_speak_json(answering):
    host, port, _ = answering
    loads = [{"host": host, "port": port, "paths": [path]} for path in ("/a", "/bb")]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "tileserver" / "clients.py")],
        input="".join(json.dumps(load) + "\n" for load in loads),
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert [json.loads(line)["bytes"] for line in done.stdout.splitlines()] == [2000, 3000]


def test_pairs_are_random_but_the_same_in_every_run_and_fair_to_zooms():
    species = ["a", "b", "c"]
    pairs = asked.draw(species, 60, np.random.default_rng(4))
    assert pairs == asked.draw(species, 60, np.random.default_rng(4))
    assert pairs != asked.draw(species, 60, np.random.default_rng(5))
    assert len(set(pairs)) == 60
    assert Counter(tile[0] for _, tile in pairs) == dict.fromkeys(range(5, 11), 10)
    many = asked.draw(species, 1000, np.random.default_rng(4))  # more than the coarse zooms have
    assert len(set(many)) == 1000
    assert Counter(tile[0] for _, tile in many)[5] == 3 * len(asked.tiles_of(5))


@pytest.mark.parametrize("zoom", range(5, 11))
def test_tiles_cover_the_box(zoom):
    """Every place in the box lies on a tile, and every tile but those at the rim lies in the box."""
    west, south, east, north = asked.BOX
    rng = np.random.default_rng(zoom)
    places = rng.uniform((west, south), (east, north), (2000, 2))
    x, y = Transformer.from_crs("EPSG:3310", "EPSG:3857", always_xy=True).transform(*places.T)
    side = 2 * asked.HALF / 2**zoom
    on = set(zip(((x + asked.HALF) // side).astype(int), ((asked.HALF - y) // side).astype(int), strict=True))
    there = {tile[1:] for tile in asked.tiles_of(zoom)}
    assert on <= there
    assert len(there) * side**2 < 2.5 * (east - west) * (north - south) / 0.64 + 6 * side**2


def test_paths_of_both_servers_name_the_same_tile():
    pairs = [("quercus-lobata", (6, 10, 24))]
    assert asked.at_ours(pairs, "g", "/value") == [
        "/species/quercus-lobata/tiles/WebMercatorQuad/6/10/24/value?grid=g"
    ]
    assert asked.at_stock(pairs, "g", ".npy") == ["/g/quercus-lobata/tiles/WebMercatorQuad/6/10/24.npy"]


def compared(ours, stock):
    """What `differences` says of values (h, w), NaN for nodata."""
    png, npy = io.BytesIO(), io.BytesIO()
    levels = np.where(np.isnan(ours), 255, np.rint(np.nan_to_num(ours) * 250)).astype(np.uint8)
    Image.fromarray(levels).save(png, "PNG")
    most = np.finfo(np.float32).max
    np.save(
        npy, np.stack([np.nan_to_num(stock, nan=-9999), np.where(np.isnan(stock), -most, most)]).astype("f4")
    )
    return pixels.differences(png.getvalue(), npy.getvalue())


def test_pixels_are_compared_to_a_step_and_to_their_neighbours():
    rng = np.random.default_rng(0)
    cells = rng.random((16, 16))
    cells[:4, :4] = np.nan
    values = np.kron(cells, np.ones((4, 4)))
    none = {"data_differs": 0, "value_differs": 0, "beyond_a_pixel": 0}
    assert compared(values, values) == {"pixels": 64 * 64 - 256, **none}
    moved = compared(np.roll(values, 1, axis=1)[:, 1:], values[:, 1:])
    assert moved["data_differs"] == 16  # the right edge of what has no data
    assert 600 < moved["value_differs"] < 16 * 64
    assert moved["beyond_a_pixel"] == 0
    far = compared(np.roll(values, 8, axis=1), values)
    assert far["beyond_a_pixel"] > 1000
    other = values.copy()
    other[40, 40] = np.nan
    lost = compared(other, values)
    assert (lost["data_differs"], lost["beyond_a_pixel"]) == (1, 1)


def test_only_what_was_measured_is_judged(tiles):
    judged = tiles.judged({"stored_3857": 4.9, "rss_growth": 0.1, "other": 3})
    assert judged["met"] == {"stored_3857": False, "rss_growth": True}
    assert judged["targets"] == {"stored_3857": ">= 5", "rss_growth": "<= 0.1"}


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 30)
def test_the_quick_mode_measures_everything(repository, tiles, tmp_path):
    kept = tmp_path / "tiles.json"
    command = [sys.executable, "benchmarks/tiles.py", "--quick", "--out", str(kept)]
    paths = os.pathsep.join([str(repository), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, cwd=repository, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
        timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert result["benchmark"] == "tiles"
    assert set(result["met"]) == set(result["targets"]) == {*tiles.AT_LEAST, *tiles.AT_MOST}
    assert all(result[name] > 0 for name in tiles.AT_LEAST)
    assert (result["stored"], result["live"], result["shipped"]) == (3, 6, False)
    for crs in asked.GRIDS:
        assert result["met"][f"unexplained_{crs}"], result["differences"]
        assert result["differences"][f"{crs}_fine"]["pixels"] > 10_000
        assert result["legs"][f"stock_{crs}"]["kb"] > 0.5
    assert result["heavy_modules"] == []
    assert result["rss_after_mb"] > result["rss_mapped_mb"] > 0
    assert 0 < result["legs"]["null"]["client_cores"] < 1.5
    written = json.loads(kept.read_text(encoding="utf-8"))
    assert written.pop("command").startswith("python benchmarks/tiles.py --quick")
    assert written == result
