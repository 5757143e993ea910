"""Location encodings: golden values, seams, poles, and the network on top."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from train.encoders import positional
from train.encoders.location import ENCODINGS, PUBLISHED, LocationEncoder, Position
from train.encoders.networks import NETWORKS, Sine
from train.encoders.pair import default_card, load_encoders
from train.encoders.positional import Encoding, Grid, SphereRFF, Theory, Wrap, unit_vector
from train.encoders.sphere2vec import SphereC, SphereCPlus, SphereM, SphereMPlus
from train.errors import SpecError
from train.sampling import sample_sphere
from train.spec import EncoderCard, LocationSpec

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


PLACES = [[0.0, 0.0], [90.0, 45.0], SACRAMENTO]


def sphere2vec(kind, scales):
    """(3, features, scales): the formulas of the paper at `PLACES`, degrees divided before radians."""
    lam, phi = np.radians(PLACES).T[:, :, None]
    lam_s, phi_s = np.radians(np.array(PLACES).T[:, :, None] / scales)
    sin, cos = np.sin, np.cos
    c = [sin(phi_s), cos(phi_s) * cos(lam_s), cos(phi_s) * sin(lam_s)]
    m = [
        sin(phi_s),
        cos(phi_s) * cos(lam),
        cos(phi) * cos(lam_s),
        cos(phi_s) * sin(lam),
        cos(phi) * sin(lam_s),
    ]
    features = {
        "c": c,
        "m": m,
        "c_plus": [sin(phi_s), cos(phi_s), sin(lam_s), cos(lam_s), *c[1:]],
        "m_plus": [*m, cos(phi_s), sin(lam_s), cos(lam_s)],
    }
    return np.stack(features[kind], axis=1)


@pytest.mark.parametrize(
    ("encoding", "kind"), [(SphereC, "c"), (SphereM, "m"), (SphereCPlus, "c_plus"), (SphereMPlus, "m_plus")]
)
def test_golden_vectors_of_sphere2vec(encoding, kind):
    """Pitfall 2, defect 5.3: at our scales 1, 1/2, 1/3 and at the published geometric ones."""
    features = {"c": 3, "m": 5, "c_plus": 6, "m_plus": 8}[kind]
    for options, scales in (
        ({"count": 3}, 1 / np.arange(1, 4)),
        ({"count": 4, "r_min": 0.001, "r_max": 1.0}, np.geomspace(0.001, 1, 4)),
    ):
        found = encoding(**options)
        assert found.dim == features * len(scales)
        expected = sphere2vec(kind, scales).reshape(3, -1)
        np.testing.assert_allclose(found(points(*PLACES)), expected, atol=1e-9)


def test_golden_vectors_of_theory():
    """Pitfall 2: three directions 120 degrees apart, degrees / scale, no radians (defect 4.6.4)."""
    directions = np.array([[1, 0], [-0.5, math.sqrt(3) / 2], [-0.5, -math.sqrt(3) / 2]])
    phase = ((np.array(PLACES) @ directions.T)[:, :, None] / [90.0, 180.0, 360.0]).reshape(3, 9)
    np.testing.assert_allclose(
        Theory(90.0, 360.0, 3)(points(*PLACES)), np.hstack([np.sin(phase), np.cos(phase)]), atol=1e-13
    )


def test_published_grid_reaches_from_r_min_to_r_max():
    """32 scales, geometric: waves of 2 pi r_min to 2 pi 360 degrees; a full wave further, the same value."""
    grid = Grid(0.01, 360.0, 32)
    np.testing.assert_allclose(grid.scales, np.geomspace(0.01, 360.0, 32), rtol=1e-12)
    assert grid.dim == 128
    shortest = grid(points([10.0, 40.0], [10.0 + 2 * math.pi * 0.01, 40.0]))[:, [0, 64]]  # sin and cos of lon
    torch.testing.assert_close(shortest[0], shortest[1], atol=1e-9, rtol=0)


def test_wrap_as_published_is_there_on_request():
    """Pitfall 4: sin and cos of twice the latitude, so both poles get one code; ours keeps them apart."""
    published = Wrap(doubled=1)
    lam, phi = np.radians(PLACES).T
    expected = np.stack([np.sin(lam), np.sin(2 * phi), np.cos(lam), np.cos(2 * phi)], axis=1)
    np.testing.assert_allclose(published(points(*PLACES)), expected, atol=1e-15)
    north, south = published(points([0, 90], [0, -90]))
    torch.testing.assert_close(north, south, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", sorted(ENCODINGS))
def test_width_is_what_it_says(kind):
    encoding = ENCODINGS[kind]()
    assert encoding(points(SACRAMENTO, [0, 0])).shape == (2, encoding.dim)


@pytest.mark.parametrize("kind", sorted(ENCODINGS))
def test_every_encoding_behaves_as_it_declares(kind):
    """Pitfalls 2 to 4: unit, antimeridian and poles of the table are those of the numbers."""
    encoding = ENCODINGS[kind]()
    assert isinstance(encoding, Encoding)
    assert encoding.unit == "degrees WGS 84, longitude first"
    lat = torch.linspace(-89, 89, 30, dtype=torch.float64)
    west, east = (torch.stack([torch.full_like(lat, lon), lat], 1) for lon in (-180, 180))
    seam = float((encoding(west) - encoding(east)).abs().max())
    assert (seam < 1e-6) == encoding.seamless
    assert encoding.seamless or seam > 0.1
    for pole in (-90.0, 90.0):
        encoded = encoding(points(*([lon, pole] for lon in (-180, -77, 0, 33, 179))))
        spread = float((encoded - encoded[:1]).abs().max())
        assert (spread < 1e-12) == encoding.one_pole
        assert encoding.one_pole or spread > 0.1
    rows = [line for line in (positional.__doc__ or "").splitlines() if line.startswith(f"| {kind} |")]
    assert len(rows) == 1, f"the table of train.encoders.positional lacks {kind}"
    said = [cell.strip() for cell in rows[0].strip("|").split("|")]
    assert said[3].startswith("periodic") == encoding.seamless
    assert said[4].startswith("independent") == encoding.one_pole


@pytest.mark.parametrize("kind", ["sphere_c", "sphere_m", "sphere_c_plus", "sphere_m_plus"])
def test_published_scales_of_sphere2vec_have_a_seam(kind):
    """Pitfall 3: geometric scales are not whole fractions of a turn, and the encoding knows."""
    encoding = ENCODINGS[kind](count=5, r_min=0.01)
    assert not encoding.seamless
    west, east = encoding(points([-180, 10], [180, 10]))
    assert float((west - east).abs().max()) > 0.1
    assert ENCODINGS[kind](count=5).seamless


def test_random_features_have_the_deviations_asked_for():
    frequencies = SphereRFF(1.0, 32.0, 6, 2000).frequencies.reshape(3, 6, 2000)
    np.testing.assert_allclose(frequencies.std(dim=(0, 2)), [1, 2, 4, 8, 16, 32], rtol=0.05)


@pytest.mark.parametrize("kind", [kind for kind in sorted(ENCODINGS) if ENCODINGS[kind]().seamless])
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


@pytest.mark.parametrize("kind", ["sh", "sphere_rff", "xyz"])
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
    ("spec", "said", "known"),
    [
        (LocationSpec("h3"), "kind 'h3'", sorted(ENCODINGS)),
        (LocationSpec("xyz", {"r_min": 1.0}), "option 'r_min' of xyz", ["none"]),
        (LocationSpec("grid", {"rmin": 1.0}), "option 'rmin' of grid", ["r_min", "r_max", "count"]),
        (LocationSpec("xyz", network="transformer"), "network 'transformer'", sorted(NETWORKS)),
        (LocationSpec("grid", {"count": "many"}), "count = 'many'", ["number"]),
        (LocationSpec("grid", {"count": 2.5}), "count = 2.5", ["whole number >= 1"]),
        (LocationSpec("grid", {"r_min": 0.0}), "scales from 0", ["0 < smallest"]),
        (LocationSpec("grid", {"r_min": 9.0, "r_max": 1.0}), "scales from 9.0 to 1.0", ["<= largest"]),
        (LocationSpec("wrap", {"doubled": 2}), "doubled = 2", ["<= 1"]),
        (LocationSpec("xyz", network="siren", blocks=0), "0 blocks", ["at least 1"]),
        (LocationSpec("xyz", network="fcnet", hidden=8, dim=4), "hidden 8 and dim 4", ["the same"]),
    ],
)
def test_unknown_kind_or_option_is_refused(spec, said, known):
    with pytest.raises(SpecError) as refusal:
        LocationEncoder(spec)
    assert said in refusal.value.found
    assert all(name in refusal.value.change for name in known)


@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("kind", sorted(ENCODINGS))
def test_every_encoding_takes_every_network(kind, network):
    """One factory; unit vectors, deterministic, and parameters of one's own in every layer (pitfall 20)."""
    encoder = LocationEncoder(LocationSpec(kind, hidden=8, blocks=3, dim=8, network=network), 0.5)
    parameters = list(encoder.parameters())
    assert len({parameter.data_ptr() for parameter in parameters}) == len(parameters)
    lonlat = sample_sphere(6, torch.Generator().manual_seed(0))
    encoder(lonlat)[:, 0].sum().backward()
    assert all(parameter.grad is not None for parameter in parameters)
    encoder.eval()
    with torch.no_grad():
        whole, alone = encoder(lonlat), torch.cat([encoder(place[None]) for place in lonlat])
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(6), atol=1e-6, rtol=0)


