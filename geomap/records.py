"""Species records, checked once; every dropped row is counted by its reason.

    python -m geomap.records FILE [--strict] [--report OUT.json] [--json]

Two kinds: presence-only records (where a species was seen, nothing said about elsewhere) and complete surveys
(a species without a row at a visited location was not met there).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from geomap import surveys
from geomap.checks import Checks, LandTest, Sifted, lonlat_of, refuse_swapped, sift
from geomap.cli import run
from geomap.columns import Kind
from geomap.darwincore import RawTable, read_table
from geomap.errors import OutputError, RecordsError
from geomap.recordtable import merged_names, named, notes_on, taxa_of, typed
from geomap.report import print_json
from geomap.rules import RULES, SURVEY_NAME_RULES, SURVEY_RULES, later_ones

if TYPE_CHECKING:
    from geomap.grid import Grid

Choice = Literal["keep", "drop"]

KEPT_COLUMNS = (
    "decimalLongitude",
    "decimalLatitude",
    "scientificName",
    "verbatimName",
    "vernacularName",
    "eventDate",
    "coordinateUncertaintyInMeters",
    "locationID",
    "visits",
    "detections",
    "license",
)


@dataclass(frozen=True)
class Records:
    """A checked table of records.

    Attributes:
        table: KEPT_COLUMNS as far as the file has them: coordinates and uncertainty float64 (degrees WGS 84,
            metres; uncertainty NaN where unknown), visits and detections int64, the rest text (NaN where
            missing). scientificName is today's canonical name, verbatimName the user's own string.
        kind: "presence" or "survey".
        dropped: Reason -> rows; each dropped row is counted once, for the first rule that it failed.
        rows_in: Rows of the file.
        source: File name and SHA-256.
        notes: What was kept and is worth knowing -> rows.
        merged: Today's name -> the names in the file that now stand for it, where there are several.
        first_dropped: Reason -> the first rows of the file that it dropped, counted from 1 below the header.
        locations: For surveys all visited locations: locationID, decimalLongitude, decimalLatitude, visits.
        checks: The limits that were applied.
    """

    table: pd.DataFrame
    kind: Kind
    dropped: Mapping[str, int]
    rows_in: int
    source: str
    notes: Mapping[str, int] = field(default_factory=dict)
    merged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    first_dropped: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    locations: pd.DataFrame | None = None
    checks: Checks = field(default_factory=Checks)

    def __post_init__(self) -> None:
        """Hold every row to account."""
        assert self.rows_in == len(self.table) + sum(self.dropped.values())

    @property
    def lonlat(self) -> NDArray[np.float64]:
        """Longitude and latitude of the rows, (n, 2) float64 degrees WGS 84."""
        return lonlat_of(self.table)

    @property
    def species(self) -> list[str]:
        """The names of the species, sorted."""
        return sorted(self.table["scientificName"].unique())

    def thin(self, grid: Grid) -> Records:
        """Keep one record per cell and species, that of smallest uncertainty; drop what is off the grid.

        Args:
            grid: The grid whose cells count.

        Returns:
            Records with "outside the grid" and "duplicate cell" added to `dropped`.

        Raises:
            RecordsError: These are surveys, or no record lies on the grid.
        """
        if self.kind == "survey":
            raise RecordsError("cannot thin", "complete surveys", "Thin presence-only records")
        rows, cols, inside = grid.rowcol(self.lonlat)
        on = self.table.assign(row=rows, col=cols)[inside]
        if on.empty:
            found = f"none lies on the grid {grid.name}"
            raise RecordsError("cannot use the records", found, "Choose another grid")
        again = later_ones(on, ["scientificName", "row", "col"])
        counts = {"outside the grid": int((~inside).sum()), "duplicate cell": int(again.sum())}
        dropped = {**self.dropped, **{reason: n for reason, n in counts.items() if n}}
        return replace(
            self,
            table=on[~again].drop(columns=["row", "col"]).reset_index(drop=True),
            dropped=dropped,
        )

    def detection_matrix(self) -> surveys.Matrix:
        """Locations, species (S), visits (n,), detections (n, S); see `surveys.detection_matrix`.

        Raises:
            RecordsError: These are presence-only records, which say nothing about absence.
        """
        if self.locations is None:
            found = "presence-only records"
            raise RecordsError("cannot make a detection matrix", found, "Give complete surveys")
        return surveys.detection_matrix(self.table, self.locations)

    def taxa(self) -> pd.DataFrame:
        """Species with vernacularName, synonyms and number of records; see `recordtable.taxa_of`."""
        return taxa_of(self.table)

    def report(self) -> dict[str, Any]:
        """Everything but the rows, ready for JSON."""
        return {
            "source": self.source,
            "kind": self.kind,
            "rows_in": self.rows_in,
            "rows_kept": len(self.table),
            "species": len(self.species),
            "locations": None if self.locations is None else len(self.locations),
            "dropped": dict(self.dropped),
            "first_dropped": {reason: list(rows) for reason, rows in self.first_dropped.items()},
            "notes": dict(self.notes),
            "merged": {name: list(older) for name, older in self.merged.items()},
            "checks": asdict(self.checks),
        }


def read_records(
    path: str | Path | pd.DataFrame,
    checks: Checks | None = None,
    strict: bool = False,
    land: LandTest | None = None,
) -> Records:
    """Read and check presence-only records.

    Args:
        path: A table in any format of `geomap.darwincore`, or in memory.
        checks: Limits; the defaults of Checks when None.
        strict: Refuse the table when a row would be dropped.
        land: True where a land species may be recorded; `geomap.land.near_land` when None.

    Returns:
        The rows that pass every rule of `geomap.rules.RULES`.

    Raises:
        RecordsError: The table is unreadable, is a survey, has its coordinates swapped, nothing is left of
            it, or `strict` and a row fails.
    """
    raw = read_table(path)
    if raw.kind == "survey":
        raise RecordsError(
            f"cannot read {file_of(raw)} as presence-only records",
            "columns visits and detections",
            "Read it as a survey (--surveys): a row with no detections is an absence",
        )
    return _presence(raw, checks or Checks(), strict, land)


def read_surveys(
    path: str | Path | pd.DataFrame,
    checks: Checks | None = None,
    strict: bool = False,
    land: LandTest | None = None,
) -> Records:
    """Read and check complete surveys; arguments as in `read_records`.

    Returns:
        One row per location and species met there; `locations` holds all visited places, also those where
        nothing that has a name was met.

    Raises:
        RecordsError: As in `read_records`; or the columns of a survey are missing, a location contradicts
            itself, or detections and visits make no sense.
    """
    raw = read_table(path)
    if raw.kind == "presence":
        raise RecordsError(
            f"cannot read {file_of(raw)} as surveys",
            "no columns visits and detections",
            "Add them, or read it as presence-only records (--records)",
        )
    return _survey(raw, checks or Checks(), strict, land)


def read_either(path: str | Path, checks: Checks | None = None, strict: bool = False) -> Records:
    """Read a table as what its columns say it is; see `read_records` and `read_surveys`."""
    raw = read_table(path)
    reader = _survey if raw.kind == "survey" else _presence
    return reader(raw, checks or Checks(), strict, None)


def _presence(raw: RawTable, checks: Checks, strict: bool, land: LandTest | None) -> Records:
    land = land or _land_test(checks)
    frame = named(typed(raw.frame), checks)
    refuse_swapped(frame, checks, land)
    return _finished(raw, checks, strict, sift(Sifted(frame), RULES, checks, land))


def _survey(raw: RawTable, checks: Checks, strict: bool, land: LandTest | None) -> Records:
    land = land or _land_test(checks)
    frame = surveys.counted(named(surveys.named_by_code(typed(raw.frame)), checks))
    refuse_swapped(frame, checks, land)
    surveys.locations_of(frame)  # a location that contradicts itself is refused before rows of it are dropped
    sited = sift(Sifted(frame), SURVEY_RULES, checks, land)
    kept = surveys.merged_forms(sift(sited, SURVEY_NAME_RULES, checks, land))
    return _finished(raw, checks, strict, kept, surveys.locations_of(sited.frame))


def file_of(raw: RawTable) -> str:
    """Name of the file that a table was read from."""
    return raw.source.split(" sha256:")[0]


def _land_test(checks: Checks) -> LandTest:
    from geomap.land import near_land

    return partial(near_land, tolerance_m=checks.coast_tolerance_m)


def _finished(
    raw: RawTable, checks: Checks, strict: bool, kept: Sifted, locations: pd.DataFrame | None = None
) -> Records:
    """Records of the rows that passed; a refusal when none did, or when `strict` and one did not."""
    what, left = f"cannot use {file_of(raw)}", kept.frame
    if left.empty:
        found = f"all {len(raw.frame)} rows were dropped: {kept.reasons()}"
        raise RecordsError(what, found, "Mend the rows, or loosen the checks")
    if strict and kept.dropped:
        raise RecordsError(f"{what} (strict)", kept.reasons(), "Mend these rows, or leave --strict out")
    return Records(
        table=left[[column for column in KEPT_COLUMNS if column in left]].reset_index(drop=True),
        kind=raw.kind,
        dropped=kept.dropped,
        rows_in=len(raw.frame),
        source=raw.source,
        notes=notes_on(left),
        merged=merged_names(left),
        first_dropped=kept.first,
        locations=locations,
        checks=checks,
    )


EPILOG = """
Examples:

    geomap records mine.csv
    geomap records gbif.zip --max-uncertainty 1000 --report dropped.json
    geomap records mine.csv --json | jq .dropped

