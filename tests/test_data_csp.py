"""iNat2018 and fMoW, as CSP uses them: which feature, place and class belong together."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from train.data import fmow, inat2018
from train.data.columns import dates_of_year
from train.data.inat2018 import read_predictions
from train.errors import SpecError

LAYOUTS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("layouts.py"))))
KINDS = {
    "inat2018": (
        inat2018,
        LAYOUTS.write_inat2018,
        "train2018.json",
        "train2018_locations.json",
        "categories2018.json",
    ),
    "fmow": (fmow, LAYOUTS.write_fmow, "train.json", "train_location.json", "category.json"),
}


@pytest.fixture(params=list(KINDS))
def made(request, tmp_path):
    module, write, notes, places, categories = KINDS[request.param]
    features = write(tmp_path)
    names = {"notes": tmp_path / notes, "places": tmp_path / places, "categories": tmp_path / categories}
    return SimpleNamespace(open=module.open, root=tmp_path, features=features, **names)


@pytest.fixture
def inat(tmp_path):
    return tmp_path, LAYOUTS.write_inat2018(tmp_path)


def test_feature_place_date_and_class_belong_to_one_image(made):
    """Annotations and locations are joined by id, not by position; longitude comes first (pitfall 1)."""
    data = made.open(made.root)
    assert data.dropped == {"no coordinates": 1} and len(data) == 8
    assert data.views == ("feature", "lonlat", "date") and len(data.classes) == 3
    for row, image in enumerate([0, 2, 3, 4, 5, 6, 7, 8]):
        item = data[row]
        np.testing.assert_array_equal(item["feature"], made.features[image])
        assert item["lonlat"].tolist() == [-50.0 - image, 10.0 + image]
        assert item["label"] == image % 3 and item["tile"] == -1
        month, day = item["date"].tolist()
        passed = np.datetime64(f"2001-{int(month):02d}-{int(day):02d}") - np.datetime64("2001-01-01")
        assert int(passed.astype(int)) == int(365 * image / 9)


def test_fractions_of_the_year_become_days():
    dates = dates_of_year(np.array([0.0, 30.5 / 365, 31.5 / 365, 1.0, np.nan, 58.5 / 365, 59.5 / 365]))
    assert dates[[0, 1, 2, 3, 5, 6]].tolist() == [[1, 1], [1, 31], [2, 1], [12, 31], [2, 28], [3, 1]]
    assert np.isnan(dates[4]).all()


def test_places_may_be_kept_unknown_or_refused(made):
    kept = made.open(made.root, unplaced="keep")
    assert len(kept) == 9 and kept[1]["lonlat"].isnan().all()
    with pytest.raises(SpecError, match="no coordinates in 1 rows, the first is row 1"):
        made.open(made.root, unplaced="raise")


def test_stored_few_label_subsets(inat):
    root, features = inat
    data = inat2018.open(root, sample="sample_idx/train_sample_ratio0.500.npy")
    for row, image in enumerate([0, 2, 5, 7]):  # of the rows with coordinates
        np.testing.assert_array_equal(data[row]["feature"], features[image])
    for wrong in ([0, 0], [8], [-1], [0.5]):
        np.save(root / "wrong.npy", np.array(wrong))
        with pytest.raises(SpecError, match="8 rows have coordinates"):
            inat2018.open(root, sample="wrong.npy")


def test_photos_can_be_read_beside_the_features(inat):
    root, _ = inat
    folder = root / "photos" / "train_val2018"
    folder.mkdir(parents=True)
    for image in range(9):
        (folder / f"{1000 + 7 * image}.jpg").write_bytes(LAYOUTS.photo_bytes(image))
    data = inat2018.open(root, photos="photos", pixels=16, features="")
    assert data.views == ("ground", "lonlat", "date")
    assert (data[1]["ground"].int() - LAYOUTS.colour(2)[0]).abs().max() <= 3
    (folder / "1014.jpg").unlink()
    with pytest.raises(SpecError, match=r"1014\.jpg"):
        inat2018.open(root, photos="photos")
    assert inat2018.open(root, photos="photos", on_error="drop").dropped["picture missing"] == 1


def rewrite(path, change):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def swap(places):
    for place in places:
        place["lat"], place["lon"] = (
            (None, None) if place["lat"] is None else (place["lon"] - 60, place["lat"])
        )


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("places", swap, "Swap longitude and latitude"),  # pitfall 1
        ("places", lambda places: places[:-1], "not in"),
        ("places", lambda places: places[0].pop("lat") and None, "'lat'"),
        ("places", lambda places: places[0].update(lon="west"), "west"),
        ("places", lambda places: places[0].update(lat=91.0), "coordinates out of range in 1 rows"),
        ("notes", lambda notes: notes["annotations"][0].update(category_id=77), "label out of range"),
        ("notes", lambda notes: notes["annotations"].pop() and None, "no annotation"),
        ("notes", lambda notes: notes["images"].append({"id": 1, "file_name": ""}), "not in"),
        ("categories", lambda kinds: kinds.append({"id": 50, "name": "none"}), "'none'"),
        ("categories", lambda kinds: {"a": 1}, "no list"),
        ("categories", lambda kinds: [{"id": "x"}], "category id"),
    ],
)
def test_files_that_cannot_be_used(made, file, change, said):
    rewrite(getattr(made, file), change)
    with pytest.raises(SpecError, match=said):
        made.open(made.root)


def test_faulty_rows_are_counted_when_asked(made):
    rewrite(made.places, lambda places: places[0].update(lat=91.0))
    data = made.open(made.root, on_error="drop")
    assert data.dropped == {"no coordinates": 1, "coordinates out of range": 1}
    np.testing.assert_array_equal(data[6]["feature"], made.features[7])


@pytest.mark.parametrize("wrong", [np.zeros((8, 4), np.float32), np.zeros((9, 4)), np.zeros(9, np.float32)])
def test_features_that_do_not_belong_to_the_images(made, wrong):
    np.save(made.root / "wrong.npy", wrong)
    with pytest.raises(SpecError, match="9 images"):
        made.open(made.root, features="wrong.npy")


def test_features_that_are_not_finite_are_refused_when_read(made):
    bad = made.features.copy()
    bad[3, 2] = np.nan
    np.save(made.root / "bad.npy", bad)
    data = made.open(made.root, features="bad.npy")
    with pytest.raises(SpecError, match="entry 3: NaN"):
        data[2]
    assert data[3]["feature"].isfinite().all()


def test_missing_files(made):
    with pytest.raises(SpecError, match=r"nowhere\.npy"):
        made.open(made.root, features="nowhere.npy")
    with pytest.raises(SpecError, match="'train', 'val'"):
        made.open(made.root, split="test")
    made.places.unlink()
    with pytest.raises(SpecError, match="no file"):
        made.open(made.root)


def test_predictions_of_the_image_model(tmp_path):
    LAYOUTS.write_inat2018(tmp_path / "inat2018")
    LAYOUTS.write_fmow(tmp_path / "fmow")
    path = tmp_path / "inat2018" / "features_inception" / "inat2018_val_preds_sparse.npz"
    found = read_predictions(path)
    np.testing.assert_array_equal(found, np.eye(9, 3))
    np.testing.assert_array_equal(read_predictions(path, np.array([2, 0])), np.eye(9, 3)[[2, 0]])
    dense = read_predictions(tmp_path / "fmow" / "feature_moco" / "fmow_val_preds.npy", np.array([4]))
    assert dense.shape == (1, 3) and dense.dtype == np.float32
    np.save(tmp_path / "bad.npy", -np.ones((2, 2)))
    for wrong in (tmp_path / "bad.npy", tmp_path / "none.npy", tmp_path / "none.npz"):
        with pytest.raises(SpecError, match="cannot read predictions"):
            read_predictions(wrong)
