"""What many maps cost: bills from the measurements of benchmarks/cost.py and prices that are assumptions.

    python benchmarks/cost_model.py [--measured benchmarks/results/cost.json] [--core-hour 0.04] ...

A scenario is a number of cells and of species. Its bill counts four kinds of work, all in core-hours of the
machine that was measured: encoding every cell once, fitting the species, scoring every cell for every
species, and writing one file a species. Nothing is rounded before it is printed. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).parent / "results" / "cost.json"
HOUR, GIGABYTE = 3600.0, 1e9
STEPS, FOLDS = 3000, 5  # of a fit, as geomap.fit makes it
GROUP = 4_000  # species that are fitted together and share an adapter; the largest number measured
TILE_PIXELS = 256
EQUATOR_M = 40_075_016.686  # of Web Mercator
Measured = Mapping[str, Any]


@dataclass(frozen=True)
class Prices:
    """Assumptions of November 2026, round figures to be replaced by one's own; none is a quotation."""

    core_hour: float = 0.04  # USD for an hour of one core
    gigabyte_month: float = 0.02  # USD for a gigabyte in object storage for a month
    egress_gigabyte: float = 0.05  # USD for a gigabyte that leaves the CDN
    million_requests: float = 0.60  # USD for a million requests to the CDN


@dataclass(frozen=True)
class Views:
    """Assumptions about people who look at maps."""

    tiles: int = 40  # tiles of a visit to one species: one screen, moved and zoomed a little
    hits: float = 0.8  # share of them that the CDN has already
    cells_of_first_look: float = 400_000  # scored from the embeddings on, as if the server kept nothing


@dataclass(frozen=True)
class Scenario:
    """What is to be mapped.

    Attributes:
        name: What a table calls it.
        cells: Cells with data.
        species: Maps.
        cell_m: Side of a cell [m].
        basis: Where the two numbers come from.
    """

    name: str
    cells: float
    species: int
    cell_m: float
    basis: str


def scenarios(measured: Measured) -> list[Scenario]:
    """The four of the page; California's cells are those of the shipped field."""
    maps = measured["map"]
    california = float(maps["california-plants"]["cells"])
    birds = float(maps["north-america-birds"]["cells"]) * 100
    return [
        Scenario("Plants of California, 1 km", california, 6_000, 1_000,
                 "valid cells of the shipped field; more than 6,000 plant taxa in Nature Multi-View"),
        Scenario("Birds of North America, 1 km", birds, 1_000, 1_000,
                 "100 times the valid 10 km cells of the shipped field; the bundle has 450 species, a round "
                 "thousand is assumed"),
        Scenario("Two million species, all land, 1 km", 149e6, 2_000_000, 1_000,
                 "149 million km² of land; two million species is the order of those that have a name"),
        Scenario("Plants of California, 10 m", california * 10_000, 6_000, 10,
                 "10,000 cells of 10 m in one of 1 km"),
    ]  # fmt: skip


def adapters(species: int) -> int:
    """Groups that are fitted apart, each with an adapter of its own."""
    return math.ceil(species / GROUP)


def encode_hours(cells: float, measured: Measured) -> float:
    """Core-hours of the shipped dense encoders."""
    return cells / float(measured["encode"]["cells_per_s"]) / HOUR


def chip_hours(cells: float, measured: Measured, encoder: str, chips: float = 1.0) -> float:
    """Core-hours of an encoder that takes `chips` images a cell."""
    return cells * chips / float(measured["chips"][encoder]["images_per_s"]) / HOUR


def fit_hours(species: int, measured: Measured) -> float:
    """Core-hours of fitting groups, each once on everything and once a fold, null model and scores too."""
    fit = measured["fit"]
    groups = adapters(species)
    steps = groups * STEPS * fit["s_per_step"] + species * STEPS * fit["s_per_step_and_species"]
    nulls = groups * FOLDS * fit["null_s_per_fold"]
    scores = 2 * species * fit["scores_s_per_species"]  # of the heads and of the null model
    return float((FOLDS + 1) * steps + nulls + scores) / HOUR


def adapter_hours(cells: float, adapters: int, measured: Measured) -> float:
    """Core-hours of what all species of an adapter share."""
    return cells * adapters / float(measured["scores"]["adapter"]["cells_per_s"]) / HOUR


def product_hours(cells: float, species: int, measured: Measured) -> float:
    """Core-hours of one dot product a cell and species."""
    return cells * species / float(measured["scores"]["product"]["cell_species_per_s"]) / HOUR


def map_hours(cells: float, species: int, measured: Measured) -> float:
    """Core-hours of rendered files: the product, COG, check and Item, by the cell."""
    one = measured["map"]["california-plants"]
    return cells * species * float(one["s_per_map"]) / float(one["cells"]) / HOUR


def embedding_gigabytes(cells: float, cell_m: float, measured: Measured) -> float:
    """Of the field; below 1 km as if nothing could be compressed, since that was not measured."""
    sizes = measured["bytes"]
    a_cell = sizes["field_bytes_per_cell"]["california"] if cell_m >= 1000 else sizes["embedding_numbers"]
    return cells * float(a_cell) / GIGABYTE


