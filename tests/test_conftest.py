"""The walls around every test hold: no network but this machine, no settings from the shell."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings

import pytest
import rasterio
from pytest_socket import SocketConnectBlockedError
from rasterio.errors import RasterioIOError

ELSEWHERE = "192.0.2.1"  # TEST-NET-1, RFC 5737: leads nowhere


def test_sockets_reach_this_machine_only():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()[:2], timeout=5).close()
    # pytest-socket warns before it raises, and warnings are errors here.
    with pytest.raises((SocketConnectBlockedError, UserWarning), match=ELSEWHERE):
        socket.create_connection((ELSEWHERE, 80), timeout=5)


def test_gdal_reaches_this_machine_only():
    with pytest.raises(RasterioIOError):
        rasterio.open(f"/vsicurl/http://{ELSEWHERE}/map.tif")


def test_children_reach_this_machine_only():
    code = f"import urllib.request; urllib.request.urlopen('http://{ELSEWHERE}/', timeout=20)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert "Connection refused" in done.stderr


def test_no_setting_of_the_shell_reaches_a_test():
    leaked = {name for name in os.environ if name.startswith(("GEOMAP_", "AWS_", "DASK_", "STAC_"))}
    assert leaked <= {"GEOMAP_SHARED"}


def test_warnings_are_errors():
    with pytest.raises(UserWarning, match="careful"):
        warnings.warn("careful", UserWarning, stacklevel=1)
