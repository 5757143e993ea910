"""Pixels of our tiles beside those of stock TiTiler."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from benchmarks.tileserver.asked import GRIDS, ZOOMS, at_ours, at_stock, draw
from benchmarks.tileserver.rounds import Rounds


def compare_pixels(rounds: Rounds) -> dict[str, Any]:
    """Shares of the pixels with data in which tiles of both servers differ, by CRS and kind of zoom."""
    out: dict[str, Any] = {"differences": {}}
    for crs, grid in GRIDS.items():
        for kind, zooms in (("coarse", ZOOMS[:2]), ("fine", ZOOMS[2:])):
            pairs = draw(rounds.case.stored, rounds.size.pixels, rounds.rng, zooms)
            paths = at_ours(pairs, grid, "/value"), at_stock(pairs, grid, ".npy")
            mine = rounds.clients.ask(rounds.servers["ours"], paths[0], keep=True).bodies
            theirs = rounds.clients.ask(rounds.servers["stock"], paths[1], keep=True).bodies
            totals: Counter[str] = Counter()
            for one, other in zip(*paths, strict=True):
                totals.update(differences(mine[one], theirs[other]))
            count = totals.pop("pixels")
            shares = {name: differing / count for name, differing in totals.items()}
            out["differences"][f"{crs}_{kind}"] = {"pixels": count, **shares}
        out[f"unexplained_{crs}"] = shares["beyond_a_pixel"]
    return out


def differences(value_png: bytes, npy: bytes) -> dict[str, int]:
    """Pixels in which a value tile of ours and stock's array differ.

    A value of ours is a step of 1/250; stock's mask is the least float32 where there is no data.
    """
    level = np.asarray(Image.open(io.BytesIO(value_png)))
    values, mask = np.load(io.BytesIO(npy))
    here, there, step = level != 255, mask > 0, 1 / 250 + 1e-6
    value = level / 250.0
    low = minimum_filter(np.where(there, values, np.inf), size=3) - step
    high = maximum_filter(np.where(there, values, -np.inf), size=3) + step
    some, every = maximum_filter(there, size=3), minimum_filter(there, size=3)
    beyond = np.where(here, ~some | (value < low) | (value > high), every)
    return {
        "pixels": int((here | there).sum()),
        "data_differs": int((here != there).sum()),
        "value_differs": int((here & there & (np.abs(value - values) > step)).sum()),
        "beyond_a_pixel": int(beyond.sum()),
    }
