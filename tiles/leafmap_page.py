"""The page that Leafmap exports for a species, at /leafmap: MapLibre with our tiles, from this server alone.

Leafmap is imported when the page is first asked for (three seconds, 70 MB, neither torch nor a cluster), in
the thread that answers, and a page is exported once for each species, grid and version. What its export needs
to work without any other server: a style given as a dict instead of the name of one to fetch, the message
queue, without which layers added in Python are dropped, and `remove_port=False`, which keeps addresses whole.

Addresses of tiles must be absolute in MapLibre, whose worker has no address of its own. The page makes them
from the address at which it is itself seen, so they are right behind any proxy, and a page that is kept holds
no host's name.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import threading
from collections import OrderedDict
from html import escape
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from tiles import words
from tiles.describe import query_of
from tiles.errors import problem, refusals
from tiles.headers import SHORT, kept
from tiles.maps import SpeciesMap
from tiles.parameters import ID, TMS, GridName, GroupName
from tiles.settings import Settings
from tiles.shown import Shown

HTML: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {"schema": {"type": "string"}}}}}
PAGES = 16  # of 1.2 MB each
HERE = "https://here.invalid"  # stands for the server in what Leafmap is given
OPACITY = 0.85
SEA, LAND, COAST = "#dfe7ee", "#f4f2ec", "#8a8f96"
AROUND = 12.0  # degrees of land around the map that are drawn
SIMPLIFIED = 0.02  # degrees
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
# What the exported page needs and no more: its own scripts by their hashes, MapLibre's worker and styles.
POLICY = (
    "default-src 'none'; script-src {hashes}; worker-src blob:; child-src blob:; style-src 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
SpeciesId = Annotated[
    str | None, Query(pattern=f"^{ID}$", description="Id of the species; the first there is if left out")
]


def router(library: Shown, settings: Settings) -> APIRouter:
    """The route /leafmap.

    Args:
        library: The maps that may be seen.
        settings: Not needed here.
    """
    api = APIRouter(tags=["page"])
    pages = Pages()

    @api.get(
        "/leafmap", summary="The page that Leafmap exports for a map", response_class=Response,
        responses={**refusals(404, 422, 503), **HTML},
    )  # fmt: skip
    def page(
        request: Request, species: SpeciesId = None, grid: GridName = None, group: GroupName = None
    ) -> Response:
        """A map that needs nothing but this server: pan, zoom, colours and their meaning."""
        first = next(iter(library.listing.by_id), "none")
        chosen = library.find(species or first, grid, group)
        try:
            html, policy = pages.get(chosen)
        except ImportError:
            found = "a server without Leafmap, or with one that cannot be loaded"
            return problem(
                503, "cannot show this page", found, "Install it (pip install leafmap); / works without."
            )
        answer = kept(request, html, "text/html; charset=utf-8", keep=SHORT)
        answer.headers["Content-Security-Policy"] = policy
        return answer

    return api


class Pages:
    """Exported pages with their content security policies, the last ones kept."""

    def __init__(self) -> None:
        """Keep none yet."""
        self._lock = threading.Lock()  # Leafmap draws colour bars with pyplot, which is not for threads
        self._kept: OrderedDict[tuple[str, str, str, str], tuple[bytes, str]] = OrderedDict()

    def get(self, chosen: SpeciesMap) -> tuple[bytes, str]:
        """The page of a map, and its content security policy.

        Raises:
            ImportError: Leafmap cannot be imported.
        """
        about = chosen.about
        key = about.id, about.grid, about.group, about.version
        with self._lock:
            if key not in self._kept:
                self._kept[key] = finished(exported(chosen))
            self._kept.move_to_end(key)
            while len(self._kept) > PAGES:
                self._kept.popitem(last=False)
            return self._kept[key]


def exported(chosen: SpeciesMap) -> str:
    """The page as Leafmap exports it, with `HERE` for the address of the server.

    Args:
        chosen: The map.

    Raises:
        ImportError: Leafmap cannot be imported.
    """
    import matplotlib

    matplotlib.use("Agg")  # a server has no display
    from leafmap.maplibregl import Map
    from matplotlib import pyplot

    from geomap.colour import DEFAULT, STEPS, palette
    from tiles.ogc import bounds, native_zoom

    about, box = chosen.about, bounds(chosen)
    band, name = about.bands[0], escape(about.scientific)
    template = f"{HERE}/species/{about.id}/tiles/{TMS[0]}/{{z}}/{{x}}/{{y}}.png?{query_of(about)}"
    credit = "; ".join(about.credit[key] for key in ("data_credit", "imagery_credit") if key in about.credit)
    center, zoom = view(box)
    view_of = Map(center=center, zoom=zoom, style=style(box), height="100vh", use_message_queue=True)
    limits = {"max_zoom": native_zoom(chosen), "bounds": box}
    view_of.add_tile_layer(
        url=template, name=name, attribution=escape(credit), opacity=OPACITY, source_args=limits
    )
    view_of.set_paint_property(name, "raster-resampling", "nearest")  # no colour between two cells
    colours = [
        "#{:02x}{:02x}{:02x}".format(*entry) for entry in palette(DEFAULT)[: STEPS + 1 : 10, :3].tolist()
    ]
    view_of.add_colorbar(
        palette=colours, vmin=band.low, vmax=band.high, label=band.unit or band.name, transparent=False
    )
    pyplot.close("all")
    view_of.add_html(
        legend(name, escape(about.vernacular), escape(words.explanation(about))), position="top-left"
    )
    page: str = view_of.to_html(title=f"{name} – geomap", remove_port=False)
    return page


def legend(scientific: str, vernacular: str, explanation: str) -> str:
    """What stands beside the colours, from escaped texts."""
    common = f", {vernacular}" if vernacular else ""
    return (
        '<details style="max-width:19rem;font:13px/1.4 sans-serif">'
        f"<summary><em>{scientific}</em>{common}</summary>"
        f"<p>{explanation}</p><p>{escape(words.NODATA)}</p></details>"
    )


def style(box: tuple[float, float, float, float]) -> dict[str, Any]:
    """A style of MapLibre without any address: the land around a map, on a plain sea."""
    return {
        "version": 8,
        "name": "outline",
        "sources": {"land": {"type": "geojson", "data": land(box)}},
        "layers": [
            {"id": "sea", "type": "background", "paint": {"background-color": SEA}},
            {"id": "land", "type": "fill", "source": "land", "paint": {"fill-color": LAND}},
            {"id": "coast", "type": "line", "source": "land", "paint": {"line-color": COAST}},
        ],
    }


def land(box: tuple[float, float, float, float]) -> dict[str, Any]:
    """The land in and around a box as GeoJSON.

    Args:
        box: West, south, east, north in degrees, west < east.
    """
    import json

    import shapely

    from geomap.land import california, land_shapes

    west, south, east, north = box
    frame = shapely.box(
        max(-180, west - AROUND), max(-85, south - AROUND), min(180, east + AROUND), min(85, north + AROUND)
    )
    tolerance = max(SIMPLIFIED, (east - west) / 2000)
    shapes = [shape for shape in (*land_shapes(), california()) if shape.intersects(frame)]
    parts = [shapely.simplify(shapely.intersection(shape, frame), tolerance) for shape in shapes]
    drawn = [shapely.set_precision(part, 0.001) for part in parts if not part.is_empty]
    features = [
        {"type": "Feature", "properties": {}, "geometry": json.loads(shapely.to_geojson(part))}
        for part in drawn
        if not part.is_empty
    ]
    return {"type": "FeatureCollection", "features": features}


def view(box: tuple[float, float, float, float]) -> tuple[tuple[float, float], float]:
    """Centre (lon, lat), and the zoom at which a box fills a view of 800 x 600 pixels."""
    west, south, east, north = box
    low, high = (math.asinh(math.tan(math.radians(max(-85.0, min(85.0, lat))))) for lat in (south, north))
    share = max((east - west) / 360 / 800, (high - low) / (2 * math.pi) / 600)
    middle = math.degrees(math.atan(math.sinh((low + high) / 2)))
    return ((west + east) / 2, middle), round(max(0.0, math.log2(1 / (512 * share))), 2)


def finished(page: str) -> tuple[bytes, str]:
    """The page as it goes out, and the policy that its scripts need.

    Args:
        page: As Leafmap exports it; texts in it hold no `<`.

    Returns:
        HTML in UTF-8, whose addresses follow from where it is seen, and its content security policy.
    """
    page = COMMENT.sub("", page, count=1)  # links to a copy of MapLibre elsewhere, which it does not use
    here = '(new URL(".", location.href).href.slice(0, -1)) + "'
    page = page.replace(f'"{HERE}', here)
    page = page.replace("<title>", '<link rel="icon" href="data:,">\n<title>', 1)
    digests = [hashlib.sha256(script.encode()).digest() for script in SCRIPT.findall(page)]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return page.encode(), POLICY.format(hashes=hashes)
