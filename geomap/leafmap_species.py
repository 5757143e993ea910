"""A species on the map of `geomap.leafmap`: its tiles, and the box that cuts them and makes them clearer.

The box has the colours with a stroke at each threshold of the species, a choice of these thresholds, a slider
for any other value, the area at or above it, and a slider of the opacity. Cutting changes the address of the
tiles; it waits until the slider has rested.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import leafmap.leafmap as backend
import numpy as np

from geomap import leafmap_html as html
from geomap import leafmap_parts as parts
from geomap.errors import RecordsError
from geomap.tileserver import TileServerError

if TYPE_CHECKING:
    from geomap.tileserver import TileServer

CLOSEST = 18  # zoom level of the finest tiles
STEPS = 250  # of the slider, as many as there are colours
PAUSE_S = 0.25  # that the slider rests before tiles are asked for
ALL, OWN = "", "own"  # choices besides the keys of thresholds


class Soon:
    """Calls a function when a series of calls has paused; at once where no event loop runs.

    Args:
        call: What is called.
        seconds: Length of the pause.
    """

    def __init__(self, call: Callable[[], None], seconds: float = PAUSE_S) -> None:
        self._call, self._seconds = call, seconds
        self._waiting: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        """Call, when nobody has called this for a while."""
        self.cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._call()
        else:
            self._waiting = loop.call_later(self._seconds, self._call)

    def cancel(self) -> None:
        """Forget what waits."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class Shown:
    """A species on a map.

    Args:
        server: The tile server.
        about: What it says of the map.
        colormap: One of its colour maps; its default if None.
        opacity: 0..1.

    Attributes:
        about: What the server says of the map.
        layer: Its ipyleaflet.TileLayer.
        control: The control with its colours and sliders.
        threshold: What the tiles are cut at: a key of a threshold, or a value as text; None for nothing.

    Raises:
        TileServerError: The server refuses or cannot be reached.
    """

    def __init__(
        self, server: TileServer, about: Mapping[str, Any], colormap: str | None, opacity: float
    ) -> None:
        self.about = about
        self.threshold: str | None = None
        self._server = server
        self._legend = server.get(f"{self.path}/legend.json", colormap=colormap, **self.which)
        self._url = server.template(about["links"]["tiles"]) + (f"&colormap={colormap}" if colormap else "")
        self._stats: Mapping[str, Any] | None = None
        credit = [about["credit"][key] for key in ("data_credit", "imagery_credit") if key in about["credit"]]
        self.layer = backend.ipyleaflet.TileLayer(
            url=self._url, name=about["scientificName"], attribution=escape("; ".join(credit)),
            opacity=opacity, max_zoom=CLOSEST, max_native_zoom=CLOSEST,
        )  # fmt: skip
        self._draw = Soon(self._drawn)
        self._setting = False  # whether the sliders are moved from here
        box = self._box(opacity)
        self.control = backend.ipyleaflet.WidgetControl(widget=box, position="bottomright")
        self._drawn()

    @property
    def path(self) -> str:
        """Address of the species below the server's."""
        return f"/species/{self.about['id']}"

    @property
    def which(self) -> dict[str, Any]:
        """The query that names the map among those of its species."""
        return {"grid": self.about["grid"], "group": self.about["group"] or None}

    @property
    def told(self) -> str | None:
        """The threshold that verdicts and areas are told by: that of the tiles, or else the map's default."""
        return self.threshold or self.about["default_threshold"]

    @property
    def limit(self) -> float | None:
        """The value that the tiles are cut at; None where they are not."""
        if self.threshold is None:
            return None
        known = self.about["thresholds"].get(self.threshold)
        return float(self.threshold if known is None else known["value"])

    def cut(self, threshold: str | float | None) -> None:
        """Draw what lies below a threshold in the lightest colour.

        Args:
            threshold: Key of one of the species' thresholds ("p10"), a value in the map's units, or None to
                draw all values.

        Raises:
            RecordsError: There is no such threshold, or the map has no such value.

        Example:
            >>> m.shown["Chamaea fasciata"].cut("p10")  # doctest: +SKIP
        """
        low, high = self._legend["low"], self._legend["high"]
        what, known = f"cannot cut {self.about['scientificName']}", self.about["thresholds"]
        if isinstance(threshold, str) and threshold not in known:
            found = f'"{threshold}", the map has {", ".join(known) or "none"}'
            raise RecordsError(what, found, f"Name one it has, or give a value from {low:g} to {high:g}.")
        if threshold is not None and not isinstance(threshold, str) and not low <= threshold <= high:
            raise RecordsError(what, f"the value {threshold}", f"Give one from {low:g} to {high:g}.")
        self.threshold = threshold if threshold is None or isinstance(threshold, str) else _text(threshold)
        self._setting = True
        self.choice.value = ALL if threshold is None else threshold if threshold in known else OWN
        if self.limit is not None:
            self.slider.value = self._at_step(self.limit)
        self._setting = False
        self._draw.cancel()
        self._drawn()

    def summary(self, polygon: Mapping[str, Any]) -> Any:
        """What the server says of a polygon (GeoJSON), the area above `told` among it.

        Raises:
            TileServerError: The server refuses or cannot be reached.
        """
        own = self.threshold if self.threshold not in self.about["thresholds"] else None
        return self._server.post(f"{self.path}/summary", polygon, threshold=own, **self.which)

    def _box(self, opacity: float) -> Any:
        widgets, known = backend.widgets, self.about["thresholds"]
        wide = widgets.Layout(width="19rem")
        low, high = self._legend["low"], self._legend["high"]
        usual = known.get(self.about["default_threshold"], {"value": (low + high) / 2})["value"]
        options = [("all values", ALL), *((_choice(key, each), key) for key, each in known.items())]
        self.choice = widgets.Dropdown(
            options=[*options, ("a value of your own", OWN)], value=ALL, description="Threshold", layout=wide
        )
        self.slider = widgets.FloatSlider(
            self._at_step(usual), min=low, max=high, step=(high - low) / STEPS, description="Cut at",
            readout_format=".3f", layout=wide,
        )  # fmt: skip
        self.opacity = widgets.FloatSlider(
            opacity, min=0.0, max=1.0, step=0.05, description="Opacity", layout=wide
        )
        self.colours, self.area = widgets.HTML(), widgets.HTML()
        self.choice.observe(self._chosen, "value")
        self.slider.observe(self._moved, "value")
        widgets.link((self.opacity, "value"), (self.layer, "opacity"))
        return widgets.VBox([self.colours, self.choice, self.slider, self.area, self.opacity])

    def _chosen(self, change: Mapping[str, Any]) -> None:
        if not self._setting:
            chosen = change["new"]
            self.cut(None if chosen == ALL else self.slider.value if chosen == OWN else chosen)

    def _moved(self, change: Mapping[str, Any]) -> None:
        """The slider was moved: a map of all values would not show it, so it is cut.

        The page sends a slider's value back in its own digits; that is no move.
        """
        if not self._setting and _text(change["new"]) != _text(change["old"]):
            self.threshold = _text(change["new"])
            self._setting = True
            self.choice.value = OWN
            self._setting = False
            self._draw()

    def _drawn(self) -> None:
        """Have the tiles, the colours and the area follow the threshold."""
        self.layer.url = self._url + (f"&threshold={self.threshold}" if self.threshold else "")
        self.colours.value = html.legend_html(self._legend, self.about["thresholds"], self.limit)
        try:
            key = self.threshold if self.threshold in self.about["thresholds"] else None
            self.area.value = html.area_html(key, self.limit, *self._area(key))
        except TileServerError as error:  # raised in a callback, nobody would see it
            self.area.value = html.trouble_html(error)

    def _at_step(self, value: float) -> float:
        """The step of the slider that is next to a value; the page knows no other places."""
        low, high = float(self._legend["low"]), float(self._legend["high"])
        return round(low + round((value - low) / (high - low) * STEPS) / STEPS * (high - low), 6)

    def _area(self, key: str | None) -> tuple[float | None, float | None]:
        """Area at or above the threshold, and all area with data [km²]."""
        if self.limit is None:
            return None, None
        if self._stats is None:
            self._stats = self._server.get(f"{self.path}/stats", **self.which)
        total = float(self._stats["area_km2"])
        if key is not None:
            return self.about["thresholds"][key]["area_km2"], total
        low, high = self._legend["low"], self._legend["high"]
        # Entry k of the curve holds the cells that are drawn in colour k or a darker one: from k - 1/2 on.
        level = STEPS * (self.limit - low) / (high - low) + 0.5
        return float(np.interp(level, np.arange(STEPS + 1), self._stats["curve"])), total


def found(
    server: TileServer, name: str, grid: str | None = None, group: str | None = None,
    threshold: str | float | None = None, opacity: float = 1.0, colormap: str | None = None,
) -> Shown:  # fmt: skip
    """A species of a server, not yet on a map; arguments and errors as of `Map.add_species`."""
    listed = parts.find(server, name, grid, group)
    about = server.get(f"/species/{listed['id']}", grid=grid, group=group)
    shown = Shown(server, about, colormap, opacity)
    if threshold is not None:
        shown.cut(threshold)
    return shown


def _choice(key: str, threshold: Mapping[str, Any]) -> str:
    return f"{html.SHORT.get(key, key)}: {threshold['value']:.3f}"


def _text(value: float) -> str:
    """A value as the server reads it: no exponent, six decimals at most."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
