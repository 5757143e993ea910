"""Legends of maps, in three formats."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from geomap.colour import DEFAULT
from tiles import legend
from tiles.errors import refusals
from tiles.headers import kept, to_json
from tiles.lean import band_of
from tiles.parameters import Colormap, GridName, GroupName, Layer, Species, Version
from tiles.routes_species import check_version
from tiles.served import Served

MEDIA = {"json": "application/json", "svg": "image/svg+xml", "png": "image/png"}


def router(served: Served) -> APIRouter:
    """The legends below /species."""
    api = APIRouter(tags=["species"])

    async def answer(
        kind: str, request: Request, species: str, grid: str | None, group: str | None, layer: str | None,
        colormap: str, v: str | None,
    ) -> Response:  # fmt: skip
        def work() -> tuple[bytes, bool]:
            about = served.shown.choose(species, grid, group)
            forever, band = check_version(about, v), about.bands[band_of(about, layer)]
            if kind == "json":
                return to_json(legend.legend_json(about, band, colormap)), forever
            if kind == "svg":
                return legend.legend_svg(about, band, colormap).encode(), forever
            return legend.legend_png(about, band, colormap), forever

        body, forever = await served.gate.run(work)
        return kept(request, body, MEDIA[kind], forever=forever)

    def add(kind: str) -> None:
        async def legend_of(
            request: Request, species: Species, grid: GridName = None, group: GroupName = None,
            layer: Layer = None, colormap: Colormap = DEFAULT, v: Version = None,
        ) -> Response:  # fmt: skip
            """Colours and what they mean, from the palette of the tiles."""
            return await answer(kind, request, species, grid, group, layer, colormap, v)

        api.get(
            f"/species/{{species}}/legend.{kind}", summary=f"Legend as {kind.upper()}", name=f"legend_{kind}",
            responses={**refusals(404, 422, 503), 200: {"content": {MEDIA[kind]: {}}}},
            response_class=Response,
        )(legend_of)  # fmt: skip

    for kind in MEDIA:
        add(kind)
    return api
