"""CVE-MAE and CVM-MAE against NumPy, that all of them learns, and what metadata and false pairs do."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from train.encoders.image import ImageConfig
from train.encoders.metadata import MetadataConfig
from train.errors import SpecError
from train.objectives import birdsat_cve as cve
from train.objectives import birdsat_cvm as cvm
from train.objectives.matching import hard_pairs, match_loss, rolled_pairs
from train.objectives.paired import ContrastConfig
from train.settings import from_table

# Without BatchNorm, embeddings are the same in training and evaluation, and no weight starts at zero.
CVE = replace(cve.TINY, aerial=ImageConfig("test_vit", size=32, dim=64))
CVM = cvm.TINY
MODELS = {"cve": (cve.CveMae, CVE), "cvm": (cvm.Cvm, CVM)}


def pairs(n, seed=0, torn=False):
    """Photos and chips of one cause each: six numbers, and six others that follow from them."""
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
    lonlat = torch.rand(n, 2, generator=generator, dtype=torch.float64) * 80.0
    date = torch.stack([torch.randint(1, 13, (n,)), torch.randint(1, 29, (n,))], dim=1).float()
    views = {"ground": ground, "aerial": aerial[order], "lonlat": lonlat, "date": date}
    return {**views, "tile": rows, "label": torch.full((n,), -1), "row": rows}


def some(batch, rows):
    return {name: value[rows] for name, value in batch.items()}


def model(kind, seed=0, **changes):
    torch.manual_seed(seed)
    cls, config = MODELS[kind]
    return cls(replace(config, **changes))


def learn(network, batch, steps, seed=0):
    """The model trained on random rows of a batch of pairs."""
    torch.manual_seed(seed)
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1.0 - step / steps)
        optimiser.zero_grad()
        network(some(batch, torch.randperm(len(batch["row"]))[:32]))["loss"].backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    return network.eval()


STEPS = {"cve": 30, "cvm": 40}
PRESETS = {"cve": cve.TINY, "cvm": cvm.TINY}


def fresh(kind):
    """The tiny preset of a recipe."""
    torch.manual_seed(0)
    return MODELS[kind][0](PRESETS[kind])


@lru_cache(maxsize=2)
def by_heart(kind):
    """A model that has learnt 32 pairs; not to be changed."""
    return learn(fresh(kind), pairs(32), STEPS[kind])


@torch.no_grad()
def recall(network, batch):
    """R@1: share of photos whose best match among the chips is their own."""
    ground, aerial = (network.encode(name, batch) for name in ("ground", "aerial"))
    return float(((ground @ aerial.T).argmax(dim=1) == torch.arange(len(ground))).float().mean())


def contrast_reference(ground, aerial, scale):
    """Symmetric InfoNCE, written out."""
    logits = scale * ground @ aerial.T
    rows = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    cols = np.log(np.exp(logits).sum(axis=0)) - np.diag(logits)
    return (rows.mean() + cols.mean()) / 2


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# -- CVE-MAE -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weight", "contrast"), [(0.3, cve.PAPER.contrast), (1.0, ContrastConfig())])
def test_cve_loss_is_that_of_the_reference(weight, contrast):
    """L = w * contrast + reconstruction; the paper's w is 0.3 and its cosines are bare (scale 1)."""
    network = model("cve", contrast=contrast, contrast_weight=weight, contrast_of="shown").eval()
    batch = pairs(6)
    shown, painted = network.ground(batch["ground"])
    aerial = network.aerial.embed(batch["aerial"]).detach().numpy()
    expected = contrast_reference(unit(shown.detach().numpy()), unit(aerial), contrast.scale)
    losses = {name: value.item() for name, value in network(batch).items()}
    assert losses["contrast"] == pytest.approx(expected, abs=1e-5)
    assert losses["reconstruction"] == pytest.approx(painted.item(), abs=1e-6)
    assert losses["loss"] == pytest.approx(weight * expected + painted.item(), abs=1e-5)


def test_papers_contrast_can_hardly_move():
    """Why we recommend a scale: bare cosines of 77 pairs lie between 2.42 and 4.34 (methods section 3.2)."""
    best = -np.log(np.exp(1) / (np.exp(1) + 76 * np.exp(-1 / 76)))
    assert contrast_reference(np.ones((77, 1)), np.ones((77, 1)), 1.0) == pytest.approx(np.log(77))
    simplex = unit(np.eye(77) - 1 / 77)
    assert contrast_reference(simplex, simplex, 1.0) == pytest.approx(best, abs=1e-6)
    assert contrast_reference(simplex, simplex, 1 / 0.07) < 1e-3


