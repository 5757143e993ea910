"""Whether the server lives, whether it is ready, and its numbers."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from tiles.errors import refusals
from tiles.observe import METRICS_TYPE, Metrics
from tiles.served import Served


def router(served: Served, metrics: Metrics) -> APIRouter:
    """The routes /healthz, /readyz and /metrics."""
    api = APIRouter(tags=["health"])

    @api.get("/healthz", summary="Whether the server lives", responses=refusals(422))
    async def healthz() -> JSONResponse:
        """Answered in the event loop, however many tiles are being drawn."""
        return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})

    @api.get("/readyz", summary="Whether a sample tile can be drawn", responses=refusals(422, 503))
    async def readyz() -> JSONResponse:
        """503 while the maps cannot be read."""
        await served.gate.run(served.shown.ready)
        return JSONResponse({"status": "ready"}, headers={"Cache-Control": "no-store"})

    @api.get(
        "/metrics", summary="Numbers for Prometheus", response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **refusals(422)},
    )  # fmt: skip
    def numbers() -> Response:
        """In Prometheus' text format; the sums over all workers."""
        metrics.inside.set(served.gate.inside)
        return Response(metrics.text(), media_type=METRICS_TYPE, headers={"Cache-Control": "no-store"})

    return api
