"""From checked records to sites: embeddings at cells or survey locations, rare species left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from geomap.background import WORLD, Extent, Sites, join, random_sites, sample_cells
from geomap.errors import RecordsError
from geomap.grid import Window, grid_from_bbox
from geomap.pointsource import PointSource, central_cell_km2

if TYPE_CHECKING:
    from geomap.grid import Grid
    from geomap.records import Records

Float = NDArray[np.float64]
PLAIN_CELL = 1000.0  # m; side of a cell where there is no field to give cells
OUTSIDE = "no embedding: outside the field and the imagery"


@dataclass(frozen=True)
class Gathered:
    """Sites and the names of their species.

    Attributes:
        sites: n sites of S species.
        taxa: S rows: scientificName, vernacularName, synonyms, records, cells (sites with the species).
        dropped: Reason -> rows that are not in the sites, the reasons of the records before.
        rare: Species that were left out -> sites with them.
    """

    sites: Sites
    taxa: pd.DataFrame
    dropped: Mapping[str, int]
    rare: Mapping[str, int]


def survey_sites(surveys: Records, source: PointSource) -> Gathered:
    """Locations of complete surveys with their embeddings, all species.

    Raises:
        RecordsError: No location has an embedding.
    """
    places, species, visits, detections = surveys.detection_matrix()
    lonlat = places[["decimalLongitude", "decimalLatitude"]].to_numpy(np.float64)
    features, found = source.embed(lonlat)
    _require_some(found, source, "survey locations")
    met = sparse.csr_matrix(detections[found], dtype=np.float32)
    sites = Sites(
        lonlat[found], features[found], visits[found].astype(np.float32), met, np.ones(found.sum(), bool)
    )
    dropped = _counted(surveys.dropped, int((~found).sum()), "survey locations with ")
    return Gathered(sites, _taxa(surveys, species, sites.successes), dropped, {})


def record_sites(records: Records, source: PointSource, max_uncertainty: float | None) -> Gathered:
    """Cells with presence-only records and their embeddings, each cell and species once.

    Args:
        records: Presence-only records.
        source: Embeddings; the cells are those of its field, or of 1 km (EPSG:6933) without one.
        max_uncertainty: Records with a larger coordinate uncertainty [m] are left out; the cell's side when
            None.

    Raises:
        RecordsError: No record is precise enough, or none has an embedding.
    """
    limit = cell_side(source) if max_uncertainty is None else max_uncertainty
    records = precise(records, limit)
    lonlat = records.lonlat
    cells, first = cell_ids(lonlat, source)
    features, found = source.embed(lonlat[first])
    _require_some(found, source, "records")
    species = records.species
    column = pd.Index(species).get_indexer(records.table["scientificName"])
    met = sparse.csr_matrix(
        (np.ones(len(cells), np.float32), (cells, column)), shape=(len(first), len(species))
    )
    met.sum_duplicates()
    met.data[:] = 1
    lost = int((~found[cells]).sum())
    sites = Sites(
        lonlat[first][found], features[found], np.ones(found.sum(), np.float32), met[found], ~found[found]
    )
    return Gathered(sites, _taxa(records, species, sites.successes), _counted(records.dropped, lost), {})


def precise(records: Records, limit: float) -> Records:
    """Records whose coordinate uncertainty is not above a limit [m], or not known."""
    if "coordinateUncertaintyInMeters" not in records.table:
        return records
    coarse = records.table["coordinateUncertaintyInMeters"] > limit
    if coarse.all():
        found = f"all {len(coarse)} with an uncertainty above {limit:g} m"
        raise RecordsError("cannot use the records", found, "Raise --max-uncertainty or use a coarser field")
    if not coarse.any():
        return records
    dropped = {**records.dropped, f"uncertainty above {limit:g} m": int(coarse.sum())}
    return replace(records, table=records.table[~coarse].reset_index(drop=True), dropped=dropped)


def cell_side(source: PointSource) -> float:
    """Side of a cell in the middle of the source's field [m], at least 1 km."""
    side = PLAIN_CELL if source.field is None else 1000 * float(np.sqrt(central_cell_km2(source.field)))
    return max(float(round(side)), PLAIN_CELL)


