"""CSP: every term against NumPy, what reaches which tower, and what a published detail would do."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from train.batch import VIEWS
from train.encoders.image import CARRIED, ImageConfig, ImageEncoder
from train.encoders.location import LocationEncoder
from train.errors import SpecError
from train.objectives.csp import PAPER_FMOW, PAPER_INAT, RECOMMENDED, TINY, Csp, CspConfig
from train.objectives.nce import binary, multi_class
from train.objectives.presence import ClassHead, Prior, an_full, l_sup
from train.sampling import Box, sample_box, sample_sphere
from train.settings import from_table
from train.spec import LocationSpec

SMALL = replace(
    TINY,
    feature_width=12,
    location=LocationSpec("xyz", hidden=32, blocks=1, dim=16, network="ffn_gelu"),
    dropout=0.2,
)
BLD = replace(SMALL, random_weight=0.7, dropout_weight=0.3, random_count=3, tau0=0.5, tau1=0.4, tau2=0.9)
PICTURES = ImageConfig("test_resnet", size=32, dim=0)


def batch_of(n=6, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "lonlat": sample_sphere(n, generator),
        "feature": torch.randn(n, width, generator=generator),
        "tile": torch.arange(n),
        "label": torch.randint(0, 3, (n,), generator=generator),
    }


def built(config, seed=0, **options):
    torch.manual_seed(seed)
    return Csp(config, **options)


def embeddings(model, batch):
    """e, f and e of the random places that validation draws, in NumPy."""
    n, count = len(batch["lonlat"]), model.config.random_count
    places = sample_box(n * count, Box(*model.config.area), torch.Generator().manual_seed(0))
    with torch.no_grad():
        e, f = (model.encode(name, batch).double().numpy() for name in ("lonlat", "feature"))
        random = model.location(places).double().numpy().reshape(n, count, -1)
    return e, f, random


def sigma(x):
    return 1 / (1 + np.exp(-x))


def mc(positive, negatives, tau):
    """Mean of -log [exp(s / tau) / (exp(s / tau) + sum exp(s- / tau))]; negatives one list for each."""
    losses = []
    for s, others in zip(positive, negatives, strict=True):
        losses.append(-np.log(np.exp(s / tau) / (np.exp(s / tau) + np.exp(np.array(others) / tau).sum())))
    return np.mean(losses)


def off_diagonal(similar, tile=None):
    n = len(similar)
    tile = np.arange(n) if tile is None else tile
    return [[similar[i, j] for j in range(n) if tile[i] != tile[j]] for i in range(n)]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("tile", [None, [0, 0, 1, 2, 3, 3]])
def test_mc_with_b_l_and_d_is_that_of_the_paper(symmetric, tile):
    """l_MC = l(P^X, N^B, tau0) + a1 l(P^X, N^L, tau1) + a2 l(P^D, N^D, tau2), pairs of one tile left out."""
    model, batch = built(replace(BLD, symmetric=symmetric)).eval(), batch_of()
    if tile is not None:
        batch["tile"] = torch.tensor(tile)
    e, f, random = embeddings(model, batch)
    own = (e * f).sum(1)
    b = mc(own, off_diagonal(e @ f.T, tile), 0.5)
    if symmetric:
        b = (b + mc(own, off_diagonal(f @ e.T, tile), 0.5)) / 2
    x = mc(own, [random[i] @ f[i] for i in range(6)], 0.4)
    d = mc((e * e).sum(1), off_diagonal(e @ e.T, tile), 0.9)
    losses = {name: value.item() for name, value in model(batch).items()}
    assert losses == pytest.approx(
        {"batch": b, "random": x, "dropout": d, "loss": b + 0.7 * x + 0.3 * d}, abs=1e-5
    )


def test_nce_with_b_l_and_d_is_that_of_the_paper():
    """l_NCE = l(P^X, N^B) + b1 l(-, N^L) + b2 l(P^D, N^D), and no temperature."""
    model, batch = built(replace(BLD, form="nce")).eval(), batch_of()
    e, f, random = embeddings(model, batch)

    def pairs(first, second):
        against = np.concatenate(off_diagonal(first @ second.T))
        return -np.log(sigma((first * second).sum(1))).mean() - np.log(1 - sigma(against)).mean()

    b, d = pairs(e, f), pairs(e, e)
    x = -np.mean([np.log(1 - sigma(random[i] @ f[i])) for i in range(6)])
    losses = {name: value.item() for name, value in model(batch).items()}
    assert losses == pytest.approx(
        {"batch": b, "random": x, "dropout": d, "loss": b + 0.7 * x + 0.3 * d}, abs=1e-5
    )
    assert not model.scales


def test_mse_regresses_the_features_linearly():
    model, batch = built(replace(SMALL, form="mse")).eval(), batch_of()
    with torch.no_grad():
        e = model.location.embed(batch["lonlat"]).double().numpy()
        losses = model(batch)
    predicted = e @ model.regress.weight.detach().numpy().T + model.regress.bias.detach().numpy()
    expected = ((predicted - batch["feature"].numpy()) ** 2).mean()
    assert float(losses["mse"]) == float(losses["loss"]) == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(
        model.encode("feature", batch), nn.functional.normalize(batch["feature"], dim=1)
    )


def test_a_single_negative_by_hand():
    """s = 1 against -1 and 0: MC loses ln(1 + e^-2 + e^-1), NCE -ln sigma(1) - mean of ln(1 - sigma)."""
    own, others = torch.tensor([1.0]), torch.tensor([[-1.0, 0.0]])
    one = torch.tensor(1.0)
    assert float(multi_class(own, others, one)) == pytest.approx(math.log(1 + math.exp(-2) + math.exp(-1)))
    left = torch.tensor([[False, True]])
    assert float(multi_class(own, others, one, left)) == pytest.approx(math.log(1 + math.exp(-2)))
    soft = [math.log(1 + math.exp(x)) for x in (-1.0, 0.0)]
    assert float(binary(own, others)) == pytest.approx(soft[0] + sum(soft) / 2)
    assert float(binary(None, others, left)) == pytest.approx(soft[0])
    assert float(binary(None, others, torch.tensor([[True, True]]))) == 0.0


@pytest.mark.parametrize("beta", [None, 1.0, 2048.0])
def test_supervised_loss_is_that_of_the_code(beta):
    """Positives weigh beta (the number of classes), all else 1; mean over observations and classes."""
    rng = np.random.default_rng(0)
    here, elsewhere, label = rng.normal(size=(5, 4)), rng.normal(size=(7, 4)), np.array([0, 3, 1, 3, 2])
    weight = 4 if beta is None else beta
    at = -np.log(1 - sigma(here))
    for row, own in enumerate(label):
        at[row, own] = -weight * np.log(sigma(here[row, own]))
    expected = at.mean() - np.log(1 - sigma(elsewhere)).mean()
    tensors = [torch.from_numpy(x) for x in (here, elsewhere, label)]
    assert float(l_sup(*tensors, beta=beta)) == pytest.approx(expected, abs=1e-5)
    if beta is not None:
        assert float(an_full(*tensors, weight=beta)) == pytest.approx(expected, abs=1e-5)


def test_supervised_loss_still_learns_where_the_prior_is_tiny():
    """log(p + 1e-5) of the public code is flat there; ours pulls with the full weight."""
    here = torch.full((1, 2), -30.0, requires_grad=True)
    l_sup(here, torch.zeros(1, 2), torch.tensor([0])).backward()
    assert float(here.grad[0, 0]) == pytest.approx(-1.0, abs=1e-3)


def test_class_head_has_one_vector_for_each_class_and_no_bias():
    head = ClassHead(5, 7)
    assert [tuple(p.shape) for p in head.parameters()] == [(7, 5)]
    e = torch.randn(3, 5)
    torch.testing.assert_close(head(e), e @ head.vectors.weight.T)
    assert not head(torch.zeros(1, 5)).any()


def test_prior_learns_where_classes_live():
    """Two classes, east and west: each prior is high at home and low abroad, and random places count."""
    torch.manual_seed(0)
    prior = Prior(LocationEncoder(LocationSpec("xyz", hidden=32, blocks=1, dim=16)), 2)
    lonlat = sample_box(200, Box(-20, -20, 20, 20))
    label = (lonlat[:, 0] > 0).long()
    optimiser = torch.optim.Adam(prior.parameters(), 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        prior.loss(lonlat, label).backward()
        optimiser.step()
    prior.eval()
    with torch.no_grad():
        west, east, far = prior(torch.tensor([[-10.0, 0.0], [10.0, 0.0], [180.0, 0.0]])).sigmoid()
    assert west[0] > 4 * west[1]
    assert east[1] > 4 * east[0]
    assert far.max() < 0.1


def test_prior_draws_random_places_where_it_may():
    torch.manual_seed(0)
    prior = Prior(LocationEncoder(LocationSpec("xyz", hidden=8, blocks=1, dim=8)), 2)
    asked = []

    def keep(lonlat):
        asked.append(lonlat)
        return lonlat[:, 0] > 5

    prior.loss(torch.tensor([[1.0, 2.0]]), torch.tensor([1]), Box(0, 0, 10, 10), keep)
    assert asked
    assert bool(((asked[0] >= 0) & (asked[0] <= 10)).all())


@pytest.mark.parametrize(
    ("here", "elsewhere", "label", "said"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([0, 3]), "labels 0 to 3 for 3 classes"),
        (torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([-1, 1]), "labels -1 to 1"),
        (torch.zeros(0, 3), torch.zeros(2, 3), torch.tensor([], dtype=torch.long), "0 presences"),
        (torch.zeros(2, 3), torch.zeros(2, 4), torch.tensor([0, 1]), "shapes"),
    ],
)
def test_labels_that_are_no_classes_are_refused(here, elsewhere, label, said):
    with pytest.raises(SpecError, match="cannot fit the prior") as refusal:
        l_sup(here, elsewhere, label)
    assert said in refusal.value.found


@pytest.mark.parametrize("form", ["mc", "nce", "mse"])
@pytest.mark.parametrize("projection", ["mlp", "linear"])
def test_gradients_reach_both_towers(form, projection):
    """Every parameter has a gradient that is not zero; all are distinct (pitfall 20)."""
    model = built(replace(BLD, form=form, projection=projection))
    parameters = dict(model.named_parameters())
    assert len({p.data_ptr() for p in parameters.values()}) == len(parameters)
    model(batch_of())["loss"].backward()
    learnt = {name for name, p in parameters.items() if p.requires_grad}
    assert {name for name in learnt if float(parameters[name].grad.abs().sum()) > 0} == learnt
    towers = {"location", "regress" if form == "mse" else "project"}
    assert {name.split(".")[0] for name in learnt} == towers | ({"scales"} if form == "mc" else set())


@pytest.mark.parametrize("form", ["mc", "nce", "mse"])
def test_terms_in_use_are_those_with_a_weight(form):
    model = built(replace(SMALL, form=form))
    assert set(model(batch_of())) == ({"mse", "loss"} if form == "mse" else {"batch", "loss"})


def recall(model, batch):
    model.eval()
    with torch.no_grad():
        similar = model.encode("lonlat", batch) @ model.encode(model.config.view, batch).T
    model.train()
    return float((similar.argmax(dim=1) == torch.arange(len(similar))).float().mean())


def train(model, batch, steps, shuffle=False):
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 5e-3)
    for _ in range(steps):
        order = torch.randperm(len(batch["lonlat"])) if shuffle else slice(None)
        optimiser.zero_grad()
        model({**batch, "feature": batch["feature"][order]})["loss"].backward()
        optimiser.step()


@pytest.mark.parametrize("change", [{}, {"random_weight": 1.0, "dropout_weight": 0.5}, {"form": "mse"}])
def test_32_pairs_are_learnt_by_heart(change):
    """Recall at 1 above 95 %, from chance."""
    location = replace(SMALL.location, kind="sphere_rff", options={"largest": 4.0, "scales": 2})
    model, batch = built(replace(SMALL, location=location, dropout=0.05, **change)), batch_of(32)
    assert recall(model, batch) < 0.2
    train(model, batch, 250)
    assert recall(model, batch) > 0.95


def test_nce_learns_pairs_too():
    model, batch = built(replace(SMALL, dropout=0.1, form="nce")), batch_of(32)
    train(model, batch, 300)
    assert recall(model, batch) > 0.5


def test_shuffled_pairs_stay_at_chance():
    """With features dealt anew at every step there is nothing to learn: loss ln 32, recall 1 in 32."""
    model, batch = built(SMALL), batch_of(32)
    train(model, batch, 250, shuffle=True)
    assert recall(model, batch) <= 4 / 32
    model.eval()
    with torch.no_grad():
        assert float(model(batch)["loss"]) > math.log(32) - 0.5


def test_temperatures_are_learnt_where_asked_and_clamped():
    """Pitfall 16: 1 / tau to start with, a gradient that is not zero, at most 100."""
    model = built(replace(BLD, learnable=("tau0", "tau1")))
    assert {n: float(s().detach()) for n, s in model.scales.items()} == pytest.approx(
        {"tau0": 2.0, "tau1": 2.5, "tau2": 1 / 0.9}
    )
    model(batch_of())["loss"].backward()
    assert abs(float(model.scales["tau0"].value.grad)) > 1e-4
    assert abs(float(model.scales["tau1"].value.grad)) > 1e-4
    assert model.scales["tau2"].value.grad is None
    with torch.no_grad():
        model.scales["tau0"].value.fill_(9.0)
    assert float(model.scales["tau0"]().detach()) == pytest.approx(100.0)
    assert "tau0" in RECOMMENDED.learnable


def test_a_temperature_of_20_leaves_nothing_to_learn():
    """Defect 4.6.3: with 1,024 pairs the loss can only be 6.83 to 6.93 + 0.1, at 0.07 almost 0 to 20."""
    n = 1024
    perfect, worst = (torch.full((n,), s) for s in (1.0, -1.0))

    def span(tau):
        scale = torch.tensor(1.0 / tau)
        best = multi_class(perfect, worst[:, None].expand(n, n - 1), scale)
        return float(best), math.log(n)

    low, uniform = span(20.0)
    assert low == pytest.approx(6.83, abs=0.01)
    assert uniform == pytest.approx(6.93, abs=0.01)
    assert span(RECOMMENDED.tau0)[0] < 1e-6


def test_pairs_of_one_tile_are_not_negatives():
    """Pitfall 17: with a tile seen twice the masked loss is below the one that punishes its twin."""
    batch = batch_of(8)
    for name in ("lonlat", "feature", "tile"):
        batch[name][1] = batch[name][0]
    masked, published = (built(replace(SMALL, mask_tile=mask)).eval() for mask in (True, False))
    with torch.no_grad():
        assert float(masked(batch)["loss"]) < float(published(batch)["loss"])


@pytest.mark.parametrize("config", [SMALL, replace(BLD, form="nce"), replace(SMALL, form="mse")], ids=str)
def test_labels_are_never_read(config):
    """Defect 4.6.5: pre-training without supervision gives the same loss whatever the labels are."""
    model, batch = built(config).eval(), batch_of()
    without = {name: value for name, value in batch.items() if name != "label"}
    with torch.no_grad():
        assert float(model(batch)["loss"]) == float(model(without)["loss"])
    assert "label" not in model.views
    assert set(model.views) <= set(VIEWS)


def test_inputs_are_left_alone():
    """Pitfall 10."""
    model, batch = built(BLD), batch_of()
    before = {name: value.clone() for name, value in batch.items()}
    model(batch)
    for name in ("lonlat", "feature"):
        model.encode(name, batch)
    assert all(torch.equal(batch[name], before[name]) for name in before)


@pytest.mark.parametrize("form", ["mc", "mse"])
def test_encoding_is_deterministic_whatever_the_batch(form):
    """Pitfall 6: bitwise the same twice, and alone as in a batch to 1e-5."""
    model, batch = built(replace(SMALL, form=form)).eval(), batch_of(9)
    with torch.no_grad():
        for name in ("lonlat", "feature"):
            once, again = model.encode(name, batch), model.encode(name, batch)
            alone = [
                model.encode(name, {key: value[i : i + 1] for key, value in batch.items()}) for i in range(9)
            ]
            assert torch.equal(once, again)
            torch.testing.assert_close(torch.cat(alone), once, atol=1e-5, rtol=0)
            torch.testing.assert_close(once.norm(dim=1), torch.ones(9), atol=1e-6, rtol=0)
            assert once.dtype == torch.float32


def test_two_passes_of_d_differ_in_their_dropout():
    """SimCSE: in training the positive of a place is the place under another mask, so D is not trivial."""
    model, batch = built(replace(BLD, dropout=0.5, tau2=0.07)), batch_of()
    here, again, _ = model._locations(batch["lonlat"])
    assert not torch.equal(here, again)
    model.eval()
    here, again, _ = model._locations(batch["lonlat"])
    torch.testing.assert_close(here, again)


def test_random_places_are_drawn_anew_where_they_may_lie():
    """Term L: new places at every step, C for each image, inside the area and on what the mask keeps."""
    drawn = []
    area = (170.0, -30.0, -160.0, 20.0)

    def south(lonlat):
        kept = lonlat[:, 1] < 0
        drawn.append(lonlat[kept])
        return kept

    model, batch = built(replace(BLD, area=area), keep=south), batch_of()
    model(batch), model(batch)
    assert not torch.equal(drawn[0][:18], drawn[1][:18])
    places = model._draw(18)
    assert places.shape == (18, 2)
    assert bool((places[:, 1] < 0).all())
    assert bool(((places[:, 0] >= 170) | (places[:, 0] <= -160)).all())


def test_validation_is_the_same_every_time_and_leaves_the_generator_alone():
    model, batch = built(BLD).eval(), batch_of()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = float(model(batch)["loss"].detach()), float(model(batch)["loss"].detach())
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)


def pictures(n=4):
    generator = torch.Generator().manual_seed(0)
    ground = torch.randint(0, 256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return {"lonlat": sample_sphere(n, generator), "ground": ground}


def test_a_given_image_encoder_stays_frozen():
    """Pitfall 7: no gradient, no moving statistics, evaluation mode also while the rest trains."""
    encoder = ImageEncoder(PICTURES)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = built(replace(SMALL, view="ground"), image=encoder).train()
    assert model.views == ("lonlat", "ground")
    assert not any(module.training for module in encoder.modules())
    assert model.location.training
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model(pictures())["loss"].backward()
    optimiser.step()
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(p.grad is None for p in encoder.parameters())
    assert model.config.image == replace(PICTURES, weights=CARRIED)  # the checkpoint carries its weights
    assert model.encode("ground", pictures()).shape == (4, 16)
    torch.testing.assert_close(model.features("ground", pictures()), encoder.embed(pictures()["ground"]))


def test_a_rebuilt_model_takes_the_weights_of_one_with_a_given_encoder():
    model = built(replace(SMALL, view="ground"), image=ImageEncoder(PICTURES))
    again = built(model.config, seed=1)
    again.load_state_dict(model.state_dict())
    batch = pictures()
    with torch.no_grad():
        torch.testing.assert_close(again.eval().encode("ground", batch), model.eval().encode("ground", batch))


def test_an_image_encoder_may_learn_too():
    model = built(replace(SMALL, view="ground", freeze_image=False, image=PICTURES))
    model(pictures())["loss"].backward()
    assert sum(float(p.grad.abs().sum()) for p in model.image.parameters()) > 0


def test_mixed_precision_does_not_reach_the_cosines():
    model, batch = built(SMALL).eval(), batch_of()
    with torch.no_grad():
        full = model(batch)["loss"]
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(batch)["loss"]
            assert model.encode("lonlat", batch).dtype == torch.float32
    assert float(mixed) == float(full)


def test_presets_are_those_of_the_paper():
    for preset in (PAPER_INAT, PAPER_FMOW):
        assert (preset.tau0, preset.tau1, preset.tau2, preset.learnable) == (1, 1, 1, ())
        assert (preset.random_weight, preset.dropout_weight, preset.random_count) == (1, 1, 1)
        assert (preset.location.hidden, preset.location.blocks, preset.dropout) == (512, 1, 0.5)
        assert preset.location.kind == "grid"
        assert dict(preset.location.options) == {"r_min": 0.01, "r_max": 360.0, "count": 32}
        assert not preset.symmetric
        assert set(built(replace(preset, feature_width=12))(batch_of())) == {
            "batch", "random", "dropout", "loss",
        }  # fmt: skip
    assert PAPER_INAT.location.network == "ffn"
    assert PAPER_FMOW.location.network == "ffn_gelu"
    assert (RECOMMENDED.tau0, RECOMMENDED.tau2, RECOMMENDED.dropout_weight) == (0.07, 1.0, 0.0)
    locations = sum(p.numel() for p in built(PAPER_INAT).location.parameters())
    assert locations == (128 * 512 + 512) + 2 * 512 + (512 * 256 + 256)


def test_configuration_is_read_from_toml():
    text = """
    view = "aerial"
    form = "nce"
    learnable = ["tau1"]
    area = [-125, 32, -114, 42]
    [location]
    kind = "sh"
    network = "siren"
    options = { degrees = 20 }
    [image]
    backbone = "test_resnet"
    bands = 4
    mean = [1.0, 1.0, 1.0, 1.0]
    std = [1.0, 1.0, 1.0, 1.0]
    """
    config = from_table(CspConfig, tomllib.loads(textwrap.dedent(text)), "model")
    assert config.area == (-125.0, 32.0, -114.0, 42.0)
    assert config.learnable == ("tau1",)
    assert config.location == LocationSpec("sh", {"degrees": 20}, network="siren")
    assert config.image.bands == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"view": "sound"}, "view = 'sound'"),
        ({"form": "triplet"}, "form = 'triplet'"),
        ({"projection": "none"}, "projection = 'none'"),
        ({"learnable": ("tau3",)}, "tau3"),
        ({"tau0": 0.001}, "tau0 = 0.001"),
        ({"tau2": float("nan")}, "tau2 = nan"),
        ({"random_weight": -1.0}, "random_weight = -1.0"),
        ({"random_count": 0}, "random_count 0"),
        ({"dropout": 0.0, "dropout_weight": 1.0}, "dropout 0.0"),
        ({"area": (0.0, 5.0, 10.0, 5.0)}, "south 5.0"),
    ],
)
def test_impossible_configurations_are_refused(change, said):
    with pytest.raises(SpecError) as refusal:
        replace(SMALL, **change)
    assert said in refusal.value.found
    assert refusal.value.change


def test_wrong_input_is_refused():
    """Pitfall 1 among them: swapped coordinates do not get through."""
    model, batch = built(SMALL), batch_of()
    nan = torch.full((6, 2), float("nan"), dtype=torch.float64)
    for change, said in (
        ({"lonlat": torch.tensor([[38.58, -121.49]] * 6)}, "latitudes to 121.49"),
        ({"lonlat": nan}, "not finite"),
        ({"feature": torch.zeros(6, 5)}, "shape (6, 5)"),
        ({"feature": torch.full((6, 12), float("inf"))}, "not finite"),
    ):
        with pytest.raises(SpecError) as refusal:
            model({**batch, **change})
        assert said in refusal.value.found
    with pytest.raises(SpecError, match="'feature'"):
        model({"lonlat": batch["lonlat"]})
    with pytest.raises(SpecError, match="lonlat, feature"):
        model.features("tile", batch)
    with pytest.raises(SpecError, match="cannot encode"):
        model.encode("aerial", batch)


def test_a_frozen_encoder_needs_weights_and_features_need_no_encoder():
    with pytest.raises(SpecError, match="random features carry little"):
        built(replace(SMALL, view="ground", image=PICTURES))
    with pytest.raises(SpecError, match="view 'feature'"):
        built(SMALL, image=ImageEncoder(PICTURES))


TWO_RANKS = """
import json, os, sys
from dataclasses import replace
import torch, torch.distributed as dist, torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from train.objectives.csp import TINY, Csp
from train.sampling import sample_sphere
from train.spec import LocationSpec

