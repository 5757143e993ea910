"""Spherical harmonics: values worked by hand, SciPy's, and the addition theorem."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special

from train.encoders.harmonics import LARGEST, SphericalHarmonics, spherical_harmonics
from train.encoders.location import LocationEncoder
from train.errors import SpecError
from train.sampling import sample_sphere
from train.spec import LocationSpec

PLACES = [[0.0, 0.0], [90.0, 45.0], [-121.49, 38.58]]


def test_first_degrees_by_hand():
    """Pitfall 2: golden values at three points: Y_00, then y, z, x times sqrt(3 / 4 pi), then degree 2."""
    found = spherical_harmonics(torch.tensor(PLACES, dtype=torch.float64), 3).numpy()
    lam, phi = np.radians(PLACES).T
    x, y, z = np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)
    k = math.sqrt(3 / (4 * math.pi))
    second = math.sqrt(15 / (4 * math.pi))
    expected = [np.full(3, math.sqrt(1 / (4 * math.pi))), k * y, k * z, k * x]
    expected += [second * x * y, second * y * z, math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1)]
    expected += [second * x * z, second / 2 * (x * x - y * y)]
    np.testing.assert_allclose(found, np.stack(expected, axis=1), atol=1e-14)


def test_every_degree_is_that_of_scipy():
    """An independent implementation, complex and with the Condon-Shortley sign, turned into ours."""
    lonlat = sample_sphere(7, torch.Generator().manual_seed(0))
    found = spherical_harmonics(lonlat, LARGEST).numpy()
    lam, phi = np.radians(lonlat.numpy()).T
    for degree in (1, 2, 7, 20, 40):
        for order in {0, 1, degree // 2, degree}:
            value = special.sph_harm_y(degree, order, np.pi / 2 - phi, lam) * (-1.0) ** order
            middle = degree**2 + degree
            if order == 0:
                np.testing.assert_allclose(found[:, middle], value.real, atol=1e-11)
            else:
                np.testing.assert_allclose(found[:, middle + order], math.sqrt(2) * value.real, atol=1e-11)
                np.testing.assert_allclose(found[:, middle - order], math.sqrt(2) * value.imag, atol=1e-11)


def test_addition_theorem_holds_to_degree_40():
    """Pitfall 19: sum over m of Y_lm^2 is (2 l + 1) / (4 pi) to 1e-10, at the poles and the seam too."""
    special_places = torch.tensor(
        [[0, 90], [77, -90], [180, 0], [-180, 12], [0, 0], [5, 89.999]], dtype=torch.float64
    )
    lonlat = torch.cat([sample_sphere(200, torch.Generator().manual_seed(1)), special_places])
    values = spherical_harmonics(lonlat, 41)
    assert values.shape == (206, 41**2)
    for degree, part in enumerate(values.square().split([2 * k + 1 for k in range(41)], dim=1)):
        expected = torch.full((206,), (2 * degree + 1) / (4 * math.pi), dtype=torch.float64)
        torch.testing.assert_close(part.sum(dim=1), expected, atol=1e-10, rtol=0)


def test_functions_are_orthonormal():
    """Over the sphere, by quadrature: Gauss-Legendre in sin(lat), even steps in lon."""
    nodes, weights = special.roots_legendre(24)
    lon = np.arange(48) * 7.5 - 180.0
    grid = np.stack(np.meshgrid(lon, np.degrees(np.arcsin(nodes))), axis=-1).reshape(-1, 2)
    area = np.repeat(weights, 48) * (2 * math.pi / 48)
    values = spherical_harmonics(torch.from_numpy(grid), 12).numpy()
    np.testing.assert_allclose(values.T @ (values * area[:, None]), np.eye(144), atol=1e-12)


def test_single_precision_input_is_computed_in_double():
    lonlat = torch.tensor(PLACES)
    encoded = SphericalHarmonics(40)(lonlat)
    assert encoded.dtype == torch.float32
    torch.testing.assert_close(encoded, spherical_harmonics(lonlat.double(), 40).float(), atol=0, rtol=0)


@pytest.mark.parametrize("degrees", [0, -1, 42, 2.5, float("nan")])
def test_an_impossible_number_of_degrees_is_refused(degrees):
    with pytest.raises(SpecError, match="degrees = "):
        LocationEncoder(LocationSpec("sh", {"degrees": degrees}))


def test_coarse_places_only():
    """About 180 / L degrees of detail: two places 0.05 degrees apart look the same at L = 10."""
    encoding = SphericalHarmonics(10)
    here, near = encoding(torch.tensor([[-121.5, 38.5], [-121.45, 38.5]], dtype=torch.float64))
    assert float((here - near).norm() / here.norm()) < 0.01
