"""Cross-View iNat Birds 2021, which BirdSAT was trained on (methods section 1.2).

    ROOT/data/train_birds.json                              images, annotations, categories (iNat-2021)
    ROOT/data/train_birds_labels.csv                        column 2: row of `images`; column 3: geo-cluster
    ROOT/data/train_overhead/images_sentinel/{k}.jpeg       k counts the rows of the CSV, from 0

and the same with `val`. The number of a tile is thus the place in the *filtered* list, not the row of the
JSON; both are checked here. What we changed: a tile is cropped in the middle at its own 10 m for every split
(BirdSAT crops while training and scales while evaluating, so the pixel size differs), grey and CMYK photos
are read, and a picture that is missing or damaged raises or is counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from train.data.annotations import category_of, class_names, degrees, listed, read_json, values
from train.data.columns import Empty, OnError, Sieve, Unplaced, choose, digest_of
from train.data.pictures import sift_pictures
from train.data.readers import PictureFiles, Reader, TileFiles
from train.data.table import ObservationTable, table_of
from train.errors import SpecError

WHAT = "cannot read Cross-View iNat Birds"


def open(
    path: str | Path,
    *,
    split: str = "train",
    ground_pixels: int = 384,
    aerial_pixels: int = 224,
    resize_tiles: bool = False,
    photos: str | Path | None = None,
    empty_classes: Empty = "raise",
    unplaced: Unplaced = "drop",
    on_error: OnError = "raise",
    cache: str | Path | None = None,
) -> ObservationTable:
    """Opens a split.

    Args:
        path: ROOT, or ROOT/data.
        split: "train" or "val".
        ground_pixels: Side of the squares that photos become [pixels].
        aerial_pixels: Side of the squares cut out of the tiles [pixels].
        resize_tiles: Scale whole tiles instead, as BirdSAT does while evaluating.
        photos: Folder that `file_name` starts from; ROOT/data when None.
        empty_classes: Whether a category without an observation raises.
        unplaced: What becomes of observations without coordinates.
        on_error: Whether faulty rows, and missing or damaged pictures, raise or are dropped and counted.
        cache: Where verdicts on pictures are kept (on_error "drop"); ROOT/data when None.

    Returns:
        Views `ground`, `aerial`, `lonlat`, `date`; every item also carries `cluster`, the geo-cluster of
        MoCo-Geo (-1 where the CSV has no third column). `tile` is the number k.

    Raises:
        SpecError: A file is missing or damaged, an index or label is out of range, a category has no
            observation, or nothing is left.
    """
    choose("split", split, ("train", "val"))
    data = Path(path) / "data" if (Path(path) / "data").is_dir() else Path(path)
    notes, table = data / f"{split}_birds.json", data / f"{split}_birds_labels.csv"
    content = read_json(notes, WHAT)
    labels, names = class_names(listed(content, "categories", notes, WHAT), notes, WHAT)
    frame = _rows(content, notes, table, labels)
    folder = Path(photos) if photos is not None else data
    tiles = data / f"{split}_overhead" / "images_sentinel"
    frame = frame.assign(
        file=[str(folder / str(name)) for name in frame["file"]],
        overhead=[str(tiles / f"{k}.jpeg") for k in frame["tile"]],
    )
    sieve = Sieve(frame, WHAT, on_error)
    sieve.require_rows()
    sieve.require_labels(len(names))
    sieve.check_places(unplaced)
    sieve.check_dates()
    verdicts = Path(cache) if cache is not None else data / f"{split}_birds.checked.json"
    sift_pictures(sieve, "file", verdicts)
    sift_pictures(sieve, "overhead", verdicts)
    sieve.require_rows()
    sieve.frame = sieve.frame.assign(name=np.array(names, dtype=object)[sieve.frame["label"]])
    sieve.number_classes(names, empty_classes)
    readers: dict[str, Reader] = {
        "ground": PictureFiles(tuple(sieve.frame["file"]), ground_pixels),
        "aerial": TileFiles(tuple(sieve.frame["overhead"]), aerial_pixels, resize_tiles),
    }
    return table_of(sieve, names, readers, digest_of([notes, table]), ["cluster"])


def _rows(content: Any, notes: Path, table: Path, labels: dict[int, int]) -> pd.DataFrame:
    """The rows of the CSV with what the JSON says of their images."""
    images = listed(content, "images", notes, WHAT)
    index, cluster = _index(table)
    if len(index) and (index.min() < 0 or index.max() >= len(images)):
        wrong = index.min() if index.min() < 0 else index.max()
        found = f"row {wrong} in {table}, {notes.name} has {len(images)} images"
        raise SpecError(WHAT, found, "Give the CSV and the JSON of one split.")
    if len(np.unique(index)) < len(index):
        raise SpecError(WHAT, f"an image stands twice in {table}", "Give the CSV as it was published.")
    category = category_of(content, notes, WHAT)[index]
    chosen = [images[k] for k in index.tolist()]
    return pd.DataFrame(
        {
            "file": values(chosen, "file_name", notes, WHAT),
            "label": [labels.get(each, len(labels)) for each in category.tolist()],
            "lon": degrees(chosen, "longitude", notes, WHAT),
            "lat": degrees(chosen, "latitude", notes, WHAT),
            "date": values(chosen, "date", notes, WHAT),
            "tile": np.arange(len(index), dtype=np.int64),
            "cluster": cluster,
        }
    )


def _index(table: Path) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Second and third column of the CSV, with or without a header; cluster -1 where there is no third."""
    try:
        raw = pd.read_csv(table, header=None, dtype=str)
        if len(raw) and not str(raw.iloc[0, 1]).lstrip("-").isdigit():  # the header
            raw = raw.iloc[1:]
        index = raw.iloc[:, 1].astype(np.int64).to_numpy()
        cluster = raw.iloc[:, 2].astype(np.int64).to_numpy() if raw.shape[1] > 2 else np.full(len(raw), -1)
    except (OSError, ValueError, IndexError) as error:
        change = "Give a CSV whose second column is the row of the image, and the third its cluster."
        raise SpecError(WHAT, f"{table}: {error}", change) from error
    return index, np.asarray(cluster, np.int64)
