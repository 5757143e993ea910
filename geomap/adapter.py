"""The adapter between embeddings and species: after it every species is a dot product. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Adapter:
    """Ensemble of two-layer perceptrons shared by all species of a group.

    Attributes:
        mean, std: (D,) float32 normalisation of an embedding.
        members: tuple of (w1 (D, H), b1 (H,), w2 (H, K), b2 (K,)), all float32.
    """

    mean: Array
    std: Array
    members: tuple[tuple[Array, Array, Array, Array], ...]

    @property
    def dim(self) -> int:
        """Width D of the embeddings it takes."""
        return len(self.mean)

    @property
    def width(self) -> int:
        """Width M of what it returns: the outputs of all members side by side."""
        return sum(len(member[3]) for member in self.members)

    def transform(self, features: Array) -> Array:
        """Map embeddings to the space where a species is a dot product.

        Args:
            features: (n, D) float32 embeddings; a row with NaN gives a row of NaN.

        Returns:
            (n, M) float32: relu(relu(x @ w1 + b1) @ w2 + b2) of every member, concatenated.
        """
        x: Array = (features - self.mean) / self.std
        parts = [relu(relu(x @ w1 + b1) @ w2 + b2) for w1, b1, w2, b2 in self.members]
        return np.concatenate(parts, axis=1)  # (n, M)


def relu(values: Array) -> Array:
    """Zero below zero; NaN stays NaN."""
    return np.maximum(values, np.float32(0))


def sigmoid(logits: Array) -> Array:
    """Logistic function that neither overflows nor warns, float32."""
    halved: Array = np.tanh(np.float32(0.5) * logits)
    return np.float32(0.5) * (np.float32(1) + halved)
