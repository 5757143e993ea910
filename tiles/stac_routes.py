"""The maps as a STAC catalogue at /stac, for QGIS, stac-browser, pystac and whoever walks links.

    catalogue  /stac
    └── collection  /stac/collections/GRID.GROUP
        └── item  /stac/collections/GRID.GROUP/items/SPECIES

Each document links to all that lie below it, so the whole can be walked without any search.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from tiles.describe import origin
from tiles.errors import NotServedError, refusals
from tiles.headers import kept_json
from tiles.maps import About
from tiles.parameters import NAME, Species
from tiles.settings import Settings
from tiles.shown import Shown

CollectionId = Annotated[
    str,
    Path(
        pattern=f"^{NAME}$",
        max_length=200,
        description="GRID.GROUP",
        examples=["california.california-plants"],
    ),
]
GEOJSON: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/geo+json": {"schema": {"type": "object"}}}}
}


def router(library: Shown, settings: Settings) -> APIRouter:
    """The routes below /stac.

    Args:
        library: The maps that may be seen.
        settings: For the largest map that is made on demand.
    """
    api = APIRouter(tags=["stac"])

    @api.get("/stac", summary="The catalogue", responses=refusals(422, 503))
    def catalog(request: Request) -> Response:
        """A STAC Catalog, and the landing page of a STAC API that has collections."""
        from tiles import stac_documents as documents

        titles = {key: documents.collection_title(maps[0]) for key, maps in collections(library).items()}
        return kept_json(request, documents.catalog(titles, origin(request)))

    @api.get("/stac/conformance", summary="What the catalogue conforms to", responses=refusals(422, 503))
    def conformance(request: Request) -> Response:
        """Conformance classes of STAC API."""
        from tiles.stac_documents import CONFORMANCE

        return kept_json(request, {"conformsTo": list(CONFORMANCE)})

    @api.get("/stac/collections", summary="All collections", responses=refusals(422, 503))
    def all_collections(request: Request) -> Response:
        """Every group on every grid, without the links to its Items."""
        base = origin(request)
        found = [_collection(library, maps, base, items=False) for maps in collections(library).values()]
        here = {"rel": "self", "href": f"{base}/stac/collections", "type": "application/json"}
        up = {"rel": "root", "href": f"{base}/stac", "type": "application/json"}
        return kept_json(request, {"collections": found, "links": [here, up]})

    @api.get("/stac/collections/{collection}", summary="A collection", responses=refusals(404, 422, 503))
    def one_collection(request: Request, collection: CollectionId) -> Response:
        """A group on a grid, with links to all its Items."""
        maps = members(library, collection)
        return kept_json(request, _collection(library, maps, origin(request), items=True))

    @api.get(
        "/stac/collections/{collection}/items/{species}", summary="A map",
        responses={**refusals(404, 422, 503), **GEOJSON}, response_class=Response,
    )  # fmt: skip
    def one_item(request: Request, collection: CollectionId, species: Species) -> Response:
        """A map as a STAC Item."""
        about = next((each for each in members(library, collection) if each.id == species), None)
        if about is None:
            found = f"no {species!r} in {collection}"
            raise NotServedError(
                "cannot show the Item", found, f"/stac/collections/{collection} links to all."
            )
        return kept_json(
            request, _item(library, settings, about, origin(request)), media_type="application/geo+json"
        )

    return api


def collections(library: Shown) -> dict[str, list[About]]:
    """Id of each collection -> its maps, in the library's order."""
    from tiles.stac_documents import collection_id

    found: dict[str, list[About]] = {}
    for about in library.all():
        found.setdefault(collection_id(about), []).append(about)
    return found


def members(library: Shown, collection: str) -> list[About]:
    """The maps of a collection.

    Raises:
        NotServedError: There is no such collection.
    """
    there = collections(library)
    if collection not in there:
        raise NotServedError(
            "cannot show the collection", f"no {collection!r}", "/stac links to all there are."
        )
    return there[collection]


def _collection(library: Shown, maps: list[About], base: str, items: bool) -> dict[str, Any]:
    from tiles.stac_documents import collection

    return collection(maps, library.map_of(maps[0]), base, items)


def _item(library: Shown, settings: Settings, about: About, base: str) -> dict[str, Any]:
    from tiles.download import can_be_made
    from tiles.stac_documents import item

    chosen = library.map_of(about)
    listed = library.open().item(about.id, about.grid, about.group) if about.stored else None
    return item(chosen, listed.item if listed else None, base, about.stored or can_be_made(chosen, settings))
