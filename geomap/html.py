"""How the bundle, heads and fields show themselves in a notebook: a short table of HTML, all text escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geomap.catalog import Catalog
    from geomap.field import EmbeddingField
    from geomap.heads import SpeciesHeads

SHOWN = 10  # species of a table
COLUMNS = ("scientificName", "vernacularName", "records", "auc", "null_auc", "p10")


def catalog_html(catalog: Catalog) -> str:
    """Groups of a catalogue and the grids they can be rendered on."""
    rows = {}
    for group in catalog.groups:
        heads = catalog.heads(group)
        grids = ", ".join(catalog.grids(group)) or "none"
        rows[group] = f"{len(heads)} species, {heads.meaning}; grids: {grids}"
    return block("Maps that can be rendered", rows)


def heads_html(heads: SpeciesHeads) -> str:
    """What heads are, and their first species with scores beside the null model's."""
    data = heads.card.get("data", {})
    facts = {
        "species": str(len(heads)),
        "meaning": f"{heads.meaning}, 0 to 1",
        "fitted on the grid": heads.card.get("grid"),
        "data": data.get("credit"),
        "licence": data.get("licence"),
    }
    table = heads.species
    shown = table[[column for column in COLUMNS if column in table]].head(SHOWN)
    rest = f"<p>and {len(table) - SHOWN} more in <code>.species</code></p>" if len(table) > SHOWN else ""
    return block(f"Species heads {heads.name}", facts) + str(shown.to_html(index=False, na_rep="")) + rest


def field_html(field: EmbeddingField) -> str:
    """Where a field lies and what is in it."""
    height, width = field.grid.shape
    facts = {
        "grid": f"{field.grid.name}: {height} x {width} cells of {field.grid.resolution:g}, {field.grid.crs}",
        "land cells with an embedding": f"{field.valid_cells:,} of {field.land_cells:,}",
        "features": str(field.dim),
        "encoders": field.encoder_hash[:12],
        "imagery": field.credit,
    }
    return block(f"Embedding field {field.path.name}", facts)


def block(title: str, rows: Mapping[str, Any]) -> str:
    """A title above names and what is said of each; what is empty is left out."""
    lines = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(str(said))}</td></tr>"
        for name, said in rows.items()
        if said
    )
    return f"<div><strong>{escape(title)}</strong><table>{lines}</table></div>"
