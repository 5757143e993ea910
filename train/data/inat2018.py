"""iNaturalist 2018 with locations and features computed beforehand, as CSP uses it (methods section 1.3).

    ROOT/train2018.json              images, annotations
    ROOT/train2018_locations.json    list of id, lat, lon, date_c (fraction of the year), user_id
    ROOT/categories2018.json         list of id, name
    ROOT/features_inception_pretrain/inat2018_train_pretrain_net_feats.npy    (images, k) float

and the same with `val`. Row i of the features belongs to image i of the JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from train.data.annotations import category_of, class_names, degrees, listed, read_json, values
from train.data.columns import Empty, OnError, Sieve, Unplaced, choose, dates_of_year, digest_of
from train.data.pictures import sift_pictures
from train.data.readers import ArrayFile, PictureFiles, Reader
from train.data.table import ObservationTable, table_of
from train.errors import SpecError


@dataclass(frozen=True)
class Layout:
    """Names of the files of a data set; `{split}` stands for the split."""

    what: str
    notes: str
    locations: str
    categories: str
    features: str


INAT2018 = Layout(
    "cannot read iNat2018",
    "{split}2018.json",
    "{split}2018_locations.json",
    "categories2018.json",
    "features_inception_pretrain/inat2018_{split}_pretrain_net_feats.npy",
)


def open(
    path: str | Path,
    *,
    split: str = "train",
    features: str | Path | None = None,
    photos: str | Path | None = None,
    pixels: int = 224,
    sample: str | Path | None = None,
    empty_classes: Empty = "raise",
    unplaced: Unplaced = "drop",
    on_error: OnError = "raise",
    cache: str | Path | None = None,
) -> ObservationTable:
    """Opens a split.

    Args:
        path: ROOT.
        split: "train" or "val".
        features: Another .npy of features than the layout's, relative to ROOT; "" for none.
        photos: Folder that `file_name` starts from, relative to ROOT, for the view `ground`; none when None.
        pixels: Side of the squares that photos become [pixels].
        sample: .npy of indices (CSP's `sample_idx`), relative to ROOT: a few-label subset. They count the
            rows that have coordinates, in the order of the JSON.
        empty_classes: Whether a category without an observation raises.
        unplaced: What becomes of observations without coordinates.
        on_error: Whether faulty rows, and missing or damaged photos, raise or are dropped and counted.
        cache: Where verdicts on photos are kept (on_error "drop"); ROOT when None.

    Returns:
        Views `feature`, `lonlat`, `date` and, with `photos`, `ground`. `tile` is -1.

    Raises:
        SpecError: A file is missing or damaged, files do not belong together, a label is out of range, a
            category has no observation, or nothing is left.
    """
    options = (split, features, photos, pixels, sample, empty_classes, unplaced, on_error, cache)
    return open_layout(INAT2018, Path(path), *options)


def open_layout(
    layout: Layout,
    root: Path,
    split: str,
    features: str | Path | None,
    photos: str | Path | None,
    pixels: int,
    sample: str | Path | None,
    empty_classes: Empty,
    unplaced: Unplaced,
    on_error: OnError,
    cache: str | Path | None,
) -> ObservationTable:
    """What `open` does, for any data set of this shape."""
    choose("split", split, ("train", "val"))
    what = layout.what
    notes, places, categories = (
        root / name.format(split=split) for name in (layout.notes, layout.locations, layout.categories)
    )
    labels, names = class_names(listed(read_json(categories, what), "", categories, what), categories, what)
    frame = _rows(read_json(notes, what), notes, places, labels, what, photos is not None)
    images = len(frame)
    sieve = Sieve(frame, what, on_error)
    sieve.require_labels(len(names))
    sieve.check_places(unplaced)
    if sample is not None:
        rows = _sample(root / sample, len(sieve.frame), what)
        sieve.frame = sieve.frame.iloc[rows]
    readers: dict[str, Reader] = {}
    if photos is not None:
        folder = root / photos
        sieve.frame = sieve.frame.assign(file=[str(folder / str(name)) for name in sieve.frame["file"]])
        verdicts = Path(cache) if cache is not None else notes.with_suffix(".checked.json")
        sift_pictures(sieve, "file", verdicts)
        readers["ground"] = PictureFiles(tuple(sieve.frame["file"]), pixels)
    sieve.require_rows()
    if features != "":
        array = root / (features or layout.features.format(split=split))
        _require_features(array, images, what)
        readers["feature"] = ArrayFile(str(array), sieve.frame.index.to_numpy(np.int64))
    sieve.frame = sieve.frame.assign(name=np.array(names, dtype=object)[sieve.frame["label"]])
    sieve.number_classes(names, empty_classes)
    return table_of(sieve, names, readers, digest_of([notes, places, categories]))


def _rows(
    content: Any, notes: Path, places: Path, labels: dict[int, int], what: str, files: bool
) -> pd.DataFrame:
    """One row for every image of the JSON, in its order."""
    images = listed(content, "images", notes, what)
    ids = values(images, "id", notes, what)
    located = listed(read_json(places, what), "", places, what)
    by_id = dict(zip(values(located, "id", places, what), located, strict=True))
    lost = [each for each in ids if each not in by_id]
    if lost:
        found = f"{len(lost)} images of {notes.name} are not in {places}, the first has id {lost[0]}"
        raise SpecError(what, found, "Give the locations of the same split.")
    at = [by_id[each] for each in ids]
    month_day = dates_of_year(degrees(at, "date_c", places, what))
    category = category_of(content, notes, what)
    columns = {
        "label": [labels.get(each, len(labels)) for each in category.tolist()],
        "lon": degrees(at, "lon", places, what),
        "lat": degrees(at, "lat", places, what),
        "month": month_day[:, 0],
        "day": month_day[:, 1],
    }
    return pd.DataFrame(columns | ({"file": values(images, "file_name", notes, what)} if files else {}))


def _load(path: Path, what: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SpecError(what, f"{path}: {error}", "Give an array as numpy.save writes it.") from error
    return array


def _require_features(path: Path, images: int, what: str) -> None:
    array = _load(path, what)
    if array.ndim != 2 or len(array) != images or array.dtype != np.float32:
        found = f"{path} holds {array.dtype} {array.shape}, the JSON has {images} images"
        raise SpecError(what, found, "Give float32 features (images, k) in the order of the JSON.")


def _sample(path: Path, count: int, what: str) -> NDArray[np.int64]:
    rows = _load(path, what)
    whole = rows.ndim == 1 and rows.dtype.kind in "iu"
    if (
        not whole
        or len(np.unique(rows)) < len(rows)
        or (len(rows) and (rows.min() < 0 or rows.max() >= count))
    ):
        found = f"{path} holds {rows.dtype} {rows.shape}, {count} rows have coordinates"
        raise SpecError(what, found, "Give different row numbers from 0.")
    return np.array(rows, np.int64)


def read_predictions(path: str | Path, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    """P(y | image) as published: an .npy array, or a sparse .npz of SciPy.

    Args:
        path: The file: `features_inception/inat2018_val_preds_sparse.npz`, `feature_moco/fmow_val_preds.npy`.
        rows: Rows to read, in this order; all when None.

    Returns:
        (n, classes) float32.

    Raises:
        SpecError: It is missing, damaged, or a value is negative or not finite.
    """
    what = "cannot read predictions"
    try:
        if Path(path).suffix == ".npz":
            table = sparse.load_npz(path).tocsr()
            dense = np.asarray((table if rows is None else table[rows]).todense(), np.float32)
        else:
            held = _load(Path(path), what)
            dense = np.asarray(held if rows is None else held[rows], np.float32)
    except (OSError, ValueError, KeyError, IndexError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(what, f"{path}: {error}", "Give the file as it was published.") from error
    if dense.ndim != 2 or not np.isfinite(dense).all() or (dense.size and dense.min() < 0):
        raise SpecError(
            what, f"{path}: shape {dense.shape}, or values below 0 or not finite", "Give probabilities."
        )
    return dense
