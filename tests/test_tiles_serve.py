"""The server as a process: start, workers, signals, many requests at once, and what its import loads."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import psutil
import pytest
from serving import OAK, POPPY, REDWOOD, TILE, fetched, listened, made_bundle, opened, started, waited

from tiles import paint
from tiles.listen import listening

DELAY_S = 0.044  # what every answer on a kept line takes where TCP_NODELAY is not set


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made_bundle(tmp_path_factory)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_started_server_answers_at_once_on_kept_lines_and_drains_on_a_signal(bundle, tmp_path, workers):
    with started(bundle, tmp_path, "--workers", str(workers)) as (server, address):
        with httpx.Client(base_url=address, timeout=60) as client:
            first = client.get(f"/species/{POPPY}/tiles/{TILE}.png")
            assert (first.status_code, first.headers["content-type"]) == (200, "image/png")
            begun = time.monotonic()
            for _ in range(20):
                assert client.get("/healthz").json() == {"status": "ok"}
            # Ten times the work, and still far from 20 delays of 44 ms.
            assert time.monotonic() - begun < 20 * DELAY_S * 0.8
            assert "geomap_tiles_requests_total" in client.get("/metrics").text
        # A request that is half sent when the signal comes is still answered.
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as line:
            body = b'{"type":"Polygon","coordinates":[[[-120,36],[-118,36],[-118,38],[-120,36]]]}'
            head = f"POST /species/{OAK}/summary HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            line.sendall(head.encode() + body[:10])
            time.sleep(0.5)
            server.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert server.poll() is None
            line.sendall(body[10:])
            answer = line.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200")
        _, log = server.communicate(timeout=60)
        assert server.returncode == 0
        assert "Traceback" not in log
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/healthz")


def test_workers_sum_their_numbers_and_one_that_dies_is_started_anew(bundle, tmp_path):
    with started(bundle, tmp_path, "--workers", "2") as (server, address):

        def workers():
            found = set()
            for child in psutil.Process(server.pid).children():
                with contextlib.suppress(psutil.Error):
                    if "spawn_main" in " ".join(child.cmdline()):
                        found.add(child.pid)
            return found

        for _ in range(24):  # a new line each time: the system deals them out among the workers
            assert fetched(f"{address}/healthz") == '{"status":"ok"}'
        lines = [line for line in fetched(f"{address}/metrics").splitlines() if 'route="/healthz"' in line]
        assert sum(float(line.split()[-1]) for line in lines if "requests_total" in line) == 24
        before = workers()
        assert len(before) == 2
        psutil.Process(min(before)).kill()
        assert waited(lambda: len(workers() - before) == 1)
        for _ in range(8):  # lines that wait for the new worker are answered, too
            assert fetched(f"{address}/healthz") == '{"status":"ok"}'


def test_every_socket_names_tcp_so_that_answers_are_not_delayed():
    for count in (1, 2):
        sockets = listening("127.0.0.1", 0, count)
        assert len({each.getsockname() for each in sockets}) == 1
        for each in sockets:
            assert each.proto == socket.IPPROTO_TCP
            each.close()


def test_import_reads_nothing_and_loads_neither_torch_nor_a_cluster():
    code = (
        "import sys, tiles.app, tiles.__main__;"
        "heavy = {'torch', 'timm', 'distributed', 'titiler.core', 'leafmap'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code],
        capture_output=True, text=True, check=True, timeout=60, env={"GEOMAP_TILES_NONSENSE": "1"},
    )  # fmt: skip
    assert done.stdout.strip() == ""


def test_the_app_is_made_when_a_server_asks_for_it(bundle, monkeypatch, tmp_path):
    import tiles.app

    monkeypatch.setenv("GEOMAP_BUNDLE", str(bundle))
    monkeypatch.setenv("GEOMAP_TILES_ROOT_PATH", "/here")
    monkeypatch.setenv("GEOMAP_TILES_CACHE_DIR", str(tmp_path))
    assert tiles.app.app.state.served.settings.root_path == "/here"
    with pytest.raises(AttributeError, match="nothing"):
        _ = tiles.app.nothing


def test_overload_is_refused_and_health_answers_meanwhile(bundle, tmp_path, monkeypatch):
    with opened(bundle, tmp_path, max_concurrency=2, queue=3) as client, listened(client) as address:
        gate, draw, open_again = client.app.state.served.gate, paint.tile_levels, threading.Event()

        def slowly(*tile):
            assert open_again.wait(60)
            return draw(*tile)

        monkeypatch.setattr(paint, "tile_levels", slowly)
        answers = []

        def ask(x):
            answers.append(
                httpx.get(f"{address}/species/{OAK}/tiles/WebMercatorQuad/7/{x}/49.png", timeout=60)
            )

        threads = [threading.Thread(target=ask, args=(x,)) for x in range(5)]
        for thread in threads:
            thread.start()
        assert waited(lambda: gate.inside == 5)
        refused = httpx.get(f"{address}/species/{OAK}/tiles/WebMercatorQuad/7/9/49.png")
        also = httpx.get(f"{address}/species/{REDWOOD}")
        health = [httpx.get(f"{address}/healthz").elapsed.total_seconds() for _ in range(5)]
        open_again.set()
        for thread in threads:
            thread.join(60)
        for answer in (refused, also):
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.headers["cache-control"] == "no-store"
            assert "requests before this one" in answer.json()["found"]
        assert min(health) < 0.1
        assert [answer.status_code for answer in answers] == [200] * 5
        assert gate.inside == 0
        assert httpx.get(f"{address}/species/{OAK}/tiles/WebMercatorQuad/7/9/49.png").status_code == 200


def test_clients_at_once_get_what_one_gets(bundle, tmp_path):
    addresses = [
        f"/species/{species}/tiles/WebMercatorQuad/7/{x}/{y}.png"
        for species in (POPPY, OAK, REDWOOD)
        for x in range(19, 23)
        for y in range(48, 52)
    ]
    with opened(bundle, tmp_path / "one") as client:
        alone = {address: client.get(address).content for address in addresses}
    with opened(bundle, tmp_path / "many") as client, listened(client) as address:
        found: list[tuple[str, bytes]] = []

        def ask(first):
            with httpx.Client(base_url=address, timeout=60) as session:
                for k in range(len(addresses)):
                    path = addresses[(first + k) % len(addresses)]
                    found.append((path, session.get(path).content))

        threads = [threading.Thread(target=ask, args=(7 * k,)) for k in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
    assert len(found) == 16 * len(addresses)
    assert all(content == alone[path] for path, content in found)


def test_the_fast_loop_is_missed_in_words(monkeypatch, caplog):
    from tiles import __main__ as command
    from tiles.settings import Settings

    monkeypatch.setattr(command, "find_spec", lambda name: None)
    command.warn_of_slow_loop(Settings(maps=(), workers=2))
    assert "uvloop and httptools not installed" in caplog.text
