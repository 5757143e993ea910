"""What an encoder eats and what it is: the card that travels inside every checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from train.errors import CheckpointError, SpecError

CARD_FORMAT = 1


@dataclass(frozen=True)
class ChipSpec:
    """One scale of context, as the aerial encoder eats it.

    A chip is a square of `pixels` by `pixels` pixels of `metres_per_pixel` metres around a place. Values
    arrive in the imagery's own units and are normalised once, inside the encoder, as (value - mean) / std.
    """

    metres_per_pixel: float
    """Side of one pixel on the ground [m]."""
    windows: tuple[int, ...]
    """Radii of the square windows whose statistics are pooled [pixels], ascending; 0 is the pixel itself."""
    halo: int
    """Radius that the convolutions see around a pixel [pixels]."""
    bands: int
    """Number of image bands."""
    mean: tuple[float, ...]
    """Per-band mean in the imagery's units."""
    std: tuple[float, ...]
    """Per-band standard deviation in the imagery's units."""

    def __post_init__(self) -> None:
        if not (0 < self.metres_per_pixel < math.inf) or self.halo < 0:
            found = f"{self.metres_per_pixel} m/pixel, halo {self.halo}"
            raise SpecError("cannot use a chip specification", found, "Give positive metres and a halo >= 0.")
        if not self.windows or list(self.windows) != sorted(set(self.windows)) or self.windows[0] < 0:
            raise SpecError(
                "cannot use a chip specification", f"windows {self.windows}", "Give ascending radii >= 0."
            )
        right_length = self.bands == len(self.mean) == len(self.std) > 0
        if (
            not right_length
            or not all(map(math.isfinite, self.mean))
            or not all(0 < s < math.inf for s in self.std)
        ):
            found = f"{self.bands} bands, mean {self.mean}, std {self.std}"
            raise SpecError(
                "cannot normalise a chip", found, "Give one mean and one positive std for each band."
            )

    @property
    def margin(self) -> int:
        """Pixels needed on every side of a place: halo plus the largest window."""
        return self.halo + self.windows[-1]

    @property
    def pixels(self) -> int:
        """Side of a chip [pixels], always odd."""
        return 2 * self.margin + 1

    @property
    def metres(self) -> float:
        """Side of a chip [m]."""
        return self.pixels * self.metres_per_pixel


@dataclass(frozen=True)
class LocationSpec:
    """How a longitude and latitude become numbers (methods: CSP section 4, SINR, Sphere2Vec)."""

    kind: str = "sphere_rff"
    """A key of train.encoders.location.ENCODINGS."""
    options: Mapping[str, float] = field(default_factory=dict)
    """Keyword options of that encoding."""
    hidden: int = 256
    """Width of the network."""
    blocks: int = 2
    """Number of residual blocks, or of hidden layers in networks without them."""
    dim: int = 64
    """Width of the learnt location embedding."""
    position: int = 64
    """Width of the fixed position features beside it."""
    network: str = "residual"
    """A key of train.encoders.networks.NETWORKS."""


@dataclass(frozen=True)
class AerialSpec:
    """The aerial encoder: a timm stage run at full resolution, pooled over windows, and a projection."""

    backbone: str = "convnext_atto"
    """Name of a timm model of the ConvNeXt family; its first stage is used, without down-sampling."""
    channels: int = 16
    """Width of that stage."""
    depth: int = 2
    """Residual blocks in that stage."""
    kernel: int = 5
    """Depthwise kernel [pixels]."""
    hidden: int = 512
    """Width of the projection's hidden layer."""
    dim: int = 64
    """Width of the aerial embedding."""
    levels: tuple[ChipSpec, ...] = ()
    """Scales of context, finest first."""


@dataclass(frozen=True)
class EncoderCard:
    """Everything needed to rebuild a pair of encoders around its weights."""

    aerial: AerialSpec
    location: LocationSpec
    quant_scale: tuple[float, ...]
    """Step of each embedding feature when it is stored as int8."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Objective, data, credits, seed and losses of the pre-training."""

    @property
    def dim(self) -> int:
        """Width of the joined embedding."""
        return self.aerial.dim + self.location.dim + self.location.position

    def to_json(self) -> str:
        """The card as text, keys sorted, so that equal cards give equal bytes."""
        card = {"format": CARD_FORMAT, **asdict(self)}
        if self.location.network == LocationSpec.network:
            del card["location"]["network"]  # written when chosen: cards from before it keep their hash
        return json.dumps(card, indent=2, sort_keys=True) + "\n"

    @staticmethod
    def from_json(text: str) -> EncoderCard:
        """Rebuilds a card.

        Raises:
            CheckpointError: when the text is not a card of this format.
        """
        try:
            data = json.loads(text)
            if data.pop("format") != CARD_FORMAT:
                raise ValueError("another card format")
            aerial = dict(data["aerial"])
            aerial["levels"] = tuple(_chip(level) for level in aerial["levels"])
            return _whole(
                EncoderCard(
                    AerialSpec(**_known(AerialSpec, aerial)),
                    LocationSpec(**_known(LocationSpec, data["location"])),
                    tuple(data["quant_scale"]),
                    data["training"],
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                "cannot read the encoder card",
                f"{type(error).__name__}: {error}",
                "Restore card.json from its source.",
            ) from error


def _whole(card: EncoderCard) -> EncoderCard:
    if not card.aerial.levels:
        raise ValueError("no scale of context")
    steps = card.quant_scale
    if len(steps) != card.dim or not all(0 < step < math.inf for step in steps):
        raise ValueError(f"quant_scale is not {card.dim} positive steps")
    return card


def _known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(values) - {f.name for f in fields(cls)}
    if unknown:
        raise ValueError(f"unknown keys {sorted(unknown)} for {cls.__name__}")
    return dict(values)


def _chip(values: Mapping[str, Any]) -> ChipSpec:
    lists = {key: tuple(values[key]) for key in ("windows", "mean", "std")}
    return ChipSpec(**{**_known(ChipSpec, values), **lists})
