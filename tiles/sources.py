"""What downloads and records are made from: where heads lie, and the settings that only these two need."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from geomap.catalog import Catalog, bundle_groups
from tiles.settings import Settings


@dataclass(frozen=True)
class Options:
    """Settings of downloads and records; each is the setting of the same name, or its default here.

    Attributes:
        download_cells: Cells of the largest grid of which a file is made on demand.
        download_cache_mb: Room for files made on demand.
        records: Files of records besides those that lie beside heads.
        records_uncertainty_m: Largest coordinate uncertainty [m] of a record that is shown.
        sensitive: Ids or scientific names of species whose places are not shown.
        sensitive_cell: Side [degrees] of cells that stand for records of sensitive species; 0 shows none.
    """

    download_cells: int = 30_000_000
    download_cache_mb: int = 2048
    records: tuple[str, ...] = ()
    records_uncertainty_m: float = 10_000.0
    sensitive: tuple[str, ...] = ()
    sensitive_cell: float = 0.0

    @classmethod
    def of(cls, settings: Settings) -> Options:
        """Those of the settings."""
        names = [field.name for field in fields(cls) if hasattr(settings, field.name)]
        return cls(**{name: getattr(settings, name) for name in names})


def heads_folders(settings: Settings, bundle: Path) -> dict[str, Path]:
    """Group -> folder of its heads, as `tiles.library.Library.open` finds them.

    Args:
        settings: What is served.
        bundle: Folder of the bundle.

    Raises:
        HeadsError: There is no such group or folder of heads.
    """
    folders = dict(bundle_groups(bundle)) if settings.bundle else {}
    for each in settings.heads:
        folders |= Catalog.open(each, bundle).folders
    return folders
