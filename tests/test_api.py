"""The Python API: maps equal to rendered files and lazy, tables in as files go in, and all it refuses."""

import inspect
import pickle
import pydoc
import re
import subprocess
import sys

import dask
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rioxarray
import shapely
import xarray

import geomap
import geomap.grid
import geomap.lazymap
import geomap.predict
import geomap.render
from geomap import api
from geomap import fit as fit_module
from geomap.catalog import Catalog
from geomap.errors import FieldError, GeomapError, GridError, HeadsError, NameNotFoundError, RecordsError
from geomap.field import EmbeddingField, open_field
from geomap.fit import fit_heads
from geomap.fitrequest import FitRequest
from geomap.grid import grid_from_bbox
from geomap.heads import SpeciesHeads, load_heads, save_heads
from geomap.testing_bundle import make_heads, write_field
from train.species import FitConfig

pytestmark = pytest.mark.usefixtures("shipped")
POPPY = "Eschscholzia californica"
WRENTIT = "Chamaea fasciata"
QUICK = FitConfig(members=2, hidden=16, width=8, epochs=20, learning_rate=1e-2)


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    """A field of several units, and heads of it."""
    folder = tmp_path_factory.mktemp("fine")
    field = write_field(folder / "fine.zarr", grid_from_bbox(-124, 35, -118, 41, 1_000.0, "EPSG:3310"))
    assert len(field.grid.units()) >= 6
    heads = make_heads("mine", "suitability", [(POPPY, "California Poppy", "")], field)
    save_heads(heads, folder / "mine")
    return field, heads, folder / "mine"


def written(tmp_path, *options):
    """The map file that the command writes, read by rioxarray as NaN without data."""
    assert geomap.render.main([*map(str, options), "--out", str(tmp_path / "maps")]) == 0
    (path,) = (tmp_path / "maps").rglob("*.tif")
    return rioxarray.open_rasterio(path, masked=True).squeeze("band", drop=True).load()


