"""Picture files as encoders eat them: RGB bytes of one size, or a refusal; never a stand-in.

A missing or damaged picture raises, or its row is left out and counted before training starts (methods
section 2.6, defect 1, and pitfall 11). Grey, palette, transparent, CMYK and turned pictures all become
upright RGB (methods section 3.6, defects 13 and 14).
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from train.errors import SpecError

# What Pillow raises on files that are no whole pictures.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)
EIGHT_BIT = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
MISSING, CORRUPT = "picture missing", "picture damaged"

Bytes = NDArray[np.uint8]


class PictureError(SpecError):
    """A picture that is missing, damaged or has more than 8 bits.

    Attributes:
        reason: `MISSING` or `CORRUPT`, as it is counted.
    """

    def __init__(self, name: str, reason: str, detail: str, change: str) -> None:
        super().__init__("cannot read a picture", f"{name}: {detail}", change)
        self.reason = reason

    def __reduce__(self) -> tuple[Callable[..., PictureError], tuple[str, str, str, str]]:
        """As workers of a data loader hand it on."""
        name, _, detail = self.found.partition(": ")
        return PictureError, (name, self.reason, detail, self.change)


def read_picture(source: str | Path | bytes, pixels: int, name: str = "", crop: bool = False) -> Bytes:
    """Decodes a picture, scales its shorter side to `pixels` and cuts out the square in the middle.

    Args:
        source: A file, or its bytes.
        pixels: Side of the result [pixels].
        name: What errors call it; the path when empty.
        crop: Do not scale: cut out the middle at the picture's own resolution, so that a pixel keeps its size
            on the ground.

    Returns:
        (3, pixels, pixels) uint8 RGB, upright as EXIF says; what is transparent is white.

    Raises:
        PictureError: It is missing, damaged, has more than 8 bits a channel, or is too small to crop.
    """
    named = name or ("a picture" if isinstance(source, bytes) else str(source))
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            _require_bytes(picture, named)
            # A JPEG is decoded at a half, quarter or eighth where that still leaves twice the wanted side.
            if not crop:
                picture.draft(None, (2 * pixels, 2 * pixels))
            upright = _rgb(ImageOps.exif_transpose(picture))
            square = _middle(upright, pixels, named) if crop else _square(upright, pixels)
    except FileNotFoundError as error:
        raise PictureError(
            named, MISSING, "no such file", 'Restore it, or drop such rows with on_error = "drop".'
        ) from error
    except PictureError:
        raise
    except (*DAMAGED, Image.DecompressionBombError) as error:
        change = 'Restore it, or drop such rows with on_error = "drop".'
        raise PictureError(named, CORRUPT, str(error) or type(error).__name__, change) from error
    return np.ascontiguousarray(np.moveaxis(np.asarray(square), -1, 0))  # (3, pixels, pixels)


def _require_bytes(picture: Image.Image, name: str) -> None:
    """Refuses more than 8 bits a channel: Pillow would clip grey ones to white."""
    deep = any("16" in str(tile[-1]) for tile in getattr(picture, "tile", ()))
    if picture.mode not in EIGHT_BIT or deep:
        found = f"mode {picture.mode}, more than 8 bits a channel"
        raise PictureError(name, CORRUPT, found, "Scale it to 8 bits a channel, 0..255, and save it again.")


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return picture.convert("RGB")


def _square(picture: Image.Image, pixels: int) -> Image.Image:
    """The largest square in the middle, scaled in one step."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return picture.resize((pixels, pixels), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)


def _middle(picture: Image.Image, pixels: int, name: str) -> Image.Image:
    """The square in the middle, pixel by pixel."""
    width, height = picture.size
    if min(width, height) < pixels:
        detail = f"{width} x {height} pixels, {pixels} wanted"
        raise PictureError(name, CORRUPT, detail, "Ask for fewer pixels, or scale the pictures to them.")
    left, top = (width - pixels) // 2, (height - pixels) // 2
    return picture.crop((left, top, left + pixels, top + pixels))


def check_picture(source: str | Path | bytes) -> str:
    """Why a picture cannot be used, `MISSING` or `CORRUPT`; "" where it can."""
    try:
        read_picture(source, 8)
    except PictureError as error:
        return error.reason
    return ""


def check_pictures(paths: Sequence[Path], cache: Path | None = None) -> list[str]:
    """Decodes every file once, and says why it cannot be used ("" where it can).

    Args:
        paths: Files.
        cache: Where verdicts are kept with size and time of each file; unchanged files are not decoded again.

    Raises:
        SpecError: The cache cannot be written.
    """
    known = _read_cache(cache)
    stamps = [_stamp(path) for path in paths]
    fresh = [
        path
        for path, stamp in zip(paths, stamps, strict=True)
        if stamp and known.get(str(path), ("", ""))[0] != stamp
    ]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        verdicts = dict(zip(fresh, pool.map(check_picture, fresh), strict=True))
    found = {
        str(path): (stamp, verdicts[path] if path in verdicts else known[str(path)][1] if stamp else MISSING)
        for path, stamp in zip(paths, stamps, strict=True)
    }
    if cache is not None and fresh:
        _write_cache(cache, {**known, **found})
    return [found[str(path)][1] for path in paths]


def require_pictures(paths: Iterable[Path]) -> None:
    """Refuses a list with files that do not exist; looks at no pixel.

    Raises:
        PictureError: With the number of missing files and the first of them.
    """
    gone = [path for path in paths if not path.is_file()]
    if gone:
        detail = f"no such file, and {len(gone) - 1} more" if len(gone) > 1 else "no such file"
        change = 'Restore it, or drop such rows with on_error = "drop".'
        raise PictureError(str(gone[0]), MISSING, detail, change)


def _stamp(path: Path) -> str:
    """Size and time of a file; "" when it is missing."""
    try:
        state = path.stat()
    except OSError:
        return ""
    return f"{state.st_size} {state.st_mtime_ns}"


def _read_cache(cache: Path | None) -> dict[str, tuple[str, str]]:
    if cache is None or not cache.exists():
        return {}
    try:
        loaded = json.loads(cache.read_text(encoding="utf-8"))
        return {str(path): (str(stamp), str(verdict)) for path, (stamp, verdict) in loaded.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise SpecError("cannot read what is known of pictures", f"{cache}: {error}", "Delete it.") from error


def _write_cache(cache: Path, verdicts: dict[str, tuple[str, str]]) -> None:
    part = cache.with_name(f"{cache.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(verdicts, sort_keys=True), encoding="utf-8")
        part.replace(cache)
    except OSError as error:
        change = "Give a file that can be written: cache = ..."
        raise SpecError("cannot keep what is known of pictures", f"{cache}: {error}", change) from error
