"""BirdSAT's CVM-MAE: one transformer over the patches of photo and chip together, painting and matching.

Source: Sastry et al. 2024, "BirdSAT: Cross-View Contrastive Masked Autoencoders for Bird Species
Classification and Mapping" (methods section 3; formulas from the published code). The loss is the binary
cross-entropy of matching true and false pairs, plus the reconstruction of the hidden patches of both views.
What we changed, and why:

- `PAPER` takes as false pairs those of the batch rolled by one. `RECOMMENDED` samples them by similarity, as
  ALBEF does (Li et al. 2021, section 3.2): the transformer also runs over each view alone, the two class
  tokens are contrasted, and a false partner is drawn with the probability that the softmax of this row gives
  it. Drawn, not the hardest: in these data the very hardest is often the same species or next door. Pairs of
  one tile are never false partners (unless `same = negatives`). Partners come from the rank's own batch; the
  contrast spans all ranks.
- This contrast also gives the views embeddings of their own (`encode`), so that one model first ranks a
  gallery by cosine and then the best by `match`; the published one needs a second model for the former.
- `RECOMMENDED` matches and contrasts whole images, which is what `encode` and `match` see later; `PAPER`
  takes the masked pass that the reconstruction needs anyway (which of the two is published we do not know).
- Metadata as a token of the sequence. As published it is summed to the class token; but what follows is one
  Linear, so that place and date add the same number to every candidate and cannot change their order.
- Positions are really added (methods section 3.6, defect 1), and a learnt vector tells the views apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from train.batch import Batch
from train.encoders.mae import (
    AERIAL_PAPER,
    GROUND_PAPER,
    Decoder,
    MaeConfig,
    Patches,
    Shown,
    Trunk,
    start_linear,
)
from train.encoders.mae import TINY as TINY_MAE
from train.encoders.metadata import MetadataConfig, MetadataTokens
from train.errors import SpecError
from train.objectives.matching import FalsePairs, hard_pairs, match_loss, rolled_pairs
from train.objectives.paired import (
    PUBLISHED_SCALE,
    Contrast,
    ContrastConfig,
    same_pairs,
    unknown_view,
    view,
)

_METADATA = MetadataConfig()
_CONTRAST = ContrastConfig()


@dataclass(frozen=True)
class CvmConfig:
    """What the joint transformer eats, and how it is trained."""

    ground: MaeConfig = GROUND_PAPER
    """Photos and their decoder; `dim`, `depth` and `heads` are the joint transformer's."""
    aerial: MaeConfig = AERIAL_PAPER
    """Chips and their decoder; `dim`, `depth` and `heads` must be those of `ground`."""
    meta: bool = False
    """Whether place and date are told of the aerial side (CVM-MAE-Meta)."""
    metadata: MetadataConfig = _METADATA
    """What is told of place and date, where `meta`."""
    metadata_as: Literal["token", "sum"] = "token"
    """A token of the sequence, or summed to the class token (as published)."""
    false_pairs: Literal["hard", "roll"] = "hard"
    """Drawn by similarity, both ways; or chips of the batch rolled by one (as published)."""
    match_of: Literal["shown", "whole"] = "whole"
    """Match and contrast whole images, in passes of their own, or the patches that were shown (cheaper)."""
    contrast: ContrastConfig = _CONTRAST
    """Temperature of the contrast of the views alone, and what pairs of one tile are, in matching, too."""
    contrast_weight: float = 1.0
    """Weight of that contrast beside matching and reconstruction; 0 leaves it out."""

    def __post_init__(self) -> None:
        what = "cannot build a CVM-MAE"
        shapes = [(c.dim, c.depth, c.heads) for c in (self.ground, self.aerial)]
        if shapes[0] != shapes[1]:
            found = f"(dim, depth, heads) {shapes[0]} of ground and {shapes[1]} of aerial"
            raise SpecError(what, found, "Give both the same: one transformer reads both.")
        choices = (
            self.metadata_as in ("token", "sum"),
            self.false_pairs in ("hard", "roll"),
            self.match_of in ("shown", "whole"),
        )
        if not all(choices):
            found = ", ".join((repr(self.metadata_as), repr(self.false_pairs), repr(self.match_of)))
            raise SpecError(what, found, "Use token or sum, hard or roll, and shown or whole.")
        if self.contrast_weight < 0.0 or (self.contrast_weight == 0.0 and self.false_pairs == "hard"):
            found = f"contrast_weight {self.contrast_weight} with false_pairs = {self.false_pairs!r}"
            raise SpecError(
                what, found, "Give a positive weight, or 0 and roll: hard pairs need a similarity."
            )


