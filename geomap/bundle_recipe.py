"""What the shipped bundle is made of: areas of pre-training, fields, groups of heads, and credits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from geomap.pretraining import Area

NASA = "NASA Earth Observatory (Blue Marble Next Generation)"


@dataclass(frozen=True)
class FieldRecipe:
    """A field of the bundle: a named grid, its imagery, and where the encoders see it in pre-training."""

    grid: str
    imagery: str  # below the data folder
    area: Area
    seasons_only: int  # further places of the area, of which only the seasons are learnt


@dataclass(frozen=True)
class HeadsRecipe:
    """A group of heads of the bundle."""

    name: str
    tables: tuple[str, ...]  # below the data folder; several are joined
    surveys: bool
    grid: str  # field whose embeddings it is fitted on
    credit: str
    licence: str
    min_records: int = 10  # cells or locations with a species; fewer are left out
    period: tuple[str, str] | None = None  # first and last day, where the table has no dates


FIELDS = (
    FieldRecipe(
        "california",
        "imagery/bluemarble_california_z8.tif",
        Area(-124.5, 32.5, -114.1, 42.0, "EPSG:3310", 4_000),
        5_000,
    ),
    FieldRecipe(
        "north-america",
        "imagery/bluemarble_north_america_z7.tif",
        Area(-165.0, 14.0, -52.0, 70.0, "EPSG:6933", 18_000),
        60_000,
    ),
    FieldRecipe(
        "global",
        "imagery/bluemarble_global_z6.tif",
        Area(-180.0, -60.0, 180.0, 80.0, "EPSG:6933", 8_000),
        40_000,
    ),
)

HEADS = (
    HeadsRecipe(
        "california-plants",
        (
            "occurrences/california_grassland_plants_gbif.csv.gz",
            "occurrences/california_desert_plants_gbif.csv.gz",
        ),
        False,
        "california",
        "GBIF.org occurrence records of California plants, contributed by the publishers of each record",
        "CC BY-NC 4.0",
    ),
    HeadsRecipe(
        "north-america-birds",
        ("occurrences/north_america_birds_bbs_2001_2015.csv.gz",),
        True,
        "north-america",
        "North American Breeding Bird Survey 2001-2015, USGS (Pardieck et al.)",
        "public domain",
        period=("2001-01-01", "2015-12-31"),
        min_records=5,  # fifteen runs each; Lawrence's Goldfinch was met on nine routes
    ),
    HeadsRecipe(
        "world-birds",
        ("occurrences/world_birds_xenocanto.csv.gz",),
        False,
        "global",
        "xeno-canto recordings, by their recordists",
        "CC BY-NC-SA 4.0",
    ),
)


def month_pictures(shared: Path) -> list[Path]:
    """The twelve monthly composites, January first."""
    return sorted((shared / "imagery" / "monthly").glob("2004*.jpg"))


def join_tables(recipe: HeadsRecipe, shared: Path, out: Path) -> Path:
    """One table of a recipe: the only one, or all of them under each other in a new file.

    Args:
        recipe: The group.
        shared: The data folder.
        out: Folder for a joined table.
    """
    paths = [shared / table for table in recipe.tables]
    if len(paths) == 1:
        return paths[0]
    joined = out / f"{recipe.name}.csv.gz"
    pd.concat([pd.read_csv(path, dtype=str) for path in paths]).to_csv(joined, index=False)
    return joined
