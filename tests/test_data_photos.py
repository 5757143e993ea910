"""Folders of photos with a CSV; the registry; the real photos."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from geomap.testing import shared_data
from train.batch import VIEWS
from train.data import photos
from train.data.registry import OPENERS, open_observations, options_of
from train.data.statistics import band_statistics
from train.errors import SpecError

LAYOUTS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("layouts.py"))))


@pytest.fixture
def table(tmp_path):
    return LAYOUTS.write_photos(tmp_path / "photos")


def rewritten(table, change):
    table.write_text("\n".join(change(table.read_text().splitlines())))


def cells(column, value, row=2):
    def change(lines):
        fields = lines[1 + row].split(",")
        fields[lines[0].split(",").index(column)] = value
        return [*lines[: 1 + row], ",".join(fields), *lines[2 + row :]]

    return change


def test_photos_of_every_mode_with_their_species_place_and_day(table):
    data = photos.open(table.parent, pixels=24)
    assert data.classes == LAYOUTS.SPECIES and len(data) == 6 and data.dropped == {}
    assert data.views == ("ground", "lonlat", "date")
    for row in range(6):
        item = data[row]
        assert (item["ground"].int() - LAYOUTS.colour(row)[0]).abs().max() <= 3
        assert item["label"] == row % 3 and item["tile"] == -1
        assert item["lonlat"].tolist() == pytest.approx([-121.5 + 0.01 * row, 37 + 0.02 * row])
        assert item["date"].tolist() == [1 + row, 20 + row]


def test_photos_of_one_place_belong_together(table):
    rewritten(table, cells("longitude", "-121.5", 1))
    rewritten(table, cells("latitude", "37.0000", 1))
    rewritten(table, cells("longitude", "", 3))
    tiles = photos.open(table, unplaced="keep").tiles()
    assert tiles[0] == tiles[1] and tiles[3] == -1
    assert len(set(tiles.tolist())) == 5


def test_headers_are_told_by_their_names_and_may_be_absent(table):
    rewritten(
        table, lambda lines: ["Photo,Species,decimalLongitude,decimal_latitude,eventDate,id", *lines[1:]]
    )
    assert photos.open(table)[1]["lonlat"].tolist() == pytest.approx([-121.49, 37.02])
    rewritten(table, lambda lines: ["file,name", *(",".join(line.split(",")[:2]) for line in lines[1:])])
    bare = photos.open(table)
    assert bare.views == ("ground",) and bare.lonlat().isnan().all()
    assert "date" not in bare[0]


def test_photos_without_a_species_have_no_label(table):
    rewritten(table, cells("scientific_name", ""))
    data = photos.open(table)
    assert data.labels().tolist() == [0, 1, -1, 0, 1, 2]


def test_missing_and_damaged_photos_raise_or_are_counted(table):
    """Pitfall 11."""
    (table.parent / "0.jpg").unlink()
    whole = (table.parent / "2.jpg").read_bytes()
    (table.parent / "2.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpecError, match=r"0\.jpg: no such file"):
        photos.open(table)
    data = photos.open(table, on_error="drop")
    assert data.dropped == {"picture missing": 1, "picture damaged": 1}
    assert [int(data[row]["ground"].float().mean().round()) for row in range(4)] == pytest.approx(
        [LAYOUTS.colour(row)[0] for row in (1, 3, 4, 5)], abs=2
    )
    assert (table.parent / "photos.checked.json").exists()


def test_a_photo_damaged_later_raises_when_it_is_read(table):
    data = photos.open(table)
    (table.parent / "1.jpg").write_bytes(b"")
    with pytest.raises(SpecError, match=r"1\.jpg"):
        data[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cells("longitude", "-200"), "coordinates out of range in 1 rows, the first is row 2"),
        (cells("longitude", "west"), "'west'"),
        (cells("observed_on", "yesterday"), "date out of range"),
        (cells("observed_on", "2012-02-30"), "date out of range"),
        (
            lambda lines: [lines[0].replace("longitude", "l").replace("latitude", "longitude"), *lines[1:]],
            "only one",
        ),
        (
            lambda lines: [
                lines[0].replace("longitude", "x").replace("latitude", "longitude").replace("x", "latitude"),
                *lines[1:],
            ],
            "Swap longitude and latitude",
        ),
        (lambda lines: ["picture of,what", *lines[1:]], "Name the column of the photos"),
        (lambda lines: lines[:1], "no observation is left"),
        (lambda lines: [], "in UTF-8 with a header"),
    ],
)
def test_tables_that_cannot_be_used(table, change, said):
    rewritten(table, change)
    with pytest.raises(SpecError, match=said):
        photos.open(table)


def test_rows_that_are_dropped_are_counted_by_reason(table):
    rewritten(table, cells("longitude", "-200", 0))
    rewritten(table, cells("latitude", "", 1))
    rewritten(table, cells("observed_on", "never", 2))
    data = photos.open(table, on_error="drop")
    assert data.dropped == {"coordinates out of range": 1, "no coordinates": 1, "date out of range": 1}
    assert len(data) + sum(data.dropped.values()) == 6


def test_months_without_a_day_are_unknown_dates(table):
    rewritten(table, cells("observed_on", "2012-05"))
    assert photos.open(table)[2]["date"].isnan().all()


def test_rare_species_can_be_left_out(table):
    rewritten(table, cells("scientific_name", "Drosera", 0))
    data = photos.open(table, least=2)
    assert data.classes == LAYOUTS.SPECIES[1:] and data.dropped == {"class with too few samples": 2}


def test_folders_without_one_csv(tmp_path, table):
    (table.parent / "other.csv").write_text("")
    for path in (table.parent, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SpecError, match="Give the path of the CSV"):
            photos.open(path)


def test_the_digest_is_of_the_table(table):
    first = photos.open(table).digest
    assert photos.open(table, pixels=8).digest == first
    rewritten(table, cells("observed_on", "2012-05-05"))
    assert photos.open(table).digest != first


def test_the_registry_opens_by_name_and_knows_the_options(table, tmp_path):
    assert len(open_observations("photos", table, pixels=16)) == 6
    made = open_observations("landscape", n=5, world={"species": 4, "pixels": 16})
    assert len(made) == 5
    LAYOUTS.write_inat2018(tmp_path / "inat2018")
    assert open_observations("inat2018", tmp_path / "inat2018", split="val").classes == LAYOUTS.SPECIES
    assert "split" in options_of("cinat") and "path" not in options_of("cinat")
    for ask, said in (
        (lambda: open_observations("birds", table), "chips, cinat, fmow, inat2018, landscape, nmv, photos"),
        (lambda: open_observations("photos", table, size=3), "pixels"),
        (lambda: open_observations("photos"), "no path"),
        (lambda: open_observations("landscape", table), "Leave it out"),
    ):
        with pytest.raises(SpecError, match=said):
            ask()
    assert all(set(options_of(kind)) for kind in OPENERS)


def test_the_script_writes_every_layout(tmp_path):
    subprocess.run([sys.executable, LAYOUTS.__file__, str(tmp_path)], check=True)
    for kind in ("cinat", "fmow", "inat2018", "nmv", "photos"):
        options = {"aerial_pixels": 16} if kind in ("cinat", "nmv") else {}
        data = open_observations(kind, tmp_path / kind, **options)
        item = data[0]
        assert set(item) >= {*data.views, "label", "tile", "row"}
        assert 0 <= item["label"] < len(data.classes) and len(data.digest) == 64
        assert all(torch.equal(data.batch(np.array([0]))[name][0], value) for name, value in item.items())


def test_labels_have_no_say_in_what_is_shown(table):
    """Methods 4.6, defect 5: neither order nor number of the observations follows from labels."""
    before = photos.open(table, pixels=16)
    rewritten(
        table, lambda lines: [line.replace("Abies grandis", "Zannichellia palustris") for line in lines]
    )
    after = photos.open(table, pixels=16)
    assert after.labels().tolist() != before.labels().tolist()
    for row in range(6):
        assert torch.equal(after[row]["ground"], before[row]["ground"])
        assert torch.equal(after[row]["lonlat"], before[row]["lonlat"])


def test_statistics_of_bands(table):
    """Pitfall 21: in the pictures' own units, over all pixels."""
    data = photos.open(table, pixels=16)
    pixels = data.batch(np.arange(6))["ground"].double()
    mean, std = band_statistics(data, "ground")
    np.testing.assert_allclose(mean, pixels.mean(dim=(0, 2, 3)))
    np.testing.assert_allclose(std, pixels.std(dim=(0, 2, 3), correction=0))
    assert band_statistics(data, "ground", count=2, seed=1) == band_statistics(
        data, "ground", count=2, seed=1
    )
    with pytest.raises(SpecError, match="cannot measure"):
        band_statistics(data, "aerial")


def test_real_photos():
    """53 species of one campus; grey and CMYK copies are read like the others."""
    folder = shared_data() / "photos"
    data = photos.open(folder, pixels=32)
    assert len(data) == 313 and len(data.classes) == 53 and data.views == ("ground", "date")
    item = data[17]
    assert item["ground"].shape == (3, 32, 32) and item["ground"].dtype == torch.uint8
    assert item["ground"].float().std() > 10
    assert np.bincount(data.labels()).min() >= 1
    assert set(item) - set(VIEWS) == {"label", "tile", "row"}