def test_the_whole_photo_is_contrasted_where_recommended():
    network = model("cve").eval()
    batch = pairs(6)
    views = [network.encode(name, batch).detach().numpy() for name in ("ground", "aerial")]
    expected = contrast_reference(*views, 1 / 0.07)
    assert network(batch)["contrast"].item() == pytest.approx(expected, abs=1e-4)


def test_cve_metadata_is_summed_before_unit_length():
    """v = normalise(aerial + W_g place + b_g + W_d date + b_d)."""
    network, batch = model("cve", meta=True).eval(), pairs(5)
    chips = network.aerial.embed(batch["aerial"]).detach().numpy()
    lon, lat = np.radians(batch["lonlat"].numpy()).T
    month, day = (batch["date"].numpy() * 2 * np.pi / np.array([12, 31])).T
    place = np.stack([np.sin(lat), np.cos(lat), np.sin(lon), np.cos(lon)], axis=1)
    date = np.stack([np.sin(month), np.cos(month), np.sin(day), np.cos(day)], axis=1)
    for vector, linear in ((place, network.metadata.location), (date, network.metadata.date)):
        chips = chips + vector @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    np.testing.assert_allclose(network.encode("aerial", batch).detach().numpy(), unit(chips), atol=1e-5)


def test_frozen_aerial_encoder_never_moves_and_a_trained_one_does(tmp_path):
    """Pitfall 7; frozen as published, with weights from a local file."""
    path = tmp_path / "vit.safetensors"
    save_file(model("cve").aerial.backbone.state_dict(), path)
    frozen = replace(CVE.aerial, freeze="all", weights=str(path), dim=0)
    for config, moves in ((frozen, False), (CVE.aerial, True)):
        network = model("cve", aerial=config)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        network.train()
        assert any(m.training for m in network.aerial.modules()) == moves
        optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
        network(pairs(8))["loss"].backward()
        optimiser.step()
        moved = {
            name.split(".")[0] for name, v in network.state_dict().items() if not torch.equal(v, before[name])
        }
        assert moved == {"ground", "contrast"} | ({"aerial"} if moves else set())


# -- CVM-MAE -------------------------------------------------------------------------------------------------


def test_match_loss_is_that_of_the_reference():
    """Binary cross-entropy with logits; equal numbers give the plain mean over all pairs, as published."""
    rng = np.random.default_rng(0)
    true, false = rng.normal(size=5), rng.normal(size=5)
    chance = 1 / (1 + np.exp(-np.concatenate([true, false])))
    target = np.repeat([1.0, 0.0], 5)
    expected = -(target * np.log(chance) + (1 - target) * np.log(1 - chance)).mean()
    tensors = torch.from_numpy(true), torch.from_numpy(false)
    assert match_loss(*tensors, torch.ones(5)).item() == pytest.approx(expected, abs=1e-9)
    weight = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
    expected = (np.log1p(np.exp(-true)).mean() + np.log1p(np.exp(false[:2])).mean()) / 2
    assert match_loss(*tensors, weight).item() == pytest.approx(expected, abs=1e-6)
    assert match_loss(tensors[0], tensors[1], torch.zeros(5)).isfinite()


def test_cvm_paper_loss_is_that_of_the_reference():
    """Matching against chips rolled by one, plus the reconstruction of both views."""
    names = ("metadata_as", "false_pairs", "match_of", "contrast", "contrast_weight")
    paper = {name: getattr(cvm.PAPER, name) for name in names}
    network, batch = model("cvm", **paper).eval(), pairs(4)
    photo, chip = network.ground.shown(batch["ground"]), network.aerial.shown(batch["aerial"])

    def joint(rows):
        return network.trunk(torch.cat([photo.tokens, chip.tokens[rows]], dim=1))

    score = [network.score(joint(rows)[:, 0])[:, 0].detach().numpy() for rows in ([0, 1, 2, 3], [3, 0, 1, 2])]
    match = (np.log1p(np.exp(-score[0])).sum() + np.log1p(np.exp(score[1])).sum()) / 8
    whole = joint([0, 1, 2, 3])
    painted = []
    for side, shown, part in ((network.ground, photo, whole[:, 1:5]), (network.aerial, chip, whole[:, 5:])):
        pixels = side.decoder(torch.cat([whole[:, :1], part], dim=1), shown.ids).detach().numpy()
        hidden = np.ones((4, 16), dtype=bool)
        np.put_along_axis(hidden, shown.ids.numpy(), False, axis=1)
        painted.append(((pixels - shown.target.numpy()) ** 2)[hidden].mean())
    losses = {name: value.item() for name, value in network(batch).items()}
    assert set(losses) == {"match", "reconstruction", "loss"}
    assert losses["match"] == pytest.approx(match, abs=1e-5)
    assert losses["reconstruction"] == pytest.approx(np.mean(painted), abs=1e-5)
    assert losses["loss"] == pytest.approx(match + np.mean(painted), abs=1e-5)


