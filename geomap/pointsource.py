"""Embeddings of single points: from a field where it has them, else from imagery through the encoders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geomap.catalog import Catalog, bundle_path
from geomap.errors import FieldError, HeadsError
from geomap.field import EmbeddingField
from geomap.grid import Window

if TYPE_CHECKING:
    from geomap.imagery import ImagerySource
    from train.encoders.pair import Encoders


@dataclass(frozen=True)
class PointSource:
    """Where the embeddings of points come from.

    Attributes:
        field: Asked first; None to encode all points.
        encoders, imagery: Encode the points that the field does not have; None to leave them out.
        encoder_hash: Encoders of all of it.
        dim: Width D of an embedding.
    """

    field: EmbeddingField | None
    encoders: Encoders | None
    imagery: ImagerySource | None
    encoder_hash: str
    dim: int

    def embed(self, lonlat: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Embeddings of points.

        Args:
            lonlat: (n, 2) degrees WGS 84, finite.

        Returns:
            (n, D) float32, 0 where there is none; (n,) bool, whether there is one. Points that are encoded
            see the imagery on the world-wide lattice (EPSG:6933) whatever the field's, so that a point's
            embedding never depends on the others.
        """
        features, found = np.zeros((len(lonlat), self.dim), np.float32), np.zeros(len(lonlat), bool)
        if self.field is not None:
            features, found = self.field.sample(lonlat)
        if self.encoders is not None and self.imagery is not None and not found.all():
            from geomap.encode import encode_points  # imported here: torch is slow to load

            rows = np.flatnonzero(~found)
            features[rows], found[rows] = encode_points(self.encoders, self.imagery, lonlat[rows])
        return features, found


def point_source(field: EmbeddingField | None, imagery: str | None, encoders: Path | None) -> PointSource:
    """Bring together a field, imagery, or both.

    Args:
        field: A field, or None.
        imagery: Path or URL of imagery, or None; with it the encoders are loaded.
        encoders: Folder of the encoders; the bundle's when None.

    Returns:
        The source.

    Raises:
        FieldError: Neither is given.
        HeadsError: The field was made by other encoders than those that would encode the imagery.
        ImageryError: The imagery cannot be read, or has another number of bands than the encoders.
    """
    if imagery is None:
        if field is None:
            raise FieldError(
                "cannot embed the points", "neither a field nor imagery", "Give --field or --imagery"
            )
        return PointSource(field, None, None, field.encoder_hash, field.dim)
    from geomap.imagery import open_imagery, require_bands
    from train.encoders.pair import load_encoders  # imported here: torch is slow to load

    pair = load_encoders(encoders if encoders is not None else bundle_path() / "encoders")
    source = open_imagery(imagery)
    require_bands(source, pair.bands)
    if field is not None and field.encoder_hash != pair.hash:
        raise HeadsError(
            f"cannot use the field {field.path} beside imagery",
            f"encoder {field.encoder_hash[:12]} in the field, encoder {pair.hash[:12]} for the imagery",
            "Give --encoders that made the field, or another --field",
        )
    return PointSource(field, pair, source, pair.hash, pair.dim)


COVERED = 0.95  # share of the points that makes a fine field preferable to a coarser one that has more
ASKED = 2000  # points that are asked, evenly spaced through the table


def best_bundled_field(lonlat: NDArray[np.float64]) -> EmbeddingField:
    """The finest shipped field that has 95 % of the points; the one that has most of them where none does.

    Args:
        lonlat: (n, 2) degrees WGS 84.

    Raises:
        FieldError: Nothing is shipped, or no field has any of the points.
    """
    asked = lonlat[np.unique(np.linspace(0, len(lonlat) - 1, min(ASKED, len(lonlat))).astype(int))]
    catalog = Catalog(bundle_path(), {})
    fields = sorted(map(catalog.field, catalog.field_paths), key=central_cell_km2)
    shares = [float(field.sample(asked)[1].mean()) for field in fields]
    if not shares or max(shares) == 0:
        found = f"{len(fields)} shipped field(s), none with a record in it"
        raise FieldError(
            "cannot choose a field for the records",
            found,
            "Give --field or --imagery, or check the coordinates",
        )
    for field, share in zip(fields, shares, strict=True):
        if share >= COVERED:
            return field
    return fields[int(np.argmax(shares))]


def central_cell_km2(field: EmbeddingField) -> float:
    """Area of the cell in the middle of a field [km2]."""
    height, width = field.grid.shape
    return float(field.grid.cell_area_km2(Window(height // 2, width // 2, 1, 1))[0, 0])
