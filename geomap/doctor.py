"""Check that this machine, the installation and the shipped bundle are in order.

    python -m geomap.doctor
    python -m geomap.doctor --json

Exit code 0 when nothing is wrong (warnings are no fault), 1 when something is.
"""

from __future__ import annotations

import json
import locale
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as Speed
from rich.table import Table
from rich.text import Text

from geomap import checkup
from geomap.bundle_check import Advance, check_bundle, field_files
from geomap.catalog import bundle_path
from geomap.checkup import Finding, guarded, worst
from geomap.cli import run
from geomap.report import print_json

STYLES = {"ok": "green", "warning": "yellow", "wrong": "bold red"}
CHILD_SECONDS = 300
# In a process of its own: a build of torch that this processor cannot run ends its process.
TORCH = """
import json, sys
import torch
devices = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
said = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": devices}
from train.encoders.pair import load_encoders
from train.errors import ThreePartError
try:
    said["encoder_hash"] = load_encoders(sys.argv[1]).hash
except (ThreePartError, OSError) as error:
    said["encoder_error"] = str(error)
print(json.dumps(said))
"""

EPILOG = """
Examples:

    geomap doctor
    geomap doctor --json | jq '.checks[] | select(.state != "ok")'

Exit code 0: nothing is wrong, though there may be warnings. 1: something is wrong.
"""

app = typer.Typer(add_completion=False)


@app.command(epilog=EPILOG)
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: state, checks.")] = False,
) -> None:
    """Check that this machine, the installation and the bundle are in order.

    Looks at the versions of Python and packages, torch and the GPU, GDAL and PROJ, disk and memory, every
    file of the shipped bundle, the web page and the locale. Nothing is changed.
    """
    with bundle_bar(bundle_path()) as advance:
        findings = examine(bundle_path(), advance)
    if as_json:
        told = {"state": worst(findings), "checks": [asdict(finding) for finding in findings]}
        print_json(told)
    else:
        console = Console()
        console.print(table_of(findings))
        console.print(summary(findings))
    if worst(findings) == "wrong":
        raise typer.Exit(1)


def examine(bundle: Path, advance: Advance) -> list[Finding]:
    """Every check, on this machine.

    Args:
        bundle: Folder of the bundle.
        advance: Told the bytes of each file of the bundle that was compared.
    """
    facts = torch_in_a_child(bundle / "encoders")
    findings = guarded("packages", checkup.INSTALL, installation)
    findings += checkup.torch_facts(facts, shutil.which("nvidia-smi"))
    findings += guarded("PROJ", checkup.INSTALL, checkup.projection)
    findings += guarded("GDAL", checkup.INSTALL, checkup.written_and_read)
    for what, folder in places().items():
        look = partial(disk, what, folder)
        findings += guarded(f"disk, {what}", "Choose a folder that can be read.", look)
    findings.append(checkup.memory(memory_here()))
    findings += check_bundle(bundle, facts, advance)
    findings += checkup.page(static_folder(), node_version())
    findings.append(checkup.characters(encodings()))
    return findings


def installation() -> list[Finding]:
    """Python and packages against the bounds of the installed distribution."""
    try:
        ours = distribution("geomap")
    except PackageNotFoundError:
        return [Finding("geomap", "wrong", "it is not installed", "pip install -e .")]
    python = checkup.python_version(sys.version_info[:3], ours.metadata["Requires-Python"])
    found = checkup.packages(ours.requires or [], _version_of)
    return [Finding("geomap", "ok", ours.version), python, *found]


def torch_in_a_child(encoders: Path) -> dict[str, Any]:
    """What a child process says of torch and of the encoders in a folder.

    Returns:
        version, cuda, devices, and encoder_hash or encoder_error; error alone where torch cannot be loaded.
    """
    command = [sys.executable, "-c", TORCH, str(encoders)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"loading torch takes longer than {CHILD_SECONDS} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
        return {"error": said[-1]}
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def places() -> dict[str, Path]:
    """Where geomap writes: what for -> folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return {"here": Path.cwd(), "cache": cache / "geomap", "temporary": Path(tempfile.gettempdir())}


def disk(what: str, folder: Path) -> list[Finding]:
    """Free disk in a folder, or in the nearest one above it that exists; whether it can be written."""
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not os.access(there, os.W_OK):
        change = "Allow yourself to write there, or choose another folder."
        return [Finding(f"disk, {what}", "warning", f"{there} cannot be written", change)]
    return [checkup.room(what, folder, shutil.disk_usage(there).free)]


def memory_here() -> int | None:
    """Bytes of memory that this process may still take; None where the system does not tell."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    group = Path("/sys/fs/cgroup")
    pairs = [(group / "memory.max", group / "memory.current")]
    limits = [(most.read_text(), used.read_text()) for most, used in pairs if most.is_file()]
    return checkup.memory_available(meminfo.read_text(), limits)


def static_folder() -> Path | None:
    """Where the built web page lies; None where the tile server is not installed."""
    spec = find_spec("tiles")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], "static")


def node_version() -> str | None:
    """What `node --version` says; None without Node.js and npm."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return None
    done = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() or None


def encodings() -> dict[str, str]:
    """Place -> encoding of text there."""
    return {
        "files": locale.getpreferredencoding(False),
        "names of files": sys.getfilesystemencoding(),
        "output": sys.stdout.encoding or "utf-8",
    }


@contextmanager
def bundle_bar(bundle: Path) -> Iterator[Advance]:
    """A bar on stderr over the bytes of a bundle's fields, with rate and time left; gone when done."""
    total = sum(path.stat().st_size for path in field_files(bundle) if path.is_file())
    columns = (TextColumn("bundle"), BarColumn(), DownloadColumn(), Speed(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("bundle", total=total or None)
        yield lambda size: bar.advance(task, size)


def table_of(findings: Iterable[Finding]) -> Table:
    """One row a finding."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("check", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("what to do", overflow="fold")
    for each in findings:
        state = Text(each.state, style=STYLES[each.state])
        table.add_row(Text(each.check), state, Text(each.found), Text(each.change))
    return table


def summary(findings: Sequence[Finding]) -> str:
    """One line: how many of which state."""
    counts = {state: sum(each.state == state for each in findings) for state in checkup.STATES}
    return ", ".join(f"{state}: {count}" for state, count in counts.items())


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    return run(app, argv)


if __name__ == "__main__":
    sys.exit(main())
