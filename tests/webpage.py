"""A tile server with a small bundle, and a browser's visit to its page that notes what goes wrong."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from playwright.sync_api import Browser, Page, expect

from geomap.grid import named_grid
from geomap.layers import Layer, write_layers
from geomap.testing_bundle import make_bundle, small_california

WEB = Path(__file__).resolve().parents[1] / "tiles" / "web"
MODOC, FRESNO, SEA = (-120.6, 41.5), (-119.8, 36.8), (-126.5, 36.0)  # lon, lat
START_S = 60
PATIENCE_MS = 15_000
PIXEL = """([x, y, pane]) => {
  for (const canvas of document.querySelectorAll(`${pane} canvas`)) {
    const box = canvas.getBoundingClientRect();
    if (x < box.left || x >= box.right || y < box.top || y >= box.bottom) continue;
    const at = [(x - box.left) / box.width * canvas.width, (y - box.top) / box.height * canvas.height];
    return [...canvas.getContext("2d").getImageData(Math.floor(at[0]), Math.floor(at[1]), 1, 1).data];
  }
  return null;
}"""
COLOURS = """(pane) => {
  const seen = new Set();
  for (const canvas of document.querySelectorAll(`${pane} canvas`)) {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const pixels = new Uint32Array(data.buffer);
    for (const pixel of pixels) seen.add(pixel);
  }
  return [...seen].map((pixel) => [pixel & 255, (pixel >> 8) & 255, (pixel >> 16) & 255, pixel >>> 24]);
}"""


def need_the_page() -> None:
    """Fail, rather than skip, where nobody has built the page."""
    built = WEB.parent / "static" / "manifest.json"
    assert built.is_file(), "the web page has not been built: run make web"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server in a process of its own, with two small grids and three groups."""
    need_the_page()
    abroad = replace(named_grid("north-america", 200_000.0), name="north-america")
    bundle = make_bundle(folder / "bundle", [small_california(), abroad], home="")  # offered on both
    keep_records(bundle / "heads" / "california-plants" / "records.parquet")
    draw_seasons(folder / "maps" / "california" / "seasons.tif")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "GEOMAP_BUNDLE": str(bundle), "GEOMAP_TILES_PORT": str(port)}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "tiles"], env=environment, cwd=folder, stdout=log, stderr=log
        )
    try:
        address = f"http://127.0.0.1:{port}/"
        _wait_for(address, server, folder / "log")
        yield address
    finally:
        server.terminate()
        server.wait(timeout=20)


def draw_seasons(file: Path) -> None:
    """A map of photos with two layers for each of two months, and one for all of the year."""
    geobox = small_california().geobox
    file.parent.mkdir(parents=True)
    layers = [Layer(f"habitat similarity in month {month}", "cosine") for month in (5, 11)]
    layers += [Layer("location prior: Aquila", "suitability")]
    layers += [Layer(f"habitat and range in month {month}", "suitability") for month in (5, 11)]
    slope = np.linspace(0, 1, geobox.width, dtype=np.float32)[None, None, :]
    values = np.broadcast_to(slope, (len(layers), *geobox.shape)) * np.arange(0.2, 1.1, 0.2)[:, None, None]
    write_layers(file, [(0, values.astype(np.float32))], geobox, layers, {"GEOMAP_PHOTOS": "2"})


def keep_records(file: Path) -> None:
    """Records of the valley oak: 30 at one place, 3 at places of their own, 2 whose places are a secret."""
    places = [(-119.5, 36.5)] * 30 + [(-122.5, 40.5), (-121.0, 38.0), (-117.0, 33.5), *[(-120.0, 37.0)] * 2]
    table = pd.DataFrame(places, columns=["decimalLongitude", "decimalLatitude"])
    table["decimalLongitude"] += 1e-4 * np.arange(len(table))  # no two records are one
    table["scientificName"] = "Quercus lobata"
    table["informationWithheld"] = [""] * 33 + ["Coordinates hidden"] * 2
    table.to_parquet(file)


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            get_json(f"{address}groups")
        except urllib.error.URLError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"the server did not start: {log.read_text()[-2000:]}")


