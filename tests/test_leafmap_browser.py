"""The map in a JupyterLab page, in a real browser: seen and clicked; its server ends with the kernel."""

import contextlib
import io
import json
import os
import re
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
from geomap.leafmap_parts import LAND, RECORDS, SEA

CELLS = [
    """import pandas as pd

from geomap.leafmap import Map

m = Map()
m.add_species("Eschscholzia californica")
m.add_records(pd.DataFrame({"lon": [-119.9, -119.7, -119.5] * 9, "lat": [36 + k / 9 for k in range(27)]}))
m""",
    """both = Map()
both.split("Eschscholzia californica", "Quercus lobata")
both""",
]


def notebook(path):
    """A notebook of the cells."""
    cells = [
        {
            "cell_type": "code", "id": f"map{k}", "metadata": {}, "source": source, "outputs": [],
            "execution_count": None,
        }
        for k, source in enumerate(CELLS)
    ]  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells}))


@contextlib.contextmanager
def jupyterlab(folder, variables, base="/", token=""):
    """JupyterLab over a folder, on a free port, below a base URL; its address without a slash at its end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = folder / "CONFIG/lab/user-settings/@jupyterlab/apputils-extension"
    settings.mkdir(parents=True)
    # JupyterLab's question about news would lie over the map.
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    own = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
        "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        "--ServerApp.disable_check_xsrf=True", "--LabApp.check_for_updates_class="
        "jupyterlab.NeverCheckForUpdate", f"--ServerApp.root_dir={folder}",
        f"--ServerApp.base_url={base}",
    ]  # fmt: skip
    with (folder / "lab.log").open("w") as log:
        lab = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log,
            env={**os.environ, **own, **variables, "HOME": str(folder)},
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}{base}".rstrip("/")
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
    """Ids of the processes of tile servers below this one."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.cmdline()[1:3] == ["-m", "tiles"]:
                found.add(process.pid)
    return found


class Lab:
    """The page of a notebook in JupyterLab.

    Attributes:
        page: Playwright's page.
        tiles: Status and address of every tile that came.
        asked: Every address that was asked for.
    """

    def __init__(self, browser, address, token=""):
        self.page = browser.new_page(viewport={"width": 1300, "height": 1000})
        self.tiles, self.asked = [], []
        self.page.on("response", self._note)
        self.page.goto(f"{address}/lab/tree/map.ipynb?token={token}")
        self.page.locator('[data-status="idle"], [data-status="Idle"]').first.wait_for(timeout=90_000)

    def _note(self, answer):
        self.asked.append(answer.url)
        if "/tiles/WebMercatorQuad/" in answer.url:
            self.tiles.append((answer.status, answer.url))

    def run(self, number):
        """Run a cell, and wait for its map; the map."""
        cell = self.page.locator(".jp-Notebook .jp-Cell").nth(number)
        prompt = cell.locator(".jp-InputPrompt")

        def runs():  # before the kernel is connected, JupyterLab forgets what it is told
            cell.locator(".cm-content").click()
            self.page.keyboard.press("Control+Enter")
            self.page.wait_for_timeout(1000)
            return re.fullmatch(r"\[(\*|\d+)\]:", prompt.inner_text().strip())

        assert waited_on(self.page, runs)
        shown = cell.locator(".leaflet-container")
        shown.wait_for(timeout=120_000)
        shown.locator(".leaflet-tile-loaded").first.wait_for(timeout=90_000)
        self.page.wait_for_timeout(2000)  # tiles fade in
        return shown

    def at(self, shown, x, y):
        """Place on the page of a share of the width and height of a map."""
        box = shown.bounding_box()
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def tiles_that(self, part):
        """Wait until a tile came whose address holds a part, and all are there."""
        assert waited_on(self.page, lambda: any(part in url for _, url in self.tiles)), part
        self.page.wait_for_timeout(1500)


def waited_on(page, condition, seconds=60):
    """Whether a condition comes true in time, while the page goes on."""
    for _ in range(seconds * 10):
        if condition():
            return True
        page.wait_for_timeout(100)
    return False


def lightest(png):
    """Share of the lightest colour of maps, but for a little."""
    return share_of(png, palette()[:1, :3], 3)


