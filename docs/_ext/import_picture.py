"""A picture of the imports inside geomap, train and tiles, drawn from the code when the pages are built.

    ```{import-picture} geomap
    ```

draws one package; without an argument, the three packages. A box is a module or a sub-package, a line an
import, and every line points down: modules are put in layers, each below all that import it. Imports that
follow from others are left out (if A imports B, B imports C, and A imports C, too, only the first two lines
are drawn), and modules that import each other share a box.

Of a large package only the main modules are drawn, those with many importers or many imports; what they
import through others is drawn as if they imported it themselves. No program but Python is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import grimp

if TYPE_CHECKING:
    from docutils.nodes import Node

PACKAGES = ("tiles", "geomap", "train")
MANY_IMPORTERS, MANY_IMPORTS = 4, 7  # a main module has one of the two
EVERYWHERE = 0.5  # modules that so large a share of a package imports are named in a line instead of drawn
SMALL = 32  # packages of at most so many modules are drawn whole
ROUNDS = 24  # of ordering boxes within layers
Links = Mapping[str, frozenset[str]]

BOX, GAP, RISE, EDGE = 26, 14, 64, 10  # heights and distances [px]
LETTER = 7.3  # width of a letter [px]
STYLE = """\
.box { fill: var(--pst-color-surface, #f3f4f5); stroke: var(--pst-color-border, #8a8f96); }
.line { fill: none; stroke: var(--pst-color-text-muted, #5a6068); stroke-opacity: 0.6; }
.tip { fill: var(--pst-color-text-muted, #5a6068); }
text { font: 12px sans-serif; fill: var(--pst-color-text-base, #1c1e21); text-anchor: middle; }
text.note { text-anchor: start; font-style: italic; }"""


@dataclass(frozen=True)
class Diagram:
    """What a picture shows.

    Attributes:
        package: Name of the package; "" for the picture of all.
        links: Box -> the boxes it points to, without cycles.
        everywhere: Modules that nearly all of the package imports; not drawn.
        hidden: Number of modules that are not drawn.
    """

    package: str
    links: Links
    everywhere: tuple[str, ...]
    hidden: int


@cache
def built() -> grimp.ImportGraph:
    """Imports between all modules of the three packages; those for type checkers alone do not count."""
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)


@cache
def import_graph() -> grimp.ImportGraph:
    """The same with every sub-package as one module."""
    graph = deepcopy(built())
    for name in sub_packages(graph):
        graph.squash_module(name)
    return graph


def sub_packages(graph: grimp.ImportGraph) -> list[str]:
    """Packages directly below the three."""
    below = [child for package in PACKAGES for child in sorted(graph.find_children(package))]
    return [name for name in below if graph.is_module_squashed(name) or graph.find_children(name)]


def links_within(graph: grimp.ImportGraph, package: str) -> dict[str, frozenset[str]]:
    """Module -> what it imports in the same package; names without the package's own."""
    names = {name for name in graph.modules if name.startswith(f"{package}.")}
    return {
        name.partition(".")[2]: frozenset(
            other.partition(".")[2] for other in graph.find_modules_directly_imported_by(name) & names
        )
        for name in sorted(names)
    }


def merged(links: Links) -> dict[str, frozenset[str]]:
    """The same with modules that import each other, directly or not, as one box named after all of them."""
    reach = reachable(links)
    box = {
        name: ", ".join(sorted({other for other in reach[name] if name in reach[other]} | {name}))
        for name in links
    }
    found: dict[str, set[str]] = {each: set() for each in box.values()}
    for name, others in links.items():
        found[box[name]] |= {box[other] for other in others} - {box[name]}
    return {name: frozenset(others) for name, others in sorted(found.items())}


def reachable(links: Links) -> dict[str, frozenset[str]]:
    """Everything below each box, through any number of lines."""
    found = {}
    for name in links:
        seen: set[str] = set()
        waiting = list(links[name])
        while waiting:
            other = waiting.pop()
            if other not in seen:
                seen.add(other)
                waiting += links[other]
        found[name] = frozenset(seen)
    return found


def chosen(links: Links, keep: Iterable[str]) -> dict[str, frozenset[str]]:
    """Lines between some of the boxes of a graph without cycles; those that follow from others left out."""
    kept = frozenset(keep)
    reach = {name: others & kept for name, others in reachable(links).items() if name in kept}
    return {
        name: others - frozenset().union(*(reach[other] for other in others))
        for name, others in sorted(reach.items())
    }


def main_modules(links: Links, packages: frozenset[str]) -> tuple[frozenset[str], tuple[str, ...]]:
    """The boxes to draw, `packages` always among them, and those that a large share of modules imports."""
    importers = {name: sum(name in others for others in links.values()) for name in links}
    everywhere = tuple(name for name in links if importers[name] > EVERYWHERE * len(links))
    rest = [name for name in links if name not in everywhere]
    if len(links) > SMALL:
        main = {n for n in rest if importers[n] >= MANY_IMPORTERS or len(links[n]) >= MANY_IMPORTS}
        rest = [name for name in rest if name in main or packages & set(name.split(", "))]
    return frozenset(rest), everywhere


def diagram(package: str = "") -> Diagram:
    """What the picture of a package shows; without a name, the three packages.

    Raises:
        ValueError: There is no such package.
    """
    if not package:
        return Diagram("", merged(between_packages(built())), (), 0)
    if package not in PACKAGES:
        raise ValueError(f"{package!r} is none of {', '.join(PACKAGES)}")
    graph = import_graph()
    links = merged(links_within(graph, package))
    keep, everywhere = main_modules(links, frozenset(n.partition(".")[2] for n in sub_packages(graph)))
    return Diagram(package, chosen(links, keep), everywhere, len(links) - len(keep) - len(everywhere))


def between_packages(graph: grimp.ImportGraph) -> dict[str, frozenset[str]]:
    """Which package imports from which, each with its number of modules."""
    inside = {p: [n for n in graph.modules if n.startswith(f"{p}.")] for p in PACKAGES}
    label = {package: f"{package}: {len(names)} modules" for package, names in inside.items()}
    found: dict[str, set[str]] = {each: set() for each in label.values()}
    for package, names in inside.items():
        imported = {other for name in names for other in graph.find_modules_directly_imported_by(name)}
        tops = {other.partition(".")[0] for other in imported} - {package}
        found[label[package]] |= {label[top] for top in tops}
    return {name: frozenset(others) for name, others in found.items()}


def depths(links: Links) -> dict[str, int]:
    """Layer of each box, 0 on top: one below the lowest of all that point to it."""
    found: dict[str, int] = {}

    def place(name: str) -> int:
        if name not in found:
            found[name] = 1 + max((place(o) for o, others in links.items() if name in others), default=-1)
        return found[name]

    for name in links:
        place(name)
    return found


@dataclass(frozen=True)
class Layers:
    """Boxes by layer, with the bends of long lines between them.

    Attributes:
        rows: Names from left to right; a bend is named after its line and layer.
        lines: (importer, imported) -> what the line goes through, both ends among it.
    """

    rows: tuple[tuple[str, ...], ...]
    lines: Mapping[tuple[str, str], tuple[str, ...]]


def layered(links: Links) -> Layers:
    """Boxes and bends in an order that keeps lines short."""
    depth = depths(links)
    rows: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=0))]
    lines = {}
    for name in sorted(links):
        rows[depth[name]].append(name)
    for name, others in sorted(links.items()):
        for other in sorted(others):
            bends = [f"{name}>{other}>{k}" for k in range(depth[name] + 1, depth[other])]
            for k, bend in enumerate(bends):
                rows[depth[name] + 1 + k].append(bend)
            lines[name, other] = (name, *bends, other)
    return Layers(tuple(map(tuple, ordered(rows, list(lines.values())))), lines)


def ordered(rows: list[list[str]], lines: list[tuple[str, ...]]) -> list[list[str]]:
    """Layers whose boxes stand near the mean of what they are linked with, swept down and up in turns."""
    above: dict[str, list[str]] = {name: [] for row in rows for name in row}
    below: dict[str, list[str]] = {name: [] for row in rows for name in row}
    for line in lines:
        for upper, lower in pairwise(line):
            above[lower].append(upper)
            below[upper].append(lower)
    best, fewest = rows, crossings(rows, below)
    for turn in range(ROUNDS):
        down = turn % 2 == 0
        place: dict[str, float] = {}
        turned = []
        for row in rows if down else reversed(rows):
            near = above if down else below
            old = {name: (k + 0.5) / len(row) for k, name in enumerate(row)}
            mean = {n: sum(place[o] for o in near[n]) / len(near[n]) if near[n] else old[n] for n in row}
            row = sorted(row, key=lambda name: (mean[name], name))
            place |= {name: (k + 0.5) / len(row) for k, name in enumerate(row)}
            turned.append(row)
        rows = turned if down else turned[::-1]
        if (count := crossings(rows, below)) < fewest:
            best, fewest = rows, count
    return best


def crossings(rows: list[list[str]], below: Mapping[str, list[str]]) -> int:
    """Pairs of lines that cross between neighbouring layers."""
    place = {name: k for row in rows for k, name in enumerate(row)}
    count = 0
    for row in rows:
        ends = [place[other] for name in row for other in sorted(below[name], key=place.__getitem__)]
        count += sum(a > b for k, a in enumerate(ends) for b in ends[k + 1 :])
    return count


@dataclass(frozen=True)
class Box:
    """Where a box is drawn [px]."""

    x: float
    y: float
    width: float


def layout(rows: tuple[tuple[str, ...], ...]) -> tuple[dict[str, Box], float, float]:
    """Places of all boxes and bends, and the size of the picture."""
    widths = {
        name: 4.0 if name.count(">") == 2 else LETTER * len(name) + 2 * EDGE for row in rows for name in row
    }
    spans = [sum(widths[name] for name in row) + GAP * (len(row) - 1) for row in rows]
    total = max(spans, default=0) + 2 * EDGE
    boxes = {}
    for k, row in enumerate(rows):
        slack = (total - 2 * EDGE - sum(widths[name] for name in row)) / (len(row) + 1)
        x = EDGE + slack
        for name in row:
            boxes[name] = Box(x, EDGE + k * RISE, widths[name])
            x += widths[name] + slack
    return boxes, total, 2 * EDGE + BOX + RISE * (len(rows) - 1)


def svg(shown: Diagram) -> str:
    """The picture as SVG, with its meaning in words for those who cannot see it."""
    found = layered(shown.links)
    boxes, width, height = layout(found.rows)
    name = shown.package or ", ".join(PACKAGES)
    notes = _notes(shown)
    width = max([width, *(LETTER * len(note) for note in notes)])
    bottom = height + 18 * len(notes)
    words = "; ".join(f"{a} imports {', '.join(sorted(b))}" for a, b in shown.links.items() if b)
    marker = f"tip-{shown.package or 'all'}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width:.0f} {bottom:.0f}"'
        f' style="width: 100%; max-width: {width:.0f}px; height: auto">'
        f"<title>Imports: {escape(name)}</title><desc>{escape(words)}.</desc><style>{STYLE}</style>"
        f'<defs><marker id="{marker}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        f' markerHeight="7" orient="auto"><path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>'
    )
    lines = [_line([boxes[each] for each in line], marker, *ends) for ends, line in found.lines.items()]
    drawn = [_box(label, boxes[label]) for label in shown.links]
    said = [
        f'<text class="note" x="{EDGE}" y="{height + 12 + 18 * k:.0f}">{escape(note)}</text>'
        for k, note in enumerate(notes)
    ]
    return "\n".join([head, *lines, *drawn, *said, "</svg>"])


def _notes(shown: Diagram) -> list[str]:
    notes = []
    if shown.everywhere:
        notes.append(f"Imported nearly everywhere, not drawn: {', '.join(shown.everywhere)}.")
    if shown.hidden:
        notes.append(f"{shown.hidden} smaller modules are not drawn; lines go through them.")
    return notes


def _box(label: str, box: Box) -> str:
    middle = box.x + box.width / 2
    return (
        f'<g><rect class="box" x="{box.x:.1f}" y="{box.y}" width="{box.width:.1f}" height="{BOX}" rx="5"/>'
        f'<text x="{middle:.1f}" y="{box.y + 17}">{escape(label)}</text></g>'
    )


def _line(points: list[Box], marker: str, importer: str, imported: str) -> str:
    """A line from the lower edge of the first box to the upper edge of the last, through each bend."""
    path = f"M{points[0].x + points[0].width / 2:.1f} {points[0].y + BOX}"
    for upper, lower in pairwise(points):
        x1, x2 = upper.x + upper.width / 2, lower.x + lower.width / 2
        y1, y2 = upper.y + BOX, lower.y - (1 if lower is points[-1] else 0)
        middle = (y1 + y2) / 2
        path += f"C{x1:.1f} {middle:.1f} {x2:.1f} {middle:.1f} {x2:.1f} {y2}"
        path += "" if lower is points[-1] else f"V{lower.y + BOX}"
    return (
        f'<path class="line" data-from="{escape(importer)}" data-to="{escape(imported)}"'
        f' marker-end="url(#{marker})" d="{path}"/>'
    )


def setup(app: Any) -> dict[str, Any]:
    """Add the directive to Sphinx."""
    from docutils import nodes
    from sphinx.util.docutils import SphinxDirective

    class ImportPicture(SphinxDirective):
        optional_arguments = 1

        def run(self) -> list[Node]:
            try:
                shown = diagram(self.arguments[0] if self.arguments else "")
            except ValueError as error:
                raise self.error(str(error)) from error
            return [nodes.raw("", svg(shown), format="html")]

    app.add_directive("import-picture", ImportPicture)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
