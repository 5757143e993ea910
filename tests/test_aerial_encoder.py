"""The aerial encoder: window statistics against plain loops, and chip by chip against dense."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from train.encoders.aerial import AerialEncoder, ContextNet, Pixels, context_width, stage_halo
from train.errors import SpecError
from train.spec import AerialSpec, ChipSpec

SPEC = AerialSpec(channels=4, depth=2, kernel=3, hidden=16, dim=8)
LEVEL = ChipSpec(1000.0, (0, 1, 3), stage_halo(2, 3), 2, (100.0, 50.0), (40.0, 20.0))
EPSILON = 1e-4  # added to the variance


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return ContextNet(SPEC, LEVEL).eval()


def picture(seed, height, width, n=1):
    """Values around the means and a mask with a hole, an invalid corner and single missing pixels."""
    rng = np.random.default_rng(seed)
    image = rng.normal([[[100.0]], [[50.0]]], [[[40.0]], [[20.0]]], (n, 2, height, width)).astype(np.float32)
    valid = rng.random((n, height, width)) > 0.1
    valid[:, : height // 2, : width // 3] = False
    return torch.from_numpy(image), torch.from_numpy(valid)


def by_loops(net, image, valid):
    """Statistics of every interior pixel, one window at a time, from the backbone's own features."""
    ok, margin = valid[0].numpy(), net.level.margin
    mean, std = (np.array(v)[:, None, None] for v in (net.level.mean, net.level.std))
    bands = np.where(ok, (image[0].numpy() - mean) / std, 0.0)
    with torch.no_grad():
        features = net.backbone(torch.from_numpy(bands.astype(np.float32))[None])[0][0].numpy()
    layers = np.concatenate([bands, features]).astype(np.float64)
    _, height, width = layers.shape
    result = np.empty((net.dim, height - 2 * margin, width - 2 * margin))
    for row in range(result.shape[1]):
        for col in range(result.shape[2]):
            numbers = []
            for radius in net.level.windows:
                top, left, side = row + margin - radius, col + margin - radius, 2 * radius + 1
                seen = ok[top : top + side, left : left + side]
                window = layers[:, top : top + side, left : left + side][:, seen]
                empty = np.zeros(len(layers))
                numbers.append(window.mean(axis=1) if seen.any() else empty)
                if radius:
                    numbers.append(np.sqrt((window.var(axis=1) if seen.any() else empty) + EPSILON))
            result[:, row, col] = np.concatenate(numbers)
    return result


def test_statistics_are_those_of_plain_loops(net):
    """Pitfall 21: bands are normalised once, with the mean and deviation of the specification."""
    image, valid = picture(0, 21, 17)
    with torch.no_grad():
        found = net(image, valid)[0].numpy()
    np.testing.assert_allclose(found, by_loops(net, image, valid), atol=2e-5)
    assert found.shape == (net.dim, 21 - 2 * LEVEL.margin, 17 - 2 * LEVEL.margin)
    assert found.dtype == np.float32


def test_width_counts_no_deviation_for_a_single_pixel(net):
    assert context_width(SPEC, LEVEL) == net.dim == (4 + 2) * (1 + 2 + 2)


