"""MoCo-Geo, the baseline of BirdSAT: a queue of aerial embeddings as negatives, clusters of places as labels.

Source: the baseline in BirdSAT's code (methods sections 3.1, 3.2) after Ayush et al. 2021, "Geography-aware
self-supervised learning", and He et al. 2020, "Momentum contrast". The loss is the cross-entropy of a photo's
own chip against the queue, plus the cross-entropy of the cluster that the place belongs to. What we changed,
and why:

- The queue takes any batch size; the published one fails where it is not a multiple of the batch.
- It starts empty instead of filled with noise, and remembers tiles, so that older embeddings of the photo's
  own tile are left out (`same`); with fewer tiles than places in the queue it mostly holds its own positives.
- The chips in the queue come from a slow copy of the aerial encoder (momentum); the photo's own chip comes
  from the encoder that learns. Published is a frozen encoder (`aerial.freeze = "all"`).
- The other chips of the batch are negatives, too (`in_batch`). With the queue alone an aerial encoder that
  learns is only ever pulled towards photos and never pushed, and collapses; so that is refused.
- Clusters of places are computed here (`geo_clusters`), on the sphere, from the training places.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.batch import Batch, Observations
from train.encoders.image import ImageConfig, ImageEncoder
from train.encoders.positional import check_lonlat, unit_vector
from train.errors import SpecError
from train.objectives.contrast import LogScale, gather
from train.objectives.paired import ContrastConfig, TwoTowers, check_widths, view

_PHOTOS = ImageConfig(other_sizes="resize")
_CHIPS = ImageConfig()
_CONTRAST = ContrastConfig()


@dataclass(frozen=True)
class MocoGeoConfig:
    """Two image encoders, a queue, and clusters of places."""

    ground: ImageConfig = _PHOTOS
    """Encoder of photos."""
    aerial: ImageConfig = _CHIPS
    """Encoder of chips."""
    queue: int = 10_000
    """Aerial embeddings that are kept as negatives."""
    momentum: float = 0.999
    """Share of itself that the slow aerial encoder keeps in a step."""
    clusters: int = 20
    """Clusters of places."""
    geo_weight: float = 1.0
    """Weight of telling the cluster beside the contrast."""
    in_batch: bool = True
    """Whether the batch's other chips are negatives beside the queue; False needs aerial.freeze = all."""
    contrast: ContrastConfig = _CONTRAST
    """Temperature; other chips of the photo's tile are negatives or left out (mask)."""

    def __post_init__(self) -> None:
        what = "cannot build MoCo-Geo"
        if 0 not in (self.ground.dim, self.aerial.dim):
            check_widths(self.ground.dim, self.aerial.dim)
        if self.queue < 1 or self.clusters < 2 or not 0.0 <= self.momentum < 1.0 or self.geo_weight < 0.0:
            found = f"queue {self.queue}, clusters {self.clusters}, momentum {self.momentum}"
            raise SpecError(what, found, "Give a queue >= 1, clusters >= 2, momentum in [0, 1), weight >= 0.")
        if not self.in_batch and self.aerial.freeze != "all":
            found = f"in_batch = false with aerial.freeze = {self.aerial.freeze!r}"
            raise SpecError(
                what, found, "Set in_batch = true: a queue alone lets a trained encoder collapse."
            )
        if self.contrast.same == "positives":
            raise SpecError(what, "contrast.same = 'positives'", "Use negatives or mask with a queue.")


RECOMMENDED = MocoGeoConfig()
"""Learnt scale, chips of the photo's own tile left out."""
PAPER = MocoGeoConfig(contrast=ContrastConfig(scale=1.0, learn_scale=False, same="negatives"))
"""No temperature, everything a negative; published is also a frozen aerial encoder, with in_batch = false."""
TINY = MocoGeoConfig(
    ground=ImageConfig("test_resnet", size=32, dim=64, other_sizes="resize"),
    aerial=ImageConfig("test_resnet", size=32, dim=64),
    queue=200,
    momentum=0.99,
    clusters=4,
)
"""For two CPU cores and for tests."""


