"""The keys of recipes, from the dataclasses that read them: type, default, and the words beside each."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
import tomllib
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from md_text import code, plain, table

from train.data.augment import Augmentation
from train.data.registry import OPENERS, options_of
from train.encoders.location import ENCODINGS
from train.recipe import OBJECTIVES, SHIPPED, DataConfig, Recipe, TrainingConfig
from train.recipe import shipped as names_of_shipped

HEAD = ("key", "takes", "default", "what it is")


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a table of a recipe."""

    path: str
    takes: str
    default: str
    what: str


@cache
def said_of(cls: type) -> dict[str, str]:
    """What the code says beside each field: the string below it, or the comment behind it."""
    lines, _ = inspect.getsourcelines(cls)
    source = textwrap.dedent("".join(lines))
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    rows = source.splitlines()
    found = {}
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        said = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            said = str(after.value.value)
        else:
            comments = [rows[n].partition("  # ")[2] for n in range(node.lineno - 1, node.end_lineno or 0)]
            said = " ".join(each for each in comments if each)
        found[node.target.id] = said
    return found


def keys_of(cls: type, above: str, given: Any = dataclasses.MISSING) -> Iterator[Key]:
    """Keys of a dataclass, those of dataclasses inside it after it.

    Args:
        cls: The dataclass.
        above: Table that the keys stand in.
        given: An instance whose values are the defaults, where it is itself one.
    """
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        path = f"{above}.{field.name}" if above else field.name
        if given is not dataclasses.MISSING:
            default = getattr(given, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = field.default
        hint = hints[field.name]
        inner = next(
            (each for each in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(each)), None
        )
        listed = typing.get_origin(hint) is tuple
        if inner is not None and not listed:
            yield from keys_of(inner, path, default)
            continue
        yield Key(path, takes(hint), toml(default), said_of(cls).get(field.name, ""))


def takes(hint: Any) -> str:
    """A type in the words of TOML."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " ".join(code(toml_text(each)) for each in inner)
    if origin is tuple:
        parts = [each for each in inner if each is not Ellipsis]
        return f"list of {takes(parts[0])}"
    if origin is not None and inner and type(None) in inner:
        return takes(next(each for each in inner if each is not type(None)))
    if origin is not None:
        return "table"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
        getattr(hint, "__name__", ""), "value"
    )


def toml(value: Any) -> str:
    """A default as one would write it; empty where there is none."""
    if value is dataclasses.MISSING:
        return "must be given"
    if value is None or value in ("", {}, ()):
        return ""
    return code(toml_text(value))


def toml_text(value: Any) -> str:
    """A value of Python in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(toml_text, value)) + "]"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)


def rows(keys: Iterator[Key]) -> list[list[str]]:
    """Keys as rows of a table."""
    return [[code(key.path), key.takes, key.default, plain(key.what)] for key in keys]


def text() -> str:
    """The keys that every recipe has: those at the top, `[data]` and `[training]`."""
    top = [key for key in keys_of(Recipe, "") if "." not in key.path and key.path != "model"]
    parts = ["## At the top", "", table(HEAD, rows(iter(top)))]
    parts += ["## [data]", "", table(HEAD, rows(keys_of(DataConfig, "data")))]
    parts += [
        "## [data.augment.VIEW]",
        "",
        "VIEW is `ground` or `aerial`. An empty table takes the defaults of the view.",
        "",
    ]
    parts += [table(HEAD, rows(keys_of(Augmentation, "data.augment.VIEW")))]
    parts += ["## [training]", "", table(HEAD, rows(keys_of(TrainingConfig, "training")))]
    return "\n".join(parts)


def models() -> str:
    """The keys of `[model]` for every objective, and the options of location encodings."""
    parts = []
    for name, (module, config, _) in OBJECTIVES.items():
        cls = getattr(importlib.import_module(module), config)
        parts += [f"## [model] of {name}", "", plain(inspect.getdoc(cls) or ""), ""]
        parts += [table(HEAD, rows(keys_of(cls, "model")))]
    parts += ["## [model.location.options]", "", "By `model.location.kind`:", ""]
    made = []
    for kind, encoding in sorted(ENCODINGS.items()):
        for each in inspect.signature(encoding).parameters.values():
            if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                continue
            bases = (arguments(inspect.getdoc(base) or "") for base in encoding.__mro__)
            documented = next((said for said in bases if each.name in said), {})
            made.append(
                [
                    code(kind),
                    code(each.name),
                    toml(_given(each.default)),
                    plain(documented.get(each.name, "")),
                ]
            )
    parts += [table(("kind", "option", "default", "what it is"), made)]
    return "\n".join(parts)


def data() -> str:
    """Every kind of data with its options."""
    parts = []
    for kind, opener in sorted(OPENERS.items()):
        documented = arguments(docstring_of(opener))
        module = importlib.import_module(opener.__module__)
        parts += [f'### kind = "{kind}"', "", plain((inspect.getdoc(module) or "").split("\n")[0]), ""]
        made = []
        if "path" in inspect.signature(opener).parameters:
            made.append([code("data.path"), "must be given", plain(documented.get("path", ""))])
        for name, default in options_of(kind).items():
            made.append(
                [code(f"data.options.{name}"), toml(_given(default)), plain(documented.get(name, ""))]
            )
        parts += [table(("key", "default", "what it is"), made)]
    return "\n".join(parts)


def docstring_of(opener: Callable[..., Any]) -> str:
    """The docstring of an opener, or of the one that it says it is like."""
    said = inspect.getdoc(opener) or ""
    like = re.search(r"as in `(train\.[\w.]+)\.open`", said)
    return inspect.getdoc(importlib.import_module(like[1]).open) or "" if like else said


def _given(default: Any) -> Any:
    return dataclasses.MISSING if default is inspect.Parameter.empty else default


def arguments(docstring: str) -> dict[str, str]:
    """What a Google docstring says of each argument."""
    found: dict[str, str] = {}
    block = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)*)", docstring, re.MULTILINE)
    name = ""
    for line in block[1].splitlines() if block else ():
        start = re.match(r" {4}([\w, *]+?)(?: \([^)]*\))?: (.*)", line)
        if start:
            name = start[1].lstrip("*")
            for each in name.split(", "):
                found[each.lstrip("*")] = start[2]
        elif name and line.strip():
            for each in name.split(", "):
                found[each.lstrip("*")] += " " + line.strip()
    return found


def shipped() -> str:
    """The recipes of train/recipes, each with its own words."""
    made = []
    for name in names_of_shipped():
        recipe = tomllib.loads((Path(SHIPPED) / f"{name}.toml").read_text("utf-8"))
        made.append([code(name), code(recipe["objective"]), plain(recipe.get("about", ""))])
    return table(("recipe", "objective", "what it trains"), made)
