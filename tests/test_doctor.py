"""What geomap doctor finds on a machine in order, and on one that was broken on purpose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from geomap import checkup, cli, doctor
from geomap.bundle_check import check_bundle, encoder_findings, field_files
from geomap.checkup import Finding
from geomap.errors import OutputError
from geomap.testing_bundle import ENCODER_HASH, make_bundle

ENCODERS = {"encoder_hash": ENCODER_HASH}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("made") / "bundle")


@pytest.fixture
def bundle(made, tmp_path) -> Path:
    """A bundle to break."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def states(findings) -> dict[str, str]:
    return {finding.check: finding.state for finding in findings}


def the_wrong(findings) -> Finding:
    (found,) = (finding for finding in findings if finding.state == "wrong")
    assert found.change
    return found


@pytest.mark.parametrize(
    "version, bounds, fits",
    [
        ("2.13.0+cpu", "<2.14,>=2.6", True),
        ("2.14.0", "<2.14,>=2.6", False),
        ("2.14", "<2.14.0,>=2.6", False),
        ("2.5.1", "<2.14,>=2.6", False),
        ("2.6", ">=2.6.0", True),
        ("10.0", ">=9.9", True),
        ("2026.9.0rc1", ">=2026.9", True),
        ("1.0", "", True),
    ],
)
def test_versions_within_bounds(version, bounds, fits):
    assert checkup.within(version, bounds) is fits


def test_python_too_old():
    assert checkup.python_version((3, 11, 0), ">=3.11").state == "ok"
    old = checkup.python_version((3, 10, 9), ">=3.11")
    assert (old.state, old.found) == ("wrong", "3.10.9, needed >=3.11")


def test_packages_missing_old_and_those_of_extras():
    needed = ["numpy>=2.4", "dask[distributed]>=2026.8", "zarr<4,>=3.1", "uvloop>=0.23; extra == 'serve'",
              "ruff>=0.17; extra == 'dev'"]  # fmt: skip
    there = {"numpy": "2.4.1", "zarr": "4.0.0"}
    *bad, last = checkup.packages(needed, there.get)
    assert [(each.state, each.found) for each in bad] == [
        ("wrong", "dask is missing, needed >=2026.8"),
        ("wrong", "zarr 4.0.0, needed <4,>=3.1"),
        ("warning", "uvloop is missing: the server is slower"),
    ]
    assert bad[1].change == "pip install 'zarr<4,>=3.1'"
    assert (last.state, last.found) == ("ok", "1 within their bounds")


def test_every_requirement_of_the_installed_distribution_is_understood():
    found = doctor.installation()
    assert set(states(found)) == {"geomap", "Python", "packages"}
    assert checkup.worst(found) != "wrong", found


def test_torch_that_cannot_be_loaded_or_used():
    cpu = {"version": "2.13.0+cpu", "cuda": None, "devices": []}
    cuda = {"version": "2.13.0", "cuda": "13.0", "devices": []}
    look = checkup.torch_facts
    assert states(look(cpu, None)) == {"torch": "ok", "GPU": "ok"}
    assert look(cpu, "/usr/bin/nvidia-smi")[1].found.endswith("torch is built for the processor")
    assert look(cuda, "/usr/bin/nvidia-smi")[1].state == "warning"
    assert look({**cuda, "devices": ["H100"]}, "/usr/bin/nvidia-smi")[1] == Finding("GPU", "ok", "H100")
    assert the_wrong(look({"error": "ImportError: no"}, None)).found == "ImportError: no"


