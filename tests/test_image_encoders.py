"""Pixels are checked and normalised once, any timm backbone encodes them, and what is frozen stays frozen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from train.encoders.image import CARRIED, ImageConfig, ImageEncoder, carried
from train.encoders.metadata import MetadataConfig, MetadataTokens, date_vector, location_vector
from train.encoders.pixels import Normalise
from train.errors import CheckpointError, SpecError
from train.objectives.crisp import TINY as CRISP
from train.timm_compat import import_timm

TINY = ImageConfig("test_resnet", size=32, dim=16)
PHOTOS = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "backbone", ["test_resnet", "test_vit", "test_convnext", "test_mambaout", "test_vit3"]
)
def test_any_timm_backbone_gives_unit_vectors(backbone):
    encoder = ImageEncoder(ImageConfig(backbone, bands=4, size=32, dim=8, mean=(127.0,) * 4, std=(60.0,) * 4))
    images = torch.randint(0, 256, (3, 4, 32, 32), dtype=torch.uint8)
    encoded = encoder.eval()(images)
    assert encoded.shape == (3, 8)
    assert encoded.dtype == torch.float32
    assert torch.allclose(encoded.norm(dim=1), torch.ones(3), atol=1e-6)
    assert encoder.features(images).shape == (3, encoder.width)


def test_without_a_projection_the_embedding_is_the_backbones_feature():
    encoder = ImageEncoder(replace(TINY, dim=0)).eval()
    assert encoder.dim == encoder.width
    assert torch.equal(encoder.embed(PHOTOS), encoder.features(PHOTOS))


def test_equal_calls_give_equal_vectors_in_any_batch():
    """Pitfall 6."""
    encoder = ImageEncoder(TINY).eval()
    whole = encoder(PHOTOS)
    assert torch.equal(whole, encoder(PHOTOS))
    alone = torch.cat([encoder(photo[None]) for photo in PHOTOS])
    assert torch.allclose(whole, alone, atol=1e-5)


def test_pixels_are_normalised_once_with_statistics_that_the_weights_carry():
    """Pitfall 21, and defect 3 of CRISP's prototype: chips reach the backbone as (value - mean) / std."""
    config = ImageConfig("test_resnet", bands=2, size=32, dim=8, mean=(1200.0, 300.0), std=(500.0, 80.0))
    encoder = ImageEncoder(config).eval()
    seen = []
    encoder.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    chips = torch.from_numpy(np.random.default_rng(0).normal(1000, 300, (2, 2, 32, 32)).astype(np.float32))
    before = chips.clone()
    encoder(chips)
    mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in (config.mean, config.std))
    np.testing.assert_allclose(seen[0].numpy(), (chips.numpy() - mean) / std, atol=1e-5)
    assert torch.equal(chips, before)  # pitfall 10
    assert {"normalise.mean", "normalise.std"} <= set(encoder.state_dict())


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (PHOTOS.float() / 255.0, "mean and std in the imagery's own units"),  # 0..1 with statistics of 0..255
        (PHOTOS.float() * 40.0, "mean and std in the imagery's own units"),  # reflectance times 10,000
        (torch.full((1, 3, 32, 32), torch.nan), "not finite"),
        (torch.full((1, 3, 32, 32), torch.inf), "not finite"),
        (PHOTOS[:, :2], r"Give \(n, 3, height, width\)"),
        (PHOTOS[0], r"Give \(n, 3, height, width\)"),
        (PHOTOS[..., :16], "32 x 16 pixels"),
    ],
)
def test_pixels_of_another_kind_are_refused(images, said):
    with pytest.raises(SpecError, match=said):
        ImageEncoder(TINY)(images)


def test_bytes_with_statistics_of_fractions_are_refused_but_black_images_are_not():
    with pytest.raises(SpecError, match="own units"):
        ImageEncoder(replace(TINY, mean=(0.485,) * 3, std=(0.229,) * 3))(PHOTOS)
    black = torch.zeros(2, 3, 32, 32)
    assert bool(torch.isfinite(ImageEncoder(TINY).eval()(black)).all())


