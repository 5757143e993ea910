"""Documents for clients of standards: TileJSON, WMTS, and the tilesets and landing page of OGC API.

The OGC API documents are models of titiler; they are imported where they are used, because importing titiler
takes longer than starting this server.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any
from xml.etree import ElementTree

import morecantile
from morecantile import TileMatrixSet

from tiles import words
from tiles.describe import links, query_of, resolution
from tiles.maps import About, SpeciesMap
from tiles.parameters import MAXZOOM, TMS

METRES_PER_DEGREE = 111_319.49  # of a tile matrix set in degrees, at the equator
TILE = 256
OPENAPI = "application/vnd.oai.openapi+json;version=3.0"
CONFORMANCE = (
    "http://www.opengis.net/spec/ogcapi-common-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-common-1/1.0/conf/json",
    "http://www.opengis.net/spec/ogcapi-common-1/1.0/conf/landing-page",
    "http://www.opengis.net/spec/ogcapi-common-1/1.0/conf/oas30",
    "http://www.opengis.net/spec/ogcapi-tiles-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-tiles-1/1.0/conf/png",
    "http://www.opengis.net/spec/ogcapi-tiles-1/1.0/conf/tileset",
    "http://www.opengis.net/spec/ogcapi-tiles-1/1.0/conf/tilesets-list",
    "http://www.opengis.net/spec/tms/2.0/conf/tilematrixset",
    "http://www.opengis.net/spec/tms/2.0/conf/json-tilematrixset",
)
OWS, WMTS, XLINK = (
    "http://www.opengis.net/ows/1.1",
    "http://www.opengis.net/wmts/1.0",
    "http://www.w3.org/1999/xlink",
)
for _prefix, _space in (("ows", OWS), ("", WMTS), ("xlink", XLINK)):
    ElementTree.register_namespace(_prefix, _space)


@cache
def tile_matrix_set(name: str) -> TileMatrixSet:
    """A tile matrix set by its name."""
    return morecantile.tms.get(name)


def native_zoom(chosen: SpeciesMap) -> int:
    """The first zoom level of web Mercator whose pixels at the map's middle are no larger than its cells."""
    _, south, _, north = chosen.bbox
    cell = resolution(chosen)
    if "4326" in chosen.crs or "GEOGCRS" in chosen.crs[:20] or "CRS84" in chosen.crs:
        cell *= METRES_PER_DEGREE
    width = 2 * math.pi * 6378137 * math.cos(math.radians((south + north) / 2)) / TILE
    return min(max(0, math.ceil(math.log2(width / cell) - 0.01)), MAXZOOM)


def bounds(chosen: SpeciesMap) -> tuple[float, float, float, float]:
    """West, south, east, north with west < east: the whole turn for a map across the antimeridian."""
    west, south, east, north = chosen.bbox
    return (west, south, east, north) if west < east else (-180.0, south, 180.0, north)


def tilejson(
    chosen: SpeciesMap, base: str, layer: str | None, colormap: str | None, threshold: str | None = None
) -> dict[str, Any]:
    """TileJSON 3.0.0 of a map.

    Args:
        chosen: The map.
        base: The whole address of the server.
        layer: One of its layers; the first if None.
        colormap: Name of a colour map; the default if None.
        threshold: What the tiles are cut at; nothing if None.
    """
    about = chosen.about
    west, south, east, north = bounds(chosen)
    query = query_of(about, layer=layer, colormap=colormap)
    tiles = query_of(about, layer=layer, colormap=colormap, threshold=threshold)
    home = f"{base}/species/{about.id}"
    zoom = native_zoom(chosen)
    return {
        "tilejson": "3.0.0",
        "name": about.scientific,
        "description": words.explanation(about),
        "version": "1.0.0",
        "attribution": credit(about),
        "scheme": "xyz",
        "tiles": [f"{home}/tiles/{TMS[0]}/{{z}}/{{x}}/{{y}}.png?{tiles}"],
        "legend": f"{home}/legend.png?{query}",
        "minzoom": 0,
        "maxzoom": zoom,
        "bounds": [west, max(south, -85.0511), east, min(north, 85.0511)],
        "center": [(west + east) / 2, (south + north) / 2, max(0, zoom - 2)],
    }


