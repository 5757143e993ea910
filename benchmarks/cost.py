"""What maps cost in CPU time and bytes, measured piece by piece; benchmarks/cost_model.py makes bills of it.

    python benchmarks/cost.py [--imagery FILE] [--out benchmarks/results/cost.json] [--quick]

On one thread, with the shipped encoders, fields and heads:

    encode   geomap.sweep on a part of California at 1 km: read, encode, quantise, compress, write
    chips    images a second of an aerial encoder that takes one chip a cell, by the size of its backbone
    adapter  embeddings to the adapter's output, which all species of a group share
    product  one species on one cell after that
    fit      a step of fitting many species at once; the null model of a fold; the scores of a species
    map      geomap.render: scores, COG, check, Item, for each species and cell
    tile     a palette PNG of a species without a file: asked for first, again, and as bytes by zoom
    bytes    of an embedding, of the adapter's output kept by the tile server, and of a map, for each cell

Seconds are CPU time of this process, since other programs may share the machine; `wall_to_cpu` of each piece
says how much longer it took. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy import sparse

HERE = Path(__file__).resolve().parent
sys.path = [path for path in sys.path if Path(path or ".").resolve() != HERE]  # benchmarks/train.py is there

from geomap.catalog import bundle_path  # noqa: E402
from geomap.field import EmbeddingField, open_field  # noqa: E402
from geomap.grid import grid_from_bbox  # noqa: E402
from geomap.heads import SpeciesHeads, load_heads  # noqa: E402
from geomap.metrics import score_species  # noqa: E402
from geomap.nullmodel import null_shares  # noqa: E402
from geomap.rendering import Request, render_maps  # noqa: E402
from geomap.sweep import sweep  # noqa: E402
from geomap.target import FieldOptions  # noqa: E402
from tiles import paint  # noqa: E402
from tiles.blocks import BlockStore, FieldSource  # noqa: E402
from tiles.library import Library  # noqa: E402
from tiles.live import LiveMap  # noqa: E402
from tiles.lru import Lru  # noqa: E402
from train.encoders.image import ImageConfig, ImageEncoder  # noqa: E402
from train.species import FitConfig, Targets, fit_group  # noqa: E402
from train.threads import one_thread  # noqa: E402

SHARED = Path(os.environ.get("GEOMAP_SHARED", "../shared/data"))
IMAGERY = SHARED / "imagery/bluemarble_california_z8.tif"
BOX = (-121.5, 35.5, -118.5, 38.5)  # inland and mountains, no sea
GROUP, GRID = "california-plants", "california"
BACKBONES = (("resnet18", 64), ("resnet18", 256), ("vit_base_patch16_224", 256))
SITES, BATCH_SPECIES = 20_000, (500, 4_000)  # of the synthetic group that is fitted
ZOOMS = (4, 5, 6, 7, 8, 9)
Piece = dict[str, Any]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of this process and its children, and how many times longer the clock on the wall took."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    spent = max(cpu_seconds() - cpu, 1e-9)
    return spent, (time.perf_counter() - wall) / spent


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def measure_encode(imagery: Path, quick: bool, folder: Path) -> Piece:
    """The sweep of a box at 1 km, the second time, so that loading is not counted."""
    west, south, east, _ = BOX
    size = 0.5 if quick else east - west
    box = (west, south, west + size, south + size)
    encoders = bundle_path() / "encoders"

    def run(name: str, grid: Any) -> EmbeddingField:
        return sweep(encoders, imagery, grid, folder / f"{name}.zarr")

    run("warm", grid_from_bbox(west, south, west + 0.2, south + 0.2, resolution=1000.0))
    grid = grid_from_bbox(*box, resolution=1000.0)
    cpu, ratio = timed(lambda: run("field", grid))
    cells = open_field(folder / "field.zarr").valid_cells
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"cells": cells, "cells_per_s": cells / cpu, "peak_mb": peak, "wall_to_cpu": ratio}


def measure_chips(quick: bool) -> Piece:
    """Images a second of encoders of one chip a cell, untrained: their weights do not change their speed."""
    found: Piece = {}
    for name, side in BACKBONES[: 1 if quick else None]:
        size = 224 if "224" in name else side
        encoder = ImageEncoder(ImageConfig(backbone=name, size=size, dim=0)).eval()
        images = torch.randint(0, 255, (8, 3, size, size), dtype=torch.uint8)

        def run(encoder: ImageEncoder = encoder, images: torch.Tensor = images) -> None:
            with one_thread(), torch.inference_mode():
                encoder(images)

        run()
        cpu, ratio = timed(run)
        found[f"{name} at {size} px"] = {"images_per_s": 8 / cpu, "wall_to_cpu": ratio}
    return found


def measure_scores(heads: SpeciesHeads, field: EmbeddingField, quick: bool) -> Piece:
    """Adapter and products on cells of the field."""
    blocks = list(field.blocks(stored=True))
    values, valid = field.read(max(blocks, key=lambda block: int(field.read(block)[1].sum())))
    cells = values[valid][: 4_096 if quick else 32_768]
    cpu, ratio = timed(lambda: [heads.transform(cells[k : k + 4096]) for k in range(0, len(cells), 4096)])
    z = heads.transform(cells)
    rounds = 2 if quick else 20
    product, again = timed(lambda: [heads.predict_transformed(z) for _ in range(rounds)])
    return {
        "adapter": {"cells_per_s": len(cells) / cpu, "wall_to_cpu": ratio},
        "product": {"cell_species_per_s": rounds * len(cells) * len(heads) / product, "wall_to_cpu": again},
    }


def synthetic(sites: int, species: int, dim: int) -> tuple[NDArray[np.float32], Targets]:
    """Sites at random with ten species each; how fast a fit is does not depend on what it learns."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((sites, dim)).astype(np.float32)
    met = min(10, species)
    ones = np.ones(sites * met, np.float32)
    found = rng.integers(0, species, (sites, met)).ravel().astype(np.int32)
    indptr = np.arange(sites + 1, dtype=np.int64) * met
    return features, Targets(np.ones(sites, np.float32), indptr, found, ones, ones, species)