def get_json(address: str) -> Any:
    """The JSON at an address of this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=30) as answer:
        return json.load(answer)


@dataclass
class Visit:
    """A page in a browser, with what it asked for and what it complained of."""

    page: Page
    address: str
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def go(self, hash_: str = "") -> Visit:
        """Load the page and wait until its map is painted."""
        self.page.goto(f"{self.address}{hash_}")
        return self.painted()

    def painted(self) -> Visit:
        """Wait until the species is known and its tiles are there."""
        expect(self.page.locator("#about h2")).to_be_visible(timeout=PATIENCE_MS)
        expect(self.page.locator("#map:not([aria-busy])")).to_be_visible(timeout=PATIENCE_MS)
        expect(self.page.locator(".values canvas").first).to_be_attached(timeout=PATIENCE_MS)
        return self

    @property
    def tiles(self) -> list[str]:
        """Addresses of tiles asked for so far."""
        return [url for url in self.asked if "/tiles/" in url]

    @property
    def abroad(self) -> list[str]:
        """Requests beyond the server itself."""
        own = "/".join(self.address.split("/")[:3]) + "/"
        return [url for url in self.asked if not url.startswith((own, "data:", "blob:"))]

    def client(self, lonlat: tuple[float, float]) -> tuple[float, float]:
        """Where a place lies in the window, from the view in the page's address."""
        said = self.page.url.split("map=")[1].split("&")[0].split("/")
        zoom, lat, lon = (float(part) for part in said)
        box = self.page.locator("#map").bounding_box()
        assert box is not None
        size = 256 * 2**zoom
        (x, y), (x0, y0) = _mercator(lonlat), _mercator((lon, lat))
        return box["x"] + box["width"] / 2 + (x - x0) * size, box["y"] + box["height"] / 2 + (y - y0) * size

    def pixel(self, lonlat: tuple[float, float], pane: str = ".leaflet-first-pane") -> list[int] | None:
        """RGBA of the painted tile at a place; None where there is no tile."""
        found: list[int] | None = self.page.evaluate(PIXEL, [*self.client(lonlat), pane])
        return found

    def colours(self, pane: str = ".leaflet-first-pane") -> set[tuple[int, ...]]:
        """Every RGBA of the painted tiles."""
        return {tuple(colour) for colour in self.page.evaluate(COLOURS, pane)}

    def click(self, lonlat: tuple[float, float]) -> None:
        """Click at a place of the map."""
        self.page.mouse.click(*self.client(lonlat))

    def choose(self, text: str, box: str = "#search") -> None:
        """Type into a search box and take the first that it lists."""
        self.page.locator(box).click()
        self.page.locator(box).fill(text)
        options = self.page.locator(f"{box}-list [role=option]")
        expect(options.first).to_contain_text(text, ignore_case=True, timeout=PATIENCE_MS)
        options.first.click()


def _mercator(lonlat: tuple[float, float]) -> tuple[float, float]:
    lon, lat = lonlat
    return (lon + 180) / 360, (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2


@contextmanager
def visiting(browser: Browser, address: str, **context: Any) -> Iterator[Visit]:
    """A visit to the page; keyword arguments are those of a browser's context."""
    options = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce", **context}
    with browser.new_context(**options) as window:
        page = window.new_page()
        visit = Visit(page, address)
        page.on("request", lambda request: visit.asked.append(request.url))
        page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        page.on("console", lambda said: visit.complaints.append(said.text) if said.type == "error" else None)
        yield visit


def palette_of(address: str, species: str, colormap: str = "ylorbr") -> list[tuple[int, ...]]:
    """RGBA of the 251 levels in the legend of a species."""
    legend = get_json(f"{address}species/{species}/legend.json?colormap={colormap}")
    return [(*bytes.fromhex(colour[1:]), 255) for colour in legend["palette"]]
