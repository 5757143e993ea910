"""Folders of aerial chips around records, as `python -m geomap.chips` cuts them.

| file | what it holds |
|---|---|
| card.json | size of chips, bands, their mean and deviation, CRS, credits, counts; written last |
| chips.npy | (chips, bands, pixels, pixels), uint8, uint16 or float32; records at one place share a chip |
| records.parquet | Darwin Core columns of the records, `label` (along the card's species) and `chip` |
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow

from train.data.columns import Empty, OnError, Sieve, digest_of
from train.data.readers import ArrayFile
from train.data.table import ObservationTable, table_of
from train.errors import SpecError

WHAT = "cannot read the chips"
FORMAT = 1
CARD, CHIPS, RECORDS = "card.json", "chips.npy", "records.parquet"
AGAIN = "Cut the chips again with geomap.chips --overwrite."


def open(
    path: str | Path,
    *,
    pixels: int = 0,
    classes: Sequence[str] | None = None,
    empty_classes: Empty = "raise",
    least: int = 1,
    on_error: OnError = "raise",
) -> ObservationTable:
    """Opens a folder of chips.

    Args:
        path: The folder.
        pixels: Cut out the middle of the chips; 0 keeps them whole.
        classes: Species in the order of the labels; those of the card when None.
        empty_classes: Whether a class without a record raises.
        least: Leave out (and count) species with fewer records; only without `classes`.
        on_error: Whether faulty rows raise or are dropped and counted.

    Returns:
        Views `aerial`, `lonlat` and, where known, `date`. `tile` is the chip.

    Raises:
        SpecError: The folder is unfinished or damaged, a class is unknown or empty, or nothing is left.
    """
    folder = Path(path)
    card = read_card(folder)
    table = read_table(folder)
    sieve = Sieve(_columns(table, card), WHAT, on_error)
    sieve.check_places("raise")
    sieve.check_dates()
    sieve.require_rows()
    if classes is None and least == 1:
        classes = tuple(card["species"])
    names = sieve.number_classes(classes, empty_classes, least)
    reader = ArrayFile(str(folder / CHIPS), sieve.frame["tile"].to_numpy(np.int64), pixels)
    return table_of(sieve, names, {"aerial": reader}, digest_of([folder / RECORDS]))


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a folder: `metres`, `pixels`, `bands`, `mean`, `std`, `species`, `credit` and more.

    Raises:
        SpecError: There is none (the folder is unfinished), or it is of another format.
    """
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if card["format"] != FORMAT:
            raise ValueError(f"format {card['format']}")
    except FileNotFoundError as error:
        change = "Run geomap.chips again with --resume: the card is written last."
        raise SpecError(WHAT, f"{folder} has no {CARD}", change) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(WHAT, f"{folder / CARD}: {error}", AGAIN) from error
    return card


def read_table(folder: Path) -> pd.DataFrame:
    """The records of a finished folder; `chip` counts the entries of chips.npy.

    Raises:
        SpecError: A file is missing, damaged, or they do not belong together.
    """
    card = read_card(folder)
    try:
        chips = np.load(folder / CHIPS, mmap_mode="r", allow_pickle=False)
        table: pd.DataFrame = pd.read_parquet(folder / RECORDS)
    except (OSError, ValueError, EOFError, pyarrow.ArrowException) as error:
        raise SpecError(WHAT, f"{folder}: {error}", AGAIN) from error
    wanted = (card["bands"], card["pixels"], card["pixels"])
    if chips.shape[1:] != wanted or str(chips.dtype) != card["dtype"]:
        found = (
            f"{folder / CHIPS} holds {chips.dtype} {chips.shape[1:]}, the card says {card['dtype']} {wanted}"
        )
        raise SpecError(WHAT, found, AGAIN)
    if digest_of([folder / RECORDS]) != card["digest"]:
        raise SpecError(WHAT, f"{folder / RECORDS} is not the table of the card", AGAIN)
    if len(table) and not table["chip"].between(0, len(chips) - 1).all():
        raise SpecError(WHAT, f"{folder / RECORDS} points beyond the {len(chips)} chips", AGAIN)
    return table


def _columns(table: pd.DataFrame, card: dict[str, Any]) -> pd.DataFrame:
    labels = table["label"].to_numpy(np.int64)
    species = np.array([*card["species"], None], dtype=object)
    if len(labels) and (labels.min() < 0 or labels.max() >= len(card["species"])):
        found = f"labels {labels.min()}..{labels.max()} of {len(card['species'])} species"
        raise SpecError(WHAT, f"label out of range: {found}", AGAIN)
    dates = table["eventDate"] if "eventDate" in table else pd.Series([None] * len(table), dtype=object)
    return pd.DataFrame(
        {
            "name": species[labels],
            "lon": table["decimalLongitude"].to_numpy(np.float64),
            "lat": table["decimalLatitude"].to_numpy(np.float64),
            "date": dates.astype("str").str.extract(r"^(\d{4}-\d{2}-\d{2})")[0].to_numpy(object),
            "tile": table["chip"].to_numpy(np.int64),
        }
    )
