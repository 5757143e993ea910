"""Names of species: normalised, matched exactly, suggested when near, never taken silently.

    canonical("Eschscholzia californica Cham.")    -> "Eschscholzia californica"
    accepted("Carduelis lawrencei")                -> "Spinus lawrencei"
    resolve("lawrence's goldfinch", heads.species) -> row number

Older names are found through geomap/data/synonyms.csv (name, accepted, vernacular, source), which lists
renamings of one and the same taxon only. Where a name was split, so that it still stands for another species
elsewhere, the English name decides: *Circus cyaneus* called "Northern Harrier" is *Circus hudsonius*.
"""

from __future__ import annotations

import csv
import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from geomap.errors import NameNotFoundError, RecordsError

if TYPE_CHECKING:
    import pandas as pd

NameIndex = tuple[dict[str, set[int]], ...]

SYNONYM_FILE = Path(__file__).with_name("data") / "synonyms.csv"
ENGLISH_FILE = SYNONYM_FILE.with_name("english_names.csv")

# English names of today, and those of older tables.
ENGLISH_SYNONYMS = MappingProxyType(
    {
        "Blue-throated Mountain-gem": "Blue-throated Hummingbird",
        "California Scrub-Jay": "Western Scrub-Jay",
        "Canada Jay": "Gray Jay",
        "Nelson's Sparrow": "Nelson's Sharp-tailed Sparrow",
        "Rivoli's Hummingbird": "Magnificent Hummingbird",
        "Saltmarsh Sparrow": "Saltmarsh Sharp-tailed Sparrow",
        "Short-billed Gull": "Mew Gull",
        "Thick-billed Longspur": "McCown's Longspur",
    }
)

_RANK = re.compile(r"(subsp|ssp|subspecies|var|variety|subvar|fo?|forma)\.?")
_UNSURE = re.compile(
    r"(spp?|species|cf|aff|nr|near|hybrid|unid|unidentified|unknown|undet|indet|gen|nov|x|or|and)\.?"
)
_AUTHOR_PARTICLE = re.compile(
    r"ex|et|in|and|non|nec|auct|sensu|emend|v[ao]n|de|del|della|de[rns]|d[iou]|dos|da|l[ae]|ter"
)
_GENUS = re.compile(r"[^\W\d_][^\W\d_]*(?:-[^\W\d_]+)*")
_EPITHET = re.compile(r"[^\W\d_]{2,}(?:-[^\W\d_]+)*")
_APOSTROPHES = str.maketrans("", "", "'’‘ʼ`´ʻ′")
_SPACES = re.compile(r"[\s\-‐‑–—_]+")


def normalise(name: str) -> str:
    """The form in which two names are the same: lower case, without accents, apostrophes and hyphens.

    Args:
        name: Any name, scientific or common.

    Returns:
        The normalised name; "Lawrence’s  Goldfinch" and "lawrences-goldfinch" give the same.
    """
    # A free-standing accent meant as an apostrophe would fall apart into space and accent: out with it first.
    plain = unicodedata.normalize("NFKD", name.translate(_APOSTROPHES)).casefold()
    plain = "".join(c for c in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(c))
    return _SPACES.sub(" ", plain.translate(_APOSTROPHES)).strip()


def canonical(scientific: str) -> str:
    """Genus, species and the lower rank when there is one, without authors, years, subgenus or rank markers.

    Args:
        scientific: A scientific name as found, in any case.

    Returns:
        "Genus epithet" or "Genus epithet epithet"; "" when the text does not name a species or
        below (a genus alone, "sp.", a hybrid, two names with a slash, a common name in title case).

    Reference:
        Darwin Core, term scientificName; International Code of Nomenclature for algae, fungi, and plants,
        articles 23 and 24.
    """
    words = _words(scientific)
    if len(words) < 2 or not _certain(words):
        return ""
    genus, epithet = words[:2]
    if not (_GENUS.fullmatch(genus) and _EPITHET.fullmatch(epithet) and epithet.islower()):
        return ""
    lower = _lower_rank(words[2:])
    return " ".join(filter(None, (genus[:1].upper() + genus[1:].lower(), epithet, lower)))