def credit(about: About) -> str:
    """Everybody whose data are in a map, in one line."""
    keys = ("data_credit", "licence", "imagery_credit")
    return "; ".join(about.credit[key] for key in keys if about.credit.get(key)) or "geomap"


def tileset(chosen: SpeciesMap, base: str, tms: str) -> dict[str, Any]:
    """The OGC description of a map's tiles in one tile matrix set, as titiler's model has it."""
    from titiler.core.models.OGC import TileSet

    return _plain(TileSet.model_validate(_tileset(chosen, base, tms)))


def tilesets(chosen: SpeciesMap, base: str) -> dict[str, Any]:
    """The list of a map's tilesets, as titiler's model has it."""
    from titiler.core.models.OGC import TileSetList

    return _plain(TileSetList.model_validate({"tilesets": [_tileset(chosen, base, tms) for tms in TMS]}))


def _tileset(chosen: SpeciesMap, base: str, tms: str) -> dict[str, Any]:
    about = chosen.about
    west, south, east, north = bounds(chosen)
    home, plain = f"{base}/species/{about.id}", query_of(about, v=None)
    tiles = f"{home}/tiles/{tms}/{{tileMatrix}}/{{tileCol}}/{{tileRow}}.png?{query_of(about)}"
    return {
        "title": f"{about.scientific} in {tms}",
        "description": words.explanation(about),
        "dataType": "map",
        "crs": tile_matrix_set(tms).crs,
        "attribution": credit(about),
        "boundingBox": {"lowerLeft": [west, south], "upperRight": [east, north]},
        "links": [
            _link(f"{home}/tiles/{tms}?{plain}", "self", "application/json", f"Tileset in {tms}"),
            {**_link(tiles, "item", "image/png", "Tiles"), "templated": True},
            _link(
                f"{base}/tileMatrixSets/{tms}", "http://www.opengis.net/def/rel/ogc/1.0/tiling-scheme",
                "application/json", f"Definition of {tms}",
            ),
        ],
    }  # fmt: skip


def tile_matrix_sets(base: str) -> dict[str, Any]:
    """The list of tile matrix sets, as titiler's model has it."""
    from titiler.core.models.OGC import TileMatrixSetList

    sets = [
        {
            "id": name,
            "title": tile_matrix_set(name).title,
            "links": [
                _link(f"{base}/tileMatrixSets/{name}", "self", "application/json", f"Definition of {name}")
            ],
        }
        for name in TMS
    ]
    return _plain(TileMatrixSetList.model_validate({"tileMatrixSets": sets}))


def conformance() -> dict[str, Any]:
    """What parts of OGC API this server conforms to, as titiler's model has it."""
    from titiler.core.models.OGC import Conformance

    return _plain(Conformance.model_validate({"conformsTo": list(CONFORMANCE)}))


def landing(base: str) -> dict[str, Any]:
    """The first page of OGC API, as titiler's model has it."""
    from titiler.core.models.OGC import Landing

    found = {
        "title": "geomap",
        "description": "Maps of where species live, with what they mean and how sure they are.",
        "links": [
            _link(f"{base}/api", "self", "application/json", "This document"),
            _link(f"{base}/openapi.json", "service-desc", OPENAPI, "The API"),
            _link(f"{base}/docs", "service-doc", "text/html", "The API in words"),
            _link(f"{base}/conformance", "conformance", "application/json", "Conformance"),
            _link(f"{base}/species", "data", "application/json", "Species"),
            _link(f"{base}/groups", "related", "application/json", "Groups, grids and colour maps"),
            _link(
                f"{base}/tileMatrixSets", "http://www.opengis.net/def/rel/ogc/1.0/tiling-schemes",
                "application/json", "Tile matrix sets",
            ),
        ],
    }  # fmt: skip
    return _plain(Landing.model_validate(found))


def _link(href: str, rel: str, media_type: str, title: str) -> dict[str, Any]:
    return {"href": href, "rel": rel, "type": media_type, "title": title}


