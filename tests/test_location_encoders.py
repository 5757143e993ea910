"""Location encodings: golden values, seams, poles, and the network on top."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from train.encoders.location import (
    ENCODINGS,
    Grid,
    LocationEncoder,
    Position,
    SphereC,
    SphereRFF,
    Wrap,
    unit_vector,
)
from train.errors import SpecError
from train.sampling import sample_sphere
from train.spec import LocationSpec

SACRAMENTO = [-121.49, 38.58]
SMALL = LocationSpec(hidden=16, dim=8)


def points(*lonlat):
    return torch.tensor(lonlat, dtype=torch.float64)


def small(kind="sphere_rff", **options):
    torch.manual_seed(0)
    return LocationEncoder(LocationSpec(kind, options, hidden=16, blocks=2, dim=8)).eval()


def test_golden_vectors():
    """Pitfall 2: degrees go in; three points worked by hand for each encoding."""
    half = math.sqrt(0.5)
    places = points([0, 0], [90, 45], [-180, -90])
    np.testing.assert_allclose(unit_vector(places), [[1, 0, 0], [0, half, half], [0, 0, -1]], atol=1e-15)
    np.testing.assert_allclose(  # sin lon, sin lat, cos lon, cos lat
        Wrap()(places), [[0, 0, 1, 1], [1, half, 0, half], [0, -1, -1, 0]], atol=1e-15
    )
    # Scales 90 and 360 degrees: the phase is lon / scale, no radians.
    sines = [math.sin(90 / 90), math.sin(90 / 360), math.sin(45 / 90), math.sin(45 / 360)]
    cosines = [math.cos(90 / 90), math.cos(90 / 360), math.cos(45 / 90), math.cos(45 / 360)]
    np.testing.assert_allclose(
        Grid(90.0, 360.0, 2)(places[:2]), [[0] * 4 + [1] * 4, sines + cosines], atol=1e-15
    )
    # Scales 1 and 1/2: angles (lam, phi) and twice both.
    np.testing.assert_allclose(
        SphereC(2)(places),
        [[0, 0, 1, 1, 0, 0], [half, 1, 0, 0, half, 0], [-1, 0, 0, -1, 0, 0]],
        atol=1e-15,
    )
    features = SphereRFF(1.0, 4.0, 2, 3)
    phase = unit_vector(places).numpy() @ features.frequencies.numpy()
    expected = np.hstack([unit_vector(places).numpy(), np.sin(phase), np.cos(phase)])
    np.testing.assert_allclose(features(places), expected, atol=1e-15)


@pytest.mark.parametrize("kind", sorted(ENCODINGS))
def test_width_is_what_it_says(kind):
    encoding = ENCODINGS[kind]()
    assert encoding(points(SACRAMENTO, [0, 0])).shape == (2, encoding.dim)


def test_random_features_have_the_deviations_asked_for():
    frequencies = SphereRFF(1.0, 32.0, 6, 2000).frequencies.reshape(3, 6, 2000)
    np.testing.assert_allclose(frequencies.std(dim=(0, 2)), [1, 2, 4, 8, 16, 32], rtol=0.05)


@pytest.mark.parametrize("kind", ["wrap", "xyz", "sphere_c", "sphere_rff"])
def test_no_seam_at_the_antimeridian(kind):
    """Pitfall 3: -180 and 180 are one meridian, and nothing jumps across it."""
    encoding = ENCODINGS[kind]()
    lat = torch.linspace(-89, 89, 30, dtype=torch.float64)
    west, east, past = (torch.stack([torch.full_like(lat, lon), lat], 1) for lon in (-180, 180, 181))
    torch.testing.assert_close(encoding(west), encoding(east), atol=1e-6, rtol=0)
    torch.testing.assert_close(encoding(past), encoding(west + points([1, 0])), atol=1e-6, rtol=0)
    whole = small(kind)
    torch.testing.assert_close(whole(west), whole(east), atol=1e-6, rtol=0)


def test_grid_has_the_seam_it_is_documented_with():
    """Pitfall 3: Space2Vec's grid is not periodic, and says so."""
    assert "not periodic" in (Grid.__doc__ or "")
    grid = Grid()
    assert float((grid(points([-180, 10])) - grid(points([180, 10]))).abs().max()) > 0.1


@pytest.mark.parametrize("kind", ["xyz", "sphere_rff"])
def test_a_pole_is_one_point(kind):
    """Pitfall 4: at latitude 90 the longitude means nothing."""
    for lat in (-90.0, 90.0):
        encoded = ENCODINGS[kind]()(points(*([lon, lat] for lon in (-180, -77, 0, 33, 179))))
        torch.testing.assert_close(encoded, encoded[:1].expand_as(encoded), atol=1e-12, rtol=0)


def test_sphere_c_depends_on_longitude_at_a_pole_only_at_even_scales():
    """Pitfall 4: as its docstring has it."""
    encoded = SphereC(4)(points([0, 90], [50, 90])).reshape(2, 3, 4)
    gap = (encoded[0] - encoded[1]).abs().amax(dim=0)
    assert (gap > 0.1).tolist() == [False, True, False, True]


