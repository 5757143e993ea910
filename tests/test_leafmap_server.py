"""The tile server of a notebook: found, or started once and stopped with its last user; the browser's way."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest
from serving import made_bundle, waited

from geomap import tileserver
from geomap.tileserver import SHARED, TileServer, TileServerError, for_browser, tile_server


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made_bundle(tmp_path_factory)


@pytest.fixture
def here(bundle, repository, tmp_path, monkeypatch):
    """Where a local server finds its bundle and keeps its files."""
    monkeypatch.setenv("GEOMAP_BUNDLE", str(bundle))
    monkeypatch.setenv("GEOMAP_TILES_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("GEOMAP_TILES_WARM", "no")
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.chdir(tmp_path)
    yield
    assert children() == []


@pytest.fixture
def answering():
    """Starts a server that gives one answer to everything; yields a function from answer to address."""
    running = []

    def start(status, body):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def children():
    """Processes of tile servers below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "tiles" in process.cmdline():
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.parametrize(
    "address, proxy, variables, expected",
    [
        ("http://127.0.0.1:4711", None, {}, "http://127.0.0.1:4711"),
        ("http://127.0.0.1:4711/", None, {tileserver.HUB: "/user/ada/"}, "/user/ada/proxy/4711"),
        ("http://localhost:4711/maps/", None, {tileserver.HUB: "/user/ada"}, "/user/ada/proxy/4711/maps"),
        ("http://[::1]:4711", None, {tileserver.HUB: "/user/ada/"}, "/user/ada/proxy/4711"),
        ("https://maps.example.org/v1/", None, {tileserver.HUB: "/user/ada/"}, "https://maps.example.org/v1"),
        ("http://127.0.0.1:4711", "/lab/proxy/{port}/", {tileserver.HUB: "/x/"}, "/lab/proxy/4711"),
        ("https://maps.example.org", "/way/{port}", {}, "/way/443"),
    ],
)
def test_the_way_of_the_browser(address, proxy, variables, expected):
    assert for_browser(address, proxy, variables) == expected


def test_links_of_the_server_are_put_behind_what_the_browser_uses():
    server = TileServer("http://127.0.0.1:4711", "/user/ada/proxy/4711/")
    link = "/prefix/species/puma/tiles/WebMercatorQuad/{z}/{x}/{y}.png?v=1"
    assert (
        server.template(link) == "/user/ada/proxy/4711/species/puma/tiles/WebMercatorQuad/{z}/{x}/{y}.png?v=1"
    )


def test_one_local_server_serves_all_and_stops_with_the_last(here):
    with tile_server() as first:
        second = tile_server()
        assert second.address == first.address
        assert len(children()) == 1
        assert first.get("/readyz")
        second.close()
        second.close()
        assert first.get("/species", search="wrentit")["total"] == 1
    assert children() == []
    with pytest.raises(TileServerError, match="cannot reach the tile server"):
        first.get("/species")
    with tile_server() as third:
        assert third.get("/species", limit=1)["total"] == 6


def test_a_server_that_died_is_replaced(here):
    first = tile_server()
    os.kill(children()[0], signal.SIGKILL)
    assert waited(lambda: not first._local.running)
    with tile_server() as second:
        assert second.address != first.address
        first.close()
        assert second.get("/readyz")


@pytest.mark.parametrize("ending", ["", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_server_ends_with_its_process_however_that_ends(here, ending):
    code = "from geomap.tileserver import SHARED; s = SHARED.acquire(); print(s.address, s._process.pid)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; sys.stdout.flush(); {ending}"],
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == (-signal.SIGKILL if ending else 0), done.stderr
    pid = int(done.stdout.split()[1])
    assert waited(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


def test_an_interrupt_of_the_notebook_does_not_reach_the_server(here):
    with tile_server() as server:
        assert os.getpgid(children()[0]) != os.getpgid(0)
        assert server.get("/readyz")


def test_a_server_that_cannot_start_tells_the_end_of_its_log(here, monkeypatch):
    monkeypatch.setenv("GEOMAP_TILES_WORKERS", "none")
    with pytest.raises(TileServerError) as caught:
        tile_server()
    assert caught.value.what == "cannot start a tile server"
    assert "ended with code 2" in caught.value.found
    assert "GEOMAP_TILES_WORKERS" in caught.value.found
    assert "python -m tiles" in caught.value.change


def test_a_server_that_never_gets_ready_is_stopped(here, monkeypatch):
    monkeypatch.setattr(tileserver, "STARTING_S", 0)
    with pytest.raises(TileServerError, match="not ready after 0 s"):
        tile_server()


def test_a_running_server_is_taken_from_the_variable(answering, monkeypatch):
    address = answering(200, json.dumps({"total": 3, "species": []}).encode())
    monkeypatch.setenv(tileserver.VARIABLE, address)
    monkeypatch.setenv(tileserver.HUB, "/user/ada/")
    with tile_server() as server:
        assert (server.address, server.tiles) == (address, f"/user/ada/proxy/{address.rsplit(':', 1)[1]}")
    assert SHARED._server is None


@pytest.mark.parametrize(
    "status, body, found",
    [
        (200, b"<html>", "something else at"),
        (200, b"[1]", "something else at"),
        (404, b"not here", "404 at http"),
        (422, b'{"what": "cannot answer", "found": "a cat", "change": "Ask a dog."}', "a cat"),
    ],
)  # fmt: skip
def test_other_servers_are_refused_in_three_parts(answering, status, body, found):
    with pytest.raises(TileServerError) as caught:
        tile_server(answering(status, body))
    assert found in caught.value.found
    assert caught.value.change.endswith(".")


def test_addresses_that_lead_nowhere_are_refused():
    with pytest.raises(TileServerError, match="'ftp://x'"):
        tile_server("ftp://x")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(TileServerError, match="cannot reach the tile server"):
            tile_server(address)
