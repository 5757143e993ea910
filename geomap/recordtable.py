"""A table of records made ready for the checks: numbers are numbers, names are canonical and of today."""

from __future__ import annotations

import numpy as np
import pandas as pd

from geomap import names
from geomap.checks import Checks
from geomap.darwincore import NUMBERS
from geomap.errors import RecordsError
from geomap.rules import is_obscured, no_uncertainty


def typed(found: pd.DataFrame) -> pd.DataFrame:
    """The table with float64 coordinates and uncertainty (what is no number becomes NaN), and verbatimName.

    Raises:
        RecordsError: Most values of a number column are no numbers.
    """
    frame = found.reset_index(drop=True)
    text = [column for column in frame if column not in NUMBERS]
    frame = frame.astype(dict.fromkeys(text, "str"))  # one kind of missing value
    for column in [column for column in NUMBERS if column in frame]:
        values = pd.to_numeric(frame[column], errors="coerce").astype(np.float64)
        unread = values.isna() & frame[column].notna()
        if 2 * unread.sum() > frame[column].notna().sum():
            found = f'"{frame[column][unread].iloc[0]}" in column {column}'
            raise RecordsError("cannot read the records", found, "Give decimal numbers, as in -122.5")
        frame = frame.assign(**{column: values})
    return frame.assign(verbatimName=frame["scientificName"])


def named(frame: pd.DataFrame, checks: Checks) -> pd.DataFrame:
    """Put today's name in scientificName ("" where it is no species), and the canonical one in foundName.

    Args:
        frame: Columns scientificName (as found) and maybe vernacularName.
        checks: `ranks` says whether a subspecies counts as its species.
    """
    columns = [column for column in ("scientificName", "vernacularName") if column in frame]
    pairs = frame[columns].drop_duplicates()  # thousands of names, millions of rows
    given = [text if isinstance(text, str) else "" for text in pairs["scientificName"]]
    english = [text if isinstance(text, str) else None for text in pairs.get("vernacularName", given)]
    full = [names.canonical(text) for text in given]
    found = [names.species_of(name) if checks.ranks == "species" else name for name in full]
    today = [names.accepted(name, common) for name, common in zip(found, english, strict=True)]
    lower = [len(name.split(" ")) > 2 for name in full]
    table = pairs.assign(foundName=found, today=today, belowSpecies=lower)
    joined = frame.merge(table, on=columns, how="left", validate="many_to_one")  # missing matches missing
    return joined.assign(scientificName=joined["today"]).drop(columns="today")


def notes_on(kept: pd.DataFrame) -> dict[str, int]:
    """Rows that passed and yet are worth knowing: by note, those with a count above zero."""
    counts = {
        "uncertainty not stated": no_uncertainty(kept) & ("visits" not in kept),
        "coordinates obscured": is_obscured(kept),
        "subspecies or variety of the species": kept["belowSpecies"],
        "older name, now under today's": kept["foundName"] != kept["scientificName"],
    }
    return {note: int(np.sum(rows)) for note, rows in counts.items() if np.any(rows)}


def merged_names(kept: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Species that stand under several names in the file: today's name -> the names found, sorted."""
    pairs = kept[["scientificName", "foundName"]].drop_duplicates().sort_values("foundName")
    several = pairs[pairs.duplicated("scientificName", keep=False)]
    return {str(name): tuple(group) for name, group in several.groupby("scientificName")["foundName"]}


def taxa_of(table: pd.DataFrame) -> pd.DataFrame:
    """One row per species, sorted: scientificName, vernacularName, synonyms, records.

    Args:
        table: The table of Records.

    Returns:
        vernacularName is the commonest ("" where there is none); synonyms, with "; " between, are the older
        names that `geomap.names` knows and the other names found in the table; records counts rows (int64).
    """
    rows = [_taxon(str(name), group) for name, group in table.groupby("scientificName", sort=True)]
    return pd.DataFrame(rows, columns=["scientificName", "vernacularName", "synonyms", "records"])


def _taxon(name: str, group: pd.DataFrame) -> tuple[str, str, str, int]:
    english = group["vernacularName"].dropna() if "vernacularName" in group else pd.Series(dtype="str")
    common = str(english.value_counts().sort_index().idxmax()) if len(english) else ""
    found = {names.species_of(names.canonical(text)) for text in group["verbatimName"].unique()}
    older = sorted((found | set(names.synonyms_of(name))) - {name, ""})
    return name, common, "; ".join(older), len(group)
