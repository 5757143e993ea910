"""Ranks against brute force and by hand, chance levels, and what must not leak between query and gallery."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from train.errors import DivergedError, SpecError
from train.evaluation.embed import embed, embed_views, pair_of
from train.evaluation.retrieval import (
    Groups,
    best_ranks,
    chance_at,
    chance_median,
    instances,
    nearest,
    retrieve,
    score,
)


def unit(rng, count, dim=8):
    x = rng.normal(size=(count, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def brute_force(query, gallery, groups):
    """Ranks by a full sort in Python, ties against us."""
    out = []
    for q, group in zip(query, groups.query, strict=True):
        near = gallery @ q
        right = (groups.gallery == group) & (group >= 0)
        if not right.any():
            out.append(0)
            continue
        out.append(1 + sum(s >= near[right].max() - 1e-6 for s in near[~right]))
    return np.array(out)


def test_ranks_of_four_by_hand():
    # similarities of query 0: .6 .8 0 -.6 | 1: .8 .6 1 -.8, worked from the unit vectors below
    gallery = np.array([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0], [-0.6, -0.8]], np.float32)
    query = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    levels = {
        "instance": Groups(np.array([0, 1]), np.array([0, 1, 2, 3])),
        "class": Groups(np.array([7, 5]), np.array([7, 5, 5, 7])),
        "none": Groups(np.array([-1, 9]), np.array([-1, 5, 5, 7])),
    }
    ranks = best_ranks(query, gallery, levels)
    assert ranks["instance"].tolist() == [2, 3]
    assert ranks["class"].tolist() == [2, 1]
    assert ranks["none"].tolist() == [0, 0]


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_ranks_equal_brute_force_for_any_chunk(chunk):
    rng = np.random.default_rng(0)
    query, gallery = unit(rng, 40), unit(rng, 61)
    gallery[13] = gallery[14]  # a tie
    groups = Groups(rng.integers(-1, 6, 40), rng.integers(-1, 8, 61))
    ranks = best_ranks(query, gallery, {"class": groups}, chunk)["class"]
    np.testing.assert_array_equal(ranks, brute_force(query, gallery, groups))
    order = np.argsort(-(query @ gallery.T), axis=1, kind="stable")[:, :5]
    found = nearest(query, gallery, 5, chunk)
    np.testing.assert_allclose(
        np.take_along_axis(query @ gallery.T, found, 1), np.take_along_axis(query @ gallery.T, order, 1), 1e-5
    )


def test_a_collapsed_encoder_gets_the_last_rank():
    same = np.tile(unit(np.random.default_rng(1), 1), (50, 1))
    groups = Groups(np.arange(50), np.arange(50))
    assert (best_ranks(same, same, {"instance": groups}, 16)["instance"] == 50).all()


def test_scores_by_hand():
    groups = Groups(np.arange(4), np.arange(20))
    scores = score(np.array([1, 6, 20, 3]), groups, "instance", "ground", "aerial")
    assert scores.recall == {1: 0.25, 5: 0.5, 10: 0.75}
    assert scores.chance == pytest.approx({1: 1 / 20, 5: 5 / 20, 10: 10 / 20})
    assert (scores.median_rank, scores.chance_rank) == (4.5, 10.0)
    assert (scores.queries, scores.unanswerable, scores.size) == (4, 0, 20)


def test_chance_with_several_right_partners_is_hypergeometric():
    right = np.array([1, 2, 5, 9, 10])
    for k in (1, 3, 10):
        wanted = [1 - math.comb(10 - r, k) / math.comb(10, k) for r in right]
        np.testing.assert_allclose(chance_at(right, 10, k), wanted, atol=1e-12)
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 6, 4000)
    drawn = [rng.choice(30, r, replace=False).min() + 1 for r in counts]
    assert abs(chance_median(counts, 30) - np.median(drawn)) <= 1


def test_queries_without_a_partner_are_counted_apart():
    rng = np.random.default_rng(3)
    labels = np.array([0, 0, 1, -1])
    found = retrieve({"ground": unit(rng, 4), "aerial": unit(rng, 4)}, np.full(4, -1), labels)
    by_level = {(r.level, r.query): r for r in found}
    assert by_level["class", "ground"].unanswerable == 1
    assert by_level["instance", "aerial"].unanswerable == 0
    assert len(by_level) == 4
    without = retrieve({"ground": unit(rng, 4), "aerial": unit(rng, 4)}, np.full(4, -1), np.full(4, -1))
    assert [r.level for r in without] == ["instance", "instance"]


def test_random_embeddings_stay_at_chance():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 10, 600)
    for result in retrieve({"ground": unit(rng, 600), "aerial": unit(rng, 600)}, np.full(600, -1), labels):
        for k, share in result.recall.items():
            low, high = binom.interval(0.9999, result.queries, result.chance[k])
            assert low <= share * result.queries <= high, (result.level, result.query, k)
        assert result.median_rank == pytest.approx(result.chance_rank, rel=0.25)


def test_photos_of_one_tile_are_right_for_each_other():
    rng = np.random.default_rng(5)
    tile = np.array([4, 4, 4, -1, -1, 2])
    assert instances(tile)[:3].tolist() == [4, 4, 4]
    assert len(set(instances(tile))) == 4
    ground, aerial = unit(rng, 6), unit(rng, 6)
    aerial[1] = aerial[2] = aerial[0]  # one image
    ground[:3] = aerial[0]
    found = retrieve({"ground": ground, "aerial": aerial}, tile, np.full(6, -1))[0]
    assert (
        best_ranks(ground, aerial, {"i": Groups(instances(tile), instances(tile))})["i"][:3].tolist()
        == [1] * 3
    )
    assert found.chance[1] == pytest.approx((3 * 3 / 6 + 3 * 1 / 6) / 6)


def test_shapes_that_do_not_belong_together_are_refused():
    rng = np.random.default_rng(6)
    with pytest.raises(SpecError, match="cannot retrieve"):
        best_ranks(unit(rng, 3), unit(rng, 3, 5), {})
    with pytest.raises(SpecError, match="cannot retrieve"):
        best_ranks(unit(rng, 3), unit(rng, 4), {"x": Groups(np.arange(3), np.arange(3))})
    with pytest.raises(SpecError, match="no ground whose class"):
        score(np.zeros(3, np.int64), Groups(np.arange(3), np.arange(3)), "class", "ground", "aerial")


class Pairs:
    """Observations whose aerial view shows the ground vector plus what the location says."""

    views, classes, dropped, digest = ("ground", "aerial", "lonlat"), ("a", "b"), {}, "pairs"

    def __init__(self, count=23, seed=0):
        rng = np.random.default_rng(seed)
        self.ground = torch.from_numpy(rng.normal(size=(count, 4)).astype(np.float32))
        self.place = torch.from_numpy(rng.uniform(-1, 1, (count, 2)))
        mix = torch.ones(2, 4) + torch.eye(2, 4)
        self.aerial = self.ground - self.place.float() @ mix
        self.mix = mix

    def __len__(self):
        return len(self.ground)

    def __getitem__(self, row):
        item = {"ground": self.ground[row], "aerial": self.aerial[row], "lonlat": self.place[row]}
        return {**item, "row": torch.tensor(row), "tile": torch.tensor(-1), "label": torch.tensor(row % 2)}

    def labels(self):
        return torch.arange(len(self)) % 2

    def lonlat(self):
        return self.place


class Meta(nn.Module):
    """The aerial tower needs its own location to find the ground vector; its batch norm could learn."""

    views = ("ground", "aerial", "lonlat")

    def __init__(self, mix):
        super().__init__()
        self.mix, self.calls = mix, 0
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(4).eval()

    def encode(self, view, batch):
        self.calls += 1
        x = batch["ground"] if view == "ground" else batch["aerial"] + batch["lonlat"].float() @ self.mix
        return nn.functional.normalize(self.drop(self.frozen(self.norm(x))), dim=1)


@pytest.mark.parametrize(("batch_size", "calls"), [(5, 5), (23, 1), (100, 1), (22, 2)])
def test_every_observation_is_encoded_once_and_none_is_lost(batch_size, calls):
    data = Pairs()
    model = Meta(data.mix)
    whole = embed(model, data, "ground", 1)
    model.calls = 0
    got = embed(model, data, "ground", batch_size)
    assert model.calls == calls == math.ceil(len(data) / batch_size)
    assert got.shape == (23, 4) and got.dtype == np.float32
    np.testing.assert_allclose(got, whole, atol=1e-6)


def test_embedding_leaves_modes_buffers_and_random_numbers_alone():
    data = Pairs()
    model = Meta(data.mix)
    model.train()
    model.frozen.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.random.get_rng_state()
    embed_views(model, data, ("ground", "aerial"), 5)
    assert model.training and model.norm.training and model.drop.training and not model.frozen.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)


def test_the_metadata_of_a_query_stays_its_own():
    data = Pairs(64)
    model = Meta(data.mix)
    right = retrieve(
        embed_views(model, data, ("ground", "aerial"), 16).vectors, np.full(64, -1), np.full(64, -1)
    )
    assert all(r.recall[1] == 1.0 for r in right)  # each tower is given its own row's location
    rng = np.random.default_rng(0)
    permuted = Pairs(64)
    permuted.place = permuted.place[rng.permutation(64)]
    queries = embed(model, data, "aerial", 16)
    gallery = embed(model, permuted, "ground", 16)  # whatever the gallery's metadata are
    ranks = best_ranks(queries, gallery, {"i": Groups(np.arange(64), np.arange(64))})["i"]
    assert (ranks == 1).all()
    wrong = embed(model, permuted, "aerial", 16)  # while the query's do count
    assert (best_ranks(wrong, gallery, {"i": Groups(np.arange(64), np.arange(64))})["i"] > 1).any()


def test_data_that_cannot_be_embedded_are_refused():
    data = Pairs(3)
    with pytest.raises(SpecError, match="no observations"):
        embed(Meta(data.mix), Pairs(0), "ground")
    with pytest.raises(SpecError, match="feature is asked for"):
        embed(Meta(data.mix), data, "feature")
    with pytest.raises(SpecError, match="without encode"):
        embed(nn.Linear(1, 1), data, "ground")
    data.ground[1] = torch.nan
    with pytest.raises(DivergedError, match="not finite"):
        embed(Meta(data.mix), data, "ground")


def test_the_pair_of_a_model_is_two_images_or_an_image_and_a_location():
    def model(*views):
        made = nn.Module()
        made.views = views
        return made

    assert pair_of(model("ground", "aerial", "lonlat", "date")) == ("ground", "aerial")
    assert pair_of(model("lonlat", "feature")) == ("feature", "lonlat")
    with pytest.raises(SpecError, match="two views"):
        pair_of(model("lonlat"))
