"""The reference of errors: every class, its exit code and HTTP status, and every message of the code."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from md_text import code, plain, table

from tiles.errors import STATUS
from train.errors import ThreePartError

ROOT = Path(__file__).parents[2]
PACKAGES = ("geomap", "train", "tiles")
EXIT_CODE = (
    2  # of every command that ends with a ThreePartError: geomap.cli.run, and main of train's commands
)


@dataclass(frozen=True)
class Message:
    """A place in the code that refuses something."""

    error: str
    what: str
    change: str
    module: str


@cache
def trees() -> dict[str, ast.Module]:
    """The syntax tree of every module, by dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            below = path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")
            if not below.startswith("tiles/web/"):
                found[below.replace("/", ".")] = ast.parse(path.read_text("utf-8"))
    return found


@cache
def classes() -> dict[str, type[ThreePartError]]:
    """Every error of three parts, by name, in the order of the tree of classes."""
    for module, tree in trees().items():
        if any(isinstance(node, ast.ClassDef) and node.name.endswith("Error") for node in tree.body):
            importlib.import_module(module)
    found: dict[str, type[ThreePartError]] = {}

    def walk(cls: type[ThreePartError]) -> None:
        if cls.__module__.split(".")[0] in PACKAGES:
            assert cls.__name__ not in found, f"two errors are called {cls.__name__}"
            found[cls.__name__] = cls
        for each in sorted(cls.__subclasses__(), key=lambda each: each.__name__):
            walk(each)

    walk(ThreePartError)
    return found


def status_of(cls: type[ThreePartError]) -> int:
    """The HTTP status that the tile server answers with: the closest base class decides."""
    return next(STATUS[each] for each in cls.__mro__ if each in STATUS)


def text(name: str) -> str:
    """What the code says of one class, for below its heading.

    Raises:
        KeyError: There is no such class.
    """
    cls = classes()[name]
    bases = [base.__name__ for base in cls.__mro__[1:] if base.__module__ == "builtins"]
    python = next(base for base in bases if base not in ("object",))
    above = [base.__name__ for base in cls.__bases__ if issubclass(base, ThreePartError)]
    said = (inspect.getdoc(cls) or "").split("\n\n")[0]
    modules = sorted({each.module for each in messages_of() if each.error == name})
    rows = [
        ["class", f"{{py:class}}`{cls.__module__}.{name}`"],
        ["is also a", " and a ".join(code(base) for base in [*above, python])],
        ["exit code of a command", str(EXIT_CODE)],
        ["HTTP status of the tile server", str(status_of(cls))],
        ["raised in", ", ".join(map(module_link, modules)) or "its subclasses"],
    ]
    return f"{plain(said)}\n\n" + table(["of this class", ""], rows)


def module_link(module: str) -> str:
    """A module, with a link to its page where it has one."""
    return code(module) if module.endswith("__main__") else f"{{doc}}`{module} <modules/{module}>`"


@cache
def messages_of() -> list[Message]:
    """Every place that makes an error with what it says, in the order of the code."""
    return [found for module, tree in trees().items() for found in _in_tree(module, tree)]


def _in_tree(module: str, tree: ast.Module) -> Iterator[Message]:
    scope: dict[ast.AST, ast.AST] = {}
    for function in ast.walk(tree):  # outer ones first, so that the innermost stays
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            scope |= dict.fromkeys(ast.walk(function), function)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or getattr(node.func, "id", "") not in classes():
            continue
        if len(node.args) == 3 and not any(isinstance(arg, ast.Starred) for arg in node.args):
            known = assigned(tree.body) | assigned(ast.walk(scope.get(node, tree)))
            what, _, change = node.args
            yield Message(ast.unparse(node.func), worded(what, known), worded(change, known), module)


def assigned(nodes: Iterable[ast.AST]) -> dict[str, list[ast.expr]]:
    """Values that names are given in some statements."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, []).append(node.value)
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for each, value in zip(target.elts, node.value.elts, strict=False):
                        if isinstance(each, ast.Name):
                            found.setdefault(each.id, []).append(value)
    return found


def worded(node: ast.expr, known: dict[str, list[ast.expr]]) -> str:
    """The words of a text in the code; what is filled in when it runs is an ellipsis."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = (
            part.value if isinstance(part, ast.Constant) else filled(part, known) for part in node.values
        )
        return "".join(map(str, parts))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return worded(node.left, known) + worded(node.right, known)
    if isinstance(node, ast.IfExp):
        return either(worded(each, known) for each in (node.body, node.orelse))
    if isinstance(node, ast.Name) and node.id in known:
        return either(worded(value, {}) for value in known[node.id])
    return "…"


def filled(part: ast.expr, known: dict[str, list[ast.expr]]) -> str:
    """What an f-string puts in at one place, where that is a text of the code itself."""
    value = part.value if isinstance(part, ast.FormattedValue) else part
    said = worded(value, known) if isinstance(value, ast.Name) else "…"
    return said if "…" not in said and " / " not in said else "…"


def either(said: Iterable[str]) -> str:
    """Several texts, each once."""
    found = list(dict.fromkeys(said))
    return " / ".join(each for each in found if each != "…") or "…"


def messages() -> str:
    """Every message by class: its first line, and what it tells to change."""
    parts = []
    for name in classes():
        said = {(each.what, each.change): each.module for each in messages_of() if each.error == name}
        if said:
            rows = [
                [plain(what), plain(change), code(module)] for (what, change), module in sorted(said.items())
            ]
            parts += [f"## {name}", "", table(["cannot be done", "what to change", "in"], rows)]
    return "\n".join(parts)