def layers(encoder):
    return [tuple(p.shape) for p in encoder.parameters() if p.ndim == 2]


def test_published_shapes():
    """Layers of the papers; a public SIREN-less head repeats one layer (defect 5.4), ours has its own."""
    prior = LocationEncoder(PUBLISHED["geo_prior"])
    assert layers(prior) == [(256, 4)] + [(256, 256)] * 8
    assert layers(LocationEncoder(PUBLISHED["space2vec-grid"])) == [(512, 128), (256, 512)]
    assert layers(LocationEncoder(PUBLISHED["space2vec-theory"])) == [(512, 192), (256, 512)]
    assert layers(LocationEncoder(PUBLISHED["satclip-l10"])) == [(256, 100), (256, 256), (256, 256)]
    assert layers(LocationEncoder(PUBLISHED["satclip-l40"])) == [(512, 1600), (512, 512), (256, 512)]


def weights(layer):
    return layer.weight.detach().numpy().T, layer.bias.detach().numpy()


def test_feed_forward_net_is_that_of_space2vec():
    """NumPy: linear, LeakyReLU(0.2), norm; a skip where widths agree; activation after the last layer too."""
    encoder = LocationEncoder(LocationSpec("xyz", hidden=6, blocks=2, dim=5, network="ffn")).eval()
    lonlat = points(*PLACES)
    x = unit_vector(lonlat).numpy()
    for number, stage in enumerate((encoder.enter, encoder.blocks[0], encoder.leave)):
        weight, bias = weights(stage.linear)
        out = x @ weight + bias
        out = np.where(out > 0, out, 0.2 * out)
        if number == 2:
            break
        out = out + x if number == 1 else out
        x = (out - out.mean(1, keepdims=True)) / np.sqrt(out.var(1, keepdims=True) + 1e-5)
    with torch.no_grad():
        np.testing.assert_allclose(encoder.embed(lonlat), out, atol=1e-5)


