"""Serve maps of species: python -m tiles [--maps maps] [--heads DIR] [--port 8000] [--workers 2] [--open]."""

from __future__ import annotations

import logging
import sys
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated

import typer

from geomap.cli import run
from tiles.listen import address_of, listening
from tiles.settings import Settings, from_environment

EPILOG = """
Examples:

    geomap serve --open
    geomap serve --maps maps --heads heads/mine --port 8080 --workers 2
    GEOMAP_TILES_CACHE_MB=512 geomap serve --no-bundle --maps s3://bucket/maps

`python -m tiles` is the same as `geomap serve`. Ctrl-C ends it when open requests are answered.
"""

app = typer.Typer(add_completion=False)
logger = logging.getLogger("tiles")


@app.command(epilog=EPILOG)
def serve(
    maps: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder that geomap render wrote, also s3:// or https://. [default: maps, if there is one]"
        ),
    ] = None,
    heads: Annotated[
        list[str] | None, typer.Option(help="Folder that geomap fit wrote, besides the bundle.")
    ] = None,
    bundle: Annotated[
        bool | None,
        typer.Option("--bundle/--no-bundle", help="Serve the species of the bundle. [default: yes]"),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 takes a free one. [default: 8000]")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes. [default: 1]")] = None,
    root_path: Annotated[str | None, typer.Option(help="Prefix of a proxy, like /proxy/8000.")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json. [default: text]")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve maps of species as tiles and as a web page.

    Options win over the variables GEOMAP_TILES_*, which know more settings than these.
    """
    settings = from_environment(
        maps=tuple(maps) if maps else None, heads=tuple(heads) if heads else None, bundle=bundle,
        host=host, port=port, workers=workers, root_path=root_path, log_format=log_format,
    )  # fmt: skip
    sockets = listening(settings.host, settings.port, settings.workers)
    from tiles.observe import configure_logging  # after the settings are known to be good: a refusal is quick

    configure_logging(settings)
    warn_of_slow_loop(settings)
    address = address_of(sockets[0]) + settings.root_path
    print(f"{_served(settings)}: {address}/", flush=True)
    if open_:
        webbrowser.open(f"{address}/")
    from tiles import workers as processes

    status = processes.serve(settings, sockets)
    if status:
        raise typer.Exit(status)


def warn_of_slow_loop(settings: Settings) -> None:
    """Say so where the fast event loop or parser is missing: each worker then answers fewer requests."""
    missing = [name for name in ("uvloop", "httptools") if find_spec(name) is None]
    if missing:
        logger.warning(
            "%s not installed: %d worker(s) answer half as many requests. pip install 'geomap[serve]'",
            " and ".join(missing), settings.workers,
        )  # fmt: skip


def _served(settings: Settings) -> str:
    parts = [f"Maps of {', '.join(settings.maps)}"] if settings.maps else []
    parts += [f"heads of {', '.join(settings.heads)}"] if settings.heads else []
    parts += ["the bundle"] if settings.bundle else []
    text = " and ".join(parts)
    return text[:1].upper() + text[1:]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `geomap.cli.run`."""
    return run(app, argv)


if __name__ == "__main__":
    sys.exit(main())
