"""What the numbers mean to somebody who keeps a herbarium or a bird list, and what they do not mean."""

from __future__ import annotations

from geomap.entries import Threshold
from tiles.maps import About

MEANINGS = {
    "suitability": (
        "Suitability compares places: the higher the number, the more a place looks like those where the "
        "species was recorded. It comes from records of presence only, so it is not the chance to find the "
        "species there, and numbers of two species cannot be compared."
    ),
    "probability": (
        "Probability is the estimated chance that a complete survey of the kind it was calibrated on reports "
        "the species at such a place. It holds for the effort, season and years of those surveys and does "
        "not say how many individuals live there."
    ),
}
LABELS = {
    "mtp": "Minimum training presence",
    "p10": "10th percentile of training presences",
    "lpt5": "5th percentile of held-out presences",
    "maxsss": "Maximum sensitivity plus specificity",
}
THRESHOLDS = {
    "mtp": (
        "The lowest value at any place where the species was recorded for the fit, so the area above it "
        "leaves out none of those records. A single stray or badly located record can make it far too "
        "generous."
    ),
    "p10": (
        "Nine of ten records that the map was fitted on lie above it; the lowest tenth, where strays and "
        "wrong locations gather, is given up. A common choice where only presences are known; it is a "
        "convention, not a border seen in the field."
    ),
    "lpt5": (
        "Nineteen of twenty records that were kept out of the fit lie above it, so it shows how wide the net "
        "must be to catch records that the map has never seen. It says nothing about how much empty land is "
        "caught, too."
    ),
    "maxsss": (
        "The value that best separates places with the species from the others among held-out sites, "
        "counting misses and false alarms alike. Where the others are background and not surveyed absences, "
        "a false alarm may well be an unrecorded presence."
    ),
}
NODATA = (
    "No data: outside the land of this map, or without imagery. It does not mean that the species is absent."
)


def explanation(about: About) -> str:
    """What the values of a map mean and what they do not, in plain words."""
    known = MEANINGS.get(about.meaning)
    return known or f"{about.bands[0].description}; values in {about.bands[0].unit or about.meaning}."


def label(threshold: str) -> str:
    """Name of a threshold to show."""
    return LABELS.get(threshold, threshold)


def about_threshold(key: str, threshold: Threshold) -> str:
    """What a threshold means, with the share of held-out presences that fall below it where that is known."""
    said = THRESHOLDS.get(key, "A threshold that came with the map.")
    if threshold.omission == threshold.omission:
        said += f" Of the held-out presences {threshold.omission:.0%} fall below it."
    return said


def citation(about: About, address: str) -> str:
    """How to cite a map: what it is, its version, and everybody whose data are in it.

    Args:
        about: The map.
        address: Where it is served.
    """
    name = f"{about.scientific} ({about.vernacular})" if about.vernacular else about.scientific
    parts = [f"geomap: map of {about.meaning} of {name}, grid {about.grid}, version {about.version}."]
    titles = {"model": "Model", "data_credit": "Records", "licence": "Licence of the records"}
    titles |= {"imagery_credit": "Imagery", "period": "Period"}
    parts += [
        f"{title}: {about.credit[key].rstrip('.')}." for key, title in titles.items() if about.credit.get(key)
    ]
    return "\n".join([*parts, address, ""])
