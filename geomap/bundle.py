"""Makes everything that is shipped in geomap/bundle, from the data folder, in one command.

    python -m geomap.bundle --shared ../shared/data [--out geomap/bundle] [--work runs/bundle] [--workers 2]

The stages are kept in the work folder, and a stage that is finished there is not made again; delete the
folder to start afresh. No imagery and no record goes into the bundle: only weights, embeddings, heads and
scores learnt from them.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from geomap.bundle_card import model_card
from geomap.bundle_recipe import FIELDS, HEADS, NASA, FieldRecipe, HeadsRecipe, join_tables, month_pictures
from geomap.catalog import bundle_path
from geomap.cli import run
from geomap.errors import RecordsError
from geomap.fieldstore import pack_field
from geomap.fit import fit_heads
from geomap.fitrequest import FitRequest
from geomap.grid import named_grid
from geomap.imagery import open_imagery
from geomap.pretraining import cut_area, draw_places, season_features
from geomap.sweep import sweep

if TYPE_CHECKING:
    from geomap.heads import SpeciesHeads
    from train.spec import ChipSpec

app = typer.Typer(add_completion=False)
log = logging.getLogger(__name__)
LARGEST_BUNDLE = 75_000_000  # bytes


@app.command()
def bundle(
    shared: Annotated[Path, typer.Option(help="Data folder: imagery/, occurrences/.")] = Path(
        "../shared/data"
    ),
    out: Annotated[Path | None, typer.Option(help="Bundle folder. Default: the shipped one.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for stages in between.")] = Path("runs/bundle"),
    workers: Annotated[int, typer.Option(help="Processes of the sweeps.", min=0)] = 2,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
) -> None:
    """Make the shipped encoders, fields and heads again."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    import distributed  # noqa: F401  # sets the levels of its loggers when it is first imported

    logging.getLogger("distributed").setLevel(logging.WARNING)
    make_bundle(shared, out or bundle_path(), work, workers, seed)


def make_bundle(shared: Path, out: Path, work: Path, workers: int, seed: int) -> None:
    """Encoders, fields, heads, model card, index: each a stage, in this order.

    Args:
        shared: Data folder.
        out: Bundle folder; what it held is replaced stage by stage.
        work: Folder for what lies in between.
        workers: Processes of the sweeps.
        seed: Seed of everything random.

    Raises:
        RecordsError: the data folder lacks a file, or the bundle grew too large.
    """
    require_data(shared)
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    encoders = make_encoders(shared, out / "encoders", work, seed)
    for field in FIELDS:
        make_field(field, shared, encoders, out / "fields", work, workers)
    heads = [make_heads(group, shared, out, work, seed) for group in HEADS]
    minutes = (time.monotonic() - started) / 60
    (out / "MODEL_CARD.md").write_text(model_card(encoders, heads), encoding="utf-8")
    (out / "index.json").write_text(json.dumps({"groups": [g.name for g in HEADS]}) + "\n", encoding="utf-8")
    require_size(out)
    log.info("bundle in %s after %.0f minutes", out, minutes)


def require_data(shared: Path) -> None:
    """Refuses a data folder that lacks a file, before anything is made.

    Raises:
        RecordsError: naming the first file that is missing.
    """
    wanted = [f.imagery for f in FIELDS] + [table for group in HEADS for table in group.tables]
    for path in (shared / name for name in wanted):
        if not path.is_file():
            raise RecordsError("cannot make the bundle", f"no {path}", "give the data folder with --shared")
    if len(month_pictures(shared)) != 12:
        found = f"{len(month_pictures(shared))} monthly pictures in {shared}"
        raise RecordsError("cannot make the bundle", found, "give the data folder with --shared")


def require_size(out: Path) -> None:
    """Refuses a bundle that is too large to ship.

    Raises:
        RecordsError: with the size found.
    """
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    log.info("bundle of %.1f MB", size / 1e6)
    if size > LARGEST_BUNDLE:
        found = f"{size / 1e6:.1f} MB in {out}"
        raise RecordsError(
            "cannot ship the bundle", found, f"make it smaller than {LARGEST_BUNDLE / 1e6:g} MB"
        )


def make_encoders(shared: Path, out: Path, work: Path, seed: int) -> Path:
    """Cuts chips and pre-trains the encoders, unless the work folder has them; gives their folder."""
    from train.chips import card_for  # imported here: torch is slow to load
    from train.encoders.pair import default_card
    from train.pretrain_pair import PretrainConfig, pretrain

    run_folder = work / "encoders"
    if not (run_folder / "card.json").is_file():
        log.info("cutting chips")
        levels = default_card().aerial.levels
        arrays = join_areas([cut_field(field, shared, levels, seed + n) for n, field in enumerate(FIELDS)])
        log.info("pre-training on %d places", len(arrays["lonlat"]))
        pretrain(arrays, card_for(arrays, credit=NASA), PretrainConfig(seed=seed), run_folder)
    out.mkdir(parents=True, exist_ok=True)
    (out / "card.json").unlink(missing_ok=True)  # of older encoders: it must not stand beside new weights
    for name in ("weights.safetensors", "losses.csv", "card.json"):
        shutil.copyfile(run_folder / name, out / name)
    return out


def cut_field(
    field: FieldRecipe, shared: Path, levels: Sequence[ChipSpec], seed: int
) -> dict[str, NDArray[Any]]:
    """Chips and seasons of one area, and the seasons of its further places."""
    months = month_pictures(shared)
    arrays = cut_area(field.area, open_imagery(shared / field.imagery), months, levels, seed)
    further = draw_places(field.area, np.random.default_rng(seed + 100), field.seasons_only)
    return {**arrays, "extra_lonlat": further, "extra_season": season_features(months, further)}


def join_areas(areas: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The arrays of several areas under each other."""
    return {name: np.concatenate([area[name] for area in areas]) for name in areas[0]}


def make_field(field: FieldRecipe, shared: Path, encoders: Path, out: Path, work: Path, workers: int) -> None:
    """Sweeps a named grid, unless the work folder has its field, and packs it into one file.

    Raises:
        FieldError: the field in the work folder is of other encoders, imagery or grid.
    """
    store = work / f"{field.grid}.zarr"
    log.info("sweeping %s", field.grid)
    grid, imagery = named_grid(field.grid), shared / field.imagery
    # Resuming a finished field does nothing but make sure that it is of these encoders and this imagery.
    sweep(encoders, imagery, grid, store, workers=workers, resume=store.exists(), credit=NASA)
    out.mkdir(parents=True, exist_ok=True)
    packed = out / f"{field.grid}.zarr.zip"
    packed.unlink(missing_ok=True)
    pack_field(store, packed)
    log.info("%s: %.1f MB", packed, packed.stat().st_size / 1e6)


def make_heads(group: HeadsRecipe, shared: Path, out: Path, work: Path, seed: int) -> SpeciesHeads:
    """Fits a group of heads on the bundle's field."""
    log.info("fitting %s", group.name)
    table = join_tables(group, shared, work)
    request = FitRequest(
        out=out / "heads" / group.name,
        records=None if group.surveys else table,
        surveys=table if group.surveys else None,
        field=out / "fields" / f"{group.grid}.zarr.zip",
        min_records=group.min_records,
        period=group.period,
        seed=seed,
        credit=group.credit,
        licence=group.licence,
        overwrite=True,
    )
    return fit_heads(request, progress=lambda stage: log.info("  %s", stage))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 2 for what the user can mend."""
    return run(app, argv)


if __name__ == "__main__":
    sys.exit(main())