def test_siren_is_that_of_satclip():
    """NumPy: sin(30 linear), sin(linear), linear; weights within 1 / inputs, then sqrt(6 / width)."""
    torch.manual_seed(0)
    encoder = LocationEncoder(LocationSpec("xyz", hidden=64, blocks=2, dim=5, network="siren")).eval()
    lonlat = points(*PLACES)
    (w1, b1), (w2, b2) = weights(encoder.enter.linear), weights(encoder.blocks[0].linear)
    w3, b3 = weights(encoder.leave)
    expected = np.sin(np.sin(30 * (unit_vector(lonlat).numpy() @ w1 + b1)) @ w2 + b2) @ w3 + b3
    with torch.no_grad():
        np.testing.assert_allclose(encoder.embed(lonlat), expected, atol=1e-4)
    assert 0.3 < np.abs(w1).max() <= 1 / 3
    assert 0.9 * math.sqrt(6 / 64) < np.abs(w2).max() <= math.sqrt(6 / 64)
    assert np.abs(weights(Sine(64, 64, 30.0, False, 0.0).linear)[0]).max() <= math.sqrt(6 / 64) / 30


@pytest.mark.parametrize("kind", sorted(ENCODINGS))
def test_gradients_flow_through_the_encoding(kind):
    """Defect 4.6.7: no way through NumPy, so a place itself can be moved by gradients."""
    lonlat = points(SACRAMENTO, [10.0, 50.0]).requires_grad_()
    small(kind)(lonlat)[:, 0].sum().backward()
    assert bool((lonlat.grad.abs().sum(dim=1) > 0).all())


