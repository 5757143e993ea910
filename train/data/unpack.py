"""Photos and aerial tiles out of parquet, once, into files that can be read row by row.

| file | what it holds |
|---|---|
| photos.bin, photos.npy | encoded photos one after the other; (rows, 2) int64 start and length |
| tiles.npy | (different tiles, bands, height, width) uint8 |
| rows.parquet | verdict on each photo, number of each tile (-1: none) |

Memory: parquet holds tiles as int64, and Arrow decodes them as such: about four times a row's int64, 8.5 MB
for 4 bands of 256 x 256, is held at a time whatever the number of rows; what is kept is uint8 on disk.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.lib import format as npy
from numpy.typing import NDArray

from train.data.images import MISSING, check_picture, read_picture
from train.data.readers import centre
from train.errors import SpecError

WHAT = "cannot unpack the images"
NO_TILE = "tile missing"
ROWS_AT_A_TIME = 1
CHANGE = "Get the file again."


def unpack(
    files: Sequence[Path], rows: pd.DataFrame, images: Sequence[str], cache: Path, digest: str
) -> Path:
    """Photos and tiles of some rows as files; nothing is done where that was done before.

    Args:
        files: Parquet files.
        rows: Columns `part`, the number of a file, and `at`, the row in it; sorted by both.
        images: Columns to unpack: gl_image, rs_image.
        cache: Folder that gets a folder for this selection.
        digest: Of the tables; part of the folder's name.

    Returns:
        The folder; it exists only when it is complete.

    Raises:
        SpecError: A file is damaged, a tile is no image of bytes, or the cache cannot be written.
    """
    key = hashlib.sha256(f"{digest} {list(images)}".encode())
    key.update(rows.to_numpy(np.int64).tobytes())
    folder = cache / key.hexdigest()[:24]
    if folder.is_dir():
        return folder
    part = cache / f"{folder.name}.{os.getpid()}.part"
    try:
        part.mkdir(parents=True)
        _write(files, rows, images, part)
        if not folder.is_dir():  # another process may have been quicker
            part.replace(folder)
    except pyarrow.ArrowException as error:
        raise SpecError(WHAT, str(error), CHANGE) from error
    except OSError as error:
        if folder.is_dir():
            return folder
        change = "Make room there, or give another folder: cache = ..."
        raise SpecError(WHAT, f"{part}: {error.strerror or error}", change) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _write(files: Sequence[Path], rows: pd.DataFrame, images: Sequence[str], folder: Path) -> None:
    spans, verdicts, numbers = [], [], []
    with (folder / "photos.bin").open("wb") as photos, TileWriter(folder / "tiles.npy") as tiles:
        for file, cells in _cells(files, rows, images):
            if "gl_image" in images:
                encoded = _photo(cells["gl_image"].as_py(), file)
                spans.append((photos.tell(), len(encoded)))
                verdicts.append(check_picture(encoded) if encoded else MISSING)
                photos.write(encoded)
            if "rs_image" in images:
                tile = _tile(cells["rs_image"], file)
                numbers.append(-1 if tile is None else tiles.add(tile))
    np.save(folder / "photos.npy", np.array(spans, np.int64).reshape(-1, 2))
    table = pd.DataFrame(
        {
            "photo": pd.Series(verdicts or [""] * len(rows), dtype=object),
            "tile": np.array(numbers or [-1] * len(rows), np.int64),
        }
    )
    table.to_parquet(folder / "rows.parquet")


def _cells(
    files: Sequence[Path], rows: pd.DataFrame, images: Sequence[str]
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The image cells of every row, file by file, group by group; `rs_image` as an Arrow array of one."""
    for number, part in rows.groupby("part", sort=True):
        file = files[int(number)]
        wanted = set(part["at"].tolist())
        with pq.ParquetFile(file, memory_map=True) as parquet:
            start = 0
            for group in range(parquet.num_row_groups):
                stop = start + parquet.metadata.row_group(group).num_rows
                if any(at in wanted for at in range(start, stop)):
                    yield from _group(parquet, group, start, wanted, images, file)
                start = stop


def _group(
    parquet: Any, group: int, start: int, wanted: set[int], images: Sequence[str], file: Path
) -> Iterator[tuple[Path, dict[str, Any]]]:
    at = start
    for batch in parquet.iter_batches(
        ROWS_AT_A_TIME, row_groups=[group], columns=list(images), use_threads=False
    ):
        for row in range(batch.num_rows):
            if at in wanted:
                column = {name: batch.column(name) for name in images}
                yield (
                    file,
                    {
                        name: values.slice(row, 1) if name == "rs_image" else values[row]
                        for name, values in column.items()
                    },
                )
            at += 1


def _photo(cell: dict[str, Any] | None, file: Path) -> bytes:
    """The encoded photo of Hugging Face's image struct {bytes, path}; b"" where there is none."""
    cell = cell or {}
    if cell.get("bytes"):
        return bytes(cell["bytes"])
    path = file.parent / cell["path"] if cell.get("path") else None
    return path.read_bytes() if path is not None and path.is_file() else b""


