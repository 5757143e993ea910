"""Tables of species records as they come: CSV, TSV, Darwin Core archives, GeoParquet, GeoPackage.

Every reader gives the same thing, a frame whose columns carry Darwin Core names (see `columns.ALIASES`) and
the user's own values; nothing is dropped here. The headers of GBIF and iNaturalist exports are known. The
format of a file is told by its first bytes, not by its name.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
import xml.etree.ElementTree as ET
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, cast

import pandas as pd

from geomap.columns import Kind, header_key, matched_headers, table_kind, unreadable
from geomap.errors import RecordsError

IN_MEMORY = Path("the table")  # what stands for a file's name in messages
NUMBERS = ("decimalLongitude", "decimalLatitude", "coordinateUncertaintyInMeters")
EMPTY = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "\\N")


@dataclass(frozen=True)
class RawTable:
    """A table as found.

    Attributes:
        frame: Columns named as in `columns.ALIASES`, one row per row of the file, in its order; text as found
            (missing: NaN), except that points of GeoParquet and GeoPackage are float64 degrees, WGS 84.
        kind: "survey" when the table has visits or detections, else "presence".
        source: File name and SHA-256 of its bytes.
    """

    frame: pd.DataFrame
    kind: Kind
    source: str


def read_table(path: str | Path | pd.DataFrame) -> RawTable:
    """Read a table of records in any of the formats of READERS.

    Args:
        path: A file; or a table in memory, with points in a column of geometry or with coordinates.

    Returns:
        The table, with at least one row and all columns that its kind needs.

    Raises:
        RecordsError: The file is missing, unreadable, truncated, not UTF-8, empty, or lacks a column.
    """
    if isinstance(path, pd.DataFrame):
        return table_in_memory(path)
    path = Path(path)
    if not path.is_file():
        raise unreadable(path, "no such file", "Check the path")
    try:
        frame = READERS[file_format(path)](path)
        source = f"{path.name} sha256:{sha256(path)}"
    except OSError as error:
        raise unreadable(path, str(error), "Check that the file is whole and may be read") from error
    if frame.empty:
        raise unreadable(path, "the table has no rows", "Give a table with at least one record")
    return RawTable(frame, table_kind(frame.columns), source)


def table_in_memory(table: pd.DataFrame) -> RawTable:
    """A pandas or GeoPandas table as if it had been read; errors as in `read_table`."""
    if table.empty:
        raise unreadable(IN_MEMORY, "the table has no rows", "Give a table with at least one record")
    if hasattr(type(table), "crs"):  # of GeoPandas; a column may have that name, too
        frame = _points_table(IN_MEMORY, table)
    else:
        columns = matched_headers(IN_MEMORY, [str(c) for c in table.columns])
        frame = _as_text(table, columns, keep=NUMBERS)
    rows = pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes()
    source = f"{IN_MEMORY} sha256:{hashlib.sha256(rows).hexdigest()}"
    return RawTable(frame, table_kind(frame.columns), source)


def read_table_kind(path: str | Path) -> Kind:
    """Whether a file holds presence-only records or complete surveys, told by its columns."""
    return read_table(path).kind


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_format(path: Path) -> str:
    """The key of READERS for a file, from its first bytes."""
    with path.open("rb") as file:
        head = file.read(16)
    for sign, name in SIGNATURES.items():
        if head.startswith(sign):
            return name
    if b"\x00" in head:
        raise unreadable(path, "binary data of no known kind", "Save the table as CSV in UTF-8")
    return "text"


def read_text(path: Path) -> pd.DataFrame:
    """Read CSV, TSV or semicolon-separated text, plain or gzipped; every value as text."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    try:
        headers, delimiter = _header_line(path)
        columns = matched_headers(path, headers)
        with _open_bytes(path) as file:
            table = arrow_csv.read_csv(
                file,
                # GBIF writes tabs without quoting: a lone quotation mark there is just a character.
                parse_options=arrow_csv.ParseOptions(
                    delimiter=delimiter,
                    quote_char=False if _is_gbif(headers, delimiter) else '"',
                    newlines_in_values=not _is_gbif(headers, delimiter),
                ),
                read_options=arrow_csv.ReadOptions(column_names=headers, skip_rows=1),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=list(columns),
                    column_types=dict.fromkeys(headers, pa.string()),
                    strings_can_be_null=True,
                    null_values=list(EMPTY),
                ),
            )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise unreadable(path, f"a broken gzip file ({error})", "Copy or download it again") from error
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise _not_utf8(path) from error
        raise unreadable(
            path, str(error).splitlines()[0], "Give every row as many fields as the header"
        ) from error
    frame = table.to_pandas().rename(columns=columns)
    return _decimal_points(frame) if delimiter == ";" else frame


def _open_bytes(path: Path) -> BinaryIO:
    if file_format(path) == "gzip":
        return cast(BinaryIO, gzip.open(path, "rb"))
    return path.open("rb")


def _header_line(path: Path) -> tuple[list[str], str]:
    """Headers and the delimiter: the one of tab, semicolon and comma that gives most columns."""
    with _open_bytes(path) as file:
        line = file.readline(1_000_000).decode("utf-8-sig").rstrip("\r\n")
    if not line.strip():
        raise unreadable(
            path, "an empty file or first line", "Give a table whose first line names the columns"
        )
    rows = {delimiter: next(csv.reader([line], delimiter=delimiter)) for delimiter in "\t;,"}
    delimiter = max(rows, key=lambda d: len(rows[d]))
    headers = [header.strip() for header in rows[delimiter]]
    return headers, delimiter


