"""The files of an embedding field: their names, checks, bytes, and how they are packed into one file.

    zarr.json, embedding/zarr.json, valid/zarr.json     metadata, known before the first cell is encoded
    embedding/c/I/J/0, valid/c/I/J                      chunks; both or none of a unit are there
    manifest.json                                       every file with size and sha256; written last

Every file is written under another name and renamed, so that what has its name is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, TransposeCodec
from zarr.codecs.numcodecs import Delta
from zarr.core.buffer import Buffer
from zarr.errors import ZarrUserWarning
from zarr.storage import LocalStore, MemoryStore, ZipStore

from geomap.errors import FieldError, OutputError

MANIFEST = "manifest.json"
PROGRESS = ".progress"  # holds the plan and the done-markers while a sweep is under way
METADATA = ("zarr.json", "embedding/zarr.json", "valid/zarr.json")
FORMAT = "geomap-field/1"
# Compression: a sweep waits for it (level 3 takes twice as long, for 6 % of the size), a file that is passed
# on is made once.
QUICK, SMALL = 1, 9
UNREADABLE = (KeyError, ValueError, RuntimeError, OSError, zipfile.BadZipFile)  # what damaged stores raise


def chunk_keys(i: int, j: int) -> tuple[str, str]:
    """File names of chunk row `i`, column `j` of the two arrays."""
    return f"embedding/c/{i}/{j}/0", f"valid/c/{i}/{j}"


def sha256(data: bytes) -> str:
    """Hexadecimal sha256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def entry(data: bytes) -> dict[str, Any]:
    """What the manifest says of a file."""
    return {"sha256": sha256(data), "size": len(data)}


def metadata_files(
    shape: tuple[int, int], unit: int, dim: int, attributes: Mapping[str, Any], level: int = QUICK
) -> dict[str, bytes]:
    """The metadata of a field of (y, x) = `shape` cells as file name -> bytes."""
    files: dict[str, Buffer] = {}
    _create(files, shape, unit, dim, attributes, level)
    return {name: files[name].to_bytes() for name in METADATA}


def chunk_files(
    i: int, j: int, embedding: NDArray[np.int8], valid: NDArray[np.bool_], unit: int, level: int = QUICK
) -> dict[str, bytes]:
    """The two chunks of a unit as file name -> bytes.

    Args:
        i: Chunk row in the field.
        j: Chunk column in the field.
        embedding: (h, w, D) int8 with h, w <= unit; what is missing at the grid's edge is filled with 0.
        valid: (h, w) bool.
        unit: Side of a chunk in cells.
        level: Effort of compression, QUICK or SMALL.
    """
    files: dict[str, Buffer] = {}
    height, width, dim = embedding.shape
    planes, flags = np.zeros((dim, unit, unit), np.int8), np.zeros((unit, unit), np.uint8)
    for row in range(height):  # all rows at once would miss the cache at every byte
        planes[:, row, :width] = embedding[row].T
    flags[:height, :width] = valid
    embeddings, mask = _create(files, (unit, unit), unit, dim, {}, level)
    embeddings[:] = planes.transpose(1, 2, 0)
    mask[:] = flags
    alone = chunk_keys(0, 0)  # as the only chunk of a small array; a chunk's bytes do not know its place
    return {name: files[key].to_bytes() for name, key in zip(chunk_keys(i, j), alone, strict=True)}


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file under a passing name beside it, then rename it; leaves nothing when that fails.

    Raises:
        OSError: The file cannot be written.
    """
    passing = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        passing.write_bytes(data)
        os.replace(passing, path)
    except OSError:
        passing.unlink(missing_ok=True)
        raise


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a finished field, every file of it there with its size.

    Raises:
        FieldError: There is none, or it is damaged, or files are missing or truncated.
    """
    try:
        with _reader(path) as read:
            data = read(MANIFEST)
    except (FileNotFoundError, KeyError) as error:
        raise _unfinished(path) from error
    except UNREADABLE as error:
        raise damaged(path, f"{MANIFEST}: {error}") from error
    try:
        manifest: dict[str, Any] = json.loads(data)
        if manifest.get("format") != FORMAT:
            found = f"{path} has format {manifest.get('format')}"
            raise FieldError("cannot open the embedding field", found, f"give a field of format {FORMAT}")
        _check_sizes(path, manifest["files"])
    except FieldError:
        raise
    except (*UNREADABLE, AttributeError, TypeError) as error:
        raise damaged(path, f"{MANIFEST}: {type(error).__name__} {error}") from error
    return manifest


