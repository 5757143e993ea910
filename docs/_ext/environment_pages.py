"""Environment variables: those that the code reads, and the settings of the tile server with their limits."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator

from error_pages import trees
from md_text import code, plain, table

from tiles.settings import PREFIX, Settings

NAME = re.compile(r"[A-Z_][A-Z0-9_]+")


def read_variables() -> dict[str, set[str]]:
    """Every variable that the code reads or sets by name, with the modules that do."""
    found: dict[str, set[str]] = {}
    for module, tree in trees().items():
        for key in _keys(tree, _aliases(tree)):
            name = getattr(key, "value", None)
            if isinstance(key, ast.Name):  # a constant, of this module or of another
                name = getattr(importlib.import_module(module), key.id, None)
            if isinstance(name, str) and NAME.fullmatch(name) and not name.startswith(PREFIX):
                found.setdefault(name, set()).add(module)
    return dict(sorted(found.items()))


def _aliases(tree: ast.Module) -> set[str]:
    """Names by which a module calls the variables of the process."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    given = [target for node in nodes if _is_environ(node.value, {"environ"}) for target in node.targets]
    return {"environ", *(target.id for target in given if isinstance(target, ast.Name))}


def _keys(tree: ast.Module, known: set[str]) -> Iterator[ast.expr]:
    """What mappings called environ are asked for: environ["X"], environ.get("X"), "X" in environ."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and _is_environ(node.value, known):
            yield node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if node.func.attr in ("get", "pop") and _is_environ(node.func.value, known):
                yield node.args[0]
        elif isinstance(node, ast.Compare) and any(_is_environ(each, known) for each in node.comparators):
            yield node.left


def _is_environ(node: ast.expr, known: set[str]) -> bool:
    if isinstance(node, ast.IfExp):
        return _is_environ(node.body, known) or _is_environ(node.orelse, known)
    return getattr(node, "attr", getattr(node, "id", "")) in known


def text() -> str:
    """Where the code reads each variable."""
    rows = [[code(name), ", ".join(map(code, sorted(modules)))] for name, modules in read_variables().items()]
    return table(("variable", "read by"), rows)


def settings() -> dict[str, str]:
    """Settings of the tile server and what each is, by variable."""
    return {
        PREFIX + name.upper(): plain(field.description or "") for name, field in Settings.model_fields.items()
    }