def _tile(cell: Any, file: Path) -> NDArray[np.uint8] | None:
    """(bands, height, width) uint8 of nested lists of integers; None where there is none.

    Args:
        cell: Arrow array of one row.
        file: Named in errors.

    Raises:
        SpecError: The lists are ragged, or a value is missing or outside 0..255.
    """
    if cell.null_count:
        return None
    planes = cell.flatten()
    lines = planes.flatten()
    values = lines.flatten()
    if not len(values):
        return None
    height, width = (np.unique(pc.list_value_length(level).to_numpy()) for level in (planes, lines))
    if len(height) > 1 or len(width) > 1 or values.null_count:
        raise SpecError(WHAT, f"a tile of {file} with lines of different lengths, or gaps", CHANGE)
    flat = values.to_numpy()  # no copy
    if flat.min() < 0 or flat.max() > 255:
        found = f"a tile of {file} with values from {flat.min()} to {flat.max()}"
        raise SpecError(WHAT, found, "Scale tiles to 0..255.")
    tile: NDArray[np.uint8] = flat.astype(np.uint8)
    return tile.reshape(len(planes), int(height[0]), int(width[0]))


class TileWriter:
    """Writes different tiles to an .npy file as they come.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.numbers: dict[bytes, int] = {}
        self.shape: tuple[int, ...] = ()

    def __enter__(self) -> TileWriter:
        self.file: BinaryIO = self.path.open("wb")
        return self

    def __exit__(self, *error: object) -> None:
        if not self.shape:
            self._header((0, 0, 0))
        self.file.seek(0)  # the header was made with room for any number of tiles
        self._header(self.shape or (0, 0, 0))
        self.file.close()

    def _header(self, shape: tuple[int, ...]) -> None:
        entry = {"descr": "|u1", "fortran_order": False, "shape": (len(self.numbers), *shape)}
        npy.write_array_header_1_0(self.file, entry)

    def add(self, tile: NDArray[np.uint8]) -> int:
        """The number of a tile; it is written when it is new.

        Raises:
            SpecError: Its shape differs from that of the others.
        """
        if not self.shape:
            self.shape = tile.shape
            self._header(self.shape)
        if tile.shape != self.shape:
            found = f"tiles of shape {self.shape} and {tile.shape}"
            raise SpecError(WHAT, found, "Give tiles of one number of bands and one size.")
        key = hashlib.blake2b(tile.tobytes(), digest_size=16).digest()
        if key not in self.numbers:
            self.numbers[key] = len(self.numbers)
            self.file.write(tile.tobytes())
        return self.numbers[key]


@dataclass(frozen=True)
class PhotoFile:
    """Photos of an unpacked folder.

    Attributes:
        folder: The folder.
        rows: (n,) int64, the entry of each observation.
        pixels: Side of the squares that come out.
    """

    folder: str
    rows: NDArray[np.int64]
    pixels: int
    _spans: list[NDArray[np.int64]] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, row: int) -> NDArray[np.uint8]:
        """(3, pixels, pixels) uint8 RGB."""
        if not self._spans:
            self._spans.append(np.load(Path(self.folder) / "photos.npy", mmap_mode="r"))
        start, length = self._spans[0][self.rows[row]].tolist()
        with (Path(self.folder) / "photos.bin").open("rb") as file:
            file.seek(start)
            return read_picture(file.read(length), self.pixels, f"photo {self.rows[row]} of {self.folder}")

    def __getstate__(self) -> dict[str, Any]:
        """Without the map."""
        return {"folder": self.folder, "rows": self.rows, "pixels": self.pixels, "_spans": []}


@dataclass(frozen=True)
class TileFile:
    """Tiles of an unpacked folder.

    Attributes:
        folder: The folder.
        rows: (n,) int64, the tile of each observation.
        pixels: Cut out the middle; 0 keeps all.
        bands: Bands to give, 0 is the first; all when empty.
    """

    folder: str
    rows: NDArray[np.int64]
    pixels: int = 0
    bands: tuple[int, ...] = ()
    _open: list[NDArray[np.uint8]] = field(default_factory=list, repr=False, compare=False)

    def __call__(self, row: int) -> NDArray[np.uint8]:
        """(bands, pixels, pixels) uint8."""
        if not self._open:
            self._open.append(np.load(Path(self.folder) / "tiles.npy", mmap_mode="r"))
        tile = centre(self._open[0][self.rows[row]], self.pixels)
        return np.array(tile[list(self.bands)] if self.bands else tile)

    def __getstate__(self) -> dict[str, Any]:
        """Without the map."""
        state = {"folder": self.folder, "rows": self.rows, "pixels": self.pixels, "bands": self.bands}
        return {**state, "_open": []}
