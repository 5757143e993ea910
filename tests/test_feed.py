"""Which observations a step sees."""

from __future__ import annotations

import pytest
import torch

from train.errors import SpecError
from train.feed import Feed, seed_of


class Numbers:
    """Observations whose item is its row and a random number."""

    classes, views, dropped, digest = (), ("feature",), {}, "0"

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        return {"row": torch.tensor(row), "feature": torch.rand(2)}


def seen(feed, first, last, workers=0):
    return list(feed.batches(first, last, workers, pin=False))


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a
    )


def test_an_epoch_sees_every_row_at_most_once_and_the_next_another_order():
    feed = Feed(Numbers(23), 5)
    assert feed.steps_of_epoch == 4
    first = torch.cat([batch["row"] for batch in seen(feed, 0, 4)])
    second = torch.cat([batch["row"] for batch in seen(feed, 4, 8)])
    assert len(set(first.tolist())) == len(set(second.tolist())) == 20
    assert not torch.equal(first, second)


def test_starting_in_the_middle_sees_what_the_whole_run_would_have():
    feed = Feed(Numbers(23), 6, parts=2)
    assert same(seen(feed, 0, 7)[2 * 5 :], seen(feed, 5, 7))


def test_workers_change_neither_order_nor_randomness():
    feed = Feed(Numbers(12), 4)
    assert same(seen(feed, 0, 5), seen(feed, 0, 5, workers=2))


def test_ranks_together_see_the_batch_of_one_process_in_its_order():
    whole = seen(Feed(Numbers(24), 8, parts=2), 0, 3)
    ranks = [seen(Feed(Numbers(24), 8, parts=2, rank=rank, world=2), 0, 3) for rank in (0, 1)]
    for number, batch in enumerate(whole):
        assert torch.equal(batch["row"], torch.cat([ranks[rank][number]["row"] for rank in (0, 1)]))
        assert not torch.equal(ranks[0][number]["feature"], ranks[1][number]["feature"])


def test_reading_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    feed = Feed(Numbers(12), 4)
    _ = [feed.order(0), next(iter(feed.keys(0, 1)))]
    assert torch.equal(before, torch.random.get_rng_state())


def test_another_seed_another_order():
    assert not torch.equal(Feed(Numbers(50), 5, seed=0).order(0), Feed(Numbers(50), 5, seed=1).order(0))
    assert seed_of(1, 2) != seed_of(12) and seed_of(1, 2) != seed_of(2, 1) and 0 <= seed_of(7) < 2**63


@pytest.mark.parametrize(
    ("count", "batch", "parts", "world", "word"),
    [(3, 4, 1, 1, "3 observations"), (20, 9, 2, 1, "batch of 9"), (20, 4, 2, 2, "batch of 4")],
)
def test_batches_that_do_not_fit_are_refused(count, batch, parts, world, word):
    with pytest.raises(SpecError, match=word):
        Feed(Numbers(count), batch, parts, 0, 0, world)
