"""Maps that lie on a web server or in an S3 bucket: their JSON documents, and GDAL's settings for their COGs.

    --maps https://maps.example.org/2026        --maps s3://bucket/prefix

A location is the address of a folder that `geomap.render` wrote, copied as it is. Folders are never listed:
a web server has no listing, and one of a bucket is slow and needs a right of its own. What is there follows
from collection.json (see `collections`). The query of a signed address (?sig=...) is kept for every file.

Documents are read by obstore, one small wheel without dependencies that signs requests for S3, retries and
tells entity tags; boto3 would bring the whole of AWS. COGs are read by GDAL, which gets these settings:

| setting | value | why |
|---|---|---|
| GDAL_DISABLE_READDIR_ON_OPEN | EMPTY_DIR | no listing, and no look for .aux.xml, .ovr and .msk files: 404s |
| CPL_VSIL_CURL_ALLOWED_EXTENSIONS | .tif | nothing else is asked for; left out where the address has a query, \
because then the name that GDAL looks at ends with the signature |
| CPL_VSIL_CURL_USE_HEAD | NO | the size comes with the first bytes: one request less, and an address that is \
signed for GET refuses HEAD |
| GDAL_INGESTED_BYTES_AT_OPEN | 65536 | header, tags and block index of a map in the first request |
| CPL_VSIL_CURL_CHUNK_SIZE | 65536 | as much at a time as a block of 512 x 512 cells has, or more |
| CPL_VSIL_CURL_NON_CACHED | the location | what was read is forgotten when a map is closed, so a map that was \
replaced is never mixed with the old one; while it is open, the next line keeps what was read |
| VSI_CACHE, VSI_CACHE_SIZE | TRUE, 5 MB | the second tile of an open map asks for nothing that the first read |
| GDAL_HTTP_MERGE_CONSECUTIVE_RANGES | YES | neighbouring blocks in one request |
| GDAL_HTTP_MULTIPLEX, GDAL_HTTP_VERSION | YES, 2TLS | several blocks at once over one line, where the server \
speaks HTTP/2 |
| GDAL_HTTP_MAX_RETRY, GDAL_HTTP_RETRY_DELAY | 2, 0.3 s | an answer 429, 500, 502, 503 or 504 is asked again |
| GDAL_HTTP_CONNECTTIMEOUT, GDAL_HTTP_TIMEOUT | 5 s, 20 s | a server that hangs holds a thread no longer |
| AWS_S3_ENDPOINT, AWS_HTTPS, AWS_VIRTUAL_HOSTING | from AWS_ENDPOINT_URL | a server of one's own that speaks \
S3; what the environment says itself goes before |

Keys, AWS_REGION, AWS_NO_SIGN_REQUEST (a public bucket) and AWS_REQUEST_PAYER are taken from the environment,
by GDAL itself; `bucket_options` tells obstore the same. No message shows a query, as it may be a signature.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from geomap.errors import MapError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, HTTPStore, RetryConfig, S3Store

SCHEMES = ("https", "http", "s3")
GRIDS = ("california", "north-america", "global")  # folders that are looked for below a prefix
COLLECTION, CATALOG = "collection.json", "catalog.json"
CONNECT_S, ANSWER_S, RETRIES = 5, 20, 2
CHUNK = 65_536
DOCUMENT_BYTES = 64 * 2**20  # a collection of 100,000 maps has a fifth of it
KEPT = 4096  # documents that are asked for again only by their entity tag
WHAT = "cannot read the remote maps"
TRUE = frozenset({"1", "on", "true", "yes"})

_kept: OrderedDict[str, tuple[str, dict[str, Any]]] = OrderedDict()
_lock = threading.Lock()


class MissingError(MapError):
    """Nothing lies at a remote address."""


class Part(NamedTuple):
    """A part of a remote file that is on its way.

    Attributes:
        chunks: The bytes.
        first: Number of the first byte.
        stop: Number behind the last byte.
        size: Bytes of the whole file.
        tag: Entity tag as the server says it, with its quotation marks; "" where it has none.
    """

    chunks: Iterator[bytes]
    first: int
    stop: int
    size: int
    tag: str


def is_remote(location: str | Path) -> bool:
    """Whether a location is an address and no folder of this machine."""
    return isinstance(location, str) and location.partition("://")[0] in SCHEMES and "://" in location


def join(location: str, name: str) -> str:
    """The address of a file below a location; the query of the location stays at the end.

    Args:
        location: An address.
        name: Relative path with /, unquoted.
    """
    parts = _split(location)
    path = parts.path.rstrip("/") + "/" + (name if parts.scheme == "s3" else quote(name))
    return urlunsplit(parts._replace(path=path))


def shown(location: str) -> str:
    """An address as it may be shown: without query and user, which may be secrets."""
    parts = urlsplit(location)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def gdal_path(location: str) -> str:
    """The name under which GDAL opens a remote file."""
    parts = _split(location)
    if parts.scheme == "s3":
        return f"/vsis3/{parts.netloc}{parts.path}"
    return f"/vsicurl/{location}"


def gdal_options(location: str) -> dict[str, str]:
    """GDAL's settings while the files of a location are opened and read; see the head of this module.

    Args:
        location: Address of a file or of a folder.

    Returns:
        Settings for `rasterio.Env(**options)`.
    """
    parts = _split(location)
    options = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "CPL_VSIL_CURL_USE_HEAD": "NO",
        "CPL_VSIL_CURL_CHUNK_SIZE": str(CHUNK),
        "CPL_VSIL_CURL_NON_CACHED": gdal_path(urlunsplit(parts._replace(query=""))),
        "GDAL_INGESTED_BYTES_AT_OPEN": str(CHUNK),
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
    answer = _get(location, known[0] if known else None)
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
    if _split(location).path.endswith(".json"):
        return [location]
    if _there(join(location, COLLECTION)):
        return [join(location, COLLECTION)]
    try:
        catalog, _ = read_json(join(location, CATALOG))
    except MissingError:
        found = [join(location, f"{grid}/{COLLECTION}") for grid in GRIDS]
        found = [address for address in found if _there(address)]
    else:
        links = [link for link in catalog.get("links", []) if link.get("rel") == "child"]
        found = [join(location, str(link["href"]).removeprefix("./")) for link in links]
    if not found:
        raise MapError(
            WHAT, f"no {COLLECTION} at {shown(location)}, nor in the folders {', '.join(GRIDS)} there",
            f"Name the folder of a grid, or put a STAC {CATALOG} there that links to its collections.",
        )  # fmt: skip
    return found


def open_part(location: str, first: int = 0, stop: int | None = None) -> Part:
    """A remote file, or a part of it, to be passed on while it comes.

    Args:
        location: Address of the file.
        first: Number of the first byte wanted.
        stop: Number behind the last byte wanted; the end of the file if None or beyond it.

    Raises:
        MissingError: Nothing is there.
        MapError: The server refuses, does not answer, or cannot give a part.
    """
    import obstore

    store, path = _place(location)
    options: dict[str, Any] = {}
    if first or stop is not None:
        options["range"] = {"offset": first} if stop is None else [first, stop]
    try:
        result = obstore.get(store, path, options=options or None)
    except (obstore.exceptions.BaseError, OSError) as error:
        raise _refusal(location, error) from error
    start, behind = result.range
    chunks = (bytes(chunk) for chunk in result.stream(min_chunk_size=CHUNK))
    return Part(chunks, start, behind, result.meta["size"], result.meta["e_tag"] or "")


def size_and_tag(location: str) -> tuple[int, str]:
    """Bytes of a remote file, and its entity tag; see `open_part`."""
    part = open_part(location, 0, 1)
    for _ in part.chunks:
        pass  # read to its end, so that the line can be used again
    return part.size, part.tag


def bucket_options(environ: Mapping[str, str]) -> dict[str, Any]:
    """What obstore must be told of S3 beyond what it reads from the environment itself.

    Args:
        environ: The environment, with GDAL's names (AWS_S3_ENDPOINT, AWS_HTTPS, AWS_VIRTUAL_HOSTING,
            AWS_NO_SIGN_REQUEST) or AWS_ENDPOINT_URL.
    """
    options: dict[str, Any] = {}
    if environ.get("AWS_NO_SIGN_REQUEST", "").lower() in TRUE:
        options["skip_signature"] = True
    if environ.get("AWS_REQUEST_PAYER", "").lower() == "requester":
        options["request_payer"] = True
    endpoint = environ.get("AWS_S3_ENDPOINT")
    if endpoint:
        scheme = "https" if environ.get("AWS_HTTPS", "YES").lower() in TRUE else "http"
        options["endpoint"] = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
        hosted = environ.get("AWS_VIRTUAL_HOSTING", "TRUE").lower() in TRUE
        options["virtual_hosted_style_request"] = hosted
    return options


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


def _split(location: str) -> Any:
    """The parts of an address, with its own refusals.

    Raises:
        MapError: It is no address of a kind that can be read, or carries a user and password.
    """
    parts = urlsplit(location)
    if parts.scheme not in SCHEMES or not parts.netloc:
        change = "Give https://host/folder or s3://bucket/prefix."
        raise MapError(WHAT, f"the address {shown(location)!r}", change)
    if "@" in parts.netloc:
        change = "Leave it out; use a signed address, or keys in the environment for s3://."
        raise MapError(WHAT, f"a user in the address {shown(location)}", change)
    return parts


def _there(location: str) -> bool:
    try:
        read_json(location)
    except MissingError:
        return False
    return True


def _get(location: str, tag: str | None) -> tuple[bytes, str] | None:
    """Body and entity tag; None where the tag is still that of the document."""
    import obstore

    store, path = _place(location)
    try:
        result = obstore.get(store, path, options={"if_none_match": tag} if tag else None)
        if result.meta["size"] > DOCUMENT_BYTES:
            found = f"{shown(location)} has {result.meta['size']:,} bytes"
            raise MapError(WHAT, found, "Split the maps into several folders.")
        return bytes(result.bytes()), result.meta["e_tag"] or ""
    except obstore.exceptions.NotModifiedError:
        return None
    except (obstore.exceptions.BaseError, OSError) as error:
        raise _refusal(location, error) from error


def _refusal(location: str, error: Exception) -> MapError:
    """What went wrong in our words: those of the library hold the whole address, signature and all."""
    from obstore import exceptions

    where = shown(location)
    if isinstance(error, (exceptions.NotFoundError, FileNotFoundError)):
        return MissingError(WHAT, f"nothing at {where} (404)", "Check the address, or copy the maps there.")
    if isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)):
        change = "Give keys that may read it, or AWS_NO_SIGN_REQUEST=YES for a public bucket."
        return MapError(WHAT, f"{where} may not be read (403)", change)
    return MapError(WHAT, f"{where} does not answer as it should", "Check that its server can be reached.")


def _place(location: str) -> tuple[S3Store | HTTPStore, str]:
    """The store of an address, and the path in it."""
    parts = _split(location)
    if parts.scheme == "s3":
        return _bucket(parts.netloc), parts.path.lstrip("/")
    folder, _, name = parts.path.rpartition("/")
    return _site(urlunsplit(parts._replace(path=folder))), unquote(name)


def _client(allow_http: bool) -> tuple[ClientConfig, RetryConfig]:
    from datetime import timedelta

    times: ClientConfig = {
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "timeout": timedelta(seconds=ANSWER_S),
        "allow_http": allow_http,
    }
    return times, {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=ANSWER_S)}


@lru_cache(maxsize=64)
def _bucket(name: str) -> S3Store:
    from obstore.store import S3Store

    # The endpoint that the operator chose may speak plain HTTP; AWS itself is always asked by HTTPS.
    client, retries = _client(allow_http=True)
    return S3Store(name, client_options=client, retry_config=retries, **bucket_options(os.environ))


@lru_cache(maxsize=64)
def _site(address: str) -> HTTPStore:
    from obstore.store import HTTPStore

    client, retries = _client(allow_http=True)
    return HTTPStore.from_url(address, client_options=client, retry_config=retries)
