"""The first page of the tile server: what is there, each with a picture. One file, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
    "ul{display:grid;gap:1.5rem;grid-template-columns:repeat(auto-fill,minmax(16rem,1fr));list-style:none;padding:0}"
    "img{background:#eef;display:block;height:auto;max-width:100%}"
)


def index(summaries: Sequence[Mapping[str, str]]) -> str:
    """The page.

    Args:
        summaries: One per map with `name`, `grid`, `item`, `tilejson` and `preview`.

    Returns:
        HTML.
    """
    maps = "".join(map(_entry, summaries)) or "<li>No map yet: run <code>python -m geomap.render</code>.</li>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>geomap</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>"
        f"<body><h1>Species maps</h1><ul>{maps}</ul></body></html>"
    )


def _entry(summary: Mapping[str, str]) -> str:
    text = {key: escape(value) for key, value in summary.items()}
    return (
        f'<li><img src="{text["preview"]}" loading="lazy" alt="Map of {text["name"]}, {text["grid"]}">'
        f"<em>{text['name']}</em>, {text['grid']}<br>"
        f'<a href="{text["tilejson"]}">TileJSON</a> <a href="{text["item"]}">about this map</a></li>'
    )