def test_photos_may_be_resized_and_keep_their_mean():
    smooth = Normalise(32, 1, (100.0,), (50.0,), "resize")
    ramp = torch.arange(96.0).expand(1, 1, 64, 96)
    resized = smooth(ramp)
    assert resized.shape == (1, 1, 32, 32)
    assert float(resized.mean()) == pytest.approx((47.5 - 100.0) / 50.0, abs=1e-3)
    fine = (torch.arange(64) % 2 * 200.0).expand(1, 1, 64, 64)  # one pixel wide stripes: grey, not aliased
    assert float(smooth(fine).std()) < 0.5 * float(Normalise(64, 1, (100.0,), (50.0,))(fine).std())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backbone": "test_resnett"}, r"Did you mean .*test_resnet"),  # defect 6 of CRISP's prototype
        ({"backbone": "hf-hub:timm/resnet18"}, "backbone 'hf-hub:timm/resnet18'"),
        ({"backbone": ""}, "backbone ''"),
        ({"backbone": "test_maxvit", "size": 40}, "Choose another size or backbone"),
        ({"bands": 4}, "Give a mean and a positive std for each band"),
        ({"std": (1.0, 0.0, 1.0)}, "Give a mean and a positive std for each band"),
        ({"freeze": "all", "dim": 0}, "freeze = 'all' without weights"),
        ({"freeze": "all", "weights": "some.safetensors"}, "Set dim = 0, or freeze = backbone"),
        ({"freeze": "some"}, "Use nothing, backbone or all"),
        ({"dim": -1}, "dim -1"),
    ],
)
def test_encoders_that_cannot_be_are_refused(changes, said):
    with pytest.raises(SpecError, match=said):
        ImageEncoder(replace(TINY, **changes))


def weights_of(tmp_path, bands=3):
    torch.manual_seed(1)
    model = import_timm().create_model("test_resnet", num_classes=7, in_chans=bands)
    path = tmp_path / "backbone.safetensors"
    save_file(model.state_dict(), path)
    return model, str(path)


def test_weights_of_a_backbone_come_from_a_local_file(tmp_path):
    model, path = weights_of(tmp_path)
    encoder = ImageEncoder(replace(TINY, weights=path))
    for name, value in encoder.backbone.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    four = ImageEncoder(replace(TINY, weights=path, bands=4, mean=(1.0,) * 4, std=(1.0,) * 4))
    first = dict(four.backbone.named_parameters())["conv1.0.weight"]
    assert torch.allclose(first[:, 3], model.state_dict()["conv1.0.weight"][:, 0] * 3 / 4)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    _, path = weights_of(tmp_path)
    with pytest.raises(CheckpointError, match="very timm model"):
        ImageEncoder(replace(TINY, backbone="test_vit", weights=path))
    with pytest.raises(CheckpointError, match="absent"):
        ImageEncoder(replace(TINY, weights=str(tmp_path / "absent.safetensors")))
    (tmp_path / "half.safetensors").write_bytes(b"\x10\0\0\0")
    with pytest.raises(CheckpointError, match="half"):
        ImageEncoder(replace(TINY, weights=str(tmp_path / "half.safetensors")))


def test_an_objective_is_rebuilt_without_the_file_that_it_started_from(tmp_path):
    _, path = weights_of(tmp_path)
    config = replace(CRISP, aerial=replace(CRISP.aerial, weights=path, freeze="backbone"))
    again = carried(config)
    assert again.aerial.weights == CARRIED
    assert again.ground == config.ground
    assert again.contrast == config.contrast
    encoder = ImageEncoder(config.aerial)
    (tmp_path / "backbone.safetensors").unlink()
    rebuilt = ImageEncoder(again.aerial)
    rebuilt.load_state_dict(encoder.state_dict())
    assert torch.equal(rebuilt.eval()(PHOTOS), encoder.eval()(PHOTOS))


def one_step(module, images):
    learnt = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learnt, lr=0.1)
    module.encoder(images).sum().backward()
    optimiser.step()


