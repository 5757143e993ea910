"""Maps as files: the COG of a species, made where there is none, and a picture of it.

A map that was rendered goes out as it lies there. One that lies elsewhere (s3://, https://) is passed through
and not redirected: a redirect would show the bucket, or a signed address, to everybody, and a private server
could not be reached from outside at all. A live map is rendered by `geomap.render`, once a version, into the
cache folder, so its bytes are those that the command writes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter, Request, Response
from filelock import FileLock, Timeout

from geomap.catalog import bundle_path
from geomap.colour import DEFAULT
from geomap.errors import MapError
from geomap.grid import Window
from tiles import ranges
from tiles.errors import BusyError, TooLargeError, refusals
from tiles.headers import FOREVER, MINUTES, kept
from tiles.library import cache_folder
from tiles.live import LiveMap
from tiles.maps import SpeciesMap, Steps
from tiles.paint import encode_png, level_table
from tiles.parameters import Colormap, GridName, GroupName, Species, Version
from tiles.pyramid import level_shape
from tiles.remote import location_of
from tiles.routes_species import check_version
from tiles.settings import Settings
from tiles.shown import Shown
from tiles.sources import Options, heads_folders

COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
PREVIEW = 512  # pixels of the longer side of a picture at most
RENDER_S = 900  # before the making of a file is given up
MAKING = ".making-"
WAIT_S, WAITING = 60, 8  # how long, and how many requests wait for maps that are being made
FILE = {COG_TYPE: {"schema": {"type": "string", "format": "binary"}}}
ANSWERS = {
    **refusals(404, 413, 422, 503),
    200: {"description": "The map", "content": FILE},
    206: {"description": "A part of it", "content": FILE},
    304: {"description": "The client has it already"},
    416: {"description": "A part beyond its end"},
}


def router(library: Shown, settings: Settings) -> APIRouter:
    """The routes that give files.

    Args:
        library: The maps that may be seen.
        settings: For the cache folder, and the largest map that is made on demand.
    """
    api = APIRouter(tags=["species"])
    maker = Maker(settings)

    def download(
        request: Request, species: Species, grid: GridName = None, group: GroupName = None, v: Version = None
    ) -> Response:
        """The map as a cloud-optimised GeoTIFF, whole or in parts; made first where it is a live one."""
        chosen = library.find(species, grid, group)
        keep = FOREVER if check_version(chosen.about, v) else MINUTES
        name = f"{chosen.about.id}.{chosen.about.grid}.tif"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": keep}
        return ranges.answer(request, source_of(library, maker, chosen), COG_TYPE, headers)

    address = "/species/{species}/download"
    api.get(address, summary="A map as a file", responses=ANSWERS, response_class=Response)(download)
    api.head(address, include_in_schema=False)(download)

    @api.get(
        "/species/{species}/preview.png", summary="A picture of a map", response_class=Response,
        responses={**refusals(404, 422, 503), 200: {"content": {"image/png": {}}}},
    )  # fmt: skip
    def preview(
        request: Request, species: Species, grid: GridName = None, group: GroupName = None,
        colormap: Colormap = DEFAULT, v: Version = None,
    ) -> Response:  # fmt: skip
        """The whole map in its own projection, at most 512 pixels a side, clear where there is no data."""
        chosen = library.find(species, grid, group)
        forever = check_version(chosen.about, v)
        picture = encode_png(level_table()[whole(chosen)], colormap)
        return kept(request, picture, "image/png", forever=forever, keep=MINUTES)

    return api


def whole(chosen: SpeciesMap) -> Steps:
    """All cells of the first overview of at most 512 a side."""
    level = 0
    while max(level_shape(chosen.shape, level)) > PREVIEW:
        level += 1
    return chosen.steps(Window(0, 0, *level_shape(chosen.shape, level)), level)


def source_of(library: Shown, maker: Maker, chosen: SpeciesMap) -> ranges.Source:
    """The file of a map.

    Raises:
        TooLargeError: It would have to be made and is too large for that.
        BusyError: Too many others are being made.
        MapError: It lies elsewhere and cannot be had.
        OSError: It cannot be read or written here.
    """
    if isinstance(chosen, LiveMap):
        return maker.source(chosen)
    about = chosen.about
    listed = library.open().item(about.id, about.grid, about.group)
    assert listed is not None  # a map that is not live comes from a file
    location = location_of(listed.file.path)
    return ranges.local(Path(listed.file.path)) if location is None else ranges.remote(location)


def can_be_made(chosen: SpeciesMap, settings: Settings) -> bool:
    """Whether a live map is small enough to be made on demand."""
    height, width = chosen.shape
    return height * width <= Options.of(settings).download_cells


class Maker:
    """Makes files of live maps, each once, one at a time in all processes that share the cache folder."""

    def __init__(self, settings: Settings) -> None:
        """Make nothing yet.

        Args:
            settings: What is served, the cache folder and its size.
        """
        self._settings, self._bundle = settings, bundle_path()
        self._bytes = Options.of(settings).download_cache_mb << 20
        self._waiting = threading.Semaphore(WAITING)

    @cached_property
    def _folders(self) -> dict[str, Path]:
        return heads_folders(self._settings, self._bundle)

    @property
    def folder(self) -> Path:
        """Where the files are kept."""
        folder = cache_folder() if self._settings.cache_dir is None else self._settings.cache_dir
        return folder / "downloads"

    def source(self, chosen: LiveMap) -> ranges.Source:
        """The file of a map, opened; made if it is not there.

        Raises:
            TooLargeError: It is too large to be made on demand.
            BusyError: Others are being made, for too long or too many.
            MapError: It cannot be made.
            OSError: The cache folder cannot be written.
        """
        about = chosen.about
        path = self.folder / f"{about.id}.{about.version}.{version('geomap')}.tif"
        if not can_be_made(chosen, self._settings):
            height, width = chosen.shape
            command = f"geomap render --species {about.scientific!r} --heads {about.group}"
            raise TooLargeError(
                "cannot make this file on demand", f"a map of {height * width:,} cells",
                f"Render it: {command} with the grid's field, and serve the folder with --maps.",
            )  # fmt: skip
        try:
            return self._used(path)
        except FileNotFoundError:
            return self._made(chosen, path)

    def _used(self, path: Path) -> ranges.Source:
        """An existing file, marked as used now; its content does not change with that, nor does its tag."""
        source = ranges.local(path)
        os.utime(path.with_suffix(".used"))
        return source

    def _made(self, chosen: LiveMap, path: Path) -> ranges.Source:
        if not self._waiting.acquire(blocking=False):
            raise BusyError("cannot make this file now", f"{WAITING} others are waiting", "Ask again later.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock", timeout=WAIT_S):
                if not path.exists():
                    render(chosen, self._folders[chosen.about.group], path)
                    path.with_suffix(".used").touch()
                    self._tidy(path)
                return ranges.local(path)
        except Timeout as error:
            raise BusyError(
                "cannot make this file now", "others are being made", "Ask again later."
            ) from error
        finally:
            self._waiting.release()

    def _tidy(self, keep: Path) -> None:
        """Remove files, the longest unused first, until the rest fits."""
        used = {path: path.stat().st_mtime_ns for path in self.folder.glob("*.used")}
        files = [path.with_suffix(".tif") for path in sorted(used, key=lambda path: used[path])]
        total = sum(path.stat().st_size for path in files)
        for path in files:
            if total > self._bytes and path != keep:
                total -= path.stat().st_size
                path.unlink()
                path.with_suffix(".used").unlink()


def render(chosen: LiveMap, heads: Path, path: Path) -> None:
    """Render a live map into a file by `geomap.render`, in a process of its own.

    In this process the command's imports would make the server larger for good, and its arithmetic would hold
    up the tiles.

    Args:
        chosen: The map.
        heads: Folder of its heads.
        path: File to write; it appears whole or not at all.

    Raises:
        MapError: The command refused or took too long; its own words are in the log.
    """
    field, about = chosen.group.field.path, chosen.about
    for stale in path.parent.glob(f"{MAKING}*"):  # of a server that was stopped
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=MAKING, dir=path.parent) as scratch:
        command = [sys.executable, "-m", "geomap.render", f"--species={about.scientific}", f"--heads={heads}"]
        command += [f"--field={field}", f"--out={scratch}"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=RENDER_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise MapError(
                "cannot make the file", f"no map after {RENDER_S} s", "Render it beforehand."
            ) from error
        made = next(Path(scratch).glob(f"*/{about.id}.tif"), None)
        if done.returncode != 0 or made is None:
            raise MapError("cannot make the file", done.stderr.strip()[-2000:], "Render it beforehand.")
        made.replace(path)
