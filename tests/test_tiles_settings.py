"""Settings of the tile server: variables, options, and refusals in words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tiles.__main__ import main
from tiles.listen import listening
from tiles.settings import PREFIX, Settings, SettingsError, from_environment


def test_variables_are_read_and_options_win(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMAP_TILES_MAPS", f"{tmp_path}, s3://bucket/maps")
    monkeypatch.setenv("GEOMAP_TILES_PORT", "81")
    monkeypatch.setenv("GEOMAP_TILES_BUNDLE", "no")
    monkeypatch.setenv("GEOMAP_TILES_WITHHELD", "a-b,c-d")
    read = from_environment(workers=None)
    assert read.maps == (str(tmp_path), "s3://bucket/maps")
    assert (read.port, read.bundle, read.withheld, read.workers) == (81, False, ("a-b", "c-d"), 1)
    assert from_environment(port=0, maps=(str(tmp_path),)).port == 0
    assert from_environment(maps=(str(tmp_path),)).maps == (str(tmp_path),)


def test_maps_is_the_default_folder_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Settings().maps == ()
    (tmp_path / "maps").mkdir()
    assert Settings().maps == ("maps",)


def test_settings_pass_to_another_process_by_variables(tmp_path, monkeypatch):
    given = Settings(
        maps=(str(tmp_path),), heads="a,b", root_path="/x/y/", cache_dir=tmp_path, log_format="json"
    )
    assert given.root_path == "/x/y"
    for name, value in given.variables().items():
        monkeypatch.setenv(name, value)
    assert from_environment() == given


@pytest.mark.parametrize(
    "name, value, change",
    [
        ("MAPS", "no-such-folder", "Render one"),
        ("PORT", "eighty", "integer"),
        ("PORT", "70000", "65535"),
        ("WORKERS", "0", "greater than or equal to 1"),
        ("ROOT_PATH", "a b", "Prefix of a proxy"),
        ("LOG_FORMAT", "xml", "json"),
        ("BASEMAP", "https://tiles.example/", "{z}/{x}/{y}"),
        ("CACHE_MB", "-5", "greater than or equal to 16"),
        ("BUNDLE", "perhaps", "boolean"),
        ("WORKER", "2", "GEOMAP_TILES_WORKERS"),
    ],
)
def test_what_makes_no_sense_is_refused_in_three_parts(monkeypatch, capsys, name, value, change):
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError) as refusal:
        from_environment()
    assert name in refusal.value.found or value in refusal.value.found
    assert change in refusal.value.change
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "Error" in said
    assert "Traceback" not in said


def test_nothing_to_serve_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOMAP_TILES_BUNDLE", "no")
    with pytest.raises(SettingsError, match="nothing to serve"):
        from_environment()


def test_every_setting_says_what_it_is():
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_refused(capsys, workers):
    (taken,) = listening("127.0.0.1", 0)
    with taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port), "--workers", workers]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_folder_that_cannot_be_served_ends_the_start_with_2(tmp_path, workers):
    (tmp_path / "maps" / "california").mkdir(parents=True)
    (tmp_path / "heads").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tiles", "--port", "0", "--heads", "no-such-group", "--workers", workers],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no-such-group" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_setting_is_in_the_docs_with_its_words():
    page = (Path(__file__).resolve().parents[1] / "docs" / "reference" / "tile-server.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith(f"| `{PREFIX}")]
    told = {row[0].strip("| `"): row[2].removesuffix(" |") for row in rows}
    assert told == {PREFIX + name.upper(): field.description for name, field in Settings.model_fields.items()}
