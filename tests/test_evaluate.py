"""Evaluation from end to end on made-up observations: who may see what, what is chosen where, the command."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import nn

from train.checkpoint import save_model
from train.data import registry
from train.errors import DivergedError, SpecError
from train.evaluate import evaluate, fresh_model, line, main, parser, protocol_of
from train.evaluation.finetune import finetune, flipped
from train.evaluation.parts import Pool, divide, open_pool, places
from train.evaluation.report import Record, differences, document, spread, summary, table, to_json
from train.evaluation.rerank import match_scores, reranked
from train.evaluation.retrieval import Groups
from train.evaluation.tasks import Arms, Protocol, classification, retrieval, usable
from train.evaluation.tuning import TuningConfig, tune
from train.objectives.csp import Csp, CspConfig
from train.recipe import DataConfig, Recipe, TrainingConfig, split_of
from train.spec import LocationSpec

QUICK = TuningConfig(learning_rates=(3e-3, 3e-2), batch=32, round_steps=10, rounds=6, patience=3)
CLASSES = 4
WIDTH = 24


class Made:
    """Two views that show one half of the class each, behind a fixed mixture; places that tell it, too."""

    classes, views, dropped = tuple("abcd"), ("ground", "aerial", "feature", "lonlat"), {"no photo": 2}

    def __init__(self, count=240, seed=0, width=WIDTH):
        rng = np.random.default_rng(seed)
        self.digest = f"made {count} {seed}"
        self.place = rng.uniform([-120, 33], [-110, 43], (count, 2))
        quarter = np.floor((self.place - [-120, 33]) / 1.0).astype(int) % 2
        self.label = (quarter[:, 0] * 2 + quarter[:, 1]).astype(np.int64)
        mix = np.random.default_rng(5).normal(size=(3, width))
        noise = rng.normal(size=(count, 1))  # both views show it, so pairs can be told
        shown = [
            np.column_stack([3 * quarter[:, k] - 1.5, noise[:, 0], 5 * rng.normal(size=count)]) @ mix
            for k in (0, 1)
        ]
        shown = [x + 0.7 * rng.normal(size=x.shape) for x in shown]
        self.shown = [torch.from_numpy(x.astype(np.float32)) for x in shown]
        soft = 1.5 * np.eye(CLASSES)[self.label] + rng.normal(size=(count, CLASSES))
        self.feature = torch.from_numpy(soft.astype(np.float32))
        self.reads = 0

    def __len__(self):
        return len(self.label)

    def __getitem__(self, row):
        self.reads += 1
        item = {"ground": self.shown[0][row], "aerial": self.shown[1][row], "feature": self.feature[row]}
        numbers = {"label": torch.tensor(self.label[row]), "tile": torch.tensor(-1), "row": torch.tensor(row)}
        return {**item, "lonlat": torch.from_numpy(self.place[row]), **numbers}

    def labels(self):
        return torch.from_numpy(self.label)

    def lonlat(self):
        return torch.from_numpy(self.place)


class Towers(nn.Module):
    """A linear tower a view behind a batch norm; a trained one has undone the mixture."""

    views = ("ground", "aerial")

    def __init__(self, trained, seed=0, width=WIDTH):
        super().__init__()
        torch.manual_seed(seed)
        self.norm = nn.BatchNorm1d(3)
        self.towers = nn.ModuleDict({view: nn.Linear(width, 3, bias=False) for view in self.views})
        self.drop = nn.Dropout(0.1)
        self.calls = 0
        undo = np.linalg.pinv(np.random.default_rng(5).normal(size=(3, width))).T
        if trained:  # the view's own half of the class, and what both share
            for tower in self.towers.values():
                with torch.no_grad():
                    tower.weight.copy_(torch.from_numpy(undo * np.array([[1.0], [1.0], [0.0]])))

    def features(self, view, batch):
        self.calls += 1
        return self.drop(self.norm(self.towers[view](batch[view])))

    def encode(self, view, batch):
        shared = self.features(view, batch) * torch.tensor([0.0, 1.0, 0.0])
        return nn.functional.normalize(torch.cat([shared, torch.ones(len(shared), 1)], dim=1), dim=1)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def pool_of(count=240, seed=0, seen=0.0):
    fresh = np.random.default_rng(3).random(count) >= seen
    return Pool(Made(count, seed), fresh)


def arms():
    return Arms(Towers(True), lambda seed: Towers(False, seed))


# --- who may see what


@pytest.mark.parametrize("split", ["random", "blocks"])
@pytest.mark.parametrize("seen", [0.0, 0.6])
def test_validation_and_test_rows_were_never_trained_on(split, seen):
    pool = pool_of(400, seen=seen)
    parts = divide(pool, split, 0)
    together = np.concatenate([parts.train, parts.validation, parts.test])
    assert len(np.unique(together)) == len(together)
    assert pool.fresh[parts.validation].all() and pool.fresh[parts.test].all()
    assert min(len(parts.train), len(parts.validation), len(parts.test)) > 10
    again, other = divide(pool, split, 0), divide(pool, split, 1)
    np.testing.assert_array_equal(parts.test, again.test)
    assert not np.array_equal(parts.test, other.test)


def test_blocks_are_not_shared_and_a_buffer_keeps_them_apart():
    pool = pool_of(400)
    place = pool.lonlat()
    parts = divide(pool, "blocks", 0, side=2.0, buffer_km=40.0)
    test, train = (np.radians(place[rows]) for rows in (parts.test, parts.train))
    a, b = test[:, None], train[None]
    half = np.sin((a[..., 1] - b[..., 1]) / 2) ** 2
    half = half + np.cos(a[..., 1]) * np.cos(b[..., 1]) * np.sin((a[..., 0] - b[..., 0]) / 2) ** 2
    assert 2 * 6371 * np.arcsin(np.sqrt(half)).min() >= 40.0 - 1e-6


def test_photos_of_one_place_stay_together():
    pool = pool_of(60)
    pool.data.place[30:] = pool.data.place[:30]
    parts = divide(pool, "random", 0)
    for rows in (parts.train, parts.validation, parts.test):
        assert set((rows + 30) % 60) == set(rows)
    assert places(np.array([[np.nan, 1.0], [2.0, 3.0], [2.00001, 3.0], [2.1, 3.0]])).tolist() == [-1, 0, 0, 1]


def test_parts_without_rows_are_refused():
    pool = pool_of(60)
    none = Pool(pool.data, np.zeros(60, bool))
    with pytest.raises(SpecError, match=r"cannot (divide|split)"):
        divide(none, "blocks", 0)
    few = np.zeros(60, bool)
    few[0] = True
    with pytest.raises(SpecError, match=r"cannot (divide|split)"):
        divide(Pool(pool.data, few), "random", 0)


def test_observations_without_a_location_are_left_out_only_where_locations_are_embedded():
    pool = pool_of(40)
    pool.data.place[:7] = np.nan
    assert len(usable(pool, Towers(True)).data) == 40
    model = nn.Module()
    model.views = ("lonlat", "feature")
    assert len(usable(pool, model).data) == 33


# --- tuning and fine-tuning


class Slope:
    """A number that is to come near 3, where validation wants 2: the best round is on the way."""

    def __init__(self, diverge=()):
        self.diverge = diverge

    def start(self):
        made = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            made.weight.zero_()
        return made

    def head(self, network):
        return network

    def losses(self, network):
        while True:
            yield lambda: (network.weight - 3.0).square().sum()

    def validation(self, network):
        return abs(float(network.weight.detach()) - 2.0)


def test_the_best_round_and_rate_by_validation_are_kept():
    config = TuningConfig(
        (0.01, 0.1), head_factor=1.0, weight_decay=0.0, rounds=40, patience=3, round_steps=1
    )
    before = torch.random.get_rng_state()
    fitted = tune(Slope(), config, 1, 0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (
        abs(float(fitted.network.weight.detach()) - 2.0) == pytest.approx(fitted.loss) and fitted.loss < 0.01
    )
    assert fitted.learning_rate == 0.1 and fitted.rounds == 20  # Adam's step is the rate: 2 after 20
    assert not fitted.network.training


def test_a_rate_that_diverges_is_passed_over_and_all_of_them_are_refused():
    class Wild(Slope):
        def losses(self, network):
            while True:
                yield lambda: (network.weight / 0.0).square().sum()

    class Broken(Slope):
        def validation(self, network):
            if abs(float(network.weight.detach())) > 4.0:
                raise DivergedError("cannot predict classes", "a logit that is not finite", "Lower it.")
            return super().validation(network)

    config = TuningConfig((0.1, 50.0), head_factor=1.0, rounds=5, round_steps=1)
    assert tune(Broken(), config, 1, 0).learning_rate == 0.1
    with pytest.raises(DivergedError, match="every learning rate"):
        tune(Wild(), TuningConfig((0.1, 1.0)), 1, 0)
    with pytest.raises(SpecError, match="cannot fine-tune"):
        TuningConfig(learning_rates=(0.0,))


def test_fine_tuning_learns_from_both_views_and_leaves_the_model_as_it_was():
    pool = pool_of()
    model = Towers(False)
    model.train()
    before = state(model)
    parts = divide(pool, "random", 0)
    truth = pool.labels()[parts.test]
    top1 = {}
    for views in (("ground",), ("aerial",), ("ground", "aerial")):
        given = (model, pool.data, views, parts.train, parts.validation, parts.test, QUICK, 0)
        prediction, chosen = finetune(*given)
        top1[views] = prediction.scores(truth)["top1"]
        assert chosen["learning_rate"] in QUICK.learning_rates and chosen["rounds"] >= 1
    assert top1["ground", "aerial"] > 0.85
    assert 0.25 < top1["ground",] < 0.7 and 0.25 < top1["aerial",] < 0.7
    assert model.training and unchanged(model, before)
    np.testing.assert_array_equal(finetune(*given)[0].log_p, prediction.log_p)


def test_flips_mirror_images_and_nothing_else():
    torch.manual_seed(0)
    batch = {"ground": torch.arange(24.0).reshape(4, 1, 2, 3), "lonlat": torch.arange(8.0).reshape(4, 2)}
    out = flipped(batch)
    same = (out["ground"] == batch["ground"]).flatten(1).all(1)
    mirrored = (out["ground"] == batch["ground"].flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all() and same.any() and mirrored.any()
    assert torch.equal(out["lonlat"], batch["lonlat"])


# --- the tasks


def test_a_probe_reads_and_encodes_every_observation_once_and_moves_no_buffer():
    pool, both = pool_of(), arms()
    both.pretrained.train()
    before = state(both.pretrained)
    protocol = Protocol(seeds=1, methods=("probe",), batch=50, ratios=(0.1, 1.0))
    records = list(classification(both, pool, protocol))
    assert both.pretrained.calls == 2 * math.ceil(240 / 50)  # two views, whatever splits and shares
    assert pool.data.reads == 2 * 240  # two arms
    assert both.pretrained.training and unchanged(both.pretrained, before)
    views = {r.about["views"] for r in records if r.arm == "pretrained"}
    assert views == {"ground", "aerial", "concatenated", "late"}


def gains_of(records):
    """(views, percent) -> paired difference in top-1."""
    rows = [r for r in differences(records) if r["score"] == "top1"]
    return {(r["about"]["views"], r["about"]["percent"]): r for r in rows}


def test_both_arms_meet_the_same_labels_and_the_pretrained_one_wins_where_they_are_few():
    protocol = Protocol(seeds=2, splits=("random",), ratios=(0.05, 1.0), methods=("probe",))
    records = list(classification(arms(), pool_of(), protocol))
    sizes = {}
    for record in (r for r in records if r.arm != "chance"):
        key = (record.seed, record.about["percent"])
        assert sizes.setdefault(key, record.chosen["train_rows"]) == record.chosen["train_rows"]
        assert record.scores["unseen"] == 0.0  # at least one label of every class
    assert sizes[0, 5.0] < 15 < sizes[0, 100.0]
    gain = gains_of(records)["concatenated", 5.0]
    assert gain["n"] == 2 and gain["mean"] > 0.1
    assert max(r.scores["top1"] for r in records if r.arm == "chance") < 0.45


def test_arms_that_can_learn_the_same_end_alike_when_labels_abound():
    protocol = Protocol(seeds=1, splits=("random",), methods=("finetune",), tuning=QUICK)
    records = list(classification(arms(), pool_of(), protocol))
    found = {(r.arm, r.about.get("views")): r.scores["top1"] for r in records}
    assert min(found["pretrained", "concatenated"], found["scratch", "concatenated"]) > 0.9
    assert abs(gains_of(records)["concatenated", 100.0]["mean"]) < 0.1


def test_retrieval_of_trained_towers_beats_scratch_and_chance():
    records = list(retrieval(arms(), pool_of(200, seen=0.5), Protocol(seeds=2)))
    fresh = pool_of(200, seen=0.5).fresh.sum()
    instance = [r for r in records if r.about["level"] == "instance"]
    assert {r.about["views"] for r in instance} == {"ground to aerial", "aerial to ground"}
    assert all(r.about["gallery"] == fresh for r in records)
    for record in instance:
        if record.arm == "chance":
            assert record.scores["recall@10"] == pytest.approx(10 / fresh)
        elif record.arm == "pretrained":
            assert record.scores["recall@10"] > 0.3 and record.chosen["queries"] == fresh
    assert [r.seed for r in instance if r.arm == "pretrained"] == [0, 0]  # one gallery, one value
    drawn = list(retrieval(arms(), pool_of(200), Protocol(seeds=2, gallery=50)))
    assert {r.seed for r in drawn if r.arm == "pretrained"} == {0, 1}
    with pytest.raises(SpecError, match="cannot draw a gallery"):
        list(retrieval(arms(), pool_of(20), Protocol(gallery=21)))


def test_csp_is_scored_by_image_location_product_and_fusion():
    spec = LocationSpec("grid", {"r_min": 0.2, "r_max": 20.0, "count": 8}, hidden=32, blocks=1, dim=16)
    config = CspConfig(feature_width=CLASSES, location=spec, dropout=0.1, area=(-120.0, 33.0, -110.0, 43.0))

    def made(seed):
        torch.manual_seed(seed)
        return Csp(config)

    pool = pool_of(500)
    protocol = Protocol(seeds=1, splits=("random",), tuning=replace(QUICK, rounds=15, batch=64))
    records = list(classification(Arms(made(9), made), pool, protocol))
    tuned = {
        r.about["views"]: r.scores
        for r in records
        if r.arm == "pretrained" and r.about["method"] == "finetune"
    }
    assert set(tuned) == {"feature", "lonlat", "product", "fused"}
    chance = next(r.scores for r in records if r.arm == "chance")
    assert tuned["feature"]["top1"] > chance["top1"] + 0.1
    assert tuned["lonlat"]["top1"] > chance["top1"] + 0.1
    assert tuned["fused"]["top1"] > max(tuned["feature"]["top1"], tuned["lonlat"]["top1"])
    assert tuned["fused"]["log_loss"] < tuned["feature"]["log_loss"]
    images = [
        r.scores for r in records if r.about.get("views") == "feature" and r.about["method"] == "finetune"
    ]
    assert images[0] == images[1]  # the image's part is the same in both arms
    probes = {r.about["views"] for r in records if r.about.get("method") == "probe"}
    assert probes == {"feature", "lonlat", "concatenated", "late"}


# --- re-ranking


def test_reranking_by_hand():
    groups = Groups(np.array([0, 1, 2, -1]), np.array([0, 1, 2, 3]))
    shortlist = np.array([[1, 0], [1, 3], [0, 1], [2, 3]])
    scores = np.array([[0.1, 0.9], [0.5, 0.5], [9.0, 8.0], [1.0, 2.0]], np.float32)
    # found and put first; a tie counts against us; not in the list: as before, beyond it; no partner: 0
    assert reranked(np.array([2, 1, 4, 0]), shortlist, scores, groups).tolist() == [1, 2, 4, 0]


class Oracle(nn.Module):
    """Knows a pair by its location, which is the aerial side's alone; counts calls, notes rows."""

    def __init__(self, places_of_photos):
        super().__init__()
        self.places_of_photos, self.pairs = places_of_photos, []

    def match(self, ground, aerial):
        self.pairs.append((ground["row"], aerial["row"]))
        return -(self.places_of_photos[ground["row"]] - aerial["lonlat"]).square().sum(dim=1).float()


