"""Location encoders: degrees of longitude and latitude in, an embedding out.

`LocationEncoder(LocationSpec(kind=..., options=..., network=...))` builds every one of them: a positional
encoding (`ENCODINGS`; the table of train.encoders.positional says how each treats the antimeridian and the
poles) and a network on top (`NETWORKS` of train.encoders.networks). `PUBLISHED` has the pairs of the papers.

What we changed: every encoding takes degrees (lon, lat) and converts inside, in float64 and in torch, so
gradients and devices are kept; embeddings have unit length (`embed` gives them as the network leaves them);
mixed precision stops at this encoder, for bfloat16 would round places 25 km apart together.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from train.encoders.geoclip import GeoClip
from train.encoders.harmonics import SphericalHarmonics
from train.encoders.networks import build_network
from train.encoders.positional import XYZ, Encoding, Grid, SphereRFF, Theory, Wrap, check_lonlat, unit_vector
from train.encoders.sphere2vec import SphereC, SphereCPlus, SphereM, SphereMPlus
from train.errors import SpecError
from train.spec import LocationSpec

ENCODINGS: dict[str, type[Encoding]] = {
    "wrap": Wrap,
    "grid": Grid,
    "theory": Theory,
    "xyz": XYZ,
    "sphere_c": SphereC,
    "sphere_m": SphereM,
    "sphere_c_plus": SphereCPlus,
    "sphere_m_plus": SphereMPlus,
    "sphere_rff": SphereRFF,
    "sh": SphericalHarmonics,
    "geoclip": GeoClip,
}

PUBLISHED: dict[str, LocationSpec] = {
    "geo_prior": LocationSpec("wrap", {"doubled": 1}, hidden=256, blocks=4, dim=256, network="fcnet"),
    "space2vec-grid": LocationSpec(
        "grid", {"r_min": 0.01, "count": 32}, hidden=512, blocks=1, dim=256, network="ffn"
    ),
    "space2vec-theory": LocationSpec(
        "theory", {"r_min": 0.01, "count": 32}, hidden=512, blocks=1, dim=256, network="ffn"
    ),
    "satclip-l10": LocationSpec("sh", {"degrees": 10}, hidden=256, blocks=2, dim=256, network="siren"),
    "satclip-l40": LocationSpec("sh", {"degrees": 40}, hidden=512, blocks=2, dim=256, network="siren"),
    "geoclip": LocationSpec("geoclip", {}, hidden=1024, blocks=3, dim=512, network="capsules"),
}
"""Encodings and networks as the papers pair them; SINR's is geo_prior's. No published weights fit these."""


def build_encoding(kind: str, options: Mapping[str, float]) -> Encoding:
    """A fresh positional encoding.

    Args:
        kind: A key of `ENCODINGS`.
        options: Keyword options of that class, numbers.

    Raises:
        SpecError: for an unknown kind or option (the known ones are named), or a value out of its range.
    """
    what = "cannot build a location encoder"
    if kind not in ENCODINGS:
        raise SpecError(what, f"kind {kind!r}", f"Use one of: {', '.join(sorted(ENCODINGS))}.")
    known = [name for name in inspect.signature(ENCODINGS[kind].__init__).parameters if name != "self"]
    if ENCODINGS[kind].__init__ is Encoding.__init__:  # the encoding has no __init__, so no options
        known = []
    for name, value in options.items():
        if name not in known:
            raise SpecError(
                what, f"option {name!r} of {kind}", f"Known options: {', '.join(known) or 'none'}."
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SpecError(what, f"option {name} = {value!r} of {kind}", "Give a number.")
    return ENCODINGS[kind](**dict(options))


class Position(nn.Module):
    """Where a place is, smoothly: low random Fourier features of the unit vector, nothing learnt.

    A learnt location embedding says what a place is like; heads also need to know where it is, at the grain
    of ranges (about 500 to 3000 km). Sine and cosine come in pairs, so the vector has unit length by
    construction.
    """

    frequencies: Tensor

    def __init__(self, dim: int, sigmas: tuple[float, float] = (2.0, 6.0)) -> None:
        super().__init__()
        if dim < 4 or dim % 4:
            raise SpecError(
                "cannot build position features", f"width {dim}", "Give a positive multiple of 4."
            )
        generator = torch.Generator().manual_seed(0)
        draws = torch.randn(2, 3, dim // 4, generator=generator, dtype=torch.float64)
        scaled = draws * torch.tensor(sigmas, dtype=torch.float64)[:, None, None]
        self.register_buffer("frequencies", scaled.transpose(0, 1).flatten(1))  # (3, dim / 2)

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, dim) float32 of unit length."""
        check_lonlat(lonlat)
        phase = unit_vector(lonlat.to(torch.float64)) @ self.frequencies
        pairs = torch.cat([torch.sin(phase), torch.cos(phase)], dim=1)
        return (pairs / math.sqrt(phase.shape[1])).float()


class LocationEncoder(nn.Module):
    """Encoding, network, unit length.

    Args:
        spec: Kind, options, network and widths.
        dropout: Dropout in the network while training.

    Raises:
        SpecError: for an unknown kind, option or network.
    """

    def __init__(self, spec: LocationSpec, dropout: float = 0.1) -> None:
        super().__init__()
        self.dim = spec.dim
        self.encoding = build_encoding(spec.kind, spec.options)
        self.enter, self.blocks, self.leave = build_network(
            spec, self.encoding.dim, self.encoding.groups, dropout
        )

    def features(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, hidden) float32, before the last stage of the network.

        Raises:
            SpecError: as `check_lonlat`; a missing coordinate (NaN) is refused.
        """
        check_lonlat(lonlat)
        with torch.autocast(lonlat.device.type, enabled=False):
            encoded = self.encoding(lonlat.double()).float()  # double: 1e-7 deg matters at high frequency
            hidden: Tensor = self.blocks(self.enter(encoded))
        return hidden

    def embed(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, dim) float32 of any length: e(x) of the papers, for class heads."""
        with torch.autocast(lonlat.device.type, enabled=False):
            embedding: Tensor = self.leave(self.features(lonlat))
        return embedding

    def forward(self, lonlat: Tensor) -> Tensor:
        """(n, 2) degrees -> (n, dim) float32 of unit length."""
        return nn.functional.normalize(self.embed(lonlat), dim=1)