@pytest.mark.parametrize(
    "source, said",
    [
        ("raise ImportError('libcudart is missing')", "ImportError: libcudart is missing"),
        ("import os; os.abort()", "the process ended with -6"),
    ],
)
def test_a_broken_torch_is_told_and_does_not_end_the_doctor(source, said, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor.torch_in_a_child(tmp_path / "none") == {"error": said}


def test_torch_and_the_encoders_of_the_bundle_in_a_child(tmp_path, repository):
    facts = doctor.torch_in_a_child(repository / "geomap" / "bundle" / "encoders")
    assert facts["version"].startswith("2.")
    assert len(facts["encoder_hash"]) == 64
    broken = Path(shutil.copytree(repository / "geomap" / "bundle" / "encoders", tmp_path / "encoders"))
    weights = broken / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "encoder_error" in doctor.torch_in_a_child(broken)


def test_places_come_out_where_they_should():
    assert [finding.state for finding in checkup.projection()] == ["ok", "ok"]


def test_a_place_that_comes_out_elsewhere(monkeypatch):
    monkeypatch.setattr(checkup, "PLACE_ALBERS_M", (-130_662.0, 54_799.0))
    assert [finding.state for finding in checkup.projection()] == ["wrong", "wrong"]


def test_proj_data_that_lie_nowhere(tmp_path):
    code = (
        "import json\nfrom dataclasses import asdict\nfrom geomap import checkup\n"
        "found = checkup.guarded('PROJ', 'x', checkup.projection) + "
        "checkup.guarded('GDAL', 'x', checkup.written_and_read)\n"
        "print(json.dumps([asdict(each) for each in found]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PROJ_DATA": str(tmp_path / "nowhere")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {each["check"]: each for each in json.loads(done.stdout)}
    assert found["PROJ (GDAL)"]["state"] == "wrong"
    assert "proj.db" in found["PROJ (GDAL)"]["found"]
    assert "PROJ_DATA" in found["PROJ (GDAL)"]["change"]


def test_a_map_is_written_and_read_and_nothing_is_left(tmp_path):
    (found,) = checkup.written_and_read(tmp_path)
    assert found.state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_map_that_comes_back_changed(monkeypatch):
    import geomap.cog

    def plain(path, strips, spec):
        geomap.cog._write_plain(path, strips, spec)

    monkeypatch.setattr(geomap.cog, "write_cog", plain)
    assert "came back changed" in the_wrong(checkup.written_and_read()).found


@pytest.mark.parametrize("free, state", [(6e9, "ok"), (4e9, "warning"), (1e8, "wrong")])
def test_room_on_disk(free, state, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    (found,) = doctor.disk("cache", tmp_path / "not" / "yet")
    assert (found.check, found.state) == ("disk, cache", state)


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "cannot be written" in doctor.disk("here", tmp_path)[0].found


def test_memory_of_machine_and_control_group():
    meminfo = "MemTotal:  9 kB\nMemAvailable:    4000000 kB\n"
    assert checkup.memory_available(meminfo) == 4_096_000_000
    assert checkup.memory_available(meminfo, [("max\n", "5\n")]) == 4_096_000_000
    assert checkup.memory_available(meminfo, [("3000000000\n", "1000000000\n")]) == 2_000_000_000
    assert checkup.memory_available(meminfo, [("1", "2")]) == 0
    assert checkup.memory_available("nothing known") is None
    assert [checkup.memory(n).state for n in (None, 3 * 10**9, 10**9)] == ["ok", "ok", "warning"]
    assert doctor.memory_here() is not None


def test_web_page_built_or_what_is_missing_to_build_it(tmp_path):
    assert states(checkup.page(tmp_path, "v20.1.0")) == {"web page": "warning", "Node.js": "ok"}
    assert states(checkup.page(tmp_path, "v16.1.0")) == {"web page": "warning", "Node.js": "warning"}
    assert states(checkup.page(tmp_path, None)) == {"web page": "warning", "Node.js": "warning"}
    (tmp_path / "manifest.json").touch()
    assert states(checkup.page(tmp_path, None)) == {"web page": "ok"}
    assert states(checkup.page(None, None)) == {"web page": "wrong"}
    assert doctor.static_folder().parent.name == "tiles"


def test_characters():
    assert checkup.characters({"files": "UTF-8", "output": "utf8"}).state == "ok"
    ascii_only = checkup.characters({"files": "ANSI_X3.4-1968", "output": "utf-8"})
    assert (ascii_only.state, ascii_only.found) == ("warning", "ANSI_X3.4-1968 for files")


def test_a_check_that_cannot_be_made():
    def broken():
        raise ImportError("libgdal.so.36: cannot open")

    def refuses():
        raise OutputError("cannot write", "full", "Free some.")

    assert the_wrong(checkup.guarded("GDAL", "Again.", broken)) == Finding(
        "GDAL", "wrong", "ImportError: libgdal.so.36: cannot open", "Again."
    )
    assert the_wrong(checkup.guarded("GDAL", "Again.", refuses)).change == "Free some."
    with pytest.raises(ZeroDivisionError):
        checkup.guarded("GDAL", "Again.", lambda: [1 // 0])


def test_a_whole_bundle(made):
    sizes = []
    found = check_bundle(made, ENCODERS, sizes.append)
    assert checkup.worst(found) == "ok"
    assert list(states(found)) == [
        "bundle", "index", "field california", "heads california-plants", "heads north-america-birds",
        "heads world-birds", "encoders",
    ]  # fmt: skip
    assert 0 < sum(sizes) < field_files(made)[0].stat().st_size


def test_a_changed_byte_in_a_field(bundle):
    (path,) = field_files(bundle)
    data = bytearray(path.read_bytes())
    place = data.index(b"embedding/c/0/0/0") + 200
    data[place] ^= 1
    path.write_bytes(data)
    found = the_wrong(check_bundle(bundle, ENCODERS, lambda size: None))
    assert found.check == "field california"
    assert "embedding/c/0/0/0" in found.found
    assert "git restore" in found.change


def test_a_field_cut_short(bundle):
    (path,) = field_files(bundle)
    path.write_bytes(path.read_bytes()[:-500])
    assert the_wrong(check_bundle(bundle, ENCODERS, lambda size: None)).check == "field california"


def test_damaged_heads(bundle):
    weights = bundle / "heads" / "world-birds" / "heads.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    found = the_wrong(check_bundle(bundle, ENCODERS, lambda size: None))
    assert found.check == "heads world-birds"


def test_an_index_that_names_more_or_cannot_be_read(bundle):
    (bundle / "index.json").write_text('{"groups": ["world-birds", "world-fungi"]}')
    assert "world-fungi" in the_wrong(check_bundle(bundle, ENCODERS, lambda size: None)).found
    (bundle / "index.json").write_text("{")
    assert the_wrong(check_bundle(bundle, ENCODERS, lambda size: None)).check == "index"
    (bundle / "index.json").write_text("[]")
    assert the_wrong(check_bundle(bundle, ENCODERS, lambda size: None)).check == "index"


def test_a_bundle_without_fields_heads_or_anything(bundle, tmp_path):
    shutil.rmtree(bundle / "fields")
    assert "no fields" in the_wrong(check_bundle(bundle, ENCODERS, lambda size: None)).found
    shutil.rmtree(bundle / "heads")
    found = check_bundle(bundle, ENCODERS, lambda size: None)
    assert [each.found.split(" in ")[0] for each in found if each.state == "wrong"] == [
        "no fields",
        "no heads",
    ]
    assert "no folder" in the_wrong(check_bundle(tmp_path / "none", {}, lambda size: None)).found


def test_encoders_of_another_make(made):
    found = the_wrong(check_bundle(made, {"encoder_hash": "a" * 64}, lambda size: None))
    assert found.check == "encoders"
    assert "aaaaaaaaaaaa" in found.found
    assert "heads world-birds: eeeeeeeeeeee" in found.found
    assert the_wrong(encoder_findings(made / "encoders", {"encoder_error": "no card"}, {})).found == "no card"


def test_worst():
    assert checkup.worst([]) == "ok"
    assert checkup.worst([Finding("a", "warning", ""), Finding("b", "ok", "")]) == "warning"
    assert checkup.worst([Finding("a", "wrong", ""), Finding("b", "warning", "")]) == "wrong"


def test_command_on_the_shipped_bundle_finds_nothing_wrong(capsys):
    assert doctor.main([]) == 0
    out, err = capsys.readouterr()
    assert "wrong: 0" in out
    assert "\x1b" not in out + err


def test_command_says_what_is_wrong_and_ends_with_one(bundle, monkeypatch, capsys):
    monkeypatch.setenv("GEOMAP_BUNDLE", str(bundle))  # it has no encoders
    assert cli.main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "wrong"
    wrong = [each for each in told["checks"] if each["state"] == "wrong"]
    assert [each["check"] for each in wrong] == ["encoders"]
    assert wrong[0]["change"].startswith("Restore the bundle")