@pytest.mark.parametrize("query", ["ground", "aerial"])
def test_pairs_are_matched_with_the_metadata_of_their_aerial_side(query):
    data = Made(30)
    oracle = Oracle(data.lonlat())
    shortlist = np.stack([(np.arange(30) + k) % 30 for k in (1, 0, 2)], axis=1)
    scores = match_scores(oracle, data, shortlist, query, batch_size=7)
    assert scores.shape == (30, 3) and (scores.argmax(axis=1) == 1).all()
    assert len(oracle.pairs) == 15  # two queries of three candidates in a call of at most seven
    ground, aerial = (torch.cat(rows) for rows in zip(*oracle.pairs, strict=True))
    asking, answering = (ground, aerial) if query == "ground" else (aerial, ground)
    np.testing.assert_array_equal(asking, np.repeat(np.arange(30), 3))
    np.testing.assert_array_equal(answering, shortlist.ravel())
    with pytest.raises(SpecError, match="cannot match pairs"):
        match_scores(Towers(True), data, shortlist, query)


def test_a_matcher_improves_what_it_reranks():
    pool = pool_of(120)
    both = replace(arms(), matcher=Oracle(pool.data.lonlat()))
    records = list(retrieval(both, pool, Protocol(seeds=1, short_list=30)))
    found = {
        (r.about["method"], r.about["views"], r.about["level"]): r.scores
        for r in records
        if r.arm == "pretrained"
    }
    for views in ("ground to aerial", "aerial to ground"):
        first, then = (found[method, views, "instance"] for method in ("embedding", "re-ranked"))
        assert then["recall@1"] > first["recall@1"] + 0.3
        assert then["median_rank"] == 1.0


