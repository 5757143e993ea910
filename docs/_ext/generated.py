"""Parts of pages that are made from the code: a line `<!-- generated: KIND -->` becomes that text.

The text is Markdown, so its headings and tables are those of the page it stands in. Tests read the same text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import card_pages
import command_pages
import cost_pages
import environment_pages
import error_pages
import finding_pages
import http_pages
import pitfall_pages
import python_pages
import recipe_pages
from sphinx.application import Sphinx

MARK = re.compile(r"^<!-- generated: ([a-z-]+)(?: (\S+))? -->$", re.MULTILINE)
KINDS: dict[str, Callable[..., str]] = {
    "commands": command_pages.text,
    "error": error_pages.text,
    "error-messages": error_pages.messages,
    "http": http_pages.text,
    "python": python_pages.text,
    "variables": environment_pages.text,
    "recipes": recipe_pages.shipped,
    "recipe-keys": recipe_pages.text,
    "recipe-data": recipe_pages.data,
    "recipe-model": recipe_pages.models,
    "card": card_pages.text,
    "cost": cost_pages.text,
    "found": finding_pages.text,
    "pitfalls": pitfall_pages.text,
}


@cache
def generated(kind: str, subject: str | None) -> str:
    """The text of a kind, made once.

    Raises:
        KeyError: There is no such kind.
    """
    return KINDS[kind](subject) if subject else KINDS[kind]()


def fill(text: str) -> str:
    """A page with every mark replaced by its text."""
    return MARK.sub(lambda mark: generated(mark[1], mark[2]), text)


def _source_read(app: Sphinx, name: str, source: list[str]) -> None:
    if "<!-- generated: " in source[0]:
        source[0] = fill(source[0])
        app.env.note_reread()  # the code may have changed though the page has not


def setup(app: Sphinx) -> dict[str, Any]:
    """Fill marks when a page is read."""
    app.connect("source-read", _source_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
