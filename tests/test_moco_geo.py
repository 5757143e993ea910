"""MoCo-Geo against NumPy: its queue, its slow encoder, its clusters of places, and that it learns."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from train.encoders.image import ImageConfig
from train.errors import SpecError
from train.objectives.moco_geo import (
    PAPER,
    RECOMMENDED,
    TINY,
    MocoGeo,
    MocoGeoConfig,
    geo_clusters,
    nearest_cluster,
)
from train.objectives.paired import ContrastConfig
from train.settings import from_table

VIT = ImageConfig("test_vit", size=32, dim=64)
SMALL = replace(TINY, ground=VIT, aerial=VIT, queue=10)


class Places:
    """The part of a data set that `prepare` reads."""

    def __init__(self, lonlat):
        self.places = lonlat

    def lonlat(self):
        return self.places


def pairs(n, seed=0, torn=False):
    """Photos and chips of one cause each, which also says on which side of the equator they are."""
    generator = torch.Generator().manual_seed(seed)
    cause = torch.rand(n, 6, generator=generator)
    mix = torch.randn(6, 6, generator=torch.Generator().manual_seed(99))
    seen = torch.sigmoid(2.0 * (cause - 0.5) @ mix)
    ground = cause.reshape(n, 3, 1, 2).repeat_interleave(16, dim=3).expand(n, 3, 32, 32)
    aerial = seen.reshape(n, 3, 2, 1).repeat_interleave(16, dim=2).expand(n, 3, 32, 32)
    noise = torch.rand(2, n, 3, 32, 32, generator=generator) * 0.1
    both = zip((ground, aerial), noise, strict=True)
    ground, aerial = (((x + e) / 1.1 * 255).to(torch.uint8) for x, e in both)
    rows = torch.arange(n)
    order = torch.randperm(n, generator=generator) if torn else rows
    corner = torch.stack([torch.sign(cause[:, 0] - 0.5) * 60, torch.sign(cause[:, 1] - 0.5) * 40], dim=1)
    lonlat = corner.double() + torch.rand(n, 2, generator=generator, dtype=torch.float64)
    views = {"ground": ground, "aerial": aerial[order], "lonlat": lonlat}
    return {**views, "tile": rows, "label": torch.full((n,), -1), "row": rows}


def some(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


def model(config=SMALL, seed=0):
    torch.manual_seed(seed)
    network = MocoGeo(config)
    network.prepare(Places(pairs(64)["lonlat"]))
    return network


def learn(batch, steps, config):
    """A model trained on random rows of a batch of pairs."""
    network = model(config).train()
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=3e-3)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1.0 - step / steps)
        optimiser.zero_grad()
        network(some(batch, torch.randperm(len(batch["row"]))[:32]))["loss"].backward()
        optimiser.step()
    return network.eval()


@torch.no_grad()
def recall(network, batch):
    """R@1: share of photos whose best match among the chips is their own."""
    ground, aerial = (network.encode(name, batch) for name in ("ground", "aerial"))
    return float(((ground @ aerial.T).argmax(dim=1) == torch.arange(len(ground))).float().mean())


def reference(ground, aerial, others, scale, out):
    """Cross-entropy of the photo's own chip against the others that are not left out."""
    own = np.exp(scale * (ground * aerial).sum(axis=1))
    rest = np.where(out, 0.0, np.exp(scale * ground @ others.T)).sum(axis=1)
    return float(-np.log(own / (own + rest)).mean())


@pytest.mark.parametrize(("same", "scale"), [("negatives", 1.0), ("mask", 1 / 0.07)])
def test_loss_is_that_of_the_reference(same, scale):
    """Against NumPy, with a queue that is not yet full and holds chips of two of the photos' tiles."""
    network = model(replace(SMALL, contrast=ContrastConfig(scale=scale, same=same), geo_weight=0.5)).train()
    with torch.no_grad():
        network(some(pairs(64), range(7)))
    network.eval()
    batch = some(pairs(64), [5, 6, 20, 21])
    batch["lonlat"][3] = torch.nan
    batch["tile"][3] = batch["tile"][2]
    ground, aerial = (network.encode(name, batch).detach().numpy() for name in ("ground", "aerial"))
    queue, full = network.queue.numpy(), network.queue_full.numpy()
    assert full.sum() == 7
    out = np.broadcast_to(~full, (4, 10)).copy()
    alike = np.eye(4, dtype=bool)  # a photo's own chip is not among the others
    if same == "mask":
        out |= batch["tile"].numpy()[:, None] == network.queue_tile.numpy()
        assert out.sum() == 4 * 3 + 2
        alike[2:, 2:] = True
    losses = {name: value.item() for name, value in network(batch).items()}
    assert losses["queue"] == pytest.approx(
        reference(ground, aerial, np.vstack([aerial, queue]), scale, np.hstack([alike, out])), abs=1e-5
    )
    logits = network.cluster(network.ground.embed(batch["ground"])).detach().numpy()[:3]
    target = nearest_cluster(batch["lonlat"], network.centres).numpy()
    assert target[3] == -1
    geo = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(3), target[:3]])
    assert losses["geo"] == pytest.approx(geo, abs=1e-5)
    assert losses["loss"] == pytest.approx(losses["queue"] + 0.5 * geo, abs=1e-5)


