"""Clients for benchmarks/tiles.py, in a process of their own and much cheaper than the servers they ask.

    python benchmarks/tileserver/clients.py

Reads a `Load` as one JSON line from standard input, carries it out, answers with one JSON line, and so on
until the input ends. Each client has a connection that it keeps, and asks as soon as it is answered. HTTP is
spoken as plainly as the servers need it: one request at a time, bodies of a declared length.
"""

from __future__ import annotations

import base64
import json
import re
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

PATIENCE = 120.0  # seconds without any answer after which it is given up
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Load:
    """What clients ask.

    Attributes:
        host: Of the server.
        port: Of the server.
        paths: Each asked once, in this order.
        clients: How many ask at the same time.
        seconds: Nothing more is asked after these.
        keep: Whether the bodies are handed back.
    """

    host: str
    port: int
    paths: Sequence[str]
    clients: int = 8
    seconds: float = PATIENCE
    keep: bool = False


@dataclass
class Outcome:
    """What came back.

    Attributes:
        seconds: From the first request to the last answer.
        ms: What each answer took, in the order in which they came.
        statuses: Status -> number of answers.
        bytes: Of all bodies.
        cpu_s: CPU seconds of the clients.
        bodies: Path -> body in base64, if they are kept.
    """

    seconds: float
    ms: list[float]
    statuses: dict[str, int]
    bytes: int
    cpu_s: float
    bodies: dict[str, str]


class Line:
    """A connection that is kept."""

    def __init__(self, host: str, port: int) -> None:
        """Connect."""
        self.socket = socket.create_connection((host, port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.path, self._asked = "", 0.0
        self._buffer, self._start, self._end = bytearray(), 0, 0

    def ask(self, path: str) -> None:
        """Send a request."""
        self.path, self._asked = path, time.perf_counter()
        self.socket.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())

    def take(self) -> tuple[int, bytes, float] | None:
        """Status, body and milliseconds once the whole answer is there; called when some of it is.

        Raises:
            ConnectionError: The server closed the connection.
        """
        part = self.socket.recv(1 << 18)
        if not part:
            raise ConnectionError(f"the server closed the connection that asked for {self.path}")
        self._buffer += part
        if not self._end:
            head = self._buffer.find(b"\r\n\r\n")
            if head < 0:
                return None
            length = LENGTH.search(self._buffer, 0, head)
            self._start = head + 4
            self._end = self._start + (int(length[1]) if length else 0)
        if len(self._buffer) < self._end:
            return None
        spent = 1000 * (time.perf_counter() - self._asked)
        answer = int(self._buffer[9:12]), bytes(self._buffer[self._start : self._end]), spent
        del self._buffer[: self._end]
        self._end = 0
        return answer


def carry_out(load: Load) -> Outcome:
    """Ask, and note what comes back.

    Raises:
        TimeoutError: No answer came for a long time.
        ConnectionError: The server went away.
    """
    left, ms, statuses, bodies = iter(load.paths), [], Counter[str](), {}
    total, lines = 0, []
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in load.paths[: load.clients]:
            lines.append(Line(load.host, load.port))
            stack.enter_context(lines[-1].socket)
        cpu, began = time.process_time(), time.perf_counter()
        for line in lines:
            selector.register(line.socket, selectors.EVENT_READ, line)
            line.ask(next(left))
        while selector.get_map():
            ready = selector.select(PATIENCE)
            if not ready:
                raise TimeoutError(f"no answer for {PATIENCE:.0f} s")
            for key, _ in ready:
                line = key.data
                answer = line.take()
                if answer is None:
                    continue
                status, body, spent = answer
                ms.append(spent)
                statuses[str(status)] += 1
                total += len(body)
                if load.keep:
                    bodies[line.path] = base64.b64encode(body).decode()
                path = next(left, None) if time.perf_counter() - began < load.seconds else None
                if path is None:
                    selector.unregister(line.socket)
                else:
                    line.ask(path)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Outcome(seconds, ms, dict(statuses), total, cpu, bodies)


def main() -> None:
    """Carry out what the input says."""
    for text in sys.stdin:
        said: dict[str, Any] = json.loads(text)
        print(json.dumps(asdict(carry_out(Load(**said)))), flush=True)


if __name__ == "__main__":
    main()
