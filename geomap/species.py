"""Lists the species that can be rendered.

python -m geomap.species --search goldfinch
python -m geomap.species --json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from geomap.catalog import Catalog
from geomap.cli import run
from geomap.entries import SpeciesEntry
from geomap.errors import NameNotFoundError
from geomap.names import accepted, normalise
from geomap.report import print_json, species_table, wide_console

EPILOG = """
Examples:

    geomap species --search wren
    geomap species --heads heads/mine
    geomap species --json | jq -r '.[].scientificName'

A species in several groups of heads has an entry in each. Beside each AUC stands that of a model which knows
coordinates only.
"""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def species(
    search: Annotated[
        str | None, typer.Option(help="Text in a scientific or common name or synonym.")
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option(help="Group of the bundle, or a folder made by geomap.fit. Default: all groups."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with all scores and thresholds.")
    ] = False,
) -> None:
    """List the species that can be rendered."""
    catalog = Catalog.open(heads)
    entries = catalog.entries() if search is None else catalog.search(search)
    if not entries:
        raise NameNotFoundError(
            "cannot list species", f"no name contains {search!r}", "try a shorter text, or leave out --search"
        )
    grids = {group: catalog.grids(group) for group in catalog.groups}
    if as_json:
        listed = [{**entry.to_dict(), "grids": list(grids[entry.group])} for entry in by_name(entries)]
        print_json(listed)
        return
    console = wide_console()
    console.print(
        species_table(by_name(entries), {group: ", ".join(names) for group, names in grids.items()})
    )
    species = {normalise(accepted(entry.scientific)) for entry in entries}
    console.print(f"{len(entries)} entries, {len(species)} species")


def by_name(entries: list[SpeciesEntry]) -> list[SpeciesEntry]:
    """The entries by scientific name; those of one species in the catalogue's order."""
    return sorted(entries, key=lambda entry: entry.scientific.casefold())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    return run(app, argv)


if __name__ == "__main__":
    sys.exit(main())
