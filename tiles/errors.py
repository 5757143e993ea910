"""Which refusal gets which HTTP status: one table; routes never build an error response.

What is at fault on the server's side (a corrupt map, a folder that vanished) is logged whole and answered
without details, because they would name paths.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from rasterio.errors import RasterioError
from rio_tiler.errors import RioTilerError, TileOutsideBounds

from geomap.errors import GridError, MapError, NameNotFoundError
from train.errors import ThreePartError


class QueryError(ThreePartError, ValueError):
    """A parameter that this server does not take, or a value it refuses."""


STATUS: dict[type[Exception], int] = {
    NameNotFoundError: 404,
    TileOutsideBounds: 404,
    GridError: 404,
    QueryError: 422,
    MapError: 503,
    RasterioError: 503,
    RioTilerError: 503,
    OSError: 503,
    ThreePartError: 500,
}

Handler = Callable[[Request, Exception], JSONResponse]
logger = logging.getLogger(__name__)


def add_handlers(app: FastAPI) -> None:
    """Let the app answer every exception of `STATUS` with its status; the closest base class decides."""
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, handler(status))


def handler(status: int) -> Handler:
    """A function that turns an exception into a JSON answer with this status, which nobody may cache."""

    def answer(request: Request, error: Exception) -> JSONResponse:
        body = {"detail": str(error)}
        if isinstance(error, ThreePartError):
            body |= {"what": error.what, "found": error.found, "change": error.change}
        if status >= 500:
            logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
            body = {"detail": "This map cannot be read at the moment."}
        return JSONResponse(body, status_code=status, headers={"Cache-Control": "no-store"})

    return answer
