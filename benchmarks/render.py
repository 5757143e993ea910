"""Speed of rendering: beside a bare matrix product and write, beside SINR's way, and in two processes.

    python benchmarks/render.py [--heads california-plants] [--species N] [--repeats 2] [--quick]

On the California grid (1 km), with the bundle's field and heads; where there is no bundle, with a made-up
field and heads of the size that geomap.fit makes:

    render  geomap.rendering.render_maps in this process: scores, maps, the check of each, Items, Collection
    bare    the field read once, its adapter, one matrix product for all species; for each one GDAL COG write
            with the same creation options
    sinr    for each species a pass of SINR's location network (wrapped input, 4 residual blocks of 256, its
            row of the class layer) over all cells with data, then the same write; a sample of species
    two     render with two processes, their start included

One thread in each process. The ratios are of times in one run, each the least of all repeats, which take
turns. On a machine that others use, wall time says little: `*_cpu` are the same ratios of this process's CPU
time. Prints one JSON line.

Reference: Cole et al., Spatial Implicit Neural Representations for Global-Scale Species Mapping (ICML 2023),
section 4: https://arxiv.org/abs/2306.02564
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from rich.console import Console
from threadpoolctl import threadpool_limits

HERE = Path(__file__).resolve().parent
sys.path = [path for path in sys.path if Path(path or ".").resolve() != HERE]  # benchmarks/train.py is there

from geomap.catalog import bundle_path  # noqa: E402
from geomap.cog import LAYOUT, NODATA  # noqa: E402
from geomap.field import EmbeddingField, open_field  # noqa: E402
from geomap.grid import Grid, named_grid  # noqa: E402
from geomap.heads import SpeciesHeads, load_heads, save_heads  # noqa: E402
from geomap.rendering import Request, render_maps  # noqa: E402
from geomap.target import FieldOptions  # noqa: E402
from geomap.testing_bundle import make_heads, small_california, write_field  # noqa: E402

TARGETS = {"render_to_bare": 1.5, "sinr_to_render": 10.0, "two_to_one": 1.6}
MEMBERS, HIDDEN, WIDTH = 4, 256, 64  # of the adapters that geomap.fit makes
ROWS = 8192  # cells in a forward pass
GROUP = "california-plants"
Network = Callable[[int], NDArray[np.float32]]  # species -> its map (H, W)


class Seconds(NamedTuple):
    """What a piece of work took."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Case:
    """What is rendered: field, heads, and the species of them."""

    field: EmbeddingField
    heads: SpeciesHeads
    folder: Path  # of the heads
    chosen: tuple[int, ...]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def timed(work: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def take_turns(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, Seconds]:
    """The least time of each work; in turns, so that whatever slows the machine down slows all of them."""
    times: dict[str, list[Seconds]] = {name: [] for name in works}
    for repeat in range(repeats):
        for name, work in works.items():
            times[name].append(timed(work))
            say(f"{repeat + 1}/{repeats} {name}: {times[name][-1].wall:.2f} s, CPU {times[name][-1].cpu:.2f}")
    return {name: Seconds(*(min(column) for column in zip(*of, strict=True))) for name, of in times.items()}


def bundled(group: str, count: int | None) -> Case | None:
    """A group of the bundle on the California grid; None where the bundle lacks either."""
    field, heads = bundle_path() / "fields/california.zarr.zip", bundle_path() / "heads" / group
    if not (field.is_file() and (heads / "card.json").is_file()):
        return None
    return _case(open_field(field), heads, count)


def made_up(folder: Path, grid: Grid, count: int) -> Case:
    """A smooth field, and heads of the usual size with random weights."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> NDArray[np.float32]:
        return rng.normal(0, shape[0] ** -0.5, shape).astype(np.float32)

    field = write_field(folder / "field.zarr", grid)
    species = [(f"Planta {chr(97 + k // 26)}{chr(97 + k % 26)}", "", "") for k in range(count)]
    heads = make_heads("made-up", "suitability", species, field)
    members = tuple(
        (draw(field.dim, HIDDEN), draw(HIDDEN), draw(HIDDEN, WIDTH), draw(WIDTH)) for _ in range(MEMBERS)
    )
    heads = replace(
        heads,
        adapter=replace(heads.adapter, members=members),
        weights=draw(MEMBERS * WIDTH, count).T.copy(),
        card={**heads.card, "grid": ""},  # thresholds are of other weights: they are not to be checked
    )
    save_heads(heads, folder / "heads")
    return _case(field, folder / "heads", count)


def _case(field: EmbeddingField, folder: Path, count: int | None) -> Case:
    heads = load_heads(folder)
    return Case(field, heads, folder, tuple(range(len(heads)))[:count])


def render(case: Case, out: Path, workers: int) -> None:
    """The species by geomap's own function, into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    names = tuple(case.heads.species["scientificName"].iloc[list(case.chosen)])
    where = FieldOptions(case.field.path, None, out / ".fields", workers)
    request = Request(names, out, str(case.folder), None, where, workers)
    outcome = render_maps(request, Console(file=sys.stderr, quiet=True))
    assert len(outcome.items) == len(case.chosen)


def render_bare(case: Case, out: Path) -> None:
    """What cannot be done without: embeddings, product, and a COG for each species."""
    grid = case.field.grid
    parts = []
    with threadpool_limits(1):
        for unit in case.field.blocks(stored=True):
            features, valid = case.field.read(unit)
            scores = case.heads.predict(features[valid], case.chosen)
            parts.append((unit, valid, np.rint(scores.T * np.float32(1e4)).astype(np.uint16)))
    for k, index in enumerate(case.chosen):
        plane = np.full(grid.shape, NODATA, np.float32)
        for (row, col, height, width), valid, steps in parts:
            plane[row : row + height, col : col + width][valid] = steps[k] / np.float32(1e4)
        write_plane(out / f"{index}.tif", plane, grid)


def write_plane(path: Path, plane: NDArray[np.float32], grid: Grid) -> None:
    """One GDAL COG write with geomap's creation options."""
    height, width = plane.shape
    with rasterio.open(
        path, "w", driver="COG", height=height, width=width, count=1, dtype="float32", nodata=NODATA,
        crs=str(grid.crs), transform=grid.transform, **LAYOUT,
    ) as target:  # fmt: skip
        target.write(plane, 1)


def valid_cells(field: EmbeddingField) -> NDArray[np.bool_]:
    """Cells (H, W) with data, block by block: all embeddings at once would fill the memory."""
    valid = np.zeros(field.grid.shape, np.bool_)
    for block in field.blocks(stored=True):
        row, col, height, width = block
        valid[row : row + height, col : col + width] = field.read(block)[1]
    return valid


def sinr_network(field: EmbeddingField, species: int) -> Network:
    """SINR's location network on the cells of a field that have data; their input is encoded beforehand.

    Gives scores (H, W) of a species, `NODATA` where there is no data.
    """
    import torch  # here, because the processes that render import this module and need no torch

    from train.encoders.location import LocationEncoder
    from train.spec import LocationSpec
    from train.threads import one_thread

    torch.manual_seed(0)
    valid = valid_cells(field)
    network = LocationEncoder(LocationSpec(kind="wrap", hidden=256, blocks=4)).eval()
    classes = torch.nn.Linear(256, species, bias=False).weight
    inputs = network.encoding(torch.from_numpy(field.grid.cell_lonlat()[valid])).float()

    def scores(index: int) -> NDArray[np.float32]:
        with one_thread(), torch.inference_mode():
            hidden = (network.blocks(torch.relu(network.enter(rows))) for rows in inputs.split(ROWS))
            found = torch.cat([torch.sigmoid(features @ classes[index]) for features in hidden])
        plane = np.full(field.grid.shape, NODATA, np.float32)
        plane[valid] = np.round(found.numpy(), 4)
        return plane

    return scores


def render_sinr(network: Network, species: Sequence[int], grid: Grid, out: Path) -> None:
    for index in species:
        write_plane(out / f"sinr-{index}.tif", network(index), grid)


def benchmark(case: Case, sample: int, repeats: int, folder: Path) -> dict[str, Any]:
    """All ways in turns; `sample` species by SINR's."""
    count, some = len(case.chosen), case.chosen[:sample]
    network = sinr_network(case.field, len(case.heads))
    (folder / "bare").mkdir()
    works: dict[str, Callable[[], object]] = {
        "bare": lambda: render_bare(case, folder / "bare"),
        "render": lambda: render(case, folder / "one", 1),
        "sinr": lambda: render_sinr(network, some, case.field.grid, folder / "bare"),
        "two": lambda: render(case, folder / "two", 2),
    }
    best = take_turns(works, repeats)
    sinr = Seconds(best["sinr"].wall / len(some), best["sinr"].cpu / len(some))
    one = Seconds(best["render"].wall / count, best["render"].cpu / count)
    return {
        "grid": case.field.grid.name,
        "heads": case.heads.name,
        "species": count,
        "cells": case.field.valid_cells,
        "render_s_per_species": one.wall,
        "bare_s_per_species": best["bare"].wall / count,
        "sinr_s_per_species": sinr.wall,
        "two_s_per_species": best["two"].wall / count,
        "render_to_bare": best["render"].wall / best["bare"].wall,
        "render_to_bare_cpu": best["render"].cpu / best["bare"].cpu,
        "sinr_to_render": sinr.wall / one.wall,
        "sinr_to_render_cpu": sinr.cpu / one.cpu,
        "two_to_one": best["render"].wall / best["two"].wall,
    }


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--heads", default=GROUP, help="group of the bundle")
    parser.add_argument("--species", type=int, default=None, help="only the first so many of the group")
    parser.add_argument("--sample", type=int, default=3, help="species by SINR's way")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="few made-up species on cells of 5 km, one repeat"
    )
    args = parser.parse_args()
    with TemporaryDirectory(prefix="geomap-bench-") as name:
        folder = Path(name)
        if args.quick:
            case = made_up(folder, small_california(5_000.0), args.species or 4)
        else:
            found = bundled(args.heads, args.species)
            case = found or made_up(folder, named_grid("california"), args.species or 64)
        result = benchmark(case, 1 if args.quick else args.sample, 1 if args.quick else args.repeats, folder)
    met = {
        name: result[name] <= target if name == "render_to_bare" else result[name] >= target
        for name, target in TARGETS.items()
    }
    shown = {key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in result.items()}
    extra = {"targets": TARGETS, "met": met, "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    print(json.dumps({"benchmark": "render", "quick": args.quick, **shown, **extra}))


if __name__ == "__main__":
    main()
