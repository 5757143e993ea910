"""What CRISP, BirdSAT and MoCo-Geo share: reading views, and the contrast of ground and aerial embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from train.batch import Batch
from train.encoders.image import ImageEncoder
from train.errors import SpecError
from train.objectives.contrast import LogScale, Same, gather, info_nce, same_group


@dataclass(frozen=True)
class ContrastConfig:
    """How aligned pairs are told from the rest of the global batch."""

    scale: float = 1.0 / 0.07
    """First inverse temperature, at most 100."""
    learn_scale: bool = True
    """False keeps it (BirdSAT: 1)."""
    same: Same = "mask"
    """What pairs of one tile are: negatives (as published), mask (left out), or positives."""
    same_species: bool = False
    """Whether pairs of one label count as pairs of one tile do; the pre-training then has seen labels."""

    def __post_init__(self) -> None:
        if not 0.0 < self.scale <= 100.0:
            raise SpecError("cannot contrast views", f"scale {self.scale}", "Give a scale in (0, 100].")
        if self.same not in ("negatives", "mask", "positives"):
            found, change = f"same = {self.same!r}", "Use negatives, mask or positives."
            raise SpecError("cannot contrast views", found, change)


PUBLISHED_SCALE = ContrastConfig(scale=1.0, learn_scale=False, same="negatives")
"""BirdSAT's: cosines as they are, every other pair a negative."""


def view(batch: Batch, name: str) -> Tensor:
    """One view of a batch.

    Raises:
        SpecError: when the batch does not carry it.
    """
    if name not in batch:
        found = f"the data give {', '.join(sorted(batch)) or 'nothing'}"
        raise SpecError(f"cannot encode the view {name!r}", found, f"Use a data set that has {name!r}.")
    return batch[name]


def check_widths(ground: int, aerial: int) -> None:
    """Refuses embeddings of different width.

    Raises:
        SpecError: when the widths differ.
    """
    if ground != aerial:
        found = f"widths {ground} and {aerial} of ground and aerial"
        raise SpecError("cannot contrast the encoders", found, "Give both embeddings the same width.")


def unknown_view(name: str, known: tuple[str, ...]) -> SpecError:
    """The refusal to encode a view for which an objective has no encoder."""
    return SpecError("cannot encode a view", f"{name!r}", f"Use one of: {', '.join(known)}.")


class TwoTowers(nn.Module):
    """A ground and an aerial encoder that share nothing: what reads one view alone, without its loss."""

    ground: ImageEncoder
    aerial: ImageEncoder

    def encode(self, name: str, batch: Batch) -> Tensor:
        """(n, d) float32 unit vectors of the view `ground` or `aerial`.

        Raises:
            SpecError: for another view, one that the batch lacks, or images that the encoder refuses.
        """
        encoded: Tensor = self._tower(name)(view(batch, name))
        return encoded

    def features(self, name: str, batch: Batch) -> Tensor:
        """(n, width) float32 features of the view's backbone before projection, for probes."""
        return self._tower(name).features(view(batch, name))

    def _tower(self, name: str) -> ImageEncoder:
        if name not in ("ground", "aerial"):
            raise unknown_view(name, ("ground", "aerial"))
        return self.ground if name == "ground" else self.aerial


def same_pairs(batch: Batch, config: ContrastConfig) -> Tensor | None:
    """(n, n) bool, True where observations of this rank share the tile or, if wished, the species."""
    return same_group(batch.get("tile"), batch.get("label") if config.same_species else None)


class Contrast(nn.Module):
    """Symmetric InfoNCE over the batches of all ranks, with its temperature.

    Args:
        config: Temperature, and what pairs of one tile are.
    """

    def __init__(self, config: ContrastConfig) -> None:
        super().__init__()
        self.config = config
        self.scale = LogScale(config.scale, config.learn_scale)

    def forward(self, first: Tensor, second: Tensor, batch: Batch) -> Tensor:
        """Loss of (n, d) unit vectors, row by row of one observation each; a scalar, equal on every rank."""
        groups: Batch = {name: gather(batch[name]) for name in ("tile", "label") if name in batch}
        # Half precision would round cosines to 1 / 256, which the scale blows up.
        with torch.autocast(first.device.type, enabled=False):
            ours, theirs = gather(first.float()), gather(second.float())
            return info_nce(ours, theirs, self.scale(), same_pairs(groups, self.config), self.config.same)
