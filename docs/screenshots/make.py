"""Makes the pictures of maps in this folder anew, from the shipped bundle, with the system's Chromium.

    make screenshots
    python docs/screenshots/make.py jupyterlab      # only these

Look at them before they are committed: a picture of a map that is wrong is worse than none.
"""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import notebook
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LARGEST = 250_000  # bytes
PATIENCE_MS = 60_000
LAB = "jupyterlab"  # the picture that is made by notebook.py
DESKTOP, PHONE = (1280, 860), (390, 844)
# Name -> size of the window, view, and what must be there before the picture is taken.
VIEWS: dict[str, tuple[tuple[int, int], str, str]] = {
    "poppy-threshold": (
        DESKTOP,
        "species=eschscholzia-californica&group=california-plants&grid=california&show=cut&threshold=p10",
        "#threshold-area:has-text('km²')",
    ),
    "goldfinch-place": (
        DESKTOP,
        "species=spinus-lawrencei&grid=california&map=7/36.6000/-120.4000&place=36.5,-121.5&theme=dark",
        "#lives li",
    ),
    "compare": (
        DESKTOP,
        "species=spinus-lawrencei&grid=california&compare=toxostoma-redivivum&split=46",
        ".values.second .leaflet-tile-loaded",
    ),
    "phone": (
        PHONE,
        "species=spinus-lawrencei&grid=california&map=5/37.3000/-119.3000",
        ".score",
    ),
}


def main() -> None:
    """Take every picture, or those that are named."""
    names = sys.argv[1:] or [*VIEWS, LAB]
    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        if found is None:
            sys.exit(f"No browser: install one of {', '.join(BROWSERS)}.")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        if LAB in names:
            save(notebook.picture(browser), LAB)
        if views := [name for name in names if name != LAB]:
            with server() as address:
                for name in views:
                    save(take(browser, address, name), name)
        browser.close()


def take(browser: Browser, address: str, name: str) -> bytes:
    """One picture of the web map as PNG."""
    (width, height), view, awaited = VIEWS[name]
    size = {"width": width, "height": height}
    page = browser.new_page(viewport=size, reduced_motion="reduce", has_touch=width < 500)  # type: ignore[arg-type]
    page.goto(f"{address}#{view}")
    for selector in ("#about h2", awaited, "#map:not([aria-busy])"):
        page.wait_for_selector(selector, timeout=PATIENCE_MS, state="attached")
    if name == "goldfinch-place":
        page.locator("summary", has_text="At a place").evaluate("each => each.scrollIntoView()")
    page.wait_for_timeout(1000)  # the outlines are drawn in the next frames
    png = page.screenshot()
    page.close()
    return png


def save(png: bytes, name: str) -> None:
    """Keep a picture, without loss: a palette would put steps into the ramps."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    file = HERE / f"{name}.webp"
    picture.save(file, lossless=True, quality=100, method=6)
    if file.stat().st_size > LARGEST:
        sys.exit(
            f"{file} has {file.stat().st_size} bytes; more than {LARGEST} do not belong into the repository."
        )
    print(f"{file} {file.stat().st_size} bytes")


@contextmanager
def server() -> Iterator[str]:
    """The address of a tile server with the shipped bundle."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "tiles", "--port", str(port)], cwd=HERE.parents[1])
    address = f"http://127.0.0.1:{port}/"
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"{address}healthz", timeout=10).close()
            except urllib.error.URLError:
                time.sleep(0.2)
            else:
                yield address
                return
        sys.exit("The server did not start.")
    finally:
        process.terminate()
        process.wait(timeout=30)


if __name__ == "__main__":
    main()
