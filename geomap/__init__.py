"""Maps: records, grids, imagery, the encoding sweep, species heads and the maps they give.

    import geomap

    poppy = geomap.render("Eschscholzia californica", grid="california")   # xarray.DataArray, lazy
    geomap.plot(poppy)
    heads = geomap.fit(records)                                            # pandas or GeoPandas
    plots = geomap.predict(plots, heads)
    table = geomap.summary(counties, "Eschscholzia californica")

Importing this loads nothing else: each name is fetched when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geomap.api import fit as fit
    from geomap.api import open as open
    from geomap.api import predict as predict
    from geomap.api import render as render
    from geomap.errors import GeomapError as GeomapError
    from geomap.leafmap import Map as Map
    from geomap.plotting import plot as plot
    from geomap.summaries import summary as summary

__all__ = ["GeomapError", "Map", "fit", "open", "plot", "predict", "render", "summary"]

COMMANDS = ("fit", "predict", "render")  # modules that can be called, see geomap.callable_module
PLACES = {
    "GeomapError": "geomap.errors",
    "Map": "geomap.leafmap",
    "open": "geomap.api",
    "plot": "geomap.plotting",
    "summary": "geomap.summaries",
}


def __getattr__(name: str) -> object:
    if name in COMMANDS:
        return import_module(f"geomap.{name}")
    if name in PLACES:
        return getattr(import_module(PLACES[name]), name)
    raise AttributeError(f"module 'geomap' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
