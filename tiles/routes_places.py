"""Places and groups: what lives here, and what groups, grids and colour maps there are."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from geomap.colour import RAMPS
from tiles.describe import default_threshold, root
from tiles.errors import NotServedError, refusals
from tiles.headers import kept_json
from tiles.maps import About, GridAbout, GroupAbout
from tiles.parameters import GridName, GroupName, Lat, Lon, place
from tiles.served import Served
from tiles.shown import ordered_grids


def router(served: Served) -> APIRouter:
    """The routes /at and /groups."""
    api = APIRouter(tags=["places"])

    @api.get("/groups", summary="Groups of species, grids and colour maps", responses=refusals(422, 503))
    async def groups(request: Request) -> Response:
        """What a client offers to choose from."""

        def work() -> dict[str, Any]:
            shown = served.shown
            return {
                "groups": [_group(group, root(request)) for group in shown.groups()],
                "grids": [_grid(grid) for grid in shown.grids()],
                "colormaps": list(RAMPS),
            }

        return kept_json(request, await served.gate.run(work))

    @api.get("/at/{lon},{lat}", summary="What lives here", responses=refusals(404, 422, 503))
    async def at(
        request: Request, lon: Lon, lat: Lat, grid: GridName = None, group: GroupName = None,
        limit: Annotated[int, Query(ge=1, le=500, description="Most species to tell")] = 20,
    ) -> Response:  # fmt: skip
        """Species of a place, those first that lie highest above their threshold."""
        x, y = place(lon, lat)

        def work() -> dict[str, Any]:
            check_there(served, grid, group)
            found = served.shown.at(x, y, grid, group, limit)
            grids = ordered_grids([about for about, _ in found])
            species = [_living(about, value) for about, value in found]
            return {"lon": x, "lat": y, "grid": grid or (grids[0] if grids else None), "species": species}

        return kept_json(request, await served.gate.run(work))

    return api


def check_there(served: Served, grid: str | None, group: str | None) -> None:
    """Refuse a grid or a group that no map has.

    Raises:
        NotServedError: There is none of that name.
    """
    maps = served.shown.listing.maps
    for kind, wanted in (("grid", grid), ("group", group)):
        there = {getattr(about, kind) for about in maps}
        if wanted is not None and wanted not in there:
            raise NotServedError("cannot answer", f"no {kind} {wanted!r}", "GET /groups lists what there is.")


def _living(about: About, value: float) -> dict[str, Any]:
    key = default_threshold(about)
    limit = about.thresholds[key].value if key else None
    return {
        "id": about.id,
        "scientificName": about.scientific,
        "vernacularName": about.vernacular,
        "group": about.group,
        "grid": about.grid,
        "meaning": about.meaning,
        "value": value,
        "threshold": limit,
        "above": None if limit is None else bool(value >= limit),
    }


def _group(group: GroupAbout, base: str) -> dict[str, Any]:
    return {
        "name": group.name,
        "title": group.title,
        "meaning": group.meaning,
        "species": group.species,
        "grids": list(group.grids),
        "credit": group.credit,
        "licence": group.licence,
        "href": f"{base}/species?group={group.name}",
    }


def _grid(grid: GridAbout) -> dict[str, Any]:
    return {
        "name": grid.name,
        "title": grid.title,
        "crs": grid.crs,
        "resolution": grid.resolution,
        "unit": grid.unit,
        "bbox": list(grid.bbox),
    }
