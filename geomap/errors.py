"""Errors of the map side; every one carries three parts and ends a command with exit code 2.

ThreePartError (train.errors)
└── GeomapError
    ├── RecordsError        a table that cannot be used as species records
    │   └── NameNotFoundError   a name that no record, head or map carries
    ├── GridError           a grid, region or resolution that makes no sense
    ├── ImageryError        imagery that is missing, unreadable or does not fit
    ├── FieldError          an embedding field that is missing, incomplete or corrupt
    ├── HeadsError          species heads that are missing, corrupt or of another encoder
    ├── MapError            a rendered map that failed its own check, or a corrupt map file
    ├── OutputError         a place that cannot be written (exists, full, read-only)
    └── SchedulerError      a Dask scheduler that does not answer
"""

from __future__ import annotations

from train.errors import ThreePartError


class GeomapError(ThreePartError):
    """Anything the map side refuses."""


class RecordsError(GeomapError, ValueError):
    """A table that cannot be used as species records."""


class NameNotFoundError(RecordsError, LookupError):
    """A species name that nothing carries; the nearest names are in `change`."""


class GridError(GeomapError, ValueError):
    """A grid, region, resolution or CRS that makes no sense."""


class ImageryError(GeomapError, ValueError):
    """Imagery that is missing, unreadable, without CRS, or does not fit the encoder or grid."""


class FieldError(GeomapError, ValueError):
    """An embedding field that is missing, incomplete, corrupt or of another encoder."""


class HeadsError(GeomapError, ValueError):
    """Species heads that are missing, corrupt or of another encoder."""


class MapError(GeomapError, ValueError):
    """A rendered map that failed its own check, or a map file that is corrupt."""


class OutputError(GeomapError, OSError):
    """A place that cannot be written: it exists, is full, or is read-only."""

    def __str__(self) -> str:  # OSError would print the tuple of arguments
        return f"{self.what}: {self.found}. {self.change}"


class SchedulerError(GeomapError, ConnectionError):
    """A Dask scheduler that does not answer."""

    def __str__(self) -> str:
        return f"{self.what}: {self.found}. {self.change}"
