"""Which refusal gets which HTTP status: one table; routes never build an error answer.

Every answer from 400 on is `{"detail", "what", "found", "change"}` and may not be kept by anybody. What is at
fault on the server's side (a corrupt map, a folder that vanished) is logged whole and answered without
details, because they would name paths.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from rasterio.errors import RasterioError
from starlette.exceptions import HTTPException

from geomap.errors import FieldError, GridError, HeadsError, MapError, NameNotFoundError
from train.errors import ThreePartError


class QueryError(ThreePartError, ValueError):
    """A parameter that this server does not take, or a value it refuses: 422."""


class NotServedError(ThreePartError, LookupError):
    """Something that is not there, or is withheld: 404."""


class TooLargeError(ThreePartError, ValueError):
    """A body, a polygon or an area beyond what one request may cost: 413."""


class BusyError(ThreePartError):
    """More requests wait than the server is willing to keep waiting: 503 with Retry-After."""


RETRY_AFTER_S = 1
UNREADABLE: tuple[type[Exception], ...] = (
    MapError, FieldError, HeadsError, GridError, RasterioError, OSError, MemoryError,
)  # fmt: skip
STATUS: dict[type[Exception], int] = {
    NotServedError: 404,
    NameNotFoundError: 404,
    QueryError: 422,
    TooLargeError: 413,
    BusyError: 503,
    **dict.fromkeys(UNREADABLE, 503),
    ThreePartError: 500,
    Exception: 500,
}
MEANING = {
    404: "Nothing of that name is served",
    405: "Not allowed here",
    413: "Larger than one request may be",
    422: "A value or a parameter that the server does not take",
    503: "A map that cannot be read at the moment, or too many requests",
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["detail", "what", "found", "change"],
    "properties": {key: {"type": "string"} for key in ("detail", "what", "found", "change")},
    "example": {
        "detail": "cannot show the map: no species 'puma'. GET /species lists what there is.",
        "what": "cannot show the map",
        "found": "no species 'puma'",
        "change": "GET /species lists what there is.",
    },
}
logger = logging.getLogger(__name__)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The statuses of a route for its `responses=`, each with its meaning and body."""
    content = {"application/json": {"schema": SCHEMA}}
    return {status: {"description": MEANING[status], "content": content} for status in statuses}


def add_handlers(app: FastAPI) -> None:
    """Let the app answer every exception of `STATUS` with its status; the closest base class decides."""
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _handler(status))
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(RequestValidationError, _invalid)


def problem(status: int, what: str, found: str, change: str, **headers: str) -> JSONResponse:
    """An answer in three parts that nobody may keep."""
    body = {"detail": f"{what}: {found}. {change}", "what": what, "found": found, "change": change}
    return JSONResponse(body, status, headers={"Cache-Control": "no-store", **headers})


def _handler(status: int) -> Callable[[Request, Exception], JSONResponse]:
    def answer(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, BusyError):
            return problem(
                status, error.what, error.found, error.change, **{"Retry-After": str(RETRY_AFTER_S)}
            )
        if isinstance(error, TooLargeError):
            # The rest of the body is not waited for.
            return problem(status, error.what, error.found, error.change, Connection="close")
        if status < 500 and isinstance(error, ThreePartError):
            return problem(status, error.what, error.found, error.change)
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        if status == 503:
            found, change = "a map or field that cannot be read at the moment", "Ask again later."
            return problem(status, "cannot answer", found, change)
        return problem(status, "cannot answer", "a fault of the server", "It is in the server's log.")

    return answer


def _plain(_: Request, error: Exception) -> JSONResponse:
    """What the router itself refuses: an address or a method that does not exist."""
    assert isinstance(error, HTTPException)
    change = {404: "See /api for the addresses.", 405: "See /openapi.json for the methods."}
    answer = problem(
        error.status_code,
        "cannot answer",
        str(error.detail),
        change.get(error.status_code, "See /openapi.json."),
    )
    answer.headers.update(error.headers or {})
    return answer


def _invalid(_: Request, error: Exception) -> JSONResponse:
    """The first value that does not have the form its route declares."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = " ".join(str(part) for part in first["loc"])
    found = f"{where} {str(first.get('input'))[:100]!r}"
    return problem(422, "cannot answer", found, f"{first['msg']}.")