@pytest.mark.parametrize("of", ["shown", "whole"])
def test_cvm_recommended_loss_adds_the_contrast_of_the_views_alone(of):
    """And the false pairs are, outside training, the most similar ones, both ways."""
    network, batch = model("cvm", match_of=of).eval(), pairs(6)
    tokens = []
    for side, name in ((network.ground, "ground"), (network.aerial, "aerial")):
        tokens.append(side.shown(batch[name]).tokens if of == "shown" else side(batch[name]))
    alone = [unit(network.trunk(each)[:, 0].detach().numpy()) for each in tokens]
    similarity = alone[0] @ alone[1].T - 9 * np.eye(6)
    rows = np.arange(6)
    photos = np.concatenate([rows, rows, similarity.argmax(axis=0)])
    chips = np.concatenate([rows, similarity.argmax(axis=1), rows])
    joint = network.trunk(torch.cat([tokens[0][photos], tokens[1][chips]], dim=1))[:, 0]
    score = network.score(joint)[:, 0].detach().numpy()
    match = (np.log1p(np.exp(-score[:6])).mean() + np.log1p(np.exp(score[6:])).mean()) / 2
    losses = {name: value.item() for name, value in network(batch).items()}
    assert losses["contrast"] == pytest.approx(contrast_reference(*alone, 1 / 0.07), abs=1e-4)
    assert losses["match"] == pytest.approx(match, abs=1e-5)
    total = losses["match"] + losses["reconstruction"] + losses["contrast"]
    assert losses["loss"] == pytest.approx(total, abs=1e-5)


def test_rolled_false_pairs_are_each_photo_with_the_chip_before():
    pairs_ = rolled_pairs(~torch.eye(4, dtype=torch.bool))
    assert pairs_.ground.tolist() == [0, 1, 2, 3]
    assert pairs_.aerial.tolist() == [3, 0, 1, 2]
    assert pairs_.weight.tolist() == [1.0] * 4


def test_hard_false_pairs_are_drawn_by_similarity_and_never_from_one_tile():
    """Pitfall 17 in matching: a chip of the photo's own tile is no false partner."""
    tile = torch.tensor([0, 0, 1, 2])
    allowed = tile[:, None] != tile[None]
    similarity = torch.zeros(4, 4)
    similarity[2, 0], similarity[2, 1], similarity[2, 2] = 1.0, -1.0, 50.0
    torch.manual_seed(0)
    drawn = [hard_pairs(similarity, allowed, draw=True) for _ in range(2000)]
    assert all(bool(allowed[d.ground, d.aerial].all()) for d in drawn)
    assert all(d.ground[:4].tolist() == d.aerial[4:].tolist() == [0, 1, 2, 3] for d in drawn)
    partner = torch.bincount(torch.stack([d.aerial[2] for d in drawn]), minlength=4) / 2000
    softmax = np.exp([1.0, -1.0, -np.inf, 0.0]) / np.exp([1.0, -1.0, -np.inf, 0.0]).sum()
    np.testing.assert_allclose(partner, softmax, atol=0.04)
    assert hard_pairs(similarity, allowed, draw=False).aerial[2] == 0


def test_a_photo_whose_whole_batch_shares_its_tile_has_no_false_pair():
    allowed = torch.zeros(3, 3, dtype=torch.bool)
    for found in (hard_pairs(torch.zeros(3, 3), allowed, True), rolled_pairs(allowed)):
        assert float(found.weight.sum()) == 0.0
    batch = {**pairs(3), "tile": torch.zeros(3, dtype=torch.int64)}
    assert model("cvm").train()(batch)["loss"].isfinite()


def test_positions_of_the_joint_model_are_really_used():
    """Defect 1 of BirdSAT: there they are zero, so that patches could change places unnoticed."""
    network, batch = model("cvm").eval(), pairs(3)
    for name in ("ground", "aerial"):
        left, right = batch[name][..., :16], batch[name][..., 16:]
        swapped = {**batch, name: torch.cat([right, left], dim=3)}
        if name == "aerial":  # chips vary along rows only
            upper, lower = batch[name][:, :, :16], batch[name][:, :, 16:]
            swapped = {**batch, name: torch.cat([lower, upper], dim=2)}
        assert (network.match(batch, batch) - network.match(swapped, swapped)).abs().max().item() > 1e-4
        before = network.encode(name, batch)
        getattr(network, name).patches.positions.zero_()
        assert torch.allclose(network.encode(name, batch), network.encode(name, swapped), atol=1e-5)
        assert not torch.allclose(network.encode(name, batch), before, atol=1e-3)


