"""Splits and few-label subsets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.data.splits import PARTS, RATIOS, block_split, blocks_of, label_folds, label_subsets, random_split
from train.data.table import Selection
from train.errors import SpecError
from train.landscape import Landscape, World


def rng(seed=0):
    return np.random.default_rng(seed)


@given(st.integers(0, 5), st.integers(1, 400))
def test_subsets_are_nested_stratified_and_hold_every_class(seed, n):
    """Pitfall 18: subset(0.25 %) in subset(0.5 %) in ... in all, at least one of each class."""
    labels = rng(seed).choice([0, 0, 0, 1, 2, 5, -1], n)
    labels[0] = 3
    found = label_subsets(labels, seed=seed)
    assert list(found) == list(RATIOS)
    counts = np.bincount(labels[labels >= 0])
    for small, large in itertools.pairwise(RATIOS):
        assert set(found[small]) <= set(found[large])
    for ratio, rows in found.items():
        assert (np.diff(rows) > 0).all() and rows.dtype == np.int64
        have = np.bincount(labels[rows], minlength=len(counts))
        expected = [max(1, round(count * ratio)) if count else 0 for count in counts]
        assert have.tolist() == expected
    np.testing.assert_array_equal(found[1.0], np.flatnonzero(labels >= 0))


def test_subsets_follow_the_seed_and_nothing_else():
    labels = rng().integers(0, 9, 500)
    first = label_subsets(labels, [0.1, 0.5], seed=4)
    np.testing.assert_array_equal(label_subsets(labels, [0.1], seed=4)[0.1], first[0.1])
    assert not np.array_equal(label_subsets(labels, [0.1], seed=5)[0.1], first[0.1])
    np.testing.assert_array_equal(first[0.1][:5], label_subsets(labels.copy(), [0.5, 0.1], seed=4)[0.1][:5])


@pytest.mark.parametrize(
    ("labels", "ratios", "said"),
    [
        ([0, 1], [5.0], "not percent"),
        ([0, 1], [0.0], "ratio 0"),
        ([0], [], "no ratio"),
        ([-1, -1], [0.1], "label"),
    ],
)
def test_subsets_that_make_no_sense(labels, ratios, said):
    with pytest.raises(SpecError, match=said):
        label_subsets(np.array(labels), ratios)


@given(st.integers(4, 300), st.integers(0, 3))
def test_random_split_uses_every_row_once(count, seed):
    """Methods 3.6, defect 10: any number of rows can be split."""
    split = random_split(count, (0.6, 0.2, 0.2), seed)
    rows = np.concatenate([getattr(split, name) for name in PARTS])
    np.testing.assert_array_equal(np.sort(rows), np.arange(count))
    assert abs(len(split.train) - 0.6 * count) <= 1


def test_random_split_keeps_groups_together():
    groups = rng().integers(-1, 40, 300)
    split = random_split(300, seed=1, groups=groups)
    seen = [set(groups[getattr(split, name)]) - {-1} for name in PARTS]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert sum(len(getattr(split, name)) for name in PARTS) == 300
    alone = groups == -1
    assert len({name for name in PARTS if alone[getattr(split, name)].any()}) > 1


def test_folds_hold_every_class_and_keep_groups_together():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(20), 10)
    groups = rng.integers(0, 6, len(labels))
    fold = label_folds(labels, groups, 3)
    for label, group in itertools.product(range(20), range(6)):
        assert len(np.unique(fold[(labels == label) & (groups == group)])) <= 1
    counts = np.stack([np.bincount(labels[fold == number], minlength=20) for number in range(3)])
    assert counts.sum() == len(labels) and counts.min() >= 1
    assert np.ptp(counts.sum(axis=1)) < 20  # folds are about equal
    alone = label_folds(labels, np.arange(len(labels)), 3)
    assert np.ptp(np.stack([np.bincount(labels[alone == n]) for n in range(3)]), axis=0).max() <= 1
    assert np.array_equal(fold, label_folds(labels, groups, 3))
    assert not np.array_equal(fold, label_folds(labels, groups, 3, seed=1))
    with pytest.raises(SpecError, match="Ask for 2 or more"):
        label_folds(labels, groups, 1)
    with pytest.raises(SpecError, match="Ask for fewer folds"):
        label_folds(labels[:10], np.zeros(10, np.int64), 2)


def test_two_parts_are_enough():
    split = random_split(10, (0.8, 0.2, 0.0))
    assert (len(split.train), len(split.validation), len(split.test)) == (8, 2, 0)


def uniform(n=4000, seed=0):
    lat = np.degrees(np.arcsin(rng(seed).uniform(-1, 1, n)))
    return np.stack([rng(seed + 1).uniform(-180, 180, n), lat], axis=1)


def test_blocks_are_equally_large_on_the_sphere():
    counts = np.bincount(blocks_of(uniform(200_000), 15.0))
    assert (counts > 0).all()
    assert counts.std() / counts.mean() < 0.12
    assert len(counts) == pytest.approx(4 * np.pi / np.radians(15) ** 2, rel=0.02)


def test_blocks_know_no_seam_and_no_corner_at_the_pole():
    seam = np.array([[180.0, 10.0], [-180.0, 10.0]])
    assert len(set(blocks_of(seam, 5.0))) == 1
    pole = np.stack([np.linspace(-180, 180, 50), np.full(50, 90.0)], axis=1)
    assert len(set(blocks_of(pole, 5.0))) <= 3
    assert blocks_of(pole, 5.0).max() < 2000


def chord_km(a, b):
    def xyz(lonlat):
        lam, phi = np.radians(lonlat).T
        return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=1)

    return 6371.0 * np.arccos(np.clip(xyz(a) @ xyz(b).T, -1, 1))


def test_no_block_is_shared_and_the_buffer_is_kept():
    lonlat = np.concatenate([uniform(1500), [[179.999, 0.2], [-179.999, 0.2]]])
    plain = block_split(lonlat, 10.0, seed=3)
    blocks = blocks_of(lonlat, 10.0)
    seen = [set(blocks[getattr(plain, name)]) for name in PARTS]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    assert plain.dropped == {}
    assert sum(len(getattr(plain, name)) for name in PARTS) == len(lonlat)
    assert len(plain.train) == pytest.approx(0.7 * len(lonlat), rel=0.05)
    apart = block_split(lonlat, 10.0, seed=3, buffer_km=150.0)
    assert chord_km(lonlat[apart.train], lonlat[apart.test]).min() >= 150
    assert chord_km(lonlat[apart.train], lonlat[apart.validation]).min() >= 150
    assert chord_km(lonlat[apart.validation], lonlat[apart.test]).min() >= 150
    lost = len(lonlat) - sum(len(getattr(apart, name)) for name in PARTS)
    assert apart.dropped == {"nearer than the buffer to another part": lost} and lost > 0
    np.testing.assert_array_equal(apart.test, plain.test)


def test_places_that_are_unknown_are_counted():
    lonlat = uniform(300)
    lonlat[7] = np.nan
    split = block_split(lonlat, 20.0)
    assert split.dropped == {"no coordinates": 1}
    assert 7 not in np.concatenate([getattr(split, name) for name in PARTS])


def test_splits_that_make_no_sense():
    lonlat = uniform(50)
    for ask in (
        lambda: random_split(10, (0.5, 0.5)),
        lambda: random_split(10, (0.5, 0.2, 0.2)),
        lambda: random_split(2),
        lambda: block_split(lonlat, 0.0),
        lambda: block_split(lonlat, 91.0),
        lambda: block_split(lonlat, 10.0, buffer_km=-1),
        lambda: block_split(lonlat, 10.0, buffer_km=9000),
        lambda: block_split(np.zeros((20, 2)), 10.0),  # all in one block
    ):
        with pytest.raises(SpecError) as refusal:
            ask()
        assert refusal.value.change


def test_selection_is_a_data_set_of_its_own():
    whole = Landscape(0, World(species=4, pixels=16)).observations(10)
    part = Selection(whole, [7, 2])
    assert len(part) == 2
    assert part[0]["row"] == 0 and part[0]["label"] == whole.labels()[7]
    assert (part[1]["ground"] == whole[2]["ground"]).all()
    np.testing.assert_array_equal(part.lonlat(), whole.lonlat()[[7, 2]])
    with pytest.raises(IndexError):
        part[2]
    for rows in ([], [10], [-1]):
        with pytest.raises(SpecError):
            Selection(whole, rows)
