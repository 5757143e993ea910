"""Finding species by what people type: scientific, common and older names, in any case, without accents.

An exact name goes before the beginning of a name, that before the beginning of a word in it, that before any
place in it, and only then come names that are spelt almost so. Among equals, scientific names go before
common names and those before older ones.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from geomap import names
from tiles.maps import About

EXACT, PREFIX, WORD, INSIDE, ALMOST = range(5)
ALIKE = 0.75  # share of letters that a misspelt name must have in common with a name
CANDIDATES = 60  # names that are compared letter by letter


class Name(NamedTuple):
    """A name as it is looked for.

    Attributes:
        text: Normalised.
        kind: 0 scientific, 1 common, 2 older or another English name.
        species: Position of its species.
    """

    text: str
    kind: int
    species: int


class SearchIndex:
    """Names of species.

    Args:
        species: The maps of each species, the best first.
    """

    def __init__(self, species: Sequence[Sequence[About]]) -> None:
        self._titles = [maps[0].scientific for maps in species]
        self._names = [
            Name(text, kind, k)
            for k, maps in enumerate(species)
            for text, kind in dict.fromkeys((names.normalise(n), kind) for n, kind in _names_of(maps))
            if text
        ]
        self._grams: dict[str, list[int]] = {}
        for place, name in enumerate(self._names):
            for gram in _grams(name.text):
                self._grams.setdefault(gram, []).append(place)

    def search(self, text: str) -> list[int]:
        """Positions of the species that a text finds, the best first."""
        wanted = names.normalise(text)
        if not wanted:
            return sorted(range(len(self._titles)), key=self._titles.__getitem__)
        ranks: dict[int, tuple[float, ...]] = {}
        for name in self._names:
            tier = _tier(wanted, name.text)
            if tier is not None:
                _keep(ranks, name, (tier, name.kind))
        if not any(rank[0] <= WORD for rank in ranks.values()):
            for name, likeness in self._almost(wanted):
                _keep(ranks, name, (ALMOST, -likeness, name.kind))
        return sorted(ranks, key=lambda k: (ranks[k], self._titles[k]))

    def _almost(self, wanted: str) -> Iterator[tuple[Name, float]]:
        """Names that share many letters, with how much they are alike (0..1)."""
        shared = Counter(place for gram in _grams(wanted) for place in self._grams.get(gram, ()))
        matcher = difflib.SequenceMatcher(autojunk=False)
        matcher.set_seq2(wanted)
        for place, _ in shared.most_common(CANDIDATES):
            name = self._names[place]
            likeness = 0.0
            for part in {name.text, *name.text.split(" ")}:
                matcher.set_seq1(part)
                likeness = max(likeness, matcher.ratio())
            if likeness >= ALIKE:
                yield name, likeness


def _tier(wanted: str, name: str) -> int | None:
    place = name.find(wanted)
    if place < 0:
        return None
    if place == 0:
        return EXACT if len(name) == len(wanted) else PREFIX
    return WORD if f" {wanted}" in name else INSIDE


def _keep(ranks: dict[int, tuple[float, ...]], name: Name, rank: tuple[float, ...]) -> None:
    if name.species not in ranks or rank < ranks[name.species]:
        ranks[name.species] = rank


def _names_of(maps: Sequence[About]) -> Iterator[tuple[str, int]]:
    """Every name of a species with its kind; names of its other maps count as older ones."""
    for k, about in enumerate(maps):
        yield about.scientific, 0 if k == 0 else 2
        yield about.vernacular, 1
        today = names.accepted(
            names.canonical(about.scientific) or about.scientific, about.vernacular or None
        )
        for older in (today, *about.synonyms, *names.synonyms_of(today)):
            yield older, 2
        for new, old in names.ENGLISH_SYNONYMS.items():
            if about.vernacular in (new, old):
                yield from ((new, 2), (old, 2))


def _grams(text: str) -> set[str]:
    """Pieces of three letters, with the ends marked."""
    padded = f"  {text} "
    return {padded[k : k + 3] for k in range(len(padded) - 2)}
