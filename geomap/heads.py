"""Species heads: what turns an embedding into suitability or probability, in memory and on disk. NumPy only.

heads/NAME/
├── heads.safetensors   adapter, weights, bias, calibration
├── species.parquet     one row a species: names, records, thresholds, scores beside those of the null model
└── card.json           meaning, encoder hash, data credit, how it was fitted; written last
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from geomap import names
from geomap.adapter import Adapter as Adapter  # of heads: one place to import both from
from geomap.adapter import sigmoid
from geomap.errors import HeadsError, OutputError

Array = NDArray[np.float32]
Meaning = Literal["suitability", "probability"]
CARD_FORMAT = 1
THRESHOLDS = ("mtp", "p10", "lpt5", "maxsss")


@dataclass(frozen=True, repr=False)
class SpeciesHeads:
    """A group of species on one encoder.

    Attributes:
        name: Name of the group, as in `--heads`.
        meaning: "probability" (that one visit detects the species) when calibrated on complete surveys, else
            "suitability".
        encoder_hash: Hash of the encoders whose embeddings it takes.
        adapter: Shared adapter.
        weights: (S, M) float32.
        bias: (S,) float32.
        calibration: (S, 2) float32 columns a > 0 and b: logit' = a * logit + b.
        species: One row a species, in the order of `weights`: scientificName, vernacularName, synonyms
            (joined by "; "), records, cells, prevalence; for each of mtp, p10, lpt5, maxsss its threshold
            (column of that name), area_km2_* and omission_*; auc, ap, brier, boyce, n_test and null_auc,
            null_ap, null_brier, null_boyce. Not computed: NaN.
        card: Plain values: data credit, licence, grid, folds, settings, version, dropped species.
    """

    name: str
    meaning: Meaning
    encoder_hash: str
    adapter: Adapter
    weights: Array
    bias: Array
    calibration: Array
    species: pd.DataFrame
    card: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of species."""
        return len(self.bias)

    def transform(self, features: Array) -> Array:
        """Embeddings (n, D) float32 to the adapter's space (n, M) float32."""
        return self.adapter.transform(features)

    def predict(self, features: Array, species: Sequence[int] | None = None) -> Array:
        """Suitability or probability of species at embeddings.

        Args:
            features: (n, D) float32; rows with NaN give NaN.
            species: Indices of species; all when None.

        Returns:
            (n, len(species)) float32 in 0..1.
        """
        return self.predict_transformed(self.transform(features), species)

    def predict_transformed(self, z: Array, species: Sequence[int] | None = None) -> Array:
        """The same from the adapter's output (n, M), so that one transform serves many species."""
        chosen = slice(None) if species is None else np.asarray(species, np.intp)
        scale, shift = self.calibration[chosen].T
        return sigmoid((z @ self.weights[chosen].T + self.bias[chosen]) * scale + shift)

    def require_encoder(self, encoder_hash: str, of: str) -> None:
        """Refuse embeddings of another encoder.

        Raises:
            HeadsError: `encoder_hash`, the one of `of` ("the field maps/f.zarr"), is not that of the heads.
        """
        if encoder_hash != self.encoder_hash:
            raise HeadsError(
                f"cannot use heads {self.name} with {of}",
                f"encoder {encoder_hash[:12]} there, encoder {self.encoder_hash[:12]} in the heads",
                "Use a field and heads of the same encoders, or fit the heads again on this field",
            )

    def __repr__(self) -> str:
        return f"<SpeciesHeads {self.name}: {self.meaning} of {len(self)} species>"

    def _repr_html_(self) -> str:
        from geomap.html import heads_html

        return heads_html(self)

    @cached_property
    def _names(self) -> names.NameIndex:
        return names.name_index(self.species)

    def index(self, name: str) -> int:
        """Index of a species by scientific name, synonym or common name, in any case; never by a near match.

        Raises:
            NameNotFoundError: No species carries the name; the nearest names are told.
            RecordsError: Several species carry it.
        """
        return names.resolve(name, self.species, self._names)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that a prediction depends on."""
        digest = hashlib.sha256(f"{self.meaning} {self.encoder_hash}".encode())
        digest.update("\n".join(self.species["scientificName"]).encode())
        for key, array in sorted(to_tensors(self).items()):
            digest.update(f"{key} {array.shape}".encode() + array.tobytes())
        return digest.hexdigest()


def to_tensors(heads: SpeciesHeads) -> dict[str, Array]:
    """The arrays of heads under the names they have on disk, contiguous float32."""
    arrays = {
        "adapter.mean": heads.adapter.mean,
        "adapter.std": heads.adapter.std,
        "weights": heads.weights,
        "bias": heads.bias,
        "calibration": heads.calibration,
    }
    for k, member in enumerate(heads.adapter.members):
        arrays |= {
            f"adapter.{k}.{part}": array for part, array in zip(("w1", "b1", "w2", "b2"), member, strict=True)
        }
    return {key: np.ascontiguousarray(array, np.float32) for key, array in arrays.items()}


def to_card(heads: SpeciesHeads, species_sha256: str) -> str:
    """Text of card.json."""
    card = {
        "format": CARD_FORMAT,
        "name": heads.name,
        "meaning": heads.meaning,
        "encoder_hash": heads.encoder_hash,
        "hash": heads.hash,
        "members": len(heads.adapter.members),
        "species": len(heads),
        "species_sha256": species_sha256,
        "card": heads.card,
    }
    return json.dumps(card, indent=1, allow_nan=False) + "\n"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file of a few megabytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def require_free(path: Path, overwrite: bool) -> None:
    """Refuse an output that exists, before any work is done.

    Raises:
        OutputError: `path` exists and may not be replaced.
    """
    if path.exists() and not overwrite:
        raise OutputError(
            f"cannot write {path}", "it exists already", "Choose another --out or give --overwrite"
        )


def save_heads(heads: SpeciesHeads, path: Path, overwrite: bool = False) -> None:
    """Write heads into a folder that appears whole or not at all; card.json is its last file.

    Args:
        heads: What to write.
        path: The folder; its parents are made.
        overwrite: Replace a folder that holds heads already.

    Raises:
        OutputError: The folder exists, or something else than heads would be overwritten, or it cannot be
            written.
    """
    require_free(path, overwrite)
    if path.exists() and not (path / "card.json").is_file():
        raise OutputError(
            f"cannot overwrite {path}", "it does not hold species heads", "Choose another --out"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
            _write_files(heads, Path(scratch) / "new")
            if path.exists():
                os.rename(path, Path(scratch) / "old")  # removed with the scratch folder
            os.rename(Path(scratch) / "new", path)
    except OSError as error:
        raise OutputError(
            f"cannot write {path}", error.strerror or str(error), "Choose a place with room"
        ) from error


def _write_files(heads: SpeciesHeads, folder: Path) -> None:
    folder.mkdir()
    (folder / "heads.safetensors").write_bytes(save(to_tensors(heads)))
    heads.species.to_parquet(folder / "species.parquet", index=False)
    (folder / "card.json").write_text(to_card(heads, file_sha256(folder / "species.parquet")))


def load_heads(path: Path) -> SpeciesHeads:
    """Read heads and check them against their card.

    Args:
        path: A folder that `save_heads` wrote.

    Returns:
        The heads.

    Raises:
        HeadsError: Nothing there, or a file is missing, truncated, corrupt, or not what the card says.
    """
    try:
        card = json.loads((path / "card.json").read_text())
        tensors = load_file(path / "heads.safetensors")
        species = pd.read_parquet(path / "species.parquet")
        intact = (
            file_sha256(path / "species.parquet") == card["species_sha256"] and card["format"] == CARD_FORMAT
        )
        heads = _assemble(card, tensors, species)
        intact = intact and heads.hash == card["hash"]
    except FileNotFoundError as error:
        missing = f"{Path(error.filename or path).name} is missing"
        raise HeadsError(
            f"cannot read species heads from {path}", missing, "Name a folder made by geomap.fit"
        ) from error
    except (OSError, ValueError, LookupError, TypeError, SafetensorError, pyarrow.ArrowException) as error:
        raise _corrupt(path, f"{type(error).__name__}: {error}") from error
    if not intact:
        raise _corrupt(path, "files that do not agree with card.json")
    return heads


def _corrupt(path: Path, found: str) -> HeadsError:
    return HeadsError(
        f"cannot read species heads from {path}", found, "Fit the heads again, or copy the folder again"
    )


def _assemble(card: dict[str, Any], tensors: dict[str, Array], species: pd.DataFrame) -> SpeciesHeads:
    parts = ("w1", "b1", "w2", "b2")
    members = tuple(tuple(tensors[f"adapter.{k}.{p}"] for p in parts) for k in range(card["members"]))
    adapter = Adapter(tensors["adapter.mean"], tensors["adapter.std"], members)  # type: ignore[arg-type]
    fitted = tensors["weights"], tensors["bias"], tensors["calibration"]
    return SpeciesHeads(
        card["name"],
        card["meaning"],
        card["encoder_hash"],
        adapter,
        *fitted,
        species=species,
        card=card["card"],
    )
