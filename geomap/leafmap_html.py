"""What the map of `geomap.leafmap` says in words and colours: legends, places, areas. All texts escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from geomap.errors import GeomapError

if TYPE_CHECKING:
    import pandas as pd

LIVING = 8  # species that the panel tells of a place
FONT = "font:13px/1.4 sans-serif;max-width:19rem"
SHORT = {"mtp": "MTP", "p10": "P10", "lpt5": "LPT 5", "maxsss": "MaxSSS"}
BAR = 12  # height of the colours [px]


def legend_html(legend: Mapping[str, Any], thresholds: Mapping[str, Any], limit: float | None) -> str:
    """The colours of a layer with their values, and a stroke at each threshold.

    Args:
        legend: The server's legend.json.
        thresholds: Key -> value and label, as the server describes a map.
        limit: Value below which the tiles are cut; None where they are not.
    """
    low, high = legend["low"], legend["high"]
    colours = [escape(str(colour)) for colour in legend["palette"][::10]]
    ramp = f"linear-gradient(to right,{','.join(colours)})"
    below = 0.0 if limit is None else _place(limit, low, high)
    strokes = "".join(
        f'<span title="{escape(each["label"])}" style="position:absolute;top:0;width:1px;height:{BAR}px;'
        f'background:#000;left:{_place(each["value"], low, high):.1f}%"></span>'
        for each in thresholds.values()
    )
    cut = (
        f'<span style="position:absolute;left:0;top:0;height:{BAR}px;width:{below:.1f}%;'
        f'background:{colours[0]}"></span>'
    )
    numbers = "".join(f"<span>{round(stop['value'], 2):g}</span>" for stop in legend["stops"])
    return (
        f'<div style="{FONT}" title="{escape(legend["explanation"])} {escape(legend["nodata"])}">'
        f"<b>{escape(legend['title'])}</b>"
        f'<div style="position:relative;height:{BAR}px;border:1px solid #555;background:{ramp}">'
        f"{cut}{strokes}</div>"
        f'<div style="display:flex;justify-content:space-between">{numbers}</div></div>'
    )


def area_html(key: str | None, value: float | None, km2: float | None, total: float | None) -> str:
    """Area at or above a threshold.

    Args:
        key: Its key, or None for a value of one's own, whose area is known to a step of the colours only.
        value: Its value; None where the map is not cut.
        km2: Area [km²]; None where not known.
        total: Area with data [km²].
    """
    if value is None:
        return f'<div style="{FONT}">All values are drawn.</div>'
    name = f"{escape(SHORT.get(key, key))} = {value:.3f}" if key else f"{value:.3f}"
    if km2 is None or not total:
        return f'<div style="{FONT}">At or above {name}: area not known.</div>'
    about = "" if key else "about "
    return (
        f'<div style="{FONT}">At or above {name}: {about}{amount(km2)} km², '
        f"{100 * km2 / total:.0f} % of the area with data. Below: the lightest colour.</div>"
    )


def amount(km2: float) -> str:
    """An area with as many digits as it deserves."""
    return f"{km2:,.0f}".replace(",", "\u202f") if km2 >= 100 else f"{km2:.3g}"


def place_html(
    lon: float, lat: float, asked: Sequence[tuple[Mapping[str, Any], str | None, Mapping[str, Any]]],
    living: Sequence[Mapping[str, Any]],
) -> str:  # fmt: skip
    """What the maps say of a place.

    Args:
        lon: Degrees.
        lat: Degrees.
        asked: The description, the threshold (key, or value as text) and the answer to the point of each
            shown species.
        living: Species of the place as the server's /at lists them.
    """
    rows = [_verdict(about, key, answer) for about, key, answer in asked]
    here = [
        f"<li><i>{escape(each['scientificName'])}</i> {each['value']:.3f} {escape(each['meaning'])}</li>"
        for each in living
        if each["above"]
    ]
    more = f"<li>and {len(here) - LIVING} more</li>" if len(here) > LIVING else ""
    lives = f"<ul style='margin:0;padding-left:1.2rem'>{''.join(here[:LIVING])}{more}</ul>"
    none = "no species lies above its threshold" if living else "no map has data here"
    return (
        f'<div style="{FONT}"><b>{lat:.4f}, {lon:.4f}</b>{"".join(rows)}'
        f"<div>What lives here: {lives if here else none}</div></div>"
    )


def summary_html(table: pd.DataFrame) -> str:
    """The table of areas of one polygon, for the panel.

    Args:
        table: Rows as `geomap.leafmap.Map.summary` gives them.
    """
    titles = "".join(f"<th align=right>{title}</th>" for title in ("mean", "km² above", "share"))
    head = f"<tr><th align=left>Species, threshold</th>{titles}</tr>"
    rows = "".join(_summary_row(row) for row in table.to_dict("records"))
    inside = table["area_km2"].max()
    missing = table["nodata_km2"].max()
    return (
        f'<div style="{FONT}"><b>In the polygon</b>, {amount(inside)} km² with data, '
        f"{amount(missing)} km² without"
        f'<table style="width:100%;line-height:1.2">{head}{rows}</table></div>'
    )


def trouble_html(error: GeomapError) -> str:
    """A refusal, for the panel."""
    return f'<div role="alert" style="{FONT}">{escape(str(error))}</div>'


def _summary_row(row: Mapping[str, Any]) -> str:
    name = f"<i>{escape(row['scientificName'])}</i>"
    if not row["cells"]:
        return f"<tr><td>{name}</td><td colspan=3>no data (not the same as absent)</td></tr>"
    texts = [f"{row['mean']:.3f}", "-", "-"]
    if row["above_km2"] == row["above_km2"]:  # NaN is not
        name += f" {row['threshold_value']:.3f}"
        texts[1:] = [amount(row["above_km2"]), f"{100 * row['above_share']:.0f} %"]
    cells = "".join(f'<td align=right style="white-space:nowrap">{text}</td>' for text in texts)
    return f"<tr><td>{name}</td>{cells}</tr>"


def _verdict(about: Mapping[str, Any], key: str | None, answer: Mapping[str, Any]) -> str:
    name, value = f"<i>{escape(about['scientificName'])}</i>", answer["value"]
    if value is None:
        return f"<div>{name}: no data (not the same as absent)</div>"
    text = f"{name}: {value:.3f} {escape(answer['unit'])}"
    if key in answer["thresholds"]:
        limit, label = answer["thresholds"][key]["value"], about["thresholds"][key]["label"]
        text += f", {_side(value, limit)} {limit:.3f} ({escape(label)})"
    elif key is not None:
        text += f", {_side(value, float(key))} {float(key):.3f} (your threshold)"
    return f"<div>{text}</div>"


def _side(value: float, limit: float) -> str:
    return "at or above" if value >= limit else "below"


def _place(value: float, low: float, high: float) -> float:
    """Where a value lies between two ends [%]."""
    return 100 * min(1.0, max(0.0, (value - low) / (high - low)))
