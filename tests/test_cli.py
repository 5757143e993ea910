"""Exit codes and messages of every command, in process and through the installed console script."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.main import get_command

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


@pytest.mark.parametrize("name", sorted(set(cli.COMMANDS) - set(cli.PROGRAMS)))
def test_every_command_has_help_with_options_explained(name, capsys):
    module = importlib.import_module(cli.COMMANDS[name][0])
    assert cli.main([name, "--help"]) == 0
    by_script = capsys.readouterr().out
    assert f"Usage: geomap {name}" in by_script
    assert module.main(["--help"]) == 0
    assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(set(cli.COMMANDS) - set(cli.PROGRAMS)))
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


def test_the_overview_is_a_manual_page():
    said = cli.overview()
    for part in ("Commands:", "Options:", "Examples:", "Exit codes:", "Environment:"):
        assert f"\n{part}\n" in said
    for code in ("0 ", "1 ", "2 ", "130 "):
        assert f"\n  {code}" in said
    assert max(map(len, said.splitlines())) <= 110


def test_commands_in_the_examples_exist():
    said = re.findall(r"geomap (\w+)", cli.MANUAL.split("Examples:")[1].split("Exit codes:")[0])
    assert said
    assert set(said) <= set(cli.COMMANDS)


@pytest.mark.parametrize(
    "name", ["render", "fit", "predict", "species", "records", "embed", "chips", "serve", "doctor"]
)
def test_help_of_a_command_ends_with_examples_that_it_understands(name):
    module = importlib.import_module(cli.COMMANDS[name][0])
    command = get_command(module.app)
    block = command.epilog.split("Examples:")[1]
    lines = [line.strip() for line in block.splitlines() if line.startswith("    ")]
    assert lines
    for line in lines:
        assert len(line) <= 76, "wrapped in a terminal of 80 columns"
        words = shlex.split(line.split("|")[0])
        assert words[:2] == ["geomap", name] or words[1:3] == ["geomap", name]
        command.make_context(name, words[words.index(name) + 1 :])  # refuses an option that does not exist


def run_script(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "geomap", *args],
        capture_output=True, text=True, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip


def completed(line: str) -> list[str]:
    """What bash is told may stand for the last word of a line."""
    words = line.split(" ")
    done = run_script(
        COMP_WORDS="\n".join(words), COMP_CWORD=str(len(words) - 1), _GEOMAP_COMPLETE="complete_bash"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_completion_of_commands_options_and_values():
    assert completed("geomap ") == list(cli.COMMANDS)
    assert completed("geomap re") == ["render", "records"]
    assert {"--version", "--help", "--install-completion"} <= set(completed("geomap --"))
    assert completed("geomap species --se") == ["--search"]
    assert completed("geomap serve --wor") == ["--workers"]
    assert completed("geomap records --obscured ") == ["keep", "drop"]


def test_completion_of_zsh_and_fish_brings_help():
    asked = {"_TYPER_COMPLETE_ARGS": "geomap doc", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    zsh = run_script(_GEOMAP_COMPLETE="complete_zsh", **asked).stdout
    assert '"doctor":"Check that this machine' in zsh
    fish = run_script(_GEOMAP_COMPLETE="complete_fish", **asked).stdout
    assert fish.startswith("doctor\tCheck that this machine")


def test_completion_of_a_command_loads_none():
    code = (
        "import sys, geomap.cli; code = geomap.cli.main([]);"
        "sys.exit(code or bool({'torch', 'dask', 'rasterio', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    asked = {"COMP_WORDS": "geomap\nre", "COMP_CWORD": "1", "_GEOMAP_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **asked}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["render", "records"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_show_completion_prints_a_script_that_asks_geomap(shell, capsys):
    assert cli.main(["--show-completion", shell]) == 0
    assert f"_GEOMAP_COMPLETE=complete_{shell}" in capsys.readouterr().out


def test_bash_itself_completes_with_the_installed_script(tmp_path):
    done = run_script("--install-completion", "bash", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    script = tmp_path / ".bash_completions" / "geomap.sh"
    assert str(script) in done.stdout
    assert str(script) in (tmp_path / ".bashrc").read_text()
    program = Path(sys.executable).with_name("geomap")
    ask = (
        f"source {script}; COMP_WORDS=(geomap do); COMP_CWORD=1;"
        f" _geomap_completion {program}; echo ${{COMPREPLY[@]}}"
    )
    by_bash = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, timeout=60)
    assert by_bash.stdout.split() == ["doctor"], by_bash.stderr


def test_completion_takes_the_shell_of_the_user(tmp_path):
    done = run_script("--install-completion", HOME=str(tmp_path), SHELL="/usr/bin/fish")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".config" / "fish" / "completions" / "geomap.fish").is_file()


@pytest.mark.parametrize("args", [["csh"], [], ["bash", "zsh"]])
def test_completion_refuses_other_shells(args, monkeypatch, capsys):
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert cli.main(["--install-completion", *args]) == 2
    assert "Change: Give one of: bash, zsh, fish." in capsys.readouterr().err


def test_completion_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / ".bashrc").mkdir()
    done = run_script("--install-completion", "bash", HOME=str(tmp_path))
    assert done.returncode == 2
    assert lines_of(done.stderr)[0].startswith("Error: cannot use")


def test_serve_runs_the_tile_server_in_place_of_this_process():
    done = run_script("serve", "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: python -m tiles" in done.stdout
    refused = run_script("serve", "--port", "70000")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


def test_colours_are_off_where_the_output_is_no_terminal():
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    for args in (["--help"], ["species", "--search", "wrentit"], ["species", "--help"], ["rendr"]):
        done = subprocess.run(
            [sys.executable, "-m", "geomap", *args],
            capture_output=True, text=True, timeout=60, env={**environment, "TERM": "xterm-256color"},
        )  # fmt: skip
        assert done.stdout + done.stderr
        assert "\x1b" not in done.stdout + done.stderr


def test_reports_as_json(tmp_path, capsys):
    table = tmp_path / "records.csv"
    rows = ("scientificName,decimalLongitude,decimalLatitude", "Chamaea fasciata,-121.1234,38.4321",
            "Chamaea fasciata,-122.2345,99.1")  # fmt: skip
    table.write_text("\n".join(rows))
    assert cli.main(["records", str(table), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows_in"], told["rows_kept"]) == (2, 1)
    assert sum(told["dropped"].values()) == 1
    assert cli.main(["species", "--search", "wrentit", "--json"]) == 0
    assert {each["scientificName"] for each in json.loads(capsys.readouterr().out)} == {"Chamaea fasciata"}
