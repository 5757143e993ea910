"""Tables of docs/scaling.md, from benchmarks/results/cost.json by benchmarks/cost_model.py."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from md_text import table

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WORLD_SHARE = 0.35  # of tiles of the world that hold land, coasts included: an assumption
WORKERS, EFFICIENCY = (1, 16, 256), 0.7  # of the cluster plan; efficiency is an assumption


@cache
def model() -> ModuleType:
    """benchmarks/cost_model.py."""
    spec = importlib.util.spec_from_file_location("cost_model", BENCHMARKS / "cost_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cost_model"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@cache
def measured() -> dict[str, Any]:
    """The measurements."""
    found: dict[str, Any] = model().read_measured()
    return found


def number(value: float) -> str:
    """Two significant digits, with commas; small ones as they are."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 else f"{rounded:g}"


def size(gigabytes: float) -> str:
    """Gigabytes in the unit that reads best."""
    for unit, scale in (("PB", 1e6), ("TB", 1e3), ("GB", 1.0)):
        if gigabytes >= scale:
            return f"{number(gigabytes / scale)} {unit}"
    return f"{number(gigabytes * 1000)} MB"


def duration(hours: float) -> str:
    """Hours in the unit that reads best."""
    for unit, scale in (("h", 1.0), ("min", 1 / 60)):
        if hours >= scale:
            return f"{number(hours / scale)} {unit}"
    return f"{number(hours * 3600)} s"


def bills() -> list[tuple[Any, dict[str, float]]]:
    """Every scenario with its bill at the assumed prices."""
    costs, prices = model(), model().Prices()
    return [(each, costs.bill(each, measured(), prices)) for each in costs.scenarios(measured())]


def measurements() -> str:
    """What was measured."""
    m = measured()
    adapter, product = m["scores"]["adapter"], m["scores"]["product"]
    encode = "encode a cell at 1 km (read, encode, quantise, compress, write)"
    rows = [
        [encode, f"{number(m['encode']['cells_per_s'])} cells"],
        ["adapter, shared by the species of a group", f"{number(adapter['cells_per_s'])} cells"],
        ["score one species on a cell after it", f"{number(product['cell_species_per_s'])} cells"],
        ["draw a tile of a species without a file", f"{number(m['tile']['tiles_per_s'])} tiles"],
    ]
    for name, group in m["map"].items():
        cells = group["cells"] / group["s_per_map"]
        rows.append([f"write a finished map ({name}: scores, COG, check, Item)", f"{number(cells)} cells"])
    rows += [
        [f"encode a chip of its own for a cell, {name}, untrained", f"{number(each['images_per_s'])} chips"]
        for name, each in m["chips"].items()
    ]
    return table(("piece", "in a second of one core"), rows)


def sizes() -> str:
    """Bytes that were measured."""
    m = measured()
    sizes = m["bytes"]
    rows = [
        [f"embeddings of the shipped {grid} field, compressed", f"{number(each)} a cell"]
        for grid, each in sizes["field_bytes_per_cell"].items()
    ]
    rows += [
        ["embedding, not compressed", f"{sizes['embedding_numbers']} a cell"],
        [
            "adapter's output, as kept by the server",
            f"{number(sizes['adapter_output_bytes_per_cell'])} a cell",
        ],
        ["weights, names, thresholds, scores", f"{number(sizes['head_bytes_per_species'])} a species"],
    ]
    rows += [
        [f"map as COG with overviews, {name}", f"{each['cog_bytes_per_cell']:.2g} a cell"]
        for name, each in m["map"].items()
    ]
    rows += [
        [f"tile at zoom {zoom}, palette PNG (mean of those with data)", f"{number(each)} a tile"]
        for zoom, each in m["tile"]["bytes_per_tile"].items()
    ]
    return table(("what", "bytes"), rows)


def assumptions() -> str:
    """Prices and habits that nobody measured."""
    costs = model()
    prices, views = costs.Prices(), costs.Views()
    names = {
        "core_hour": "one core for an hour [USD]",
        "gigabyte_month": "a gigabyte stored for a month [USD]",
        "egress_gigabyte": "a gigabyte that leaves the CDN [USD]",
        "million_requests": "a million requests to the CDN [USD]",
    }
    rows = [[names[each.name], f"{getattr(prices, each.name):g}"] for each in fields(prices)]
    rows += [
        ["tiles of a visit", str(views.tiles)],
        ["share of them that the CDN has", f"{views.hits:g}"],
        ["cells scored for the first look at a species", f"{views.cells_of_first_look:,.0f}"],
        ["share of time that workers of a cluster are busy", f"{EFFICIENCY:g}"],
        ["share of the world's tiles that hold land", f"{WORLD_SHARE:g}"],
    ]
    return table(("assumption", "value"), rows)


