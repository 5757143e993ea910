"""Every shipped recipe is read, and every tiny one trains."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from train import recipe as module
from train.batch import collate
from train.checkpoint import read_card
from train.distributed import World
from train.errors import SpecError
from train.objectives import birdsat_cve, birdsat_cvm, csp
from train.pretrain import load_model, pretrain
from train.recipe import build_model, model_config, open_data, read_recipe, shipped

ALONE = World(0, 1, torch.device("cpu"))
PAPERS = ["crisp", "birdsat-cve", "birdsat-cve-meta", "birdsat-cvm", "birdsat-cvm-meta", "moco-geo", "csp"]
TINY = [f"{name}-tiny" for name in PAPERS]
FEW = ["data.options.n=200", "training.epochs=1", "training.batch=32", "training.save_every=2"]


def test_each_paper_has_a_recipe_of_both_sizes():
    assert set(PAPERS + TINY) <= set(shipped())


@pytest.mark.parametrize("name", shipped())
def test_every_recipe_is_read_to_the_last_key(name):
    recipe = read_recipe(name, [])
    assert recipe.about and model_config(recipe) is not None
    assert recipe.data.kind == ("landscape" if name.endswith("-tiny") else recipe.data.kind)


@pytest.mark.parametrize("name", TINY)
def test_every_tiny_recipe_trains_and_comes_back(name, tmp_path):
    recipe = read_recipe(name, FEW if "csp" not in name else [*FEW, "data.options.n=150"])
    losses = pretrain(recipe, tmp_path, ALONE)
    assert all(map(math.isfinite, losses.values())) and "validation/loss" in losses
    model, card = load_model(tmp_path)
    assert card["recipe"]["objective"] == recipe.objective == card["objective"]
    assert card["data"]["observations"] == len(open_data(recipe)["train"])
    held = open_data(recipe)["validation"]
    batch = collate([held[row] for row in range(4)])
    for view in model.views:
        if view in ("lonlat", "date"):
            continue
        encoded = model.encode(view, batch)
        torch.testing.assert_close(encoded.norm(dim=1), torch.ones(4))
        torch.testing.assert_close(
            model.encode(view, {k: v[:2] for k, v in batch.items()}), encoded[:2], atol=1e-5, rtol=0
        )


def test_the_parts_share_no_observation_and_no_tile():
    parts = open_data(read_recipe("crisp-tiny", ["data.options.n=400", "data.validation=0.2"]))
    tiles = {name: {int(part[row]["tile"]) for row in range(len(part))} for name, part in parts.items()}
    assert set(parts) == {"train", "validation", "test"}
    assert sum(map(len, parts.values())) == 400
    assert not tiles["train"] & tiles["validation"] and not tiles["train"] & tiles["test"]


def test_blocks_keep_places_apart():
    settings = ["data.options.n=400", "data.split=blocks", "data.block_degrees=1", "data.buffer_km=10"]
    parts = open_data(read_recipe("csp-tiny", settings))
    train, test = parts["train"].lonlat(), parts["test"].lonlat()
    far = torch.cdist(torch.as_tensor(train) * 85.0, torch.as_tensor(test) * 85.0)  # km, or less, hereabouts
    assert float(far.min()) > 5


@pytest.mark.parametrize(
    ("name", "settings", "found", "change"),
    [
        ("crips-tiny", [], "crips-tiny", "did you mean crisp-tiny?"),
        ("zzz", [], "zzz", "crisp-tiny"),
        ("nowhere.toml", [], "nowhere.toml", "Give another file"),
        ("crisp-tiny", ["model.grund.dim=3"], "model.grund", "did you mean ground?"),
        ("crisp-tiny", ["training.epoch=3"], "training.epoch", "did you mean epochs?"),
        ("crisp-tiny", ["objective=crips"], "crips", "did you mean crisp?"),
        ("crisp-tiny", ["training.batch=0"], "training.batch = 0", "makes sense"),
        ("crisp-tiny", ["training.warmup=1.5"], "warmup = 1.5", "makes sense"),
        ("crisp-tiny", ["training.precision=half"], "precision = 'half'", "auto, float32, bf16"),
    ],
)
def test_recipes_that_cannot_be_are_refused_before_any_work(name, settings, found, change):
    with pytest.raises(SpecError) as refused:
        read_recipe(name, settings)
    assert found in refused.value.found and change in refused.value.change


def test_recipes_named_after_the_papers_are_their_presets():
    """But for what is not of the loss: CVE's metadata, which only its -meta model reads."""
    cve = model_config(read_recipe("birdsat-cve-paper", []))
    assert replace(cve, metadata=birdsat_cve.PAPER.metadata) == birdsat_cve.PAPER
    assert model_config(read_recipe("birdsat-cvm-paper", [])) == birdsat_cvm.PAPER
    assert model_config(read_recipe("csp-paper", [])) == csp.PAPER_INAT


def test_damaged_toml_is_refused(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("objective = ")
    with pytest.raises(SpecError, match=r"a\.toml"):
        read_recipe(str(path), [])


def test_an_unknown_backbone_is_refused(tmp_path):
    recipe = read_recipe("crisp-tiny", ["model.ground.backbone=resnet81"])
    with pytest.raises(SpecError, match="resnet81"):
        build_model(recipe)


def test_wrong_band_counts_are_refused(tmp_path):
    recipe = read_recipe(
        "crisp-tiny", [*FEW, "model.aerial.bands=3", "model.aerial.mean=[1,1,1]", "model.aerial.std=[1,1,1]"]
    )
    with pytest.raises(SpecError, match=r"shape \(32, 4, 32, 32\). Give \(n, 3"):
        pretrain(recipe, tmp_path, ALONE)


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(SpecError):
        open_data(read_recipe("crisp-tiny", ["data.options.n=50", "data.validation=0.7", "data.test=0.4"]))


def test_the_card_is_that_of_the_run(tmp_path):
    recipe = read_recipe("crisp-tiny", FEW)
    pretrain(recipe, tmp_path, ALONE)
    card = read_card(tmp_path)
    assert len(card["classes"]) == 60 and len(card["data"]["digest"]) == 64
    assert card["recipe"]["training"]["seed"] == 0 and card["versions"]["torch"] == torch.__version__
    assert module.OBJECTIVES[card["objective"]][2] == "Crisp"
