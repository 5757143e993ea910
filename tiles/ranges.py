"""Files that go out in parts: Range, If-Range and If-None-Match (RFC 9110), for files here and elsewhere.

One range at a time is answered with a part; several at once, which clients of maps do not ask for, with the
whole file, as the standard allows. A file is opened before its headers are told, so that tag, length and
bytes are of one and the same file even while it is being replaced.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from geomap.errors import MapError
from tiles.errors import problem
from tiles.headers import digest, is_known
from tiles.objects import open_part, shown, size_and_tag

CHUNK = 256 * 1024
ONE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


@dataclass(frozen=True, eq=False)
class Source:
    """A file that can be sent.

    Attributes:
        size: Bytes.
        tag: Strong entity tag, with its quotation marks.
        changed: When it was changed, as HTTP says it; "" where not known.
        read: Chunks of bytes first..stop.
        close: Called when the answer is over.
    """

    size: int
    tag: str
    changed: str
    read: Callable[[int, int], Iterator[bytes]]
    close: Callable[[], None]


def local(path: Path) -> Source:
    """A file of this machine, opened.

    Raises:
        OSError: It cannot be opened.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    state = os.fstat(file)

    def read(first: int, stop: int) -> Iterator[bytes]:
        while first < stop:
            chunk = os.pread(file, min(CHUNK, stop - first), first)
            if not chunk:
                raise MapError(
                    "cannot send the file", f"{path} ends early", "render it again with --overwrite"
                )
            yield chunk
            first += len(chunk)

    tag = digest(str(state.st_size), str(state.st_mtime_ns), str(state.st_ino))
    changed = formatdate(state.st_mtime, usegmt=True)
    return Source(state.st_size, f'"{tag}"', changed, read, lambda: os.close(file))


def remote(location: str) -> Source:
    """A file elsewhere; it is passed on while it comes.

    Raises:
        MapError: It cannot be had, or is another one by the time that it is read.
    """
    size, tag = size_and_tag(location)

    def read(first: int, stop: int) -> Iterator[bytes]:
        part = open_part(location, first, stop)
        if (part.size, part.tag) != (size, tag):
            found = f"{shown(location)} was replaced meanwhile"
            raise MapError("cannot send the file", found, "ask for it again")
        return part.chunks

    return Source(size, f'"{digest(str(size), tag)}"', "", read, lambda: None)


class Sent(StreamingResponse):
    """An answer that closes its source, whether it was sent to the end or not."""

    source: Source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.source.close()


def answer(request: Request, source: Source, media_type: str, headers: dict[str, str]) -> Response:
    """A file, or the part of it that is asked for.

    Args:
        request: GET or HEAD.
        source: The file.
        media_type: Its type.
        headers: Further headers.

    Returns:
        200, 206 with a part, 304 where the client has it already, 416 for a part beyond its end.

    Raises:
        MapError: A remote file cannot be read.
    """
    try:
        found = _answer(request, source, media_type, headers)
    except BaseException:
        source.close()
        raise
    if not isinstance(found, Sent):
        source.close()
    return found


def _answer(request: Request, source: Source, media_type: str, headers: dict[str, str]) -> Response:
    common = {**headers, "ETag": source.tag, "Accept-Ranges": "bytes"}
    if source.changed:
        common["Last-Modified"] = source.changed
    if is_known(request.headers.get("if-none-match"), source.tag):
        return Response(status_code=304, headers=common)
    part = _part(request, source)
    if part is None:
        change = f"Ask for bytes within 0-{source.size - 1}."
        found = f"bytes {request.headers['range'][:60]!r} of {source.size}"
        return problem(
            416, "cannot send this part", found, change, **{"Content-Range": f"bytes */{source.size}"}
        )
    first, stop = part
    status = 200 if (first, stop) == (0, source.size) and "range" not in request.headers else 206
    if not _ranged(request, source):
        status = 200
    if status == 206:
        common["Content-Range"] = f"bytes {first}-{stop - 1}/{source.size}"
    common["Content-Length"] = str(stop - first)
    if request.method == "HEAD":
        return Response(status_code=status, headers=common, media_type=media_type)
    sent = Sent(source.read(first, stop), status, common, media_type)
    sent.source = source
    return sent


def _ranged(request: Request, source: Source) -> bool:
    """Whether a part is asked for, and of the very file that is there."""
    asked = ONE.fullmatch(request.headers.get("range", ""))
    if asked is None or asked.groups() == ("", ""):
        return False
    wanted = request.headers.get("if-range")
    return wanted is None or wanted in {source.tag, source.changed} - {""}


def _part(request: Request, source: Source) -> tuple[int, int] | None:
    """First byte and the one behind the last; None where the file ends before."""
    if not _ranged(request, source):
        return 0, source.size
    asked: Any = ONE.fullmatch(request.headers["range"])
    start, end = asked.groups()
    if not start:
        return (max(source.size - int(end), 0), source.size) if int(end) else None
    first = int(start)
    stop = min(int(end) + 1, source.size) if end else source.size
    return (first, stop) if first < stop else None
