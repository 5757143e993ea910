"""Writes small data sets in exactly the layouts that are published.

    python tests/layouts.py OUT

Every picture has one colour that follows from its row, so that a test can tell which one it was given.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy import sparse

SPECIES = ("Abies grandis", "Baccharis pilularis", "Carex obnupta")
PERCENTS = ("0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "20.0", "100.0")
CINAT_ROWS = {"train": (5, 0, 3, 6, 2, 7), "val": (1, 3, 2, 4)}  # second column of the CSV
CINAT_IDS = (3111, 3200, 4596)


def colour(row: int) -> tuple[int, int, int]:
    """The colour of the photo of a row; greys, so that a grey picture can have it, too."""
    level = 20 + 17 * row % 220
    return level, level, level


def tile_value(row: int) -> int:
    """The first band of the tile of a row."""
    return 10 + 23 * row % 240


def photo_bytes(row: int, mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> bytes:
    """An encoded photo of one colour."""
    stream = io.BytesIO()
    picture = Image.new("RGB", size, colour(row))
    picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
    picture.save(stream, "PNG" if mode in ("P", "RGBA") else "JPEG")
    return stream.getvalue()


def write_nmv(root: Path, rows: int = 12, pixels: int = 16, bands: int = 4, group: int = 5) -> np.ndarray:
    """Nature Multi-View: two parquet files for training, one for validation and for test.

    Rows 2 i and 2 i + 1 are photos of one observation: they have the same tile.

    Returns:
        (rows, bands, pixels, pixels) uint8 tiles of the training rows.
    """
    tiles = np.stack([nmv_tile(row // 2, bands, pixels) for row in range(rows)])
    parts = {"train/train-00000-of-00002": (0, rows // 2), "train/train-00001-of-00002": (rows // 2, rows)}
    parts |= {"validation/validation-00000-of-00001": (0, 3), "test/test-00000-of-00001": (0, 3)}
    for name, (start, stop) in parts.items():
        path = root / "data" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = nmv_table([nmv_row(row, rows) for row in range(start, stop)], tiles[start:stop])
        pq.write_table(table, path, row_group_size=group)
    return tiles


def nmv_tile(observation: int, bands: int, pixels: int) -> np.ndarray:
    """A noisy tile whose band b begins with the value of the observation plus b."""
    tile = np.random.default_rng(observation).integers(0, 256, (bands, pixels, pixels)).astype(np.uint8)
    tile[:, 0, 0] = tile_value(observation) + np.arange(bands)
    return tile


def nmv_row(row: int, rows: int) -> dict[str, Any]:
    """Everything of a row but its tile."""
    taxon = row % len(SPECIES)
    return {
        "observation_uuid": str(uuid.UUID(int=row // 2)),
        "latitude": 33.0 + 0.5 * (row // 2),
        "longitude": -122.0 + 0.25 * (row // 2),
        "positional_accuracy": 10 * (row + 1),
        "taxon_id": 48662 + taxon,
        "quality_grade": "research" if row % 2 else "needs_id",
        "gl_image_date": f"20{11 + row % 12}-{1 + row % 12:02d}-{1 + row:02d}",
        "ancestry": f"48460/47126/{48662 + taxon}",
        "rank": "species",
        "name": SPECIES[taxon],
        "gl_inat_id": str(uuid.UUID(int=1000 + row)),
        "gl_photo_id": 7_000_000 + row,
        "license": "CC-BY-NC",
        "observer_id": str(row % 4),
        "rs_classification": row % 2 == 0,
        "ecoregion": "California Coastal Sage, Chaparral, and Oak Woodlands",
        "supervised": row >= 3,
        "rs_image_date": "20180804",
        **{f"finetune_{share}percent": row < rows * max(0.25, float(share) / 100) for share in PERCENTS},
        "gl_image": {"bytes": photo_bytes(row, ("RGB", "L", "CMYK")[row % 3]), "path": f"{row}.jpg"},
    }


def nmv_table(rows: Sequence[dict[str, Any]], tiles: np.ndarray | None) -> pa.Table:
    """Rows with the published types: float32 degrees, int64 numbers, tiles as lists in lists of int64."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    types = {"latitude": pa.float32(), "longitude": pa.float32(), "gl_image": image}
    names = list(rows[0])
    columns = {name: pa.array([row[name] for row in rows], types.get(name)) for name in names}
    if tiles is not None:
        columns["rs_image"] = nested(tiles)
    return pa.table(columns)


def nested(tiles: np.ndarray) -> pa.Array:
    """(n, bands, h, w) as lists in lists in lists of int64."""
    array: pa.Array = pa.array(tiles.reshape(-1).astype(np.int64))
    for side in tiles.shape[:0:-1]:
        offsets = np.arange(0, len(array) + 1, side, dtype=np.int32)
        array = pa.ListArray.from_arrays(pa.array(offsets), array)
    return array


