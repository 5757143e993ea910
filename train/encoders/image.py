"""Image encoders: any timm backbone or colours and textures, pixels in their own units, a unit vector out.

Source: CRISP's towers (a backbone whose classifier is replaced by one Linear, methods section 2.1). What we
changed: an unknown backbone, another number of bands, pixels that are not finite or not in the units of the
stored mean and deviation are refused instead of being passed on (methods section 2.6, defects 3 and 6); a
frozen backbone stays in evaluation mode whatever its parents do, so its BatchNorm never moves (defect 5).
Nothing is ever downloaded: weights come from a local safetensors file. For few photos without weights there
is a backbone of our own, train.encoders.colour_texture.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from train.encoders import colour_texture
from train.encoders.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise, OtherSizes
from train.errors import CheckpointError, SpecError
from train.timm_compat import import_timm

Freeze = Literal["nothing", "backbone", "all"]
CARRIED = "carried by the checkpoint"  # in place of a path: the weights come with the objective's own


@dataclass(frozen=True)
class ImageConfig:
    """What an image encoder eats and is."""

    backbone: str = "resnet18"
    """Name of a timm model, or `colour_texture`."""
    bands: int = 3
    """Number of image bands."""
    size: int = 224
    """Side of the square images [pixels]."""
    dim: int = 512
    """Width of the embedding; 0 takes the backbone's features as they are, without a projection."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per-band mean in the imagery's units (uint8 photos: 0..255)."""
    std: tuple[float, ...] = IMAGENET_STD
    """Per-band standard deviation in the imagery's units."""
    other_sizes: OtherSizes = "refuse"
    """`refuse` images of another size (a chip's pixel has metres), or `resize` them (a photo's has none)."""
    freeze: Freeze = "nothing"
    """What never learns and stays in evaluation mode; needs `weights`, but for `colour_texture`, which starts
    from known filters. `all` wants dim = 0: a projection that never learns is a random one."""
    weights: str = ""
    """Local safetensors file of the backbone; "" starts from random weights (`colour_texture` from known
    filters)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(map(float, self.mean)))  # TOML gives lists
        object.__setattr__(self, "std", tuple(map(float, self.std)))
        if self.freeze not in ("nothing", "backbone", "all"):
            what, change = f"freeze {self.freeze!r}", "Use nothing, backbone or all."
            raise SpecError("cannot build an image encoder", what, change)
        if self.freeze != "nothing" and not self.weights and self.backbone != colour_texture.NAME:
            found = f"freeze = {self.freeze!r} without weights"
            change = (
                "Give weights = a safetensors file, or set freeze = nothing: random features carry little."
            )
            raise SpecError("cannot freeze an image encoder", found, change)
        if self.freeze == "all" and self.dim:
            found = f"freeze = 'all' with a projection to dim = {self.dim}, which would stay random"
            raise SpecError("cannot freeze an image encoder", found, "Set dim = 0, or freeze = backbone.")
        if self.dim < 0:
            raise SpecError("cannot build an image encoder", f"dim {self.dim}", "Give a width >= 0.")


def carried(config: Any) -> Any:
    """A configuration that rebuilds from a checkpoint alone: `weights` of every encoder in it is `CARRIED`.

    The checkpoint of an objective holds all weights, so the file that training started from is not needed to
    build the objective again.

    Args:
        config: Any frozen dataclass; nested ones are walked.
    """
    if not is_dataclass(config) or isinstance(config, type):
        return config
    changes: dict[str, Any] = {f.name: carried(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, ImageConfig) and config.weights:
        changes["weights"] = CARRIED
    return replace(config, **changes)


class Freezable(nn.Module):
    """A module of which all or a part can be kept from learning and from moving its statistics."""

    _all_frozen = False

    def __init__(self) -> None:
        super().__init__()
        self._frozen: tuple[nn.Module, ...] = ()  # a tuple is not registered: names of weights stay

    def frozen(self, part: nn.Module | None = None) -> Self:
        """Freezes this module, or a part of it: no gradients, evaluation mode also under `train()`.

        Returns:
            This module.
        """
        part = self if part is None else part
        part.requires_grad_(False)
        part.eval()
        if part is self:
            self._all_frozen = True
        else:
            self._frozen = (*self._frozen, part)
        return self

    def train(self, mode: bool = True) -> Self:
        """Sets training mode, except for what is frozen."""
        super().train(mode and not self._all_frozen)
        for part in self._frozen:
            part.eval()
        return self


class ImageEncoder(Freezable):
    """Normalisation, a backbone (timm's without its classifier), one Linear, unit length.

    Args:
        config: What it eats and is.

    Raises:
        SpecError: for an unknown backbone (the nearest names are suggested), or one that cannot eat images of
            this size.
        CheckpointError: when `config.weights` is missing, damaged or of another shape.
    """

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(config.size, config.bands, config.mean, config.std, config.other_sizes)
        self.backbone = _backbone(config)
        if config.weights and config.weights != CARRIED:
            load_backbone(self.backbone, Path(config.weights))
        self.width = _width(self.backbone, config)
        self.dim = config.dim or self.width
        self.project = nn.Linear(self.width, config.dim) if config.dim else nn.Identity()
        if config.freeze == "all":
            self.frozen()
        elif config.freeze == "backbone":
            self.frozen(self.backbone)

    def features(self, images: Tensor) -> Tensor:
        """(n, bands, h, w) in the imagery's units -> (n, width) float32 of the backbone, for probes."""
        features: Tensor = self.backbone(self.normalise(images))
        return features.float()

    def embed(self, images: Tensor) -> Tensor:
        """(n, bands, h, w) in the imagery's units -> (n, dim) float32, not of unit length."""
        embedded: Tensor = self.project(self.features(images))
        return embedded.float()  # half precision is too coarse for the contrast

    def forward(self, images: Tensor) -> Tensor:
        """(n, bands, h, w) uint8 or float in the imagery's units -> (n, dim) float32 of unit length.

        Raises:
            SpecError: as `Normalise.forward`.
        """
        return nn.functional.normalize(self.embed(images), dim=1)


def _backbone(config: ImageConfig) -> nn.Module:
    if config.backbone == colour_texture.NAME:
        try:
            return colour_texture.ColourTexture(config.bands, config.size)
        except ValueError as error:
            raise _unfit(config, error) from error
    timm = import_timm()
    if not config.backbone or not timm.is_model(config.backbone):
        known = [*timm.list_models(), colour_texture.NAME]
        near = difflib.get_close_matches(config.backbone, known, n=3, cutoff=0.3)
        change = f"Did you mean {', '.join(near)}?" if near else "timm.list_models() names them all."
        raise SpecError("cannot build an image encoder", f"backbone {config.backbone!r}", change)
    card = timm.models.get_pretrained_cfg(config.backbone)
    sized = {"img_size": config.size} if card is not None and card.fixed_input_size else {}
    try:
        backbone: nn.Module = timm.create_model(
            config.backbone, pretrained=False, num_classes=0, in_chans=config.bands, **sized
        )
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise _unfit(config, error) from error
    return backbone


@torch.no_grad()
def _width(backbone: nn.Module, config: ImageConfig) -> int:
    """Width of the features, by trying: timm's own attribute is wrong for some backbones."""
    try:
        features = backbone.eval()(torch.zeros(1, config.bands, config.size, config.size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _unfit(config, error) from error
    backbone.train()
    return int(features.shape[1])


def _unfit(config: ImageConfig, error: Exception) -> SpecError:
    found = f"{config.backbone} with {config.bands} bands at {config.size} pixels: {error}"
    return SpecError("cannot build an image encoder", found, "Choose another size or backbone.")


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Fills a backbone from a safetensors file in its (timm's) own names; a classifier in it is left out.

    Where the file was trained on RGB and the backbone has other bands, the first convolution is adapted as
    timm does (bands repeated and scaled). Positions learnt for another image size are refused.

    Raises:
        CheckpointError: when the file is missing, not safetensors, or lacks or adds a weight.
    """
    what, change = "cannot read the backbone's weights", "Give a safetensors file of this very timm model."
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(what, f"{path}: {error}", change) from error
    card: dict[str, Any] = getattr(backbone, "pretrained_cfg", {})
    heads = card.get("classifier") or ()
    for head in (heads,) if isinstance(heads, str) else heads:
        state = {name: value for name, value in state.items() if not name.startswith(f"{head}.")}
    first = f"{card.get('first_conv') or ''}.weight"
    own = backbone.state_dict()
    if first in state and first in own and state[first].shape[1] == 3 != own[first].shape[1]:
        from timm.models import adapt_input_conv

        state[first] = adapt_input_conv(own[first].shape[1], state[first])
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(what, f"{path}: {error}", change) from error
