"""The model card of the bundle, written from what the encoders and heads say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from geomap.bundle_recipe import FIELDS, NASA
from geomap.heads import SpeciesHeads
from train.spec import EncoderCard

SCORES = ("auc", "ap", "brier", "boyce")
LIMITS = """\
- *suitability* is a relative score learnt from presences against background; it is not a probability and must
  not be summed as one. *probability* is the probability that one run of a Breeding Bird Survey route (50
  stops, one morning in the breeding season) detects the species; it is not the probability that a cell is
  occupied.
- The imagery is one cloud-free composite of August 2004 at 0.5 to 2.4 km per pixel. Water, soil, crops and
  roads smaller than that are not seen; change since 2004 is not known.
- Records follow people: roads, towns and parks are over-represented, most of all in the presence-only groups.
  Target-group background lessens this and does not remove it.
- Scores come from held-out blocks inside the sampled range. Far from any record a map is an extrapolation.
- Bird heads fitted at 10 km describe landscapes of tens of kilometres also where they are drawn at 1 km.
- Imagery ends at 85 degrees north and south; Antarctica beyond has no data."""


def model_card(encoders: Path, heads: Sequence[SpeciesHeads]) -> str:
    """Data and credits, training, scores beside their nulls, limits, licence: as Markdown.

    Args:
        encoders: Folder of the encoders.
        heads: Every group of the bundle.
    """
    card = EncoderCard.from_json((encoders / "card.json").read_text(encoding="utf-8"))
    parts = [
        "# Model card of the shipped bundle",
        "Everything here is made by `make bundle`; nothing is edited by hand. It holds no imagery and no "
        "record.",
        "## Encoders",
        _encoders(card),
        "## Heads",
        "\n\n".join(_group(each) for each in heads),
        "## Limits",
        LIMITS,
        "## Licence",
        "The code is MIT. Encoders and fields are learnt from NASA imagery (open data). Heads learnt from "
        "records under CC BY-NC or CC BY-NC-SA (california-plants, world-birds) are under the same terms: "
        "not for commercial use.",
    ]
    return "\n\n".join(parts) + "\n"


def _encoders(card: EncoderCard) -> str:
    levels = "; ".join(
        f"{level.metres_per_pixel / 1000:g} km/pixel, chips of {level.metres / 1000:g} km"
        for level in card.aerial.levels
    )
    places = ", ".join(f"{field.area.places} in {field.grid}" for field in FIELDS)
    last = {key: value for key, value in card.training["last"].items() if isinstance(value, float)}
    losses = ", ".join(f"{name} {value:.3f}" for name, value in sorted(last.items()))
    aerial, location = card.aerial, card.location
    return "\n".join(
        [
            f"- Aerial: first stage of timm `{aerial.backbone}`, {aerial.channels} channels, run densely; "
            f"{levels}; embedding of {aerial.dim}.",
            f"- Location: `{location.kind}`, embedding of {location.dim}, and {location.position} fixed "
            "position features.",
            "- Pre-trained without species labels by the CSP objective on "
            f"{card.training['places']} places ({places}); last losses: {losses}.",
            f"- Imagery: {NASA}; monthly composites of 2004 in training only.",
        ]
    )


def _group(heads: SpeciesHeads) -> str:
    known = heads.species.dropna(subset=["auc", "null_auc"])
    settings = heads.card["cross_validation"]
    rows = [f"| {name} | {known[name].mean():.4f} | {known[f'null_{name}'].mean():.4f} |" for name in SCORES]
    return "\n".join(
        [
            f"### {heads.name}: {heads.meaning}, {len(heads.species)} species",
            "",
            f"Data: {heads.card['data']['credit']} ({heads.card['data']['licence']}).",
            f"Scores: means over {len(known)} species, {settings['folds']} folds of "
            f"{settings['block_degrees']:g}-degree blocks; {settings['scored_on']}. "
            f"Null: {settings['null_model']}.",
            "",
            "| score | heads | coordinates only |",
            "|---|---|---|",
            *rows,
        ]
    )