folder = sys.argv[1]
location = LocationSpec("xyz", hidden=16, blocks=1, dim=8, network="ffn_gelu")
config = replace(TINY, feature_width=4, location=location, dropout_weight=0.5, dropout=0.1)
generator = torch.Generator().manual_seed(1)
whole = {"lonlat": sample_sphere(6, generator), "feature": torch.randn(6, 4, generator=generator)}
whole["tile"] = torch.tensor([0, 1, 2, 3, 0, 4])  # one tile on both ranks

def losses_of(form, rank, size):
    torch.manual_seed(0)
    model, part = Csp(replace(config, form=form)).eval(), 6 // size
    shared = DistributedDataParallel(model) if size > 1 else model
    loss = shared({name: value[rank * part : (rank + 1) * part] for name, value in whole.items()})["loss"]
    loss.backward()
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {form: loss.item()} | {f"{form}.{n}": p.grad.flatten().tolist() for n, p in learnt.items()}

def run(rank, size):
    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    with open(f"{folder}/{size}-{rank}.json", "w") as stream:
        json.dump(losses_of("mc", rank, size) | losses_of("nce", rank, size), stream)
    if size > 1:
        dist.barrier()
        os._exit(0)  # taking the group down can hang: its threads need the lock that its destructor holds

run(0, 1)
mp.start_processes(run, args=(2,), nprocs=2, start_method="fork")
"""


def test_two_processes_lose_what_one_does_on_the_whole_batch(tmp_path, repository):
    """Terms B and D see the places and images of all ranks; gradients are those of one process."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_RANKS, str(tmp_path)],
        cwd=repository, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, *two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert {"mc", "nce", "mc.location.leave.linear.weight", "mc.project.0.weight"} <= one.keys()
    for rank in two:
        assert rank.keys() == one.keys()
        for name, value in one.items():
            np.testing.assert_allclose(rank[name], value, atol=1e-5, err_msg=name)
