"""Records that maps were fitted on, as far as they may be seen: GeoJSON, and those nearest to a place.

They come from `records.parquet` beside the heads of a group (`geomap fit --keep-records`), and from the files
named in the settings, which hold for every group. The shipped bundle has none.
"""

from __future__ import annotations

import threading
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from geomap.catalog import bundle_path
from tiles.errors import QueryError, refusals
from tiles.headers import kept_json
from tiles.maps import About
from tiles.parameters import GridName, GroupName, Species
from tiles.settings import Settings
from tiles.shown import Shown
from tiles.sources import Options, heads_folders

if TYPE_CHECKING:
    from tiles.recordfile import Points, Privacy

KEPT = "records.parquet"  # beside heads
NUMBER = r"-?\d{1,3}(?:\.\d{1,20})?"
BBox = Annotated[
    str | None,
    Query(
        pattern=rf"^{NUMBER}(?:,{NUMBER}){{3}}$",
        description="West,south,east,north in degrees; west may exceed east",
        examples=["-120,36,-118,38"],
    ),
]  # fmt: skip
NO_FILE = "No records are kept here: the map's makers gave none away with its heads."
SECRET = "The places of this species are not shown, to protect it."
NONE_LEFT = "All records of this species have places that may not be shown."
GEOJSON = "application/geo+json"


def router(library: Shown, settings: Settings) -> APIRouter:
    """The route /species/{species}/records.

    Args:
        library: The maps that may be seen.
        settings: Files of records, and what may be seen of them.
    """
    api = APIRouter(tags=["species"])

    @api.get(
        "/species/{species}/records", summary="Records behind a map", response_class=Response,
        responses={**refusals(404, 422, 503), 200: {"content": {GEOJSON: {"schema": {"type": "object"}}}}},
    )  # fmt: skip
    def records(
        request: Request, species: Species, grid: GridName = None, group: GroupName = None, bbox: BBox = None,
        limit: Annotated[int, Query(ge=1, le=10_000, description="Most records to give")] = 1000,
    ) -> Response:  # fmt: skip
        """Records as GeoJSON points: an even sample where there are more than the limit."""
        about = library.choose(species, grid, group)
        return kept_json(request, collection(settings, about, box(bbox), limit), media_type=GEOJSON)

    _store(settings)  # knows from now on where the bundle is
    return api


def collection(
    settings: Settings, about: About, bbox: tuple[float, float, float, float] | None = None, limit: int = 1000
) -> dict[str, Any]:
    """Records of a map as a GeoJSON FeatureCollection.

    Args:
        settings: Where they are, and what may be seen of them.
        about: The map.
        bbox: West, south, east, north in degrees; west > east across the antimeridian.
        limit: How many at most.

    Returns:
        `public`: whether any may be seen; if not, `reason`. `total`: records of the species. `withheld`:
        those that may not be seen. `matched`: points in the box. `returned`: points given.

    Raises:
        MapError: A file of records cannot be read.
    """
    store = _store(settings)
    points = store.points(about)
    answer: dict[str, Any] = {"type": "FeatureCollection", "features": []}
    if points is None:
        return {
            **answer,
            "public": False,
            "reason": NO_FILE,
            "total": 0,
            "withheld": 0,
            "matched": 0,
            "returned": 0,
        }
    shown = sum(int(said.get("records", 1)) for said in points.said)
    there = _inside(points, bbox)
    features = [_feature(points, k) for k in there[:limit]]
    answer |= {"features": features, "public": shown > 0, "total": shown + points.withheld}
    answer |= {"withheld": points.withheld, "matched": len(there), "returned": len(features)}
    if points.withheld and not shown:
        answer["reason"] = SECRET if store.is_sensitive(about) else NONE_LEFT
    return answer