def test_a_map_equals_the_file_that_the_command_writes(tmp_path):
    mine, file = geomap.render("california poppy"), written(tmp_path, "--species", POPPY)
    assert (mine.dtype, mine.dims) == (np.float32, ("y", "x"))
    np.testing.assert_array_equal(mine.values, file.values)
    np.testing.assert_allclose(mine.x, file.x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(mine.y, file.y, rtol=0, atol=1e-6)
    assert mine.rio.crs == file.rio.crs
    assert mine.rio.transform() == file.rio.transform()
    assert np.isnan(mine.rio.nodata)
    assert 0 < np.isfinite(mine.values).sum() < mine.size


def test_a_map_of_many_units_equals_the_file_whatever_runs_beside_it(fine, tmp_path):
    field, heads, folder = fine
    file = written(tmp_path, "--species", POPPY, "--heads", folder, "--field", field.path)
    for given in (heads, folder, str(folder)):
        mine = geomap.render(POPPY, heads=given, field=field)
        with dask.config.set(scheduler="threads", num_workers=4):
            np.testing.assert_array_equal(mine.values, file.values)


def test_the_best_group_is_taken_as_the_command_takes_it():
    assert geomap.render("Lawrence's Goldfinch").attrs["meaning"] == "probability"
    assert geomap.render("Lawrence's Goldfinch", heads="world-birds").attrs["meaning"] == "suitability"


def test_nothing_is_computed_before_it_is_looked_at_and_then_only_what_is_needed(fine, monkeypatch):
    field, heads, _ = fine
    read, windows = EmbeddingField.read, []
    monkeypatch.setattr(
        EmbeddingField, "read", lambda self, window: windows.append(window) or read(self, window)
    )
    mine = geomap.render(POPPY, heads=heads, field=field)
    assert windows == []
    units, rows = field.grid.units(), field.grid.unit
    assert mine.data.npartitions == len(units)
    assert len(dask.optimize(mine.data)[0].__dask_graph__()) == len(units)
    assert mine.data.chunksize == (rows, rows)
    part = mine.isel(y=slice(0, 5), x=slice(rows, rows + 5)).values
    assert part.shape == (5, 5)
    assert [(window.row, window.col) for window in windows] == [(0, rows)]
    mine.compute()
    assert max(window.height * window.width for window in windows) <= rows * rows


def test_a_task_carries_one_species_and_travels(fine):
    field, _, _ = fine
    many = make_heads("many", "suitability", [(f"Genus species{k}", "", "") for k in range(50)], field)
    small = geomap.lazymap.only(many, 7)
    assert len(small) == 1
    assert small.species["scientificName"].tolist() == ["Genus species7"]
    mine = geomap.render("Genus species7", heads=many, field=field)
    again = pickle.loads(pickle.dumps(mine))
    np.testing.assert_array_equal(again.values, mine.values)


def test_what_a_map_says_about_itself_survives_a_file(tmp_path):
    mine = geomap.render("wrentit")
    entry = Catalog.open().find_entry("wrentit")
    assert mine.attrs["long_name"] == "Chamaea fasciata (Wrentit): probability"
    assert mine.attrs["units"] == "1"
    assert mine.attrs["meaning"] == mine.name == "probability"
    assert mine.attrs["default_threshold"] == "p10"
    assert mine.attrs["threshold_p10"] == entry.thresholds["p10"].value
    assert (mine.attrs["auc"], mine.attrs["null_auc"]) == tuple(entry.scores["auc"])
    assert mine.attrs["data_credit"] == "Made up for north-america-birds"
    assert mine.attrs["imagery_credit"] == "made up"
    mine.to_netcdf(tmp_path / "map.nc")
    with xarray.open_dataarray(tmp_path / "map.nc", decode_coords="all") as back:
        np.testing.assert_array_equal(back.values, mine.values)
        assert back.rio.crs == mine.rio.crs
        assert back.rio.transform() == mine.rio.transform()
        for key, value in mine.attrs.items():
            assert back.attrs[key] == value, key


def test_numbers_that_are_not_known_are_left_out(fine):
    field, heads, _ = fine
    heads.species["auc"], kept = np.nan, heads.species["auc"].copy()
    try:
        attrs = geomap.render(POPPY, heads=heads, field=field).attrs
    finally:
        heads.species["auc"] = kept
    assert "auc" not in attrs
    assert "null_auc" in attrs


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"species": "Chamaea fasciat"}, NameNotFoundError, "Chamaea fasciata"),
        ({"species": POPPY, "grid": "californa"}, GridError, "california"),
        ({"species": POPPY, "heads": "california-plant"}, HeadsError, "california-plants"),
        ({"species": POPPY, "field": "nowhere.zarr"}, FieldError, "nowhere.zarr"),
        ({"species": POPPY, "grid": "global"}, FieldError, "california"),
    ],
)
def test_bad_input_is_refused_in_three_parts_at_once(options, error, words):
    with pytest.raises(error) as caught:
        geomap.render(**options)
    assert isinstance(caught.value, GeomapError)
    assert all((caught.value.what, caught.value.found, caught.value.change))
    assert words in str(caught.value)


def test_heads_of_other_encoders_are_refused(fine, tmp_path):
    _, heads, _ = fine
    other = write_field(tmp_path / "other.zarr", grid_from_bbox(-120, 36, -119, 37), encoder_hash="a" * 64)
    with pytest.raises(HeadsError, match="encoder"):
        geomap.render(POPPY, heads=heads, field=other)


def record_table():
    """Records of two species, north and south, at cells of the shipped field."""
    field = Catalog.open().field("california")
    lonlat = field.grid.cell_lonlat()[field.read(field.grid.whole)[1]]
    lonlat = np.random.default_rng(0).permutation(lonlat)
    north = lonlat[:, 1] > 37.2
    names = np.where(north, "Sequoia sempervirens", "Yucca brevifolia")
    return pd.DataFrame({"species": names, "lon": lonlat[:, 0].round(6), "lat": lonlat[:, 1].round(6)})


def same(heads, other):
    """Whether heads predict the same and say the same scores."""
    pd.testing.assert_frame_equal(heads.species, other.species)
    assert heads.hash == other.hash


def test_fit_takes_tables_of_pandas_and_geopandas_as_files(tmp_path):
    table = record_table()
    table.to_csv(tmp_path / "records.csv", index=False)
    file = fit_heads(FitRequest(tmp_path / "file", tmp_path / "records.csv"), QUICK)
    frame = geomap.fit(table, config=QUICK)
    same(frame, file)
    assert frame.card["data"]["rows"] == len(table)
    assert re.fullmatch(r"the table sha256:[0-9a-f]{64}", frame.card["data"]["sources"][0])
    points = gpd.GeoDataFrame(
        table[["species"]], geometry=gpd.points_from_xy(table["lon"], table["lat"]), crs="EPSG:4326"
    )
    same(geomap.fit(points, config=QUICK, out=tmp_path / "saved"), file)
    assert load_heads(tmp_path / "saved").name == "saved"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "records.csv", "saved"]


