"""What the tile server can be told: by variables GEOMAP_TILES_*, or by options of `python -m tiles`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from geomap.errors import GeomapError

PREFIX = "GEOMAP_TILES_"


class SettingsError(GeomapError, ValueError):
    """A setting of the tile server that makes no sense."""


@dataclass(frozen=True)
class Settings:
    """Settings of the tile server.

    Attributes:
        maps: Folder that `geomap.render` wrote: GRID/SLUG.tif with GRID/collection.json.
        host: Address to listen on; the default answers this machine only.
        port: Port to listen on; 0 takes a free one.
    """

    maps: Path = Path("maps")
    host: str = "127.0.0.1"
    port: int = 8000

    def __post_init__(self) -> None:
        """Refuse what cannot be served.

        Raises:
            SettingsError: The folder does not exist, or the port is out of range.
        """
        if not self.maps.is_dir():
            raise SettingsError(
                "cannot serve maps",
                f"no folder {self.maps}",
                "Render one (python -m geomap.render --species NAME), or name their folder with --maps.",
            )
        if not 0 <= self.port <= 65535:
            raise SettingsError("cannot listen", f"port {self.port}", "Give a port from 0 to 65535.")


def from_environment(
    environ: Mapping[str, str] | None = None,
    *,
    maps: Path | None = None,
    host: str | None = None,
    port: int | None = None,
) -> Settings:
    """Settings from GEOMAP_TILES_MAPS, GEOMAP_TILES_HOST and GEOMAP_TILES_PORT.

    Args:
        environ: Environment variables; those of the process when None.
        maps: Wins over the variable when given, as do `host` and `port`.
        host: See `maps`.
        port: See `maps`.

    Returns:
        The settings, with defaults for what is given nowhere.

    Raises:
        SettingsError: A variable with the prefix is unknown, or a value makes no sense.
    """
    variables = os.environ if environ is None else environ
    given = {name.removeprefix(PREFIX): text for name, text in variables.items() if name.startswith(PREFIX)}
    known = [field.name.upper() for field in fields(Settings)]
    for name in given:
        if name not in known:
            choices = ", ".join(PREFIX + each for each in known)
            raise SettingsError("cannot read the settings", f"{PREFIX}{name}", f"Known are {choices}.")
    return Settings(
        maps=maps or Path(given.get("MAPS", Settings.maps)),
        host=host or given.get("HOST", Settings.host),
        port=_port(given.get("PORT", str(Settings.port))) if port is None else port,
    )


def _port(text: str) -> int:
    if not text.isdecimal():
        raise SettingsError("cannot listen", f"{PREFIX}PORT={text!r}", "Give a port from 0 to 65535.")
    return int(text)
