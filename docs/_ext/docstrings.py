"""Docstrings and signatures as they stand in the code, made readable for Sphinx.

Docstrings of the project are plain text with `code` in backticks and indented examples, no markup; and
signatures name array types by short aliases. Both are kept as written: Sphinx would read stars and bars as
markup, and would unfold `Floats` to the inside of NumPy.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, ForwardRef, TypeVar

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

PACKAGES = ("geomap", "train", "tiles")
SECTIONS = re.compile(r"(Args|Arguments|Attributes|Raises|Returns|Yields|Example|Examples|Note|Notes):$")
CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
LIST = re.compile(r"\s*([-*]|\d+\.) ")
NAME = re.compile(r"(?<![\w.'\"])[A-Za-z_]\w*(?:\.\w+)*")


class Raw(str):
    """A text whose repr is itself: how `inspect` prints an annotation as it was written."""

    def __repr__(self) -> str:
        return str(self)


def literal(lines: list[str]) -> list[str]:
    """A docstring whose indented blocks are code, and whose inline marks are plain text."""
    made: list[str] = []
    section = False
    for paragraph in paragraphs(lines):
        first = paragraph[0]
        indent = len(first) - len(first.lstrip())
        if indent == 0:
            section = bool(SECTIONS.match(first))
        stands_in = any(line[:1] == " " for line in paragraph)
        if section:
            made += [first if SECTIONS.match(first) else inline(first), *map(inline, paragraph[1:])]
        elif stands_in and not LIST.match(first):
            made += [".. code-block:: text", "", *("    " + line for line in paragraph)]
        else:
            made += map(inline, paragraph)
        made.append("")
    return made


def paragraphs(lines: Iterable[str]) -> Iterator[list[str]]:
    """Runs of lines between blank lines."""
    run: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            run.append(line.rstrip())
        elif run:
            yield run
            run = []


def inline(line: str) -> str:
    """A line whose `code` is a literal, and whose stars, bars and underscores mean themselves."""
    bullet = LIST.match(line)
    if bullet:
        return bullet[0] + inline(line[bullet.end() :])
    parts = CODE.split(line)
    for n, part in enumerate(parts):
        if n % 2:
            parts[n] = f"``{part.strip('`')}``" + (r"\ " if parts[n + 1][:1].isalnum() else "")
        else:
            parts[n] = re.sub(r"([*|\\])|(?<=\w)(_)(?!\w)", r"\\\1\2", part)
    return "".join(parts)


def qualified(annotation: str, module: ModuleType) -> str:
    """An annotation as written, our own classes in full (`~geomap.grid.Grid`), for links."""

    def full(match: re.Match[str]) -> str:
        found: Any = module
        for part in match[0].split("."):
            found = getattr(found, part, None)
        ours = isinstance(found, type) and found.__module__.split(".")[0] in PACKAGES
        return f"~{found.__module__}.{found.__qualname__}" if ours else match[0]

    return NAME.sub(full, annotation)


def signature_of(thing: Any) -> tuple[str, str] | None:
    """Parameters and return annotation of a function or class as text; None where Python cannot tell."""
    try:
        made = inspect.signature(thing)
    except (TypeError, ValueError):
        return None
    module = sys.modules.get(getattr(thing, "__module__", ""))
    if module is None:
        return None

    def shown(annotation: Any) -> Any:
        if annotation is inspect.Signature.empty:
            return annotation
        if isinstance(annotation, ForwardRef):  # in a NamedTuple
            annotation = annotation.__forward_arg__
        text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        return Raw(qualified(text, module))

    parameters = list(made.parameters.values())
    if (
        inspect.isfunction(thing)
        and parameters
        and parameters[0].name in ("self", "cls")
        and "." in thing.__qualname__
    ):
        parameters = parameters[1:]
    said = [
        each.replace(annotation=shown(each.annotation), default=plain(each.default)) for each in parameters
    ]
    returned = shown(made.return_annotation)
    text = str(made.replace(parameters=said, return_annotation=inspect.Signature.empty))
    return text, "" if inspect.isclass(thing) or returned is inspect.Signature.empty else str(returned)


def plain(default: Any) -> Any:
    """A default that prints as something one could type."""
    if default is inspect.Parameter.empty or isinstance(default, (int, float, str, bytes, tuple, type(None))):
        return default
    return Raw("...")


def _signature(app: Sphinx, what: str, name: str, thing: Any, *_: Any) -> tuple[str, str] | None:
    if what in ("class", "exception", "function", "method"):
        return signature_of(thing)
    return None


def _docstring(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = literal(lines)


def _skip(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any) -> bool | None:
    """Commands stand on the page of commands; of fields of a NamedTuple only Python itself says anything."""
    if (getattr(thing, "__doc__", None) or "").startswith("Alias for field number"):
        return True
    hints = getattr(thing, "__annotations__", {})
    return True if any("typer." in str(hint) for hint in hints.values()) else None


def _links(app: Sphinx, doctree: nodes.document) -> None:
    """Let a name in a signature lead to the class that its module means by it, and to nothing else.

    Sphinx would take any object that ends in the name: `bytes` would lead to an attribute of that name.
    """
    for node in list(doctree.findall(addnodes.pending_xref)):
        if node.get("refdomain") != "py" or node.get("refexplicit"):
            continue
        target = str(node["reftarget"])
        if target.split(".")[0] not in PACKAGES:
            found: Any = sys.modules.get(node.get("py:module") or "")
            for part in target.split("."):
                found = getattr(found, part, None)
            ours = isinstance(found, type) and found.__module__.split(".")[0] in PACKAGES
            target = f"{found.__module__}.{found.__qualname__}" if ours else ""
        module, _, last = target.rpartition(".")
        variable = isinstance(getattr(sys.modules.get(module), last, None), TypeVar)
        if not target or variable or any(part.startswith("_") for part in target.split(".")):
            node.replace_self(node.children)
        else:
            node["reftarget"], node["refspecific"] = target, False


def setup(app: Sphinx) -> dict[str, Any]:
    """Stand before napoleon, which reads the sections of Google docstrings."""
    app.connect("autodoc-process-docstring", _docstring, priority=400)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    app.connect("doctree-read", _links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
