"""Windows of cells in the arrays of maps."""

from __future__ import annotations

from geomap.errors import GridError
from geomap.grid import Window
from tiles.blockfile import Block
from tiles.maps import Steps
from tiles.pyramid import deepest, level_shape


def place(array: Steps, window: Window, block: Block, steps: Steps) -> None:
    """Write the steps of a block's valid cells into an array."""
    row, col, height, width = window
    array[row : row + height, col : col + width][block.valid.reshape(height, width)] = steps


def cut(array: Steps, window: Window) -> Steps:
    """The window of an array, read-only."""
    view = array[window.row : window.row + window.height, window.col : window.col + window.width]
    view.flags.writeable = False
    return view


def moved(window: Window, top: int, left: int) -> Window:
    """A window counted from another corner."""
    return window._replace(row=window.row - top, col=window.col - left)


def check_window(shape: tuple[int, int], window: Window, level: int, band: int, bands: int) -> None:
    """Refuse cells that a map does not have.

    Raises:
        GridError: The window leaves the overview, or there is no such level or band.
    """
    what = "cannot read the map"
    if not (0 <= level <= deepest(shape) and 0 <= band < bands):
        change = f"give a level up to {deepest(shape)} and a band below {bands}"
        raise GridError(what, f"level {level}, band {band}", change)
    height, width = level_shape(shape, level)
    row, col, rows, cols = window
    if min(window) < 0 or row + rows > height or col + cols > width:
        raise GridError(what, str(window), f"stay inside the {height} x {width} cells of level {level}")
