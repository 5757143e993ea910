"""Species as JSON and text: the list, the search, and all about one map, one place, one polygon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tiles import describe, words
from tiles.body import read_polygon
from tiles.describe import known, links, origin, root
from tiles.errors import NotServedError, refusals
from tiles.headers import kept, kept_json
from tiles.lean import band_of
from tiles.maps import About, SpeciesMap
from tiles.parameters import GridName, GroupName, Lat, Layer, Lon, Species, Threshold, Version, place
from tiles.served import Served

ANSWERS = refusals(404, 422, 503)
RING = {
    "type": "array",
    "minItems": 4,
    "items": {"type": "array", "minItems": 2, "items": {"type": "number"}},
}
POLYGON: dict[str, Any] = {
    "type": "object",
    "required": ["type", "coordinates"],
    "properties": {
        "type": {"const": "Polygon"},
        "coordinates": {"type": "array", "minItems": 1, "items": RING},
    },
    "example": {
        "type": "Polygon",
        "coordinates": [[[-120, 36], [-118, 36], [-118, 38], [-120, 38], [-120, 36]]],
    },
}
BODY = {"required": True, "content": {"application/json": {"schema": POLYGON}}}


def router(served: Served) -> APIRouter:
    """The routes below /species that answer in JSON or text."""
    api = APIRouter(tags=["species"])
    _add_lists(api, served)
    _add_descriptions(api, served)
    _add_questions(api, served)
    return api


def check_version(about: About, version: str | None) -> bool:
    """Whether a request names the map's version, so that its answer stays true for ever.

    Raises:
        NotServedError: It names another version.
    """
    if version is not None and version != about.version:
        raise NotServedError(
            f"cannot show {about.id}", f"version {version}", f"The map is now of version {about.version}."
        )
    return version is not None


def _add_lists(api: APIRouter, served: Served) -> None:
    @api.get(
        "/species", summary="Species that can be shown, or that a name finds", responses=refusals(422, 503)
    )
    async def species(
        request: Request,
        search: Annotated[
            str, Query(max_length=200, description="Scientific, common or older name", examples=["poppy"])
        ] = "",
        group: GroupName = None,
        grid: GridName = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="Most species to tell")] = 100,
        offset: Annotated[int, Query(ge=0, le=1_000_000, description="Species to pass over")] = 0,
    ) -> Response:
        """Every species once, by its best map: probability before suitability, then the higher AUC."""

        def work() -> dict[str, Any]:
            listing, index = served.index()
            species = list(listing.species.values())
            found = [species[k] for k in index.search(search)]
            found = [some for maps in found if (some := _on(maps, group, grid))]
            base = root(request)
            shown = [describe.summary(maps, base) for maps in found[offset : offset + limit]]
            return {"total": len(found), "species": shown}

        return kept_json(request, await served.gate.run(work))


def _on(maps: tuple[About, ...], group: str | None, grid: str | None) -> tuple[About, ...]:
    """The maps of a group and grid, either if None."""
    return tuple(each for each in maps if group in (None, each.group) and grid in (None, each.grid))


def _add_descriptions(api: APIRouter, served: Served) -> None:
    async def about_map(
        request: Request, species: str, grid: str | None, group: str | None, v: str | None,
        work: Callable[[SpeciesMap], dict[str, Any]],
    ) -> Response:  # fmt: skip
        def inner() -> tuple[dict[str, Any], bool]:
            chosen = served.shown.find(species, grid, group)
            return work(chosen), check_version(chosen.about, v)

        content, forever = await served.gate.run(inner)
        return kept_json(request, content, forever=forever)

    async def info(
        request: Request, species: Species, grid: GridName = None, group: GroupName = None, v: Version = None
    ) -> Response:
        """Names, meaning in plain words, thresholds with areas, scores beside null, layers, credit, links."""

        def work(chosen: SpeciesMap) -> dict[str, Any]:
            maps = served.shown.of(species)
            return describe.description(chosen, maps, served.areas(chosen), root(request))

        return await about_map(request, species, grid, group, v, work)

    api.get("/species/{species}", summary="All about a map", responses=ANSWERS)(info)
    api.get("/species/{species}/info", summary="All about a map", responses=ANSWERS, name="info_again")(info)

    @api.get("/species/{species}/stats", summary="What a whole map holds", responses=ANSWERS)
    async def stats(
        request: Request, species: Species, grid: GridName = None, group: GroupName = None,
        layer: Layer = None, v: Version = None,
    ) -> Response:  # fmt: skip
        """Minimum, maximum, mean, histogram and curve of true areas."""

        def work(chosen: SpeciesMap) -> dict[str, Any]:
            return served.statistics(chosen, band_of(chosen.about, layer))

        return await about_map(request, species, grid, group, v, work)

    @api.get(
        "/species/{species}/citation", summary="How to cite a map",
        responses={**ANSWERS, 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )  # fmt: skip
    async def citation(
        request: Request, species: Species, grid: GridName = None, group: GroupName = None
    ) -> Response:
        """The map with its version, and everybody whose data are in it."""
        about = await served.gate.run(served.shown.choose, species, grid, group)
        address = links(about, origin(request))["self"]
        return kept(request, words.citation(about, address).encode(), "text/plain; charset=utf-8")


def _add_questions(api: APIRouter, served: Served) -> None:
    @api.get("/species/{species}/point/{lon},{lat}", summary="Value at a place", responses=ANSWERS)
    async def point(
        request: Request, species: Species, lon: Lon, lat: Lat,
        grid: GridName = None, group: GroupName = None, v: Version = None,
    ) -> Response:  # fmt: skip
        """The value, on which side of each threshold it lies, and every further layer; null without data."""
        x, y = place(lon, lat)

        def work() -> tuple[dict[str, Any], bool]:
            chosen = served.shown.find(species, grid, group)
            return answer_point(served, chosen, x, y), check_version(chosen.about, v)

        content, forever = await served.gate.run(work)
        return kept_json(request, content, forever=forever)

    @api.post(
        "/species/{species}/summary", summary="What a map holds in a polygon",
        responses=refusals(404, 413, 422, 503),
        openapi_extra={"requestBody": BODY},
    )  # fmt: skip
    async def summary(
        request: Request, species: Species, grid: GridName = None, group: GroupName = None,
        layer: Layer = None, threshold: Threshold = None,
    ) -> Response:  # fmt: skip
        """Area-weighted mean, extremes, and area at or above each threshold in a GeoJSON polygon."""
        polygon = await read_polygon(request, served.settings)

        def work() -> dict[str, Any]:
            from tiles.zonal import summarise

            chosen = served.shown.find(species, grid, group)
            return summarise(chosen, polygon, band_of(chosen.about, layer), threshold)

        return kept_json(request, await served.gate.run(work))


def answer_point(served: Served, chosen: SpeciesMap, lon: float, lat: float) -> dict[str, Any]:
    """What a map says of a place.

    Raises:
        MapError: The map cannot be read.
    """
    from tiles.paint import point
    from tiles.records import nearest

    about, values = chosen.about, point(chosen, lon, lat)
    value = values[0]
    verdicts = {
        key: {"value": limit.value, "above": None if value is None else bool(value >= limit.value)}
        for key, limit in about.thresholds.items()
        if known(about, key)
    }
    bands = zip(about.bands, values, strict=True)
    return {
        "lon": lon,
        "lat": lat,
        "value": value,
        "unit": about.bands[0].unit,
        "thresholds": verdicts,
        "layers": [{"name": band.name, "value": each, "unit": band.unit} for band, each in bands],
        "records": nearest(served.settings, about, lon, lat),
    }