def _is_gbif(headers: Sequence[str], delimiter: str) -> bool:
    return delimiter == "\t" and any(header_key(header) == "gbifid" for header in headers)


def _decimal_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Semicolons come from places where 37,5 is a number."""
    numbers = [column for column in NUMBERS if column in frame]
    return frame.assign(**{c: frame[c].str.replace(",", ".", regex=False) for c in numbers})


def _not_utf8(path: Path) -> RecordsError:
    return unreadable(path, "text that is not UTF-8", "Save the table as UTF-8")


def read_archive(path: Path) -> pd.DataFrame:
    """Read the occurrences of a Darwin Core archive, or the only table of a zip (GBIF's simple download)."""
    from dwca.exceptions import InvalidArchive
    from dwca.read import DwCAReader

    try:
        with DwCAReader(str(path), skip_metadata=True) as archive:
            return _occurrences(path, archive)
    except (InvalidArchive, zipfile.BadZipFile, zlib.error, EOFError, ET.ParseError) as error:
        found = f"not a readable Darwin Core archive ({str(error) or type(error).__name__})"
        raise unreadable(path, found, "Give a zip with meta.xml, or with a single table in it") from error
    except UnicodeDecodeError as error:
        raise _not_utf8(path) from error
    except pd.errors.ParserError as error:
        raise unreadable(path, str(error), "Give every row as many fields as the header") from error


def _occurrences(path: Path, archive: Any) -> pd.DataFrame:
    core = archive.core_file.file_descriptor
    if core.type and not core.type.endswith("Occurrence"):
        raise unreadable(path, f"an archive of {core.type}", "Give an archive whose core is Occurrence")
    headers = list(dict.fromkeys([*core.short_headers, *(_short(f["term"]) for f in core.fields)]))
    columns = matched_headers(path, headers)
    frame = archive.pd_read(
        archive.core_file_location,
        dtype=str,
        usecols=lambda name: name in columns,
        encoding=core.file_encoding,
        keep_default_na=False,
        na_values=list(EMPTY),
        quoting=csv.QUOTE_MINIMAL if core.fields_enclosed_by else csv.QUOTE_NONE,
    )
    return frame[list(columns)].rename(columns=columns)


def _short(term: str) -> str:
    return re.split(r"[:/]", term)[-1]


def read_geo(path: Path) -> pd.DataFrame:
    """Read points of a GeoPackage or GeoParquet in any CRS; plain Parquet is read by its columns."""
    import geopandas as gpd
    import pyarrow as pa
    from pyogrio.errors import DataSourceError

    is_parquet = file_format(path) == "parquet"
    try:
        if is_parquet and b"geo" not in (_parquet_metadata(path) or {}):
            table = pd.read_parquet(path)
            columns = matched_headers(path, [str(c) for c in table.columns])
            return _as_text(table, columns, keep=NUMBERS)
        points = gpd.read_parquet(path) if is_parquet else gpd.read_file(path)
    except (pa.ArrowInvalid, DataSourceError, ValueError) as error:
        if isinstance(error, RecordsError):
            raise
        raise unreadable(path, str(error).splitlines()[0], "Copy or write the file again") from error
    return _points_table(path, points)


def _parquet_metadata(path: Path) -> dict[bytes, bytes] | None:
    from pyarrow import parquet

    return cast("dict[bytes, bytes] | None", parquet.read_schema(path).metadata)


def _points_table(path: Path, points: Any) -> pd.DataFrame:
    if not hasattr(points, "geometry") or points.crs is None:
        found = "no CRS" if hasattr(points, "geometry") else "no geometry"
        raise unreadable(path, found, "Write the points with their geometry and CRS")
    kinds = set(points.geom_type.dropna()) - {"Point"}
    if kinds:
        raise unreadable(path, f"geometries of type {', '.join(sorted(kinds))}", "Give points")
    where = ("decimalLongitude", "decimalLatitude")
    names = [str(c) for c in points.columns if c != points.geometry.name]
    frame = _as_text(points, matched_headers(path, names, given=where))
    lonlat = points.geometry.to_crs("EPSG:4326")
    return frame.assign(decimalLongitude=lonlat.x.to_numpy(), decimalLatitude=lonlat.y.to_numpy())


def _as_text(table: Any, columns: dict[str, str], keep: Sequence[str] = ()) -> pd.DataFrame:
    """The named columns as text (missing stays missing), those of `keep` as they are."""
    taken = {
        column: table[header] if column in keep else table[header].astype("str")
        for header, column in columns.items()
    }
    return pd.DataFrame(taken).reset_index(drop=True).replace(list(EMPTY), None)


# First bytes -> format; what matches none is text.
SIGNATURES = MappingProxyType(
    {b"\x1f\x8b": "gzip", b"PK": "zip", b"PAR1": "parquet", b"SQLite format 3": "geopackage"}
)
READERS: MappingProxyType[str, Callable[[Path], pd.DataFrame]] = MappingProxyType(
    {
        "text": read_text,
        "gzip": read_text,
        "zip": read_archive,
        "parquet": read_geo,
        "geopackage": read_geo,
    }
)