def nearest(
    settings: Settings, about: About, lon: float, lat: float, k: int = 5, max_km: float = 25.0
) -> list[dict[str, Any]]:
    """The records of a map nearest to a place, of those that may be seen.

    Args:
        settings: Where they are, and what may be seen of them.
        about: The map.
        lon: Degrees east.
        lat: Degrees north.
        k: How many at most.
        max_km: How far at most.

    Returns:
        `lon`, `lat`, `distance_km` and what is said of each, the nearest first; none where none are kept.

    Raises:
        MapError: A file of records cannot be read.
    """
    points = _store(settings).points(about)
    if points is None:
        return []
    distance = points.to(lon, lat)
    found = [int(n) for n in distance.argsort(kind="stable")[:k] if distance[n] <= max_km]
    return [
        {
            "lon": float(points.lonlat[n, 0]), "lat": float(points.lonlat[n, 1]),
            "distance_km": round(float(distance[n]), 3), **points.said[n],
        }
        for n in found
    ]  # fmt: skip


def box(text: str | None) -> tuple[float, float, float, float] | None:
    """A box from its text.

    Raises:
        QueryError: It leaves the earth, or south is above north.
    """
    if text is None:
        return None
    west, south, east, north = (float(part) for part in text.split(","))
    if max(abs(west), abs(east)) > 180 or max(abs(south), abs(north)) > 90 or south > north:
        raise QueryError("cannot cut the records", f"bbox {text}", "Give west,south,east,north in degrees.")
    return west, south, east, north


class Store:
    """Files of records, read when first needed and again when they change."""

    def __init__(self, settings: Settings) -> None:
        """Read nothing yet.

        Args:
            settings: Where they are, and what may be seen of them.
        """
        self._settings, self._bundle, self._options = settings, bundle_path(), Options.of(settings)
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[tuple[int, int], dict[str, Points]]] = {}
        self._privacy: Privacy | None = None

    def points(self, about: About) -> Points | None:
        """Records of the species of a map; None where there is no file for its group.

        Raises:
            MapError: A file cannot be read.
        """
        from tiles.recordfile import NOTHING, joined, key_of

        files = self._files(about.group)
        if not files:
            return None
        key = key_of(about.scientific)
        parts = [self._read(path).get(key, NOTHING) for path in files]
        return joined([part for part in parts if part is not NOTHING] or [NOTHING])

    def is_sensitive(self, about: About) -> bool:
        """Whether the places of the species are secrets."""
        return any(map(self.privacy.protects, (about.scientific, *about.synonyms)))

    @property
    def privacy(self) -> Privacy:
        """What may be seen."""
        from tiles.recordfile import Privacy, slug_of

        if self._privacy is None:
            told = self._options
            sensitive = frozenset(map(slug_of, told.sensitive))
            self._privacy = Privacy(sensitive, told.sensitive_cell, told.records_uncertainty_m)
        return self._privacy

    @cached_property
    def _folders(self) -> dict[str, Path]:
        return heads_folders(self._settings, self._bundle)

    def _files(self, group: str) -> list[Path]:
        beside = [self._folders[group] / KEPT] if group in self._folders else []
        return [path for path in (*beside, *map(Path, self._options.records)) if path.is_file()]

    def _read(self, path: Path) -> dict[str, Points]:
        from tiles.recordfile import read_points

        state = path.stat()
        stamp = state.st_mtime_ns, state.st_size
        with self._lock:
            if self._known.get(path, (None,))[0] != stamp:
                self._known[path] = stamp, read_points(path, self.privacy)
            return self._known[path][1]


@lru_cache(maxsize=8)
def _store(settings: Settings) -> Store:
    return Store(settings)


def _inside(points: Points, bbox: tuple[float, float, float, float] | None) -> list[int]:
    """Numbers of the points in a box."""
    if bbox is None:
        return list(range(len(points.lonlat)))
    west, south, east, north = bbox
    lon, lat = points.lonlat.T
    across = (lon >= west) & (lon <= east) if west <= east else (lon >= west) | (lon <= east)
    found: list[int] = (across & (lat >= south) & (lat <= north)).nonzero()[0].tolist()
    return found


def _feature(points: Points, k: int) -> dict[str, Any]:
    place = {"type": "Point", "coordinates": points.lonlat[k].tolist()}
    return {"type": "Feature", "geometry": place, "properties": dict(points.said[k])}
