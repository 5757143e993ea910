"""Landscapes: what is said to be the truth is the truth, and images tell of it."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from train.batch import VIEWS, collate
from train.errors import SpecError
from train.landscape import Landscape, World
from train.landscape import open as open_landscape
from train.scenery import STYLES

SMALL = World(species=8, environment=4, pixels=16, cities=5)


@pytest.fixture(scope="module")
def land():
    return Landscape(3, SMALL)


def scattered(n, seed=0, world=SMALL):
    rng = np.random.default_rng(seed)
    return np.stack(
        [rng.uniform(world.west, world.east, n), rng.uniform(world.south, world.north, n)], axis=1
    )


def test_the_same_seed_gives_the_same_world_and_observations(land):
    again = Landscape(3, SMALL)
    at = scattered(20)
    np.testing.assert_array_equal(land.truth(at), again.truth(at))
    first, second = land.observations(50, 1), again.observations(50, 1)
    for row in (0, 49):
        assert all(torch.equal(first[row][name], second[row][name]) for name in first[row])
    assert first.digest == second.digest
    other = land.observations(50, 2)
    assert not np.array_equal(first.place, other.place) and other.digest != first.digest
    assert not np.array_equal(Landscape(4, SMALL).truth(at), land.truth(at))


def test_observations_are_a_data_set(land):
    data = land.observations(30)
    assert data.views == VIEWS and data.classes == land.classes and len(data) == 30
    batch = collate([data[row] for row in range(30)])
    assert {name: (tuple(value.shape[1:]), value.dtype) for name, value in batch.items()} == {
        "ground": ((3, 16, 16), torch.uint8),
        "aerial": ((4, 16, 16), torch.uint8),
        "feature": ((64,), torch.float32),
        "lonlat": ((2,), torch.float64),
        "date": ((2,), torch.float32),
        "label": ((), torch.int64),
        "tile": ((), torch.int64),
        "row": ((), torch.int64),
    }
    assert torch.equal(batch["label"], data.labels()) and torch.equal(batch["lonlat"], data.lonlat())
    assert land.observations(5, views=["aerial"]).views == ("aerial", "lonlat", "date")


def assert_observed(label, p):
    """Where a species is the likeliest, all are met in the shares that p (n, species) says."""
    strongest = p.argmax(axis=1)
    for species in np.unique(strongest):
        here = strongest == species
        seen = np.bincount(label[here], minlength=p.shape[1]) / here.sum()
        assert np.abs(seen - p[here].mean(axis=0)).max() < 4 / np.sqrt(here.sum())


def test_probabilities_are_those_that_species_are_drawn_with(land):
    """Observed shares in parts of the box agree with the truth there, over the year and in a month."""
    data = land.observations(40_000, 7, views=())
    p = land.truth(data.place)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    assert_observed(data.label, p)
    may = data.date[:, 0] == 5
    seen = np.bincount(data.label[may], minlength=8) / may.sum()
    expected = land.truth(data.place[may], 5).mean(axis=0)
    assert np.abs(seen - expected).max() < 2 / np.sqrt(may.sum())


def test_the_best_guess_is_right_as_often_as_said(land):
    data = land.observations(20_000, 8, views=())
    right = (land.truth(data.place).argmax(axis=1) == data.label).mean()
    assert right == pytest.approx(land.bayes_top1(data.place), abs=0.015)
    assert land.bayes_top1() == pytest.approx(land.bayes_top1(data.place), abs=0.02)


def test_default_worlds_are_neither_trivial_nor_hopeless():
    """Methods 7.3: the best map from places alone is right in 36-40 % of cases; ours in about that."""
    tops = [Landscape(seed).bayes_top1() for seed in range(3)]
    assert all(0.3 < top < 0.5 for top in tops)


def test_every_species_is_seen():
    counts = np.bincount(Landscape(0).observations(8_000, views=()).label, minlength=60)
    assert counts.min() >= 5
    assert counts.max() > 2 * np.median(counts)  # and some are common


def test_wider_niches_make_places_tell_less():
    narrow, wide = (Landscape(3, World(species=8, niche=width)).bayes_top1() for width in (0.5, 3.0))
    assert narrow > wide + 0.2


def test_fields_are_smooth_at_their_length_scales(land):
    at = scattered(400)
    e = land.environment(at)
    np.testing.assert_allclose(e.mean(axis=0), 0, atol=0.2)
    np.testing.assert_allclose(e.std(axis=0), 1, atol=0.15)
    step = land.environment(at + np.array([0.02, 0.0])) - e
    assert np.sqrt((step**2).mean(axis=0))[0] > 5 * np.sqrt((step**2).mean(axis=0))[-1]
    assert np.abs(step).max() < 0.5


def test_true_maps_lie_north_first(land):
    lonlat, maps = land.truth_map(6, 9)
    assert lonlat.shape == (6, 9, 2) and maps.shape == (8, 6, 9)
    assert (np.diff(lonlat[:, 0, 1]) < 0).all() and (np.diff(lonlat[0, :, 0]) > 0).all()
    assert lonlat[0, 0].tolist() == pytest.approx([SMALL.west + 0.5, SMALL.north - 0.75])
    np.testing.assert_allclose(maps[:, 2, 5], land.truth(lonlat[2, 5][None])[0])


def test_observers_prefer_cities_and_stay_inside():
    def near(share):
        world = World(species=4, pixels=16, cities=6, city_share=share)
        land = Landscape(1, world)
        place = land.observations(2000, views=()).place
        assert (place >= [world.west, world.south]).all() and (place <= [world.east, world.north]).all()
        return (np.linalg.norm(place[:, None] - land._cities, axis=2).min(axis=1) < 0.4).mean()

    assert near(0.9) > 0.8 > 0.3 > near(0.0)


def test_seasonal_species_have_seasons():
    land = Landscape(5, World(species=6, seasonal=1.0, pixels=16))
    data = land.observations(6000, views=())
    at = data.place[:100]
    assert not np.allclose(land.truth(at, 1), land.truth(at, 7), atol=0.05)
    for species in range(6):
        months = data.date[data.label == species, 0]
        angle = np.exp(2j * np.pi * months / 12)
        assert abs(angle.mean()) > 0.5
    steady = Landscape(5, World(species=6, seasonal=0.0, pixels=16))
    np.testing.assert_allclose(steady.truth(at, 1), steady.truth(at, 7), atol=1e-12)


RANGES = {"species": 6, "environment": 4, "pixels": 16, "seasonal": 0.0, "range_spread": 0.5}


def middle_of_range(land, species):
    """Mean place of a species, weighted by its true share."""
    lonlat, maps = land.truth_map(60, 60)
    return (lonlat * maps[species][..., None]).sum(axis=(0, 1)) / maps[species].sum()


def test_ranges_bound_species_and_leave_the_land_as_it_is():
    free, bound = Landscape(5, World(**(RANGES | {"range_spread": 0.0}))), Landscape(5, World(**RANGES))
    at = scattered(300, world=bound.world)
    np.testing.assert_array_equal(free.environment(at), bound.environment(at))
    np.testing.assert_array_equal(free.chips(at[:5]), bound.chips(at[:5]))

    def spread(land, species):
        lonlat, maps = land.truth_map(60, 60)
        away = ((lonlat - middle_of_range(land, species)) ** 2).sum(axis=-1)
        return np.sqrt((away * maps[species]).sum() / maps[species].sum())

    widths = np.array([[spread(land, species) for land in (free, bound)] for species in range(6)])
    assert widths[:, 1].mean() < 0.75 * widths[:, 0].mean()


def test_what_ranges_and_migration_say_is_what_is_observed():
    """Shares over the year and in a month are those of the observations, as without ranges."""
    land = Landscape(5, World(**(RANGES | {"migration": 3.0, "seasonal": 0.5})))
    data = land.observations(40_000, 7, views=())
    p = land.truth(data.place)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    assert_observed(data.label, p)
    for month in (1, 7):
        now = data.date[:, 0] == month
        seen = np.bincount(data.label[now], minlength=6) / now.sum()
        assert np.abs(seen - land.truth(data.place[now], month).mean(axis=0)).max() < 2 / np.sqrt(now.sum())


def test_migrants_are_further_north_in_july():
    land = Landscape(5, World(**(RANGES | {"migration": 3.0})))
    data = land.observations(20_000, views=())
    winter, summer = (np.isin(data.date[:, 0], months) for months in ([12, 1, 2], [6, 7, 8]))
    north = [[data.place[(data.label == k) & then, 1].mean() for then in (winter, summer)] for k in range(6)]
    assert (np.diff(north, axis=1) > 0.3).all()
    steady = Landscape(5, World(**RANGES))
    at = scattered(50, world=steady.world)
    np.testing.assert_allclose(steady.truth(at, 1), steady.truth(at, 7), atol=1e-12)


def test_the_mosaic_is_the_chips_edge_to_edge():
    world = World(
        species=4, environment=3, pixels=16, bands=3, west=-120.02, east=-119.7, south=38.0, north=38.2
    )
    land = Landscape(1, world)
    pixels, (west, south, east, north) = land.mosaic()
    assert pixels.dtype == np.uint8 and pixels.shape == (3, 4 * 16, 7 * 16)
    assert (west, south, east, north) == pytest.approx((-120.05, 38.0, -119.7, 38.2))
    chip = land.chips(np.array([[-120.01, 38.19], [-119.71, 38.01]]))
    np.testing.assert_array_equal(pixels[:, :16, :16], chip[0])
    np.testing.assert_array_equal(pixels[:, -16:, -16:], chip[1])


def test_a_survey_reads_what_observations_read(land):
    data = land.observations(20, views=["aerial"])
    found = land.survey(data.place)
    assert found.views == ("aerial", "lonlat") and (found.label == -1).all() and found.classes == land.classes
    np.testing.assert_array_equal(found.tile, data.tile)
    np.testing.assert_array_equal(found.place, data.place)
    batches = [each.batch(np.arange(20))["aerial"] for each in (found, data)]
    assert torch.equal(*batches)
    assert found.digest == land.survey(data.place).digest != land.survey(data.place[:5]).digest


def test_observations_of_one_tile_share_its_chip(land):
    data = land.observations(1500, views=["aerial"])
    tiles, counts = np.unique(data.tile, return_counts=True)
    assert counts.max() > 1 and len(tiles) > 300
    shared = np.flatnonzero(data.tile == tiles[counts.argmax()])
    assert torch.equal(data[int(shared[0])]["aerial"], data[int(shared[1])]["aerial"])
    other = np.flatnonzero(data.tile != data.tile[0])[0]
    assert not torch.equal(data[0]["aerial"], data[int(other)]["aerial"])
    # the same chip in another draw, and where a sweep reads it
    np.testing.assert_array_equal(
        land.chips(data.place[:5]), np.stack([data[row]["aerial"] for row in range(5)])
    )


def test_a_tile_holds_its_places(land):
    place = scattered(500)
    centre = land._centres(land._tiles(place))
    assert np.abs(centre - place).max() <= SMALL.tile / 2 + 1e-9


def predicted(x, y, train):
    model = LinearDiscriminantAnalysis(shrinkage="auto", solver="lsqr").fit(x[:train], y[:train])
    return model.score(x[train:], y[train:])


def test_images_tell_of_species_and_environment(land):
    """Both views know something, together more; without a view's signal there is nothing to know."""
    data = land.observations(3000)
    ground = (
        np.stack([data[row]["ground"] for row in range(3000)]).reshape(3000, 3, 4, 4, 4, 4).mean(axis=(3, 5))
    )
    ground = ground.reshape(3000, -1)
    chips = np.stack([data[row]["aerial"] for row in range(3000)]).astype(float)
    aerial = np.concatenate([chips.mean(axis=(2, 3)), chips.std(axis=(2, 3))], axis=1)
    chance = np.bincount(data.label).max() / 3000
    from_ground, from_aerial = predicted(ground, data.label, 2000), predicted(aerial, data.label, 2000)
    both = predicted(np.concatenate([ground, aerial], axis=1), data.label, 2000)
    assert from_ground > chance + 0.1 and from_aerial > chance + 0.1
    assert both > max(from_ground, from_aerial) + 0.02
    shuffled = np.random.default_rng(0).permutation(data.label)
    assert abs(predicted(aerial, shuffled, 2000) - chance) < 0.08
    assert predicted(aerial, data.label, 2000) < land.bayes_top1(data.place[2000:]) + 0.03


