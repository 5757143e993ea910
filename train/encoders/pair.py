"""The pair of encoders that maps are made with, aerial and location: its card, to and from disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from train.encoders.aerial import AerialEncoder, ContextNet, Pixels, stage_halo
from train.encoders.location import LocationEncoder, Position
from train.errors import CheckpointError, SpecError
from train.spec import AerialSpec, ChipSpec, EncoderCard, LocationSpec

CARD = "card.json"
WEIGHTS = "weights.safetensors"
Floats = NDArray[np.float32]


class Encoders:
    """A trained pair, frozen and ready to encode; deterministic, independent of the batch.

    Args:
        card: What the encoders are.
        aerial: The aerial encoder; put into evaluation mode here.
        location: The location encoder; put into evaluation mode here.
    """

    def __init__(self, card: EncoderCard, aerial: AerialEncoder, location: LocationEncoder) -> None:
        self.card = card
        self.aerial = aerial.eval().requires_grad_(False)
        self.location = location.eval().requires_grad_(False)
        self.position = Position(card.location.position)
        self.hash = _digest(card, self._modules())

    @property
    def dim(self) -> int:
        """Width of the joined embedding."""
        return self.card.dim

    @property
    def levels(self) -> tuple[ChipSpec, ...]:
        """Scales of context, finest first."""
        return self.card.aerial.levels

    @property
    def bands(self) -> int:
        """Image bands the aerial encoder eats."""
        return self.levels[0].bands

    @property
    def quant_scale(self) -> Floats:
        """(dim,) step of each feature when stored as int8."""
        return np.asarray(self.card.quant_scale, np.float32)

    def _modules(self) -> dict[str, nn.Module]:
        return {"aerial": self.aerial, "location": self.location}

    def context(self, level: int, image: NDArray[np.floating], valid: NDArray[np.bool_]) -> Floats:
        """Window statistics of every pixel of an image that has a whole chip around it.

        Args:
            level: Index into `levels`.
            image: (bands, h, w) in the imagery's units, at that level's metres per pixel.
            valid: (h, w) bool; False pixels weigh nothing.

        Returns:
            (features, h - 2 margin, w - 2 margin) float32.

        Raises:
            SpecError: for another number of bands, or an image smaller than one chip.
        """
        return self._statistics(level, image, valid, None)

    def context_at(
        self,
        level: int,
        image: NDArray[np.floating],
        valid: NDArray[np.bool_],
        rows: NDArray[np.int64],
        cols: NDArray[np.int64],
    ) -> Floats:
        """The same statistics for some pixels only: `context(...)[:, rows, cols].T`, not building the rest.

        Args:
            level: Index into `levels`.
            image: (bands, h, w) as for `context`.
            valid: (h, w) bool.
            rows: (k,) rows of the interior, 0 .. h - 2 margin - 1.
            cols: (k,) columns of the interior.

        Returns:
            (k, features) float32.

        Raises:
            SpecError: as `context`.
        """
        pixels = Pixels(
            torch.from_numpy(np.asarray(rows, np.int64)), torch.from_numpy(np.asarray(cols, np.int64))
        )
        return np.ascontiguousarray(self._statistics(level, image, valid, pixels).T)

    def _statistics(
        self, level: int, image: NDArray[np.floating], valid: NDArray[np.bool_], pixels: Pixels | None
    ) -> Floats:
        spec = self.levels[level]
        if image.ndim != 3 or image.shape[0] != spec.bands or min(image.shape[1:]) < spec.pixels:
            found = (
                f"an array of shape {image.shape} for {spec.bands} bands and chips of {spec.pixels} pixels"
            )
            change = "Give (bands, h, w), at least one chip large."
            raise SpecError("cannot encode the imagery", found, change)
        if valid.shape != image.shape[1:]:
            found = f"a mask of shape {valid.shape} for an image of {image.shape}"
            raise SpecError("cannot encode the imagery", found, "Give one bool for each pixel.")
        net = self.aerial.contexts[level]
        assert isinstance(net, ContextNet)
        with torch.inference_mode():
            tensor = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]
            mask = torch.from_numpy(np.ascontiguousarray(valid, bool))[None]
            statistics: Floats = net(tensor, mask, pixels)[0].numpy()
        return statistics

    def embed(self, contexts: Sequence[NDArray[np.floating]], lonlat: NDArray[np.float64]) -> Floats:
        """Joins the scales of context and the location into the embedding.

        Args:
            contexts: One (n, features) array for each level.
            lonlat: (n, 2) degrees WGS 84.

        Returns:
            (n, dim) float32, rows of unit length: aerial, location and position parts, each of length
            sqrt(1/3).
        """
        with torch.inference_mode():
            parts = [torch.from_numpy(np.ascontiguousarray(c, np.float32)) for c in contexts]
            aerial = self.aerial.join(parts)
            place = torch.from_numpy(np.ascontiguousarray(lonlat, np.float64))
            parts = [aerial, self.location(place), self.position(place)]
            joined: Floats = (torch.cat(parts, dim=1) * len(parts) ** -0.5).numpy()
        return joined


def _digest(card: EncoderCard, modules: dict[str, nn.Module]) -> str:
    """sha256 over the card and every weight, so another card or one changed weight is another encoder."""
    digest = hashlib.sha256(card.to_json().encode())
    for name, module in sorted(modules.items()):
        for key, value in sorted(module.state_dict().items()):
            digest.update(f"{name}.{key}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_encoders(encoders: Encoders, path: Path) -> None:
    """Writes weights, then the card; a folder without a card is not a checkpoint.

    Args:
        encoders: The pair.
        path: Folder, made when absent.
    """
    path.mkdir(parents=True, exist_ok=True)
    (path / CARD).unlink(missing_ok=True)  # of an older checkpoint: it must not stand beside new weights
    tensors = {
        f"{name}.{key}": value.contiguous()
        for name, module in encoders._modules().items()
        for key, value in module.state_dict().items()
    }
    save_file(tensors, path / WEIGHTS)
    partial = path / f".{CARD}.partial"
    partial.write_text(encoders.card.to_json(), encoding="utf-8")
    partial.replace(path / CARD)


def load_encoders(path: str | Path) -> Encoders:
    """Reads a pair back; weights are data only, nothing is unpickled.

    Args:
        path: Folder with card.json and weights.safetensors.

    Raises:
        CheckpointError: when a file is missing, truncated, or does not fit the card.
    """
    folder = Path(path)
    for name in (CARD, WEIGHTS):
        if not (folder / name).is_file():
            found, change = f"no {name} in {folder}", "Give the folder that pre-training wrote."
            raise CheckpointError("cannot load the encoders", found, change)
    card = EncoderCard.from_json((folder / CARD).read_bytes().decode("utf-8", errors="replace"))
    try:
        aerial, location = build(card)
    except (SpecError, TypeError, ValueError, RuntimeError) as error:
        found = f"{folder / CARD} describes no encoders: {error}"
        raise CheckpointError("cannot load the encoders", found, "Restore the file.") from error
    try:
        _fill({"aerial": aerial, "location": location}, load_file(folder / WEIGHTS))
        _require_normalisation(aerial)
    except (SafetensorError, RuntimeError, OSError, ValueError) as error:
        found = f"{folder / WEIGHTS} is damaged or of another shape"
        raise CheckpointError("cannot load the encoders", found, "Restore the file.") from error
    return Encoders(card, aerial, location)


def _fill(modules: dict[str, nn.Module], tensors: dict[str, Tensor]) -> None:
    """Loads weights named "module.key"; ValueError or RuntimeError unless every name and shape fits."""
    strange = sorted(name for name in tensors if name.split(".")[0] not in modules)
    if strange:
        raise ValueError(f"unknown weights {strange}")
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        )


def _require_normalisation(aerial: AerialEncoder) -> None:
    """ValueError when the weights were trained with another mean or deviation than the card says."""
    for net in aerial.contexts:
        assert isinstance(net, ContextNet)
        for name, said in (("mean", net.level.mean), ("std", net.level.std)):
            if net.get_buffer(name).flatten().tolist() != torch.tensor(said).tolist():
                raise ValueError(f"{name} of the bands differs between card and weights")


def build(card: EncoderCard) -> tuple[AerialEncoder, LocationEncoder]:
    """Fresh modules of the shape a card describes."""
    return AerialEncoder(card.aerial), LocationEncoder(card.location)


def default_card(
    *, bands: int = 3, mean: float = 90.0, std: float = 60.0, channels: int = 16, dim: int = 64
) -> EncoderCard:
    """The shape of the shipped encoders: windows of 1 to 21 km at 1 km/pixel, 30 to 310 km at 10 km/pixel."""
    spec = AerialSpec(channels=channels, dim=dim)
    halo = stage_halo(spec.depth, spec.kernel)
    stats = {"bands": bands, "mean": (mean,) * bands, "std": (std,) * bands}
    levels = (
        ChipSpec(1000.0, (0, 2, 5, 10), halo, **stats),  # type: ignore[arg-type]
        ChipSpec(10_000.0, (1, 3, 7, 15), halo, **stats),  # type: ignore[arg-type]
    )
    location = LocationSpec(dim=dim, position=64 if dim > 8 else 8)
    card = EncoderCard(replace(spec, levels=levels), location, (), {"objective": "none"})
    return replace(card, quant_scale=(1.0 / 127,) * card.dim)


def random_encoders(seed: int = 0, *, bands: int = 3, channels: int = 8, dim: int = 8) -> Encoders:
    """Small untrained encoders of the real architecture, for tests.

    Args:
        seed: Seed of the weights.
        bands: Image bands.
        channels: Width of the backbone.
        dim: Width of the aerial and of the learnt location embedding.
    """
    card = default_card(bands=bands, channels=channels, dim=dim)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        aerial, location = build(card)
    return Encoders(card, aerial, location)