RECOMMENDED = CvmConfig()
"""Hard false pairs, the contrast beside, metadata as a token."""
PAPER = CvmConfig(
    metadata=MetadataConfig(per="batch"),
    metadata_as="sum",
    false_pairs="roll",
    match_of="shown",
    contrast=PUBLISHED_SCALE,
    contrast_weight=0.0,
)
"""Matching against chips rolled by one, and reconstruction, with equal weights."""
TINY = CvmConfig(ground=replace(TINY_MAE, other_sizes="resize"), aerial=TINY_MAE)
"""For two CPU cores and for tests."""


class Side(nn.Module):
    """What one view has for itself: a patch embedding, a learnt vector that names the view, and a decoder.

    Args:
        config: What it eats.
    """

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        self.patches = Patches(config)
        self.kind = nn.Parameter(0.02 * torch.randn(config.dim))
        self.decoder = Decoder(config)

    def forward(self, images: Tensor) -> Tensor:
        """(n, bands, size, size) in the imagery's units -> (n, tokens, dim); nothing is hidden."""
        tokens: Tensor = self.patches(images) + self.kind
        return tokens

    def shown(self, images: Tensor) -> Shown:
        """The patches that the mask leaves."""
        shown = self.patches.shown(images)
        return shown._replace(tokens=shown.tokens + self.kind)


