"""Maps that lie on a web server or in an S3 bucket: their JSON documents, and GDAL's settings for their COGs.

    --maps https://maps.example.org/2026        --maps s3://bucket/prefix

A location is the address of a folder that `geomap.render` wrote, copied as it is. Folders are never listed:
a web server has no listing, and one of a bucket is slow and needs a right of its own. What is there follows
from collection.json (see `collections`). The query of a signed address (?sig=...) is kept for every file.

Documents are read by obstore (tiles.objects), COGs by GDAL, which gets these settings:

    GDAL_DISABLE_READDIR_ON_OPEN       EMPTY_DIR      no listing, no look for .aux.xml, .ovr and .msk files
    CPL_VSIL_CURL_ALLOWED_EXTENSIONS   .tif           nothing else is asked for. Left out where the address
                                                      has a query: the name that GDAL looks at ends with it
    GDAL_INGESTED_BYTES_AT_OPEN        65536          header, tags and block index in one request
    CPL_VSIL_CURL_NON_CACHED           the location   what was read is forgotten when a map is closed, so
                                                      that a map that was replaced never mixes with the old
                                                      one; it costs one request more at opening
    VSI_CACHE, VSI_CACHE_SIZE          TRUE, 5 MB     while it is open, nothing is asked for twice
    GDAL_HTTP_MERGE_CONSECUTIVE_RANGES YES            neighbouring blocks in one request
    GDAL_HTTP_MULTIPLEX, _VERSION      YES, 2TLS      blocks side by side where the server speaks HTTP/2
    GDAL_HTTP_MAX_RETRY, _RETRY_DELAY  2, 0.3 s       answers 429, 502, 503 and 504 are asked again
    GDAL_HTTP_CONNECTTIMEOUT, _TIMEOUT 5 s, 20 s      a server that hangs holds a thread no longer
    AWS_S3_ENDPOINT, AWS_HTTPS,        from           a server of one's own that speaks S3, where the
    AWS_VIRTUAL_HOSTING                AWS_ENDPOINT_URL   environment does not name GDAL's own settings

CPL_VSIL_CURL_USE_HEAD is left alone: without HEAD, GDAL asks a plain web server for the whole file to learn
its size; it knows itself that an address signed for GET refuses HEAD. Keys, AWS_REGION, AWS_NO_SIGN_REQUEST
and AWS_REQUEST_PAYER are read from the environment by GDAL and by obstore alike.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from geomap.errors import MapError
from tiles.objects import ANSWER_S, CONNECT_S, RETRIES, SCHEMES, WHAT, MissingError, get, shown, split

GRIDS = ("california", "north-america", "global")  # folders that are looked for below a prefix
COLLECTION, CATALOG = "collection.json", "catalog.json"
CHILD = re.compile(r"(?:\./)?([A-Za-z0-9][A-Za-z0-9._-]*/collection\.json)")  # never out of the location
HEADER = 65_536
KEPT = 4096  # documents that are asked for again only by their entity tag

_kept: OrderedDict[str, tuple[str, dict[str, Any]]] = OrderedDict()
_lock = threading.Lock()


def is_remote(location: str | Path) -> bool:
    """Whether a location is an address and no folder of this machine."""
    return isinstance(location, str) and location.partition("://")[0] in SCHEMES and "://" in location


def join(location: str, name: str) -> str:
    """The address of a file below a location; the query of the location stays at the end.

    Args:
        location: An address.
        name: Relative path with /, unquoted.
    """
    parts = split(location)
    path = parts.path.rstrip("/") + "/" + (name if parts.scheme == "s3" else quote(name))
    return urlunsplit(parts._replace(path=path))


def gdal_path(location: str) -> str:
    """The name under which GDAL opens a remote file."""
    parts = split(location)
    if parts.scheme == "s3":
        return f"/vsis3/{parts.netloc}{parts.path}"
    return f"/vsicurl/{location}"


def location_of(path: str) -> str | None:
    """The address of a file that GDAL knows under a name of `gdal_path`; None for a file of this machine."""
    if path.startswith("/vsis3/"):
        return "s3://" + path.removeprefix("/vsis3/")
    return path.removeprefix("/vsicurl/") if path.startswith("/vsicurl/") else None


def gdal_options(location: str) -> dict[str, str]:
    """GDAL's settings while the files of a location are opened and read; see the head of this module.

    Args:
        location: Address of a file or of a folder.

    Returns:
        Settings for `rasterio.Env(**options)`.
    """
    parts = split(location)
    options = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "CPL_VSIL_CURL_NON_CACHED": gdal_path(urlunsplit(parts._replace(query=""))),
        "GDAL_INGESTED_BYTES_AT_OPEN": str(HEADER),
        "VSI_CACHE": "TRUE",
        "VSI_CACHE_SIZE": "5000000",
        "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
        "GDAL_HTTP_MULTIPLEX": "YES",
        "GDAL_HTTP_VERSION": "2TLS",
        "GDAL_HTTP_MAX_RETRY": str(RETRIES),
        "GDAL_HTTP_RETRY_DELAY": "0.3",
        "GDAL_HTTP_CONNECTTIMEOUT": str(CONNECT_S),
        "GDAL_HTTP_TIMEOUT": str(ANSWER_S),
    }
    if not parts.query:
        options["CPL_VSIL_CURL_ALLOWED_EXTENSIONS"] = ".tif"
    return options | (_endpoint_for_gdal(os.environ) if parts.scheme == "s3" else {})


def read_json(location: str) -> tuple[dict[str, Any], str]:
    """A JSON document and a tag that changes with it.

    A document that was read before is asked for by its entity tag, so that one that did not change is not
    sent again.

    Args:
        location: Address of the document.

    Returns:
        The document, shared between calls and not to be changed, and its version tag.

    Raises:
        MissingError: Nothing is there.
        MapError: The server refuses, does not answer, or what is there is no JSON object.
    """
    with _lock:
        known = _kept.get(location)
    answer = get(location, known[0] if known else None)
    if answer is None:
        assert known is not None  # only an entity tag that we sent is answered so
        return known[1], known[0]
    body, tag = answer
    try:
        document = json.loads(body)
    except ValueError as error:
        raise MapError(WHAT, f"{shown(location)} is no JSON", "Copy the folder of maps again.") from error
    if not isinstance(document, dict):
        raise MapError(WHAT, f"{shown(location)} holds no object", "Copy the folder of maps again.")
    if tag:
        with _lock:
            _kept[location] = tag, document
            _kept.move_to_end(location)
            while len(_kept) > KEPT:
                _kept.popitem(last=False)
    return document, tag or hashlib.sha256(body).hexdigest()


def collections(location: str) -> list[str]:
    """Addresses of the collections below a location, without listing anything.

    Args:
        location: Address of a collection.json, of a folder that has one, of a folder with a STAC catalog.json
            that links to them, or of a folder OUT of `geomap.render`, in which the folders of the named grids
            are looked for.

    Raises:
        MapError: There is none, or a document cannot be read.
    """
    if split(location).path.endswith(".json"):
        return [location]
    if _there(join(location, COLLECTION)):
        return [join(location, COLLECTION)]
    try:
        catalog, _ = read_json(join(location, CATALOG))
    except MissingError:
        found = [join(location, f"{grid}/{COLLECTION}") for grid in GRIDS]
        found = [address for address in found if _there(address)]
    else:
        links = [str(link.get("href")) for link in catalog.get("links", []) if link.get("rel") == "child"]
        found = [join(location, match[1]) for match in map(CHILD.fullmatch, links) if match]
    if not found:
        raise MapError(
            WHAT, f"no {COLLECTION} at {shown(location)}, nor in the folders {', '.join(GRIDS)} there",
            f"Name the folder of a grid, or put a STAC {CATALOG} there that links to its collections.",
        )  # fmt: skip
    return found


def _endpoint_for_gdal(environ: Mapping[str, str]) -> dict[str, str]:
    """GDAL's three settings of an endpoint, from the one that other tools have."""
    url = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if not url or environ.get("AWS_S3_ENDPOINT"):
        return {}
    parts = urlsplit(url)
    return {
        "AWS_S3_ENDPOINT": parts.netloc + parts.path.rstrip("/"),
        "AWS_HTTPS": "YES" if parts.scheme == "https" else "NO",
        "AWS_VIRTUAL_HOSTING": environ.get("AWS_VIRTUAL_HOSTING", "FALSE"),
    }


def _there(location: str) -> bool:
    try:
        read_json(location)
    except MissingError:
        return False
    return True