def test_normalised_coordinates_are_not_degrees():
    """Defect 4.6.10: [-1, 1] fed to an encoder of degrees is a place in the Gulf of Guinea."""
    for kind in ENCODINGS:
        right, wrong, gulf = ENCODINGS[kind]()(
            points(SACRAMENTO, [SACRAMENTO[0] / 180, SACRAMENTO[1] / 90], [-0.67, 0.43])
        )
        assert float((right - wrong).norm()) > 5 * float((gulf - wrong).norm())


def test_mixed_precision_stops_at_the_encoder():
    """In bfloat16 places 25 km apart would fall together."""
    encoder = small("grid")
    lonlat = sample_sphere(40, torch.Generator().manual_seed(5))
    with torch.no_grad():
        full = encoder(lonlat)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = encoder(lonlat)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, full)


def test_embedding_before_its_normalisation():
    encoder = small()
    lonlat = sample_sphere(5, torch.Generator().manual_seed(6))
    with torch.no_grad():
        raw = encoder.embed(lonlat)
        torch.testing.assert_close(raw / raw.norm(dim=1, keepdim=True), encoder(lonlat), atol=1e-6, rtol=0)
        torch.testing.assert_close(raw, encoder.leave(encoder.features(lonlat)), atol=0, rtol=0)
    assert encoder.dim == 8


def test_names_of_weights_are_those_of_shipped_checkpoints():
    names = set(LocationEncoder(LocationSpec("sphere_rff", blocks=1)).state_dict())
    assert names == {
        "encoding.frequencies",
        *(f"{part}.{kind}" for part in ("enter", "leave") for kind in ("weight", "bias")),
        *(f"blocks.0.{part}.{kind}" for part in ("inner", "outer") for kind in ("weight", "bias")),
    }
    for kind in ("grid", "sphere_c"):
        assert "encoding.scales" in LocationEncoder(LocationSpec(kind)).state_dict()


def test_shipped_encoders_keep_their_identity(repository):
    """Maps and heads name their encoders by a hash over card and weights; a new field must not change it."""
    shipped = load_encoders(repository / "geomap/bundle/encoders")
    heads = json.loads((repository / "geomap/bundle/heads/world-birds/card.json").read_text())
    assert shipped.hash == heads["encoder_hash"]


def test_network_is_on_the_card_when_it_was_chosen():
    card = default_card()
    assert "network" not in json.loads(card.to_json())["location"]
    chosen = replace(card, location=replace(card.location, network="siren"))
    assert json.loads(chosen.to_json())["location"]["network"] == "siren"
    assert EncoderCard.from_json(chosen.to_json()) == chosen
    assert EncoderCard.from_json(card.to_json()) == card


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
