"""Embeddings of a data set: every observation read and encoded exactly once per view.

Retrieval and probes start from these arrays, so no gallery is encoded again for a query (pitfall 9 of methods
section 8), no last partial batch is lost (defect 3.4), and the metadata of an observation stays its own
(pitfall 8): a row is encoded with nothing but its own row of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.data import DataLoader

from train.batch import Batch, Observations, collate, to_device
from train.errors import DivergedError, SpecError

IMAGES = ("ground", "aerial", "feature")
Layer = Literal["embedding", "features"]


@dataclass(frozen=True)
class Embeddings:
    """What a model makes of a data set.

    Attributes:
        vectors: View -> (n, d) float32.
        tile: (n,) int64 aerial tile of each observation, -1 where unknown.
    """

    vectors: dict[str, NDArray[np.float32]]
    tile: NDArray[np.int64]


def pair_of(model: nn.Module) -> tuple[str, str]:
    """The two views that a model embeds side by side: two kinds of images, or images and locations.

    Metadata tokens (lonlat and date of a model with two image towers) are no view of their own here.

    Raises:
        SpecError: for a model that declares no such pair in `views`.
    """
    views = tuple(getattr(model, "views", ()))
    images = [view for view in IMAGES if view in views]
    if len(images) >= 2:
        return images[0], images[1]
    if images and "lonlat" in views:
        return images[0], "lonlat"
    found = f"a model of {type(model).__name__} with views {views}"
    raise SpecError("cannot evaluate the run", found, "Give a run of two views, such as ground and aerial.")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode of every module is put back, frozen parts included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are; the CPU for a model without any."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def embed(
    model: nn.Module, data: Observations, view: str, batch_size: int = 256, workers: int = 0
) -> NDArray[np.float32]:
    """Embeddings (n, d) float32 of one view of all observations, in their order.

    The encoder is called ceil(n / batch_size) times, in evaluation mode and without gradients.

    Args:
        model: Has `encode(view, batch) -> (n, d)`.
        data: n observations.
        view: Which view.
        batch_size: Observations of a call; the result does not depend on it.
        workers: Processes that load data.

    Raises:
        SpecError: for no observations, or a view that the data do not have or the model cannot encode.
        DivergedError: for an embedding that is not finite.
    """
    return embed_views(model, data, (view,), batch_size, workers).vectors[view]


def embed_views(
    model: nn.Module,
    data: Observations,
    views: Sequence[str],
    batch_size: int = 256,
    workers: int = 0,
    layer: Layer = "embedding",
) -> Embeddings:
    """Embeddings of several views; every observation is read once for all of them.

    Args:
        model: Has `encode(view, batch) -> (n, d)`.
        data: n observations.
        views: Which views.
        batch_size: Observations of a call.
        workers: Processes that load data.
        layer: The contrasted unit vectors, or the features before the projection, which suit probes better;
            a view without such features gives its embedding.

    Raises:
        SpecError: for no observations, or a view that the data do not have or the model cannot encode.
        DivergedError: for an embedding that is not finite.
    """
    _require(model, data, views)
    parts: dict[str, list[NDArray[np.float32]]] = {view: [] for view in views}
    tiles: list[NDArray[np.int64]] = []
    with evaluating(model):
        for batch in batches(data, batch_size, device_of(model), workers):
            for view in views:
                parts[view].append(_checked(encode(model, view, batch, layer), view))
            unknown = torch.full((len(batch[views[0]]),), -1)
            tiles.append(batch.get("tile", unknown).cpu().numpy().astype(np.int64))
    return Embeddings({view: np.concatenate(part) for view, part in parts.items()}, np.concatenate(tiles))


def encode(model: nn.Module, view: str, batch: Batch, layer: Layer = "embedding") -> Tensor:
    """(n, d) embeddings of a view of a batch, or the features before the projection where there are any."""
    of_layer = getattr(model, "features", None) if layer == "features" else None
    vectors: Tensor = (of_layer or model.encode)(view, batch)  # type: ignore[operator]  # both are methods
    return vectors


def batches(data: Observations, size: int, device: torch.device, workers: int = 0) -> Iterator[Batch]:
    """All observations in order, the last partial batch included, on a device.

    Loading draws from a generator of its own, so that two passes over augmented data agree and the caller's
    random numbers are not used up.
    """
    loader: DataLoader[Batch] = DataLoader(
        data,  # type: ignore[arg-type]  # anything with a length and items
        batch_size=size,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator().manual_seed(0),
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for batch in progress.track(loader, total=len(loader), description="encoding"):
            yield to_device(batch, device)


def _require(model: nn.Module, data: Observations, views: Sequence[str]) -> None:
    if len(data) == 0:
        raise SpecError("cannot embed the data", "no observations", "Give a data set that is not empty.")
    if not callable(getattr(model, "encode", None)):
        found = f"a {type(model).__name__} without encode(view, batch)"
        raise SpecError("cannot embed the data", found, "Give a model of train.objectives.")
    for view in views:
        if view not in data.views:
            found = f"views {', '.join(data.views)} in the data, and {view} is asked for"
            raise SpecError("cannot embed the data", found, f"Give observations with {view}.")


def _checked(vectors: Tensor, view: str) -> NDArray[np.float32]:
    if vectors.ndim != 2 or not bool(torch.isfinite(vectors).all()):
        found = f"an embedding of {view} of shape {tuple(vectors.shape)} that is not finite"
        change = "Look for weights that diverged, or for missing pixels or coordinates in the data."
        raise DivergedError("cannot embed the data", found, change)
    return vectors.float().cpu().numpy()
