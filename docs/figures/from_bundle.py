"""Figures from the shipped bundle alone: thresholds, scores beside the null model, effective resolution.

Each function draws one figure and gives the numbers that the pages quote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from drawing import GREY, INK, NODATA, RAMP, finish, outline
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray

from geomap.catalog import bundle_path
from geomap.field import EmbeddingField, open_field
from geomap.heads import THRESHOLDS, SpeciesHeads, load_heads

Planes = NDArray[np.float32]
RULES = {
    "mtp": "MTP: no record falls below",
    "lpt5": "LPT5: 5 % of held-out records below",
    "p10": "P10: 10 % of the records below",
    "maxsss": "MaxSSS: sensitivity + specificity",
}
SIDES = (2, 3, 4, 5, 7, 10, 14, 20, 28, 40, 56, 80, 112)  # of blocks [cells]
KEPT = 0.9  # share of a map's variance that its effective resolution keeps
FULL = 0.5  # share of a block's cells that must have data


def bundled(group: str, grid: str) -> tuple[SpeciesHeads, EmbeddingField]:
    """Heads and a field of the bundle."""
    return load_heads(bundle_path() / "heads" / group), open_field(
        bundle_path() / "fields" / f"{grid}.zarr.zip"
    )


def maps(heads: SpeciesHeads, field: EmbeddingField, rows: list[int]) -> Planes:
    """Maps (species, h, w) float32 of some species, NaN without data."""
    found = np.full((len(rows), *field.grid.shape), np.nan, np.float32)
    for block in field.blocks(stored=True):
        values, valid = field.read(block)
        part = found[:, block.row : block.row + block.height, block.col : block.col + block.width]
        part[:, valid] = heads.predict(values[valid], rows).T
    return found


def thresholds(out: Path) -> dict[str, Any]:
    """One species above each of its thresholds."""
    heads, field = bundled("california-plants", "california")
    row = heads.index("Eschscholzia californica")
    poppy = maps(heads, field, [row])[0]
    known = heads.species.iloc[row]
    figure, axes = plt.subplots(1, 5, figsize=(11, 3.1))
    extent = outline(field.grid)
    shown = axes[0].imshow(poppy, cmap=RAMP, vmin=0, vmax=1, extent=extent, interpolation="nearest")
    axes[0].set_title("suitability")
    figure.colorbar(shown, ax=axes[0], orientation="horizontal", shrink=0.8, pad=0.04)
    binary = ListedColormap(["#f3e6cf", RAMP(0.75)]).with_extremes(bad=NODATA)
    for axis, (name, title) in zip(axes[1:], RULES.items(), strict=True):
        above = np.where(np.isnan(poppy), np.nan, poppy >= known[name])
        axis.imshow(above, cmap=binary, vmin=0, vmax=1, extent=extent, interpolation="nearest")
        axis.set_title(title.split(":")[0])
        area = known[f"area_km2_{name}"]
        axis.set_xlabel(f"above {known[name]:.3f}\n{area:,.0f} km²\nomits {known[f'omission_{name}']:.1%}")
    for axis in axes:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    finish(figure, out / "thresholds.webp", dpi=100)
    land = float(np.isfinite(poppy).sum())
    return {
        "species": known["scientificName"],
        "land_km2": land,
        **{
            name: {
                "value": float(known[name]),
                "area_km2": float(known[f"area_km2_{name}"]),
                "omission": float(known[f"omission_{name}"]),
            }
            for name in THRESHOLDS
        },
    }


def null(out: Path) -> dict[str, Any]:
    """AUC of every species beside that of its null model."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.7), sharey=True)
    found: dict[str, Any] = {}
    groups = sorted(path.name for path in (bundle_path() / "heads").iterdir())
    for axis, group in zip(axes, groups, strict=True):
        table = load_heads(bundle_path() / "heads" / group).species.dropna(subset=["auc", "null_auc"])
        better = (table["auc"] > table["null_auc"]).to_numpy()
        axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
        for rows, colour in ((better, RAMP(0.6)), (~better, "#3b3b3b")):
            axis.scatter(
                table["null_auc"][rows], table["auc"][rows], s=9, color=colour, linewidths=0, alpha=0.8
            )
        axis.set(xlim=(0.38, 1.01), ylim=(0.38, 1.01), aspect="equal", xlabel="AUC of coordinates alone")
        axis.set_title(f"{group}\n{better.mean():.0%} above the line")
        outside = int(((table["auc"] < 0.38) | (table["null_auc"] < 0.38)).sum())
        if outside:
            axis.text(0.99, 0.4, f"{outside} species below the frame", color=GREY, fontsize=8, ha="right")
        worst = (table["auc"] - table["null_auc"]).idxmin()
        found[group] = {
            "species": len(table),
            "auc_median": float(table["auc"].median()),
            "null_auc_median": float(table["null_auc"].median()),
            "auc_better": float(better.mean()),
            "auc_worse_count": int((~better).sum()),
            "auc_below_half": int((table["auc"] < 0.5).sum()),
            **{
                f"{score}_better": float((table[score] > table[f"null_{score}"]).mean())
                for score in ("ap", "boyce")
            },
            "brier_better": float((table["brier"] < table["null_brier"]).mean()),
            "worst": str(table["vernacularName"][worst] or table["scientificName"][worst]),
            "worst_auc": float(table["auc"][worst]),
            "worst_null_auc": float(table["null_auc"][worst]),
            "worst_sites": int(table["n_test"][worst]),
        }
    axes[0].set_ylabel("AUC of the heads")
    finish(figure, out / "null.webp")
    return found