def geo_clusters(lonlat: Tensor, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """k-means of places on the sphere.

    Args:
        lonlat: (n, 2) degrees, longitude first; rows with NaN belong to no cluster.
        k: Number of clusters.
        seed: Of the starting centres.

    Returns:
        (k, 3) float64 unit vectors of the centres, and (n,) int64 clusters, -1 where the place is unknown.

    Raises:
        SpecError: for places out of range, or fewer than k distinct ones.
    """
    from sklearn.cluster import KMeans  # a second to import, and wanted once in a run

    known = torch.isfinite(lonlat).all(dim=1)
    places = lonlat[known].double().cpu()
    check_lonlat(places)
    points: NDArray[np.float64] = unit_vector(places).numpy()
    distinct = len(np.unique(points.round(9), axis=0))
    if distinct < k:
        found = f"{distinct} distinct places for {k} clusters"
        raise SpecError("cannot cluster places", found, "Lower clusters, or use more places.")
    means = KMeans(n_clusters=k, n_init=4, random_state=seed).fit(points).cluster_centers_
    centres = nn.functional.normalize(torch.from_numpy(np.asarray(means, dtype=np.float64)), dim=1)
    return centres, nearest_cluster(lonlat, centres)


def nearest_cluster(lonlat: Tensor, centres: Tensor) -> Tensor:
    """(n, 2) degrees and (k, 3) unit vectors -> (n,) int64 of the nearest centre, -1 where NaN."""
    known = torch.isfinite(lonlat).all(dim=1)
    points = unit_vector(torch.nan_to_num(lonlat).to(centres.dtype))
    return torch.where(known, (points @ centres.T).argmax(dim=1), -1)


class MocoGeo(TwoTowers):
    """Photos against a queue of chips, and clusters of places told from photos.

    Args:
        config: Encoders, queue and clusters.

    Raises:
        SpecError: for a backbone that timm does not know, or that cannot eat such images, or encoders of
            different width.
        CheckpointError: when weights of a backbone cannot be read.
    """

    views: tuple[str, ...] = ("ground", "aerial", "lonlat")
    queue: Tensor
    queue_tile: Tensor
    queue_label: Tensor
    queue_full: Tensor
    next_place: Tensor
    centres: Tensor

    def __init__(self, config: MocoGeoConfig = RECOMMENDED) -> None:
        super().__init__()
        self.config = config
        self.ground = ImageEncoder(config.ground)
        self.aerial = ImageEncoder(config.aerial)
        self.slow_aerial = copy.deepcopy(self.aerial).requires_grad_(False)
        check_widths(self.ground.dim, self.aerial.dim)
        self.cluster = nn.Linear(self.ground.dim, config.clusters)
        self.scale = LogScale(config.contrast.scale, config.contrast.learn_scale)
        self.register_buffer("queue", torch.zeros(config.queue, self.aerial.dim))
        self.register_buffer("queue_tile", torch.full((config.queue,), -1))
        self.register_buffer("queue_label", torch.full((config.queue,), -1))
        self.register_buffer("queue_full", torch.zeros(config.queue, dtype=torch.bool))
        self.register_buffer("next_place", torch.zeros((), dtype=torch.int64))
        self.register_buffer("centres", torch.full((config.clusters, 3), math.nan, dtype=torch.float64))
        self._prepared = False

    def prepare(self, observations: Observations) -> None:
        """Finds the clusters of the training places; call once before training.

        Raises:
            SpecError: when there are fewer distinct places than clusters.
        """
        self.centres.copy_(geo_clusters(observations.lonlat(), self.config.clusters)[0])
        self._prepared = True

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of n pairs: `queue`, `geo` and the weighted `loss`; while training, the queue moves on.

        Args:
            batch: `ground`, `aerial` and `lonlat` (NaN where unknown); `tile` and `label` where known.

        Raises:
            SpecError: for a missing view, images or places that are refused, or before `prepare`.
        """
        self._check_prepared()
        lonlat, chips = view(batch, "lonlat"), view(batch, "aerial")
        check_lonlat(torch.nan_to_num(lonlat))
        told = self.ground.embed(view(batch, "ground"))
        aerial = gather(self.aerial(chips))
        told, lonlat = gather(told), gather(lonlat)
        tile, label = (gather(_or_unknown(batch, name, chips)) for name in ("tile", "label"))
        with torch.autocast(told.device.type, enabled=False):
            ground = nn.functional.normalize(told, dim=1)
            queue = self._queue_loss(ground, aerial, tile, label)
            geo = self._geo_loss(told, lonlat)
        if self.training:
            self._move_on(chips, tile, label)
        return {"queue": queue, "geo": geo, "loss": queue + self.config.geo_weight * geo}

    def _check_prepared(self) -> None:
        if not self._prepared and not bool(torch.isfinite(self.centres).all()):
            change = "Call prepare(observations) with the training set first."
            raise SpecError("cannot tell clusters of places", "no clusters yet", change)
        self._prepared = True

    def _queue_loss(self, ground: Tensor, aerial: Tensor, tile: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy of a photo's own chip against those of the queue and of the batch."""
        own = torch.eye(len(ground), dtype=torch.bool, device=ground.device)
        batch_out = self._same(tile, tile, label, label) if self.config.in_batch else torch.ones_like(own)
        queue_out = ~self.queue_full | self._same(tile, self.queue_tile, label, self.queue_label)
        chips = torch.cat([aerial, self.queue])  # a copy, as the queue moves on before the backward pass
        out = torch.cat([batch_out & ~own, queue_out], dim=1)
        logits = (self.scale() * ground @ chips.T).masked_fill(out, -torch.inf)  # (n, n + queue)
        target = torch.arange(len(ground), device=ground.device)
        return nn.functional.cross_entropy(logits, target)

    def _same(self, tile: Tensor, other_tile: Tensor, label: Tensor, other_label: Tensor) -> Tensor:
        """(n, m) bool, True where two chips are not to be told apart."""
        same = (tile[:, None] == other_tile) & (tile[:, None] >= 0)
        if self.config.contrast.same_species:
            same = same | ((label[:, None] == other_label) & (label[:, None] >= 0))
        return same if self.config.contrast.same == "mask" else torch.zeros_like(same)

    def _geo_loss(self, told: Tensor, lonlat: Tensor) -> Tensor:
        """Cross-entropy of the cluster, told from the photo; over the places that are known."""
        cluster = nearest_cluster(lonlat, self.centres)
        losses = nn.functional.cross_entropy(self.cluster(told), cluster, ignore_index=-1, reduction="sum")
        return losses / (cluster >= 0).sum().clamp(min=1)

    @torch.no_grad()
    def _move_on(self, chips: Tensor, tile: Tensor, label: Tensor) -> None:
        """The slow encoder takes a step towards the other; its embeddings replace the oldest in the queue."""
        for slow, fast in zip(self.slow_aerial.parameters(), self.aerial.parameters(), strict=True):
            slow.lerp_(fast, 1.0 - self.config.momentum)
        fresh = gather(self.slow_aerial(chips))[-len(self.queue) :]
        places = (self.next_place + torch.arange(len(fresh), device=chips.device)) % len(self.queue)
        self.queue[places] = fresh
        self.queue_tile[places], self.queue_label[places] = tile[-len(fresh) :], label[-len(fresh) :]
        self.queue_full[places] = True
        self.next_place.copy_((self.next_place + len(fresh)) % len(self.queue))


def _or_unknown(batch: Batch, name: str, like: Tensor) -> Tensor:
    unknown = torch.full((len(like),), -1, device=like.device)
    return batch.get(name, unknown)
