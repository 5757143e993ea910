"""Answers tiles with few steps between the socket and the pixels.

A tile that is finished already is answered in the event loop, from bytes; any other is drawn in a thread of
the gate. FastAPI documents these routes like all others, but does not solve their parameters: that would take
longer than drawing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from geomap.colour import RAMPS
from tiles.errors import NotServedError, QueryError
from tiles.headers import FOREVER, MINUTES, digest, is_known
from tiles.maps import About
from tiles.parameters import ID, MAXZOOM, NAME, THRESHOLD, TMS, VERSION, check_names, matches
from tiles.served import Finished, Served

WHAT = "cannot draw the tile"
FORMS = {
    "grid": NAME, "group": NAME, "layer": NAME, "colormap": "|".join(RAMPS), "threshold": THRESHOLD,
    "v": VERSION,
}  # fmt: skip
RENDERING = "1"  # part of every ETag: to be raised when the same map is drawn otherwise
INTEGER = r"-?[0-9]{1,9}"


class Plan(NamedTuple):
    """A tile that somebody asked for, before it is drawn.

    Attributes:
        identity: Tells it from every other tile and version.
        draw: Draws it.
        media: Its media type.
        forever: Whether the address names the version.
    """

    identity: str
    draw: Callable[[], bytes]
    media: str
    forever: bool


Planner = Callable[[Mapping[str, str], Mapping[str, str]], Plan]


class LeanTiles:
    """The ASGI side of a route of tiles.

    Args:
        served: What the app serves.
        plan: Turns path parameters and query into a plan; refuses what is not there or not allowed.
        known: Query names.
    """

    def __init__(self, served: Served, plan: Planner, known: frozenset[str]) -> None:
        self._served = served
        self._plan = plan
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a tile: from memory, with 304, or by drawing it."""
        shown, finished = self._served.shown, self._served.finished
        if shown.stale:
            await self._served.gate.run(shown.refresh)
        key = scope["path"], scope["query_string"]
        tile = finished.get(key)
        scope["geomap.cached"] = tile is not None
        if tile is None or tile.listing is not shown.listing:
            plan = self._plan(scope["path_params"], parse_query(scope["query_string"], self._known))
            etag = f'"{digest(RENDERING, plan.identity)}"'
            if is_known(_header(scope, b"if-none-match"), etag):
                await _send(send, 304, _headers(plan, etag), b"")
                return
            if tile is None or tile.etag != etag:
                scope["geomap.cached"] = False
                tile = await self._draw(plan, etag)
            tile = tile._replace(listing=shown.listing)
            self._served.keep(key, tile)
        if is_known(_header(scope, b"if-none-match"), tile.etag):
            await _send(send, 304, list(tile.headers[:2]), b"")
        else:
            await _send(send, 200, list(tile.headers), tile.body)

    async def _draw(self, plan: Plan, etag: str) -> Finished:
        begun = time.perf_counter()
        body = await self._served.gate.once(plan.identity, plan.draw)
        self._served.drawn(time.perf_counter() - begun)
        headers = _headers(plan, etag)
        headers.append((b"content-type", plan.media.encode()))
        headers.append((b"content-length", str(len(body)).encode()))
        return Finished(body, etag, tuple(headers), self._served.shown.listing)


class LeanRoute(APIRoute):
    """A route that FastAPI documents by the signature of its endpoint, and that an ASGI app answers."""

    def __init__(self, path: str, endpoint: Callable[..., Any], answers: LeanTiles, **known: Any) -> None:
        """Make a route.

        Args:
            path: Its path.
            endpoint: Declares the parameters; it is not called.
            answers: Answers it.
            **known: What else FastAPI documents of a route.
        """
        super().__init__(path, endpoint, methods=["GET"], **known)
        self.app = answers


def parse_query(query: bytes, known: frozenset[str]) -> dict[str, str]:
    """A query as names with values of their forms.

    Raises:
        QueryError: A name is not known or comes twice, or a value has another form.
    """
    if not query:
        return {}
    try:
        pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=20)
    except ValueError as error:
        raise QueryError(WHAT, "more than 20 parameters", f"Known are {', '.join(sorted(known))}.") from error
    check_names([name for name, _ in pairs], known)
    for name, value in pairs:
        if not matches(FORMS[name], value):
            raise QueryError(WHAT, f"{name} {value[:60]!r}", f"Give a {name} that the map's info names.")
    return dict(pairs)


def parse_tile(path: Mapping[str, str]) -> tuple[str, int, int, int]:
    """Tile matrix set, zoom, column and row of a path.

    Raises:
        QueryError: There is no such set or zoom level, or something is no integer.
        NotServedError: The zoom level has no such column or row.
    """
    tms = path["tms"]
    if tms not in TMS:
        raise QueryError(WHAT, f"tile matrix set {tms[:60]!r}", f"Known are {', '.join(TMS)}.")
    for name in ("z", "x", "y"):
        if not matches(INTEGER, path[name]):
            raise QueryError(WHAT, f"{name} {path[name][:60]!r}", "Give an integer.")
    z, x, y = int(path["z"]), int(path["x"]), int(path["y"])
    if not 0 <= z <= MAXZOOM:
        raise QueryError(WHAT, f"zoom level {z}", f"Give one from 0 to {MAXZOOM}.")
    columns = 2**z if tms == TMS[0] else 2 ** (z + 1)
    if not (0 <= x < columns and 0 <= y < 2**z):
        raise NotServedError(WHAT, f"no tile {z}/{x}/{y}", f"x goes to {columns - 1}, y to {2**z - 1}.")
    return tms, z, x, y


def parse_species(text: str) -> str:
    """The id of a species.

    Raises:
        QueryError: It has not the form of one.
    """
    if not matches(ID, text):
        raise QueryError(WHAT, f"species {text[:60]!r}", "GET /species lists the ids.")
    return text


def band_of(about: About, layer: str | None) -> int:
    """Position of a layer; the first if None.

    Raises:
        NotServedError: The map has no such layer.
    """
    if layer is None:
        return 0
    names = [band.name for band in about.bands]
    if layer not in names:
        raise NotServedError(f"cannot show {about.id}", f"no layer {layer!r}", f"It has {', '.join(names)}.")
    return names.index(layer)


def _headers(plan: Plan, etag: str) -> list[tuple[bytes, bytes]]:
    keep = FOREVER if plan.forever else MINUTES
    return [(b"etag", etag.encode()), (b"cache-control", keep.encode())]


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
