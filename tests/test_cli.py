"""Exit codes and messages of every command, in process and through the installed console script."""

from __future__ import annotations

import errno
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from geomap import cli
from geomap.errors import GridError, OutputError


def app_of(function):
    app = typer.Typer()
    app.command()(function)
    return app


def raising(error):
    def command() -> None:
        raise error

    return app_of(command)


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_done_is_zero_and_silent(capsys):
    seen = []

    def command(size: int = 3) -> None:
        seen.append(size)

    assert cli.run(app_of(command), ["--size", "7"]) == 0
    assert seen == [7]
    assert capsys.readouterr() == ("", "")


def test_refusal_is_three_lines_on_stderr_and_two(capsys):
    error = GridError("cannot make the grid", "resolution -5", "Give a resolution above zero.")
    assert cli.run(raising(error), []) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert lines_of(err) == [
        "Error: cannot make the grid",
        "Found: resolution -5",
        "Change: Give a resolution above zero.",
    ]


def test_refusal_prints_brackets_and_long_text_as_they_are(capsys):
    found = "bbox [1, 2] [bold]" + "x" * 300
    cli.run(raising(GridError("cannot make the grid", found, "Change it.")), [])
    assert f"Found: {found}" in capsys.readouterr().err.splitlines()


def test_output_error_is_no_system_error(capsys):
    assert cli.run(raising(OutputError("cannot write", "it exists", "Add --overwrite.")), []) == 2
    assert "Change: Add --overwrite." in capsys.readouterr().err


@pytest.mark.parametrize("code", sorted(cli.DISK_ERRORS))
def test_disk_errors_name_the_place_and_what_helps(code, capsys):
    assert cli.run(raising(OSError(code, os.strerror(code), "maps/a.tif")), []) == 2
    assert lines_of(capsys.readouterr().err) == [
        "Error: cannot use maps/a.tif",
        f"Found: {os.strerror(code)}",
        f"Change: {cli.DISK_ERRORS[code]}",
    ]


def test_full_disk_in_truth(capsys):
    def command() -> None:
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")

    assert cli.run(app_of(command), []) == 2
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err


def test_faults_of_ours_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(raising(ZeroDivisionError()), [])
    with pytest.raises(ConnectionResetError):
        cli.run(raising(ConnectionResetError(errno.ECONNRESET, "reset")), [])


@pytest.mark.parametrize(
    "argv, found",
    [
        (["--sise", "3"], "No such option: --sise"),
        (["--size", "three"], "valid integer"),
        (["--size", "3", "more"], "unexpected extra argument"),
        ([], "Missing option '--size'"),
    ],
)
def test_usage_errors_are_refusals(argv, found, capsys):
    def command(size: int = typer.Option(...)) -> None:
        raise AssertionError("must not run")

    assert cli.run(app_of(command), argv, prog="geomap thing") == 2
    first, second, third = lines_of(capsys.readouterr().err)
    assert first == "Error: cannot run geomap thing"
    assert found in second
    assert third == "Change: `geomap thing --help` lists what it takes."


def test_ctrl_c_is_130(capsys):
    assert cli.run(raising(KeyboardInterrupt()), []) == 130
    assert lines_of(capsys.readouterr().err) == ["Stopped."]


def test_exit_codes_of_a_command_are_kept():
    assert cli.run(raising(typer.Exit(3)), []) == 3


def test_help_goes_to_stdout(capsys):
    assert cli.main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name, (_, line) in cli.COMMANDS.items():
        assert name in out
        assert line in out


def test_help_keeps_units_in_brackets(capsys):
    def command(size: float = typer.Option(3.0, help="Side of a cell [m].")) -> None:
        """Measure [km2]."""

    assert cli.run(app_of(command), ["--help"], prog="geomap thing") == 0
    said = capsys.readouterr().out
    assert "Measure [km2]." in said
    assert "Side of a cell [m]." in said


def test_without_a_command_the_help_is_an_error(capsys):
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: geomap COMMAND" in err


def test_unknown_command_suggests_the_nearest(capsys):
    assert cli.main(["rendr"]) == 2
    assert "Change: Did you mean `geomap render`?" in capsys.readouterr().err
    assert cli.main(["xyzzy"]) == 2
    assert "Choose one of: render, species," in capsys.readouterr().err


def test_version_is_that_of_the_distribution(capsys, repository):
    assert cli.main(["--version"]) == 0
    said = capsys.readouterr().out.split()[1]
    assert f'version = "{said}"' in (repository / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_with_options_explained(name, capsys):
    module = importlib.import_module(cli.COMMANDS[name][0])
    assert cli.main([name, "--help"]) == 0
    by_script = capsys.readouterr().out
    assert f"Usage: geomap {name}" in by_script
    assert module.main(["--help"]) == 0
    assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_refuses_an_unknown_option(name, capsys):
    assert cli.main([name, "--no-such-option"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_help_of_the_script_loads_no_command():
    code = (
        "import sys, geomap.cli; geomap.cli.main(['--help']);"
        "sys.exit(bool({'torch', 'dask', 'rasterio', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_module_and_console_script_are_the_same():
    script = Path(sys.executable).with_name("geomap")
    by_script = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=60)
    by_module = subprocess.run(
        [sys.executable, "-m", "geomap", "--help"], capture_output=True, text=True, timeout=60
    )
    assert by_script.returncode == by_module.returncode == 0
    assert by_script.stdout == by_module.stdout


def test_ctrl_c_in_a_process_leaves_no_traceback(tmp_path):
    program = tmp_path / "waits.py"
    program.write_text(
        "import sys, time, typer\n"
        "from geomap.cli import run\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def wait() -> None:\n"
        "    print('waiting', flush=True)\n"
        "    time.sleep(60)\n"
        "sys.exit(run(app, []))\n"
    )
    child = subprocess.Popen(
        [sys.executable, program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    time.sleep(0.1)  # the line is out a moment before the sleep begins
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert err.strip() == "Stopped."