def write_cinat(root: Path, images: int = 8) -> None:
    """Cross-View iNat Birds: photos in every colour mode, tiles numbered along the CSV."""
    for split, rows in CINAT_ROWS.items():
        data = root / "data"
        listed = []
        for row in range(images):
            name = f"{split}/0{CINAT_IDS[row % 3]}_Animalia/{split}{row}.jpg"
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_bytes(photo_bytes(row, ("RGB", "L", "CMYK", "RGB")[row % 4]))
            listed.append(
                {
                    "id": 500 + row,
                    "width": 60,
                    "height": 40,
                    "file_name": name,
                    "latitude": -40.0 + 10 * row,
                    "longitude": -170.0 + 40 * row,
                    "date": f"2020-0{1 + row}-1{row} 12:11:10+00:00",
                }
            )
        notes = [
            {"id": row, "image_id": 500 + row, "category_id": CINAT_IDS[row % 3]} for row in range(images)
        ]
        kinds = [{"id": each, "name": f"Avis {each}", "supercategory": "Birds"} for each in CINAT_IDS]
        content = {"info": {}, "images": listed, "annotations": notes, "categories": kinds}
        (data / f"{split}_birds.json").write_text(json.dumps(content))
        with (data / f"{split}_birds_labels.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["", "idx", "cluster"])
            table.writerows([k, row, (row * 3) % 20] for k, row in enumerate(rows))
        tiles = data / f"{split}_overhead" / "images_sentinel"
        tiles.mkdir(parents=True)
        for k in range(len(rows)):
            Image.new("RGB", (48, 48), (tile_value(k),) * 3).save(tiles / f"{k}.jpeg", quality=95)


def write_inat2018(root: Path, images: int = 9, features: int = 16) -> np.ndarray:
    """iNat2018 with locations and features; the second image has no coordinates.

    Returns:
        (images, features) float32 features of the training images.
    """
    arrays = {split: _feature_rows(images, features, number) for number, split in enumerate(("train", "val"))}
    (root / "features_inception_pretrain").mkdir(parents=True)
    (root / "features_inception").mkdir()
    (root / "sample_idx").mkdir()
    kinds = [{"id": each, "name": name} for each, name in enumerate(SPECIES)]
    (root / "categories2018.json").write_text(json.dumps(kinds))
    for split, array in arrays.items():
        _write_notes(root / f"{split}2018.json", root / f"{split}2018_locations.json", images)
        name = f"inat2018_{split}_pretrain_net_feats.npy"
        np.save(root / "features_inception_pretrain" / name, array)
    predicted = sparse.csr_matrix(np.eye(images, len(SPECIES), dtype=np.float32))
    sparse.save_npz(root / "features_inception" / "inat2018_val_preds_sparse.npz", predicted)
    np.save(root / "sample_idx" / "train_sample_ratio0.500.npy", np.array([0, 1, 4, 6]))
    return arrays["train"]


def write_fmow(root: Path, images: int = 9, features: int = 16) -> np.ndarray:
    """fMoW in the same shape under its own names; returns the features of the training images."""
    arrays = {split: _feature_rows(images, features, number) for number, split in enumerate(("train", "val"))}
    (root / "feature_moco").mkdir(parents=True)
    kinds = [{"id": each, "name": name} for each, name in enumerate(("airport", "dam", "stadium"))]
    (root / "category.json").write_text(json.dumps(kinds))
    for split, array in arrays.items():
        _write_notes(root / f"{split}.json", root / f"{split}_location.json", images)
        np.save(root / "feature_moco" / f"fmow_{split}_net_feats.npy", array)
    np.save(root / "feature_moco" / "fmow_val_preds.npy", np.full((images, 3), 1 / 3, np.float32))
    return arrays["train"]


def _feature_rows(images: int, features: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(images, features)).astype(np.float32)


def _write_notes(notes: Path, locations: Path, images: int) -> None:
    """Images whose ids do not count from 0, annotations and locations in another order than the images."""
    ids = [1000 + 7 * row for row in range(images)]
    listed = [{"id": each, "file_name": f"train_val2018/{each}.jpg"} for each in ids]
    backwards = [
        {"id": row, "image_id": ids[row], "category_id": row % len(SPECIES)}
        for row in reversed(range(images))
    ]
    notes.write_text(json.dumps({"images": listed, "annotations": backwards}))
    places: list[dict[str, Any]] = [
        {"id": ids[row], "lat": 10.0 + row, "lon": -50.0 - row, "date_c": row / images, "user_id": 3}
        for row in reversed(range(images))
    ]
    places[-2] |= {"lat": None, "lon": None}
    locations.write_text(json.dumps(places))


PHOTO_MODES = ("RGB", "L", "CMYK", "P", "RGBA", "RGB")


def write_photos(root: Path, rows: int = 6) -> Path:
    """A folder of photos with a CSV in the manner of iNaturalist; returns the CSV."""
    root.mkdir(parents=True, exist_ok=True)
    table = root / "photos.csv"
    with table.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["file", "scientific_name", "longitude", "latitude", "observed_on", "inat_id"])
        for row in range(rows):
            mode = PHOTO_MODES[row % len(PHOTO_MODES)]
            name = f"{row}.{'png' if mode in ('P', 'RGBA') else 'jpg'}"
            (root / name).write_bytes(photo_bytes(row, mode))
            place = [f"{-121.5 + 0.01 * row:.4f}", f"{37 + 0.02 * row:.4f}"]
            out.writerow([name, SPECIES[row % 3], *place, f"2012-{1 + row:02d}-2{row}", 59737 + row])
    return table


def main(out: str) -> None:
    """Write all layouts below a folder."""
    root = Path(out)
    write_nmv(root / "nmv")
    write_cinat(root / "cinat")
    write_inat2018(root / "inat2018")
    write_fmow(root / "fmow")
    write_photos(root / "photos")


if __name__ == "__main__":
    main(sys.argv[1])
