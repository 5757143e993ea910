"""The HTTP API of the tile server, from the OpenAPI document that the server itself gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from md_text import code, plain, table

from tiles.app import create_app
from tiles.settings import from_environment

VERBS = ("get", "post", "put", "delete", "head", "options")


@cache
def document() -> dict[str, Any]:
    """OpenAPI 3.1 of a server of the bundle alone."""
    made: dict[str, Any] = create_app(from_environment(maps=(), warm=False)).openapi()
    return made


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Verb, address and description of everything that can be asked."""
    for path, item in document()["paths"].items():
        for verb in VERBS:
            if verb in item:
                yield verb.upper(), path, item[verb]


def text() -> str:
    """A section for every operation, by tag."""
    groups: dict[str, list[str]] = {}
    for verb, path, operation in operations():
        tag = next(iter(operation.get("tags", ())), "Other addresses")
        groups.setdefault(tag, []).append(section(verb, path, operation))
    return "\n".join(f"## {tag[:1].upper()}{tag[1:]}\n\n" + "\n".join(parts) for tag, parts in groups.items())


def section(verb: str, path: str, operation: dict[str, Any]) -> str:
    """One operation: what it gives, what it takes, and its answers."""
    parts = [f"### {code(f'{verb} {path}')}", ""]
    said = operation.get("description") or operation.get("summary") or ""
    parts += ["\n\n".join(plain(each) for each in re.split(r"\n\s*\n", said)), ""]
    rows = [
        [code(each["name"]), each["in"], kind(each.get("schema", {})), plain(each.get("description", ""))]
        for each in operation.get("parameters", ())
    ]
    if rows:
        parts += [table(["parameter", "in", "takes", "what it is"], rows), ""]
    answers = [
        [status, ", ".join(map(code, answer.get("content", ()))), plain(answer.get("description", ""))]
        for status, answer in sorted(operation.get("responses", {}).items())
    ]
    return "\n".join([*parts, table(["answer", "as", "when"], answers), ""])


def kind(schema: dict[str, Any]) -> str:
    """What a parameter takes, with its limits and default."""
    if "$ref" in schema:
        schema = document()["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    options = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    if options:
        return " or ".join(kind(each) for each in options)
    if "enum" in schema:
        words = " ".join(code(each) for each in schema["enum"])
    else:
        words = str(schema.get("type", "text"))
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None or high is not None:
        words += f", {'' if low is None else f'from {low} '}{'' if high is None else f'to {high}'}".rstrip()
    if "pattern" in schema:
        words += f", {code(schema['pattern'])}"
    if schema.get("default") not in (None, "", []):
        words += f"; default {code(schema['default'])}"
    return words
