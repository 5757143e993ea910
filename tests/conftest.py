"""What every test stands on: no setting leaks in from the shell, and nothing reaches beyond this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from playwright.sync_api import Browser, sync_playwright

# Names that change what a library or a command does; a developer's own values must not decide a test.
# GEOMAP_SHARED stays: it says where the shared data are.
SCRUBBED = ("AWS_", "CPL_", "DASK_", "GDAL_", "GEOMAP_", "GS_", "OGR_", "STAC_", "TITILER_", "VSI_")
KEPT = {"GEOMAP_SHARED"}
DEAD_PROXY = "http://127.0.0.1:9"  # the discard port: nothing listens there

for name in list(os.environ):
    if name.startswith(SCRUBBED) and name not in KEPT:
        del os.environ[name]

# pytest-socket guards Python's own sockets; GDAL and child processes obey these.
os.environ.update(http_proxy=DEAD_PROXY, https_proxy=DEAD_PROXY, no_proxy="127.0.0.1,::1,localhost")
os.environ.update(
    COLUMNS="120",  # width of rich's tables
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    NO_COLOR="1",
    OMP_NUM_THREADS="1",  # as the workers of a sweep run
    TERM="dumb",
)
for name in ("FORCE_COLOR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy", "ALL_PROXY"):
    os.environ.pop(name, None)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]

# Deadlines would fail on a busy machine; examples are the same in every run.
settings.register_profile(
    "geomap",
    deadline=None,
    derandomize=True,
    max_examples=40,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("geomap")


@pytest.fixture(autouse=True)
def steady_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what a test does to the environment variables of the project."""
    for name in [name for name in os.environ if name.startswith("GEOMAP_") and name not in KEPT]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle of made-up heads and fields."""
    from geomap.testing_bundle import make_bundle  # not above: it loads numpy, before the threads are set

    return make_bundle(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture
def shipped(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tiny bundle is the shipped one, and the grid `california` has cells of 20 km."""
    import geomap.grid

    monkeypatch.setenv("GEOMAP_BUNDLE", str(bundle))
    monkeypatch.setitem(geomap.grid.NAMED, "california", (None, "EPSG:3310", 20_000.0))
    geomap.grid._named.cache_clear()
    yield
    geomap.grid._named.cache_clear()


@pytest.fixture(scope="module")  # not the session: while it is open, no event loop can run in this thread
def browser() -> Iterator[Browser]:
    """The system's Chromium, headless."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        assert os.environ.get("CI", "").lower() != "true", "no browser, and in CI nothing may be skipped"
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed; make test installs one")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=BROWSER_FLAGS)
        yield chromium
        chromium.close()