def scenarios() -> str:
    """What is counted."""
    rows = [[s.name, f"{s.cells:,.0f}", f"{s.species:,}", s.basis] for s, _ in bills()]
    return table(("scenario", "cells", "species", "basis"), rows)


def hours() -> str:
    """Core-hours of each scenario."""
    rows = [
        [s.name, *(number(b[f"{each}_hours"]) for each in ("encode", "fit", "adapter", "product", "files"))]
        for s, b in bills()
    ]
    head = ("core-hours", "encode once", "fit and validate", "adapters", "score all", "write all files")
    return table(head, rows)


def storage() -> str:
    """Gigabytes of each scenario."""
    names = ("embeddings", "heads", "cache", "files")
    rows = [[s.name, *(size(b[f"{each}_gb"]) for each in names)] for s, b in bills()]
    head = ("storage", "embeddings", "heads", "adapters' output, all", "a COG for each species")
    return table(head, rows)


def prices() -> str:
    """USD of each scenario, live and as files."""
    names = ("live_once", "live_month", "live_thousand", "files_once", "files_month", "files_thousand")
    rows = [[s.name, *(number(b[each]) for each in names)] for s, b in bills()]
    head = (
        "USD", "live: once", "live: a month", "**live: 1,000 maps, first year**", "files: once",
        "files: a month", "**files: 1,000 maps, first year**",
    )  # fmt: skip
    return table(head, rows)


def visits() -> str:
    """USD of a thousand visits to maps that no file holds."""
    costs = model()
    found = costs.view_cost(measured(), costs.Prices(), costs.Views())
    rows = [[name, f"{value:.3f}"] for name, value in found.items()]
    return table(("part of a thousand visits", "USD"), rows)


def chips() -> str:
    """Core-hours with an encoder of one chip a cell, beside the dense one."""
    costs, m = model(), measured()
    rows = [
        [
            s.name,
            number(costs.encode_hours(s.cells, m)),
            *(number(costs.chip_hours(s.cells, m, name)) for name in m["chips"]),
        ]
        for s in costs.scenarios(m)
    ]
    return table(("core-hours to encode", "dense, as shipped", *m["chips"]), rows)


def cluster() -> str:
    """Hours on the wall of encoding by workers."""
    costs, m = model(), measured()
    rows = []
    for s in costs.scenarios(m):
        spent = costs.encode_hours(s.cells, m)
        walls = (duration(costs.wall_hours(spent, workers, EFFICIENCY)) for workers in WORKERS)
        rows.append([s.name, f"{-(-s.cells // 256**2):,.0f}", *walls])
    counts = (f"{workers} worker{'s' if workers > 1 else ''}" for workers in WORKERS)
    head = ("time to encode", "units of 256 x 256 cells, at least", *counts)
    return table(head, rows)


def zooms() -> str:
    """Tiles by zoom: of California as counted, of the land of the world by the assumed share."""
    costs, tile = model(), measured()["tile"]
    world = {zoom: WORLD_SHARE * 4**zoom for zoom in range(4, 10)}
    metres = {zoom: costs.EQUATOR_M / costs.TILE_PIXELS / 2**zoom for zoom in world}
    rows = [
        [str(zoom), str(tile["tiles_with_data"][str(zoom)]), f"{world[zoom]:,.0f}", f"{metres[zoom]:,.0f}"]
        for zoom in world
    ]
    return table(
        ("zoom", "California, with data", "land of the world", "metres a pixel at the equator"), rows
    )


SUBJECTS: dict[str, Callable[[], str]] = {
    "measured": measurements,
    "sizes": sizes,
    "assumptions": assumptions,
    "scenarios": scenarios,
    "hours": hours,
    "storage": storage,
    "prices": prices,
    "visits": visits,
    "chips": chips,
    "cluster": cluster,
    "zooms": zooms,
}


def text(subject: str) -> str:
    """A table of the page.

    Raises:
        KeyError: There is no such table.
    """
    return SUBJECTS[subject]()
