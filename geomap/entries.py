"""What a group of heads says of one species: names, meaning, thresholds, scores beside null scores."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from geomap import names
from geomap.heads import THRESHOLDS, Meaning, SpeciesHeads

SCORES = ("auc", "ap", "brier", "boyce")
# Nothing that counts absences decides it. Presences are all that a suitability knows; and over a continent of
# absences the MaxSSS of a rare species lies near zero, far below what anybody would call its range.
DEFAULT_THRESHOLD = "p10"


class Threshold(NamedTuple):
    """A threshold, and the share of held-out presences that fall below it; NaN where not known."""

    value: float
    omission: float


class Score(NamedTuple):
    """A cross-validated score beside that of the null model on coordinates only; NaN where not known."""

    value: float
    null: float


@dataclass(frozen=True)
class SpeciesEntry:
    """One species of one group.

    Attributes:
        group: Name of the group of heads.
        index: Its row in the heads.
        scientific: Scientific name.
        vernacular: Common name, or "".
        meaning: "suitability" or "probability".
        records: Number of records it was fitted on.
        thresholds: mtp, p10, lpt5, maxsss.
        scores: auc, ap, brier, boyce.
        n_test: Held-out presences behind the scores.
    """

    group: str
    index: int
    scientific: str
    vernacular: str
    meaning: Meaning
    records: int
    thresholds: dict[str, Threshold] = field(hash=False)
    scores: dict[str, Score] = field(hash=False)
    n_test: int = 0

    @property
    def slug(self) -> str:
        """Name for files: the scientific name in lower case with hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", names.normalise(self.scientific)).strip("-")

    @property
    def title(self) -> str:
        """Scientific name with the common name behind it, if there is one."""
        return f"{self.scientific} ({self.vernacular})" if self.vernacular else self.scientific

    @property
    def default_threshold(self) -> str:
        """The threshold that tables and pictures use when none is asked for."""
        return DEFAULT_THRESHOLD

    def to_dict(self) -> dict[str, Any]:
        """JSON values; NaN becomes None."""
        return {
            "scientificName": self.scientific,
            "vernacularName": self.vernacular,
            "slug": self.slug,
            "group": self.group,
            "meaning": self.meaning,
            "records": self.records,
            "n_test": self.n_test,
            "scores": {key: known(score._asdict()) for key, score in self.scores.items()},
            "thresholds": {key: known(threshold._asdict()) for key, threshold in self.thresholds.items()},
        }


def known(values: dict[str, float]) -> dict[str, float | None]:
    """The values with None for NaN, which JSON does not have."""
    return {key: None if math.isnan(value) else value for key, value in values.items()}


def entry_of(heads: SpeciesHeads, group: str, index: int) -> SpeciesEntry:
    """The entry of row `index` of heads."""
    row = heads.species.iloc[index]

    def number(column: str) -> float:
        return round(
            float(row.get(column, math.nan)), 6
        )  # float32 columns would show digits that mean nothing

    english = str(row["vernacularName"] or "") if row["vernacularName"] == row["vernacularName"] else ""
    return SpeciesEntry(
        group=group,
        index=index,
        scientific=str(row["scientificName"]),
        vernacular=english or names.english_of(str(row["scientificName"])),
        meaning=heads.meaning,
        records=int(row["records"]),
        thresholds={key: Threshold(number(key), number(f"omission_{key}")) for key in THRESHOLDS},
        scores={key: Score(number(key), number(f"null_{key}")) for key in SCORES},
        n_test=int(row.get("n_test", 0)),
    )
