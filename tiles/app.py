"""The tile server as an ASGI application.

    uvicorn tiles.app:app                       # settings from GEOMAP_TILES_*; or python -m tiles

Nobody can name a file, a URL or an expression: a map is found by species, grid and group, and drawn with the
colours of geomap.colour. Importing this module reads no settings, opens nothing, and loads neither torch nor
distributed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette_compress import CompressMiddleware, remove_compress_type

from geomap.errors import GeomapError
from tiles import (
    download,
    leafmap_page,
    records,
    routes_compare,
    routes_docs,
    routes_health,
    routes_legend,
    routes_ogc,
    routes_places,
    routes_species,
    stac_routes,
)
from tiles.errors import add_handlers
from tiles.observe import Metrics, configure_logging
from tiles.outside import Outside
from tiles.page import page_router
from tiles.parameters import declared_only
from tiles.routes_tiles import add_tiles
from tiles.served import Served
from tiles.settings import Settings, from_environment

DESCRIPTION = (
    "Maps of where species live: tiles, values, statistics, and what the numbers mean. Parameters that a "
    "route does not declare are refused. Every refusal says what cannot be done, what was found, and what to "
    "change."
)
EXPOSED = ["ETag", "Content-Range", "Content-Disposition", "Server-Timing", "X-Request-ID"]
logger = logging.getLogger(__name__)


def __getattr__(name: str) -> Any:
    """The attribute `app`, made when a server asks for it."""
    if name == "app":
        settings = from_environment()
        configure_logging(settings)
        return create_app(settings)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def create_app(settings: Settings | None = None) -> FastAPI:
    """Assemble the server.

    Args:
        settings: What to serve; read from the environment when None.

    Returns:
        The app. Its maps are opened when it starts, or when they are first asked for.

    Raises:
        SettingsError: The settings make no sense, e.g. no folder of maps.
    """
    settings = settings or from_environment()
    served, metrics = Served(settings), Metrics()
    served.drawn = metrics.draws.observe
    # The interactive documentation of FastAPI loads scripts from elsewhere; /docs is our own.
    app = FastAPI(
        title="geomap", version=version("geomap"), description=DESCRIPTION, docs_url=None, redoc_url=None,
        redirect_slashes=False, lifespan=_lifespan(served), dependencies=[Depends(declared_only)],
    )  # fmt: skip
    app.state.served = served
    app.state.query_names = {}
    add_handlers(app)
    _add_layers(app, settings, metrics)
    routes_compare.add_compare_tiles(app, served)
    add_tiles(app, served)
    for part in (routes_species, routes_legend, routes_ogc, routes_places, routes_compare):
        app.include_router(part.router(served))
    app.include_router(routes_health.router(served, metrics))
    for module in (stac_routes, download, records, leafmap_page):
        app.include_router(module.router(served.shown, settings))
    app.include_router(routes_docs.router(app))
    app.include_router(page_router(settings))
    return app


def _add_layers(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Compression of text, answers to other origins, and what holds for every request; innermost first."""
    remove_compress_type("image/x-icon")
    app.add_middleware(CompressMiddleware, zstd=False)
    app.add_middleware(
        CORSMiddleware, allow_origins=list(settings.cors_origins), allow_methods=["GET", "HEAD", "POST"],
        allow_headers=["Content-Type", "If-None-Match", "Range", "X-Request-ID"], expose_headers=EXPOSED,
    )  # fmt: skip
    app.add_middleware(Outside, metrics=metrics, root_path=settings.root_path, proxies=settings.proxies)


def _lifespan(served: Served) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        """Open the maps before the first request, compute ahead beside it, and end the threads."""
        await served.gate.run(lambda: served.shown.listing)
        opening = asyncio.create_task(_open_fields(served))
        warmer = await served.gate.run(served.shown.warm) if served.settings.warm else None
        yield
        opening.cancel()
        if warmer is not None:
            await asyncio.to_thread(warmer.stop)
        served.gate.close()

    return lifespan


async def _open_fields(served: Served) -> None:
    """Read a sample of every grid, so that the first visitor does not wait; a failure is only logged."""
    try:
        await served.gate.run(served.shown.ready)
    except (GeomapError, OSError) as error:
        logger.error("no sample tile can be drawn: %s", error)