def is_species(scientific: str) -> bool:
    """Whether a name stands for one species, or for a subspecies, variety or form of one."""
    return bool(canonical(scientific))


def species_of(name: str) -> str:
    """The first two words of a canonical name: the species to which a subspecies or variety belongs."""
    return " ".join(name.split(" ")[:2])


def accepted(name: str, vernacular: str | None = None) -> str:
    """Today's name of a canonical name; the name itself when no other is known.

    Args:
        name: A canonical name. Of a name with three words the first two are looked up.
        vernacular: The common name beside it, which decides for names that were split.
    """
    species = species_of(name)
    split = SPLITS.get((species, normalise(vernacular))) if vernacular else None
    return (split or SYNONYMS.get(species, species)) + name[len(species) :]


def synonyms_of(name: str) -> tuple[str, ...]:
    """Older names of an accepted name, sorted."""
    return _older_names().get(name, ())


def english_of(name: str) -> str:
    """English name of a species whose records bring none, as floras of California use it; "" if not known.

    Args:
        name: A canonical name, today's or an older one.
    """
    return _english_names().get(accepted(name), "")


def nearest(name: str, candidates: Iterable[str], n: int = 5) -> list[str]:
    """The candidates that look most like a name, nearest first, to be suggested and never taken.

    Args:
        name: What was asked for.
        candidates: Names that exist.
        n: How many at most.
    """
    known: dict[str, str] = {}
    for candidate in candidates:
        known.setdefault(normalise(candidate), candidate)
    return [known[key] for key in difflib.get_close_matches(normalise(name), known, n=n, cutoff=0.6)]


def resolve(query: str, table: pd.DataFrame, index: NameIndex | None = None) -> int:
    """Find the row of a species by scientific name, synonym or common name, exact after normalisation.

    A scientific name goes before a synonym, a synonym before a common name.

    Args:
        query: The name asked for, in any case.
        table: Columns scientificName, and, when there, vernacularName and synonyms; the last two hold a
            string with "; " between names, a list, or a missing value.
        index: `name_index(table)`, for those who ask often.

    Returns:
        The position of the row (for `table.iloc`).

    Raises:
        NameNotFoundError: No row carries the name; the nearest names are suggested.
        RecordsError: Several rows carry it.
    """
    kinds = index or name_index(table)
    for wanted in _spellings(query):
        for kind in kinds:
            rows = kind.get(wanted, ())
            if len(rows) == 1:
                return next(iter(rows))
            if rows:
                raise _ambiguous(query, table, rows)
    raise _not_found(query, table)


def _words(scientific: str) -> list[str]:
    """Words of a name, without brackets and what stands in them; in lower case when all are capitals."""
    text = unicodedata.normalize("NFC", scientific).replace("_", " ")
    text = re.sub(r"\([^)]*\)|\[[^\]]*\]", " ", text)
    words = text.split()
    if text.isupper():
        words = [w.lower() for w in words]
    return words


def _certain(words: list[str]) -> bool:
    """Whether nothing in the name says that the species is unknown, or more than one."""
    if any(sign in word for word in words for sign in ("/", "?", "×")):
        return False
    if any(_UNSURE.fullmatch(word.lower()) for word in words[:2]):
        return False
    markers = {"x", "×", "cf", "cf.", "aff", "aff.", "hybrid"}
    return not any(word in markers for word in words[2:])


def _lower_rank(rest: list[str]) -> str:
    """The epithet below the species: after a rank marker anywhere, or right after the species."""
    for marker, epithet in pairwise(rest):
        if _RANK.fullmatch(marker) and _is_epithet(epithet):
            return epithet
    return rest[0] if rest and _is_epithet(rest[0]) else ""