def within_blocks(planes: Planes, side: int) -> NDArray[np.float64]:
    """Share of each map's variance (species,) that lies inside blocks of `side` cells, so that means lose it.

    Only blocks with enough data count, in the variance of the whole too.

    Args:
        planes: (species, h, w) float32, NaN without data.
        side: Side of a block [cells].
    """
    count, height, width = planes.shape
    rows, cols = height // side, width // side
    cut = planes[:, : rows * side, : cols * side].reshape(count, rows, side, cols, side)
    blocks = cut.transpose(0, 1, 3, 2, 4).reshape(count, rows * cols, side * side).astype(np.float64)
    known = np.isfinite(blocks[0])
    full = known.mean(axis=1) >= FULL
    known, blocks = known[full], np.where(known[full], blocks[:, full], 0.0)
    size = known.sum(axis=1)
    mean = blocks.sum(axis=2) / size
    squares = (blocks**2).sum(axis=2)
    total = squares.sum(axis=1) - (mean * size).sum(axis=1) ** 2 / size.sum()
    inside = (squares - size * mean**2).sum(axis=1)
    share: NDArray[np.float64] = inside / total
    return share


def effective(shares: NDArray[np.float64], cell_km: float) -> NDArray[np.float64]:
    """Side of blocks [km] (species,) whose means keep `KEPT` of the variance, between the measured sides."""
    sides = np.array(SIDES, np.float64)
    return np.array([np.interp(1 - KEPT, column, sides) for column in shares.T]) * cell_km


def resolution(out: Path) -> dict[str, Any]:
    """How much of a map is lost when its cells are averaged to blocks, and one map both ways."""
    cases = {
        "plants, 1 km": ("california-plants", "california", 2),
        "birds drawn at 1 km": ("north-america-birds", "california", 12),
        "birds, 10 km": ("north-america-birds", "north-america", 12),
    }
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.7), width_ratios=(1.5, 1, 1))
    found: dict[str, Any] = {"kept": KEPT}
    for (label, (group, grid, every)), colour in zip(
        cases.items(), (RAMP(0.55), RAMP(0.85), GREY), strict=True
    ):
        heads, field = bundled(group, grid)
        planes = varied(maps(heads, field, list(range(0, len(heads), every))))
        km = abs(field.grid.transform.a) / 1000
        shares = np.stack([within_blocks(planes, side) for side in SIDES])
        low, middle, high = np.quantile(shares, [0.1, 0.5, 0.9], axis=1)
        sides = np.array(SIDES) * km
        axes[0].plot(sides, 1 - middle, color=colour, label=label)
        axes[0].fill_between(sides, 1 - high, 1 - low, color=colour, alpha=0.2, linewidth=0)
        side = effective(shares, km)
        found[label] = {
            "species": len(planes), "cell_km": km,
            "kept_at_ten_cells": float(1 - middle[SIDES.index(10)]),
            "effective_km_median": float(np.median(side)),
            "effective_km_10": float(np.quantile(side, 0.1)),
            "effective_km_90": float(np.quantile(side, 0.9)),
        }  # fmt: skip
    axes[0].axhline(KEPT, color=INK, linewidth=0.8, linestyle=":")
    axes[0].set(
        xscale="log", xlabel="side of blocks [km]", ylabel="variance that block means keep", ylim=(0, 1)
    )
    axes[0].legend(frameon=False, loc="lower left")
    draw_blocks(axes[1], axes[2])
    finish(figure, out / "resolution.webp")
    return found


def varied(planes: Planes) -> Planes:
    """The maps that are not near zero everywhere: a flat map has no resolution."""
    return planes[np.nanstd(planes, axis=(1, 2)) > 0.02]


def draw_blocks(fine: Any, coarse: Any, side: int = 10) -> None:
    """A piece of a map in its own cells and in means of blocks of 10 km."""
    heads, field = bundled("california-plants", "california")
    poppy = maps(heads, field, [heads.index("Eschscholzia californica")])[0]
    row, col = field.grid.rowcol(np.array([[-118.7, 35.1]]))[:2]
    piece = poppy[row[0] - 60 : row[0] + 60, col[0] - 60 : col[0] + 60]
    blocks = np.nanmean(piece.reshape(120 // side, side, 120 // side, side), axis=(1, 3))
    for axis, values, title in ((fine, piece, "1 km cells"), (coarse, blocks, f"means of {side} km")):
        axis.imshow(values, cmap=RAMP, vmin=0, vmax=1, interpolation="nearest", extent=(0, 120, 0, 120))
        axis.set(title=f"poppy, {title}", xticks=[0, 60, 120], yticks=[], xlabel="km")
