"""What an operator sees: log lines as text or JSON with the ids of requests, and numbers for Prometheus."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from tiles.settings import Settings

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's name for the folder of all workers
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
FIELDS = ("method", "path", "route", "status", "ms", "bytes", "client")
LOGGERS = ("tiles", "geomap", "uvicorn", "uvicorn.error")
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the request's id, and what came with it."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if REQUEST_ID.get():
            line["request"] = REQUEST_ID.get()
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, the request's id where there is one, and the message."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line, with its traceback below."""
        request = f" [{REQUEST_ID.get()}]" if REQUEST_ID.get() else ""
        moment = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")
        line = f"{moment} {record.levelname.lower()}{request} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logging(settings: Settings) -> None:
    """Send the server's log lines to stderr in the format that the settings ask for."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler] if "." not in name else []
        logger.propagate = "." in name
        logger.setLevel(settings.log_level.upper())


class Metrics:
    """Counters and times of one app.

    With several workers each writes into a folder that they share, and any of them tells the sums.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "geomap_tiles_requests", "Answers", ("route", "method", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "geomap_tiles_request_seconds", "Time to the end of an answer", ("route",),
            registry=self.registry, buckets=BUCKETS,
        )  # fmt: skip
        self.draws = Histogram(
            "geomap_tiles_draw_seconds", "Time that a tile took, with its wait for a thread",
            registry=self.registry, buckets=BUCKETS,
        )  # fmt: skip
        self.tiles = Counter(
            "geomap_tiles_cache",
            "Tiles from memory (hit) or drawn (miss)",
            ("result",),
            registry=self.registry,
        )
        self.refused = Counter(
            "geomap_tiles_refused",
            "Requests refused with 503: too many, or unreadable",
            registry=self.registry,
        )
        self.inside = Gauge(
            "geomap_tiles_inside", "Requests being worked on or waiting for a thread",
            registry=self.registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self._hit, self._miss = self.tiles.labels("hit"), self.tiles.labels("miss")
        self._known: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer."""
        key = route, method, status
        if key not in self._known:
            self._known[key] = self.requests.labels(route, method, str(status)), self.seconds.labels(route)
        requests, times = self._known[key]
        requests.inc()
        times.observe(seconds)
        if status == 503:
            self.refused.inc()

    def count_tile(self, cached: bool) -> None:
        """Count a tile."""
        (self._hit if cached else self._miss).inc()

    def text(self) -> bytes:
        """All numbers in Prometheus' text format; those of all workers where there are several."""
        if MULTIPROCESS not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
