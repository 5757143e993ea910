"""The map in a JupyterLab page, in a real browser: seen and clicked; its server ends with the kernel."""

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
from urllib.request import Request, urlopen

import numpy as np
import psutil
import pytest
from PIL import Image
from serving import made_bundle, waited

from geomap.colour import STEPS, palette
from geomap.leafmap_parts import LAND, SEA

CELL = """from geomap.leafmap import Map

m = Map()
m.add_species("Eschscholzia californica")
m"""


def notebook(path):
    """A notebook of one cell."""
    cell = {
        "cell_type": "code", "id": "map", "metadata": {}, "source": CELL, "outputs": [],
        "execution_count": None,
    }  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": [cell]}))


@contextlib.contextmanager
def jupyterlab(folder, variables):
    """JupyterLab over a folder, on a free port; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
        "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True", "--LabApp.check_for_updates_class="
        "jupyterlab.NeverCheckForUpdate", f"--ServerApp.root_dir={folder}",
    ]  # fmt: skip
    with (folder / "lab.log").open("w") as log:
        lab = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log,
            env={**os.environ, **own, **variables, "HOME": str(folder)},
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            assert waited(lambda: is_there(f"{address}/api"), 60), (folder / "lab.log").read_text()
            yield address
        finally:
            lab.terminate()
            lab.wait(60)


def is_there(url):
    try:
        with urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def share_of(png, colours, within):
    """Share of pixels of a picture that have one of some colours (n, 3) but for a little."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3).astype(int)
    seen = np.zeros(len(pixels), bool)
    for colour in np.atleast_2d(colours):
        seen |= np.abs(pixels - colour).max(axis=1) <= within
    return seen.mean()


def rgb(colour):
    return [int(colour[k : k + 2], 16) for k in (1, 3, 5)]


def tile_servers():
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command[1:3] == ["-m", "tiles"]:
            found.append(process.pid)
    return set(found)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.timeout(300)
def test_a_species_is_seen_in_jupyterlab(browser, repository, tmp_path_factory, tmp_path):
    notebook(tmp_path / "map.ipynb")
    variables = {
        "GEOMAP_BUNDLE": str(made_bundle(tmp_path_factory)), "GEOMAP_TILES_CACHE_DIR": str(tmp_path),
        "GEOMAP_TILES_WARM": "no", "PYTHONPATH": str(repository),
    }  # fmt: skip
    before = tile_servers()
    with jupyterlab(tmp_path, variables) as address:
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        asked = []
        page.on("response", lambda answer: asked.append((answer.status, answer.url)))
        page.goto(f"{address}/lab/tree/map.ipynb")
        page.locator(".jp-Notebook .jp-Cell .cm-content").first.click()
        page.wait_for_timeout(3000)  # the kernel is connected
        page.keyboard.press("Shift+Enter")
        page.locator(".leaflet-container").wait_for(timeout=90_000)
        page.locator(".leaflet-tile-loaded").first.wait_for(timeout=60_000)
        page.wait_for_timeout(2000)  # tiles fade in
        shown = page.locator(".leaflet-container")
        picture = shown.screenshot(path=tmp_path / "map.png")
        box = shown.bounding_box()
        page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
        panel = page.get_by_text("What lives here")
        panel.wait_for(timeout=30_000)
        page.screenshot(path=tmp_path / "page.png")
        said = shown.inner_text()
        servers = tile_servers() - before
        page.close()
        with urlopen(f"{address}/api/kernels", timeout=10) as answer:
            (kernel,) = json.load(answer)
        urlopen(Request(f"{address}/api/kernels/{kernel['id']}", method="DELETE"), timeout=30).close()
        assert waited(lambda: not tile_servers() & servers)
    tiles = [(status, url) for status, url in asked if "/tiles/WebMercatorQuad/" in url]
    assert tiles and all(status == 200 for status, _ in tiles)
    assert [url for _, url in asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
    assert len(servers) == 1
    assert "Eschscholzia californica: suitability" in said
    assert "Opacity" in said
    assert share_of(picture, rgb(SEA), 2) > 0.05
    assert share_of(picture, rgb(LAND), 2) > 0.05
    assert share_of(picture, palette()[: STEPS + 1 : 2, :3], 3) > 0.05
