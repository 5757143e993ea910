"""Maps of species in notebooks: Leafmap's map (ipyleaflet) with layers of geomap's tile server.

    m = Map()                                  # a running server at GEOMAP_TILE_SERVER, or one of its own
    m.add_species("Chamaea fasciata")          # layer, colours with their values, opacity
    m.add_records(table)                       # points of a pandas or GeoPandas table
    m.split("Chamaea fasciata", "Quercus lobata")
    m.summary()                                # of the polygon that was drawn, as a table

A click asks every shown species for its value, and what lives there; a polygon that is drawn is summed. Each
species has a box (`geomap.leafmap_species`) to cut its tiles at a threshold and to make them clearer. Nothing
is fetched from other servers: the land is an outline of geomap's own, unless `basemap` names one of Leafmap.

Leafmap takes three seconds to import, so `import geomap` leaves this module alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import leafmap.leafmap as backend

from geomap import leafmap_html as html
from geomap import leafmap_parts as parts
from geomap.errors import GeomapError, RecordsError
from geomap.leafmap_species import Shown, found
from geomap.tileserver import TileServerError, tile_server

if TYPE_CHECKING:
    import pandas as pd

WORLD = ((20.0, 0.0), 2)  # centre (lat, lon) and zoom of a map of nothing
LAND = parts.PANE  # name of its layer


class Map(backend.Map):  # type: ignore[misc]  # Leafmap ships no types
    """Leafmap's map with layers of species; everything that Leafmap's own map can do, it can, too.

    Args:
        server: URL of a running tile server; else GEOMAP_TILE_SERVER; else a local one, started once for all
            maps of the process and stopped when the last of them is closed or the process ends.
        center: Latitude and longitude in degrees; the first species decides if None.
        zoom: Zoom level; the first species decides if None.
        basemap: One of Leafmap's basemaps, fetched from its own server; an outline of the land if None.
        url: Way of the browser to the server's port, like "/base/proxy/{port}/"; see `geomap.browser_way`.
        **kwargs: For ipyleaflet's map.

    Attributes:
        server: The tile server.
        shown: Species on the map by scientific name.
        panel: The HTML widget that a click fills.

    Raises:
        TileServerError: The server does not answer, or cannot be started.

    Examples:
        >>> m = Map("http://127.0.0.1:8000", center=(37.2, -119.5), zoom=6)  # doctest: +SKIP
        >>> m = Map(url="https://hub.example.org/user/anna/proxy/{port}/")  # doctest: +SKIP
    """

    def __init__(
        self, server: str | None = None, center: tuple[float, float] | None = None, zoom: float | None = None,
        basemap: Any = None, url: str | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        self._free = center is None and zoom is None
        if basemap is None:
            # Leaflet draws shapes above tiles: the land needs a place of its own, below them.
            kwargs["panes"] = {**kwargs.get("panes", {}), LAND: {"zIndex": 100, "pointerEvents": "none"}}
            kwargs["layers"] = (backend.ipyleaflet.GeoJSON(data=parts.outline(), name=LAND),)
        else:
            kwargs["basemap"] = basemap
        super().__init__(
            center=center or WORLD[0], zoom=WORLD[1] if zoom is None else zoom,
            **{"prefer_canvas": True, **kwargs},
        )  # fmt: skip
        if basemap is None:
            self.layers[0].name = LAND  # Leafmap calls the first layer OpenStreetMap, whatever it is
        self.shown: dict[str, Shown] = {}
        self._split: Any = None
        self._side_by_side: tuple[Shown, ...] = ()
        self.panel = backend.widgets.HTML()
        self._panel_control: Any = None
        self.server = tile_server(server, url)
        self.on_interaction(self._clicked)
        if self.draw_control is not None:
            self.draw_control.on_draw(self._drawn)

    def add_species(
        self, name: str, grid: str | None = None, group: str | None = None,
        threshold: str | float | None = None, opacity: float = 1.0, colormap: str | None = None,
    ) -> None:  # fmt: skip
        """Show a species, with its colours, threshold and opacity; shown again, it takes its own place.

        Args:
            name: Scientific, common or older name, exact but for case, accents and hyphens.
            grid: One of its grids; the server's choice if None.
            group: One of its groups; the server's choice if None.
            threshold: Key of a threshold ("p10") or a value: what lies below takes the lightest colour, and
                verdicts and areas are told by it. If None, all values are drawn, and the map's default tells.
            opacity: 0 (clear) to 1.
            colormap: One of the server's colour maps; its default if None.

        Raises:
            NameNotFoundError: The server has no species of that name; near names are told.
            RecordsError: The name means several species, or there is no such threshold.
            TileServerError: The server refuses or cannot be reached.

        Examples:
            >>> m.add_species("Chamaea fasciata")  # doctest: +SKIP
            >>> m.add_species("Valley Oak", threshold="p10", opacity=0.8)  # doctest: +SKIP
        """
        new = found(self.server, name, grid, group, threshold, opacity, colormap)
        self.remove_species(new.about["scientificName"])
        self.add(new.layer)
        self._keep(new)

    def remove_species(self, name: str) -> None:
        """Take a species off the map, by its scientific name; nothing happens if it is not there."""
        old = self.shown.get(name)
        if old is not None:
            if old in self._side_by_side:
                self._unsplit()
            else:
                self.remove(old.layer)
                self._forget(old)

    def split(self, left: str, right: str, **options: Any) -> None:
        """Show two species on the two sides of a bar that can be dragged.

        Args:
            left: Name, as of `add_species`.
            right: Name.
            **options: Of `add_species`, for both.

        Raises:
            NameNotFoundError: The server has no species of that name; near names are told.
            RecordsError: Both names mean one map, or see `add_species`.
            TileServerError: The server refuses or cannot be reached.

        Example:
            >>> m.split("Chamaea fasciata", "Quercus lobata", threshold="p10")  # doctest: +SKIP
        """
        both = tuple(found(self.server, name, **options) for name in (left, right))
        if both[0].about["id"] == both[1].about["id"]:
            same = f"{left} and {right} are both {both[0].about['scientificName']}"
            raise RecordsError("cannot split the map", same, "Name two species.")
        self._unsplit()
        for each in both:
            self.remove_species(each.about["scientificName"])
        self._split = backend.ipyleaflet.SplitMapControl(left_layer=both[0].layer, right_layer=both[1].layer)
        self.add(self._split)
        self._side_by_side = both
        both[0].control.position = "bottomleft"
        for each in both:
            self._keep(each)

    def add_records(self, table: pd.DataFrame, name: str = "records", color: str = parts.RECORDS) -> int:
        """Show the points of a table.

        Args:
            table: GeoDataFrame of points in any CRS, or a table with columns of longitude and latitude under
                their Darwin Core names or a usual spelling; rows without coordinates are left out.
            name: Name of the layer.
            color: Colour of CSS.

        Returns:
            How many points are shown.

        Raises:
            RecordsError: There are no coordinates, or other geometries than points.

        Example:
            >>> m.add_records(pd.DataFrame({"lon": [-119.5], "lat": [37.2]}))  # doctest: +SKIP
            1
        """
        points = parts.points_of(table)
        data = {"type": "MultiPoint", "coordinates": points.round(5).tolist()}
        style = {"radius": 3, "color": "#ffffff", "weight": 0.8, "fillColor": color, "fillOpacity": 0.9}
        feature = {"type": "Feature", "properties": {"style": style}, "geometry": data}
        layer = backend.ipyleaflet.GeoJSON(data=feature, point_style=style, name=name)
        self.add(layer)
        return len(points)

    def summary(self, area: Any = None) -> pd.DataFrame:
        """What the shown species have in polygons, asked of the server.

        Args:
            area: Geometry of shapely, GeoJSON, or a GeoDataFrame; the polygon last drawn on the map if None.

        Returns:
            A row for each polygon and species: polygon (label of the index), scientificName, group, grid,
            unit, cells, area_km2 with data, nodata_km2, mean by area, min, max (NaN without data), threshold
            (key, or value as text), threshold_value, above_km2 and above_share (of the area with data).

        Raises:
            GridError: The area is no polygon.
            RecordsError: There is no species on the map, or nothing was drawn.
            TileServerError: The server refuses or cannot be reached.

        Example:
            >>> m.summary(shapely.box(-120, 36, -118, 38))[["scientificName", "above_km2"]]  # doctest: +SKIP
        """
        import pandas as pd

        what = "cannot sum over the area"
        if not self.shown:
            raise RecordsError(what, "no species on the map", "Add one: m.add_species(NAME).")
        if area is None and self.user_roi is None:
            change = "Draw a polygon or rectangle on the map, or give one: m.summary(POLYGON)."
            raise RecordsError(what, "no polygon drawn", change)
        polygons = parts.polygons_of(self.user_roi if area is None else area)
        rows = [
            {"polygon": label, **parts.summary_row(each.about, each.told, each.summary(polygon))}
            for label, polygon in polygons
            for each in self.shown.values()
        ]
        return pd.DataFrame(rows)

    def ask(self, lon: float, lat: float) -> None:
        """Fill the panel with what the shown maps say of a place, and with what lives there.

        Args:
            lon: Degrees; any turn around the earth.
            lat: Degrees.
        """
        lon = (lon + 180.0) % 360.0 - 180.0
        try:
            place = f"{lon:.6f},{lat:.6f}"
            asked = [
                (each.about, each.told, self.server.get(f"{each.path}/point/{place}", **each.which))
                for each in self.shown.values()
            ]
            living = self.server.get(f"/at/{place}", limit=500)["species"]
            said = html.place_html(lon, lat, asked, living)
        except TileServerError as error:  # raised in a callback, nobody would see it
            said = html.trouble_html(error)
        self._say(said)

    def close(self) -> None:
        """Take the map off the page; a local server that no other map uses stops."""
        if (server := getattr(self, "server", None)) is not None:
            server.close()
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _keep(self, new: Shown) -> None:
        self.shown[new.about["scientificName"]] = new
        self.add(new.control)
        if self._free:
            self._free = False
            self.center, self.zoom = parts.view(new.about["bbox"])

    def _forget(self, old: Shown) -> None:
        del self.shown[old.about["scientificName"]]
        self.remove(old.control)

    def _unsplit(self) -> None:
        """Take away the bar with both of its species."""
        if self._split is not None:
            self.remove(self._split)
            for each in self._side_by_side:
                self._forget(each)
            self._split, self._side_by_side = None, ()

    def _clicked(self, **event: Any) -> None:
        if event.get("type") == "click":
            lat, lon = event["coordinates"]
            self.ask(lon, lat)

    def _drawn(self, _control: Any, action: str, geo_json: Mapping[str, Any]) -> None:
        """Sum the polygon that was drawn or changed; Leafmap has it as `user_roi` by now."""
        if action == "deleted":
            self._say("")
        elif self.shown and geo_json["geometry"]["type"] == "Polygon":
            try:
                said = html.summary_html(self.summary(geo_json))
            except GeomapError as error:  # as in `ask`
                said = html.trouble_html(error)
            self._say(said)

    def _say(self, text: str) -> None:
        """Fill the panel, which comes to the map with its first text."""
        self.panel.value = text
        if self._panel_control is None:
            control = backend.ipyleaflet.WidgetControl(widget=self.panel, position="topright")
            self.add(control)
            self._panel_control = control