def _is_epithet(word: str) -> bool:
    plain = bool(_EPITHET.fullmatch(word)) and word.islower()
    return plain and not _AUTHOR_PARTICLE.fullmatch(word) and not _RANK.fullmatch(word)


def _read_synonyms() -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """Renamings (name -> accepted) and splits ((name, normalised common name) -> accepted)."""
    whole: dict[str, str] = {}
    splits: dict[tuple[str, str], str] = {}
    with SYNONYM_FILE.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["vernacular"]:
                splits[row["name"], normalise(row["vernacular"])] = row["accepted"]
            else:
                whole[row["name"]] = row["accepted"]
    return whole, splits


_whole, _splits = _read_synonyms()
SYNONYMS: Mapping[str, str] = MappingProxyType(_whole)
SPLITS: Mapping[tuple[str, str], str] = MappingProxyType(_splits)


@cache
def _older_names() -> dict[str, tuple[str, ...]]:
    older: dict[str, set[str]] = {}
    for name, today in SYNONYMS.items():
        older.setdefault(today, set()).add(name)
    return {today: tuple(sorted(names)) for today, names in older.items()}


@cache
def _english_names() -> dict[str, str]:
    with ENGLISH_FILE.open(encoding="utf-8", newline="") as lines:
        return {row["name"]: row["english"] for row in csv.DictReader(lines)}


def _spellings(query: str) -> list[str]:
    """The query normalised; without authors; under its accepted name; under another English name."""
    name = canonical(query)
    english = [
        new if normalise(query) == normalise(old) else old
        for new, old in ENGLISH_SYNONYMS.items()
        if normalise(query) in (normalise(old), normalise(new))
    ]
    forms = [query, name, accepted(name) if name else "", *english]
    return list(dict.fromkeys(normalise(form) for form in forms if form.strip()))


def name_index(table: pd.DataFrame) -> NameIndex:
    """Normalised name -> rows: by scientific name, by synonym (the table's and SYNONYMS), by common name."""
    scientific: dict[str, set[int]] = {}
    synonym: dict[str, set[int]] = {}
    vernacular: dict[str, set[int]] = {}
    for row, name in enumerate(table["scientificName"]):
        _add(scientific, [name], row)
        _add(synonym, [*synonyms_of(name), accepted(name)], row)
    for column, index in (("synonyms", synonym), ("vernacularName", vernacular)):
        if column in table:
            for row, cell in enumerate(table[column]):
                _add(index, _split_cell(cell), row)
    for row, name in enumerate(table["scientificName"]):
        if english := english_of(name):
            _add(vernacular, [english], row)
    return scientific, synonym, vernacular


def _add(index: dict[str, set[int]], names: Iterable[str], row: int) -> None:
    for name in names:
        index.setdefault(normalise(name), set()).add(row)


def _split_cell(cell: object) -> list[str]:
    if isinstance(cell, str):
        return [part for part in map(str.strip, cell.split(";")) if part]
    return [str(part) for part in cell] if isinstance(cell, Iterable) else []


def _ambiguous(query: str, table: pd.DataFrame, rows: Iterable[int]) -> RecordsError:
    names = ", ".join(sorted(table["scientificName"].iloc[row] for row in rows))
    return RecordsError(
        f'cannot tell which species "{query}" is', f"it names {names}", "Give one of these names"
    )


def _not_found(query: str, table: pd.DataFrame) -> NameNotFoundError:
    known = [*table["scientificName"]]
    for column in ("vernacularName", "synonyms"):
        known += [name for cell in table.get(column, ()) for name in _split_cell(cell)]
    near = nearest(query, known)
    advice = f"Did you mean {', '.join(near)}?" if near else "No name looks like it; list what there is"
    return NameNotFoundError(
        f'cannot find the species "{query}"', f"{len(table)} species, none of that name", advice
    )
