"""The tile server that maps in notebooks speak to: a running one, or one of this process's own, started once.

    with tile_server() as server:          # GEOMAP_TILE_SERVER, or else `python -m tiles` on a free port
        server.get("/species", search="wrentit")
        server.tiles                        # what addresses of tiles begin with in the browser

Python speaks to the server directly; `geomap.browser_way` says where the browser finds it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from http.client import HTTPException
from types import TracebackType
from typing import IO, Any, Self
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from geomap.browser_way import VARIABLE as WAY
from geomap.browser_way import for_browser, is_loopback
from geomap.errors import GeomapError

VARIABLE = "GEOMAP_TILE_SERVER"
STARTING_S, STOPPING_S, ANSWER_S = 120, 40, 120
LINES = 12  # of a log that an error quotes
ADDRESS = re.compile(r"\b(http://\S+?)/?$", re.MULTILINE)


class TileServerError(GeomapError, RuntimeError):
    """A tile server that does not start, does not answer, or refuses what it is asked."""


class TileServer:
    """A tile server as a notebook sees it.

    Args:
        address: URL at which Python reaches it.
        tiles: What stands before `/species` in addresses that the browser asks for; `address` if None.
        local: The server of this process that it is, if it is one.

    Attributes:
        address: URL for Python, without a slash at its end.
        tiles: URL or path for the browser, without a slash at its end.
    """

    def __init__(self, address: str, tiles: str | None = None, local: LocalServer | None = None) -> None:
        self.address = address.rstrip("/")
        self.tiles = (tiles or address).rstrip("/")
        self._local = local
        # Whoever forgets to close it, and lets go of it, lets the server go, too.
        self._forgotten = weakref.finalize(self, _let_go, local) if local is not None else None
        if self._forgotten is not None:
            self._forgotten.atexit = False  # the end of the process stops all servers
        # A proxy of the network leads nowhere on this machine.
        self._opener = build_opener(ProxyHandler({})) if is_loopback(address) else build_opener()

    def get(self, path: str, **query: object) -> Any:
        """The JSON answer to GET; parts of the query that are None are left out.

        Raises:
            TileServerError: The server cannot be reached, or refuses.
        """
        return self._ask(path, query)

    def post(self, path: str, body: Mapping[str, Any], **query: object) -> Any:
        """The JSON answer to POST with a JSON body; parts of the query that are None are left out.

        Raises:
            TileServerError: The server cannot be reached, or refuses.
        """
        return self._ask(path, query, json.dumps(body).encode())

    def template(self, link: str) -> str:
        """A link of the server's answers ("/species/ID/tiles/...") as the browser must ask for it."""
        return self.tiles + link[link.index("/species/") :]

    def close(self) -> None:
        """Let go of the server; one of this process's own stops when nobody holds it any more."""
        if self._local is not None and self._forgotten is not None:
            self._forgotten.detach()
            SHARED.release(self._local)
            self._local = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, path: str, query: Mapping[str, object], body: bytes | None = None) -> Any:
        given = {key: value for key, value in query.items() if value is not None}
        url = f"{self.address}{path}" + (f"?{urlencode(given)}" if given else "")
        request = Request(url, body, {"Content-Type": "application/json"} if body else {})
        try:
            with self._opener.open(request, timeout=ANSWER_S) as answer:
                return json.load(answer)
        except HTTPError as error:
            with error:
                raise _refusal(error) from error
        except (OSError, HTTPException) as error:
            found = f"{self.address} ({getattr(error, 'reason', None) or error})"
            change = "See whether it runs; geomap.Map() without a server starts one of its own."
            raise TileServerError("cannot reach the tile server", found, change) from error
        except ValueError as error:
            raise _no_server_of_ours(self.address) from error


def tile_server(server: str | None = None, url: str | None = None) -> TileServer:
    """The server at a URL, or at GEOMAP_TILE_SERVER, or one of this process's own.

    Args:
        server: URL of a running server.
        url: What stands before `/species` in addresses that the browser asks for, with `{port}` for the
            port; from the surroundings if None, see `geomap.browser_way`.

    Raises:
        TileServerError: It does not answer, is another kind of server, or cannot be started; or `url` is no
            URL or path.

    Example:
        >>> with tile_server("http://127.0.0.1:8000") as server:  # doctest: +SKIP
        ...     server.get("/species", search="wrentit")["total"]
    """
    said = url or os.environ.get(WAY)
    if said and not said.startswith(("http://", "https://", "/")):
        change = f"Give a URL or a path (argument url, or {WAY}), like /user/anna/proxy/{{port}}/."
        raise TileServerError("cannot tell the browser where the tiles are", f"{said!r}", change)
    chosen = server or os.environ.get(VARIABLE)
    if chosen is None:
        local = SHARED.acquire()
        return TileServer(local.address, for_browser(local.address, url), local)
    if not re.fullmatch(r"https?://[^/\s]+\S*", chosen):
        raise TileServerError("cannot reach the tile server", f"{chosen!r}", "Give http://HOST:PORT.")
    found = TileServer(chosen, for_browser(chosen, url))
    about = found.get("/species", limit=1)
    if not isinstance(about, dict) or "total" not in about:
        raise _no_server_of_ours(chosen)
    return found