def test_fit_takes_surveys(tmp_path):
    table = record_table().head(150)
    rng = np.random.default_rng(1)
    surveys = pd.DataFrame(
        {
            "locationID": [f"R{k}" for k in range(len(table))],
            "decimalLongitude": table["lon"], "decimalLatitude": table["lat"],
            "scientificName": "Sequoia sempervirens", "visits": 5,
            "detections": rng.binomial(5, np.where(table["lat"] > 37.2, 0.8, 0.1)),
        }
    )  # fmt: skip
    surveys.to_csv(tmp_path / "surveys.csv", index=False)
    heads = geomap.fit(surveys=surveys, config=QUICK)
    assert heads.meaning == "probability"
    same(heads, fit_heads(FitRequest(None, surveys=tmp_path / "surveys.csv"), QUICK))


def test_fitted_heads_draw_and_predict_without_being_saved():
    heads = geomap.fit(record_table(), config=QUICK)
    mine = geomap.render("Yucca brevifolia", heads=heads)
    assert 0 <= float(mine.min()) < float(mine.max()) <= 1


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame({"species": [], "lon": [], "lat": []}), "no rows"),
        (pd.DataFrame({"species": ["Quercus lobata"], "lon": [-120.0]}), "decimalLatitude"),
        (pd.DataFrame({"species": ["Quercus lobata"], "lon": ["west"], "lat": [37.0]}), "decimal numbers"),
        (gpd.GeoDataFrame({"species": ["Quercus lobata"]}, geometry=[shapely.Point(0, 0)]), "no CRS"),
        (gpd.GeoDataFrame({"species": ["Quercus lobata"]}), "no geometry"),
        (None, "neither"),
    ],
)
def test_fit_refuses_tables_as_it_refuses_files(table, words):
    with pytest.raises(RecordsError, match=words):
        geomap.fit(table)


def points_table():
    return pd.DataFrame(
        {
            "plot": ["a", "b", "c", "d"],
            "lon": [-121.5, -119.0, -116.5, np.nan],
            "lat": [38.6, 36.0, 39.5, 38.0],
        },
        index=[9, 4, 7, 1],
    )


def test_predict_equals_the_command(tmp_path):
    table = points_table()
    table.to_csv(tmp_path / "points.csv", index=False)
    options = [
        "--heads",
        "california-plants",
        "--points",
        tmp_path / "points.csv",
        "--out",
        tmp_path / "out.csv",
    ]
    assert geomap.predict.main([str(option) for option in options]) == 0
    file = pd.read_csv(tmp_path / "out.csv")
    frame = geomap.predict(table, "california-plants")
    assert list(frame.columns) == list(file.columns)
    assert list(frame.index) == [9, 4, 7, 1]
    np.testing.assert_allclose(frame.iloc[:, 3:], file.iloc[:, 3:], rtol=0, atol=1e-6)
    assert np.isfinite(frame[POPPY]).tolist() == [True, True, False, False]
    assert list(table.columns) == ["plot", "lon", "lat"]


def test_predict_takes_points_of_any_crs_and_says_what_the_map_says():
    table = points_table().dropna()
    points = gpd.GeoDataFrame(
        table[["plot"]], geometry=gpd.points_from_xy(table["lon"], table["lat"]), crs="EPSG:4326"
    ).to_crs("EPSG:32610")
    frame = geomap.predict(points, species=["wrentit", POPPY])
    assert isinstance(frame, gpd.GeoDataFrame)
    assert list(frame.columns) == ["plot", "geometry", WRENTIT, POPPY]
    at = points.geometry.to_crs("EPSG:3310").iloc[0]
    for name in (WRENTIT, POPPY):
        assert frame[name].dtype == np.float32
        assert frame[name].iloc[0] == geomap.render(name).sel(x=at.x, y=at.y, method="nearest").values


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (points_table().head(0), {"heads": "california-plants"}, "no rows"),
        (
            points_table().rename(columns={"lon": "easting"}),
            {"heads": "california-plants"},
            "decimalLongitude",
        ),
        (points_table().assign(lon=10.0), {"heads": "california-plants"}, "none of"),
        (points_table(), {}, "neither heads nor species"),
        (points_table().assign(**{POPPY: 1}), {"species": POPPY}, "Rename that column"),
        (points_table(), {"species": "Nobody"}, "Nobody"),
        (gpd.GeoDataFrame(points_table()), {"species": POPPY}, "CRS"),
    ],
)
def test_predict_refuses_in_three_parts(table, options, words):
    with pytest.raises(RecordsError, match=words) as caught:
        geomap.predict(table, **options)
    assert caught.value.change