def test_match_takes_metadata_from_the_chips_side_alone():
    """Defect 4 of BirdSAT: there the gallery's place and date overwrite the query's."""
    network, batch = model("cvm", meta=True).eval(), pairs(4)
    score = network.match(batch, batch)
    elsewhere = {**batch, "lonlat": -batch["lonlat"], "date": batch["date"].flip(0)}
    assert torch.equal(network.match(elsewhere, batch), score)
    assert torch.equal(network.match({"ground": batch["ground"]}, batch), score)
    assert (network.match(batch, elsewhere) - score).abs().max().item() > 1e-4


def test_summed_metadata_cannot_reorder_candidates_but_a_token_can():
    """Why metadata is a token: one Linear after the sum adds the same to every candidate."""
    batch, n = pairs(6), 6
    spreads = {}
    for how in ("sum", "token"):
        network = model("cvm", meta=True, metadata_as=how).eval()
        query = {name: value[:1].expand(n, *value.shape[1:]) for name, value in batch.items()}
        moved = {**query, "lonlat": -query["lonlat"], "date": query["date"] * 0 + 1}
        shift = (network.match(batch, moved) - network.match(batch, query)).detach()
        assert shift.abs().max().item() > 1e-4
        spreads[how] = shift.std().item()
    assert spreads["sum"] < 1e-6
    assert spreads["token"] > 1e-6


def test_matching_ranks_true_pairs_first():
    network, batch = by_heart("cvm"), pairs(32)
    with torch.no_grad():
        true = network.match(batch, batch)
        false = network.match(batch, some(batch, torch.arange(32).roll(7)))
    better = (true[:, None] > false[None]).float().mean().item()  # area under the curve
    assert better > 0.8


# -- both ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("meta", [False, True])
def test_gradients_reach_every_parameter(kind, meta):
    network = model(kind, meta=meta, metadata=MetadataConfig(drop=0.0)).train()
    network(pairs(8))["loss"].backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert silent == []
    assert type(network).views == ("ground", "aerial")
    assert network.views == (("ground", "aerial", "lonlat", "date") if meta else ("ground", "aerial"))


@pytest.mark.parametrize("kind", MODELS)
def test_equal_calls_give_equal_vectors_in_any_batch(kind):
    """Pitfall 6, and defects 2 and 3 of BirdSAT: no masking, shuffling or withholding outside training."""
    network, batch = model(kind, meta=True).eval(), pairs(6)
    for name in ("ground", "aerial"):
        whole = network.encode(name, batch)
        assert torch.equal(whole, network.encode(name, batch))
        alone = torch.cat([network.encode(name, some(batch, [i])) for i in range(6)])
        assert torch.allclose(whole, alone, atol=1e-5)
        assert torch.allclose(whole.norm(dim=1), torch.ones(6), atol=1e-6)
        assert network.features(name, batch).shape == (6, 64)
    assert network(batch)["loss"].item() == network(batch)["loss"].item()


@pytest.mark.parametrize("kind", MODELS)
def test_thirty_two_pairs_are_learnt_by_heart(kind):
    assert recall(fresh(kind).eval(), pairs(32)) < 0.3
    assert recall(by_heart(kind), pairs(32)) > 0.95


@pytest.mark.parametrize("kind", MODELS)
def test_held_out_pairs_are_found_and_stay_at_chance_where_pairs_were_torn_apart(kind):
    held = pairs(200, seed=1)  # chance is 1 in 200
    assert recall(learn(fresh(kind), pairs(128), 25), held) > 0.08
    assert recall(learn(fresh(kind), pairs(128, torn=True), 25), held) < 0.03


@pytest.mark.parametrize("kind", MODELS)
def test_each_view_counts(kind):
    """A view put out leaves the other's embedding as it was, and the pairs are no longer found."""
    network, batch = by_heart(kind), pairs(32)
    for name, other in (("ground", "aerial"), ("aerial", "ground")):
        dark = {**batch, name: torch.zeros_like(batch[name])}
        assert torch.equal(network.encode(other, dark), network.encode(other, batch))
        assert recall(network, dark) <= 1 / 16