def move_slider(lab, shown):
    """Drag the threshold to the right with the mouse: other tiles are asked for, and the map turns pale."""
    before = shown.screenshot()
    handle = shown.locator(".widget-hslider", has_text="Cut at").locator(".noUi-handle")
    box, track = handle.bounding_box(), shown.locator(".noUi-target").first.bounding_box()
    y = box["y"] + box["height"] / 2
    lab.page.mouse.move(box["x"] + box["width"] / 2, y)
    lab.page.mouse.down()
    lab.page.mouse.move(track["x"] + 0.95 * track["width"], y, steps=6)
    lab.page.mouse.up()
    lab.tiles_that("threshold=0.9")
    shown.get_by_text("At or above 0.9").wait_for(timeout=30_000)
    after = shown.screenshot()
    assert lightest(after) > lightest(before) + 0.05
    shown.locator("select").select_option(label="all values")
    shown.get_by_text("All values are drawn").wait_for(timeout=30_000)
    lab.page.wait_for_timeout(2000)
    assert abs(lightest(shown.screenshot()) - lightest(before)) < 0.02


def draw_polygon(lab, shown):
    """Draw a triangle with the mouse: the panel has its table."""
    shown.locator(".leaflet-draw-draw-polygon").click()
    for x, y in ((0.45, 0.35), (0.6, 0.35), (0.5, 0.55), (0.45, 0.35)):
        lab.page.mouse.click(*lab.at(shown, x, y))
        lab.page.wait_for_timeout(400)
    table = shown.locator("table", has_text="km² above")
    table.wait_for(timeout=60_000)
    cells = table.locator("td").all_inner_texts()
    assert cells[0].startswith("Eschscholzia californica")
    assert float(cells[1]) > 0 and cells[3].endswith("%")


def click_a_place(lab, shown):
    """Click on the map: the panel tells its value."""
    lab.page.mouse.click(*lab.at(shown, 0.42, 0.6))
    shown.get_by_text("What lives here").wait_for(timeout=60_000)
    assert re.search(
        r"Eschscholzia californica: [01]\.\d{3} suitability, (below|at or above)", shown.inner_text()
    )


@pytest.fixture
def variables(repository, tmp_path_factory, tmp_path):
    """Of a server of Jupyter whose kernels have a small bundle."""
    notebook(tmp_path / "map.ipynb")
    return {
        "GEOMAP_BUNDLE": str(made_bundle(tmp_path_factory)), "GEOMAP_TILES_CACHE_DIR": str(tmp_path),
        "GEOMAP_TILES_WARM": "no", "PYTHONPATH": str(repository),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.timeout(600)
def test_maps_are_seen_and_used_in_jupyterlab(browser, variables, tmp_path):
    with jupyterlab(tmp_path, variables) as address:
        lab = Lab(browser, address)
        shown = lab.run(0)
        picture = shown.screenshot(path=tmp_path / "map.png")
        assert "Eschscholzia californica: suitability" in shown.inner_text()
        assert "All values are drawn" in shown.inner_text()
        assert share_of(picture, rgb(SEA), 2) > 0.05
        assert share_of(picture, rgb(LAND), 2) > 0.05
        assert share_of(picture, palette()[: STEPS + 1 : 2, :3], 3) > 0.05
        assert share_of(picture, rgb(RECORDS), 30) > 0.0005
        move_slider(lab, shown)
        draw_polygon(lab, shown)
        shown.screenshot(path=tmp_path / "polygon.png")
        click_a_place(lab, shown)
        both = lab.run(1)
        lab.tiles_that("/species/quercus-lobata/")
        both.screenshot(path=tmp_path / "split.png")
        clips = both.locator(".leaflet-layer").evaluate_all(
            "all => all.map(each => each.style.clip).filter(Boolean)"
        )
        assert both.locator(".leaflet-sbs-divider").is_visible()
        assert len(set(clips)) == 2
        servers = tile_servers()
        lab.page.close()
        with urlopen(f"{address}/api/kernels", timeout=10) as answer:
            (kernel,) = json.load(answer)
        urlopen(Request(f"{address}/api/kernels/{kernel['id']}", method="DELETE"), timeout=30).close()
        assert waited(lambda: not any(map(psutil.pid_exists, servers)))
    assert all(status == 200 for status, _ in lab.tiles)
    assert [url for url in lab.asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
    assert len(servers) == 1  # of both maps


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.timeout(600)
def test_below_a_base_url_all_tiles_come_through_the_proxy_of_jupyter(browser, variables, tmp_path):
    with jupyterlab(tmp_path, variables, "/user/anna/", "a-token") as address:
        lab = Lab(browser, address, "a-token")
        picture = lab.run(0).screenshot(path=tmp_path / "proxied.png")
        lab.page.close()
    assert share_of(picture, palette()[: STEPS + 1 : 2, :3], 3) > 0.05
    assert lab.tiles and all(status == 200 for status, _ in lab.tiles)
    way = re.escape(f"{address}/proxy/") + r"\d+/species/eschscholzia-californica/tiles/"
    assert [url for _, url in lab.tiles if not re.match(way, url)] == []
