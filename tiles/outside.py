"""The outermost layer of the app: what holds for every request, whatever it asks for.

HEAD is answered like GET without the body; a proxy's prefix is understood whether the proxy strips it or not;
every answer carries the request's id and the headers that keep browsers careful; no error is kept by anybody;
every answer is counted and, but for tiles and health checks, logged.
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tiles.observe import REQUEST_ID, Metrics

logger = logging.getLogger("tiles.access")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
EVERY = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
)
REQUEST_NAME = re.compile(rb"[A-Za-z0-9._-]{1,64}")
PREFIX = re.compile(r"(?:/[A-Za-z0-9._~@%+-]+)+")
# What proxies send of the prefix that they strip: Traefik and others, and JupyterHub's jupyter-server-proxy.
PREFIX_HEADERS = (b"x-forwarded-prefix", b"x-forwarded-context")
QUIET = ("/healthz", "/readyz", "/metrics")
OWN_HEAD = ("/download", "/static")  # these answer HEAD themselves, without opening the file


class Outside:
    """ASGI middleware.

    Args:
        app: What answers.
        metrics: Where answers are counted.
        root_path: Prefix of a proxy, or "".
        proxies: Addresses of proxies that are believed; "*" for any.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, root_path: str, proxies: str) -> None:
        self.app = app
        self.metrics = metrics
        self.root_path = root_path
        self.proxies = frozenset(part.strip() for part in proxies.split(",") if part.strip())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        name = given if REQUEST_NAME.fullmatch(given) else os.urandom(8).hex().encode()
        token = REQUEST_ID.set(name.decode())
        scope = self._moved(scope, headers)
        answer = _Answer(send, name, scope)
        begun = time.perf_counter()
        try:
            await self.app(scope, receive, answer)
        finally:
            self._note(scope, answer, time.perf_counter() - begun)
            REQUEST_ID.reset(token)

    def _moved(self, scope: Scope, headers: dict[bytes, bytes]) -> Scope:
        """The scope with the prefix in root_path and, as ASGI wants it, before the path as well."""
        prefix = self.root_path or scope.get("root_path", "") or self._forwarded(scope, headers)
        path = scope["path"]
        if prefix and path != prefix and not path.startswith(f"{prefix}/"):
            raw = scope.get("raw_path")
            raw_path = prefix.encode() + raw if raw is not None else None
            return {**scope, "root_path": prefix, "path": prefix + path, "raw_path": raw_path}
        return {**scope, "root_path": prefix}

    def _forwarded(self, scope: Scope, headers: dict[bytes, bytes]) -> str:
        """The prefix that a proxy says it stripped, if the proxy is to be believed."""
        client = scope.get("client")
        if "*" not in self.proxies and (client is None or client[0] not in self.proxies):
            return ""
        for name in PREFIX_HEADERS:
            said = headers.get(name, b"").decode("latin-1").rstrip("/")
            if PREFIX.fullmatch(said):
                return said
        return ""

    def _note(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        """Count the answer and write its line."""
        route = getattr(scope.get("route"), "path", None) or "other"
        self.metrics.count(route, answer.method, answer.status, seconds)
        if "geomap.cached" in scope and answer.status == 200:
            self.metrics.count_tile(scope["geomap.cached"])
        level = logging.INFO
        if answer.status < 400 and ("geomap.cached" in scope or route in QUIET):
            level = logging.DEBUG
        if logger.isEnabledFor(level):
            client = scope.get("client")
            known: dict[str, Any] = {
                "method": answer.method, "path": scope["path"], "route": route, "status": answer.status,
                "ms": round(1000 * seconds, 2), "bytes": answer.bytes, "client": client and client[0],
            }  # fmt: skip
            said = "%s %s %d in %.1f ms"
            logger.log(
                level, said, answer.method, _safe(scope["path"]), answer.status, 1000 * seconds, extra=known
            )


class _Answer:
    """Passes an answer on, with its headers completed, and notes what it was."""

    def __init__(self, send: Send, name: bytes, scope: Scope) -> None:
        self._send = send
        self._name = name
        self.method = scope["method"]
        self.status = 500
        self.bytes = 0
        own = scope["path"].endswith(OWN_HEAD[0]) or OWN_HEAD[1] in scope["path"]
        self._bare = self.method == "HEAD" and not own
        if self._bare:
            scope["method"] = "GET"

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._completed(list(message.get("headers", ())))
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            self.bytes += len(body)
            if self._bare:
                message = {**message, "body": b""}
        await self._send(message)

    def _completed(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        there = {name.lower(): value for name, value in headers}
        headers += [pair for pair in EVERY if pair[0] not in there]
        headers.append((b"x-request-id", self._name))
        if self.status >= 400:
            headers = [pair for pair in headers if pair[0].lower() != b"cache-control"]
            headers.append((b"cache-control", b"no-store"))
        if (
            there.get(b"content-type", b"").startswith(b"text/html")
            and b"content-security-policy" not in there
        ):
            headers.append((b"content-security-policy", CSP.encode()))
        return headers


def _safe(path: str) -> str:
    """A path for a log line: no control characters, no endless ones."""
    return path[:300].encode("unicode_escape").decode("ascii")
