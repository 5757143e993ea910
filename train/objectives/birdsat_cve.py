"""BirdSAT's CVE-MAE: a photo encoder that paints hidden patches, contrasted with an aerial encoder.

Source: Sastry et al. 2024, "BirdSAT: Cross-View Contrastive Masked Autoencoders for Bird Species
Classification and Mapping" (methods section 3; formulas from the published code, the paper's body and tables
could not be read). The loss is w * contrast + reconstruction. What we changed, and why:

- `PAPER` keeps w = 0.3 and cosines without a temperature; with these the contrast can hardly move (methods
  section 3.2: from ln 77 = 4.34 to 2.42 at best). `RECOMMENDED` has w = 1 and a learnt scale, and leaves
  pairs of one tile out.
- `RECOMMENDED` contrasts whole photos, which is what `encode` sees later; `PAPER` takes the masked pass that
  the reconstruction needs anyway (we know the published loss, not on which pass it stands).
- Plain transformer blocks with positions that are really added (train.encoders.mae).
- The aerial encoder is any timm backbone, frozen (as published; then with weights, which we cannot supply)
  or trained.
- Metadata (the -Meta models) is withheld in training only, and the poles differ (train.encoders.metadata).
- The contrast spans all ranks; the published one ends at the device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from train.batch import Batch
from train.encoders.image import ImageConfig, ImageEncoder
from train.encoders.mae import GROUND_PAPER, MaeConfig, MaskedAutoencoder
from train.encoders.mae import TINY as TINY_MAE
from train.encoders.metadata import MetadataConfig, MetadataTokens
from train.errors import SpecError
from train.objectives.paired import (
    PUBLISHED_SCALE,
    Contrast,
    ContrastConfig,
    check_widths,
    unknown_view,
    view,
)

_CHIPS = ImageConfig("vit_base_patch16_224", dim=0)
_METADATA = MetadataConfig()
_CONTRAST = ContrastConfig()


@dataclass(frozen=True)
class CveConfig:
    """A masked autoencoder of photos, an encoder of chips, and the weights of their losses."""

    ground: MaeConfig = GROUND_PAPER
    """Encoder of photos, and the decoder that paints them."""
    aerial: ImageConfig = _CHIPS
    """Encoder of chips, as wide as `ground.dim`."""
    meta: bool = False
    """Whether place and date are added to the aerial embedding (CVE-MAE-Meta)."""
    metadata: MetadataConfig = _METADATA
    """What is told of place and date, where `meta`."""
    contrast: ContrastConfig = _CONTRAST
    """Temperature, and what pairs of one tile are."""
    contrast_weight: float = 1.0
    """Weight of the contrast beside the reconstruction."""
    contrast_of: Literal["shown", "whole"] = "whole"
    """Contrast the whole photo, in a second pass, or the patches that were shown (cheaper)."""

    def __post_init__(self) -> None:
        what = "cannot build a CVE-MAE"
        if self.aerial.dim not in (0, self.ground.dim):
            found = f"widths {self.ground.dim} and {self.aerial.dim}"
            raise SpecError(
                what, found, "Set aerial.dim to ground.dim, or to 0 for a backbone of that width."
            )
        if self.contrast_weight <= 0.0 or self.contrast_of not in ("shown", "whole"):
            found = f"contrast_weight {self.contrast_weight}, contrast_of {self.contrast_of!r}"
            raise SpecError(what, found, "Give a positive weight, and shown or whole.")


RECOMMENDED = CveConfig()
"""Learnt scale, weight 1, both encoders trained, pairs of one tile left out."""
PAPER = CveConfig(
    contrast=PUBLISHED_SCALE, contrast_weight=0.3, contrast_of="shown", metadata=MetadataConfig(per="batch")
)
"""Weight 0.3 and no temperature; set aerial.freeze = all and aerial.weights to freeze it as published."""
TINY = CveConfig(
    ground=replace(TINY_MAE, other_sizes="resize"), aerial=ImageConfig("test_resnet", size=32, dim=64)
)
"""For two CPU cores and for tests."""


class CveMae(nn.Module):
    """Photos by a masked autoencoder, chips by an image encoder, and their contrast.

    Args:
        config: Encoders and weights.

    Raises:
        SpecError: for encoders of different width, or an unknown backbone.
        CheckpointError: when weights of a backbone cannot be read.
    """

    views: tuple[str, ...] = ("ground", "aerial")

    def __init__(self, config: CveConfig = RECOMMENDED) -> None:
        super().__init__()
        self.config = config
        self.ground = MaskedAutoencoder(config.ground)
        self.aerial = ImageEncoder(config.aerial)
        check_widths(self.ground.dim, self.aerial.dim)
        self.metadata = MetadataTokens(config.metadata, self.ground.dim) if config.meta else None
        if config.meta:
            self.views = (*type(self).views, "lonlat", "date")
        self.contrast = Contrast(config.contrast)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of n pairs: `contrast`, `reconstruction` and the weighted `loss`.

        Args:
            batch: Every one of `views`; `tile` and `label` where known.

        Raises:
            SpecError: for a missing view, or images, places or dates that are refused.
        """
        shown, reconstruction = self.ground(view(batch, "ground"))
        for name in self.views:
            view(batch, name)  # metadata may be unknown, but not forgotten
        ground = nn.functional.normalize(shown, dim=1)
        if self.config.contrast_of == "whole":
            ground = self.encode("ground", batch)
        contrast = self.contrast(ground, self.encode("aerial", batch), batch)
        loss = self.config.contrast_weight * contrast + reconstruction
        return {"contrast": contrast, "reconstruction": reconstruction, "loss": loss}

    def encode(self, name: str, batch: Batch) -> Tensor:
        """(n, d) float32 unit vectors of the view `ground` or `aerial`.

        The aerial embedding of a -Meta model takes place and date from the same batch; a batch without them,
        or NaN in them, means that they are unknown.

        Raises:
            SpecError: for another view, one that the batch lacks, or values that the encoder refuses.
        """
        if name == "ground":
            return self.ground.encode(view(batch, "ground"))
        if name != "aerial":
            raise unknown_view(name, ("ground", "aerial"))
        embedded = self.aerial.embed(view(batch, "aerial"))
        if self.metadata is not None:
            embedded = embedded + self.metadata(len(embedded), batch.get("lonlat"), batch.get("date"))
        return nn.functional.normalize(embedded, dim=1)

    def features(self, name: str, batch: Batch) -> Tensor:
        """(n, width) float32 features of the view before projection and metadata, for probes."""
        if name not in ("ground", "aerial"):
            raise unknown_view(name, ("ground", "aerial"))
        return (self.ground if name == "ground" else self.aerial).features(view(batch, name))