def _plain(model: Any) -> dict[str, Any]:
    """A model as JSON values; braces of templates, which URLs escape, as they were."""
    text = model.model_dump_json(exclude_none=True)
    import json

    content: dict[str, Any] = json.loads(text.replace("%7B", "{").replace("%7D", "}"))
    return content


def wmts(chosen: SpeciesMap, base: str) -> bytes:
    """The capabilities of a WMTS (OGC 07-057r7) with each layer of a map, in both matrix sets."""
    about = chosen.about
    top = max(native_zoom(chosen), 1)
    root = ElementTree.Element(f"{{{WMTS}}}Capabilities", version="1.0.0")
    service = _add(root, OWS, "ServiceIdentification")
    _add(service, OWS, "Title", f"geomap: {about.scientific}")
    _add(service, OWS, "Abstract", words.explanation(about))
    _add(service, OWS, "ServiceType", "OGC WMTS")
    _add(service, OWS, "ServiceTypeVersion", "1.0.0")
    contents = _add(root, WMTS, "Contents")
    for band in about.bands:
        _layer(contents, chosen, base, band.name, band.description)
    for name in TMS:
        _matrix_set(contents, tile_matrix_set(name), top)
    address = f"{base}/species/{about.id}/WMTSCapabilities.xml?{query_of(about, v=None)}"
    _add(root, WMTS, "ServiceMetadataURL").set(f"{{{XLINK}}}href", address)
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)
    return document


def _layer(contents: ElementTree.Element, chosen: SpeciesMap, base: str, name: str, title: str) -> None:
    about = chosen.about
    layer = _add(contents, WMTS, "Layer")
    _add(layer, OWS, "Title", f"{about.scientific}: {title}")
    west, south, east, north = bounds(chosen)
    box = _add(layer, OWS, "WGS84BoundingBox")
    _add(box, OWS, "LowerCorner", f"{west:.6f} {south:.6f}")
    _add(box, OWS, "UpperCorner", f"{east:.6f} {north:.6f}")
    _add(layer, OWS, "Identifier", name)
    style = _add(layer, WMTS, "Style")
    style.set("isDefault", "true")
    _add(style, OWS, "Identifier", "default")
    legend = links(about, base)["legend"].replace("legend.json", "legend.png")
    url = _add(style, WMTS, "LegendURL")
    url.set("format", "image/png")
    url.set(f"{{{XLINK}}}href", legend)
    _add(layer, WMTS, "Format", "image/png")
    for tms in TMS:
        _add(_add(layer, WMTS, "TileMatrixSetLink"), WMTS, "TileMatrixSet", tms)
    resource = _add(layer, WMTS, "ResourceURL")
    resource.set("format", "image/png")
    resource.set("resourceType", "tile")
    path = f"/species/{about.id}/tiles/{{TileMatrixSet}}/{{TileMatrix}}/{{TileCol}}/{{TileRow}}.png"
    resource.set("template", f"{base}{path}?{query_of(about, layer=name)}")


def _matrix_set(contents: ElementTree.Element, tms: TileMatrixSet, top: int) -> None:
    found = _add(contents, WMTS, "TileMatrixSet")
    _add(found, OWS, "Identifier", tms.id)
    mercator = tms.id == TMS[0]
    _add(found, OWS, "SupportedCRS", f"urn:ogc:def:crs:{'EPSG::3857' if mercator else 'OGC:1.3:CRS84'}")
    for matrix in tms.tileMatrices[: top + 1]:
        one = _add(found, WMTS, "TileMatrix")
        _add(one, OWS, "Identifier", matrix.id)
        _add(one, WMTS, "ScaleDenominator", repr(matrix.scaleDenominator))
        corner = matrix.pointOfOrigin
        _add(one, WMTS, "TopLeftCorner", f"{corner[0]!r} {corner[1]!r}")
        for name, value in (
            ("TileWidth", TILE), ("TileHeight", TILE),
            ("MatrixWidth", matrix.matrixWidth), ("MatrixHeight", matrix.matrixHeight),
        ):  # fmt: skip
            _add(one, WMTS, name, str(value))


def _add(parent: ElementTree.Element, space: str, name: str, text: str | None = None) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, f"{{{space}}}{name}")
    child.text = text
    return child
