"""Follows every link of the built pages: files and anchors must be there, nothing may come from elsewhere.

    python docs/check_links.py docs/_build/html

Links to other sites are looked at for their form only, as there may be no network; `make linkcheck` asks
them. Prints what is wrong, a line each, and ends with 1 if anything is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {  # element -> attribute that the browser fetches by itself
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
    "embed": "src", "object": "data",
}  # fmt: skip
FETCHED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch"}
IN_STYLE = re.compile(r"""(?:@import\s+|url\()\s*['"]?([^'")\s]+)""")
SCHEMES = {"http", "https", "mailto"}


@dataclass
class Page:
    """What a page links to, loads, and can be linked to at."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)


class Reader(HTMLParser):
    """Reads one page."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Keep ids, links and what is loaded."""
        given = {name: value or "" for name, value in attrs}
        self.page.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self._in_style = tag == "style"
        if tag in LOADED and given.get(LOADED[tag]):
            self.page.loads.append(given[LOADED[tag]])
        elif tag == "link" and given.get("href"):
            fetched = FETCHED_LINKS & set(given.get("rel", "").split())
            (self.page.loads if fetched else self.page.links).append(given["href"])
        elif tag == "a" and "href" in given:
            self.page.links.append(given["href"])

    def handle_data(self, data: str) -> None:
        """What a style element fetches."""
        if self._in_style:
            self.page.loads += IN_STYLE.findall(data)


def read(path: Path) -> Page:
    """One page of HTML."""
    reader = Reader()
    reader.feed(path.read_text("utf-8"))
    return reader.page


def pages_of(root: Path) -> list[Path]:
    """Every page below a folder; what lies in _static is part of the theme."""
    return sorted(path for path in root.rglob("*.html") if "_static" not in path.relative_to(root).parts)


def faults(root: Path) -> Iterator[str]:
    """Everything that is wrong with the pages and styles below a folder, in words."""
    root = root.resolve()
    pages = {path: read(path) for path in pages_of(root)}
    for path, page in pages.items():
        where = path.relative_to(root)
        for load in page.loads:
            yield from _load(load, path, where)
        for link in page.links:
            yield from _link(link, path, where, pages)
    for path in sorted(root.rglob("*.css")):
        for load in IN_STYLE.findall(path.read_text("utf-8")):
            yield from _load(load, path, path.relative_to(root))


def _load(address: str, path: Path, where: Path) -> Iterator[str]:
    parts = urlsplit(address)
    if parts.scheme == "data":
        return
    if parts.scheme or parts.netloc:
        yield f"{where}: loads {address} from elsewhere"
    elif parts.path and not (path.parent / unquote(parts.path)).exists():
        yield f"{where}: loads {address}, which is not there"


def _link(address: str, path: Path, where: Path, pages: dict[Path, Page]) -> Iterator[str]:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        if parts.scheme not in SCHEMES or not (parts.netloc or parts.path) or " " in address:
            yield f"{where}: {address} is no address"
        return
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.exists():
        yield f"{where}: links to {address}, which is not there"
    elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        yield f"{where}: links to {address}, which has no such place"


def main(argv: Sequence[str] | None = None) -> int:
    """Check the folder that is named; 1 if anything is wrong."""
    (folder,) = sys.argv[1:] if argv is None else argv
    found = sorted(set(faults(Path(folder))))
    for fault in found:
        print(fault)
    pages = pages_of(Path(folder))
    print(f"{len(pages)} pages, {len(found)} faults")
    return 1 if found or not pages else 0


if __name__ == "__main__":
    sys.exit(main())