def test_with_a_frozen_aerial_encoder_the_queue_alone_is_contrasted(tmp_path):
    """As published: while the queue is empty there is nothing to tell apart, then its chips are negatives."""
    path = tmp_path / "vit.safetensors"
    save_file(MocoGeo(SMALL).aerial.backbone.state_dict(), path)
    frozen = replace(VIT, freeze="all", weights=str(path), dim=0)
    network, batch = model(replace(SMALL, aerial=frozen, in_batch=False)).train(), some(pairs(64), range(8))
    assert network(batch)["queue"].item() == 0.0
    assert not any(m.training for m in [*network.aerial.modules(), *network.slow_aerial.modules()])
    batch = some(pairs(64), range(8, 12))
    with torch.no_grad():
        ground, aerial = (network.encode(name, batch).numpy() for name in ("ground", "aerial"))
        queue = network.queue[:8].numpy().copy()
        found = network(batch)["queue"].item()
    assert found == pytest.approx(reference(ground, aerial, queue, 1 / 0.07, np.zeros((4, 8))), abs=1e-5)


def test_a_queue_that_is_no_multiple_of_the_batch_works():
    """Defect 9 of BirdSAT: 10,000 % 308 fails there. Newest embeddings replace the oldest, one by one."""
    network, batch = model().train(), pairs(64)
    seen = []
    for start in range(0, 24, 4):
        with torch.no_grad():
            network(some(batch, range(start, start + 4)))
        seen += list(range(start, start + 4))
        assert sorted(network.queue_tile[network.queue_full].tolist()) == sorted(seen[-10:])
        assert int(network.next_place) == len(seen) % 10
    place = network.queue_tile.tolist().index(23)
    newest = network.slow_aerial.eval()(batch["aerial"][23:24])[0]
    assert torch.allclose(network.queue[place], newest, atol=1e-5)


def test_a_batch_larger_than_the_queue_leaves_its_last_rows():
    network = model().train()
    with torch.no_grad():
        network(some(pairs(64), range(23)))
    assert sorted(network.queue_tile.tolist()) == list(range(13, 23))


def test_the_slow_encoder_follows_by_its_momentum_and_learns_by_nothing_else():
    network, batch = model(replace(SMALL, momentum=0.9)).train(), some(pairs(64), range(8))
    for fast in network.aerial.parameters():
        fast.data.add_(1.0)
    before = [p.clone() for p in network.slow_aerial.parameters()]
    network(batch)["loss"].backward()
    for old, slow, fast in zip(
        before, network.slow_aerial.parameters(), network.aerial.parameters(), strict=True
    ):
        assert torch.allclose(slow, 0.9 * old + 0.1 * fast, atol=1e-6)
        assert slow.grad is None


def test_nothing_moves_outside_training():
    """Pitfalls 6 and 7: a validation loss leaves queue and slow encoder alone."""
    network, batch = model().train(), some(pairs(64), range(8))
    network(batch)
    network.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert network(batch)["loss"].item() == network(batch)["loss"].item()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_gradients_reach_every_parameter_that_learns():
    network = model().train()
    with torch.no_grad():
        network(some(pairs(64), range(8)))  # fills the queue
    network(some(pairs(64), range(8, 16)))["loss"].backward()
    silent = {n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())}
    assert silent == {n for n, _ in network.named_parameters() if n.startswith("slow_aerial.")}


def test_chips_of_the_photos_own_tile_or_species_are_left_out_of_the_queue():
    """Pitfall 17: the queue holds what was seen steps ago, the photo's own chip among it."""
    losses = {}
    for same, species in (("negatives", False), ("mask", False), ("mask", True)):
        network = model(replace(SMALL, contrast=ContrastConfig(same=same, same_species=species))).train()
        batch = some(pairs(64), range(8))
        batch["label"] = torch.arange(8) % 2
        with torch.no_grad():
            network(batch)
        losses[same, species] = network.eval()(batch)["queue"].item()
    assert losses["mask", True] < losses["mask", False] < losses["negatives", False] - 0.05