@pytest.mark.parametrize("kind", MODELS)
def test_unknown_metadata_is_metadata_withheld_and_moves_the_aerial_view_alone(kind):
    network, batch = model(kind, meta=True).eval(), pairs(4)
    unknown = {**batch, "lonlat": batch["lonlat"] * torch.nan, "date": batch["date"] * torch.nan}
    absent = {name: batch[name] for name in ("ground", "aerial")}
    assert torch.equal(network.encode("ground", unknown), network.encode("ground", batch))
    assert torch.equal(network.encode("aerial", unknown), network.encode("aerial", absent))
    assert (network.encode("aerial", unknown) - network.encode("aerial", batch)).abs().max().item() > 1e-3
    with pytest.raises(SpecError, match="cannot encode the view 'lonlat'"):
        network(absent)


@pytest.mark.parametrize("kind", MODELS)
def test_photos_of_one_tile_are_not_each_others_negatives(kind):
    """Pitfall 17."""
    batch = pairs(8)
    batch["aerial"][4:], batch["tile"] = batch["aerial"][:4].clone(), torch.arange(8) % 4
    masked, plain = (
        model(kind, contrast=ContrastConfig(same=same)).eval()(batch)["contrast"].item()
        for same in ("mask", "negatives")
    )
    assert masked < plain - 0.05


def test_blocks_share_no_weights():
    """Pitfall 20: and the joint model has one transformer, not two."""
    for network in (model("cve"), model("cvm")):
        parameters = list(network.parameters())
        assert len({p.data_ptr() for p in parameters}) == len(parameters)
    one = 12 * 64**2 + 13 * 64
    assert sum(p.numel() for p in model("cvm").trunk.parameters()) == 2 * one + 3 * 64


def test_presets_are_read_from_tables_and_are_those_of_the_paper():
    for module, cls in ((cve, cve.CveConfig), (cvm, cvm.CvmConfig)):
        for preset in (module.PAPER, module.RECOMMENDED, module.TINY):
            assert from_table(cls, asdict(preset), "model") == preset
        assert (module.PAPER.contrast.scale, module.PAPER.contrast.learn_scale) == (1.0, False)
        assert (module.PAPER.metadata.drop, module.PAPER.metadata.per) == (0.25, "batch")
        assert module.RECOMMENDED.contrast.learn_scale
        assert (module.PAPER.ground.size, module.PAPER.ground.patch) == (384, 32)
    assert cve.PAPER.contrast_weight == 0.3
    assert cve.PAPER.contrast_of == cvm.PAPER.match_of == "shown"
    assert (cvm.PAPER.false_pairs, cvm.RECOMMENDED.false_pairs) == ("roll", "hard")
    assert (cvm.PAPER.aerial.size, cvm.PAPER.aerial.patch) == (224, 16)


def test_what_cannot_be_is_refused():
    with pytest.raises(SpecError, match="widths 64 and 32"):
        replace(CVE, aerial=replace(CVE.aerial, dim=32))
    with pytest.raises(SpecError, match="widths 64 and 96"):
        cve.CveMae(replace(CVE, aerial=replace(CVE.aerial, backbone="test_resnet", dim=0)))
    with pytest.raises(SpecError, match="Give a positive weight, and shown or whole"):
        replace(CVE, contrast_weight=0.0)
    with pytest.raises(SpecError, match="one transformer reads both"):
        replace(CVM, aerial=replace(CVM.aerial, depth=3))
    with pytest.raises(SpecError, match="hard pairs need a similarity"):
        replace(CVM, contrast_weight=0.0)
    for wrong in ("metadata_as", "false_pairs", "match_of"):
        with pytest.raises(SpecError, match="Use token or sum, hard or roll, and shown or whole"):
            replace(CVM, **{wrong: "image"})
    with pytest.raises(SpecError, match="a batch of one"):
        model("cvm")(pairs(1))
    with pytest.raises(SpecError, match="4 photos and 3 chips"):
        model("cvm").match(pairs(4), pairs(3))
    for kind in MODELS:
        for call in (model(kind).encode, model(kind).features):
            with pytest.raises(SpecError, match="Use one of: ground, aerial"):
                call("lonlat", pairs(2))


@pytest.mark.parametrize("kind", MODELS)
def test_half_precision_gives_the_same_losses(kind):
    network, batch = model(kind, meta=True).eval(), pairs(8)
    full = network(batch)
    with torch.autocast("cpu", torch.bfloat16):
        low = network(batch)
    for name, value in full.items():
        assert low[name].dtype == torch.float32
        assert low[name].item() == pytest.approx(value.item(), rel=0.03, abs=0.05)
