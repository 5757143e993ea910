"""What a request may say: the forms of ids, places and queries, and that nothing else is said."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from fastapi import Path, Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from geomap.colour import DEFAULT, RAMPS
from tiles.errors import QueryError

ID = r"[a-z0-9][a-z0-9_-]{0,95}"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
VERSION = r"[0-9a-f]{12}"
MAXZOOM = 14  # cells of 10 m; clients enlarge beyond
TMS = ("WebMercatorQuad", "WorldCRS84Quad")

Species = Annotated[
    str,
    Path(
        pattern=f"^{ID}$", description="Id of the species, as /species lists it", examples=["quercus-lobata"]
    ),
]
GridName = Annotated[
    str | None,
    Query(pattern=f"^{NAME}$", description="Grid; the finest if left out", examples=["california"]),
]
GroupName = Annotated[
    str | None, Query(pattern=f"^{NAME}$", description="Group of heads; the best of the species if left out")
]
Layer = Annotated[
    str | None, Query(pattern=f"^{NAME}$", description="Layer of the map; its first if left out")
]
Version = Annotated[
    str | None, Query(pattern=f"^{VERSION}$", description="Version of the map; an old one is not found")
]
THRESHOLD = r"[a-z][a-z0-9_]{0,31}|-?[0-9]{1,9}(?:\.[0-9]{1,20})?"
Threshold = Annotated[
    str | None,
    Query(
        pattern=f"^({THRESHOLD})$", examples=["p10"],
        description="A threshold of the map by its name, or a value in the units of the layer",
    ),
]  # fmt: skip
Colormap = Annotated[
    str, Query(pattern=f"^({'|'.join(RAMPS)})$", description="Colour map", examples=[DEFAULT])
]
Number = r"-?[0-9]{1,3}(?:\.[0-9]{1,20})?"
Lon = Annotated[str, Path(pattern=f"^{Number}$", description="Degrees east, -180..180", examples=["-119.5"])]
Lat = Annotated[str, Path(pattern=f"^{Number}$", description="Degrees north, -90..90", examples=["37.2"])]


def place(lon: str, lat: str) -> tuple[float, float]:
    """A place on earth.

    Raises:
        QueryError: Not numbers, or beyond -180..180 and -90..90.
    """
    x, y = float(lon), float(lat)
    if not (math.isfinite(x) and math.isfinite(y) and abs(x) <= 180 and abs(y) <= 90):
        change = "Give lon within -180..180 and lat within -90..90."
        raise QueryError("cannot read a value", f"lon {lon}, lat {lat}", change)
    return x, y


async def declared_only(request: Request) -> None:
    """Refuse parameters that would be ignored, so that nobody takes a mistyped one for obeyed.

    Raises:
        QueryError: With the name of the first one that is unknown or given twice.
    """
    if not request.url.query:
        return
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    names: dict[int, frozenset[str] | None] = request.app.state.query_names
    if id(route) not in names:  # routes live as long as the app, and cannot be keys themselves
        names[id(route)] = _query_names(route)
    known = names[id(route)]
    if known is not None:
        check_names([name for name, _ in request.query_params.multi_items()], known)


def check_names(given: list[str], known: frozenset[str]) -> None:
    """Refuse query names that are not known, or that come twice.

    Raises:
        QueryError: With the name of the first one.
    """
    for k, name in enumerate(given):
        if name not in known:
            found = f"parameter {name[:60]!r}"
            raise QueryError("cannot answer", found, f"Known are {', '.join(sorted(known)) or 'none'}.")
        if name in given[:k]:
            raise QueryError("cannot answer", f"parameter {name!r} twice", "Give it once.")


def _query_names(route: APIRoute) -> frozenset[str] | None:
    """Names that a route declares; None where a model declares them and refuses others itself."""
    names: set[str] = set()
    waiting: list[Dependant] = [route.dependant]
    while waiting:
        one = waiting.pop()
        waiting += one.dependencies
        for field in one.query_params:
            annotation: Any = field.field_info.annotation
            if hasattr(annotation, "model_fields"):
                return None
            names.add(field.alias)
    return frozenset(names)


def matches(pattern: str, text: str) -> bool:
    """Whether a whole text has a form."""
    return re.fullmatch(pattern, text) is not None
