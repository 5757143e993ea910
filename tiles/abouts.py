"""What is said of live maps, groups and grids."""

from __future__ import annotations

from functools import lru_cache

from odc.geo import CRS

from geomap import names
from geomap.entries import SpeciesEntry
from tiles.index import fineness
from tiles.live import LiveGroup
from tiles.maps import About, Band, GridAbout, GroupAbout, SpeciesMap


def live_about(entry: SpeciesEntry, group: LiveGroup) -> About:
    """What is known of a live map."""
    heads, data = group.heads, group.heads.card.get("data", {})
    period = "/".join(str(date)[:10] for date in data.get("period") or ())
    credit = {
        "data_credit": str(data.get("credit") or ""), "licence": str(data.get("licence") or ""),
        "imagery_credit": group.field.credit, "model": f"{heads.name} {heads.hash[:12]}", "period": period,
    }  # fmt: skip
    band = Band(entry.meaning, f"{entry.scientific}: {entry.meaning}", entry.meaning)
    listed = heads.species.iloc[entry.index].get("synonyms")
    own = [part.strip() for part in listed.split(";")] if isinstance(listed, str) else []
    synonyms = dict.fromkeys(name for name in [*own, *names.synonyms_of(entry.scientific)] if name)
    return About(
        id=entry.slug, scientific=entry.scientific, vernacular=entry.vernacular, synonyms=tuple(synonyms),
        group=entry.group, grid=group.field.grid.name, meaning=entry.meaning, records=entry.records,
        n_test=entry.n_test, thresholds=entry.thresholds, default_threshold=entry.default_threshold,
        scores=entry.scores, version=group.version, bands=(band,),
        credit={key: value for key, value in credit.items() if value}, stored=False,
        home=group.home == group.field.grid.name,
    )  # fmt: skip


def group_about(name: str, members: list[About]) -> GroupAbout:
    """What is known of a group from its maps."""
    first = members[0]
    grids = sorted({about.grid for about in members}, key=fineness)
    return GroupAbout(
        name, _title(name) or "Other maps", first.meaning,
        len({about.id for about in members}), tuple(grids),
        first.credit.get("data_credit", ""), first.credit.get("licence", ""),
    )  # fmt: skip


def grid_about(name: str, chosen: SpeciesMap) -> GridAbout:
    """What is known of a grid from one of its maps."""
    size, (height, width) = abs(chosen.transform.a), chosen.shape
    unit = "degree" if _is_geographic(chosen.crs) else "m"
    side = f"{size / 1000:g} km" if unit == "m" and size >= 1000 else f"{size:g} {unit}"
    title = f"{name.replace('-', ' ').title()}, {side}"
    return GridAbout(name, title, chosen.crs, size, unit, chosen.bbox, height * width)


def _title(group: str) -> str:
    """A name in words: capitals for the place, none for what lives there ("North America birds")."""
    *place, kind = group.split("-")
    return " ".join([*(word.capitalize() for word in place), kind if place else kind.capitalize()])


@lru_cache(maxsize=64)
def _is_geographic(crs: str) -> bool:
    return bool(CRS(crs).geographic)
