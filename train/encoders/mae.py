"""A masked autoencoder: a vision transformer that learns by painting what it was not shown.

Source: BirdSAT's ground encoder (Sastry et al. 2024; methods sections 3.1, 3.2) after He et al. 2022: 75 % of
the patches are hidden, and the loss is the mean squared error of the hidden patches in normalised pixels (no
normalisation by patch). What we changed: plain transformer blocks, because the published convolution runs
over tokens that masking has shuffled (methods section 3.6, defect 2); fixed sine-cosine positions are really
added, in encoder and decoder (defect 1); `encode` hides nothing and draws nothing, so that equal calls give
equal vectors (pitfall 6). In evaluation mode `forward` hides the same patches of every image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from train.encoders.image import Freezable
from train.encoders.pixels import IMAGENET_MEAN, IMAGENET_STD, Normalise, OtherSizes
from train.errors import SpecError
from train.timm_compat import import_timm


@dataclass(frozen=True)
class MaeConfig:
    """What a masked autoencoder eats and is; the defaults are the ground encoder's of BirdSAT."""

    size: int = 384
    """Side of the square images [pixels]."""
    patch: int = 32
    """Side of a patch [pixels]; divides `size`."""
    bands: int = 3
    """Number of image bands."""
    dim: int = 768
    """Width of a token, and of the embedding."""
    depth: int = 12
    """Transformer blocks of the encoder."""
    heads: int = 12
    """Attention heads of the encoder."""
    decoder_dim: int = 512
    """Width of a token in the decoder."""
    decoder_depth: int = 8
    """Transformer blocks of the decoder."""
    decoder_heads: int = 16
    """Attention heads of the decoder."""
    mask_ratio: float = 0.75
    """Share of the patches that is hidden while training."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per-band mean in the imagery's units (uint8 photos: 0..255)."""
    std: tuple[float, ...] = IMAGENET_STD
    """Per-band standard deviation in the imagery's units."""
    other_sizes: OtherSizes = "refuse"
    """`refuse` images of another size (a chip's pixel has metres), or `resize` them (a photo's has none)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(map(float, self.mean)))  # TOML gives lists
        object.__setattr__(self, "std", tuple(map(float, self.std)))
        what = "cannot build a masked autoencoder"
        if self.patch < 1 or self.size < self.patch or self.size % self.patch:
            found = f"images of {self.size} pixels in patches of {self.patch}"
            raise SpecError(what, found, "Let the patch divide the size.")
        for name, dim, heads in (
            ("dim", self.dim, self.heads),
            ("decoder_dim", self.decoder_dim, self.decoder_heads),
        ):
            if dim < 4 or dim % 4 or heads < 1 or dim % heads:
                found = f"{name} {dim} with {heads} heads"
                raise SpecError(what, found, "Give a width that 4 and the number of heads divide.")
        if not 1 <= self.kept < self.tokens:
            found = f"mask_ratio {self.mask_ratio} of {self.tokens} patches"
            raise SpecError(what, found, "Hide at least one patch and keep at least one.")

    @property
    def tokens(self) -> int:
        """Patches of an image."""
        return (self.size // self.patch) ** 2

    @property
    def kept(self) -> int:
        """Patches that are shown while training."""
        return int(self.tokens * (1.0 - self.mask_ratio))


GROUND_PAPER = MaeConfig(other_sizes="resize")
AERIAL_PAPER = MaeConfig(size=224, patch=16)
TINY = MaeConfig(32, 8, dim=64, depth=2, heads=4, decoder_dim=32, decoder_depth=1, decoder_heads=4)


def patchify(images: Tensor, patch: int) -> Tensor:
    """(n, bands, h, w) -> (n, tokens, bands * patch * patch), row by row."""
    return nn.functional.unfold(images, patch, stride=patch).transpose(1, 2)


def sincos_positions(side: int, dim: int) -> Tensor:
    """(side * side, dim) float32: sine and cosine of row and of column at dim / 4 wavelengths.

    Reference: Vaswani et al. 2017, section 3.5, in two dimensions (He et al. 2022).
    """
    rates = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    phase = torch.arange(side, dtype=torch.float64)[:, None] * rates  # (side, dim / 4)
    line = torch.cat([phase.sin(), phase.cos()], dim=1)  # (side, dim / 2)
    rows, cols = line.repeat_interleave(side, dim=0), line.repeat(side, 1)
    return torch.cat([rows, cols], dim=1).float()


class Shown(NamedTuple):
    """The patches of a batch that are shown, and what the others are to be."""

    tokens: Tensor
    """(n, k, dim) embedded patches with their positions."""
    ids: Tensor
    """(n, k) int64 places of these patches."""
    target: Tensor
    """(n, tokens, bands * patch * patch) all patches in normalised pixels."""


class Patches(nn.Module):
    """Images -> tokens: normalisation, a Linear of each patch, fixed positions, and what is hidden.

    Args:
        config: What it eats and is.
    """

    positions: Tensor
    order: Tensor

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(config.size, config.bands, config.mean, config.std, config.other_sizes)
        self.embed = nn.Linear(config.bands * config.patch**2, config.dim)
        positions = sincos_positions(config.size // config.patch, config.dim)
        order = torch.randperm(config.tokens, generator=torch.Generator().manual_seed(0))
        self.register_buffer("positions", positions, persistent=False)
        self.register_buffer("order", order, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(n, bands, size, size) in the imagery's units -> (n, tokens, dim); nothing is hidden."""
        return self._tokens(patchify(self.normalise(images), self.config.patch))

    def shown(self, images: Tensor) -> Shown:
        """The patches that the mask leaves: drawn for each image, or always the same in evaluation mode."""
        target = patchify(self.normalise(images), self.config.patch)
        shape, device = target.shape[:2], target.device
        order = torch.rand(shape, device=device).argsort(1) if self.training else self.order.expand(shape)
        ids = order[:, : self.config.kept]
        return Shown(take(self._tokens(target), ids), ids, target)

    def _tokens(self, patches: Tensor) -> Tensor:
        tokens: Tensor = self.embed(patches) + self.positions
        return tokens


