"""The tile server of a notebook: found, or started once and stopped with its last user; the browser's way."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest
from serving import made_bundle, waited

from geomap import tileserver
from geomap.browser_way import CODE, HUB, for_browser
from geomap.browser_way import VARIABLE as WAY
from geomap.tileserver import SHARED, TileServer, TileServerError, tile_server


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
    "address, url, variables, expected",
    [
        ("http://127.0.0.1:4711", None, {}, "http://127.0.0.1:4711"),
        ("http://127.0.0.1:4711/", None, {HUB: "/user/ada/"}, "/user/ada/proxy/4711"),
        ("http://localhost:4711/maps/", None, {HUB: "/user/ada"}, "/user/ada/proxy/4711/maps"),
        ("http://[::1]:4711", None, {HUB: "/user/ada/"}, "/user/ada/proxy/4711"),
        (
            "https://maps.example.org/v1/",
            None,
            {HUB: "/user/ada/"},
            "https://maps.example.org/v1",
        ),
        ("http://127.0.0.1:4711", "/lab/proxy/{port}/", {HUB: "/x/"}, "/lab/proxy/4711"),
        ("https://maps.example.org", "/way/{port}", {}, "/way/443"),
        ("http://127.0.0.1:4711", None, {WAY: "https://h.example/p/{port}/"}, "https://h.example/p/4711"),
        ("http://127.0.0.1:4711", "/a/{port}", {WAY: "/b/{port}"}, "/a/4711"),
        (
            "http://127.0.0.1:4711",
            None,
            {CODE: "https://c.example/proxy/{{port}}"},
            "https://c.example/proxy/4711",
        ),
        ("http://127.0.0.1:4711", None, {CODE: "./proxy/{{port}}"}, "http://127.0.0.1:4711"),
        (
            "http://127.0.0.1:4711",
            None,
            {CODE: "https://{{port}}.c.example", HUB: "/x/"},
            "https://4711.c.example",
        ),
    ],
)
def test_the_way_of_the_browser(address, url, variables, expected):
    assert for_browser(address, url, variables) == expected


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """What a kernel finds that a Jupyter server started: a file beside its own; function from content."""
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", str(tmp_path / "kernel-1.json")])
    monkeypatch.setenv("JPY_PARENT_PID", "4242")

    def write(**said):
        (tmp_path / "jpserver-4242.json").write_text(json.dumps(said))

    return write


@pytest.mark.parametrize(
    "status, body, leads",
    [
        (200, b'{"status": "ok"}', True),
        (200, b'{"status": "another"}', False),
        (404, b"", False),
        (403, b"", True),  # only the user may know, and this environment has jupyter-server-proxy
        (200, b"<html>log in", True),
    ],
)
def test_the_way_through_the_jupyter_server_of_the_kernel(kernel, answering, status, body, leads):
    url = answering(status, body)
    kernel(url=f"{url}/user/anna/", base_url="/user/anna/", token="secret")
    way = for_browser("http://127.0.0.1:4711/maps")
    assert way == ("/user/anna/proxy/4711/maps" if leads else "http://127.0.0.1:4711/maps")
    assert for_browser("https://maps.example.org") == "https://maps.example.org"


def test_without_a_jupyter_server_the_address_is_the_way(kernel, monkeypatch):
    assert for_browser("http://127.0.0.1:4711") == "http://127.0.0.1:4711"
    kernel(nothing=True)
    assert for_browser("http://127.0.0.1:4711") == "http://127.0.0.1:4711"


def test_pages_of_vs_code_have_no_host_for_paths(kernel, answering, monkeypatch):
    url = answering(200, b'{"status": "ok"}')
    kernel(url=url, base_url="/", token="")
    assert for_browser("http://127.0.0.1:4711") == "/proxy/4711"
    monkeypatch.setattr(sys.modules["__main__"], "__vsc_ipynb_file__", "map.ipynb", raising=False)
    assert for_browser("http://127.0.0.1:4711") == "http://127.0.0.1:4711"


def test_colab_is_asked_for_its_own_address(monkeypatch):
    """By the form of Colab's interface; nobody has seen it in Colab."""
    output = types.ModuleType("google.colab.output")
    output.eval_js = lambda script: f"https://colab.example/{script}"
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    found = for_browser("http://127.0.0.1:4711", None, {})
    assert found == "https://colab.example/google.colab.kernel.proxyPort(4711, {'cache': true})"


@pytest.mark.parametrize("way", ["proxy/{port}", "ftp://x/{port}"])
def test_a_way_that_depends_on_the_page_is_refused(way, monkeypatch):
    with pytest.raises(TileServerError, match="cannot tell the browser where the tiles are"):
        tile_server("http://127.0.0.1:9", way)
    monkeypatch.setenv(WAY, way)
    with pytest.raises(TileServerError, match="GEOMAP_TILE_URL"):
        tile_server("http://127.0.0.1:9")


def test_a_server_that_is_forgotten_is_let_go(here):
    server = tile_server()
    other = tile_server()
    del server
    gc.collect()
    assert waited(lambda: SHARED._server.users == 1)
    assert other.get("/healthz")
    del other
    gc.collect()
    assert waited(lambda: children() == [])


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
    monkeypatch.setenv(HUB, "/user/ada/")
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
