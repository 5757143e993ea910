"""The command that cuts chips around records, and the data set that reads them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
import pytest
import torch

import geomap.cutting
from geomap.chipplaces import Shape, places_of, read_chips
from geomap.chips import main
from geomap.errors import GridError
from geomap.imagery import FakeImagery
from geomap.testing import shared_data, write_raster
from train.data import chip_folder, photos
from train.errors import SpecError

BOX = (-120.2, 36.8, -119.8, 37.2)  # of the imagery
SPECIES = ("Quercus douglasii", "Aesculus californica", "Pinus sabiniana")


def paint(lonlat):
    """Two bands: longitude and latitude as values 0..250 over the box."""
    return np.stack([(lonlat[:, k] - BOX[k]) / (BOX[k + 2] - BOX[k]) * 250 for k in range(2)])


def write_records(
    path, lonlat, species=SPECIES, header="scientificName,decimalLongitude,decimalLatitude,eventDate"
):
    rows = [
        f"{species[k % len(species)]},{lon:.6f},{lat:.6f},2019-0{1 + k % 9}-1{k % 10}"
        for k, (lon, lat) in enumerate(lonlat)
    ]
    path.write_text("\n".join([header, *rows]))
    return path


def scattered(n=40, seed=0, box=BOX):
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(box[k] + 0.05, box[k + 2] - 0.05, n) for k in range(2)], axis=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    write_raster(folder / "imagery.tif", "EPSG:4326", BOX, (400, 400), 2, paint)
    write_records(folder / "records.csv", scattered())
    return folder


@pytest.fixture
def command(made, tmp_path, monkeypatch) -> list[str]:
    """The arguments of a run that works."""
    monkeypatch.chdir(made)
    shape = ["--metres", "100", "--pixels", "16", "--crs", "EPSG:3310"]
    return ["--records", "records.csv", "--imagery", "imagery.tif", "--out", str(tmp_path / "chips"), *shape]


def refused(arguments, capsys):
    """The message of a refusal: exit code 2, three parts, no traceback."""
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert all(part in message for part in ("Error: ", "Found: ", "Change: ")) and "Traceback" not in message
    return message


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_makes_a_folder_that_training_reads(command, tmp_path, capsys):
    assert main([*command, "--credit", "a painter"]) == 0
    told = capsys.readouterr()
    assert "40 chips of 16 x 16 pixels, 40 records of 3 species" in told.out and "100%" in told.err
    card = json.loads((tmp_path / "chips" / "card.json").read_text())
    assert card["credit"] == "a painter" and card["imagery"].startswith("imagery.tif")
    assert (card["metres"], card["pixels"], card["bands"], card["dtype"]) == (100.0, 16, 2, "uint8")
    data = chip_folder.open(tmp_path / "chips")
    assert data.classes == tuple(sorted(SPECIES)) and len(data) == 40
    assert data.views == ("aerial", "lonlat", "date")
    assert set(files(tmp_path / "chips")) == {"card.json", "chips.npy", "records.parquet"}
    for row in range(40):
        item = data[row]
        assert item["aerial"].shape == (2, 16, 16) and item["aerial"].dtype == torch.uint8
        middle = item["aerial"][:, 7:9, 7:9].float().mean(dim=(1, 2))
        expected = torch.from_numpy(paint(item["lonlat"][None].numpy())[:, 0]).float()
        assert (middle - expected).abs().max() < 1.0  # the place is in the middle (pitfalls 1 and 22)
    expected = data.lonlat()[:, 0].sort().values
    np.testing.assert_allclose(expected, np.sort(scattered()[:, 0]), atol=1e-6)


def test_prints_the_card_as_json(command, tmp_path, capsys):
    assert main([*command, "--json"]) == 0
    card = json.loads((tmp_path / "chips" / "card.json").read_text())
    assert json.loads(capsys.readouterr().out) == card


def test_the_card_carries_the_statistics_of_the_chips(command, tmp_path):
    """Pitfall 21: normalisation is measured once and saved."""
    assert main(command) == 0
    card = json.loads((tmp_path / "chips" / "card.json").read_text())
    pixels = np.load(tmp_path / "chips" / "chips.npy").astype(np.float64)
    np.testing.assert_allclose(card["mean"], pixels.mean(axis=(0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(card["std"], pixels.std(axis=(0, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("pixels", [7, 8])
@pytest.mark.parametrize("axis", [0, 1])
def test_chips_are_centred_on_their_place(pixels, axis):
    """Pitfall 22, on a ramp: half a pixel aside at most, and not to one side; odd and even sides."""
    lonlat = scattered(300, 3)
    source = FakeImagery(1, lambda at: (at[:, axis] - BOX[axis]) * 1000.0)
    shape = Shape(500.0, pixels, "float32", "EPSG:3310")
    places = places_of(lonlat, shape)
    chips, whole = read_chips(source, shape, places.start)
    assert whole.all()
    gap = chips[places.chip, 0].mean(axis=(1, 2)) - source.paint(lonlat)
    pixel = 500 / 111.2 if axis else 500 / 88.8
    assert np.abs(gap).max() < 0.72 * pixel
    assert abs(gap.mean()) < 0.07 * pixel


def test_chips_lie_as_maps_do_and_do_not_depend_on_their_neighbours():
    lonlat = scattered(50, 5)
    source, shape = FakeImagery(2, paint), Shape(200.0, 9, "float32", "EPSG:3310")
    places = places_of(lonlat, shape)
    together, _ = read_chips(source, shape, places.start)
    assert (np.diff(together[:, 0].mean(axis=1), axis=1) > 0).all()  # columns go east
    assert (np.diff(together[:, 1].mean(axis=2), axis=1) < 0).all()  # rows go south
    for chip in (0, 17, 49):
        alone, _ = read_chips(source, shape, places.start[chip : chip + 1])
        np.testing.assert_array_equal(alone[0], together[chip])


def test_records_within_a_pixel_share_a_chip(command, made, tmp_path):
    to_map = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3310", always_xy=True)
    x, y = (np.floor(v / 100) * 100 for v in to_map.transform(-120.0, 37.0))
    corner = np.array(
        [to_map.transform(x + dx, y + dy, direction="INVERSE") for dx, dy in ((20, 20), (40, 30))]
    )
    write_records(made / "pair.csv", [*corner, (-120.1234, 37.0123)])
    assert main([*command, "--records", "pair.csv"]) == 0
    data = chip_folder.open(tmp_path / "chips")
    assert len(data) == 3 and len(set(data.tile.tolist())) == 2
    assert data[0]["tile"] == data[1]["tile"] != data[2]["tile"]


def test_records_without_whole_imagery_are_counted(command, made, tmp_path, capsys):
    outside = [
        (-121.5432, 37.0123),
        (BOX[0] + 0.0005, 37.0123),
    ]  # beyond, and a chip that hangs over the edge
    write_records(made / "outside.csv", [*scattered(5), *outside])
    assert main([*command, "--records", "outside.csv"]) == 0
    card = json.loads((tmp_path / "chips" / "card.json").read_text())
    assert card["dropped"] == {"no imagery, or not all of it": 2} and card["records"] == 5
    assert "2 no imagery" in capsys.readouterr().out
    write_records(made / "nowhere.csv", [(-121.5432, 37.0123), (-121.4321, 37.1234)])
    assert "covers none of the 2 records" in refused(
        [*command, "--records", "nowhere.csv", "--overwrite"], capsys
    )


def test_a_stopped_run_is_resumed_to_the_same_bytes(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(geomap.cutting, "BLOCK", 8)
    whole = [*command[:4], "--out", str(tmp_path / "whole"), *command[6:]]
    assert main(whole) == 0
    real, calls = geomap.cutting.read_chips, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(geomap.cutting, "read_chips", interrupted)
    assert main(command) == 130
    assert "--resume" in capsys.readouterr().err
    with pytest.raises(SpecError, match="card is written last"):
        chip_folder.open(tmp_path / "chips")
    with (tmp_path / "chips" / "progress.jsonl").open("a") as log:
        log.write('{"whole": [0,')  # as a crash leaves it
    assert "--resume" in refused(command, capsys)
    assert "other shape" in refused([*command, "--pixels", "8", "--resume"], capsys)
    calls.clear()
    monkeypatch.setattr(geomap.cutting, "read_chips", lambda *a: calls.append(a) or real(*a))
    assert main([*command, "--resume"]) == 0
    assert len(calls) == 2  # of five blocks, three were done
    assert files(tmp_path / "chips") == files(tmp_path / "whole")


def test_existing_output(command, tmp_path, capsys):
    assert main(command) == 0
    assert "--overwrite" in refused(command, capsys)
    assert "is finished" in refused([*command, "--resume"], capsys)
    assert main([*command, "--overwrite", "--pixels", "4"]) == 0
    assert np.load(tmp_path / "chips" / "chips.npy").shape[2:] == (4, 4)


def test_folders_of_others_are_left_alone(command, tmp_path, capsys):
    (tmp_path / "chips").mkdir()
    (tmp_path / "chips" / "thesis.txt").write_text("mine")
    assert "holds other files" in refused([*command, "--overwrite"], capsys)
    assert files(tmp_path / "chips") == {"thesis.txt": b"mine"}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (["--imagery", "nowhere.tif"], "nowhere.tif"),
        (["--records", "absent.csv"], "absent.csv"),
        (["--metres", "0"], "0 m"),
        (["--metres", "-3"], "-3 m"),
        (["--pixels", "0"], "--pixels"),
        (["--crs", "EPSG:0"], "EPSG:0"),
        (["--crs", "EPSG:4326"], "no metres"),
        (["--bands", "1,x"], "1,x"),
        (["--bands", "3"], "bands 1 to 2"),
        (["--dtype", "int8"], "int8"),
        (["--max-uncertainty", "-1"], "-1"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_refusals_leave_nothing(command, tmp_path, capsys, change, found):
    assert found in refused([*command, *change], capsys)
    assert not list(tmp_path.iterdir())


def test_values_that_do_not_fit_the_type_are_refused(command, made, tmp_path, capsys):
    """Pitfall 21: bands are never clipped to bytes."""
    write_raster(made / "deep.tif", "EPSG:4326", BOX, (100, 100), 2, lambda lonlat: 30 * paint(lonlat) + 0.5)
    assert "--dtype uint16 or float32" in refused([*command, "--imagery", "deep.tif"], capsys)
    assert not list(tmp_path.iterdir())
    assert main([*command, "--imagery", "deep.tif", "--dtype", "uint16"]) == 0
    assert np.load(tmp_path / "chips" / "chips.npy").dtype == np.uint16
    item = chip_folder.open(tmp_path / "chips")[0]["aerial"]
    assert item.dtype == torch.float32 and item.max() > 255


def test_bands_can_be_chosen(command, tmp_path):
    assert main([*command, "--bands", "2"]) == 0
    assert chip_folder.open(tmp_path / "chips")[0]["aerial"].shape == (1, 16, 16)


def test_uncertain_records_are_dropped_at_the_scale_of_a_chip(command, made, tmp_path):
    lines = (made / "records.csv").read_text().splitlines()
    header = f"{lines[0]},coordinateUncertaintyInMeters"
    (made / "vague.csv").write_text(
        "\n".join([header, *(f"{line},{100 * k}" for k, line in enumerate(lines[1:], 1))])
    )
    assert main([*command, "--records", "vague.csv"]) == 0  # half a chip is 800 m
    assert len(chip_folder.open(tmp_path / "chips")) == 8


def test_photos_find_their_chips(command, made, tmp_path):
    """Ground and aerial views of one CSV, as CRISP and BirdSAT pair them."""
    lonlat = scattered(6)
    write_records(made / "photos.csv", lonlat)
    lines = (made / "photos.csv").read_text().splitlines()
    table = tmp_path / "photos" / "photos.csv"
    table.parent.mkdir()
    table.write_text(
        "\n".join([f"file,{lines[0]}", *(f"{k}.png,{line}" for k, line in enumerate(lines[1:]))])
    )
    from PIL import Image

    for k in range(6):
        Image.new("RGB", (9, 9), (k, k, k)).save(table.parent / f"{k}.png")
    assert main([*command, "--records", str(table)]) == 0
    data = photos.open(table, chips=tmp_path / "chips", chip_pixels=8, pixels=9)
    assert data.views == ("ground", "aerial", "lonlat", "date")
    for k in range(6):
        assert (data[k]["ground"] == k).all()
        middle = data[k]["aerial"][:, 3:5, 3:5].float().mean(dim=(1, 2)).numpy()
        np.testing.assert_allclose(middle, paint(lonlat[k : k + 1])[:, 0], atol=1.0)
    table.write_text(table.read_text().replace("-119.", "-117."))
    moved = sum("-117." in line for line in table.read_text().splitlines())
    with pytest.raises(SpecError, match="no chip at the coordinates"):
        photos.open(table, chips=tmp_path / "chips")
    found = photos.open(table, chips=tmp_path / "chips", on_error="drop")
    assert 0 < moved < 6 and found.dropped == {"no chip at the coordinates": moved}


def test_damaged_folders_are_refused(command, tmp_path):
    folder = tmp_path / "chips"
    assert main(command) == 0
    assert len(chip_folder.open(folder, classes=[SPECIES[0]], on_error="drop")) == 14
    with pytest.raises(SpecError, match="'Drosera'"):
        chip_folder.open(folder, classes=[*SPECIES, "Drosera"])
    table = pd.read_parquet(folder / "records.parquet")
    table.iloc[:-1].to_parquet(folder / "records.parquet")
    with pytest.raises(SpecError, match="not the table of the card"):
        chip_folder.open(folder)
    whole = (folder / "chips.npy").read_bytes()
    (folder / "chips.npy").write_bytes(whole[:-100])
    with pytest.raises(SpecError, match="Cut the chips again"):
        chip_folder.open(folder)
    (folder / "card.json").write_text("{}")
    with pytest.raises(SpecError, match="Cut the chips again"):
        chip_folder.open(folder)
    with pytest.raises(SpecError, match="no card"):
        chip_folder.open(tmp_path / "nowhere")


def test_shapes_that_make_no_sense():
    with pytest.raises(GridError, match="projected"):
        Shape(10.0, 4, "uint8", "EPSG:4326")


def test_starts_without_torch():
    code = "import sys, geomap.chips; print(*{'torch', 'distributed', 'rasterio', 'odc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_real_imagery(tmp_path):
    """Records of the coast on the real mosaic: every chip has its imagery, and chips differ."""
    folder = shared_data()
    records = pd.read_csv(folder / "occurrences" / "california_coast_inaturalist.csv.gz", nrows=300)
    records.to_csv(tmp_path / "records.csv", index=False)
    imagery = str(folder / "imagery" / "bluemarble_california_z8.tif")
    options = ["--metres", "500", "--pixels", "32", "--crs", "EPSG:3310"]
    assert (
        main(
            [
                "--records",
                str(tmp_path / "records.csv"),
                "--imagery",
                imagery,
                "--out",
                str(tmp_path / "c"),
                *options,
            ]
        )
        == 0
    )
    data = chip_folder.open(tmp_path / "c")
    assert len(data) > 50 and data[0]["aerial"].shape == (3, 32, 32)
    assert torch.stack([data[row]["aerial"].float().mean() for row in range(20)]).std() > 1