@pytest.mark.parametrize("part", ["all", "backbone"])
def test_a_frozen_backbone_stays_in_evaluation_mode_and_never_moves(tmp_path, part):
    """Pitfall 7, and defect 5 of CRISP's prototype: parents are set to train, BatchNorm does not follow."""
    _, path = weights_of(tmp_path)
    owner = nn.Module()
    owner.encoder = ImageEncoder(replace(TINY, weights=path, freeze=part, dim=0 if part == "all" else 16))
    owner.train()
    assert not owner.encoder.backbone.training
    assert not any(m.training for m in owner.encoder.backbone.modules())
    before = {name: value.clone() for name, value in owner.state_dict().items()}
    if part == "all":
        owner.encoder(PHOTOS)
        assert not any(p.requires_grad for p in owner.parameters())
    else:
        one_step(owner, PHOTOS)
    moved = {name for name, value in owner.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == (set() if part == "all" else {"encoder.project.weight", "encoder.project.bias"})


def test_an_encoder_that_is_not_frozen_does_move():
    owner = nn.Module()
    owner.encoder = ImageEncoder(TINY)
    before = {name: value.clone() for name, value in owner.state_dict().items()}
    one_step(owner.train(), PHOTOS)
    moved = {name for name, value in owner.state_dict().items() if not torch.equal(value, before[name])}
    assert any("running_mean" in name for name in moved)
    owner.encoder.frozen()
    assert not owner.train().encoder.backbone.training


def test_half_precision_still_gives_unit_vectors_in_full():
    encoder = ImageEncoder(TINY).eval()
    with torch.autocast("cpu", torch.bfloat16):
        encoded = encoder(PHOTOS)
    assert encoded.dtype == torch.float32
    assert torch.allclose(encoded.norm(dim=1), torch.ones(4), atol=1e-6)
    assert torch.allclose((encoded * encoder(PHOTOS)).sum(dim=1), torch.ones(4), atol=0.02)


def test_vectors_of_place_and_date_are_those_of_the_formulas_and_poles_differ():
    """Pitfall 4: under the published doubled angle both poles are (0, -1)."""
    places = torch.tensor([[0.0, 90.0], [0.0, -90.0], [-120.0, 30.0]], dtype=torch.float64)
    lat, lon = np.radians(places.numpy()[:, 1]), np.radians(places.numpy()[:, 0])
    expected = np.stack([np.sin(lat), np.cos(lat), np.sin(lon), np.cos(lon)], axis=1)
    np.testing.assert_allclose(location_vector(places), expected, atol=1e-12)
    assert float((location_vector(places)[0] - location_vector(places)[1]).norm()) == pytest.approx(2.0)
    date = torch.tensor([[5.0, 17.0], [12.0, 31.0]])
    month, day = 2 * np.pi * date.numpy()[:, 0] / 12, 2 * np.pi * date.numpy()[:, 1] / 31
    expected = np.stack([np.sin(month), np.cos(month), np.sin(day), np.cos(day)], axis=1)
    np.testing.assert_allclose(date_vector(date), expected, atol=1e-6)


@pytest.mark.parametrize("date", [[[0.0, 3.0]], [[13.0, 3.0]], [[3.0, 32.0]], [[3.0]]])
def test_impossible_dates_and_places_are_refused(date):
    with pytest.raises(SpecError, match="cannot encode dates"):
        date_vector(torch.tensor(date))
    with pytest.raises(SpecError, match="Give longitude, then latitude"):
        location_vector(torch.tensor([[37.0, -122.0]]))


def metadata(rows):
    generator = torch.Generator().manual_seed(0)
    lonlat = torch.rand(rows, 2, generator=generator, dtype=torch.float64) * 90.0
    return lonlat, torch.tensor([[6.0, 15.0]]).repeat(rows, 1)


def test_metadata_is_withheld_in_training_only():
    """Defect 3 of BirdSAT: there it stays withheld at random in evaluation."""
    tokens, (lonlat, date) = MetadataTokens(MetadataConfig(), 8), metadata(2000)
    torch.manual_seed(0)
    withheld = (tokens.train()(2000, lonlat, date) == 0.0).all(dim=1).float().mean()
    assert 0.22 < float(withheld) < 0.28
    told = tokens.eval()(2000, lonlat, date)
    assert not (told == 0.0).all(dim=1).any()
    assert torch.equal(told, tokens(2000, lonlat, date))


def test_metadata_may_be_withheld_by_batch():
    tokens, (lonlat, date) = MetadataTokens(MetadataConfig(per="batch"), 8).train(), metadata(20)
    torch.manual_seed(0)
    shares = torch.stack([(tokens(20, lonlat, date) == 0).all(dim=1).float().mean() for _ in range(200)])
    assert set(shares.tolist()) == {0.0, 1.0}
    assert 0.15 < float(shares.mean()) < 0.35


def test_unknown_metadata_counts_as_withheld():
    tokens, (lonlat, date) = MetadataTokens(MetadataConfig(drop=0.0), 8), metadata(3)
    both = tokens(3, lonlat, date)
    date[1, 1], lonlat[2] = torch.nan, torch.nan
    found = tokens(3, lonlat, date)
    assert torch.equal(found[0], both[0])
    assert torch.allclose(found[1], tokens(3, lonlat, None)[1])
    assert torch.allclose(found[2], tokens(3, None, date)[2])
    assert torch.equal(tokens(3, None, None), torch.zeros(3, 8))
    lonlat[:], date[:] = torch.nan, torch.nan
    assert torch.equal(tokens(3, lonlat, date), torch.zeros(3, 8))


@pytest.mark.parametrize("changes", [{"drop": 1.0}, {"per": "day"}, {"location": False, "date": False}])
def test_metadata_that_makes_no_sense_is_refused(changes):
    with pytest.raises(SpecError, match="cannot use metadata"):
        MetadataConfig(**changes)
