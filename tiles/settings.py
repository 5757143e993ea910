"""What the tile server can be told: by variables GEOMAP_TILES_*, or by options of `python -m tiles`.

    GEOMAP_TILES_MAPS=maps,s3://bucket/maps GEOMAP_TILES_WORKERS=2 python -m tiles

A list is written with commas. A variable that is not known is refused, so that nobody takes a mistyped one
for obeyed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from geomap.errors import GeomapError

PREFIX = "GEOMAP_TILES_"
REMOTE = re.compile(r"(?:s3|https?)://.+")
DEFAULT_MAPS = "maps"
Words = Annotated[tuple[str, ...], NoDecode]


class SettingsError(GeomapError, ValueError):
    """A setting of the tile server that makes no sense."""


class Settings(BaseSettings):
    """Settings of the tile server; every one has the variable GEOMAP_TILES_ and its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    maps: Words = Field(
        default_factory=lambda: (DEFAULT_MAPS,) if Path(DEFAULT_MAPS).is_dir() else (),
        description="Folders that geomap render wrote, also under s3:// or https://; maps where there is one",
    )
    heads: Words = Field((), description="Folders of heads besides those of the bundle, or groups of it")
    bundle: bool = Field(True, description="Whether the species of the shipped bundle are served")
    withheld: Words = Field((), description="Ids of species that no route gives")
    host: str = Field("127.0.0.1", min_length=1, description="Address; the default answers this machine only")
    port: int = Field(8000, ge=0, le=65535, description="Port; 0 takes a free one")
    workers: int = Field(1, ge=1, le=64, description="Processes, best one for each core")
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~@%+-]+)*$",
        description="Prefix of a proxy before the server's addresses",
    )
    proxies: str = Field(
        "127.0.0.1", description="Addresses whose X-Forwarded headers are believed; * for any"
    )
    cors_origins: Words = Field(("*",), description="Origins whose pages may read the answers")
    cache_mb: int = Field(256, ge=16, le=65536, description="Memory for computed maps, in each worker")
    cache_dir: Path | None = Field(None, description="Folder for what is too large for memory")
    tile_cache_mb: int = Field(64, ge=0, le=65536, description="Memory for finished tiles, in each worker")
    max_concurrency: int = Field(4, ge=1, le=256, description="Threads that draw, in each worker")
    queue: int = Field(64, ge=0, le=10000, description="Requests that may wait for a thread, in each worker")
    max_body_kb: int = Field(1024, ge=1, le=65536, description="Largest body of a request")
    max_polygon_vertices: int = Field(5000, ge=4, le=1_000_000, description="Most vertices of a polygon")
    max_polygon_km2: float = Field(10_000_000, gt=0, description="Largest area of a polygon")
    drain_s: int = Field(30, ge=1, le=600, description="Seconds that open requests are given at the end")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged")
    log_format: Literal["text", "json"] = Field("text", description="How it is logged")
    download_cells: int = Field(30_000_000, ge=1, description="Cells of the largest map file made on demand")
    download_cache_mb: int = Field(2048, ge=1, description="Room for map files made on demand")
    records: Words = Field((), description="Files of records besides those beside heads")
    records_uncertainty_m: float = Field(
        10_000.0, gt=0, description="Largest coordinate uncertainty of a record that is shown"
    )
    sensitive: Words = Field((), description="Ids or names of species whose places are not shown")
    sensitive_cell: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Side in degrees of cells that stand for sensitive records; 0 shows none",
    )
    basemap: str = Field("", description="URL template of online tiles; without one, an outline from here")
    basemap_attribution: str = Field("", description="Credit line of the online tiles")
    warm: bool = Field(True, description="Compute ahead at the start what the maps of many species share")

    @field_validator("maps", "heads", "withheld", "records", "sensitive", "cors_origins", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """A list from a text with commas."""
        if isinstance(value, str | Path):
            return tuple(part.strip() for part in str(value).split(",") if part.strip())
        return tuple(str(part) for part in value)

    @field_validator("root_path", mode="before")
    @classmethod
    def _without_last_slash(cls, value: Any) -> Any:
        return value.rstrip("/") if isinstance(value, str) else value

    @field_validator("maps")
    @classmethod
    def _are_there(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for folder in value:
            if not REMOTE.fullmatch(folder) and not Path(folder).is_dir():
                raise SettingsError(
                    "cannot serve maps", f"no folder {folder}",
                    "Render one (python -m geomap.render --species NAME), or name their folder with --maps.",
                )  # fmt: skip
        return value

    @field_validator("basemap")
    @classmethod
    def _is_template(cls, value: str) -> str:
        template = value.startswith(("https://", "http://")) and all(
            k in value for k in ("{z}", "{x}", "{y}")
        )
        if value and not template:
            raise ValueError("give https://HOST/...{z}/{x}/{y}")
        return value

    @model_validator(mode="after")
    def _has_something(self) -> Self:
        if not (self.maps or self.heads or self.bundle):
            raise ValueError("nothing to serve: give maps or heads, or leave bundle on")
        return self

    @property
    def max_body_bytes(self) -> int:
        """Largest body of a request in bytes."""
        return self.max_body_kb * 1024

    def variables(self) -> dict[str, str]:
        """The variables that give these settings to another process."""
        return {PREFIX + name.upper(): _text(value) for name, value in self if value is not None}


def from_environment(**given: Any) -> Settings:
    """Settings from the variables GEOMAP_TILES_* of the process, with defaults for what is given nowhere.

    Args:
        **given: Settings by name, which win over the variables where they are not None.

    Raises:
        SettingsError: A variable with the prefix is unknown, or a value makes no sense.
    """
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    for variable in os.environ:
        if variable.startswith(PREFIX) and variable not in known:
            raise SettingsError("cannot read the settings", variable, f"Known are {', '.join(known)}.")
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise _refusal(error) from error


def _refusal(error: ValidationError) -> SettingsError:
    """The first complaint in three parts; what a validator of ours raised, as it was raised."""
    first = error.errors()[0]
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, SettingsError):
        return raised
    said = first["msg"].removeprefix("Value error, ")
    name = str(first["loc"][0]) if first["loc"] else ""
    if name not in Settings.model_fields:
        return SettingsError("cannot read the settings", "these settings together", f"{said}.")
    found = f"{PREFIX}{name.upper()}={first['input']!r}"
    return SettingsError(
        "cannot read the settings", found, f"{said} ({Settings.model_fields[name].description})."
    )


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
