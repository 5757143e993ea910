"""The masked autoencoder: what is hidden, what is painted, where patches lie; encoding draws nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from train.encoders.mae import (
    AERIAL_PAPER,
    GROUND_PAPER,
    TINY,
    MaskedAutoencoder,
    Shown,
    Trunk,
    patchify,
    sincos_positions,
    take,
)
from train.errors import SpecError


def photos(n=4, seed=0, size=32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def model(config=TINY, seed=0):
    torch.manual_seed(seed)
    return MaskedAutoencoder(config)


def test_patches_are_cut_row_by_row():
    images = torch.arange(2 * 3 * 8 * 8.0).reshape(2, 3, 8, 8)
    found = patchify(images, 4).numpy()
    assert found.shape == (2, 4, 48)
    for token, (row, col) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        expected = images[:, :, row : row + 4, col : col + 4].reshape(2, 48).numpy()
        np.testing.assert_array_equal(found[:, token], expected)


def test_loss_is_the_mean_squared_error_of_hidden_patches_in_normalised_pixels():
    """Against NumPy, from the painted patches on; a change of a shown patch's target changes nothing."""
    network, images = model().train(), photos()
    shown = network.patches.shown(images)
    encoded = network.trunk(shown.tokens)
    painted = network.decoder(encoded, shown.ids).detach().numpy()
    mean, std = (np.array(v)[:, None, None] for v in (TINY.mean, TINY.std))
    normalised = (images.numpy() - mean) / std
    total, count = 0.0, 0
    for n in range(4):
        for token in set(range(16)) - set(shown.ids[n].tolist()):
            row, col = divmod(token, 4)
            patch = normalised[n, :, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8].reshape(-1)
            total, count = total + ((painted[n, token] - patch) ** 2).sum(), count + patch.size
    assert count == 4 * 12 * 192
    assert network.decoder.loss(encoded, shown).item() == pytest.approx(total / count, abs=1e-5)
    other = shown.target.clone().scatter(1, shown.ids[:, :, None].expand(-1, -1, 192), 99.0)
    changed = Shown(shown.tokens, shown.ids, other)
    assert torch.equal(network.decoder.loss(encoded, shown), network.decoder.loss(encoded, changed))


def test_what_is_hidden_never_reaches_the_encoder():
    network, images = model().train(), photos(1)
    torch.manual_seed(3)
    ids = network.patches.shown(images).ids[0].tolist()
    other = images.clone()
    for token in set(range(16)) - set(ids):
        row, col = divmod(token, 4)
        other[:, :, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8] = 0
    found = []
    for batch in (images, other):
        torch.manual_seed(3)
        found.append(network(batch)[0])
    assert torch.equal(*found)


def test_each_image_hides_patches_of_its_own_in_training_and_the_same_in_evaluation():
    network, images = model(), photos(64)
    first = network.train().patches.shown(images).ids
    assert first.shape == (64, 4)
    assert len({tuple(sorted(row.tolist())) for row in first}) > 50
    counts = torch.bincount(first.flatten(), minlength=16)
    assert int(counts.min()) > 0  # every place is shown now and then
    assert not torch.equal(first, network.patches.shown(images).ids)
    assert all(len(set(row.tolist())) == 4 for row in first)
    watched = network.eval().patches.shown(images).ids
    assert torch.equal(watched, watched[:1].expand(64, 4))
    assert torch.equal(network(images)[1], network(images)[1])


