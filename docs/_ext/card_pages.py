"""Tables of docs/model-card.md, from the files of the shipped bundle when the pages are built."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from md_text import plain, table

from geomap.bundle_recipe import FIELDS, NASA
from geomap.catalog import bundle_path
from geomap.field import open_field
from geomap.heads import SpeciesHeads, load_heads
from train.spec import EncoderCard

SCORES = {"auc": "AUC", "ap": "average precision", "brier": "Brier", "boyce": "Boyce"}
LOWER = {"brier"}  # lower is better


@cache
def groups() -> tuple[SpeciesHeads, ...]:
    """All heads of the bundle, by name."""
    return tuple(load_heads(path) for path in sorted((bundle_path() / "heads").iterdir()))


def card() -> EncoderCard:
    """What the encoders say of themselves."""
    return EncoderCard.from_json((bundle_path() / "encoders" / "card.json").read_text(encoding="utf-8"))


def encoders() -> str:
    """Shape and training of the encoders."""
    found = card()
    aerial, location = found.aerial, found.location
    places = ", ".join(f"{field.area.places:,} in {field.grid}" for field in FIELDS)
    chips = "; ".join(
        f"{level.metres_per_pixel / 1000:g} km a pixel, chips of {level.metres / 1000:g} km"
        for level in aerial.levels
    )
    config = found.training["config"]
    rows = [
        ["aerial encoder", f"first stage of timm `{aerial.backbone}`, {aerial.channels} channels, dense"],
        ["what it sees", chips],
        ["location encoder", f"`{location.kind}`, {location.blocks} residual blocks of {location.hidden}"],
        [
            "embedding",
            f"{aerial.dim} numbers of the chip, {location.dim} learnt and {location.position} fixed ones "
            "of the place",
        ],
        ["objective", f"`{found.training['objective']}`, without species labels"],
        ["places", f"{found.training['places']:,}: {places}"],
        ["epochs, batch", f"{config['epochs']} and {config['location_epochs']}; {config['batch']} and "
         f"{config['location_batch']}; seed {config['seed']}"],
        ["imagery", f"{NASA}; monthly composites of 2004 in training only"],
    ]  # fmt: skip
    return table(("", "what it is"), rows)


def data() -> str:
    """What each group was fitted on, and what of its table was left out."""
    rows, dropped = [], []
    for heads in groups():
        said = heads.card["data"]
        period = " to ".join(said["period"]) if said["period"] else "not stated"
        cells = (heads.name, heads.meaning, str(len(heads)), said["credit"], said["licence"], period)
        rows.append([plain(each) for each in cells])
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in said["dropped"].items())
        dropped.append(f"- {heads.name}: {said['rows']:,} rows, of which left out: {plain(reasons)}.")
    head = ("group", "meaning", "species", "data", "licence", "period")
    return table(head, rows) + "\n" + "\n".join(dropped) + "\n"


def metrics() -> str:
    """Median of each score beside the null model's, and the share of species in which heads are better."""
    rows = []
    for heads in groups():
        for score, name in SCORES.items():
            known = heads.species.dropna(subset=[score, f"null_{score}"])
            gain = known[score] - known[f"null_{score}"]
            better = (gain < 0 if score in LOWER else gain > 0).mean()
            rows.append(
                [
                    heads.name,
                    name + (" (lower is better)" if score in LOWER else ""),
                    f"{known[score].median():.3f}",
                    f"{known[f'null_{score}'].median():.3f}",
                    f"{100 * better:.0f} %",
                    str(len(known)),
                ]
            )
    head = (
        "group",
        "score",
        "heads, median",
        "coordinates alone, median",
        "species better than null",
        "species",
    )
    return table(head, rows)


def folds() -> str:
    """How each group was validated."""
    rows = []
    for heads in groups():
        said = heads.card["cross_validation"]
        rows.append([heads.name, str(said["folds"]), f"{said['block_degrees']:g}°", said["scored_on"]])
    return table(("group", "folds", "blocks", "scored on"), rows)


def digest(path: Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def files() -> str:
    """Every file of the bundle with its size and hash."""
    root = bundle_path()
    found = sorted(path for path in root.rglob("*") if path.is_file())
    rows = [
        [f"`{path.relative_to(root).as_posix()}`", f"{path.stat().st_size:,}", f"`{digest(path)}`"]
        for path in found
    ]
    rows.append(["all", f"{sum(path.stat().st_size for path in found):,}", ""])
    return table(("file", "bytes", "SHA-256, first 16 digits"), rows)


def fields() -> str:
    """The shipped fields."""
    rows = []
    for path in sorted((bundle_path() / "fields").glob("*.zarr.zip")):
        field = open_field(path)
        side = abs(field.grid.transform.a) / 1000
        rows.append(
            [
                field.grid.name,
                f"{side:g} km",
                str(field.grid.crs),
                f"{field.land_cells:,}",
                f"{field.valid_cells:,}",
            ]
        )
    return table(("field", "cell", "CRS", "land cells", "with an embedding"), rows)


SUBJECTS: dict[str, Callable[[], str]] = {
    "encoders": encoders,
    "data": data,
    "metrics": metrics,
    "folds": folds,
    "files": files,
    "fields": fields,
}


def text(subject: str) -> str:
    """A table of the card.

    Raises:
        KeyError: There is no such table.
    """
    return SUBJECTS[subject]()
