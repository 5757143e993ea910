"""CRISP against NumPy, that both towers learn, and what sharing a tile or a species does."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from train.errors import SpecError
from train.objectives.contrast import INITIAL_LOG_SCALE
from train.objectives.crisp import PROTOTYPE, RECOMMENDED, TINY, Crisp, CrispConfig
from train.objectives.paired import ContrastConfig
from train.settings import from_table


def pairs(n, seed=0, torn=False):
    """Photos and chips that show one cause each: four colours, and other colours that follow from them."""
    generator = torch.Generator().manual_seed(seed)
    cause = torch.rand(n, 6, generator=generator)
    mix = torch.randn(6, 6, generator=torch.Generator().manual_seed(99))
    seen = torch.sigmoid(2.0 * (cause - 0.5) @ mix)
    ground = cause.reshape(n, 3, 1, 2).repeat_interleave(16, dim=3).expand(n, 3, 32, 32)
    aerial = seen.reshape(n, 3, 2, 1).repeat_interleave(16, dim=2).expand(n, 3, 32, 32)
    noise = torch.rand(2, n, 3, 32, 32, generator=generator) * 0.1
    ground, aerial = (
        ((x + e) / 1.1 * 255).to(torch.uint8) for x, e in zip((ground, aerial), noise, strict=True)
    )
    rows = torch.arange(n)
    order = torch.randperm(n, generator=generator) if torn else rows
    return {
        "ground": ground,
        "aerial": aerial[order],
        "tile": rows,
        "label": torch.full((n,), -1),
        "row": rows,
    }


def model(config=TINY, seed=0):
    torch.manual_seed(seed)
    return Crisp(config)


def learn(batch, steps, config=TINY):
    """A model trained on random rows of a batch of pairs."""
    network = model(config).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    n = len(batch["row"])
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1.0 - step / steps)
        rows = torch.randperm(n)[:32]
        optimiser.zero_grad()
        network({name: value[rows] for name, value in batch.items()})["loss"].backward()
        optimiser.step()
    return network.eval()


@lru_cache(maxsize=1)
def by_heart():
    """A model that has learnt 32 pairs; not to be changed."""
    return learn(pairs(32), 35)


@torch.no_grad()
def recall(network, batch):
    """R@1: share of photos whose best match among the chips is their own."""
    ground, aerial = (network.encode(name, batch) for name in ("ground", "aerial"))
    return float(((ground @ aerial.T).argmax(dim=1) == torch.arange(len(ground))).float().mean())


def reference(ground, aerial, scale, same=None, use="mask"):
    """Symmetric InfoNCE with what shares a tile masked out or positive; methods section 2.2, written out."""
    logits, n = scale * ground @ aerial.T, len(ground)
    same = np.eye(n, dtype=bool) if same is None else same
    losses = []
    for table, alike in ((logits, same), (logits.T, same.T)):
        for i in range(n):
            positive = alike[i] if use == "positives" else np.arange(n) == i
            candidates = ~alike[i] | (np.arange(n) == i) if use == "mask" else np.ones(n, dtype=bool)
            losses.append(
                np.log(np.exp(table[i, candidates]).sum()) - np.log(np.exp(table[i, positive]).sum())
            )
    return float(np.mean(losses))


@pytest.mark.parametrize("use", ["negatives", "mask", "positives"])
def test_loss_is_that_of_the_reference(use):
    network = model(replace(TINY, contrast=ContrastConfig(same=use, same_species=True))).eval()
    batch = pairs(8)
    batch["tile"] = torch.tensor([0, 0, 1, 2, 3, 3, 3, -1])
    batch["label"] = torch.tensor([5, 6, 5, -1, -1, 7, 8, 9])
    tile, label = batch["tile"].numpy(), batch["label"].numpy()
    same = np.eye(8, dtype=bool)
    for group in (tile, label):
        same |= (group[:, None] == group[None]) & (group[:, None] >= 0)
    views = [network.encode(name, batch).detach().numpy().astype(float) for name in ("ground", "aerial")]
    expected = reference(*views, 1 / 0.07, same, use)
    losses = network(batch)
    assert losses["loss"].item() == pytest.approx(expected, abs=1e-5)
    assert losses["contrast"].item() == losses["loss"].item()


def test_photos_of_one_tile_are_not_each_others_negatives():
    """Pitfall 17: with a tile twice in the batch, the loss with the mask is smaller than without."""
    batch = pairs(8)
    batch["aerial"][4:], batch["tile"] = batch["aerial"][:4].clone(), torch.arange(8) % 4
    losses = {
        use: model(replace(TINY, contrast=ContrastConfig(same=use))).eval()(batch)["loss"].item()
        for use in ("negatives", "mask", "positives")
    }
    assert losses["mask"] < losses["negatives"] - 0.1
    assert losses["positives"] < losses["negatives"] - 0.1


def test_species_count_only_where_asked():
    batch = pairs(8)
    batch["label"] = torch.arange(8) % 2
    blind, told = (
        model(replace(TINY, contrast=ContrastConfig(same_species=asked))).eval()(batch)["loss"].item()
        for asked in (False, True)
    )
    assert told < blind
    batch["label"] = torch.full((8,), -1)
    assert model().eval()(batch)["loss"].item() == pytest.approx(blind)


def test_gradients_reach_every_parameter():
    """Pitfall 16 among them: the temperature has a gradient."""
    assert model().contrast.scale.value.item() == pytest.approx(INITIAL_LOG_SCALE)
    network = learn(pairs(32), 2).train()  # residual branches start at zero and open in the first steps
    network.zero_grad()
    network(pairs(8))["loss"].backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert silent == []


def test_towers_share_nothing():
    """Pitfall 20."""
    network = model()
    ours, theirs = ({p.data_ptr() for p in tower.parameters()} for tower in (network.ground, network.aerial))
    assert not ours & theirs
    assert len(ours) == len(list(network.ground.parameters()))


def test_equal_calls_give_equal_vectors_in_any_batch():
    """Pitfall 6."""
    network, batch = model().eval(), pairs(6)
    for name in ("ground", "aerial"):
        whole = network.encode(name, batch)
        assert torch.equal(whole, network.encode(name, batch))
        alone = torch.cat([network.encode(name, {name: batch[name][i : i + 1]}) for i in range(6)])
        assert torch.allclose(whole, alone, atol=1e-5)
        assert network.features(name, batch).shape == (6, 96)


def test_thirty_two_pairs_are_learnt_by_heart():
    batch = pairs(32)
    assert recall(model().eval(), batch) < 0.3
    assert recall(by_heart(), batch) > 0.95


def test_held_out_pairs_are_found_and_stay_at_chance_where_pairs_were_torn_apart():
    held = pairs(200, seed=1)  # chance is 1 in 200
    assert recall(learn(pairs(128), 35), held) > 0.08
    assert recall(learn(pairs(128, torn=True), 35), held) < 0.03


def test_each_view_counts():
    """A view put out leaves the other's embedding as it was, and the loss at that of no information."""
    network, batch = by_heart(), pairs(32)
    loss = network(batch)["loss"].item()
    for name, other in (("ground", "aerial"), ("aerial", "ground")):
        dark = {**batch, name: torch.zeros_like(batch[name])}
        assert torch.equal(network.encode(other, dark), network.encode(other, batch))
        assert network(dark)["loss"].item() > max(loss + 1.0, np.log(32) - 1e-4)