class Cvm(nn.Module):
    """Separate patch embeddings and decoders, one transformer, one score of a pair.

    Without the contrast (`PAPER`) nothing teaches `encode` to rank: use the embeddings of a `CveMae` first.

    Args:
        config: What it eats, and how it is trained.
    """

    views: tuple[str, ...] = ("ground", "aerial")

    def __init__(self, config: CvmConfig = RECOMMENDED) -> None:
        super().__init__()
        self.config = config
        dim = config.ground.dim
        self.ground, self.aerial = Side(config.ground), Side(config.aerial)
        self.trunk = Trunk(dim, config.ground.depth, config.ground.heads)
        self.score = nn.Linear(dim, 1)
        self.metadata = MetadataTokens(config.metadata, dim) if config.meta else None
        if config.meta:
            self.views = (*type(self).views, "lonlat", "date")
        self.contrast = Contrast(config.contrast) if config.contrast_weight else None
        self.apply(start_linear)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of n pairs: `match`, `reconstruction`, `contrast` where it has a weight, and the `loss`.

        Args:
            batch: Every one of `views`; `tile` and `label` where known.

        Raises:
            SpecError: for a missing view, images, places or dates that are refused, or less than two pairs.
        """
        images = {name: view(batch, name) for name in self.views}
        if len(images["ground"]) < 2:
            raise SpecError("cannot match pairs", "a batch of one", "Give batches of two or more.")
        meta = self._metadata(len(images["ground"]), batch)  # drawn once: a pair keeps its own in every pass
        reconstruction, joint, ground, aerial = self._paint(images, meta)
        if self.config.match_of == "whole":
            ground, aerial = self.ground(images["ground"]), self.aerial(images["aerial"])
            joint = self._joint(ground, aerial, meta)
        losses, alone = {"reconstruction": reconstruction}, None
        if self.contrast is not None:
            alone = self._embed(ground=ground), self._embed(aerial=aerial, meta=meta)
            losses["contrast"] = self.contrast(*alone, batch)
        pairs = self._false_pairs(batch, alone)
        false, weight = self._score_false(ground, aerial, meta, pairs)
        losses["match"] = match_loss(self._score(joint, meta), false, weight)
        total = losses["match"] + reconstruction
        if alone is not None:
            total = total + self.config.contrast_weight * losses["contrast"]
        return {**losses, "loss": total}

    def encode(self, name: str, batch: Batch) -> Tensor:
        """(n, d) float32 unit vectors of the view `ground` or `aerial` alone, nothing hidden.

        The aerial embedding of a -Meta model takes place and date from the same batch; a batch without them,
        or NaN in them, means that they are unknown.

        Raises:
            SpecError: for another view, one that the batch lacks, or values that are refused.
        """
        tokens = self._whole(name, batch)
        if name == "ground":
            return self._embed(ground=tokens)
        return self._embed(aerial=tokens, meta=self._metadata(len(tokens), batch))

    def features(self, name: str, batch: Batch) -> Tensor:
        """(n, d) float32 class tokens of a view alone, without metadata, for probes."""
        tokens = self._whole(name, batch)
        ground, aerial = (tokens, None) if name == "ground" else (None, tokens)
        return self._joint(ground, aerial, None)[:, 0]

    def match(self, ground: Batch, aerial: Batch) -> Tensor:
        """Scores of pairs, to rank again the best that `encode` found.

        Args:
            ground: `ground` images of n candidates; its place and date are not read.
            aerial: `aerial` images of n queries, with `lonlat` and `date` for a -Meta model.

        Returns:
            (n,) float32 logits: row i says how well photo i belongs to chip i.

        Raises:
            SpecError: for a missing view, values that are refused, or batches of different length.
        """
        ours, theirs = self._whole("ground", ground), self._whole("aerial", aerial)
        if len(ours) != len(theirs):
            found = f"{len(ours)} photos and {len(theirs)} chips"
            raise SpecError("cannot match pairs", found, "Give a chip for each photo.")
        meta = self._metadata(len(theirs), aerial)
        return self._score(self._joint(ours, theirs, meta), meta)

    def _paint(self, images: dict[str, Tensor], meta: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss of the hidden patches of both views; joint tokens, and tokens of what each view showed."""
        photo, chip = self.ground.shown(images["ground"]), self.aerial.shown(images["aerial"])
        joint = self._joint(photo.tokens, chip.tokens, meta)
        summary, ours, theirs = joint.split([1, photo.tokens.shape[1], chip.tokens.shape[1]], dim=1)
        painted = [
            self.ground.decoder.loss(torch.cat([summary, ours], dim=1), photo),
            self.aerial.decoder.loss(torch.cat([summary, theirs], dim=1), chip),
        ]
        return torch.stack(painted).mean(), joint, photo.tokens, chip.tokens

    def _whole(self, name: str, batch: Batch) -> Tensor:
        if name not in ("ground", "aerial"):
            raise unknown_view(name, ("ground", "aerial"))
        tokens: Tensor = (self.ground if name == "ground" else self.aerial)(view(batch, name))
        return tokens

    def _metadata(self, rows: int, batch: Batch) -> Tensor | None:
        if self.metadata is None:
            return None
        token: Tensor = self.metadata(rows, batch.get("lonlat"), batch.get("date"))
        return token

    def _joint(self, ground: Tensor | None, aerial: Tensor | None, meta: Tensor | None) -> Tensor:
        """Tokens of the views that are given -> (n, 1 + t, d): class token, ground, aerial."""
        sequence = [tokens for tokens in (ground, aerial) if tokens is not None]
        told = meta is not None and self.config.metadata_as == "token"
        if meta is not None and told:
            sequence.append(meta[:, None])
        joint: Tensor = self.trunk(torch.cat(sequence, dim=1))
        return joint[:, :-1] if told else joint  # the metadata's own token is of no further use

    def _summed(self, joint: Tensor, meta: Tensor | None) -> Tensor:
        added = meta is not None and self.config.metadata_as == "sum"
        return joint[:, 0] + meta if meta is not None and added else joint[:, 0]

    def _embed(
        self, ground: Tensor | None = None, aerial: Tensor | None = None, meta: Tensor | None = None
    ) -> Tensor:
        return nn.functional.normalize(self._summed(self._joint(ground, aerial, meta), meta), dim=1)

    def _score(self, joint: Tensor, meta: Tensor | None) -> Tensor:
        score: Tensor = self.score(self._summed(joint, meta))[:, 0]
        return score.float()

    def _score_false(
        self, ground: Tensor, aerial: Tensor, meta: Tensor | None, pairs: FalsePairs
    ) -> tuple[Tensor, Tensor]:
        """Scores of false pairs and their weights; metadata goes with its chip."""
        told = None if meta is None else meta[pairs.aerial]
        joint = self._joint(ground[pairs.ground], aerial[pairs.aerial], told)
        return self._score(joint, told), pairs.weight

    def _false_pairs(self, batch: Batch, alone: tuple[Tensor, Tensor] | None) -> FalsePairs:
        n, device = len(batch["ground"]), batch["ground"].device
        same = None if self.config.contrast.same == "negatives" else same_pairs(batch, self.config.contrast)
        allowed = ~(torch.eye(n, dtype=torch.bool, device=device) if same is None else same)
        if self.config.false_pairs == "roll" or alone is None or self.contrast is None:
            return rolled_pairs(allowed)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            similarity = self.contrast.scale() * alone[0] @ alone[1].T
        return hard_pairs(similarity.detach(), allowed, self.training)
