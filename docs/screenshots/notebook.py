"""The picture of geomap.Map in JupyterLab: a notebook is run in a real page, and its map is clicked."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
CELL = """import geomap

m = geomap.Map(center=(37.2, -117.6), zoom=6)
m.add_species("Chamaea fasciata", grid="california", threshold="p10")
m"""
SIZE = {"width": 1180, "height": 900}
PLACE = (0.33, 0.6)  # shares of the map's width and height: the Santa Lucia Range
NO_NEWS = "CONFIG/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
PATIENCE_MS = 180_000
STARTING_S = 60


def picture(browser: Browser) -> bytes:
    """The notebook with its map as PNG."""
    with TemporaryDirectory() as folder, jupyterlab(Path(folder)) as address:
        page = browser.new_page(viewport=SIZE, reduced_motion="reduce")  # type: ignore[arg-type]
        page.goto(f"{address}/doc/tree/wrentit.ipynb")
        page.locator('[data-status="idle"], [data-status="Idle"]').first.wait_for(timeout=PATIENCE_MS)
        prompt = page.locator(".jp-Cell .jp-InputPrompt")
        while not re.search(r"\*|\d", prompt.inner_text()):  # until the kernel is connected
            page.locator(".jp-Cell .cm-content").click()
            page.keyboard.press("Control+Enter")
            page.wait_for_timeout(1000)
        shown = page.locator(".leaflet-container")
        shown.get_by_text("At or above P10").wait_for(timeout=PATIENCE_MS)
        page.wait_for_load_state("networkidle", timeout=PATIENCE_MS)
        box = shown.bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + PLACE[0] * box["width"], box["y"] + PLACE[1] * box["height"])
        shown.get_by_text("What lives here").wait_for(timeout=PATIENCE_MS)
        page.wait_for_timeout(3000)  # tiles fade in
        png = page.screenshot()
        page.close()
        return png


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """The address of JupyterLab over a folder with the notebook; settings of the user are left alone."""
    cell = {"cell_type": "code", "id": "map", "metadata": {}, "source": CELL, "outputs": []}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": kernel}
    content = json.dumps({**notebook, "cells": [{**cell, "execution_count": None}]})
    (folder / "wrentit.ipynb").write_text(content)
    (folder / NO_NEWS).parent.mkdir(parents=True)
    (folder / NO_NEWS).write_text('{"fetchNews": "false"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
        "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", "--IdentityProvider.token=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        f"--ServerApp.root_dir={folder}",
    ]  # fmt: skip
    own = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    lab = subprocess.Popen(command, cwd=folder, env={**os.environ, **own, "PYTHONPATH": paths})
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/api", lab)
        yield address
    finally:
        lab.terminate()
        lab.wait(timeout=60)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until an address answers; ends the program where the process behind it does not live that long."""
    end = time.monotonic() + STARTING_S
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=10).close()
        except urllib.error.URLError:
            time.sleep(0.2)
        else:
            return
    sys.exit(f"Nothing answers at {url}.")
