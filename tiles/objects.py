"""Remote files by obstore: whole documents, parts of files, and what goes wrong in words that show no secret.

An address is https://host/path or s3://bucket/key; the query of a signed address stays with it. obstore is
one small wheel without dependencies that signs requests for S3, retries, and tells entity tags; boto3 would
bring the whole of AWS. Keys, AWS_REGION, AWS_NO_SIGN_REQUEST (a public bucket) and AWS_REQUEST_PAYER come
from the environment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from geomap.errors import MapError

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, HTTPStore, RetryConfig, S3Store

SCHEMES = ("https", "http", "s3")
CONNECT_S, ANSWER_S, RETRIES = 5, 20, 2
CHUNK = 65_536
DOCUMENT_BYTES = 64 * 2**20  # a collection of 100,000 maps has a fifth of it
WHAT = "cannot read the remote maps"
TRUE = frozenset({"1", "on", "true", "yes"})


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


def shown(location: str) -> str:
    """An address as it may be shown: without query and user, which may be secrets."""
    parts = urlsplit(location)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


def split(location: str) -> SplitResult:
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


def get(location: str, tag: str | None) -> tuple[bytes, str] | None:
    """A whole document.

    Args:
        location: Its address.
        tag: The entity tag of what is known of it already.

    Returns:
        Body and entity tag ("" where it has none); None where the tag is still that of the document.

    Raises:
        MissingError: Nothing is there.
        MapError: The server refuses or does not answer, or the document is too large.
    """
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
    options: GetOptions = {}
    if first or stop is not None:
        options["range"] = {"offset": first} if stop is None else (first, stop)
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
    parts = split(location)
    if parts.scheme == "s3":
        return _bucket(parts.netloc), parts.path.lstrip("/")
    folder, _, name = parts.path.rpartition("/")
    return _site(urlunsplit(parts._replace(path=folder))), unquote(name)


def _client(allow_http: bool) -> tuple[ClientConfig, RetryConfig]:
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
