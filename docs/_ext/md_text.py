"""Text from the code as Markdown: nothing in it is taken for markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

CODE = re.compile(r"(`[^`]+`)")
MARKUP = re.compile(r"([\\*_|<>\[\]{}#$])")


def plain(text: str) -> str:
    """A text in one line; only what stands in backticks keeps a meaning."""
    parts = CODE.split(" ".join(text.split()))
    return "".join(
        part.replace("|", "\\|") if n % 2 else MARKUP.sub(r"\\\1", part) for n, part in enumerate(parts)
    )


def code(text: object) -> str:
    """A value as code, also inside a table."""
    return "`" + str(text).replace("|", "\\|").replace("`", "'") + "`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