def features_of(table):
    return np.asarray(table.readers["feature"].array, np.float64)


def test_style_moves_features_alone_and_in_few_directions(land):
    styled_land = Landscape(3, replace(SMALL, style=1.5))
    plain, styled = (each.observations(2000, 1) for each in (land, styled_land))
    for view in ("ground", "aerial"):
        np.testing.assert_array_equal(plain.readers[view].array, styled.readers[view].array)
    for name in ("label", "place", "date", "tile"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(styled, name))
    style = features_of(styled) - features_of(plain)
    strengths = np.linalg.svd(style, compute_uv=False) / np.sqrt(len(style))
    assert strengths[STYLES:].max() < 1e-5 < strengths[STYLES - 1]  # float32 keeps no more
    each = 1.5 * np.sqrt(SMALL.features / STYLES)
    np.testing.assert_allclose(strengths[:STYLES], each, rtol=0.1)  # alike in its directions
    assert np.sqrt((style**2).mean()) == pytest.approx(1.5, rel=0.03)
    around = styled_land.environment(styled.place)
    assert (
        np.abs(np.corrcoef(np.c_[around, style].T)[:4, 4:]).max() < 0.1
    )  # 256 of them, each of deviation 0.022
    again, other = Landscape(3, replace(SMALL, style=1.5)).observations(2000, 1), land.observations(2000, 2)
    np.testing.assert_array_equal(features_of(again), features_of(styled))
    assert len({table.digest for table in (plain, styled, other)}) == 3 and again.digest == styled.digest


