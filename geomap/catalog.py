"""The catalogue: which species can be rendered, by which heads, on which grids.

    catalog = Catalog.open()  # the shipped bundle; or a group of it; or a folder of heads
    heads, index = catalog.find("Lawrence's Goldfinch")
    field = catalog.field("california")

The bundle (geomap/bundle, or $GEOMAP_BUNDLE) holds `fields/GRID.zarr.zip`, `heads/GROUP/` and `encoders/`.
Groups come in the order of `index.json` ({"groups": [...]}) where there is one, else by name. Reading needs
neither torch nor Dask.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from geomap import names
from geomap.entries import SpeciesEntry, entry_of
from geomap.errors import FieldError, HeadsError, NameNotFoundError
from geomap.heads import SpeciesHeads, load_heads

if TYPE_CHECKING:
    import pandas as pd

    from geomap.field import EmbeddingField


def bundle_path() -> Path:
    """The folder of the shipped bundle; $GEOMAP_BUNDLE names another."""
    return Path(os.environ.get("GEOMAP_BUNDLE") or Path(__file__).with_name("bundle"))


@dataclass(frozen=True, eq=False, repr=False)
class Catalog:
    """What can be rendered.

    Attributes:
        bundle: Folder of the bundle.
        folders: Group -> folder of its heads, in order of preference.
    """

    bundle: Path
    folders: dict[str, Path]
    _heads: dict[str, SpeciesHeads] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, heads: str | Path | None = None, bundle: Path | None = None) -> Catalog:
        """Open the catalogue of the bundle, of one group of it, or of a folder of heads.

        Args:
            heads: A group of the bundle or a folder written by geomap.fit; all groups of the bundle if None.
            bundle: Folder of the bundle; `bundle_path()` if None.

        Raises:
            HeadsError: There is no such group or folder, or the bundle holds no heads.
        """
        bundle = bundle or bundle_path()
        groups = bundle_groups(bundle)
        if heads is None:
            if not groups:
                change = "make the bundle with `make bundle`, or give --heads and --field"
                raise HeadsError("cannot list species", f"no heads in {bundle}", change)
            return cls(bundle, groups)
        if str(heads) in groups:
            return cls(bundle, {str(heads): groups[str(heads)]})
        if Path(heads).is_dir():
            loaded = load_heads(Path(heads))
            return cls(bundle, {loaded.name: Path(heads)}, {loaded.name: loaded})
        near = difflib.get_close_matches(str(heads), groups, n=3, cutoff=0.3) or list(groups)
        raise HeadsError(
            "cannot find the heads", f"{str(heads)!r} is no group of the bundle and no folder",
            f"use {' or '.join([*near, 'a folder written by geomap.fit'])}",
        )  # fmt: skip

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in order of preference."""
        return tuple(self.folders)

    def heads(self, group: str) -> SpeciesHeads:
        """The heads of a group, read once.

        Raises:
            HeadsError: There is no such group, or its files are missing or corrupt.
        """
        if group not in self.folders:
            raise HeadsError("cannot find the heads", repr(group), f"use {' or '.join(self.folders)}")
        if group not in self._heads:
            self._heads[group] = load_heads(self.folders[group])
        return self._heads[group]

    def find(self, name: str, group: str | None = None) -> tuple[SpeciesHeads, int]:
        """The heads that carry a species, and its row in them; see `find_entry`."""
        entry = self.find_entry(name, group)
        return self.heads(entry.group), entry.index

    def find_entry(self, name: str, group: str | None = None) -> SpeciesEntry:
        """The best entry of a species.

        A probability goes before a suitability, then the higher AUC, then the group's place.

        Args:
            name: Scientific name, synonym or common name, in any case; never a near match.
            group: Look in this group only.

        Raises:
            NameNotFoundError: No group carries the name; the nearest names are told.
        """
        return self.matches(name, group)[0]

    def matches(self, name: str, group: str | None = None) -> list[SpeciesEntry]:
        """Every group's entry of a species, the best first; arguments and errors as in `find_entry`."""
        groups = self.groups if group is None else (group,)
        found = []
        for each in groups:
            heads = self.heads(each)
            try:
                found.append(entry_of(heads, each, heads.index(name)))
            except NameNotFoundError:
                continue
        if not found:
            raise self._unknown(name, groups)
        return sorted(found, key=_worth, reverse=True)  # stable: the group's place decides last

    def entries(self) -> list[SpeciesEntry]:
        """Every species of every group."""
        return [
            entry_of(self.heads(group), group, index) for group in self.groups for index in self._rows(group)
        ]

    def best_entries(self) -> list[SpeciesEntry]:
        """Every species once, by its best entry; older and newer names of a species count as one."""
        best: dict[str, SpeciesEntry] = {}
        for entry in self.entries():
            key = names.normalise(names.accepted(entry.scientific))
            if key not in best or _worth(entry) > _worth(best[key]):
                best[key] = entry
        return list(best.values())

    @property
    def species(self) -> pd.DataFrame:
        """Every species of every group, a row each: names, group, meaning, records, thresholds, scores."""
        import pandas as pd

        rows = []
        for entry in self.entries():
            row: dict[str, object] = {"scientificName": entry.scientific, "vernacularName": entry.vernacular}
            row |= {"group": entry.group, "meaning": entry.meaning, "records": entry.records}
            for key, score in entry.scores.items():
                row |= {key: score.value, f"null_{key}": score.null}
            rows.append(row | {key: threshold.value for key, threshold in entry.thresholds.items()})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        groups = ", ".join(self.groups) or "no group"
        return f"<Catalog {self.bundle}: {len(self.entries())} entries in {groups}>"

    def _repr_html_(self) -> str:
        from geomap.html import catalog_html

        return catalog_html(self)

    def search(self, text: str) -> list[SpeciesEntry]:
        """The entries with a name, common name or synonym that contains a text, in any case."""
        wanted = names.normalise(text)
        return [
            entry for entry in self.entries() if any(wanted in names.normalise(n) for n in self._names(entry))
        ]

    @cached_property
    def field_paths(self) -> dict[str, Path]:
        """Grid -> path of its field in the bundle."""
        paths = sorted((self.bundle / "fields").glob("*.zarr*"))
        return {path.name.partition(".zarr")[0]: path for path in paths}

    def field(self, grid: str) -> EmbeddingField:
        """The bundle's field of a grid.

        Raises:
            FieldError: The bundle has none, or it is damaged.
        """
        from geomap.field import open_field

        if grid not in self.field_paths:
            there = ", ".join(self.field_paths) or "none at all"
            raise FieldError(
                "cannot open the field", f"the bundle has no field for the grid {grid}",
                f"use a grid it has a field for ({there}), or give --field or --imagery",
            )  # fmt: skip
        return open_field(self.field_paths[grid])

    def grids(self, group: str) -> tuple[str, ...]:
        """Names of the bundle's fields that the heads of a group fit."""
        wanted = self.heads(group).encoder_hash
        return tuple(name for name in self.field_paths if self.field(name).encoder_hash == wanted)

    def _rows(self, group: str) -> range:
        return range(len(self.heads(group).species))

    def _names(self, entry: SpeciesEntry) -> Iterator[str]:
        yield from (entry.scientific, entry.vernacular, *names.synonyms_of(entry.scientific))
        row = self.heads(entry.group).species.iloc[entry.index]
        yield str(row.get("synonyms") or "")

    def _unknown(self, name: str, groups: tuple[str, ...]) -> NameNotFoundError:
        there = [
            n
            for entry in self.entries()
            if entry.group in groups
            for n in (entry.scientific, entry.vernacular)
            if n
        ]
        near = names.nearest(name, there)
        change = (
            f"did you mean {', '.join(near)}?"
            if near
            else "`geomap species --search TEXT` lists what there is"
        )
        return NameNotFoundError(
            f"cannot find the species {name!r}", f"no such name in {', '.join(groups)}", change
        )


def bundle_groups(bundle: Path) -> dict[str, Path]:
    """Group -> folder of every group of heads in a bundle, in the bundle's order."""
    there = {path.parent.name: path.parent for path in sorted((bundle / "heads").glob("*/card.json"))}
    index = bundle / "index.json"
    order = json.loads(index.read_text(encoding="utf-8"))["groups"] if index.is_file() else []
    return {
        name: there[name]
        for name in [*(n for n in order if n in there), *(n for n in there if n not in order)]
    }


def _worth(entry: SpeciesEntry) -> tuple[bool, float]:
    """What makes an entry better than another of the same species."""
    auc = entry.scores["auc"].value
    return entry.meaning == "probability", -math.inf if math.isnan(auc) else auc