def take(tokens: Tensor, ids: Tensor) -> Tensor:
    """(n, t, d) tokens at (n, k) places -> (n, k, d)."""
    return tokens.gather(1, ids[:, :, None].expand(-1, -1, tokens.shape[2]))


class Trunk(nn.Module):
    """Transformer blocks over a class token and whatever follows it, and a norm.

    Args:
        dim: Width of a token.
        depth: Number of blocks, each with weights of its own.
        heads: Attention heads of a block.
    """

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.summary = nn.Parameter(0.02 * torch.randn(dim))
        self.blocks = _blocks(dim, depth, heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, t, dim) -> (n, 1 + t, dim) float32; the class token comes first."""
        whole = torch.cat([self.summary.expand(len(tokens), 1, -1), tokens], dim=1)
        out: Tensor = self.norm(self.blocks(whole))
        return out.float()


class Decoder(nn.Module):
    """Paints all patches from the encoded ones that were shown.

    Args:
        config: What it eats and is.
    """

    positions: Tensor

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        width = config.decoder_dim
        self.enter = nn.Linear(config.dim, width)
        self.hidden = nn.Parameter(0.02 * torch.randn(width))  # stands where a patch was not shown
        self.blocks = _blocks(width, config.decoder_depth, config.decoder_heads)
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, config.bands * config.patch**2)
        positions = sincos_positions(config.size // config.patch, width)
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, encoded: Tensor, ids: Tensor) -> Tensor:
        """(n, 1 + k, dim) class token and shown patches, (n, k) places -> (n, tokens, pixel values)."""
        x = self.enter(encoded)
        n, width = len(x), x.shape[2]
        whole = self.hidden.to(x.dtype).expand(n, len(self.positions), -1)
        whole = whole.scatter(1, ids[:, :, None].expand(-1, -1, width), x[:, 1:]) + self.positions
        painted = self.norm(self.blocks(torch.cat([x[:, :1], whole], dim=1)))[:, 1:]
        pixels: Tensor = self.leave(painted)
        return pixels.float()

    def loss(self, encoded: Tensor, shown: Shown) -> Tensor:
        """Mean squared error over the pixels of the patches that were hidden; a scalar."""
        painted = self(encoded, shown.ids)
        error = (painted - shown.target).square().mean(dim=2)  # (n, tokens)
        hidden = torch.ones_like(error).scatter(1, shown.ids, 0.0)
        loss: Tensor = (error * hidden).sum() / hidden.sum()
        return loss


class MaskedAutoencoder(Freezable):
    """Patches, trunk and decoder of one view.

    Args:
        config: What it eats and is.
    """

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        self.config = config
        self.dim = self.width = config.dim
        self.patches = Patches(config)
        self.trunk = Trunk(config.dim, config.depth, config.heads)
        self.decoder = Decoder(config)
        self.apply(start_linear)

    def features(self, images: Tensor) -> Tensor:
        """(n, bands, size, size) in the imagery's units -> (n, dim) class token of the whole image."""
        encoded: Tensor = self.trunk(self.patches(images))
        return encoded[:, 0]

    def encode(self, images: Tensor) -> Tensor:
        """(n, bands, size, size) in the imagery's units -> (n, dim) of unit length; nothing is drawn."""
        return nn.functional.normalize(self.features(images), dim=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(n, bands, size, size) -> (n, dim) class token of what was shown, and the loss of what was not."""
        shown = self.patches.shown(images)
        encoded = self.trunk(shown.tokens)
        return encoded[:, 0], self.decoder.loss(encoded, shown)


def start_linear(module: nn.Module) -> None:
    """Xavier weights and no bias in every Linear (He et al. 2022, appendix A.1); for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _blocks(dim: int, depth: int, heads: int) -> nn.Sequential:
    import_timm()
    from timm.models.vision_transformer import Block

    # One by one: repeating a list would repeat the block itself, and its weights (pitfall 20).
    return nn.Sequential(*(Block(dim, heads, qkv_bias=True) for _ in range(depth)))