@pytest.mark.parametrize("kind", sorted(ENCODINGS))
def test_the_poles_differ(kind):
    """Pitfall 4: the published doubled angle would give both poles one encoding."""
    north, south = ENCODINGS[kind]()(points([0, 90], [0, -90]))
    assert float((north - south).abs().max()) > 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        points([38.58, -121.49]),
        points([0, 90.001]),
        points([361, 0]),
        points([float("nan"), 0]),
        points([0, float("inf")]),
        torch.zeros(2, 3, dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
    ],
)
def test_latitude_first_and_other_nonsense_are_refused(wrong):
    """Pitfall 1: longitude, then latitude; swapped ones lie outside -90..90."""
    for module in (small(), Position(8)):
        with pytest.raises(SpecError, match="cannot encode locations"):
            module(wrong)


def test_longitude_comes_first():
    """Pitfall 1: moving east changes x and y of the unit vector, never z."""
    here, east, north = unit_vector(points([20, 40], [30, 40], [20, 50]))
    assert float(here[2]) == float(east[2]) == pytest.approx(math.sin(math.radians(40)))
    assert float(north[2]) == pytest.approx(math.sin(math.radians(50)))
    assert float(torch.atan2(east[1], east[0])) == pytest.approx(math.radians(30))


@pytest.mark.parametrize("kind", sorted(ENCODINGS))
def test_same_place_same_embedding_whatever_the_batch(kind):
    """Pitfall 6: dropout is off in evaluation; a batch of one and of many agree."""
    encoder, places = small(kind), sample_sphere(300, torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, again = encoder(places), encoder(places)
        single = torch.cat([encoder(place[None]) for place in places[:20]])
    assert torch.equal(whole, again)
    torch.testing.assert_close(single, whole[:20], atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(300), atol=1e-6, rtol=0)
    assert whole.dtype == torch.float32


def test_input_is_left_alone():
    """Pitfall 10: longitudes are converted inside, not in the caller's array."""
    places = sample_sphere(50, torch.Generator().manual_seed(2))
    before = places.clone()
    for module in (small(), Position(8), *(kind() for kind in ENCODINGS.values())):
        module(places)
    assert torch.equal(places, before)


def test_fine_places_stay_apart():
    """Pitfall 2: at high frequencies single precision would round places together."""
    encoder = SphereRFF(1.0, 1e6, 2, 8)
    here, near = encoder(points(SACRAMENTO, [SACRAMENTO[0] + 1e-7, SACRAMENTO[1]]))
    assert 1e-4 < float((here - near).abs().max()) < 0.1


def test_single_precision_degrees_are_taken():
    encoder = small()
    single = points([-120.5, 38.25]).float()
    torch.testing.assert_close(encoder(single), encoder(single.double()), atol=1e-6, rtol=0)


def test_dropout_only_in_training():
    """Pitfall 7: the same encoder differs between two passes while training, never after."""
    encoder, places = small(), sample_sphere(20, torch.Generator().manual_seed(3))
    encoder.train()
    assert not torch.equal(encoder(places), encoder(places))
    encoder.eval()
    assert torch.equal(encoder(places), encoder(places))


def test_every_block_has_weights_of_its_own():
    """Pitfall 20: a list repeated with * would share them."""
    encoder = LocationEncoder(LocationSpec("xyz", {}, hidden=16, blocks=3, dim=8))
    tensors = list(encoder.parameters())
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors) == 2 * (1 + 2 * 3 + 1)
    assert sum(tensor.numel() for tensor in tensors) == (3 * 16 + 16) + 3 * 2 * (16 * 16 + 16) + (16 * 8 + 8)


@pytest.mark.parametrize(
    ("spec", "said"), [(LocationSpec("h3"), "kind 'h3'"), (LocationSpec("xyz", {"r_min": 1.0}), "r_min")]
)
def test_unknown_kind_or_option_is_refused(spec, said):
    with pytest.raises(SpecError, match=said):
        LocationEncoder(spec)


def test_position_has_unit_length_and_no_seam():
    """Pitfalls 3 and 4, for the fixed features beside the learnt ones."""
    places = sample_sphere(100, torch.Generator().manual_seed(4))
    position = Position(32)
    assert position(places).shape == (100, 32)
    torch.testing.assert_close(position(places).norm(dim=1), torch.ones(100), atol=1e-6, rtol=0)
    ends = position(points([-180, 20], [180, 20], [0, 90], [123, 90]))
    torch.testing.assert_close(ends[0::2], ends[1::2], atol=1e-6, rtol=0)
    assert not list(position.parameters())
    for width in (0, 2, 6):
        with pytest.raises(SpecError, match="multiple of 4"):
            Position(width)


def test_fixed_features_do_not_hang_on_the_random_state():
    torch.manual_seed(1)
    first = Position(8).frequencies, SphereRFF().frequencies
    torch.manual_seed(2)
    second = Position(8).frequencies, SphereRFF().frequencies
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_places_drawn_from_the_sphere_are_uniform():
    """Pitfall 5: sin(lat) uniform, quadrants equal, 13.4 % beyond 60 degrees."""
    lon, lat = sample_sphere(100_000, torch.Generator().manual_seed(0)).numpy().T
    assert stats.kstest(np.sin(np.radians(lat)), stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert stats.kstest(lon, stats.uniform(-180, 360).cdf).pvalue > 0.01
    for east in (lon > 0, lon < 0):
        for north in (lat > 0, lat < 0):
            assert (east & north).mean() == pytest.approx(0.25, abs=0.01)
    assert (np.abs(lat) > 60).mean() == pytest.approx(1 - math.sqrt(3) / 2, abs=0.005)
