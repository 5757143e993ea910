"""Cross-View iNat Birds: which photo belongs to which tile."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from train.data import cinat
from train.errors import SpecError

LAYOUTS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("layouts.py"))))
ROWS = LAYOUTS.CINAT_ROWS["train"]


@pytest.fixture
def root(tmp_path):
    LAYOUTS.write_cinat(tmp_path)
    return tmp_path


def test_the_number_of_a_tile_counts_the_rows_of_the_csv(root):
    """Methods 1.2: column 2 points into `images`; tile k belongs to row k of the CSV.

    Photos may be grey or CMYK (methods 3.6, defects 13 and 14).
    """
    data = cinat.open(root, ground_pixels=32, aerial_pixels=20)
    assert len(data) == len(ROWS) and data.dropped == {}
    assert data.classes == tuple(f"Avis {each}" for each in LAYOUTS.CINAT_IDS)
    assert data.views == ("ground", "aerial", "lonlat", "date")
    for k, row in enumerate(ROWS):
        item = data[k]
        assert item["ground"].shape == (3, 32, 32) and item["aerial"].shape == (3, 20, 20)
        assert (
            item["ground"].int() - LAYOUTS.colour(row)[0]
        ).abs().max() <= 3  # colour, grey and CMYK photos
        assert (item["aerial"].int() - LAYOUTS.tile_value(k)).abs().max() <= 2
        assert item["tile"] == k
        assert item["label"] == row % 3
        assert item["cluster"] == (row * 3) % 20
        assert item["lonlat"].tolist() == [-170.0 + 40 * row, -40.0 + 10 * row]
        assert item["date"].tolist() == [1 + row, 10 + row]


def test_the_validation_split_and_the_data_folder(root):
    data = cinat.open(root / "data", split="val")
    assert data.labels().tolist() == [1, 0, 2, 1]
    with pytest.raises(SpecError, match="48 x 48 pixels, 224 wanted"):
        data[0]


def test_tiles_are_cropped_and_not_scaled_in_every_split(root):
    """BirdSAT scales while evaluating, which changes the size of a pixel on the ground."""
    tile = Image.new("L", (48, 48), 0)
    tile.paste(255, (20, 20, 28, 28))
    for split in ("train", "val"):
        tile.save(root / "data" / f"{split}_overhead" / "images_sentinel" / "0.jpeg", quality=95)
        cropped = cinat.open(root, split=split, aerial_pixels=24)[0]["aerial"]
        scaled = cinat.open(root, split=split, aerial_pixels=24, resize_tiles=True)[0]["aerial"]
        assert (cropped[0] > 128).sum() == 64
        assert (scaled[0] > 128).sum() < 30


def without_third_column(table):
    return "\n".join(",".join(line.split(",")[:2]) for line in table.splitlines())


def test_a_csv_without_header_or_clusters(root):
    path = root / "data" / "train_birds_labels.csv"
    path.write_text("\n".join(path.read_text().splitlines()[1:]))
    assert cinat.open(root, aerial_pixels=20)[1]["cluster"] == 0
    path.write_text(without_third_column(path.read_text()))
    data = cinat.open(root, aerial_pixels=20)
    assert [int(data[k]["label"]) for k in range(6)] == [row % 3 for row in ROWS]
    assert data[1]["cluster"] == -1


def test_missing_and_damaged_pictures_raise_or_are_counted(root):
    """Pitfall 11; the rows that are left keep their own tiles."""
    data = root / "data"
    (data / "train_overhead" / "images_sentinel" / "1.jpeg").unlink()
    photo = data / f"train/0{LAYOUTS.CINAT_IDS[0]}_Animalia/train3.jpg"  # k = 2
    photo.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(SpecError, match=r"1\.jpeg"):
        cinat.open(root)
    found = cinat.open(root, on_error="drop", aerial_pixels=20)
    assert found.dropped == {"picture damaged": 1, "picture missing": 1}
    assert [int(found[row]["tile"]) for row in range(len(found))] == [0, 3, 4, 5]
    for row, k in enumerate([0, 3, 4, 5]):
        assert (found[row]["aerial"].int() - LAYOUTS.tile_value(k)).abs().max() <= 2


def changed(root, change, split="train"):
    path = root / "data" / f"{split}_birds.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def swap(content):
    for image in content["images"]:
        image["latitude"], image["longitude"] = image["longitude"], image["latitude"]


def test_rows_without_coordinates_are_counted(root):
    changed(root, lambda content: content["images"][0].update(latitude=None, longitude=None))
    found = cinat.open(root)
    assert found.dropped == {"no coordinates": 1} and len(found) == 5
    assert cinat.open(root, unplaced="keep", aerial_pixels=20)[1]["lonlat"].isnan().all()
    with pytest.raises(SpecError, match="no coordinates"):
        cinat.open(root, unplaced="raise")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swap, "Swap longitude and latitude"),  # pitfall 1
        (lambda content: content["annotations"][5].update(category_id=9), "label out of range in 1 rows"),
        (lambda content: content["categories"].append({"id": 9, "name": "Avis 9"}), "'Avis 9'"),
        (lambda content: content["categories"].append({"id": 3111, "name": "again"}), "twice"),
        (lambda content: content.pop("images"), "no list images"),
        (lambda content: content["annotations"].pop(5), "have no annotation"),
        (lambda content: content["images"][5].pop("file_name"), "'file_name'"),
        (lambda content: content["images"].pop(), "row 7"),
        (lambda content: content["images"][5].update(date="13-2020"), "date out of range"),
    ],
)
def test_json_that_cannot_be_used(root, change, said):
    changed(root, change)
    with pytest.raises(SpecError, match=said):
        cinat.open(root)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "Give a CSV"),
        (",idx,cluster\n0,1\n1,x\n", "Give a CSV"),
        (",idx\n0,3\n1,3\n", "twice"),
        (",idx\n", "left"),
    ],
)
def test_csv_that_cannot_be_used(root, table, said):
    (root / "data" / "train_birds_labels.csv").write_text(table)
    with pytest.raises(SpecError, match=said):
        cinat.open(root)


def test_missing_files(root):
    with pytest.raises(SpecError, match="'train', 'val'"):
        cinat.open(root, split="test")
    (root / "data" / "train_birds.json").write_text("{")
    with pytest.raises(SpecError, match="as it was published"):
        cinat.open(root)
    (root / "data" / "train_birds.json").unlink()
    with pytest.raises(SpecError, match="no file"):
        cinat.open(root)
    (root / "data" / "val_birds_labels.csv").unlink()
    with pytest.raises(SpecError, match="Give a CSV"):
        cinat.open(root, split="val")


def test_annotations_without_image_id_stand_in_the_order_of_the_images(root):
    def change(content):
        for note in content["annotations"]:
            del note["image_id"]

    changed(root, change)
    data = cinat.open(root)
    assert data.labels().tolist() == [row % 3 for row in ROWS]