# --- the report


def made_records():
    about = {"split": "random", "percent": 10.0, "method": "probe", "views": "ground"}
    values = {"pretrained": (0.5, 0.7, 0.6), "scratch": (0.4, 0.5, 0.6)}
    records = [
        Record(about, arm, seed, {"top1": v, "log_loss": math.nan})
        for arm, vs in values.items()
        for seed, v in enumerate(vs)
    ]
    guess = {"split": "random", "percent": 10.0}
    return [*records, Record(guess, "chance", 0, {"top1": 0.1})]


def test_means_deviations_and_paired_differences_by_hand():
    rows = {(r["arm"], r["score"]): r for r in summary(made_records())}
    assert set(rows) == {("pretrained", "top1"), ("scratch", "top1"), ("chance", "top1")}
    assert rows["pretrained", "top1"]["mean"] == pytest.approx(0.6)
    assert rows["pretrained", "top1"]["sd"] == pytest.approx(0.1)
    assert (rows["chance", "top1"]["sd"], rows["chance", "top1"]["n"]) == (None, 1)
    (gain,) = differences(made_records())
    assert gain["mean"] == pytest.approx(0.1) and gain["sd"] == pytest.approx(0.1) and gain["n"] == 3
    (partial,) = differences(made_records()[1:])  # a seed without its partner is no pair
    assert partial["n"] == 2 and partial["mean"] == pytest.approx(0.1)
    assert spread([]) is None


