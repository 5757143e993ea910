"""Legends as JSON, SVG and PNG, all from the palette that colours the tiles."""

from __future__ import annotations

import io
from typing import Any
from xml.sax.saxutils import escape

from geomap.colour import STEPS, legend, palette
from tiles import words
from tiles.maps import About, Band

WIDTH, HEIGHT, BAR = 320, 96, (16, 40, 288, 20)  # pixels; left, top, width and height of the bar
INK = "#202124"


def legend_json(about: About, band: Band, colormap: str) -> dict[str, Any]:
    """Title, unit, meaning, five stops, and the colour of every palette entry.

    Args:
        about: The map.
        band: One of its layers.
        colormap: One of geomap.colour.RAMPS.
    """
    entries = palette(colormap)[: STEPS + 1, :3].tolist()
    return {
        "title": title(about, band),
        "unit": band.unit,
        "explanation": words.explanation(about) if band is about.bands[0] else band.description,
        "low": band.low,
        "high": band.high,
        "stops": [{"value": value, "color": color} for value, color in stops(band, colormap)],
        "nodata": words.NODATA,
        "palette": ["#{:02x}{:02x}{:02x}".format(*entry) for entry in entries],
    }


def title(about: About, band: Band) -> str:
    """What a legend is called: the species and what is shown of it."""
    shown = band.description or band.name
    return shown if about.scientific in shown else f"{about.scientific}: {shown}"


def stops(band: Band, colormap: str) -> list[tuple[float, str]]:
    """Five evenly spaced values of a layer with their colours."""
    span = band.high - band.low
    return [(round(band.low + share * span, 6), color) for share, color in legend(colormap)]


def legend_svg(about: About, band: Band, colormap: str) -> str:
    """A legend that scales, with text that programs can read."""
    left, top, width, height = BAR
    shown, name = stops(band, colormap), escape(title(about, band))
    marks = "".join(
        f'<stop offset="{k / (len(shown) - 1):g}" stop-color="{color}"/>'
        for k, (_, color) in enumerate(shown)
    )
    numbers = "".join(
        f'<text x="{left + width * k / (len(shown) - 1):g}" y="{top + height + 18}">{value:g}</text>'
        for k, (value, _) in enumerate(shown)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
        f' viewBox="0 0 {WIDTH} {HEIGHT}"'
        f' role="img" aria-label="{name.replace(chr(34), "&quot;")}" font-family="sans-serif" font-size="12">'
        f'<defs><linearGradient id="ramp">{marks}</linearGradient></defs>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
        f'<text x="{left}" y="24" fill="{INK}">{name}</text>'
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="url(#ramp)" stroke="{INK}"/>'
        f'<g fill="{INK}" text-anchor="middle">{numbers}</g></svg>'
    )


def legend_png(about: About, band: Band, colormap: str) -> bytes:
    """A legend as a picture of 640 x 192 pixels, with every palette entry in its bar."""
    from PIL import Image, ImageDraw, ImageFont

    scale = 2
    left, top, width, height = (scale * side for side in BAR)
    picture = Image.new("RGB", (scale * WIDTH, scale * HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(12 * scale)
    draw.text((left, 8 * scale), title(about, band), INK, font)
    entries = palette(colormap)[: STEPS + 1, :3].tolist()
    for x in range(width):
        color = tuple(entries[round(x / (width - 1) * STEPS)])
        draw.line([(left + x, top), (left + x, top + height)], color)
    draw.rectangle([left, top, left + width, top + height], outline=INK)
    shown = stops(band, colormap)
    for k, (value, _) in enumerate(shown):
        middle = left + width * k / (len(shown) - 1)
        draw.text((middle, top + height + 6 * scale), f"{value:g}", INK, font, anchor="mt")
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()