def test_open_finds_the_bundle_heads_and_fields(fine, bundle):
    field, heads, folder = fine
    catalog = geomap.open()
    assert isinstance(catalog, Catalog)
    assert len(catalog.species) == len(catalog.entries()) == 7
    row = catalog.species.set_index("scientificName").loc[WRENTIT]
    assert (row["group"], row["auc"]) == (
        "north-america-birds",
        catalog.find_entry("wrentit").scores["auc"].value,
    )
    assert geomap.open("california-plants").name == "california-plants"
    assert geomap.open("california").grid.name == "california"
    assert geomap.open(folder).hash == heads.hash
    assert geomap.open(str(field.path)).path == field.path
    assert geomap.open(bundle).groups == catalog.groups
    with pytest.raises(HeadsError, match="california-plants"):
        geomap.open("california-plant")


def test_what_is_opened_shows_itself_as_escaped_html(fine):
    field, _, _ = fine
    catalog = geomap.open()
    assert "north-america-birds" in catalog._repr_html_()
    heads = catalog.heads("california-plants")
    assert POPPY in heads._repr_html_()
    assert "EPSG:3310" in open_field(field.path)._repr_html_()
    assert repr(catalog).endswith("7 entries in california-plants, north-america-birds, world-birds>")
    assert repr(heads) == f"<SpeciesHeads {heads.name}: {heads.meaning} of {len(heads)} species>"
    assert repr(field).startswith("<EmbeddingField ") and len(repr(field)) < 200
    evil = SpeciesHeads(
        "<script>", "suitability", "e", heads.adapter, heads.weights, heads.bias, heads.calibration,
        heads.species.assign(vernacularName="<b>x</b>"), {"data": {"credit": "<i>"}},
    )  # fmt: skip
    shown = evil._repr_html_()
    assert not re.search("<script>|<b>x|<i>", shown)
    assert "&lt;script&gt;" in shown


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_geomap_loads_nothing_else():
    code = "import sys; before = set(sys.modules); import geomap; print(*(set(sys.modules) - before))"
    mine = set(python(code))
    assert "geomap" in mine
    heavy = {
        "numpy",
        "pandas",
        "torch",
        "rasterio",
        "xarray",
        "dask",
        "typer",
        "matplotlib",
        "geopandas",
        "zarr",
    }
    assert not mine & heavy
    assert [name for name in mine if name.startswith("geomap")] == ["geomap"]


def test_looking_at_a_map_or_the_bundle_loads_neither_torch_nor_a_cluster():
    functions = "geomap.render, geomap.fit, geomap.predict, geomap.plot, geomap.summary"
    code = f"import sys, geomap; geomap.open().species; {functions}; print(*sys.modules)"
    assert not {"torch", "distributed"} & set(python(code))


@pytest.mark.parametrize("name", ["fit", "predict", "render"])
def test_commands_are_modules_that_can_be_called(name):
    module = getattr(geomap, name)
    assert inspect.ismodule(module)
    assert module is sys.modules[f"geomap.{name}"]
    assert callable(module)
    assert callable(module.main)
    assert inspect.signature(module) == inspect.signature(getattr(api, name))
    text = pydoc.render_doc(module, renderer=pydoc.plaintext)
    assert f"geomap.{name}(" in text
    assert inspect.getdoc(getattr(api, name)).splitlines()[0] in text


@pytest.mark.parametrize(
    "before", ["import geomap", "import geomap, geomap.predict", "from geomap import predict"]
)
def test_a_command_is_called_whether_or_not_it_was_imported(before):
    code = (
        f"{before}\nimport geomap\ntry: geomap.predict(None)\nexcept geomap.GeomapError as e: print(e.found)"
    )
    assert " ".join(python(code)) == "neither heads nor species"


def test_names_are_listed_and_unknown_ones_are_no_attributes():
    assert set(geomap.__all__) <= set(dir(geomap))
    assert all(getattr(geomap, name) is not None for name in geomap.__all__)
    assert fit_module is geomap.fit
    with pytest.raises(AttributeError, match="renderr"):
        geomap.renderr  # noqa: B018
