"""Whether a bundle is whole: every file of its fields, every group of heads, and all of the same encoders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from geomap.checkup import Finding, guarded
from geomap.errors import GeomapError

RESTORE = "Restore the bundle: git restore geomap/bundle, or make it with make bundle."
Advance = Callable[[int], None]


def field_files(bundle: Path) -> list[Path]:
    """The fields of a bundle."""
    return sorted((bundle / "fields").glob("*.zarr*"))


def check_bundle(bundle: Path, encoders: Mapping[str, Any], advance: Advance) -> list[Finding]:
    """Every field, group of heads and the encoders of a bundle.

    Args:
        bundle: Its folder.
        encoders: Of a child process that loaded the encoders: encoder_hash, or encoder_error.
        advance: Told the bytes of each file of a field that was compared.

    Returns:
        The size first; then a finding for each field, group and the encoders.
    """
    if not bundle.is_dir():
        return [Finding("bundle", "wrong", f"no folder {bundle}", RESTORE)]
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    findings = [Finding("bundle", "ok", f"{size / 1e6:.1f} MB in {bundle}")]
    fields = field_files(bundle)
    groups = sorted(path.parent for path in (bundle / "heads").glob("*/card.json"))
    findings += _guarded("index", lambda: _index(bundle / "index.json", [path.name for path in groups]))
    for what, there in (("fields", fields), ("heads", groups)):
        if not there:
            findings.append(Finding("bundle", "wrong", f"no {what} in {bundle / what}", RESTORE))
    hashes: dict[str, str] = {}
    for path in fields:
        check = f"field {path.name.partition('.')[0]}"
        findings += _guarded(check, partial(_field, path, hashes, advance))
    for path in groups:
        findings += _guarded(f"heads {path.name}", partial(_heads, path, hashes))
    return [*findings, *_guarded("encoders", lambda: encoder_findings(bundle / "encoders", encoders, hashes))]


def encoder_findings(folder: Path, encoders: Mapping[str, Any], hashes: Mapping[str, str]) -> list[Finding]:
    """Whether fields, heads and encoders are of one make.

    Args:
        folder: Folder of the encoders.
        encoders: As in `check_bundle`.
        hashes: What they belong to -> hash of the encoders that made it.
    """
    found: list[Finding] = []
    if "encoder_error" in encoders:
        found.append(Finding("encoders", "wrong", str(encoders["encoder_error"]), RESTORE))
    known = {f"encoders in {folder.name}": encoders["encoder_hash"]} if "encoder_hash" in encoders else {}
    known |= hashes
    kinds = {hash_: [name for name in known if known[name] == hash_] for hash_ in known.values()}
    if len(kinds) > 1:
        told = "; ".join(f"{', '.join(names)}: {hash_[:12]}" for hash_, names in kinds.items())
        found.append(Finding("encoders", "wrong", f"not all of one make ({told})", RESTORE))
    elif not found and kinds:
        found.append(Finding("encoders", "ok", f"{next(iter(kinds))[:12]}, the same everywhere"))
    return found


def _guarded(check: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    def of_the_bundle() -> list[Finding]:
        try:
            return look()
        except GeomapError as error:  # its own advice is for a field or heads that the user made
            return [Finding(check, "wrong", f"{error.what}: {error.found}", RESTORE)]

    return guarded(check, RESTORE, of_the_bundle)


def _index(path: Path, there: list[str]) -> list[Finding]:
    """Whether the groups that the index names are there; a bundle may do without an index."""
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"groups": there}
    if not isinstance(told, dict) or not isinstance(named := told.get("groups"), list):
        return [Finding("index", "wrong", f"{path} names no groups", RESTORE)]
    gone = [name for name in named if name not in there]
    if gone:
        return [Finding("index", "wrong", f"no heads {', '.join(gone)}, which {path.name} names", RESTORE)]
    return [Finding("index", "ok", f"{len(named)} groups of heads")]


def _field(path: Path, hashes: dict[str, str], advance: Advance) -> list[Finding]:
    """What `EmbeddingField.verify` asks, file by file, so that a bar can move."""
    from geomap.field import open_field
    from geomap.fieldstore import read_checked

    field = open_field(path)
    for _, data in read_checked(field.path, field.files):
        advance(len(data))
    name = path.name.partition(".")[0]
    hashes[f"field {name}"] = field.encoder_hash
    found = f"{len(field.files)} files agree with the manifest, {field.valid_cells:,} cells"
    return [Finding(f"field {name}", "ok", found)]


def _heads(folder: Path, hashes: dict[str, str]) -> list[Finding]:
    from geomap.heads import load_heads

    heads = load_heads(folder)
    hashes[f"heads {folder.name}"] = heads.encoder_hash
    return [Finding(f"heads {folder.name}", "ok", f"{len(heads)} species, {heads.meaning}")]
