"""STAC documents of the maps served: a Catalog, a Collection for each group and grid, an Item for each map.

An Item says of a live map what `geomap.stac` writes beside a rendered one, except for what only a file has
(size, checksum, statistics, areas); that of a rendered map is the written one with addresses of this server.
Addresses are absolute and name no version, so that a document that somebody keeps stays usable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from odc.geo.geobox import GeoBox

from geomap.cog import NODATA
from geomap.colour import DEFAULT
from geomap.entries import known
from geomap.footprint import footprint
from geomap.stac import COG_TYPE, MEANINGS, RASTER, period, spdx
from tiles import words
from tiles.describe import query_of
from tiles.maps import About, Band, SpeciesMap
from tiles.parameters import TMS

STAC_VERSION = "1.1.0"
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
RENDER = "https://stac-extensions.github.io/render/v2.0.0/schema.json"
WEB_MAPS = "https://stac-extensions.github.io/web-map-links/v1.2.0/schema.json"
# What STAC API asks for and this catalogue does; not its Features, which want 400 where this server says 422.
CONFORMANCE = ("https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/collections")
JSON, GEOJSON = "application/json", "application/geo+json"
DAY = re.compile(r"\d{4}-\d\d-\d\d")
Document = dict[str, Any]


def collection_id(about: About) -> str:
    """Id of the collection of a map: GRID.GROUP, or GRID for a map that names no group."""
    return f"{about.grid}.{about.group}" if about.group else about.grid


def catalog(ids: Mapping[str, str], base: str) -> Document:
    """The root.

    Args:
        ids: Id -> title of the collections.
        base: Whole address of the server.
    """
    home = f"{base}/stac"
    return {
        "type": "Catalog",
        "stac_version": STAC_VERSION,
        "id": "geomap",
        "title": "Species maps",
        "description": "Species distribution maps made by geomap; each Item says whether its values are "
        "suitability or probability.",
        "conformsTo": list(CONFORMANCE),
        "links": [
            _link("self", home, JSON),
            _link("root", home, JSON),
            _link("data", f"{home}/collections", JSON),
            _link("conformance", f"{home}/conformance", JSON),
            _link("service-desc", f"{base}/openapi.json", "application/vnd.oai.openapi+json;version=3.1"),
            _link("service-doc", f"{base}/docs", "text/html"),
            *(_link("child", f"{home}/collections/{key}", JSON, title) for key, title in ids.items()),
        ],
    }


def collection_title(about: About) -> str:
    """Title of the collection of a map."""
    return f"{about.group or 'Maps'} on the grid {about.grid}"


def collection(members: Sequence[About], sample: SpeciesMap, base: str, items: bool) -> Document:
    """A Collection.

    Args:
        members: Its maps, at least one.
        sample: One of them, for the place of the grid.
        base: Whole address of the server.
        items: Link to every Item.
    """
    first, home = members[0], f"{base}/stac"
    address = f"{home}/collections/{collection_id(first)}"
    licences = {spdx(about.credit.get("licence", "")) for about in members}
    credits = sorted({about.credit[key] for about in members for key in _CREDITS if key in about.credit})
    starts, ends = zip(*(_period(about) for about in members), strict=True)
    links = [
        _link("self", address, JSON), _link("root", home, JSON), _link("parent", home, JSON),
    ]  # fmt: skip
    if items:
        links += [_link("item", f"{address}/items/{about.id}", GEOJSON, _title(about)) for about in members]
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [],
        "id": collection_id(first),
        "title": collection_title(first),
        "description": f"Species distribution maps made by geomap. {words.explanation(first)}",
        "license": licences.pop() if len(licences) == 1 else "other",
        "providers": [{"name": name, "roles": ["producer"]} for name in credits],
        "extent": {
            "spatial": {"bbox": [footprint(_geobox(sample))[1]]},
            "temporal": {"interval": [[min(starts), max(ends)]]},
        },
        "summaries": {
            "geomap:meaning": sorted({about.meaning for about in members}),
            "geomap:group": sorted({about.group for about in members}),
        },
        "links": links,
    }


def item(chosen: SpeciesMap, written: Mapping[str, Any] | None, base: str, with_file: bool) -> Document:
    """The Item of a map.

    Args:
        chosen: The map.
        written: The Item that `geomap.render` wrote beside it; None for a live map.
        base: Whole address of the server.
        with_file: Whether the map can be had as a file.
    """
    about, geobox = chosen.about, _geobox(chosen)
    geometry, bbox = footprint(geobox)
    told = written or {}
    properties = dict(told.get("properties") or _properties(about)) | _projection(geobox)
    extensions = {PROJECTION, WEB_MAPS}
    asset = None
    if with_file:
        asset = told.get("assets", {}).get("map") or _asset(chosen)
        extensions |= {RASTER, RENDER, *told.get("stac_extensions", ())}
        properties["renders"] = {"map": _render(about.bands[0])}
    properties["geomap:map_version"] = about.version
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": sorted(extensions),
        "id": about.id,
        "geometry": geometry,
        "bbox": bbox,
        "properties": {key: value for key, value in properties.items() if value != ""},
        "collection": collection_id(about),
        "links": _item_links(about, base, with_file),
        "assets": _assets(about, base, asset),
    }


def _render(band: Band) -> Document:
    """How the map is drawn: by the ramp of the tiles, over the range of the layer."""
    return {
        "assets": ["map"],
        "title": f"{band.name.capitalize()} from {band.low:g} to {band.high:g}",
        "rescale": [[band.low, band.high]],
        "nodata": NODATA,
        "colormap_name": DEFAULT,
        "resampling": "nearest",
    }


_CREDITS = ("data_credit", "imagery_credit")


def _title(about: About) -> str:
    return f"{about.scientific} ({about.vernacular})" if about.vernacular else about.scientific


def _link(rel: str, href: str, kind: str, title: str | None = None, **more: Any) -> Document:
    return {"rel": rel, "href": href, "type": kind} | ({"title": title} if title else {}) | more


def _geobox(chosen: SpeciesMap) -> GeoBox:
    return GeoBox(chosen.shape, chosen.transform, chosen.crs)


def _period(about: About) -> tuple[str, str]:
    return period({"period": DAY.findall(about.credit.get("period", ""))})


def _properties(about: About) -> Document:
    """Those of a live map, under the names that `geomap.stac` gives them."""
    start, end = _period(about)
    undated = "" if about.credit.get("period") else " Nothing is known of when the records were made."
    credits = [about.credit[key] for key in _CREDITS if key in about.credit]
    return {
        "datetime": None,
        "start_datetime": start,
        "end_datetime": end,
        "title": _title(about),
        "description": MEANINGS.get(about.meaning, words.explanation(about)) + undated,
        "license": spdx(about.credit.get("licence", "")),
        "providers": [{"name": name, "roles": ["producer"]} for name in credits],
        "geomap:species": about.scientific,
        "geomap:vernacular": about.vernacular,
        "geomap:group": about.group,
        "geomap:meaning": about.meaning,
        "geomap:grid": about.grid,
        "geomap:records": about.records,
        "geomap:threshold": about.default_threshold,
        "geomap:thresholds": {key: known(limit._asdict()) for key, limit in about.thresholds.items()},
        "geomap:scores": {key: known(score._asdict()) for key, score in about.scores.items()},
        "geomap:n_test": about.n_test,
        "geomap:model": about.credit.get("model", ""),
        "geomap:data_credit": about.credit.get("data_credit", ""),
        "geomap:licence": about.credit.get("licence", ""),
    }


def _projection(geobox: GeoBox) -> Document:
    crs = geobox.crs
    assert crs is not None  # every grid has one
    where: Document = {"proj:code": f"EPSG:{crs.epsg}"} if crs.epsg else {"proj:wkt2": crs.to_wkt()}
    return where | {
        "proj:shape": [int(side) for side in geobox.shape],
        "proj:transform": [float(value) for value in geobox.affine[:6]],
        "proj:bbox": [float(value) for value in geobox.boundingbox.bbox],
    }


def _asset(chosen: SpeciesMap) -> Document:
    """The file of a live map, of which nothing is known before it is made but its form."""
    about = chosen.about
    return {
        "title": f"Map of {_title(about)}",
        "type": COG_TYPE,
        "roles": ["data"],
        "bands": [
            {
                "name": band.name, "description": band.description, "data_type": "float32", "nodata": NODATA,
                "unit": band.unit,
            }
            for band in about.bands
        ],
        "raster:sampling": "area",
        "raster:scale": 1.0,
        "raster:offset": 0.0,
        "raster:spatial_resolution": float(chosen.transform.a),
    }  # fmt: skip


def _assets(about: About, base: str, asset: Mapping[str, Any] | None) -> Document:
    home, query = f"{base}/species/{about.id}", query_of(about, v=None)
    pictures = {
        "thumbnail": ("preview.png", "Picture of the map", ["thumbnail"], "image/png"),
        "legend": ("legend.json", "Colours and what they mean", ["metadata"], JSON),
        "citation": ("citation", "How to cite this map", ["metadata"], "text/plain"),
    }
    data = {} if asset is None else {"map": {**asset, "href": f"{home}/download?{query}"}}
    return data | {
        key: {"href": f"{home}/{name}?{query}", "type": kind, "title": title, "roles": roles}
        for key, (name, title, roles, kind) in pictures.items()
    }


def _item_links(about: About, base: str, rendered: bool) -> list[Document]:
    home, query, stac = f"{base}/species/{about.id}", query_of(about, v=None), f"{base}/stac"
    parent = f"{stac}/collections/{collection_id(about)}"
    xyz = f"{home}/tiles/{TMS[0]}/{{z}}/{{x}}/{{y}}.png?{query}"
    drawn = {"render": "map"} if rendered else {}
    return [
        _link("self", f"{parent}/items/{about.id}", GEOJSON),
        _link("root", stac, JSON),
        _link("parent", parent, JSON),
        _link("collection", parent, JSON),
        _link("about", f"{home}?{query}", JSON, "Everything known of this map"),
        _link("xyz", xyz, "image/png", "Tiles in web Mercator", **drawn),
        _link("tilejson", f"{home}/tilejson.json?{query}", JSON, "TileJSON", **drawn),
        _link(
            "wmts", f"{home}/WMTSCapabilities.xml?{query}", "image/png", "WMTS",
            **{"wmts:layer": about.bands[0].name}, **drawn,
        ),
    ]  # fmt: skip
