"""What `geomap doctor` looks at: each check gives findings, and changes nothing it looks at.

A finding is "ok", a "warning" (all works, and a person can better it) or "wrong" (something will not work).
What a check imports, it imports itself: a package that is missing or broken is then found, not stumbled over.
"""

from __future__ import annotations

import codecs
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geomap.errors import GeomapError

State = Literal["ok", "warning", "wrong"]
STATES: tuple[State, ...] = ("ok", "warning", "wrong")  # from best to worst
INSTALL = "Install it again: pip install -e ."
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*([^;]*?)\s*(?:;\s*(.*))?")
BOUND = re.compile(r"(>=|<)\s*([0-9.]+)")
# A place and where California Albers (EPSG:3310) has it, by the formulas of Snyder, Map Projections: A
# Working Manual, USGS 1395 (1987), equations 14-1 to 14-6 and 3-12, on the ellipsoid GRS 80.
PLACE_LONLAT = (-121.5, 38.5)
PLACE_ALBERS_M = (-130_662.158562, 54_796.429146)
GIGABYTE = 1_000_000_000
ROOM_SMALL, ROOM_LITTLE = 5 * GIGABYTE, GIGABYTE // 2
MEMORY_LITTLE = 2 * GIGABYTE
NODE = 18  # the oldest that builds the page


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: What was looked at.
        state: "ok", "warning" or "wrong".
        found: What was found, in words.
        change: What to do about it; "" where all is well.
    """

    check: str
    state: State
    found: str
    change: str = ""


def worst(findings: Iterable[Finding]) -> State:
    """The worst state among findings; "ok" without any."""
    return max((finding.state for finding in findings), key=STATES.index, default="ok")


def guarded(check: str, change: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """What a check finds; one wrong finding where it cannot even be made.

    Args:
        check: What is looked at.
        change: What to do when a package that the check needs is missing or broken.
        look: The check.
    """
    try:
        return look()
    except GeomapError as error:
        return [Finding(check, "wrong", f"{error.what}: {error.found}", error.change)]
    except (ImportError, OSError, ValueError, RuntimeError) as error:  # the last two: CRS errors of PROJ
        return [Finding(check, "wrong", f"{type(error).__name__}: {_one_line(error)}", change)]


def python_version(version: tuple[int, ...], needed: str) -> Finding:
    """Python's version against the bound of the installed distribution.

    Args:
        version: Of the interpreter that runs, as (3, 11, 4).
        needed: Bounds, as ">=3.11".
    """
    said = ".".join(map(str, version))
    if within(said, needed):
        return Finding("Python", "ok", said)
    return Finding("Python", "wrong", f"{said}, needed {needed}", f"Make a new environment with {needed}.")


def packages(requirements: Iterable[str], installed: Callable[[str], str | None]) -> list[Finding]:
    """The packages that geomap needs, against their bounds.

    Args:
        requirements: As a distribution states them: "torch<2.14,>=2.6", "uvloop>=0.23; extra == 'serve'".
        installed: Version of a distribution; None where it is not installed.

    Returns:
        One finding for all that fit, before it one for each that does not. What belongs to the extra `serve`
        is a warning when missing; other extras are not looked at.
    """
    findings, fitting = [], 0
    for requirement in requirements:
        match = REQUIREMENT.fullmatch(requirement)
        assert match is not None, requirement
        name, bounds, marker = match[1], match[2], match[3] or ""
        if marker and "serve" not in marker:
            continue
        version = installed(name)
        if version is not None and within(version, bounds):
            fitting += 1
            continue
        found = f"{name} is missing" if version is None else f"{name} {version}"
        findings.append(
            Finding("packages", "warning", f"{found}: the server is slower", "pip install 'geomap[serve]'")
            if marker and version is None
            else Finding("packages", "wrong", f"{found}, needed {bounds}", f"pip install '{name}{bounds}'")
        )
    return [*findings, Finding("packages", "ok", f"{fitting} within their bounds")]


def within(version: str, bounds: str) -> bool:
    """Whether a version is within bounds like "<2.14,>=2.6"; local parts ("+cpu") and "rc1" do not count."""
    number = _numbers(version)
    return all((number >= _numbers(bound)) == (sign == ">=") for sign, bound in BOUND.findall(bounds))


def torch_facts(facts: Mapping[str, Any], gpu_tool: str | None) -> list[Finding]:
    """PyTorch and the GPU.

    Args:
        facts: Of a child process that imported torch: version, cuda (version that torch was built for, or
            None), devices (names of GPUs it can use); or error.
        gpu_tool: Path of nvidia-smi; None where the machine has no driver of an NVIDIA GPU.
    """
    if "error" in facts:
        return [Finding("torch", "wrong", facts["error"], INSTALL)]
    found = [Finding("torch", "ok", facts["version"])]
    if facts["devices"]:
        return [*found, Finding("GPU", "ok", ", ".join(facts["devices"]))]
    if gpu_tool is None:
        return [*found, Finding("GPU", "ok", "none: everything runs on the processor")]
    if facts["cuda"] is None:
        why, change = "torch is built for the processor", "Install a build of torch with CUDA to train on it."
    else:
        why, change = f"torch for CUDA {facts['cuda']} cannot use it", "Compare the driver with nvidia-smi."
    return [*found, Finding("GPU", "warning", f"one is there, but {why}", change)]


def projection() -> list[Finding]:
    """PROJ of pyproj and of GDAL: the data are found, and a place comes out within a metre.

    Both bring a copy of PROJ's data; a variable PROJ_DATA or PROJ_LIB that another program set hides them.
    """
    import pyproj
    from rasterio.errors import CRSError, RasterioError
    from rasterio.warp import transform

    change = "Unset PROJ_DATA and PROJ_LIB, or install pyproj and rasterio again."
    findings = []
    try:
        to_albers = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3310", always_xy=True)
        x, y = to_albers.transform(*PLACE_LONLAT)
        findings.append(_placed(f"PROJ {pyproj.proj_version_str} (pyproj)", x, y, change))
    except pyproj.exceptions.ProjError as error:
        findings.append(Finding("PROJ (pyproj)", "wrong", _one_line(error), change))
    try:
        xs, ys = transform("EPSG:4326", "EPSG:3310", *([each] for each in PLACE_LONLAT))
        findings.append(_placed("PROJ (GDAL)", xs[0], ys[0], change))
    except (CRSError, RasterioError) as error:
        findings.append(Finding("PROJ (GDAL)", "wrong", _one_line(error), change))
    return findings


def written_and_read(folder: Path | None = None) -> list[Finding]:
    """GDAL: a small cloud-optimised GeoTIFF is written, opened again and compared.

    Args:
        folder: Where a passing folder for it is made; the system's if None.
    """
    import numpy as np
    import rasterio
    from affine import Affine
    from odc.geo.geobox import GeoBox

    from geomap.cog import CogSpec, to_steps, to_values, write_cog

    values = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    steps = to_steps(values, np.indices(values.shape).sum(axis=0) > 8)
    # A CRS in words of its own: that codes are found is what the check of PROJ asks.
    geobox = GeoBox(
        values.shape, Affine(1000, 0, 0, 0, -1000, 0), "+proj=cea +lat_ts=30 +datum=WGS84 +units=m"
    )
    check, change = f"GDAL {rasterio.__gdal_version__}", "Install rasterio again."
    with tempfile.TemporaryDirectory(prefix="geomap-doctor-", dir=folder) as passing:
        path = Path(passing, "map.tif")
        write_cog(path, [(0, steps)], CogSpec(geobox, "doctor", "suitability", {}))
        with rasterio.open(path) as source:
            same = np.array_equal(source.read(1), to_values(steps))
            layout = source.tags(ns="IMAGE_STRUCTURE").get("LAYOUT")
    if same and layout == "COG":
        return [Finding(check, "ok", "a map was written and read again")]
    return [Finding(check, "wrong", f"a map came back changed (same values: {same}, {layout})", change)]


def room(what: str, folder: Path, free: int) -> Finding:
    """Free disk in a folder.

    Args:
        what: What the folder is for.
        folder: The folder.
        free: Free bytes there.
    """
    check, found = f"disk, {what}", f"{free / GIGABYTE:,.1f} GB free in {folder}"
    if free >= ROOM_SMALL:
        return Finding(check, "ok", found)
    state: State = "warning" if free >= ROOM_LITTLE else "wrong"
    return Finding(check, state, found, "Free some space there: a grid of maps takes some gigabytes.")


def memory(available: int | None) -> Finding:
    """Memory that is free for use [bytes]; None where the system does not tell."""
    if available is None:
        return Finding("memory", "ok", "this system does not tell")
    found = f"{available / GIGABYTE:,.1f} GB available"
    if available >= MEMORY_LITTLE:
        return Finding("memory", "ok", found)
    return Finding("memory", "warning", found, "Close other programs, and work with --workers 1.")


def memory_available(meminfo: str, limits: Iterable[tuple[str, str]] = ()) -> int | None:
    """Bytes of memory available, from what Linux says.

    Args:
        meminfo: Text of /proc/meminfo.
        limits: Texts (limit, in use) of the control groups that the process is in; a limit of "max" is none.

    Returns:
        The least of all; None where the text does not tell.
    """
    match = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    if match is None:
        return None
    left = [int(limit) - int(used) for limit, used in limits if limit.strip().isdigit()]
    return max(0, min([int(match[1]) * 1024, *left]))


def page(static: Path | None, node: str | None) -> list[Finding]:
    """The web page of the tile server, and what builds it.

    Args:
        static: Folder of the built page; None where the tile server is not installed.
        node: What `node --version` said; None where there is none.
    """
    if static is None:
        return [Finding("web page", "wrong", "the tile server is not installed", INSTALL)]
    if (static / "manifest.json").is_file():
        return [Finding("web page", "ok", f"built in {static}")]
    missing = Finding(
        "web page", "warning", f"not built in {static}: the server has no page at /", "make web"
    )
    major = re.match(r"v(\d+)\.", node or "")
    if major is not None and int(major[1]) >= NODE:
        return [missing, Finding("Node.js", "ok", str(node))]
    found = f"{node or 'not installed'}, needed {NODE} or newer to build the page"
    return [missing, Finding("Node.js", "warning", found, f"Install Node.js {NODE} or newer, with npm.")]


def characters(encodings: Mapping[str, str]) -> Finding:
    """Whether names of species can be read, written and shown in every script.

    Args:
        encodings: Place -> the encoding used there, as "utf-8" or "ANSI_X3.4-1968".
    """
    other = {place: name for place, name in encodings.items() if codecs.lookup(name).name != "utf-8"}
    if not other:
        return Finding("characters", "ok", "UTF-8")
    found = ", ".join(f"{name} for {place}" for place, name in other.items())
    return Finding("characters", "warning", found, "Set LANG=C.UTF-8, or PYTHONUTF8=1.")


def _placed(check: str, x: float, y: float, change: str) -> Finding:
    off = max(abs(x - PLACE_ALBERS_M[0]), abs(y - PLACE_ALBERS_M[1]))
    if off <= 1:  # False for inf and NaN too
        return Finding(check, "ok", "a place comes out where it should")
    return Finding(check, "wrong", f"a place comes out {off:,.0f} m off", change)


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 13) of "2.13.0+cpu": without zeros at the end, so that 2.13 and 2.13.0 are the same."""
    match = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in match[0].split(".")] if match else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
