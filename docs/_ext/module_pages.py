"""A page for every module of the three packages, made from its docstrings when the documentation is built.

The pages are written into docs/reference/modules, which git ignores; what is no longer there is removed.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from md_text import plain, table
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
PACKAGES = ("geomap", "train", "tiles")
LEFT_OUT = ("geomap/bundle/", "tiles/web/", "tiles/static/")
ELSEWHERE = {"geomap": "../python"}  # what a page of its own describes


def modules(package: str) -> dict[str, str]:
    """Every module of a package and the first line of its docstring, by dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        below = path.relative_to(ROOT).as_posix()
        if below.startswith(LEFT_OUT) or path.name == "__main__.py":
            continue
        name = below.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        said = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        found[name] = said.split("\n")[0]
    return dict(sorted(found.items()))


def pages() -> dict[str, str]:
    """Markdown of every page, by file name."""
    made = {}
    for package in PACKAGES:
        listed = modules(package)
        rows = [
            [f"{{doc}}`{name} <{ELSEWHERE.get(name, name)}>`", plain(line)] for name, line in listed.items()
        ]
        here = [name for name in listed if name not in ELSEWHERE]
        order = "\n".join(here)
        made[f"{package}-modules.md"] = (
            f"# Modules of {package}\n\n{table(('module', 'what it is'), rows)}\n"
            f"```{{toctree}}\n:hidden:\n\n{order}\n```\n"
        )
        made |= {f"{name}.md": page_of(name) for name in here}
    return made


def page_of(name: str) -> str:
    """The page of one module."""
    return f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :show-inheritance:\n```\n"


def write(folder: Path) -> None:
    """Write all pages into a folder, and remove what is not among them."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for path in folder.glob("*.md"):
        if path.name not in made:
            path.unlink()
    for name, text in made.items():
        path = folder / name
        if not path.exists() or path.read_text("utf-8") != text:  # Sphinx reads what changed
            path.write_text(text, "utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the pages before Sphinx looks for documents."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "reference" / "modules"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
