"""What tests of the tile server share: a small bundle being served, in this process or in one of its own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from geomap.testing_bundle import make_bundle
from tiles.app import create_app
from tiles.listen import address_of, listening
from tiles.settings import Settings

POPPY, OAK, REDWOOD = "eschscholzia-californica", "quercus-lobata", "sequoia-sempervirens"
WREN, FINCH, PENGUIN = "chamaea-fasciata", "carduelis-lawrencei", "aptenodytes-forsteri"
TILE = "WebMercatorQuad/6/10/24"  # the middle of California
SQUARE = {
    "type": "Polygon",
    "coordinates": [[[-120, 36], [-118, 36], [-118, 38], [-120, 38], [-120, 36]]],
}


def made_bundle(factory: pytest.TempPathFactory) -> Path:
    """A small bundle in a folder of its own."""
    return make_bundle(factory.mktemp("served") / "bundle")


@contextmanager
def opened(bundle: Path, cache: Path, /, **settings: Any) -> Iterator[TestClient]:
    """A client of an app that serves a bundle, in this process; answers of faults come back as 500."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOMAP_BUNDLE", str(bundle))
        app = create_app(Settings(cache_dir=cache, **{"maps": (), "warm": False, **settings}))
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client


@contextmanager
def listened(client: TestClient) -> Iterator[str]:
    """The app of a client on a port of this machine, for what speaks to a real server; its address."""
    listener = listening("127.0.0.1", 0)[0]
    config = uvicorn.Config(client.app, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield address_of(listener)
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


@contextmanager
def started(
    bundle: Path, cache: Path, *options: str, **variables: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`python -m tiles` as a process of its own: the process and its address without a slash at its end."""
    known = {"GEOMAP_BUNDLE": str(bundle), "GEOMAP_TILES_CACHE_DIR": str(cache), "GEOMAP_TILES_WARM": "no"}
    command = [sys.executable, "-m", "tiles", "--port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cache,
        env={**os.environ, **known, **variables, "PYTHONPATH": str(Path(__file__).parents[1])},
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            yield server, server.stdout.readline().split()[-1].rstrip("/")
        finally:
            if server.poll() is None:
                server.terminate()
                try:
                    server.wait(60)
                except subprocess.TimeoutExpired:
                    server.kill()


def fetched(address: str) -> str:
    """The text at an address, over a line of its own."""
    with urlopen(address, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def entries(content: bytes) -> np.ndarray:
    """Palette entries (or grey values) of a picture."""
    return np.asarray(Image.open(io.BytesIO(content)))


def waited(condition: Any, seconds: float = 30.0) -> bool:
    """Whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False
