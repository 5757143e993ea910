"""Executes the notebooks of notebooks/ and writes copies with outputs to docs/tutorials, which git ignores.

    python docs/run_notebooks.py                    # all of them
    python docs/run_notebooks.py 01_first_map       # this one

Each runs in an empty folder of its own, which goes when it is done. A copy appears whole or not at all; a
notebook with an error leaves what was there. Widgets do not live on a page without a kernel: the copies keep
what else an output says. Exit codes: 0 all ran, 1 a cell failed, 2 there is no such notebook.
"""

from __future__ import annotations

import os
import re
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellExecutionError, DeadKernelError
from rich.console import Console
from traitlets.config import Config

from geomap.cli import run
from geomap.errors import GeomapError

ROOT = Path(__file__).parents[1]
LONGEST = 180.0  # seconds that a notebook may take
PATIENCE = 1800  # seconds after which a cell counts as hanging
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
SETTINGS = Config(
    {"KernelManager": {"transport_encryption": "auto"}}
)  # other users of the machine hear nothing
WIDGET = "application/vnd.jupyter.widget-view+json"

app = typer.Typer(add_completion=False)


class NotebookError(GeomapError, ValueError):
    """A notebook that does not exist."""


class CellError(Exception):
    """A cell that failed; its text says which, and why."""


@app.command()
def main(
    names: Annotated[list[str] | None, typer.Argument(help="Names of notebooks. Default: all.")] = None,
    notebooks: Annotated[Path, typer.Option(help="Folder of the notebooks.")] = ROOT / "notebooks",
    out: Annotated[Path, typer.Option(help="Folder of the executed copies.")] = ROOT / "docs" / "tutorials",
) -> None:
    """Execute notebooks, and say how long each took."""
    console = Console(highlight=False, soft_wrap=True)
    failed, total = [], 0.0
    for path in find(names, notebooks):
        console.print(f"{path.stem} ...")
        began, busy = time.perf_counter(), processor_seconds()
        try:
            executed = execute(path)
        except CellError as error:
            failed.append(path.stem)
            console.print(f"{path.stem} failed in {error}", markup=False)
        else:
            write(executed, out / path.name)
        seconds, busy = time.perf_counter() - began, processor_seconds() - busy
        total += seconds
        console.print(f"{path.stem}: {seconds:.0f} s, {busy:.0f} s of processor time")
        if seconds > LONGEST:
            console.print(f"Warning: {path.stem} took {seconds:.0f} s, more than {LONGEST:.0f}", style="bold")
    console.print(f"Total: {total:.0f} s")
    if failed:
        console.print(f"Failed: {', '.join(failed)}")
        raise typer.Exit(1)


def find(names: list[str] | None, folder: Path) -> list[Path]:
    """The notebooks of these names; all, in their order, if None.

    Raises:
        NotebookError: There is none of that name, or none at all.
    """
    known = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    chosen = [name.removesuffix(".ipynb") for name in names or known]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        found = f"no {', '.join(unknown) or 'notebook'} in {folder}"
        raise NotebookError("cannot execute the notebooks", found, f"Choose of: {', '.join(known) or '-'}")
    return [known[name] for name in chosen]


def execute(path: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of its cells, run from top to bottom in a new kernel and an empty folder.

    Raises:
        CellError: A cell failed, took too long, or the kernel died.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix=f"{path.stem}-") as folder:
        client = NotebookClient(
            notebook, timeout=PATIENCE, record_timing=False, store_widget_state=False,
            kernel_name="python3", resources={"metadata": {"path": folder}}, config=SETTINGS,
        )  # fmt: skip
        at = "the kernel, which did not start"

        def begin(cell: nbformat.NotebookNode, cell_index: int) -> None:
            nonlocal at
            at = f"cell {cell_index + 1} ({cell.id})"

        client.on_cell_execute = begin
        try:
            client.execute()
        except (CellControlSignal, DeadKernelError, CellExecutionError) as error:
            raise CellError(f"{at}: {COLOURS.sub('', str(error))}") from None
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    return notebook


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        nbformat.write(notebook, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def processor_seconds() -> float:
    """Processor time of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(run(app, None))