class LocalServer:
    """`python -m tiles` as a child process, ready to answer; it ends with this process, however that ends.

    Attributes:
        address: Its URL without a slash at its end.
        users: How many hold it.

    Raises:
        TileServerError: It ends instead of getting ready, or takes too long.
    """

    def __init__(self) -> None:
        self.address, self.users = "", 0
        self._files = contextlib.ExitStack()
        self._out = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  closed by stop()
        self._log = self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        command = [sys.executable, "-m", "tiles", "--host", "127.0.0.1", "--port", "0"]
        # A session of its own: an interrupt of the notebook must not reach the server.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._log, env=_environment(),
            start_new_session=True,
        )  # fmt: skip
        try:
            # Even a killed process closes its pipes: then the guard ends the server.
            self._guard = subprocess.Popen(
                ["sh", "-c", f"cat; kill {self._process.pid}"], stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            self._wait()
        except BaseException:
            self.stop()
            raise

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process and wait for it; a second call does nothing."""
        if guard := getattr(self, "_guard", None):
            guard.kill()
            guard.wait()
            guard.stdin.close()
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(STOPPING_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._files.close()

    def _wait(self) -> None:
        end = time.monotonic() + STARTING_S
        while time.monotonic() < end:
            if not self.running:
                raise self._failure(f"it ended with code {self._process.returncode}")
            if not self.address and (line := ADDRESS.search(_text(self._out))):
                self.address = line.group(1)
            if self.address and self._is_ready():
                return
            time.sleep(0.05)
        raise self._failure(f"it was not ready after {STARTING_S} s")

    def _is_ready(self) -> bool:
        try:
            TileServer(self.address).get("/readyz")
        except TileServerError:
            return False
        return True

    def _failure(self, found: str) -> TileServerError:
        lines = _text(self._log).strip().splitlines()[-LINES:]
        said = "\n".join([f"{found}, and its log ends with", *lines]) if lines else f"{found} without a word"
        change = (
            f"Try `python -m tiles` in a terminal, or name a running server: {VARIABLE}=http://HOST:PORT."
        )
        return TileServerError("cannot start a tile server", said, change)


class SharedServer:
    """The one local server of this process: started for the first who needs it, stopped after the last."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._server: LocalServer | None = None

    def acquire(self) -> LocalServer:
        """The server, started if there is none; give it back by `release`.

        Raises:
            TileServerError: It cannot be started.
        """
        with self._lock:
            if self._server is not None and not self._server.running:
                self._server.stop()
                self._server = None
            if self._server is None:
                self._server = LocalServer()
            self._server.users += 1
            return self._server

    def release(self, server: LocalServer) -> None:
        """Give a server back."""
        with self._lock:
            server.users -= 1
            if server.users <= 0 and server is self._server:
                self._server.stop()
                self._server = None

    def stop(self) -> None:
        """Stop the server, whoever holds it."""
        with self._lock:
            if self._server is not None:
                self._server.stop()
                self._server = None


SHARED = SharedServer()
atexit.register(SHARED.stop)


def _let_go(local: LocalServer) -> None:
    """Give a forgotten server back; in a thread, since stopping takes a while and this is a finalizer."""
    threading.Thread(target=SHARED.release, args=(local,), daemon=True).start()


def _environment() -> dict[str, str]:
    """Variables of the child: a server on this machine has no proxy's prefix, and no other server to ask."""
    left_out = {VARIABLE, "GEOMAP_TILES_ROOT_PATH"}
    return {name: value for name, value in os.environ.items() if name not in left_out}


def _text(file: IO[bytes]) -> str:
    """What a child has written to a file; its own place in the file is left alone."""
    return os.pread(file.fileno(), 1_000_000, 0).decode(errors="replace")


def _refusal(error: HTTPError) -> TileServerError:
    """The three parts of a refusal, which the server's answer holds."""
    try:
        parts = json.load(error)
        return TileServerError(parts["what"], parts["found"], parts["change"])
    except (ValueError, KeyError, TypeError):
        change = "See whether the address is that of a tile server of geomap."
        return TileServerError("cannot use the tile server", f"{error.code} at {error.url}", change)


def _no_server_of_ours(address: str) -> TileServerError:
    found = f"something else at {address}"
    return TileServerError(
        "cannot use the tile server", found, "Give the address that python -m tiles shows."
    )