def measure_fit(dim: int, quick: bool) -> Piece:
    """Seconds of a step by number of species, of the null model of a fold, and of the scores of a species."""
    sites, counts, steps = (1_000, (50, 200), 3) if quick else (SITES, BATCH_SPECIES, 12)
    per_step = []
    for count in counts:
        features, targets = synthetic(sites, count, dim)
        config = FitConfig(max_steps=steps)
        fit_group(features, targets, FitConfig(max_steps=1))
        per_step.append(timed(lambda f=features, t=targets, c=config: fit_group(f, t, c))[0] / steps)
    slope = (per_step[1] - per_step[0]) / (counts[1] - counts[0])
    rng = np.random.default_rng(0)
    lonlat = np.stack([rng.uniform(-124, -114, sites), rng.uniform(32, 42, sites)], axis=1)
    rates = sparse.random(sites, counts[1], density=10 / counts[1], format="csr", random_state=0)
    held = lonlat[: sites // 5]
    null, _ = timed(
        lambda: null_shares(lonlat[sites // 5 :], np.ones(sites - len(held)), rates[len(held) :], held, 0)
    )
    scores = rng.random((sites, 8))
    positives = (rng.random((sites, 8)) < 0.01).astype(np.float64)
    ones, enough = np.ones(8), np.ones(8, np.bool_)
    scored, _ = timed(lambda: score_species(scores, positives, 1 - positives, ones, enough))
    return {
        "sites": sites,
        "s_per_step_and_species": slope,
        "s_per_step": max(per_step[0] - slope * counts[0], 0.0),
        "null_s_per_fold": null,
        "scores_s_per_species": scored / 8,
    }


def measure_maps(folder: Path, quick: bool) -> Piece:
    """Maps of shipped species by geomap.render's own function: time, and bytes of COG and Item."""
    groups = ((GROUP, GRID), ("north-america-birds", "north-america"))
    return {group: measure_map(group, grid, folder, quick) for group, grid in groups}


def measure_map(group: str, grid: str, folder: Path, quick: bool) -> Piece:
    heads = load_heads(bundle_path() / "heads" / group)
    field = open_field(bundle_path() / "fields" / f"{grid}.zarr.zip")
    names = heads.species["scientificName"].iloc[:: len(heads) // (2 if quick else 12)].tolist()

    def run(name: str, species: list[str]) -> None:
        where = FieldOptions(field.path, None, folder / ".fields", 1)
        render_maps(Request(tuple(species), folder / name, group, None, where, 1), quiet())

    one, _ = timed(lambda: run(f"{group}-one", names[:1]))
    all_of_them, ratio = timed(lambda: run(f"{group}-all", names))
    out = folder / f"{group}-all" / grid
    cogs = [path.stat().st_size for path in out.rglob("*.tif")]
    items = [path.stat().st_size for path in out.rglob("*.json") if path.stem != "collection"]
    cells = field.valid_cells
    return {
        "species": len(names),
        "cells": cells,
        "s_per_map": (all_of_them - one) / (len(names) - 1),
        "wall_to_cpu": ratio,
        "cog_bytes_per_cell": float(np.mean(cogs)) / cells,
        "item_bytes": float(np.mean(items)),
    }


def quiet() -> Console:
    """A console that shows nothing."""
    return Console(file=sys.stderr, quiet=True)


def tiles_over(lonlat: NDArray[np.float64], zoom: int) -> list[tuple[int, int]]:
    """Columns and rows of the Mercator tiles that hold any of the points (n, 2)."""
    lat = np.radians(lonlat[:, 1])
    x = (lonlat[:, 0] + 180) / 360 * 2**zoom
    y = (1 - np.arcsinh(np.tan(lat)) / np.pi) / 2 * 2**zoom
    return sorted(set(zip(x.astype(int).tolist(), y.astype(int).tolist(), strict=True)))


def measure_tiles(folder: Path, quick: bool) -> Piece:
    """Every tile of zooms 4 to 9 that holds data, of a species without a file: CPU time and bytes."""
    library = Library.open(cache_dir=folder / "tiles")
    names = ("eschscholzia-californica", "bromus-diandrus", "layia-platyglossa")
    field = open_field(bundle_path() / "fields" / f"{GRID}.zarr.zip")
    valid = np.concatenate(
        [field.grid.cell_lonlat(window)[field.read(window)[1]] for window in field.blocks(stored=True)]
    )
    chosen = [library.find(name, GRID, GROUP) for name in names[: 1 if quick else None]]
    assert all(isinstance(each, LiveMap) for each in chosen), "the species must have no file"
    zooms = ZOOMS[:3] if quick else ZOOMS
    wanted = {zoom: tiles_over(valid, zoom) for zoom in zooms}
    drawn: dict[int, list[int]] = {zoom: [] for zoom in zooms}

    def draw() -> None:
        for species in chosen:
            for zoom, places in wanted.items():
                for x, y in places:
                    tile = paint.tile_levels(species, "WebMercatorQuad", zoom, x, y)
                    drawn[zoom].append(len(paint.encode_png(tile)))

    first, _ = timed(draw)
    again, ratio = timed(draw)
    count = len(chosen) * sum(map(len, wanted.values()))
    return {
        "species": [each.about.id for each in chosen],
        "tiles_with_data": {str(zoom): len(places) for zoom, places in wanted.items()},
        "bytes_per_tile": {str(zoom): float(np.mean(sizes)) for zoom, sizes in drawn.items()},
        "first_s_all_zooms": first / len(chosen),
        "s_per_tile": again / count,
        "tiles_per_s": count / again,
        "wall_to_cpu": ratio,
    }


def measure_bytes() -> Piece:
    """Bytes that stay on the disk for each valid cell: embeddings, and the adapter's output of a group."""
    stored = {}
    for path in sorted((bundle_path() / "fields").glob("*.zarr.zip")):
        field = open_field(path)
        stored[field.grid.name] = path.stat().st_size / field.valid_cells
    heads, field = (
        load_heads(bundle_path() / "heads" / GROUP),
        open_field(bundle_path() / "fields" / f"{GRID}.zarr.zip"),
    )
    store = BlockStore(heads, FieldSource(field), "bytes", None, Lru(1 << 30, lambda block: block.bytes))
    part = [numbers[0] for numbers in store.parts()[::3]]
    blocks = store.blocks(part).values()
    kept = sum(block.bytes for block in blocks) / max(1, sum(len(block.z) for block in blocks))
    files = [path for path in (bundle_path() / "heads" / GROUP).iterdir() if path.suffix != ".json"]
    shared = sum(each.nbytes for member in heads.adapter.members for each in member)
    return {
        "field_bytes_per_cell": stored,
        "embedding_numbers": field.dim,
        "adapter_output_bytes_per_cell": kept,
        "adapter_bytes": shared,
        "head_bytes_per_species": (sum(path.stat().st_size for path in files) - shared) / len(heads),
    }


def measure(imagery: Path, quick: bool, folder: Path) -> dict[str, Any]:
    """All pieces."""
    heads = load_heads(bundle_path() / "heads" / GROUP)
    field = open_field(bundle_path() / "fields" / f"{GRID}.zarr.zip")
    works: dict[str, Callable[[], Piece]] = {
        "encode": lambda: measure_encode(imagery, quick, folder),
        "chips": lambda: measure_chips(quick),
        "scores": lambda: measure_scores(heads, field, quick),
        "fit": lambda: measure_fit(field.dim, quick),
        "map": lambda: measure_maps(folder, quick),
        "tile": lambda: measure_tiles(folder, quick),
        "bytes": measure_bytes,
    }
    found = {}
    with one_thread():
        for name, work in works.items():
            found[name] = work()
            say(f"{name}: {found[name]}")
    return found


def rounded(value: Any) -> Any:
    """Floats to four digits, however deep."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--imagery", type=Path, default=IMAGERY, help="imagery of California")
    parser.add_argument("--out", type=Path, default=None, help="file that keeps the result")
    parser.add_argument("--quick", action="store_true", help="small pieces, for tests")
    args = parser.parse_args()
    with TemporaryDirectory(prefix="geomap-bench-") as folder:
        measured = measure(args.imagery, args.quick, Path(folder))
    machine = {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]}
    result = rounded({"benchmark": "cost", "quick": args.quick, "measured": measured, "machine": machine})
    print(json.dumps(result))
    if args.out is not None:
        kept = {"command": f"python benchmarks/cost.py --out {args.out}", **result}
        args.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