def test_encoding_draws_nothing_and_does_not_depend_on_the_batch():
    """Pitfall 6, and defect 2 of BirdSAT: there equal calls give other vectors, as tokens are shuffled."""
    network, images = model().eval(), photos(6)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    whole = network.encode(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(whole, network.encode(images))
    assert torch.equal(whole, network.train().encode(images))  # no dropout either
    alone = torch.cat([network.encode(image[None]) for image in images])
    assert torch.allclose(whole, alone, atol=1e-5)
    assert torch.allclose(whole.norm(dim=1), torch.ones(6), atol=1e-6)


def test_order_of_shown_patches_does_not_matter_because_their_positions_come_along():
    network, images = model().eval(), photos(2)
    tokens = network.patches(images)
    shuffled = tokens[:, torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    assert torch.allclose(network.trunk(tokens)[:, 0], network.trunk(shuffled)[:, 0], atol=1e-5)


def test_positions_are_really_used():
    """Defect 1 of BirdSAT: there the joint model's are zero, so that a shuffled image encodes the same."""
    network, images = model().eval(), photos(2)
    left, right = images[..., :16], images[..., 16:]
    swapped = torch.cat([right, left], dim=3)  # whole patches change places
    assert (network.encode(images) - network.encode(swapped)).norm().item() > 0.01
    network.patches.positions.zero_()
    assert torch.allclose(network.encode(images), network.encode(swapped), atol=1e-5)
    painted = network.decoder(
        network.trunk(network.patches(images)[:, :1]), torch.zeros(2, 1, dtype=torch.int64)
    )
    assert (
        painted[:, 3] - painted[:, 9]
    ).abs().max().item() > 1e-3  # hidden patches differ by position alone


def test_positions_tell_all_places_apart_and_treat_rows_as_columns():
    positions = sincos_positions(12, 768)
    assert positions.shape == (144, 768)
    gram = positions @ positions.T
    assert torch.equal(gram.argmax(dim=1), torch.arange(144))
    grid = gram[0].reshape(12, 12)
    assert torch.allclose(grid, grid.T, atol=1e-3)
    row, rate = 5, 10000.0 ** -(np.arange(192) / 192)
    expected = np.concatenate([np.sin(row * rate), np.cos(row * rate)])
    np.testing.assert_allclose(positions[12 * row + 2, :384], expected, atol=1e-6)


def test_blocks_share_no_weights():
    """Pitfall 20: repeating a list of layers repeats the layer itself."""
    trunk = Trunk(64, 6, 4)
    one = 12 * 64**2 + 13 * 64  # attention 4 d^2 + 4 d, perceptron 8 d^2 + 5 d, two norms 4 d
    assert sum(p.numel() for p in trunk.parameters()) == 6 * one + 3 * 64
    assert len({id(p) for block in trunk.blocks for p in block.parameters()}) == 6 * 12
    assert len({p.data_ptr() for p in trunk.parameters()}) == len(list(trunk.parameters()))


def test_paper_presets_are_those_of_the_paper():
    assert (GROUND_PAPER.size, GROUND_PAPER.patch, GROUND_PAPER.tokens, GROUND_PAPER.kept) == (
        384,
        32,
        144,
        36,
    )
    assert (AERIAL_PAPER.size, AERIAL_PAPER.patch, AERIAL_PAPER.tokens) == (224, 16, 196)
    for config in (GROUND_PAPER, AERIAL_PAPER):
        assert (config.dim, config.depth, config.heads, config.mask_ratio) == (768, 12, 12, 0.75)
        assert (config.decoder_dim, config.decoder_depth, config.decoder_heads) == (512, 8, 16)
    with torch.device("meta"):
        millions = sum(p.numel() for p in Trunk(768, 12, 12).parameters()) / 1e6
    assert 84 < millions < 86


def test_every_parameter_learns():
    network = model().train()
    summary, loss = network(photos())
    (loss + summary.square().mean()).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert silent == []


def test_painting_is_learnt():
    """Images of one colour: what is hidden follows from what is shown."""
    network = model().train()
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (64, 3, 1, 1), generator=generator).expand(-1, -1, 32, 32).float()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    first = network(colours)[1].item()
    for _ in range(60):
        optimiser.zero_grad()
        loss = network(colours)[1]
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * first


def test_a_frozen_autoencoder_stays_in_evaluation_mode():
    owner = nn.Sequential(model().frozen()).train()
    assert not any(m.training for m in owner[0].modules())
    assert not any(p.requires_grad for p in owner.parameters())


def test_tokens_are_taken_by_their_places():
    tokens = torch.randn(2, 5, 3)
    ids = torch.tensor([[4, 0], [2, 2]])
    assert torch.equal(take(tokens, ids)[0], tokens[0, [4, 0]])
    assert torch.equal(take(tokens, ids)[1], tokens[1, [2, 2]])


@pytest.mark.parametrize(
    "changes",
    [
        {"patch": 5},
        {"patch": 64},
        {"dim": 66},
        {"heads": 5},
        {"decoder_dim": 30},
        {"mask_ratio": 0.0},
        {"mask_ratio": 1.0},
        {"patch": 32},
    ],
)
def test_autoencoders_that_cannot_be_are_refused(changes):
    with pytest.raises(SpecError, match="cannot build a masked autoencoder"):
        replace(TINY, **changes)


def test_half_precision_paints_the_same_loss():
    network, images = model().eval(), photos()
    with torch.autocast("cpu", torch.bfloat16):
        summary, loss = network(images)
    assert summary.dtype == loss.dtype == torch.float32
    assert loss.item() == pytest.approx(network(images)[1].item(), rel=0.02)
