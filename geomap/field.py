"""The embedding field: what the encoders said about every land cell of a grid, stored once, read many times.

    field = open_field("california.zarr.zip")
    values, valid = field.read(Window(0, 0, 256, 256))   # (256, 256, D) float32, (256, 256) bool

A field is a Zarr v3 group with two arrays on the cells of its grid. `embedding` (y, x, feature) is int8, one
chunk per processing unit of the grid, and a value is `int8 * scale[feature]`. `valid` (y, x) is uint8 and
says where the
embedding means something: sea and cells without imagery are 0 there, never a special embedding value. Chunks
without a valid cell are not stored. `manifest.json` is written last and names every file with its sha256: a
store without it is unfinished and refused. Reading needs neither torch nor Dask.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from geomap.errors import FieldError
from geomap.fieldstore import (
    METADATA,
    UNREADABLE,
    chunk_keys,
    damaged,
    open_store,
    own_codecs,
    read_checked,
    read_manifest,
)
from geomap.grid import Grid, Window

QUANTUM = 127  # int8 values are symmetric, -127..127; -128 is not used


@dataclass(frozen=True, eq=False, repr=False)
class EmbeddingField:
    """A finished embedding field, open for reading.

    Attributes:
        path: Directory store (`.zarr`) or zip store (`.zarr.zip`).
        grid: The cells.
        encoder_hash: Identity of the encoders that made it; heads of other encoders do not fit.
        imagery_id: Identity of the imagery it was made from.
        scale: (D,) float32, the value of one int8 step of each feature.
        lattice: CRS (WKT) of the pixel lattice the encoders saw; `encode_points` takes it for points off the
            field.
        credit: Credit line of the imagery, possibly empty.
        land_cells: Land cells of the grid.
        valid_cells: Land cells that carry an embedding.
        files: File name in the store -> {"sha256", "size"}.
    """

    path: Path
    grid: Grid
    encoder_hash: str
    imagery_id: str
    scale: NDArray[np.float32]
    lattice: str
    credit: str
    land_cells: int
    valid_cells: int
    files: Mapping[str, Mapping[str, Any]] = field(repr=False)
    _embedding: zarr.Array[Any] = field(repr=False)
    _valid: zarr.Array[Any] = field(repr=False)

    @property
    def dim(self) -> int:
        """Number of features D."""
        return int(self.scale.size)

    def blocks(self, stored: bool = False) -> Iterator[Window]:
        """The windows of the Zarr chunks, row by row; those at the lower and right edge are cut at the grid.

        Args:
            stored: Only the chunks that hold valid cells.
        """
        unit, (height, width) = self.grid.unit, self.grid.shape
        for row in range(0, height, unit):
            for col in range(0, width, unit):
                if not stored or chunk_keys(row // unit, col // unit)[0] in self.files:
                    yield Window(row, col, min(unit, height - row), min(unit, width - col))

    def read(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Embeddings of a window of cells.

        Args:
            window: Any window inside the grid; whole blocks (see `blocks`) are quickest.

        Returns:
            values (h, w, D) float32, 0 where not valid; valid (h, w) bool.

        Raises:
            FieldError: The window leaves the grid, or a chunk is missing, truncated or corrupt.
        """
        self._check_window(window)
        values = np.zeros((window.height, window.width, self.dim), np.float32)
        valid = np.zeros((window.height, window.width), np.bool_)
        unit = self.grid.unit
        for i in range(window.row // unit, -(-(window.row + window.height) // unit)):
            for j in range(window.col // unit, -(-(window.col + window.width) // unit)):
                ys, out_y = _overlap(i * unit, unit, window.row, window.height)
                xs, out_x = _overlap(j * unit, unit, window.col, window.width)
                chunk = self._chunk(i, j)
                if chunk is not None:
                    np.multiply(chunk[0][ys, xs], self.scale, out=values[out_y, out_x])
                    valid[out_y, out_x] = chunk[1][ys, xs]
        return values, valid

    def sample(self, lonlat: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Embeddings of the cells that hold the given points.

        Args:
            lonlat: (n, 2) degrees WGS 84.

        Returns:
            values (n, D) float32, 0 where there is none; found (n,) bool: inside the grid and valid.

        Raises:
            FieldError: A chunk is missing, truncated or corrupt.
        """
        rows, cols, inside = self.grid.rowcol(lonlat)
        values = np.zeros((len(lonlat), self.dim), np.float32)
        found = np.zeros(len(lonlat), np.bool_)
        unit = self.grid.unit
        chunk_ids = np.stack([rows[inside] // unit, cols[inside] // unit], axis=1)
        members, which = np.unique(chunk_ids, axis=0, return_inverse=True)
        index = np.flatnonzero(inside)
        for k, (i, j) in enumerate(members.tolist()):
            chunk = self._chunk(i, j)
            if chunk is not None:
                here = index[which.ravel() == k]
                y, x = rows[here] % unit, cols[here] % unit
                values[here] = chunk[0][y, x] * self.scale
                found[here] = chunk[1][y, x]
        return values, found

    def verify(self) -> None:
        """Compare every file of the store with the manifest.

        Raises:
            FieldError: A file is missing or differs.
        """
        for _ in read_checked(self.path, self.files):
            pass  # it refuses by itself

    def _chunk(self, i: int, j: int) -> tuple[NDArray[np.int8], NDArray[np.bool_]] | None:
        """(u, u, D) int8 and (u, u) bool of a chunk, cut at the grid's edge; None without a valid cell."""
        if chunk_keys(i, j)[0] not in self.files:
            return None
        for key in chunk_keys(i, j):  # gone since opening? Zarr would read a missing chunk as zeros
            if self.path.is_dir() and not (self.path / key).is_file():
                raise damaged(self.path, f"chunk {key} is named in the manifest and missing")
        unit = self.grid.unit
        where = np.s_[i * unit : (i + 1) * unit, j * unit : (j + 1) * unit]
        try:
            embedding, valid = np.asarray(self._embedding[where]), np.asarray(self._valid[where])
        except UNREADABLE as error:
            raise damaged(self.path, f"chunk {i}/{j}: {error}") from error
        return embedding, valid.astype(np.bool_)

    def __repr__(self) -> str:
        grid = self.grid
        size = f"{grid.shape[0]} x {grid.shape[1]} cells of {grid.resolution:g}, {grid.crs}"
        return f"<EmbeddingField {grid.name}: {size}, {self.dim} features at {self.valid_cells:,} cells>"

    def _repr_html_(self) -> str:
        from geomap.html import field_html

        return field_html(self)

    def _check_window(self, window: Window) -> None:
        height, width = self.grid.shape
        inside = min(window) >= 0
        if not inside or window.row + window.height > height or window.col + window.width > width:
            raise FieldError(
                "cannot read the window", str(window), f"stay inside the {height} x {width} cells"
            )

    def __reduce__(self) -> tuple[Callable[[Path], EmbeddingField], tuple[Path]]:
        return open_field, (self.path,)  # opened anew in the other process: small, and no shared file handle


def open_field(path: str | Path) -> EmbeddingField:
    """Open a finished field.

    Args:
        path: A directory store (`.zarr`) or a zip store (`.zarr.zip`, read only).

    Raises:
        FieldError: There is no field, it is unfinished, or its metadata are damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FieldError(
            "cannot open the embedding field", f"{path} does not exist", "make it with geomap.embed"
        )
    manifest = read_manifest(path)
    try:
        metadata = dict(read_checked(path, {name: manifest["files"][name] for name in METADATA}))
        return _assemble(path, manifest, json.loads(metadata["zarr.json"])["attributes"])
    except FieldError:
        raise
    except (*UNREADABLE, TypeError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def quantise(values: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Embeddings as int8 steps of `scale`, rounded half to even and clipped to -127..127.

    Args:
        values: (..., D) float32.
        scale: (D,) float32, positive; fixed by the encoders, so that it never depends on the data.
    """
    steps: NDArray[np.float32] = values / scale
    np.rint(steps, out=steps)
    np.clip(steps, -QUANTUM, QUANTUM, out=steps)
    return steps.astype(np.int8)


def _assemble(path: Path, manifest: dict[str, Any], attrs: dict[str, Any]) -> EmbeddingField:
    """The field of checked metadata; raises KeyError, TypeError or ValueError when they do not fit."""
    grid = Grid.from_dict(attrs["grid"])
    scale = np.asarray(attrs["scale"], np.float32)
    open_array = partial(zarr.open_array, open_store(path), mode="r")
    with own_codecs():
        embedding, valid = open_array(path="embedding"), open_array(path="valid")
    if embedding.shape != (*grid.shape, scale.size) or valid.shape != tuple(grid.shape):
        raise ValueError(
            f"arrays of shape {embedding.shape} and {valid.shape} on a grid of {grid.shape} cells"
        )
    if embedding.dtype != np.int8 or not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError("embedding is not int8 with positive scales")
    return EmbeddingField(
        path=path, grid=grid, encoder_hash=str(attrs["encoder_hash"]), imagery_id=str(attrs["imagery_id"]),
        scale=scale, lattice=str(attrs["lattice"]), credit=str(attrs["credit"]),
        land_cells=int(manifest["land_cells"]), valid_cells=int(manifest["valid_cells"]),
        files=manifest["files"], _embedding=embedding, _valid=valid,
    )  # fmt: skip


def _overlap(start: int, size: int, want: int, length: int) -> tuple[slice, slice]:
    """Slices of the overlap of [start, start + size) and [want, want + length) in either."""
    low, high = max(start, want), min(start + size, want + length)
    return slice(low - start, high - start), slice(low - want, high - want)