def test_worlds_without_style_are_known_by_their_old_digests():
    told = {name: value for name, value in asdict(SMALL).items() if name != "style"}
    text = json.dumps([3, told, 5, 0, ["feature"]])
    assert (
        Landscape(3, SMALL).observations(5, views=["feature"]).digest
        == hashlib.sha256(text.encode()).hexdigest()
    )
    assert Landscape(101, World()).observations(300, 3).digest.startswith("9ebe2399777f963e")


def test_features_narrower_than_style_have_it_in_all_directions():
    plain, styled = (
        features_of(
            Landscape(1, replace(SMALL, features=3, style=style)).observations(500, views=["feature"])
        )
        for style in (0.0, 2.0)
    )
    np.testing.assert_allclose((styled - plain).std(axis=0), 2.0, rtol=0.15)


def test_photos_of_a_species_can_be_taken_anywhere(land):
    at = scattered(6)
    photos = land.photos(2, at)
    assert photos.shape == (6, 3, 16, 16) and photos.dtype == np.uint8
    np.testing.assert_array_equal(photos, land.photos(2, at))
    assert not np.array_equal(photos, land.photos(3, at))


def test_images_are_made_in_pieces():
    """Memory beside the images themselves does not grow with their number."""
    land = Landscape(0, World(species=6, pixels=24))
    land.observations(10)
    extra = []
    for n in (600, 2400):
        tracemalloc.start()
        data = land.observations(n, views=["ground"])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        extra.append(peak - data.readers["ground"].array.nbytes)
    assert extra[1] < 1.5 * extra[0]


def test_recipes_open_landscapes_by_options():
    data = open_landscape(seed=3, n=7, draw=2, world={"species": 5, "pixels": 16})
    assert torch.equal(
        data[3]["ground"], Landscape(3, World(species=5, pixels=16)).observations(7, 2)[3]["ground"]
    )


@pytest.mark.parametrize(
    "ask",
    [
        lambda: open_landscape(world={"colour": 1}),
        lambda: World(west=10, east=-10),
        lambda: World(south=-95),
        lambda: World(species=0),
        lambda: World(finest=5.0, coarsest=1.0),
        lambda: World(city_share=1.5),
        lambda: World(photo_noise=-1),
        lambda: World(style=-0.1),
        lambda: World(range_spread=-1),
        lambda: World(migration=1.0),
        lambda: Landscape(0, SMALL).observations(0),
        lambda: Landscape(0, SMALL).observations(5, views=["sound"]),
        lambda: Landscape(0, SMALL).truth(scattered(2), 13),
    ],
)
def test_worlds_that_make_no_sense(ask):
    with pytest.raises(SpecError) as refusal:
        ask()
    assert refusal.value.change