def test_presets_are_built_and_read_from_tables():
    assert RECOMMENDED.contrast.same == "mask"
    assert PROTOTYPE.contrast.same == "negatives"
    assert (PROTOTYPE.ground.backbone, PROTOTYPE.ground.dim, PROTOTYPE.ground.size) == ("resnet18", 512, 256)
    for preset in (RECOMMENDED, PROTOTYPE, TINY):
        assert from_table(CrispConfig, asdict(preset), "model") == preset
    assert Crisp.views == ("ground", "aerial")


def test_the_prototype_normalises_photos_as_published():
    network, photos = Crisp(PROTOTYPE), pairs(1)["ground"]
    seen = network.ground.normalise(photos)
    assert seen.shape == (1, 3, 256, 256)
    assert 0.0 <= float(seen.min()) <= float(seen.max()) <= 1.0


def test_what_cannot_be_is_refused():
    with pytest.raises(SpecError, match="widths 64 and 32"):
        CrispConfig(ground=TINY.ground, aerial=replace(TINY.aerial, dim=32))
    with pytest.raises(SpecError, match="widths 96 and 64"):
        model(replace(TINY, ground=replace(TINY.ground, dim=0)))
    with pytest.raises(SpecError, match="Use one of: ground, aerial"):
        model().encode("lonlat", pairs(2))
    with pytest.raises(SpecError, match="cannot encode the view 'aerial'"):
        model()({"ground": pairs(2)["ground"]})
    with pytest.raises(SpecError, match="scale 101"):
        ContrastConfig(scale=101.0)
    with pytest.raises(SpecError, match="Use negatives, mask or positives"):
        ContrastConfig(same="some")
    broken = pairs(4)
    broken["aerial"] = broken["aerial"].float()
    broken["aerial"][2, 1, 0, 0] = torch.nan
    with pytest.raises(SpecError, match="not finite"):
        model()(broken)


def test_half_precision_gives_the_same_loss():
    network, batch = model().eval(), pairs(16)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(batch)["loss"]
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(network(batch)["loss"].item(), abs=0.05)
