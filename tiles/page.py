"""The web map at `/`: the page and its files, which `make web` builds from tiles/web into tiles/static.

    app.include_router(page_router(settings))

The page asks for everything by addresses relative to itself, so that it works behind the prefix of any proxy.
Names of files carry a hash of their content and may be cached for ever; the page itself is asked for anew.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from geomap.errors import GeomapError
from tiles.errors import NotServedError

STATIC = Path(__file__).with_name("static")
FORMAT = 1  # of manifest.json, which is written last
FOR_EVER = "public, max-age=31536000, immutable"
METHODS = ["GET", "HEAD"]
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".topojson": "application/json",
    ".txt": "text/plain; charset=utf-8",
}
ENCODINGS = {"br": ".br", "gzip": ".gz"}  # the better one first
SETTINGS_MARK = "<!--settings-->"

logger = logging.getLogger(__name__)


class PageError(GeomapError, LookupError):
    """The web page has not been built, or a file of it is missing."""


class PageSettings(Protocol):
    """What the page is told by the settings of the server.

    Attributes:
        basemap: URL template of online tiles with {z}, {x} and {y}; "" for none.
        basemap_attribution: Credit line of the online tiles.
    """

    @property
    def basemap(self) -> str:
        """See the class."""

    @property
    def basemap_attribution(self) -> str:
        """See the class."""


@dataclass(frozen=True)
class Site:
    """The built page.

    Attributes:
        page: HTML with a mark where the settings go.
        files: Name -> file, for what may be asked for below /static.
    """

    page: str
    files: dict[str, Path]


def open_site(folder: Path = STATIC) -> Site:
    """The page as it was built.

    Args:
        folder: Folder that `npm run build` wrote.

    Raises:
        PageError: It was not built, or not by this version.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}")
        listed = {name: folder / name for name in manifest["files"]}
        page = listed.pop("index.html").read_text(encoding="utf-8")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise PageError(
            "cannot show the web map",
            "its files have not been built",
            "Run `make web`, which needs Node.js.",
        ) from error
    return Site(page, {name: path for name, path in listed.items() if path.suffix in MEDIA_TYPES})


@lru_cache(maxsize=2)
def _kept_site(folder: Path, built_at: int) -> Site:
    """The page, read once for each time that it was built."""
    return open_site(folder)


def _built_at(folder: Path) -> int:
    """When the page was built, in ns; 0 where it was not."""
    try:
        return (folder / "manifest.json").stat().st_mtime_ns
    except OSError:
        return 0


def page_router(settings: PageSettings, folder: Path = STATIC) -> APIRouter:
    """Routes of the page and of its files.

    Without a built page `/` says, with status 503, how to build it; all other routes of the server work.

    Args:
        settings: What the page is told.
        folder: Folder that `npm run build` wrote.
    """
    router = APIRouter(include_in_schema=False)
    headers = page_headers(settings.basemap)

    def site() -> Site:
        return _kept_site(folder, _built_at(folder))

    try:
        site()
    except PageError as error:
        logger.warning("%s", error)

    def page() -> Response:
        try:
            text = site().page.replace(SETTINGS_MARK, settings_tags(settings))
        except PageError as error:
            return HTMLResponse(error_page(error), 503, {**headers, "Cache-Control": "no-store"})
        return HTMLResponse(text, headers={**headers, "Cache-Control": "no-cache"})

    def static(name: str, request: Request) -> Response:
        try:
            path = site().files.get(name)
        except PageError as error:
            return HTMLResponse(error_page(error), 503, {**headers, "Cache-Control": "no-store"})
        if path is None:
            raise NotServedError(
                "cannot give the file", f"no file {name!r} of the web map", "Load the page anew."
            )
        return file_response(path, request.headers.get("accept-encoding", ""))

    router.add_api_route("/", page, methods=METHODS)
    router.add_api_route("/static/{name}", static, methods=METHODS)
    return router


def file_response(path: Path, accepted: str) -> Response:
    """A file, or its compressed twin where the asker takes one.

    Args:
        path: The file; `path` with ".br" and ".gz" lie beside it where compression pays.
        accepted: Header Accept-Encoding of the request.
    """
    headers = {"Cache-Control": FOR_EVER, "X-Content-Type-Options": "nosniff"}
    media_type = MEDIA_TYPES[path.suffix]
    takes = {part.split(";")[0].strip() for part in accepted.split(",") if "q=0" not in part.replace(" ", "")}
    for encoding, suffix in ENCODINGS.items():
        twin = path.with_name(path.name + suffix)
        if twin.is_file():
            headers["Vary"] = "Accept-Encoding"
            if encoding in takes:
                return FileResponse(
                    twin, headers={**headers, "Content-Encoding": encoding}, media_type=media_type
                )
    return FileResponse(path, headers=headers, media_type=media_type)


def page_headers(basemap: str) -> dict[str, str]:
    """Headers of the page: nothing is loaded from elsewhere but the tiles of an online basemap.

    Args:
        basemap: URL template of online tiles; "" for none.
    """
    images = " ".join(filter(None, ["'self'", "data:", "blob:", origin(basemap)]))
    policy = {
        "default-src": "'self'",
        "img-src": images,
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Referrer-Policy": "strict-origin-when-cross-origin",  # providers of tiles want to know who asks
        "X-Content-Type-Options": "nosniff",
    }


def origin(template: str) -> str:
    """Origin of a URL template as a source of a content policy, {s} and the like as a wildcard; "" for ""."""
    if not template:
        return ""
    parts = urlsplit(template)
    host = parts.netloc
    if "{" in host:
        host = "*." + host.split("}", 1)[1].lstrip(".")
    return f"{parts.scheme}://{host}"


def settings_tags(settings: PageSettings) -> str:
    """What the page reads of the settings, as a meta element; "" where there is nothing to say."""
    if not settings.basemap:
        return ""
    template, credit = escape(settings.basemap), escape(settings.basemap_attribution)
    return f'<meta name="geomap:basemap" content="{template}" data-credit="{credit}">'


def error_page(error: PageError) -> str:
    """HTML that says what is missing and what to do."""
    what, found, change = (escape(part) for part in (error.what, error.found, error.change))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>geomap</title>'
        '<meta name="viewport" content="width=device-width"></head>'
        f"<body><h1>geomap</h1><p>The server runs, but it {what}: {found}.</p><p>{change}</p>"
        '<p>The maps themselves are there: <a href="species">species</a>, '
        '<a href="openapi.json">the API</a>.</p></body></html>'
    )
