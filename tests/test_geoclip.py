"""GeoCLIP's location features and its network of one MLP for each hierarchy."""

from __future__ import annotations

import math

import numpy as np
import torch
from pyproj import Proj

from train.encoders.geoclip import GeoClip, equal_earth
from train.encoders.location import PUBLISHED, LocationEncoder
from train.sampling import sample_sphere
from train.spec import LocationSpec

PLACES = [[0.0, 0.0], [90.0, 45.0], [-121.49, 38.58]]


def points(*lonlat):
    return torch.tensor(lonlat, dtype=torch.float64)


def test_projection_is_equal_earth():
    """Defect 5.5: longitude first; PROJ's own equal earth on a unit sphere."""
    lonlat = sample_sphere(50, torch.Generator().manual_seed(0))
    project = Proj("+proj=eqearth +R=1")
    expected = np.stack(project(*lonlat.numpy().T), axis=1)
    np.testing.assert_allclose(equal_earth(lonlat), expected, atol=1e-9)


def test_golden_features():
    """Pitfall 2: three points, the formula written out in NumPy with the encoding's own directions."""
    encoding = GeoClip(1.0, 256.0, 3, 4)
    lam, phi = np.radians(PLACES).T
    theta = np.arcsin(math.sqrt(3) / 2 * np.sin(phi))
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    below = 3 * (9 * a4 * theta**8 + 7 * a3 * theta**6 + 3 * a2 * theta**2 + a1)
    x = 2 * math.sqrt(3) * lam * np.cos(theta) / below
    y = a4 * theta**9 + a3 * theta**7 + a2 * theta**3 + a1 * theta
    plane = np.stack([x, y], axis=1) * 66.50336 / 180
    expected = []
    for directions in encoding.frequencies.numpy():  # (2, 4) of each hierarchy
        phase = 2 * math.pi * plane @ directions
        expected += [np.cos(phase), np.sin(phase)]
    np.testing.assert_allclose(encoding(points(*PLACES)), np.hstack(expected), atol=1e-10)
    assert encoding.dim == 24


def test_three_hierarchies_of_1_16_and_256():
    frequencies = GeoClip(count=4000).frequencies
    np.testing.assert_allclose(frequencies.std(dim=(1, 2)), [1, 16, 256], rtol=0.03)
    assert torch.equal(GeoClip().frequencies, GeoClip().frequencies)
    assert GeoClip().dim == 3 * 512
    assert GeoClip().groups == 3


def test_seam_is_there_as_documented():
    """Pitfall 3, defect 5.5: not periodic at the antimeridian, and a pole is a line."""
    encoding = GeoClip()
    assert "not periodic" in (GeoClip.__doc__ or "")
    assert not encoding.seamless
    assert not encoding.one_pole
    west, east, pole, same_pole = encoding(points([-180, 10], [180, 10], [0, 90], [100, 90]))
    assert float((west - east).abs().max()) > 0.1
    assert float((pole - same_pole).abs().max()) > 0.1


def test_hierarchies_are_encoded_apart_and_summed():
    spec = LocationSpec("geoclip", {"scales": 3, "count": 4}, hidden=5, blocks=3, dim=6, network="capsules")
    encoder = LocationEncoder(spec)
    with torch.no_grad():
        lonlat = points(*PLACES)
        encoded = encoder.encoding(lonlat).float().numpy().reshape(3, 3, 8)
        expected = np.zeros((3, 6))
        for level in range(3):
            x = encoded[:, level]
            for stage in (encoder.enter, *encoder.blocks):
                layer = stage.layers[level]
                x = np.maximum(x @ layer.weight.numpy().T + layer.bias.numpy(), 0)
            layer = encoder.leave.layers[level]
            expected += x @ layer.weight.numpy().T + layer.bias.numpy()
        np.testing.assert_allclose(encoder.embed(lonlat), expected, atol=1e-5)


def test_published_shape():
    """Each of three MLPs: 512 -> 1024 -> 1024 -> 1024 -> 512."""
    shapes = [(1024, 512), (1024, 1024), (1024, 1024), (512, 1024)]
    encoder = LocationEncoder(PUBLISHED["geoclip"])
    layers = [
        [stage.layers[i] for stage in (encoder.enter, *encoder.blocks, encoder.leave)] for i in range(3)
    ]
    assert [[tuple(layer.weight.shape) for layer in each] for each in layers] == [shapes] * 3
    assert len({parameter.data_ptr() for parameter in encoder.parameters()}) == 3 * 4 * 2