def heads_gigabytes(species: int, measured: Measured) -> float:
    """Of weights, names, thresholds and scores."""
    sizes = measured["bytes"]
    return (
        float(species * sizes["head_bytes_per_species"] + adapters(species) * sizes["adapter_bytes"])
        / GIGABYTE
    )


def cog_gigabytes(cells: float, species: int, measured: Measured) -> float:
    """Of one file a species and its Item, by the cell as those of California's plants."""
    one = measured["map"]["california-plants"]
    return (cells * float(one["cog_bytes_per_cell"]) + float(one["item_bytes"])) * species / GIGABYTE


def view_cost(measured: Measured, prices: Prices, views: Views) -> dict[str, float]:
    """USD for a thousand visits to a species without a file, part by part."""
    tile = measured["tile"]
    size = sum(tile["bytes_per_tile"].values()) / len(tile["bytes_per_tile"])
    drawn = views.tiles * (1 - views.hits) * tile["s_per_tile"]
    scored = views.cells_of_first_look
    first = (adapter_hours(scored, 1, measured) + product_hours(scored, 1, measured)) * HOUR
    requests = 1000 * views.tiles / 1e6 * prices.million_requests
    egress = 1000 * views.tiles * size / GIGABYTE * prices.egress_gigabyte
    compute = 1000 * (drawn + first) / HOUR * prices.core_hour
    return {"compute": compute, "requests": requests, "egress": egress, "all": compute + requests + egress}


def bill(scenario: Scenario, measured: Measured, prices: Prices) -> dict[str, float]:
    """Everything about a scenario, with a file for each species and without.

    Returns:
        Core-hours of each piece; gigabytes; USD once and a month; USD for a thousand maps: files (made once
        and kept for a year), or live (fitted once, embeddings and heads kept for a year). `cache_gb` is the
        adapter's output for every cell and adapter, of which a server keeps as much as it likes.
    """
    cells, species = scenario.cells, scenario.species
    hours = {
        "encode": encode_hours(cells, measured),
        "fit": fit_hours(species, measured),
        "adapter": adapter_hours(cells, adapters(species), measured),
        "product": product_hours(cells, species, measured),
        "files": map_hours(cells, species, measured),
    }
    stored = {
        "embeddings": embedding_gigabytes(cells, scenario.cell_m, measured),
        "heads": heads_gigabytes(species, measured),
        "cache": cells * adapters(species) * measured["bytes"]["adapter_output_bytes_per_cell"] / GIGABYTE,
        "files": cog_gigabytes(cells, species, measured),
    }
    kept = stored["embeddings"] + stored["heads"]
    once_live = (hours["encode"] + hours["fit"]) * prices.core_hour
    once_files = once_live + (hours["adapter"] + hours["files"]) * prices.core_hour
    month_live, month_files = kept * prices.gigabyte_month, (kept + stored["files"]) * prices.gigabyte_month
    return {
        **{f"{name}_hours": value for name, value in hours.items()},
        **{f"{name}_gb": value for name, value in stored.items()},
        "live_once": once_live,
        "live_month": month_live,
        "files_once": once_files,
        "files_month": month_files,
        "live_thousand": (once_live + 12 * month_live) / species * 1000,
        "files_thousand": (once_files + 12 * month_files) / species * 1000,
    }


def finest_zoom(cell_m: float, lat: float = 0.0) -> int:
    """The first zoom whose pixels, at a latitude, are no larger than a cell: finer tiles show nothing new."""
    pixel = EQUATOR_M * math.cos(math.radians(lat)) / TILE_PIXELS
    return max(0, math.ceil(math.log2(pixel / cell_m)))


def tiles_to_zoom(zoom: int, share: float) -> float:
    """Tiles of zooms 0 to `zoom` of the whole world, of which a share holds data."""
    return share * (4 ** (zoom + 1) - 1) / 3


def wall_hours(hours: float, workers: int, efficiency: float) -> float:
    """Hours on the wall on so many workers of one core, each busy for a share of the time."""
    return hours / workers / efficiency


def read_measured(path: Path = MEASURED) -> dict[str, Any]:
    """The measurements of a result of benchmarks/cost.py."""
    measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["measured"]
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measured", type=Path, default=MEASURED, help="result of benchmarks/cost.py")
    for field in fields(Prices):
        flag = f"--{field.name.replace('_', '-')}"
        parser.add_argument(flag, type=float, default=field.default, help="USD")
    args = parser.parse_args()
    measured = read_measured(args.measured)
    prices = Prices(**{field.name: getattr(args, field.name) for field in fields(Prices)})
    bills = {each.name: bill(each, measured, prices) for each in scenarios(measured)}
    shown = {name: {key: float(f"{v:.4g}") for key, v in found.items()} for name, found in bills.items()}
    print(json.dumps({"benchmark": "cost_model", "prices": asdict(prices), "bills": shown}))


if __name__ == "__main__":
    main()
