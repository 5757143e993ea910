"""What tests of the further routes of the tile server share: a bundle, rendered maps, a server."""

import threading
from contextlib import contextmanager

import pytest
import uvicorn

from geomap import render
from geomap.testing_bundle import make_bundle, small_california
from tiles.app import create_app
from tiles.settings import Settings

POPPY, OAK, REDWOOD = "eschscholzia-californica", "quercus-lobata", "sequoia-sempervirens"


def make_shelf(root):
    """A bundle at ROOT/bundle, and ROOT/maps/california with the map of the valley oak, rendered."""
    bundle = make_bundle(root / "bundle", [small_california()])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOMAP_BUNDLE", str(bundle))
        field = bundle / "fields" / "california.zarr.zip"
        chosen = ["--species", "Quercus lobata", "--heads", "california-plants", "--field", str(field)]
        assert render.main([*chosen, "--out", str(root / "maps")]) == 0
    return root


def app_of(root, patch, **settings):
    """The app over a shelf: its bundle, and its rendered maps unless others are named."""
    patch.setenv("GEOMAP_BUNDLE", str(root / "bundle"))
    given = {"maps": (str(root / "maps"),), "cache_dir": root / "cache", "warm": False}
    return create_app(Settings(**given | settings))


@contextmanager
def running(app, **options):
    """The app on a free port of localhost while the block runs; yields its address without a final slash."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            threading.Event().wait(0.02)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
