"""Networks on top of a positional encoding, each as three stages: enter, blocks, leave.

`enter` takes the encoding to the hidden width, `blocks` keep the width, `leave` gives the embedding.

| network | source | `blocks` counts |
|---|---|---|
| residual | SINR (Cole et al. 2023), with a projection | residual blocks |
| fcnet | geo_prior FCNet (Mac Aodha et al. 2019) = SINR ResidualFCNet, as published: no projection | blocks |
| ffn, ffn_gelu | Space2Vec and CSP feed-forward net, LeakyReLU(0.2) or GELU | hidden layers h |
| siren | SIREN (Sitzmann et al. 2020) as in SatCLIP: omega 30, then 1 | hidden layers |
| capsules | GeoCLIP: one MLP for each hierarchy, outputs summed | hidden layers |

What we changed: every layer has weights of its own (a public head repeats one layer by list multiplication).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from train.errors import SpecError
from train.spec import LocationSpec

Stages = tuple[nn.Module, nn.Module, nn.Module]
FIRST_OMEGA = 30.0


class ReluLinear(nn.Linear):
    """relu(linear(x))."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) -> (n, outputs)."""
        return torch.relu(super().forward(x))


class ResidualBlock(nn.Module):
    """x + relu(linear(dropout(relu(linear(x))))), the block of SINR's location network."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) -> (n, width)."""
        hidden = self.dropout(torch.relu(self.inner(x)))
        return x + torch.relu(self.outer(hidden))


class FeedForwardLayer(nn.Module):
    """norm(x + dropout(activation(linear(x)))), the layer of Space2Vec; x only where the widths agree.

    Args:
        inputs: Width before.
        outputs: Width after.
        activation: Its activation.
        dropout: Dropout after the activation.
        last: The output layer has neither the skip nor the norm.
    """

    def __init__(
        self, inputs: int, outputs: int, activation: nn.Module, dropout: float, last: bool = False
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        self.skip = inputs == outputs and not last
        self.norm = nn.Identity() if last else nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) -> (n, outputs)."""
        out: Tensor = self.dropout(self.activation(self.linear(x)))
        normed: Tensor = self.norm(out + x if self.skip else out)
        return normed


class Sine(nn.Module):
    """dropout(sin(omega linear(x))) initialised so that activations stay spread (SIREN, section 3.2).

    Args:
        inputs: Width before.
        outputs: Width after.
        omega: Frequency.
        first: Whether x is an encoding, not the output of another such layer.
        dropout: Dropout after the sine.
    """

    def __init__(self, inputs: int, outputs: int, omega: float, first: bool, dropout: float) -> None:
        super().__init__()
        self.linear = siren_linear(
            inputs, outputs, 1.0 / inputs if first else math.sqrt(6.0 / inputs) / omega
        )
        self.omega = omega
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) -> (n, outputs)."""
        out: Tensor = self.dropout(torch.sin(self.omega * self.linear(x)))
        return out


def siren_linear(inputs: int, outputs: int, bound: float) -> nn.Linear:
    """A linear layer with weights and bias uniform in -bound..bound."""
    linear = nn.Linear(inputs, outputs)
    nn.init.uniform_(linear.weight, -bound, bound)
    nn.init.uniform_(linear.bias, -bound, bound)
    return linear


class Apart(nn.Module):
    """A layer for each of several equal parts of the input; outputs side by side, or summed.

    Args:
        layers: One layer for each part.
        total: Sum the outputs.
    """

    def __init__(self, layers: Sequence[nn.Module], total: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.total = total

    def forward(self, x: Tensor) -> Tensor:
        """(n, parts * inputs) -> (n, parts * outputs), or (n, outputs) when summed."""
        parts = x.chunk(len(self.layers), dim=1)
        out = [layer(part) for layer, part in zip(self.layers, parts, strict=True)]
        return torch.stack(out).sum(dim=0) if self.total else torch.cat(out, dim=1)


def _residual(inputs: int, groups: int, spec: LocationSpec, dropout: float) -> Stages:
    enter = ReluLinear(inputs, spec.hidden)
    blocks = nn.Sequential(*(ResidualBlock(spec.hidden, dropout) for _ in range(spec.blocks)))
    return enter, blocks, nn.Linear(spec.hidden, spec.dim)


def _fcnet(inputs: int, groups: int, spec: LocationSpec, dropout: float) -> Stages:
    if spec.hidden != spec.dim:
        found = f"hidden {spec.hidden} and dim {spec.dim}"
        raise SpecError("cannot build network fcnet", found, "It has no projection: give both the same.")
    enter = ReluLinear(inputs, spec.hidden)
    blocks = nn.Sequential(*(ResidualBlock(spec.hidden, dropout) for _ in range(spec.blocks)))
    return enter, blocks, nn.Identity()


def _ffn(activation: Callable[[], nn.Module]) -> Callable[[int, int, LocationSpec, float], Stages]:
    def build(inputs: int, groups: int, spec: LocationSpec, dropout: float) -> Stages:
        enter = FeedForwardLayer(inputs, spec.hidden, activation(), dropout)
        more = (
            FeedForwardLayer(spec.hidden, spec.hidden, activation(), dropout) for _ in range(spec.blocks - 1)
        )
        leave = FeedForwardLayer(spec.hidden, spec.dim, activation(), dropout, last=True)
        return enter, nn.Sequential(*more), leave

    return build


def _siren(inputs: int, groups: int, spec: LocationSpec, dropout: float) -> Stages:
    width = spec.hidden
    enter = Sine(inputs, width, FIRST_OMEGA, True, dropout)
    blocks = nn.Sequential(*(Sine(width, width, 1.0, False, dropout) for _ in range(spec.blocks - 1)))
    return enter, blocks, siren_linear(width, spec.dim, math.sqrt(6.0 / width))


def _capsules(inputs: int, groups: int, spec: LocationSpec, dropout: float) -> Stages:
    width = spec.hidden
    enter = Apart([ReluLinear(inputs // groups, width) for _ in range(groups)])
    more = (Apart([ReluLinear(width, width) for _ in range(groups)]) for _ in range(spec.blocks - 1))
    leave = Apart([nn.Linear(width, spec.dim) for _ in range(groups)], total=True)
    return enter, nn.Sequential(*more), leave


NETWORKS: dict[str, Callable[[int, int, LocationSpec, float], Stages]] = {
    "residual": _residual,
    "fcnet": _fcnet,
    "ffn": _ffn(lambda: nn.LeakyReLU(0.2)),
    "ffn_gelu": _ffn(nn.GELU),
    "siren": _siren,
    "capsules": _capsules,
}


def build_network(spec: LocationSpec, inputs: int, groups: int, dropout: float) -> Stages:
    """Fresh stages of the network a specification names.

    Args:
        spec: `network`, `hidden`, `blocks` and `dim` are read.
        inputs: Width of the encoding.
        groups: Equal parts of the encoding, for `capsules`.
        dropout: Dropout while training; `capsules` has none.

    Raises:
        SpecError: for an unknown network, or `blocks` below 1 where they count hidden layers.
    """
    if spec.network not in NETWORKS:
        known = ", ".join(sorted(NETWORKS))
        raise SpecError(
            "cannot build a location encoder", f"network {spec.network!r}", f"Use one of: {known}."
        )
    if spec.blocks < 1 and spec.network not in ("residual", "fcnet"):
        raise SpecError("cannot build a location encoder", f"{spec.blocks} blocks", "Give at least 1.")
    return NETWORKS[spec.network](inputs, groups, spec, dropout)
