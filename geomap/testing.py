"""What tests of several modules share: the real data, tiny rasters, a file server on localhost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Painter = Callable[[NDArray[np.float64]], NDArray[Any]]


def shared_data() -> Path:
    """The folder of real data: $GEOMAP_SHARED, or ../shared/data beside the repository.

    Returns:
        The folder. Where it does not exist the calling test is skipped.

    Raises:
        FileNotFoundError: The folder does not exist and CI=true: there nothing may be skipped.
    """
    folder = Path(os.environ.get("GEOMAP_SHARED", Path(__file__).parents[1].parent / "shared" / "data"))
    if folder.is_dir():
        return folder
    if os.environ.get("CI", "").lower() == "true":
        raise FileNotFoundError(f"no real data at {folder}; set GEOMAP_SHARED to its folder")
    import pytest

    pytest.skip(f"no real data at {folder}; set GEOMAP_SHARED to its folder")


def write_raster(
    path: str | Path,
    crs: str | None,
    bounds: tuple[float, float, float, float],
    shape: tuple[int, int],
    bands: int,
    values: Painter | NDArray[Any],
    nodata: float | None = None,
    *,
    dtype: str = "float32",
    cog: bool = False,
    overviews: Sequence[int] = (),
    **profile: Any,
) -> Path:
    """Writes a small GeoTIFF.

    Args:
        path: File to write.
        crs: CRS of the bounds ("EPSG:3310"), or None for a file without one.
        bounds: West (left), south (bottom), east, north in the CRS.
        shape: Rows, columns.
        bands: Number of bands.
        values: (bands, h, w) array, or a function of the pixel centres' lonlat (h * w, 2) that returns
            (bands, h * w), or (h * w,) for the same in every band.
        nodata: Value declared as missing.
        dtype: Type of the stored values.
        cog: Write a cloud-optimised GeoTIFF with its own averaged overviews.
        overviews: Factors of averaged overviews to build in a plain GeoTIFF.
        profile: Further creation options (compress, tiled, blockxsize ...).

    Returns:
        The path.
    """
    import rasterio
    import rasterio.shutil
    from rasterio.enums import Resampling
    from rasterio.io import MemoryFile

    height, width = shape
    transform = rasterio.transform.from_bounds(*bounds, width, height)
    if callable(values):
        painted = np.asarray(values(_centres_lonlat(crs, transform, shape)))
        values = np.broadcast_to(painted.reshape(-1, height, width), (bands, height, width))
    options: dict[str, Any] = {"driver": "GTiff", "crs": crs, "transform": transform, "nodata": nodata}
    options |= {"height": height, "width": width, "count": bands, "dtype": dtype}
    with MemoryFile() as memory:
        with memory.open(**options, **({} if cog else profile)) as raster:
            raster.write(np.asarray(values).astype(dtype))
            if overviews:
                raster.build_overviews(list(overviews), Resampling.average)
        if cog:
            with memory.open() as raster:
                rasterio.shutil.copy(raster, path, driver="COG", overview_resampling="average", **profile)
        else:
            Path(path).write_bytes(memory.read())
    return Path(path)


def _centres_lonlat(crs: str | None, transform: Any, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Lon, lat (h * w, 2) of pixel centres; x, y where there is no CRS."""
    import pyproj

    col, row = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    x = transform.a * col + transform.b * row + transform.c
    y = transform.d * col + transform.e * row + transform.f
    if crs is not None:
        x, y = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    return np.column_stack([np.ravel(x), np.ravel(y)])


class RangeHandler(SimpleHTTPRequestHandler):
    """Serves files with byte ranges, which the readers of remote rasters need, and without a log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""

    def send_head(self) -> Any:
        """Answers a request for a range of bytes; anything else as usual."""
        path, asked = Path(self.translate_path(self.path)), self.headers.get("Range", "")
        if not asked.startswith("bytes=") or not path.is_file():
            return super().send_head()
        size = path.stat().st_size
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(size - int(last), 0)
        stop = min(int(last) + 1, size) if first and last else size
        if start >= size:
            self.send_error(416)
            return None
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        file = path.open("rb")
        file.seek(start)
        self.remaining = stop - start
        return file

    def copyfile(self, source: IO[bytes], outputfile: IO[bytes]) -> None:  # type: ignore[override]
        """Sends what was asked for and no more."""
        outputfile.write(source.read(getattr(self, "remaining", -1)))


@contextmanager
def http_server(handler: Callable[..., Any]) -> Iterator[str]:
    """A server on a free port of localhost while the block runs; yields its address without a final slash."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def file_server(folder: str | Path) -> Any:
    """Serves the files of a folder on localhost while a `with` block runs; yields the address."""
    return http_server(partial(RangeHandler, directory=str(folder)))
