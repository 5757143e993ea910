"""The tile server: FastAPI around titiler's TilerFactory, over the maps that geomap.render wrote.

    uvicorn --factory tiles.app:create_app      # settings from GEOMAP_TILES_*; or python -m tiles

Nobody can name a file, a URL or an expression: a map is found by species and grid, its scale is 0..1 and its
colours are those of geomap.colour. Importing this module loads neither torch nor distributed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import morecantile
from fastapi import Depends, FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse
from morecantile.defaults import TileMatrixSets
from titiler.core.dependencies import DefaultDependency
from titiler.core.factory import TilerFactory

from geomap.colour import legend
from tiles.errors import QueryError, add_handlers
from tiles.library import SLUG, MapFile, find_map, item_of, maps_of
from tiles.page import index
from tiles.reader import MapReader, palette_png
from tiles.settings import Settings, from_environment

Species = Annotated[
    str, PathParameter(pattern=f"^{SLUG.pattern}$", description="Slug of the scientific name")
]
Grid = Annotated[str | None, Query(max_length=100, description="Name of the grid")]
TileSize = Annotated[int | None, Query(ge=256, le=512, multiple_of=256, description="Side in pixels")]
TAKEN = {"grid", "tilesize", "tile_format", "minzoom", "maxzoom"}


@dataclass
class PreviewSize(DefaultDependency):
    """A preview has one size: larger ones would let anybody use up the server's memory."""

    max_size: int = field(init=False, default=512)


class MapTiler(TilerFactory):
    """The part of titiler's routes that a map needs: tiles, TileJSON, point, preview."""

    def register_routes(self) -> None:
        """Register them."""
        wanted: tuple[Callable[[], None], ...] = (self.tile, self.tilejson, self.point, self.preview)
        for register in wanted:
            register()


def create_app(settings: Settings | None = None) -> FastAPI:
    """Assemble the server.

    Args:
        settings: What to serve; read from the environment when None.

    Raises:
        SettingsError: The settings make no sense, e.g. no folder of maps.
    """
    settings = settings or from_environment()
    # The interactive documentation would load scripts from elsewhere; /openapi.json stays.
    app = FastAPI(
        title="geomap", description="Species-distribution maps as tiles.", docs_url=None, redoc_url=None
    )
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET"])
    add_handlers(app)
    add_pages(app, settings)
    app.include_router(
        map_tiler(settings).router, prefix="/species/{species}", dependencies=[Depends(only_known_parameters)]
    )
    return app


def add_pages(app: FastAPI, settings: Settings) -> None:
    """The routes of our own: the page, the list of species, a map's STAC item, the health check."""

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/species")
    def species(request: Request) -> dict[str, Any]:
        return {"species": [summary(entry, request) for entry in maps_of(settings.maps)], "legend": legend()}

    @app.get("/species/{species}")
    def item(species: Species, grid: Grid = None) -> dict[str, Any]:
        return item_of(find_map(settings.maps, species, grid))

    @app.get("/", response_class=HTMLResponse)
    def page(request: Request) -> str:
        return index([summary(entry, request) for entry in maps_of(settings.maps)])


def map_tiler(settings: Settings) -> MapTiler:
    """Titiler over the maps of a folder, with no free choice but the species, the grid and the tile."""
    return MapTiler(
        reader=MapReader,
        path_dependency=path_of_map(settings),
        router_prefix="/species/{species}",
        layer_dependency=DefaultDependency,
        dataset_dependency=DefaultDependency,
        tile_dependency=DefaultDependency,
        img_preview_dependency=PreviewSize,
        process_dependency=nothing,
        colormap_dependency=nothing,
        render_dependency=DefaultDependency,
        render_func=palette_png,
        environment_dependency=gdal_environment,
        supported_tms=TileMatrixSets({"WebMercatorQuad": morecantile.tms.get("WebMercatorQuad")}),
    )


def path_of_map(settings: Settings) -> Callable[..., str]:
    """The dependency that turns /species/{species}?grid= into the path of a COG."""

    def path(species: Species, grid: Grid = None, tilesize: TileSize = None) -> str:
        return str(find_map(settings.maps, species, grid).cog)

    return path


def only_known_parameters(request: Request) -> None:
    """Refuse parameters that would be ignored, so that nobody takes a mistyped one for obeyed.

    Raises:
        QueryError: With the name of the first unknown one.
    """
    for name in request.query_params:
        if name not in TAKEN:
            raise QueryError("cannot answer", f"parameter {name!r}", f"Known are {', '.join(sorted(TAKEN))}.")


def gdal_environment() -> dict[str, str]:
    """GDAL's settings while a map is read: no listing of its folder, no threads below the server's own."""
    return {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_NUM_THREADS": "1"}


def nothing() -> None:
    """The dependency of a choice that is not offered."""


def summary(entry: MapFile, request: Request) -> dict[str, str]:
    """One line of the list of species, with the addresses of its map."""
    base = f"{str(request.base_url).rstrip('/')}/species/{entry.species}"
    return {
        "id": entry.species,
        "name": entry.name,
        "grid": entry.grid,
        "item": f"{base}?grid={entry.grid}",
        "tilejson": f"{base}/WebMercatorQuad/tilejson.json?grid={entry.grid}",
        "preview": f"{base}/preview.png?grid={entry.grid}",
    }
