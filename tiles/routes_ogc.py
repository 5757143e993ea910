"""Routes for clients of standards: TileJSON, WMTS, OGC API - Tiles."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from geomap.colour import DEFAULT
from tiles import ogc
from tiles.cuts import cut_of
from tiles.describe import origin
from tiles.errors import refusals
from tiles.headers import kept, kept_json
from tiles.lean import band_of
from tiles.parameters import Colormap, GridName, GroupName, Layer, Species, Threshold
from tiles.routes_tiles import Tms
from tiles.served import Served

ANSWERS = refusals(404, 422, 503)
XML: dict[int | str, dict[str, Any]] = {200: {"content": {"application/xml": {"schema": {"type": "string"}}}}}


def router(served: Served) -> APIRouter:
    """The routes of standards."""
    api = APIRouter(tags=["standards"])
    _add_maps(api, served)
    _add_server(api, served)
    return api


def _add_maps(api: APIRouter, served: Served) -> None:
    @api.get("/species/{species}/tilejson.json", summary="TileJSON", responses=ANSWERS)
    async def tilejson(
        request: Request, species: Species, grid: GridName = None, group: GroupName = None,
        layer: Layer = None, colormap: Colormap = DEFAULT, threshold: Threshold = None,
    ) -> Response:  # fmt: skip
        """Address, bounds and zoom levels of a map's coloured tiles, for Leaflet, MapLibre, QGIS."""

        def work() -> dict[str, Any]:
            chosen = served.shown.find(species, grid, group)
            cut_of(chosen.about, band_of(chosen.about, layer), threshold)
            color = None if colormap == DEFAULT else colormap
            return ogc.tilejson(chosen, origin(request), layer, color, threshold)

        return kept_json(request, await served.gate.run(work))

    @api.get(
        "/species/{species}/WMTSCapabilities.xml", summary="Capabilities of a WMTS",
        responses={**ANSWERS, **XML}, response_class=Response,
    )  # fmt: skip
    async def wmts(
        request: Request, species: Species, grid: GridName = None, group: GroupName = None
    ) -> Response:
        """Each layer of a map, for QGIS, GDAL and ArcGIS."""

        def work() -> bytes:
            return ogc.wmts(served.shown.find(species, grid, group), origin(request))

        return kept(request, await served.gate.run(work), "application/xml")

    @api.get("/species/{species}/tiles", summary="Tilesets of a map", responses=ANSWERS)
    async def tilesets(
        request: Request, species: Species, grid: GridName = None, group: GroupName = None
    ) -> Response:
        """OGC API - Tiles: a tileset for each tile matrix set."""

        def work() -> dict[str, Any]:
            return ogc.tilesets(served.shown.find(species, grid, group), origin(request))

        return kept_json(request, await served.gate.run(work))

    @api.get("/species/{species}/tiles/{tms}", summary="One tileset of a map", responses=ANSWERS)
    async def tileset(
        request: Request, species: Species, tms: Tms, grid: GridName = None, group: GroupName = None
    ) -> Response:
        """OGC API - Tiles: the tiles of a map in one tile matrix set."""

        def work() -> dict[str, Any]:
            return ogc.tileset(served.shown.find(species, grid, group), origin(request), tms)

        return kept_json(request, await served.gate.run(work))


def _add_server(api: APIRouter, served: Served) -> None:
    @api.get("/tileMatrixSets", summary="Tile matrix sets", responses=refusals(422, 503))
    async def tile_matrix_sets(request: Request) -> Response:
        """The tile matrix sets that every map is given in."""
        return kept_json(request, await served.gate.run(ogc.tile_matrix_sets, origin(request)))

    @api.get("/tileMatrixSets/{tms}", summary="One tile matrix set", responses=refusals(422, 503))
    async def tile_matrix_set(request: Request, tms: Tms) -> Response:
        """The definition of a tile matrix set (OGC 17-083r4)."""
        found = ogc.tile_matrix_set(tms).model_dump(exclude_none=True, mode="json")
        return kept_json(request, found)

    @api.get("/conformance", summary="Conformance to OGC API", responses=refusals(422, 503))
    async def conformance(request: Request) -> Response:
        """The parts of OGC API that this server conforms to."""
        return kept_json(request, await served.gate.run(ogc.conformance))

    @api.get("/api", summary="Landing page of OGC API", responses=refusals(422, 503))
    async def landing(request: Request) -> Response:
        """Where everything is."""
        return kept_json(request, await served.gate.run(ogc.landing, origin(request)))