def test_a_band_at_its_mean_is_zero_and_one_deviation_above_is_one(net):
    """Pitfall 21: golden values; a second normalisation or none would show here."""
    image = torch.tensor([100.0 + 40.0, 50.0 - 20.0])[:, None, None].expand(2, LEVEL.pixels, LEVEL.pixels)
    with torch.no_grad():
        found = net(image[None], torch.ones(1, LEVEL.pixels, LEVEL.pixels, dtype=torch.bool))[0, :, 0, 0]
    means = [slice(start, start + 2) for start in (0, 6, 18)]  # of the two bands, in each window
    for part in means:
        torch.testing.assert_close(found[part], torch.tensor([1.0, -1.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[12:14], torch.tensor([0.01, 0.01]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("poison", [0.0, 1e9, float("nan"), float("inf")])
def test_pixels_without_imagery_weigh_nothing(net, poison):
    """Pitfall 11: whatever stands where imagery is missing, the result is the same to the last bit."""
    image, valid = picture(1, 20, 20)
    spoilt = torch.where(valid[:, None], image, torch.tensor(poison))
    with torch.no_grad():
        assert torch.equal(net(image, valid), net(spoilt, valid))


def test_a_window_without_imagery_has_no_mean_and_the_least_deviation(net):
    image, valid = picture(2, LEVEL.pixels, LEVEL.pixels)
    with torch.no_grad():
        found = net(image, torch.zeros_like(valid))[0, :, 0, 0]
    expected = torch.zeros(net.dim)
    expected[12:18] = expected[24:30] = 0.01
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)


def test_chip_by_chip_is_dense_and_some_pixels_are_all(net):
    """Pitfalls 6 and 13: a place has the same statistics however large the image it is encoded in."""
    image, valid = picture(3, 24, 30)
    side, (rows, cols) = LEVEL.pixels, (24 - LEVEL.pixels + 1, 30 - LEVEL.pixels + 1)
    places = [(row, col) for row in range(rows) for col in range(cols)]
    chips = torch.stack([image[0, :, r : r + side, c : c + side] for r, c in places])
    masks = torch.stack([valid[0, r : r + side, c : c + side] for r, c in places])
    where = Pixels(*torch.tensor(places).T)
    with torch.no_grad():
        dense = net(image, valid)[0].flatten(1).T
        alone = net(chips, masks)[:, :, 0, 0]
        some = net(image, valid, where)[0].T
    torch.testing.assert_close(alone, dense, atol=1e-5, rtol=0)
    assert torch.equal(some, dense)


def test_even_where_the_land_is_all_alike(net):
    """The deviation of equal pixels far from the mean is a small difference of large numbers."""
    side = LEVEL.pixels
    image = torch.full((1, 2, side + 2, side + 2), 255.0)
    valid = torch.ones(1, side + 2, side + 2, dtype=torch.bool)
    with torch.no_grad():
        dense = net(image, valid)[0]
        alone = net(image[..., :side, :side], valid[..., :side, :side])[0, :, 0, 0]
    np.testing.assert_allclose(dense.numpy(), by_loops(net, image, valid), atol=1e-5)
    torch.testing.assert_close(alone, dense[:, 0, 0], atol=1e-6, rtol=0)


def test_no_padding_is_seen(net):
    """What lies just outside a chip changes nothing: its halo is thrown away."""
    image, valid = picture(4, LEVEL.pixels + 4, LEVEL.pixels + 4)
    inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    other = image + 1000.0
    other[inside] = image[inside]
    with torch.no_grad():
        first, second = net(image, valid)[..., 2, 2], net(other, valid)[..., 2, 2]
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_the_halo_is_as_wide_as_the_convolutions_see():
    assert (stage_halo(2, 5), stage_halo(1, 7), stage_halo(0, 3)) == (4, 3, 0)
    torch.manual_seed(0)
    deep = AerialSpec(channels=4, depth=1, kernel=7, hidden=8, dim=4)
    net = ContextNet(deep, replace(LEVEL, windows=(0,), halo=3)).eval()
    image, valid = picture(5, 13, 13)
    image.requires_grad_()
    net(image, torch.ones_like(valid))[0, :, 3, 3].sum().backward()
    rows, cols = np.nonzero(image.grad[0].abs().sum(dim=0).numpy())
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (3, 9, 3, 9)


@pytest.mark.parametrize(
    ("spec", "level", "said"),
    [
        (SPEC, replace(LEVEL, halo=1), "halo 1, backbone halo 2"),
        (replace(SPEC, backbone="no_such_net"), LEVEL, "no_such_net"),
        (replace(SPEC, backbone="resnet18"), LEVEL, "ConvNeXt"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(spec, level, said):
    with pytest.raises(SpecError, match=said):
        ContextNet(spec, level)


def test_bands_may_be_many():
    four = replace(LEVEL, bands=4, mean=(1.0,) * 4, std=(2.0,) * 4)
    net = ContextNet(SPEC, four).eval()
    image, valid = torch.rand(2, 4, LEVEL.pixels, LEVEL.pixels), picture(0, LEVEL.pixels, LEVEL.pixels, 2)[1]
    assert net(image, valid).shape == (2, (4 + 4) * 5, 1, 1)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    coarse = replace(LEVEL, metres_per_pixel=8000.0, windows=(1, 2))
    return AerialEncoder(replace(SPEC, levels=(LEVEL, coarse)))


def batch(encoder, n):
    pairs = [picture(k, net.level.pixels, net.level.pixels, n) for k, net in enumerate(encoder.contexts)]
    return [image for image, _ in pairs], [valid for _, valid in pairs]


def test_embedding_has_unit_length_and_does_not_hang_on_the_batch(encoder):
    """Pitfall 6: in evaluation neither dropout nor the batch's own statistics play a part."""
    chips, valid = batch(encoder, 12)
    encoder.eval()
    with torch.no_grad():
        whole = encoder(chips, valid)
        rows = [slice(k, k + 1) for k in range(4)]
        single = torch.cat([encoder([c[row] for c in chips], [v[row] for v in valid]) for row in rows])
        assert torch.equal(encoder(chips, valid), whole)
    assert whole.shape == (12, 8)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(12), atol=1e-6, rtol=0)
    torch.testing.assert_close(single, whole[:4], atol=1e-5, rtol=0)


def test_evaluation_changes_no_buffer_and_training_standardises(encoder):
    """Pitfall 7: the running statistics move while training and only then."""
    chips, valid = batch(encoder, 12)
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    encoder.eval()(chips, valid)
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
    encoder.train()(chips, valid)
    assert not torch.equal(encoder.norm.running_mean, before["norm.running_mean"])
    assert torch.equal(encoder.contexts[0].mean, before["contexts.0.mean"])


def test_chips_are_left_alone(encoder):
    """Pitfall 10."""
    chips, valid = batch(encoder, 3)
    before = [each.clone() for each in (*chips, *valid)]
    encoder.eval()(chips, valid)
    assert all(torch.equal(now, then) for now, then in zip((*chips, *valid), before, strict=True))


def test_every_scale_has_weights_of_its_own(encoder):
    """Pitfall 20."""
    tensors = list(encoder.parameters())
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
    first, second = (sum(p.numel() for p in net.parameters()) for net in encoder.contexts)
    assert first == second > 0


def test_gradients_reach_every_weight(encoder):
    chips, valid = batch(encoder, 12)
    encoder.train()(chips, valid)[:, 0].sum().backward()
    reached = {name for name, p in encoder.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert reached == {name for name, _ in encoder.named_parameters()}


def test_a_missing_scale_is_an_error(encoder):
    chips, valid = batch(encoder, 2)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        encoder(chips[:1], valid)
