"""The CSP objective against a reference in NumPy, and that towers learn by it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from train.objectives.contrast import INITIAL_LOG_SCALE, LARGEST_LOG_SCALE, LogScale, info_nce
from train.objectives.views import pair_losses


def reference(first, second, scale):
    """Symmetric InfoNCE, written out."""
    logits = scale * first @ second.T
    rows = np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)
    cols = np.log(np.exp(logits).sum(axis=0)) - np.diag(logits)
    return (rows.mean() + cols.mean()) / 2


def unit(rng, n, d):
    vectors = rng.normal(size=(n, d))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("n", "scale"), [(2, 1.0), (7, 1 / 0.07), (64, 3.0)])
def test_loss_is_that_of_the_reference(n, scale):
    rng = np.random.default_rng(n)
    first, second = unit(rng, n, 5), unit(rng, n, 5)
    found = info_nce(torch.from_numpy(first), torch.from_numpy(second), torch.tensor(scale))
    assert float(found) == pytest.approx(reference(first, second, scale), abs=1e-6)
    swapped = info_nce(torch.from_numpy(second), torch.from_numpy(first), torch.tensor(scale))
    assert float(swapped) == pytest.approx(float(found), abs=1e-12)


def test_two_pairs_by_hand():
    """Logits [[2, 0], [1, sqrt 3]]: a row or column loses ln(1 + e^(other - own))."""
    first = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(3) / 2]], dtype=torch.float64)
    second = torch.eye(2, dtype=torch.float64)
    rows = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1 - math.sqrt(3)))
    cols = math.log(1 + math.exp(1 - 2)) + math.log(1 + math.exp(0 - math.sqrt(3)))
    expected = (rows / 2 + cols / 2) / 2
    assert float(info_nce(first, second, torch.tensor(2.0, dtype=torch.float64))) == pytest.approx(expected)


def test_embeddings_that_carry_nothing_lose_the_logarithm_of_the_batch():
    same = nn.functional.normalize(torch.ones(50, 8), dim=1)
    other = nn.functional.normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    assert float(info_nce(same, same, torch.tensor(14.0))) == pytest.approx(math.log(50), abs=1e-5)
    one_way = info_nce(same, other, torch.tensor(1.0))  # columns are uninformed, rows even misled
    assert float(one_way) >= math.log(50)


def test_perfect_pairs_lose_nothing():
    assert float(info_nce(torch.eye(8), torch.eye(8), torch.tensor(100.0))) < 1e-6


def test_temperature_is_learnt_and_bounded():
    """Pitfall 16: starts at 1 / 0.07, is clamped at 100, and has a gradient."""
    scale = LogScale()
    assert scale().item() == pytest.approx(1 / 0.07, rel=1e-6)
    assert pytest.approx(2.6593, abs=1e-4) == INITIAL_LOG_SCALE
    assert pytest.approx(4.6052, abs=1e-4) == LARGEST_LOG_SCALE
    rng = np.random.default_rng(0)
    first, second = (torch.from_numpy(unit(rng, 6, 4)) for _ in range(2))
    info_nce(first, second, scale()).backward()
    assert abs(float(scale.value.grad)) > 1e-3
    with torch.no_grad():
        scale.value.fill_(9.0)
    assert scale().item() == pytest.approx(100.0, rel=1e-6)


def scales(*names):
    return nn.ModuleDict({name: LogScale() for name in names})


def test_every_pair_of_views_counts_once():
    rng = np.random.default_rng(3)
    views = {name: torch.from_numpy(unit(rng, 9, 4)) for name in ("aerial", "location", "season")}
    losses = pair_losses(views, scales("aerial|location", "aerial|season", "location|season"))
    for pair, value in losses.items():
        if pair != "loss":
            first, second = (views[name].numpy() for name in pair.split("|"))
            assert value.item() == pytest.approx(reference(first, second, 1 / 0.07), abs=1e-5)
    assert list(losses) == ["aerial|location", "aerial|season", "location|season", "loss"]
    parts = [losses[pair].item() for pair in losses if pair != "loss"]
    assert losses["loss"].item() == pytest.approx(np.mean(parts))


def test_views_are_left_alone():
    """Pitfall 10."""
    first, second = (torch.from_numpy(unit(np.random.default_rng(k), 5, 3)) for k in range(2))
    before = first.clone(), second.clone()
    info_nce(first, second, torch.tensor(5.0))
    assert torch.equal(first, before[0])
    assert torch.equal(second, before[1])


def tower(inputs):
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 16))


def unit_rows(towers, *inputs):
    return [nn.functional.normalize(net(x), dim=1) for net, x in zip(towers, inputs, strict=True)]


def learn(first, second, steps):
    """Two towers trained on pairs; their embeddings as a function."""
    torch.manual_seed(0)
    towers, scale = nn.ModuleList([tower(first.shape[1]), tower(second.shape[1])]), LogScale()
    optimiser = torch.optim.Adam([*towers.parameters(), *scale.parameters()], lr=3e-3)
    for _ in range(steps):
        views = unit_rows(towers, first, second)
        optimiser.zero_grad()
        info_nce(*views, scale()).backward()
        optimiser.step()

    @torch.no_grad()
    def embed(a, b):
        return unit_rows(towers, a, b)

    return embed


def recall(views):
    """R@1: share of rows whose best match in the other view is their own."""
    first, second = views
    return float(((first @ second.T).argmax(dim=1) == torch.arange(len(first))).float().mean())


def test_thirty_two_pairs_are_learnt_by_heart():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(32, 6, generator=generator), torch.randn(32, 10, generator=generator)
    assert recall(learn(first, second, 0)(first, second)) < 0.3
    assert recall(learn(first, second, 300)(first, second)) > 0.95


def test_held_out_pairs_are_found_if_there_is_something_to_learn_and_stay_at_chance_if_shuffled():
    """The same towers on pairs that share a cause, and on the same pairs torn apart."""
    generator = torch.Generator().manual_seed(1)
    cause = torch.randn(600, 4, generator=generator)
    first = cause @ torch.randn(4, 6, generator=generator)
    second = torch.tanh(cause @ torch.randn(4, 10, generator=generator))
    told, held = slice(0, 400), slice(400, 600)  # chance is 1 in 200
    true = learn(first[told], second[told], 150)
    assert recall(true(first[held], second[held])) > 0.3
    torn = learn(first[told], second[told][torch.randperm(400, generator=generator)], 150)
    assert recall(torn(first[held], second[held])) < 0.03
