"""What the figures share: colours, fonts, and how a figure becomes a small WebP file."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from PIL import Image

from geomap.colour import DEFAULT, STEPS, palette
from geomap.grid import Grid

INK, GREY, NODATA = "#22252a", "#8a8f96", "#d9dbde"
LARGEST = 120_000  # bytes of a figure
STYLE = {
    "font.size": 9.0, "axes.titlesize": 10.0, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": INK, "figure.facecolor": "white", "savefig.facecolor": "white", "image.resample": False,
}  # fmt: skip


def ramp() -> ListedColormap:
    """The colours of all maps of geomap, nodata in grey."""
    found = ListedColormap(palette(DEFAULT)[: STEPS + 1] / 255.0, name="geomap").with_extremes(bad=NODATA)
    assert isinstance(found, ListedColormap)
    return found


RAMP = ramp()


def say(text: str) -> None:
    """Tell on the terminal what is being done."""
    print(text, file=sys.stderr, flush=True)


def prepare() -> None:
    """Draw without a screen, in the style of the pages."""
    mpl.use("Agg")
    mpl.rcParams.update(STYLE)


def outline(grid: Grid) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a grid in its CRS, as imshow takes them."""
    height, width = grid.shape
    left, top = grid.transform * (0, 0)
    right, bottom = grid.transform * (width, height)
    return left, right, bottom, top


def finish(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write a figure as WebP.

    Raises:
        ValueError: The file would be larger than a page should carry.
    """
    figure.tight_layout()
    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.05)
    plt.close(figure)
    picture = Image.open(raw).convert("RGB")
    kept = io.BytesIO()
    picture.save(kept, "WEBP", quality=82, method=6)
    if len(kept.getvalue()) > LARGEST:
        raise ValueError(f"{path.name} has {len(kept.getvalue())} bytes: draw it smaller")
    path.write_bytes(kept.getvalue())
    say(f"{path}: {len(kept.getvalue()) // 1000} kB, {picture.width} x {picture.height}")
