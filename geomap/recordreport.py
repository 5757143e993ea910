"""What the check of a table of records found, on paper: as JSON and as a table in the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write the report as JSON, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def report_table(report: Mapping[str, Any]) -> Table:
    """The report for people."""
    title = f"{report['source'].split(' sha256:')[0]}: {report['kind']}, {report['species']} species"
    table = Table("", title=title, title_justify="left")
    table.add_column("rows", justify="right")
    table.add_column("first rows")
    table.add_row("read", f"{report['rows_in']:,}")
    for reason, n in report["dropped"].items():
        table.add_row(
            f"dropped: {reason}", f"{n:,}", ", ".join(map(str, report["first_dropped"].get(reason, ())))
        )
    table.add_row("kept", f"{report['rows_kept']:,}", style="bold")
    for note, n in report["notes"].items():
        table.add_row(f"of these: {note}", f"{n:,}")
    for name, older in report["merged"].items():
        table.add_row(f"one species: {name} = {', '.join(older)}")
    return table
