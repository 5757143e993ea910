"""Serve rendered maps: python -m tiles [--maps maps] [--host 127.0.0.1] [--port 8000]."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from geomap.cli import run
from tiles.settings import SettingsError, from_environment

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    maps: Annotated[
        Path | None, typer.Option(help="Folder that geomap render wrote. [default: maps]")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. [default: 8000]")] = None,
) -> None:
    """Serve the maps of a folder as tiles. Options win over GEOMAP_TILES_MAPS, _HOST and _PORT."""
    settings = from_environment(maps=maps, host=host, port=port)
    listener = listening(settings.host, settings.port)
    import uvicorn  # after the settings are known to be good: a refusal should not take seconds

    from tiles.app import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="info"))
    address, bound = listener.getsockname()[:2]
    print(
        f"Maps of {settings.maps}: http://{f'[{address}]' if ':' in address else address}:{bound}/",
        flush=True,
    )
    server.run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """A bound TCP socket.

    It is made here, with its protocol named, for two reasons: a port in use is refused in our own words, and
    asyncio sets TCP_NODELAY only on sockets that name TCP (or every answer on a kept line waits 40 ms).

    Raises:
        SettingsError: The address cannot be listened on.
    """
    try:
        kinds = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = kinds[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port}", error.strerror or str(error), "Give another --host or --port."
        ) from error
    return listener


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `geomap.cli.run`."""
    return run(app, argv)


if __name__ == "__main__":
    sys.exit(main())