def cell_ids(lonlat: Float, source: PointSource) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cell of each point (n,) as 0..cells-1, and the first point of each cell (cells,).

    Points off the field's grid are in cells of 1 km of EPSG:6933.
    """
    import pyproj

    x, y = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:6933", always_xy=True).transform(*lonlat.T)
    keys = np.stack(
        [np.zeros(len(lonlat)), np.floor(y / PLAIN_CELL), np.floor(x / PLAIN_CELL)], axis=1
    ).astype(np.int64)
    if source.field is not None:
        rows, cols, inside = source.field.grid.rowcol(lonlat)
        keys[inside] = np.stack([np.ones(len(rows), np.int64), rows, cols], axis=1)[inside]
    _, first, cells = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return cells.ravel(), first


def with_background(
    gathered: Gathered, extent: Extent, source: PointSource, count: int, seed: int
) -> Gathered:
    """The same with random land cells that weigh as much as all cells with records.

    They come from the whole field, since that is where maps are made: background around the records alone
    would leave the map free to say anything elsewhere. Without a field they come from the extent.
    """
    if source.field is not None:
        lonlat, features = sample_cells(source.field, WORLD, count, seed)
    else:
        lonlat, _ = sample_cells(LandCells(land_grid(extent)), extent, count, seed)
        features, found = source.embed(lonlat)
        _require_some(found, source, "random land cells")
        lonlat, features = lonlat[found], features[found]
    total = float(gathered.sites.trials.sum())
    background = random_sites(lonlat, features, total, gathered.sites.successes.shape[1])
    return replace(gathered, sites=join([gathered.sites, background]))


def land_grid(extent: Extent) -> Grid:
    """A grid of land cells over an extent, for background where there is no field."""
    east = (extent.west + extent.width + 180) % 360 - 180
    west, east = (-180.0, 180.0) if extent.width >= 359 else ((extent.west + 180) % 360 - 180, east)
    return grid_from_bbox(west, max(extent.south, -89.0), east, min(extent.north, 89.0))


@dataclass(frozen=True)
class LandCells:
    """Land cells of a grid, in the shape of a field without features.

    Attributes:
        grid: The grid.
        dim: No features.
        path: What errors call it.
    """

    grid: Grid
    dim: int = 0
    path: object = "the land"

    def blocks(self, stored: bool = False) -> Iterator[Window]:
        """The grid's processing units."""
        yield from self.grid.units()

    def read(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """No features (h, w, 0), and the land mask (h, w)."""
        land = self.grid.land_mask(window)
        return np.zeros((*land.shape, 0), np.float32), land


def without_rare(gathered: Gathered, least: int) -> Gathered:
    """The same with the species that have at least so many sites; the sites stay, as background.

    Raises:
        RecordsError: No species has that many.
    """
    kept = gathered.taxa["cells"] >= least
    if not kept.any():
        most = gathered.taxa.nlargest(1, "cells").iloc[0]
        raise RecordsError(
            f"cannot fit species with fewer than {least} sites",
            f"{len(kept)} species, {most['scientificName']} has most: {most['cells']}",
            "Give more records, or lower --min-records",
        )
    rare = gathered.taxa[~kept].set_index("scientificName")["cells"]
    return replace(
        gathered,
        sites=gathered.sites.species(np.flatnonzero(kept)),
        taxa=gathered.taxa[kept].reset_index(drop=True),
        rare={str(name): int(cells) for name, cells in rare.items()},
    )


def combined(surveys: Gathered, records: Gathered) -> Gathered:
    """Surveys with the presences of presence-only records beside them, for the species of the surveys.

    Records of other species remain as cells of the target group; of a species without records they say
    nothing.
    """
    names = surveys.taxa["scientificName"]
    column = pd.Index(records.taxa["scientificName"]).get_indexer(names)
    width = records.sites.successes.shape[1]
    picks = np.where(column < 0, width, column)
    padded = sparse.hstack(
        [records.sites.successes, sparse.csr_matrix((len(records.sites), 1))], format="csc"
    )
    aligned = replace(records.sites, successes=padded[:, picks].tocsr().astype(np.float32))
    extra = {f"records: {reason}": count for reason, count in records.dropped.items()}
    return replace(
        surveys, sites=join([surveys.sites, aligned], silent=column < 0), dropped={**surveys.dropped, **extra}
    )


def _taxa(records: Records, species: list[str], met: sparse.csr_matrix) -> pd.DataFrame:
    taxa = records.taxa().set_index("scientificName").loc[species].reset_index()
    return taxa.assign(cells=np.asarray((met > 0).sum(axis=0)).ravel().astype(np.int64))


def _counted(dropped: Mapping[str, int], outside: int, what: str = "") -> dict[str, int]:
    return {**dropped, **({what + OUTSIDE: outside} if outside else {})}


def _require_some(found: NDArray[np.bool_], source: PointSource, what: str) -> None:
    if not found.any():
        where = f"the field {source.field.path}" if source.field is not None else "the imagery"
        raise RecordsError(
            f"cannot use the {what}",
            f"none of {len(found)} lies in {where}",
            "Use a field or imagery that covers them, and check that longitude and latitude are not swapped",
        )
