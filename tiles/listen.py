"""The sockets that the server listens on, made before anything is loaded: a taken port is refused at once."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from tiles.settings import SettingsError

BACKLOG = 2048


def listening(host: str, port: int, count: int = 1) -> list[socket.socket]:
    """Listening TCP sockets at one address: who comes before the server is ready waits.

    They name their protocol, because asyncio sets TCP_NODELAY only on sockets that name TCP, and without it
    every answer on a kept line waits 40 ms. Several of them share the port: the system then deals new
    connections out among the workers, where with one socket whoever wakes first takes all that wait.

    Args:
        host: Address or name.
        port: Port; 0 takes a free one.
        count: How many sockets, one for each worker.

    Raises:
        SettingsError: The address cannot be listened on.
    """
    made: list[socket.socket] = []
    try:
        kinds = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = kinds[0]
        if count > 1 and port:
            _refuse_taken(family, address)
        for _ in range(count):
            one = socket.socket(family, kind, protocol)
            made.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if count > 1:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            one.bind(address)
            one.listen(BACKLOG)
            address = made[0].getsockname()
    except OSError as error:
        for one in made:
            one.close()
        raise SettingsError(
            f"cannot listen on {host}:{port}", error.strerror or str(error), "Give another --host or --port."
        ) from error
    return made


def _refuse_taken(family: int, address: Any) -> None:
    """Raise OSError where somebody listens already: sockets that share a port would join another server's."""
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)


def address_of(listener: socket.socket) -> str:
    """The address of a bound socket as a URL without a slash at its end."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