def read_checked(path: Path, files: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """Files of a directory or zip store, one by one, that agree with their manifest entries.

    Raises:
        FieldError: One is missing or differs.
    """
    with _reader(path) as read:
        for name, expected in files.items():
            try:
                data = read(name)
            except UNREADABLE as error:
                raise damaged(path, f"{name} cannot be read ({error})") from error
            if entry(data) != expected:
                raise damaged(path, f"{name} differs from the manifest")
            yield name, data


def open_store(path: Path) -> LocalStore | ZipStore:
    """The Zarr store of a directory or a zip file, read only."""
    return LocalStore(path, read_only=True) if path.is_dir() else ZipStore(path, mode="r")


def damaged(path: Path, found: str) -> FieldError:
    """The refusal of a damaged field."""
    return FieldError(
        "cannot read the embedding field",
        f"{path} is damaged: {found}",
        "make it again with geomap.embed --overwrite",
    )


def pack_field(zarr_dir: Path, zip_path: Path) -> None:
    """Pack a finished directory store into one `.zarr.zip`; the same field gives the same bytes.

    The values stay the same. Chunks are compressed once more, as small as they get, and the zip file itself
    does not compress, so that a chunk is read from it as from a folder.

    Args:
        zarr_dir: A finished store.
        zip_path: The file to write; replaced if it exists.

    Raises:
        FieldError: The store is unfinished, or a file differs from its manifest.
        OutputError: The zip file cannot be written.
    """
    manifest = read_manifest(zarr_dir)
    entries: dict[str, Any] = {}
    passing = zip_path.with_name(f"{zip_path.name}.{uuid.uuid4().hex}.partial")
    try:
        with zipfile.ZipFile(passing, "w", zipfile.ZIP_STORED) as archive:
            for name, data in _small_files(zarr_dir, manifest["files"]):
                archive.writestr(_member(name), data)
                entries[name] = entry(data)
            archive.writestr(_member(MANIFEST), manifest_bytes(manifest | {"files": entries}))
        os.replace(passing, zip_path)
    except OSError as error:
        raise OutputError("cannot pack the field", f"{zip_path}: {error}", "choose another place") from error
    finally:
        passing.unlink(missing_ok=True)


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as it is written."""
    return json.dumps(manifest, indent=1).encode() + b"\n"


def _small_files(path: Path, files: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """The files of a finished store with chunks compressed as small as they get, the metadata first."""
    for _ in read_checked(path, files):
        pass  # refuses a damaged store before anything of it is packed
    attributes = json.loads((path / METADATA[0]).read_bytes())["attributes"]
    with own_codecs():
        arrays = [zarr.open_array(open_store(path), path=name, mode="r") for name in ("embedding", "valid")]
    (height, width, dim), unit = arrays[0].shape, arrays[0].chunks[0]
    yield from metadata_files((height, width), unit, dim, attributes, SMALL).items()
    for i, j in product(range(-(-height // unit)), range(-(-width // unit))):
        if chunk_keys(i, j)[0] in files:
            cells = np.s_[i * unit : (i + 1) * unit, j * unit : (j + 1) * unit]
            embedding, valid = (np.asarray(array[cells]) for array in arrays)
            yield from chunk_files(i, j, embedding, valid.astype(np.bool_), unit, SMALL).items()


@contextmanager
def own_codecs() -> Iterator[None]:
    """Where arrays are made or opened: Zarr warns that the codec of differences is not in its standard.

    Only packed fields, which this project ships and reads, use it; what a sweep writes is standard.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr", ZarrUserWarning)
        yield


def _create(
    files: dict[str, Buffer],
    shape: tuple[int, int],
    unit: int,
    dim: int,
    attributes: Mapping[str, Any],
    level: int,
) -> tuple[zarr.Array[Any], zarr.Array[Any]]:
    """The arrays of an empty field in memory.

    Features come first inside a chunk, as smooth planes; on them zstd without bit-shuffling is the smallest.
    Packed, a value is its difference from the one before (modulo 256), which saves a fifth more.
    """
    group = zarr.create_group(MemoryStore(files), attributes=dict(attributes))
    squeeze = BloscCodec(cname="zstd", clevel=level, shuffle="noshuffle", typesize=1)
    # Blosc alone would decode many damaged chunks to wrong values, hence the checksum.
    common: dict[str, Any] = {"compressors": [squeeze, Crc32cCodec()], "fill_value": 0}
    common["config"] = {"write_empty_chunks": True}
    with own_codecs():
        filters = [TransposeCodec(order=(2, 0, 1)), *([Delta(dtype="|i1")] if level == SMALL else [])]
        embedding = group.create_array(
            "embedding",
            shape=(*shape, dim),
            chunks=(unit, unit, dim),
            dtype="int8",
            filters=filters,
            dimension_names=("y", "x", "feature"),
            **common,
        )
    valid = group.create_array(
        "valid", shape=shape, chunks=(unit, unit), dtype="uint8", dimension_names=("y", "x"), **common
    )
    return embedding, valid


def _member(name: str) -> zipfile.ZipInfo:
    """A zip entry without the hour it was written."""
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    member.external_attr = 0o644 << 16
    return member


@contextmanager
def _reader(path: Path) -> Iterator[Callable[[str], bytes]]:
    """How files of a store are read by name; a zip file is opened once for all of them."""
    if path.is_dir():
        yield lambda name: (path / name).read_bytes()
        return
    with zipfile.ZipFile(path) as archive:
        yield archive.read


def _check_sizes(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a store with missing or truncated files: Zarr would read a missing chunk as zeros."""
    if path.is_dir():
        sizes = {name: (path / name).stat().st_size for name in files if (path / name).is_file()}
    else:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
    for name, expected in files.items():
        if sizes.get(name) != expected["size"]:
            found = f"{name} has {sizes[name]} of {expected['size']} bytes" if name in sizes else f"no {name}"
            raise damaged(path, found)


def _unfinished(path: Path) -> FieldError:
    what = "cannot open the embedding field"
    if (path / PROGRESS).exists():
        return FieldError(what, f"{path} is unfinished", "run geomap.embed again with --resume")
    return FieldError(what, f"{path} has no {MANIFEST}", "give a field, or make one with geomap.embed")