def test_clusters_of_places_are_found_on_the_sphere_across_the_antimeridian():
    rng = np.random.default_rng(0)
    middles = np.array([[179.5, 10.0], [0.0, -60.0], [90.0, 45.0]])
    places = np.concatenate([middle + rng.normal(0, 3, (40, 2)) for middle in middles])
    places[:, 0] = (places[:, 0] + 180) % 360 - 180
    lonlat = torch.from_numpy(np.vstack([places, [[np.nan, np.nan]]]))
    centres, cluster = geo_clusters(lonlat, 3)
    assert torch.allclose(centres.norm(dim=1), torch.ones(3, dtype=torch.float64))
    groups = [set(cluster[40 * k : 40 * k + 40].tolist()) for k in range(3)]
    assert sorted(map(len, groups)) == [1, 1, 1]
    assert len(set.union(*groups)) == 3
    assert cluster[-1] == -1
    # Lloyd's condition in NumPy: each centre is the mean of its places, brought to unit length.
    lon, lat = np.radians(places).T
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    for k in range(3):
        mean = points[cluster[:-1].numpy() == k].mean(axis=0)
        np.testing.assert_allclose(centres[k], mean / np.linalg.norm(mean), atol=1e-6)
    again = geo_clusters(lonlat, 3)
    assert torch.equal(again[0], centres)


def test_clusters_are_carried_by_the_weights():
    network = model()
    again = MocoGeo(SMALL)
    again.load_state_dict(network.state_dict())
    batch = some(pairs(64), range(4))
    assert again.eval()(batch)["loss"].item() == pytest.approx(network.eval()(batch)["loss"].item(), abs=1e-6)


def test_equal_calls_give_equal_vectors_in_any_batch():
    """Pitfall 6."""
    network, batch = model().eval(), pairs(6)
    for name in ("ground", "aerial"):
        whole = network.encode(name, batch)
        assert torch.equal(whole, network.encode(name, batch))
        alone = torch.cat([network.encode(name, some(batch, [i])) for i in range(6)])
        assert torch.allclose(whole, alone, atol=1e-5)
        assert network.features(name, batch).shape == (6, 64)


HEART = replace(TINY, queue=100, momentum=0.9)


@lru_cache(maxsize=1)
def by_heart():
    """A model that has learnt 32 pairs; not to be changed."""
    return learn(pairs(32), 40, HEART)


def test_thirty_two_pairs_are_learnt_by_heart():
    assert recall(model(HEART).eval(), pairs(32)) < 0.3
    assert recall(by_heart(), pairs(32)) > 0.95


def test_each_view_counts():
    network, batch = by_heart(), pairs(32)
    for name, other in (("ground", "aerial"), ("aerial", "ground")):
        dark = {**batch, name: torch.zeros_like(batch[name])}
        assert torch.equal(network.encode(other, dark), network.encode(other, batch))
        assert recall(network, dark) <= 1 / 16
    nowhere = {**batch, "lonlat": batch["lonlat"] * torch.nan}
    assert network(nowhere)["geo"].item() == 0.0
    assert network(nowhere)["queue"].item() == network(batch)["queue"].item()
    elsewhere = {**batch, "lonlat": -batch["lonlat"]}
    assert network(elsewhere)["geo"].item() > network(batch)["geo"].item() + 1.0


def test_held_out_pairs_are_found_and_stay_at_chance_where_pairs_were_torn_apart():
    held = pairs(200, seed=1)  # chance is 1 in 200
    assert recall(learn(pairs(128), 40, HEART), held) > 0.08
    assert recall(learn(pairs(128, torn=True), 40, HEART), held) < 0.03


def test_presets_are_read_from_tables_and_are_those_of_the_paper():
    for preset in (RECOMMENDED, PAPER, TINY):
        assert from_table(MocoGeoConfig, asdict(preset), "model") == preset
    assert (PAPER.queue, PAPER.clusters, PAPER.contrast.scale, PAPER.contrast.learn_scale) == (
        10_000,
        20,
        1.0,
        False,
    )
    assert RECOMMENDED.contrast.learn_scale


def test_what_cannot_be_is_refused():
    with pytest.raises(SpecError, match="widths 64 and 32"):
        replace(SMALL, aerial=replace(VIT, dim=32))
    with pytest.raises(SpecError, match="a queue alone lets a trained encoder collapse"):
        replace(SMALL, in_batch=False)
    with pytest.raises(SpecError, match="queue 0"):
        replace(SMALL, queue=0)
    with pytest.raises(SpecError, match="Use negatives or mask with a queue"):
        replace(SMALL, contrast=ContrastConfig(same="positives"))
    with pytest.raises(SpecError, match=r"Call prepare\(observations\)"):
        MocoGeo(SMALL)(pairs(4))
    with pytest.raises(SpecError, match="2 distinct places for 3 clusters"):
        geo_clusters(torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [torch.nan, 0.0]]), 3)
    with pytest.raises(SpecError, match="Give longitude, then latitude"):
        geo_clusters(torch.tensor([[37.0, -122.0], [1.0, 1.0]]), 2)
    with pytest.raises(SpecError, match="cannot encode the view 'lonlat'"):
        model()({name: pairs(4)[name] for name in ("ground", "aerial")})
    with pytest.raises(SpecError, match="Use one of: ground, aerial"):
        model().encode("lonlat", pairs(2))
