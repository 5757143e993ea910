"""Recipes: what a run trains, on what, and how. One TOML file each; `train/recipes/` ships them.

objective = "crisp"         a key of OBJECTIVES
[model]                     the objective's configuration (its dataclass says the keys)
[data]                      kind, path and options of the observations, and what is held out of them
[training]                  steps, optimiser, precision, seed
"""

from __future__ import annotations

import difflib
import importlib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from train.batch import Observations
from train.data import chip_folder
from train.data.augment import augmented
from train.data.registry import open_observations
from train.data.splits import PARTS, Split, block_split, random_split
from train.data.table import Selection, tiles_of
from train.errors import SpecError
from train.settings import from_table, override

SHIPPED = Path(__file__).parent / "recipes"
OBJECTIVES = {  # name -> module, configuration, model
    "crisp": ("train.objectives.crisp", "CrispConfig", "Crisp"),
    "birdsat-cve": ("train.objectives.birdsat_cve", "CveConfig", "CveMae"),
    "birdsat-cvm": ("train.objectives.birdsat_cvm", "CvmConfig", "Cvm"),
    "moco-geo": ("train.objectives.moco_geo", "MocoGeoConfig", "MocoGeo"),
    "csp": ("train.objectives.csp", "CspConfig", "Csp"),
}


@dataclass(frozen=True)
class DataConfig:
    """The observations of a run."""

    kind: str  # a loader of train.data: a key of train.data.registry.OPENERS
    path: str = ""  # file or folder; empty for generated landscapes
    options: Mapping[str, Any] = field(default_factory=dict)  # of the loader
    augment: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # view -> how training images vary
    metres_per_pixel: float | None = (
        None  # of aerial images, for maps; folders of geomap.chips know it themselves
    )
    validation: float = 0.1  # share that losses and settings are watched on
    test: float = 0.1  # share that only train.evaluate looks at
    split: Literal["random", "blocks"] = "random"  # rows (those of a tile together), or blocks of places
    block_degrees: float = 1.0  # side of the blocks
    buffer_km: float = 0.0  # between blocks of two parts; at least the side of a tile


@dataclass(frozen=True)
class TrainingConfig:
    """How a run trains."""

    epochs: int = 10  # passes over the training observations
    batch: int = 128  # observations of a step, over all processes
    accumulate: int = 1  # parts of a step; each part is a contrast of its own
    learning_rate: float = 1e-3  # its peak, after the warm-up
    weight_decay: float = 1e-2  # on matrices, not on biases, norms and scales
    warmup: float = 0.05  # share of the steps that it rises over; then a cosine down to nothing
    clip: float = 1.0  # largest norm of the gradient; 0: not clipped
    precision: Literal["auto", "float32", "bf16"] = "auto"  # auto: bf16 on a GPU that has it
    workers: int = 0  # processes that load data
    log_every: int = 10  # steps between lines of log.csv
    save_every: int = 200  # steps between checkpoints
    seed: int = 0  # of weights, splits, batches and augmentation

    def __post_init__(self) -> None:
        bad = [
            f"{name} = {getattr(self, name)}"
            for name in ("epochs", "batch", "accumulate", "log_every", "save_every", "learning_rate")
            if not getattr(self, name) > 0
        ]
        bad += [
            f"{n} = {getattr(self, n)}" for n in ("workers", "clip", "weight_decay") if getattr(self, n) < 0
        ]
        bad += [] if 0 <= self.warmup < 1 else [f"warmup = {self.warmup}"]
        if bad:
            found = f"training.{bad[0]}"
            raise SpecError("cannot read the recipe", found, "Give a number that makes sense there.")


@dataclass(frozen=True)
class Recipe:
    """A whole run."""

    objective: str  # a key of OBJECTIVES: crisp, birdsat-cve, birdsat-cvm, moco-geo or csp
    data: DataConfig
    training: TrainingConfig = field(default_factory=TrainingConfig)
    model: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""  # what the recipe is for, in a line

    def to_table(self) -> dict[str, Any]:
        """Plain values, for the card."""
        return asdict(self)


def read_recipe(name: str, settings: list[str]) -> Recipe:
    """A recipe from a file or from those shipped, with settings on top.

    Args:
        name: Path of a .toml, or the name of a shipped recipe.
        settings: "key.of.it=value" each.

    Raises:
        SpecError: no such recipe (the nearest name is suggested), damaged TOML, unknown keys, wrong values.
    """
    path = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if name.endswith(".toml"):
            raise SpecError("cannot read the recipe", f"{path}: {error}", "Give another file.") from error
        near = difflib.get_close_matches(name, shipped(), 1)
        change = (
            f"did you mean {near[0]}?" if near else "Give a .toml file, or one of " + ", ".join(shipped())
        )
        raise SpecError("cannot find the recipe", repr(name), change) from None
    recipe = from_table(Recipe, override(table, settings), "recipe")
    model_config(recipe)  # unknown keys are refused before any work
    return recipe


def shipped() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def model_config(recipe: Recipe) -> Any:
    """The objective's own configuration.

    Raises:
        SpecError: for an unknown objective or key.
    """
    module, config, _ = _objective(recipe.objective)
    return from_table(getattr(module, config), recipe.model, "model")


def build_model(recipe: Recipe) -> nn.Module:
    """A fresh model; its weights follow from torch's generator.

    Raises:
        SpecError: for an unknown objective, backbone or key.
    """
    module, _, name = _objective(recipe.objective)
    model: nn.Module = getattr(module, name)(model_config(recipe))
    return model


def _objective(name: str) -> tuple[Any, str, str]:
    if name not in OBJECTIVES:
        near = difflib.get_close_matches(name, OBJECTIVES, 1)
        change = f"did you mean {near[0]}?" if near else "Give one of " + ", ".join(OBJECTIVES)
        raise SpecError("cannot train", f"objective {name!r}", change)
    module, config, model = OBJECTIVES[name]
    return importlib.import_module(module), config, model


def open_data(recipe: Recipe) -> dict[str, Observations]:
    """Observations of each part with a share: `train`, `validation`, `test`; the same ones every time.

    Raises:
        SpecError: data that cannot be read, or too few for the split.
    """
    data = open_observations(recipe.data.kind, recipe.data.path or None, **recipe.data.options)
    split = split_of(data, recipe)
    rows = {name: getattr(split, name) for name in PARTS}
    parts: dict[str, Observations] = {name: Selection(data, at) for name, at in rows.items() if len(at)}
    if recipe.data.augment:
        parts["train"] = augmented(parts["train"], recipe.data.augment)
    return parts


def metres_per_pixel(recipe: Recipe) -> float | None:
    """Side of a pixel of the aerial images [m]; None where neither recipe nor data say it."""
    folder = recipe.data.path if recipe.data.kind == "chips" else recipe.data.options.get("chips")
    if recipe.data.metres_per_pixel is not None or not folder:
        return recipe.data.metres_per_pixel
    return float(chip_folder.read_card(Path(folder))["metres"])


def split_of(data: Observations, recipe: Recipe) -> Split:
    """Which rows each part has.

    Raises:
        SpecError: shares make no sense, or too few observations.
    """
    asked, seed = recipe.data, recipe.training.seed
    shares = (1.0 - asked.validation - asked.test, asked.validation, asked.test)
    if asked.split == "blocks":
        lonlat = np.asarray(data.lonlat(), np.float64)
        return block_split(lonlat, asked.block_degrees, shares, seed, asked.buffer_km)
    return random_split(len(data), shares, seed, np.asarray(tiles_of(data)))