def test_the_report_is_json_with_null_for_what_does_not_exist():
    report = document(
        made_records(), task="few-label", run="runs/x", objective="crisp", data={}, protocol={}, seconds=1.0
    )
    read = json.loads(to_json(report))
    assert read["format"] == "train.evaluate/1"
    assert set(read) == {
        "format",
        "task",
        "run",
        "objective",
        "data",
        "protocol",
        "seconds",
        "records",
        "summary",
        "differences",
    }
    assert set(read["records"][0]) == {"about", "arm", "seed", "scores", "chosen"}
    assert read["records"][0]["scores"] == {"top1": 0.5, "log_loss": None}
    assert "NaN" not in to_json(report)
    drawn = table(report)
    cells = [list(column.cells) for column in drawn.columns]
    assert [c[0] for c in cells] == [
        "random, 10 % of labels, probe, ground", "top1",
        "60.0 ± 10.0", "50.0 ± 10.0", "+10.0 ± 10.0", "3", "10.0",
    ]  # fmt: skip
    assert "pretrained random 10 probe ground: top1 0.500" in line(made_records()[0])


# --- the command


def open_made(*, count: int = 240, seed: int = 0):
    return Made(count, seed)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of CSP on made-up observations, not much trained."""
    monkeypatch.setitem(registry.OPENERS, "made", open_made)
    spec = LocationSpec("grid", {"count": 4}, hidden=16, blocks=1, dim=8)
    model = CspConfig(feature_width=CLASSES, location=spec)
    recipe = Recipe(
        "csp",
        DataConfig("made", validation=0.2, test=0.2),
        TrainingConfig(),
        json.loads(json.dumps(asdict(model))),
    )
    card = {
        "objective": "csp",
        "model": recipe.model,
        "recipe": recipe.to_table(),
        "classes": list(Made.classes),
    }
    torch.manual_seed(1)
    save_model(Csp(model), {**card, "data": {"digest": Made().digest}}, tmp_path / "run")
    return tmp_path / "run"


def test_the_command_prints_json_and_a_table(run, capsys):
    few = [
        str(run),
        "--task",
        "few-label",
        "--seeds",
        "2",
        "--percent",
        "20,100",
        "--rates",
        "1e-2",
        "--rounds",
        "1",
    ]
    assert main([*few, "--json", "--split", "random", "--methods", "finetune"]) == 0
    written = capsys.readouterr()
    report = json.loads(written.out)
    assert "2 of the 3 seeds" in written.err  # what can hardly be relied on is said, and done
    assert report["task"] == "few-label" and report["objective"] == "csp" and report["run"] == str(run)
    assert report["data"]["observations"] == 240 and 60 < report["data"]["fresh"] < 130
    assert report["protocol"]["ratios"] == [0.2, 1.0] and report["protocol"]["tuning"]["rounds"] == 1
    assert {r["arm"] for r in report["records"]} == {"pretrained", "scratch", "chance"}
    assert {r["n"] for r in report["differences"]} == {2}
    assert main([str(run), "--task", "retrieval", "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    assert "lonlat to feature" in out and "recall@10" in out and "chance" in out


def test_what_the_run_held_out_is_what_it_is_scored_on(run):
    from train.pretrain import load_model, recipe_of

    card = load_model(run)[1]
    pool = open_pool(card)
    split = split_of(Made(), recipe_of(card))
    np.testing.assert_array_equal(np.flatnonzero(~pool.fresh), split.train)
    other = open_pool(card, kind="made", seed=4)
    assert other.fresh.all()
    with pytest.raises(SpecError, match="what the run was trained on"):
        open_pool(card, kind="made", seed=0)
    blocks = copy.deepcopy(card)
    blocks["recipe"]["data"]["split"] = "blocks"
    assert open_pool(blocks).splits == ("blocks",)
    everything = copy.deepcopy(card)
    everything["recipe"]["data"].update(validation=0.0, test=0.0)
    with pytest.raises(SpecError, match="all observations of the recipe"):
        open_pool(everything)


def test_the_arm_from_scratch_follows_from_the_seed(run):
    from train.pretrain import load_model

    model, card = load_model(run)
    before = torch.random.get_rng_state()
    one, two, other = fresh_model(card, 0), fresh_model(card, 0), fresh_model(card, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (
        unchanged(one, state(two)) and not unchanged(one, state(other)) and not unchanged(one, state(model))
    )
    report = evaluate(
        model, card, open_pool(card), Protocol(seeds=1, splits=("random",), methods=("probe",)), "fgvc"
    )
    assert report["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "mapping"], "invalid choice"),
        ([], "--task"),
        (["--task", "retrieval", "--gallery", "100000"], "cannot draw a gallery"),
        (["--task", "finetune", "--seeds", "0"], "seeds 0"),
        (["--task", "finetune", "--rates", "fast"], "--rates fast"),
        (["--task", "few-label", "--percent", "200"], "cannot draw few-label subsets"),
        (["--task", "few-label", "--methods", "guess"], "--methods guess"),
        (["--task", "finetune", "--kind", "nothing"], "cannot open a data set"),
        (["--task", "finetune", "--block", "0", "--split", "blocks"], "cannot make blocks"),
        (["--task", "retrieval", "--rerank", "RUN"], "cannot re-rank"),
        (["--task", "linear-probe", "--kind", "made", "--set", "count=0"], "of 0 observations"),
    ],
)
def test_mistakes_are_refused_in_three_parts(run, capsys, arguments, said):
    given = [str(run) if argument == "RUN" else argument for argument in arguments]
    assert main([str(run), *given]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and said in err
    assert ": " in err and ". " in err


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main([str(tmp_path / "none"), "--task", "retrieval"]) == 2
    assert "cannot load the run" in capsys.readouterr().err


def test_a_run_that_held_out_blocks_has_no_random_split():
    options = parser().parse_args(["run", "--task", "finetune", "--split", "random"])
    with pytest.raises(SpecError, match="cannot split at random"):
        protocol_of(options, ("blocks",), False)
    options = parser().parse_args(["run", "--task", "finetune"])
    assert protocol_of(options, ("blocks",), False).splits == ("blocks",)
    assert protocol_of(options, ("random", "blocks"), True).methods == ("finetune",)
