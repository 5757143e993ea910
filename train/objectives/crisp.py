"""CRISP: photos from the ground and chips from above, each with an encoder of its own, contrasted.

Source: Huynh et al. 2024, "Contrastive ground-level image and remote sensing pre-training improves
representation learning for natural world imagery" (abstract), and an early public prototype (methods
section 2); the paper's own encoders and settings could not be read, and none are claimed. The loss is the
symmetric InfoNCE of section 2.2 with a learnt scale. What we changed, and why:

- The scale is clamped at 100; without that it can run away.
- Photos that share an aerial tile are no longer each other's negatives (they are left out, or positives),
  because in these data many photos share a tile. The same can be asked for species; that uses labels.
- Photos and chips are normalised with stored statistics; the prototype left chips unscaled.
- Pairs without one of their images never get here: noise in place of an image is a wrong positive pair.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from train.batch import Batch
from train.encoders.image import ImageConfig, ImageEncoder
from train.objectives.paired import Contrast, ContrastConfig, TwoTowers, check_widths

_BYTES = (127.5,) * 4  # mean and deviation of any uint8 bands: replace by the imagery's own
_PHOTOS = ImageConfig(other_sizes="resize")
_CHIPS = ImageConfig(bands=4, size=256, mean=_BYTES, std=_BYTES)
_CONTRAST = ContrastConfig()


@dataclass(frozen=True)
class CrispConfig:
    """Two image encoders and their contrast."""

    ground: ImageConfig = _PHOTOS
    """Encoder of photos."""
    aerial: ImageConfig = _CHIPS
    """Encoder of chips."""
    contrast: ContrastConfig = _CONTRAST
    """Temperature, and what pairs of one tile are."""

    def __post_init__(self) -> None:
        if 0 not in (self.ground.dim, self.aerial.dim):
            check_widths(self.ground.dim, self.aerial.dim)


RECOMMENDED = CrispConfig()
"""What we recommend: pairs of one tile are left out of the contrast."""
PROTOTYPE = CrispConfig(
    ground=ImageConfig(size=256, mean=(0.0,) * 3, std=(255.0,) * 3, other_sizes="resize"),
    aerial=ImageConfig(size=256, mean=(0.0,) * 3, std=(255.0,) * 3),
    contrast=ContrastConfig(same="negatives"),
)
"""As the prototype, but for the scale of chips: ResNet-18, 512 numbers, three bands of 0..1."""
TINY = CrispConfig(
    ground=ImageConfig("test_resnet", size=32, dim=64, other_sizes="resize"),
    aerial=ImageConfig("test_resnet", size=32, dim=64),
)
"""For two CPU cores and for tests."""


class Crisp(TwoTowers):
    """Ground and aerial encoder, trained against each other.

    Args:
        config: Two encoders and their contrast.

    Raises:
        SpecError: for a backbone that timm does not know, or that cannot eat such images, or encoders of
            different width.
        CheckpointError: when weights of a backbone cannot be read.
    """

    views: tuple[str, ...] = ("ground", "aerial")

    def __init__(self, config: CrispConfig = RECOMMENDED) -> None:
        super().__init__()
        self.config = config
        self.ground = ImageEncoder(config.ground)
        self.aerial = ImageEncoder(config.aerial)
        check_widths(self.ground.dim, self.aerial.dim)
        self.contrast = Contrast(config.contrast)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of n pairs: `contrast`, which is also the `loss`.

        Args:
            batch: `ground` and `aerial` images; `tile` and `label` where known.

        Raises:
            SpecError: for a missing view, or images that the encoders refuse.
        """
        ground, aerial = (self.encode(name, batch) for name in ("ground", "aerial"))
        loss = self.contrast(ground, aerial, batch)
        return {"contrast": loss, "loss": loss}
