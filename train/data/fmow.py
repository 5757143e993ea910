"""Functional Map of the World with locations and features computed beforehand, as CSP uses it.

    ROOT/train.json              images, annotations
    ROOT/train_location.json     list of id, lat, lon, date_c (fraction of the year), user_id
    ROOT/category.json           list of id, name
    ROOT/feature_moco/fmow_train_net_feats.npy      (images, k) float32

and the same with `val` (methods section 1.3). The name of the features' file is ours: give yours as
`features`.
"""

from __future__ import annotations

from pathlib import Path

from train.data.columns import Empty, OnError, Unplaced
from train.data.inat2018 import Layout, open_layout
from train.data.table import ObservationTable

FMOW = Layout(
    "cannot read fMoW",
    "{split}.json",
    "{split}_location.json",
    "category.json",
    "feature_moco/fmow_{split}_net_feats.npy",
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
    """Opens a split; arguments, views and errors as in `train.data.inat2018.open`."""
    options = (split, features, photos, pixels, sample, empty_classes, unplaced, on_error, cache)
    return open_layout(FMOW, Path(path), *options)
