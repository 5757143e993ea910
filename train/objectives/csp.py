"""CSP: a location encoder contrasted with the features of photos or chips taken there.

Source: Mai et al. 2023, "CSP: Self-supervised contrastive spatial pre-training for geospatial-visual
representations" (ICML), sections 3 and 4. With e(x) the location encoder, f(I) = W F(I) the projected feature
of a frozen image encoder and s the cosine:

    l_MC  = l(P^X, N^B, tau0) + a1 l(P^X, N^L, tau1) + a2 l(P^D, N^D, tau2)
    l_NCE = l(P^X, N^B)       + b1 l(-, N^L)         + b2 l(P^D, N^D)
    l(P, N, tau) = -E log [e^(s/tau) / (e^(s/tau) + sum_N e^(s/tau))]       MC, equation 2 with its log
    l(P, N)      = -E_P log sigma(s) - E_N log(1 - sigma(s))                NCE, no temperature

P^X are aligned pairs; N^B the other images of the batch (B), N^L random places (L), and D (SimCSE) contrasts
two passes of the location encoder that differ in their dropout. The MSE baseline regresses F(I) linearly on
e(x).

| | paper, iNat2018 | paper, fMoW | recommended |
|---|---|---|---|
| tau0, tau1, tau2 | 1, 1, 1 | 1, 1, 1 | 0.07 learnt, 0.07, 1 |
| a1, a2, C | 1, 1, 1 | 1, 1, 1 | 0, 0, 1 |
| B | one way | one way | both ways, one tile masked |
| encoder | grid, r_min 0.01, S = 32 | the same | the same |
| network | h = 1, k = 512, LeakyReLU, dropout 0.5 | GELU | GELU |
| learning rate (Adam) | 2e-4 (MSE 2e-6) | 1e-3 | validation's choice |

What we changed, and why: a temperature of 1 or even 20 on cosines leaves almost no gradient, so ours is 0.07
and learnt; random places are uniform by area (two public samplers are not, train.sampling); labels are never
read, nor classes balanced, since pre-training claims to be unsupervised; B and D see the batches of all
ranks; the public code's single Linear for W is `projection = "linear"`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from train.batch import Batch
from train.encoders.image import CARRIED, ImageConfig, ImageEncoder
from train.encoders.location import LocationEncoder
from train.errors import SpecError
from train.objectives.contrast import LogScale, gather, same_group
from train.objectives.nce import binary, multi_class
from train.objectives.paired import unknown_view, view
from train.sampling import Box, Keep, sample_box, sample_where
from train.spec import LocationSpec

Tau = Literal["tau0", "tau1", "tau2"]
_VIEWS, _PROJECTIONS, _FORMS = ("feature", "ground", "aerial"), ("mlp", "linear"), ("mc", "nce", "mse")
_CHOICES = {"view": _VIEWS, "projection": _PROJECTIONS, "form": _FORMS}
_IMAGE = ImageConfig(dim=0)
_GRID = {"r_min": 0.01, "r_max": 360.0, "count": 32}
_SPEC = LocationSpec("grid", _GRID, hidden=512, blocks=1, dim=256, network="ffn_gelu")


@dataclass(frozen=True)
class CspConfig:
    """The location encoder, the images it learns from, and the terms of the loss."""

    view: Literal["feature", "ground", "aerial"] = "feature"
    """Features computed beforehand, or images for `image` to encode."""
    feature_width: int = 2048
    """Width of `feature`."""
    image: ImageConfig = _IMAGE
    """Encoder F of `ground` or `aerial`; not built for `feature`."""
    freeze_image: bool = True
    """Whether F stays as it is, as published; it then needs weights."""
    location: LocationSpec = _SPEC
    """Location encoder e."""
    dropout: float = 0.5
    """Dropout of e while training."""
    projection: Literal["mlp", "linear"] = "mlp"
    """W: one hidden layer as wide as the embedding (paper), or none (public code)."""
    form: Literal["mc", "nce", "mse"] = "mc"
    """InfoNCE, binary NCE, or the baseline."""
    symmetric: bool = True
    """MC's B also from images to locations; False is location to images only, as published."""
    mask_tile: bool = True
    """Whether observations of one `tile` are left out of each other's negatives."""
    random_weight: float = 0.0
    """a1 or b1, weight of L."""
    random_count: int = 1
    """C, random places for each observation."""
    dropout_weight: float = 0.0
    """a2 or b2, weight of D."""
    tau0: float = 0.07
    """Temperature of B, 0.01 to 100."""
    tau1: float = 0.07
    """Temperature of L."""
    tau2: float = 1.0
    """Temperature of D; small ones do harm."""
    learnable: tuple[Tau, ...] = ("tau0",)
    """Temperatures of MC that are learnt, from the values above."""
    area: tuple[float, float, float, float] = (-180.0, -90.0, 180.0, 90.0)
    """Study area, for L: west, south, east, north [degrees]; west > east crosses the antimeridian."""

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise _refused(f"{name} = {getattr(self, name)!r}", f"Use one of: {', '.join(known)}.")
        if unknown := set(self.learnable) - {"tau0", "tau1", "tau2"}:
            raise _refused(f"learnable = {sorted(unknown)}", "Name tau0, tau1 or tau2.")
        for name in ("tau0", "tau1", "tau2"):
            if not 0.01 <= getattr(self, name) <= 100.0:
                raise _refused(f"{name} = {getattr(self, name)}", "Give a temperature of 0.01 to 100.")
        for name in ("random_weight", "dropout_weight"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise _refused(f"{name} = {getattr(self, name)}", "Give a weight >= 0.")
        if self.random_count < 1 or self.feature_width < 1:
            found = f"random_count {self.random_count}, feature_width {self.feature_width}"
            raise _refused(found, "Give numbers >= 1.")
        if not 0.0 <= self.dropout < 1.0 or (self.dropout_weight > 0.0 and self.dropout == 0.0):
            found = f"dropout {self.dropout} with dropout_weight {self.dropout_weight}"
            raise _refused(found, "Give a dropout in 0..1; term D is nothing without one.")
        Box(*self.area)


def _refused(found: str, change: str) -> SpecError:
    return SpecError("cannot pre-train by CSP", found, change)


RECOMMENDED = CspConfig()
"""Term B alone, both ways, with a learnt temperature."""
PAPER_INAT = CspConfig(
    location=replace(_SPEC, network="ffn"), symmetric=False, mask_tile=False,
    random_weight=1.0, dropout_weight=1.0, tau0=1.0, tau1=1.0, learnable=(),
)  # fmt: skip
"""CSP-MC-BLD of the paper on iNat2018, Inception features of 2048 numbers."""
PAPER_FMOW = replace(PAPER_INAT, location=_SPEC)
"""The same on fMoW, features of a ResNet-50."""
TINY = CspConfig(feature_width=64, location=replace(_SPEC, options={"count": 16}, hidden=128, dim=64))
"""For two CPU cores and for tests."""


class Csp(nn.Module):
    """The location encoder and what it is trained against.

    Args:
        config: What to build, and the terms of the loss.
        image: An image encoder trained elsewhere, in place of the one `config.image` describes.
        keep: Where random places may lie, such as on land (train.sampling.sample_where); None: anywhere in
            `config.area`.

    Raises:
        SpecError: for an unknown encoder, or a frozen image encoder without weights.
        CheckpointError: when weights of a backbone cannot be read.
    """

    views: tuple[str, ...] = ("lonlat", "feature")

    def __init__(
        self, config: CspConfig = RECOMMENDED, image: ImageEncoder | None = None, keep: Keep | None = None
    ) -> None:
        super().__init__()
        self.views = ("lonlat", config.view)
        self.keep = keep
        self.image, self.config = _image(config, image)
        self.location = LocationEncoder(config.location, config.dropout)
        width, dim = self.image.dim if self.image else config.feature_width, config.location.dim
        if config.form == "mse":
            self.regress = nn.Linear(dim, width)
        elif config.projection == "linear":
            self.project: nn.Module = nn.Linear(width, dim)
        else:
            self.project = nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim))
        used = {"tau0": True, "tau1": config.random_weight > 0, "tau2": config.dropout_weight > 0}
        self.scales = nn.ModuleDict(
            {
                name: LogScale(1.0 / getattr(config, name), name in config.learnable)
                for name, active in used.items()
                if active and config.form == "mc"
            }
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses of n observations: `batch`, `random`, `dropout` (those in use) or `mse`, and `loss`.

        Args:
            batch: `lonlat` and the view of the configuration; `tile` where known. Labels are not read.

        Raises:
            SpecError: for a missing view, coordinates that are missing or swapped, features of another width
                or not finite.
        """
        lonlat, image = view(batch, "lonlat"), self._image_features(batch)
        with torch.autocast(lonlat.device.type, enabled=False):  # half precision is too coarse for cosines
            if self.config.form == "mse":
                loss = nn.functional.mse_loss(self.regress(self.location.embed(lonlat)), image)
                return {"mse": loss, "loss": loss}
            here, again, elsewhere = self._locations(lonlat)
            there = nn.functional.normalize(self.project(image), dim=1)
            losses = {"batch": self._aligned(here, there, batch, "tau0", self.config.symmetric)}
            total = losses["batch"]
            if elsewhere is not None:
                losses["random"] = self._random(here, there, elsewhere)
                total = total + self.config.random_weight * losses["random"]
            if again is not None:
                losses["dropout"] = self._aligned(here, again, batch, "tau2", False)
                total = total + self.config.dropout_weight * losses["dropout"]
        return {**losses, "loss": total}

    def encode(self, name: str, batch: Batch) -> Tensor:
        """(n, d) float32 unit vectors of `lonlat` or of the image view, in the space where they are compared.

        Raises:
            SpecError: for another view, and as `forward`.
        """
        given = self.features(name, batch)
        with torch.autocast(given.device.type, enabled=False):
            if self.config.form == "mse":  # compared where it regresses: in the space of the features
                compared = self.regress(given) if name == "lonlat" else given
            else:
                compared = given if name == "lonlat" else self.project(given)
            return nn.functional.normalize(compared, dim=1)

    def features(self, name: str, batch: Batch) -> Tensor:
        """(n, width) float32 for probes: e(x) of `lonlat`, F(I) of the image view, of any length."""
        if name == "lonlat":
            return self.location.embed(view(batch, name))
        if name != self.config.view:
            raise unknown_view(name, self.views)
        return self._image_features(batch)

    def _image_features(self, batch: Batch) -> Tensor:
        given = view(batch, self.config.view)
        if self.image is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_image):
                return self.image.embed(given)
        if given.ndim != 2 or given.shape[1] != self.config.feature_width:
            found = f"features of shape {tuple(given.shape)}"
            raise _refused(found, f"Give (n, {self.config.feature_width}), or set feature_width.")
        if not bool(torch.isfinite(given).all()):
            raise _refused("features that are not finite", "Leave out observations without features.")
        return given.float()

    def _locations(self, lonlat: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Unit vectors (n, d) of the places, again with another dropout, and (n, C, d) of random places."""
        n, config = len(lonlat), self.config
        parts = [lonlat]
        if config.dropout_weight > 0:
            parts.append(lonlat)
        if config.random_weight > 0:
            parts.append(self._draw(n * config.random_count).to(lonlat))
        encoded = self.location(torch.cat(parts))  # one pass: dropout differs from row to row anyway
        here, *rest = encoded.split([len(part) for part in parts])
        again = rest.pop(0) if config.dropout_weight > 0 else None
        elsewhere = rest.pop().unflatten(0, (n, config.random_count)) if config.random_weight > 0 else None
        return here, again, elsewhere

    def _draw(self, count: int) -> Tensor:
        # Validation draws the same places every time, and leaves the run's generator alone.
        generator = None if self.training else torch.Generator().manual_seed(0)
        box = Box(*self.config.area)
        if self.keep is None:
            return sample_box(count, box, generator)
        return sample_where(count, self.keep, box, generator)

    def _aligned(self, first: Tensor, second: Tensor, batch: Batch, tau: Tau, symmetric: bool) -> Tensor:
        """Rows of one observation against the other rows, over all ranks: terms B and D."""
        first, second = gather(first), gather(second)
        tile = gather(batch["tile"]) if self.config.mask_tile and "tile" in batch else None
        left_out = same_group(tile)
        if left_out is None:
            left_out = torch.eye(len(first), dtype=torch.bool, device=first.device)
        similar = first @ second.T  # (n, n)
        if self.config.form == "nce":
            return binary(similar.diagonal(), similar, left_out)
        scale = self.scales[tau]()
        loss = multi_class(similar.diagonal(), similar, scale, left_out)
        if symmetric:
            loss = (loss + multi_class(similar.diagonal(), similar.T, scale, left_out)) / 2
        return loss

    def _random(self, here: Tensor, there: Tensor, elsewhere: Tensor) -> Tensor:
        """Each image against its own random places: term L, a mean over the rows of this rank."""
        others = torch.einsum("ncd,nd->nc", elsewhere, there)
        if self.config.form == "nce":
            return binary(None, others)
        return multi_class((here * there).sum(dim=1), others, self.scales["tau1"]())


def _image(config: CspConfig, given: ImageEncoder | None) -> tuple[ImageEncoder | None, CspConfig]:
    """The image encoder, frozen if wished, and the configuration that describes it."""
    if config.view == "feature":
        if given is not None:
            raise _refused("an image encoder for view 'feature'", "Set view to ground or aerial.")
        return None, config
    if given is None:
        if config.freeze_image and not config.image.weights:
            change = "Give image.weights, or set freeze_image = false: random features carry little."
            raise _refused("a frozen image encoder without weights", change)
        image = ImageEncoder(config.image)
    else:
        image = given
        described = replace(given.config, weights=given.config.weights or CARRIED)
        config = replace(config, image=described)
    return (image.frozen() if config.freeze_image else image), config
