"""What importing a module may load. import-linter reads the source; this asks the interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

READ_BY_TILES = ["catalog", "colour", "errors", "field", "heads", "names"]
HEAVY = ["distributed", "timm", "torch"]
GEOSPATIAL = ["dask", "fastapi", "geopandas", "odc", "rasterio", "rioxarray", "xarray", "zarr"]


def loaded(statement: str, among: list[str]) -> set[str]:
    code = f"import sys\n{statement}\nprint(*(set({among}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("name", READ_BY_TILES)
def test_what_the_tile_server_reads_through_loads_neither_torch_nor_a_cluster(name):
    assert loaded(f"import geomap.{name}", HEAVY) == set()


def test_the_trainer_knows_tensors_only():
    walk = "import importlib, pkgutil, train\n" + (
        "for module in pkgutil.walk_packages(train.__path__, 'train.'): importlib.import_module(module.name)"
    )
    assert loaded(walk, GEOSPATIAL) == set()


def test_the_oracle_sees_what_is_loaded():
    assert loaded("import torch", HEAVY) == {"torch"}