A table with columns visits and detections is read as complete surveys, any other as presence-only records.
Nothing is changed in the file.
"""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def command(
    file: Annotated[Path, typer.Argument(help="CSV, TSV (also .gz), DwC-A zip, GeoParquet or GeoPackage.")],
    strict: Annotated[bool, typer.Option(help="Refuse the table when a row would be dropped.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing report.")] = False,
    max_uncertainty: Annotated[float, typer.Option(help="Largest coordinate uncertainty [m].")] = 10_000.0,
    missing_uncertainty: Annotated[Choice, typer.Option(help="Records without an uncertainty.")] = "keep",
    obscured: Annotated[Choice, typer.Option(help="Coordinates blurred on purpose.")] = "drop",
    sea: Annotated[bool, typer.Option(help="Keep records at sea.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check a table of records and say what would be dropped, and why."""
    from rich.console import Console

    from geomap.recordreport import report_table, write_report

    if report is not None and report.exists() and not overwrite:
        raise OutputError("cannot write the report", f"{report} exists", "Give --overwrite or another name")
    checks = Checks(
        max_uncertainty_m=max_uncertainty,
        missing_uncertainty=missing_uncertainty,
        obscured=obscured,
        land_only=not sea,
    )
    found = read_either(file, checks, strict)
    if report is not None:
        write_report(found.report(), report)
    if as_json:
        print_json(found.report())
        return
    Console().print(report_table(found.report()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(app, argv)


if __name__ == "__main__":
    sys.exit(main())
