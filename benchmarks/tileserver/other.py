"""What benchmarks/tiles.py compares our tile server with: stock TiTiler, and a route that does nothing.

    python benchmarks/tileserver/other.py stock MAPS
    python benchmarks/tileserver/other.py null

Listens on a free port of this machine until the process is ended, with uvloop, httptools and one worker; the
first line that it prints ends in the address.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Response


def stock(maps: Path) -> FastAPI:
    """TiTiler's TilerFactory as it comes; only a file's path is made from the address."""
    from titiler.core.errors import DEFAULT_STATUS_CODES, add_exception_handlers
    from titiler.core.factory import TilerFactory

    def path_of(grid: str, species: str) -> str:
        return str(maps / grid / f"{species}.tif")

    app = FastAPI()
    app.include_router(TilerFactory(path_dependency=path_of).router, prefix="/{grid}/{species}")
    add_exception_handlers(app, DEFAULT_STATUS_CODES)
    return app


def null() -> FastAPI:
    """20 kB of zeros."""
    app, body = FastAPI(), bytes(20_000)

    @app.get("/null")
    async def answer() -> Response:
        return Response(body, media_type="image/png")

    return app


def main() -> None:
    """Serve."""
    app = stock(Path(sys.argv[2])) if sys.argv[1] == "stock" else null()
    config = uvicorn.Config(
        app, port=0, loop="uvloop", http="httptools", log_level="warning", access_log=False
    )
    listener = config.bind_socket()
    print("http://{}:{}".format(*listener.getsockname()), flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
