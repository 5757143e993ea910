"""Image and location together: the product, missing locations, and weights that validation chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from train.encoders.location import LocationEncoder
from train.errors import SpecError
from train.fusion import FusionWeights, fit_fusion, fuse, prior_logits
from train.objectives.presence import Prior
from train.sampling import sample_sphere
from train.spec import LocationSpec

NAN = float("nan")


def sigma(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)


def parts(n=50, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, classes)), rng.normal(size=(n, classes))


def test_product_is_that_of_the_paper():
    """P(y|I,x) proportional to P(y|I) sigma(e(x).T_y), in NumPy and in plain probabilities."""
    image, location = parts()
    expected = softmax(image) * sigma(location)
    expected /= expected.sum(axis=1, keepdims=True)
    found = fuse(torch.from_numpy(image).log_softmax(1), torch.from_numpy(location)).exp()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_logits_of_the_image_do_as_well_as_log_probabilities():
    image, location = (torch.from_numpy(part) for part in parts())
    torch.testing.assert_close(fuse(image, location), fuse(image.log_softmax(1) - 3.0, location))


def test_look_alikes_are_told_apart_by_where_they_live():
    """Two species a photo cannot tell apart: the one that lives there wins, 0.9 to 0.1 as the priors are."""
    image = torch.tensor([[0.5, 0.5, 1e-9]]).log()
    prior = torch.tensor([[0.9, 0.1, 0.9]]).logit()
    np.testing.assert_allclose(fuse(image, prior).exp(), [[0.9, 0.1, 0.0]], atol=1e-6)


def test_without_location_the_image_speaks_alone():
    image, location = (torch.from_numpy(part) for part in parts(3))
    location[1] = NAN
    found = fuse(image, location, FusionWeights(0.3, 5.0))
    torch.testing.assert_close(found[1], image[1].log_softmax(0))
    whole = fuse(image[[0, 2]], location[[0, 2]], FusionWeights(0.3, 5.0))
    torch.testing.assert_close(found[[0, 2]], whole)


def test_tiny_priors_neither_underflow_nor_tie():
    """sigma(-800) is 0 in floating point; in log space the order stays."""
    found = fuse(torch.zeros(1, 3), torch.tensor([[-800.0, -801.0, -900.0]]))
    np.testing.assert_allclose(found[0].exp(), softmax(np.array([[0.0, -1.0, -100.0]]))[0], atol=1e-9)


def test_a_class_that_the_image_excludes_stays_excluded():
    image = torch.tensor([[0.5, 0.5, 0.0]]).log()
    found = fuse(image, torch.tensor([[0.0, 0.0, 50.0]]), FusionWeights(0.5, 2.0)).exp()
    np.testing.assert_allclose(found, [[0.5, 0.5, 0.0]])


def test_weights_are_exponents():
    image, location = parts()
    expected = softmax(image) ** 0.7 * sigma(location) ** 1.8
    expected /= expected.sum(axis=1, keepdims=True)
    found = fuse(torch.from_numpy(image), torch.from_numpy(location), FusionWeights(0.7, 1.8)).exp()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def world(n, image_scale, seed):
    """Labels drawn from the product; the image's part is then sharpened, as over-confidence does."""
    image, location = (torch.from_numpy(part) for part in parts(n, 5, seed))
    image, location = 2 * image, 2 * location
    torch.manual_seed(seed)
    label = torch.multinomial(fuse(image, location).exp(), 1)[:, 0]
    return image * image_scale, location, label


@pytest.mark.parametrize("image_scale", [1.0, 4.0, 0.5])
def test_fitted_weights_undo_over_confidence(image_scale):
    """The true exponents are 1 / scale and 1."""
    weights = fit_fusion(*world(20_000, image_scale, 0))
    assert weights.image == pytest.approx(1 / image_scale, rel=0.06)
    assert weights.location == pytest.approx(1.0, rel=0.06)


def test_fitted_weights_beat_the_product_on_new_data():
    image, location, label = world(4000, 4.0, 0)
    weights = fit_fusion(image, location, label)
    image, location, label = world(4000, 4.0, 1)
    losses = [nn.functional.nll_loss(fuse(image, location, w), label) for w in (weights, FusionWeights())]
    assert float(losses[0]) < float(losses[1]) - 0.1


def test_a_useless_prior_gets_no_weight():
    """Also none below 0: a prior never speaks against the places where it sees a species."""
    image, location, label = world(4000, 1.0, 2)
    noise = torch.randn(location.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image = fuse(image, location)
    assert fit_fusion(image, noise, label).location < 0.1
    assert fit_fusion(image, -location, label).location == 0.0


def test_rows_without_location_and_excluded_classes_do_not_sway_the_fit():
    image, location, label = world(500, 2.0, 3)
    fitted = fit_fusion(image, location, label)
    more_image = torch.cat([image, torch.randn(20, 5, dtype=torch.float64)])
    more_location = torch.cat([location, torch.full((20, 5), NAN, dtype=torch.float64)])
    again = fit_fusion(more_image, more_location, torch.cat([label, torch.zeros(20, dtype=torch.long)]))
    assert again == fitted
    never = torch.full((500, 1), -torch.inf, dtype=torch.float64)
    wider = fit_fusion(torch.cat([image, never], 1), torch.cat([location, never.exp()], 1), label)
    assert wider.image == pytest.approx(fitted.image, rel=1e-4)
    assert wider.location == pytest.approx(fitted.location, rel=1e-4)


def test_prior_of_places_is_nan_where_there_is_none():
    torch.manual_seed(0)
    prior = Prior(LocationEncoder(LocationSpec("wrap", hidden=8, blocks=1, dim=8), dropout=0.5), 3).train()
    lonlat = sample_sphere(5, torch.Generator().manual_seed(0))
    lonlat[2] = NAN
    lonlat[4, 1] = NAN
    logits = prior_logits(prior, lonlat)
    assert logits.isnan().all(dim=1).tolist() == logits.isnan().any(dim=1).tolist()
    assert logits.isnan().any(dim=1).tolist() == [False, False, True, False, True]
    assert prior.training
    torch.testing.assert_close(prior_logits(prior, lonlat, batch=1), logits, equal_nan=True)
    with torch.no_grad():
        torch.testing.assert_close(logits[:2], prior.eval()(lonlat[:2]))
    assert bool(prior_logits(prior, lonlat[[2]]).isnan().all())
    assert torch.isfinite(fuse(torch.zeros(5, 3), logits)).all()


@pytest.mark.parametrize(
    ("image", "location", "said"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 4), "(2, 3) and (2, 4)"),
        (torch.zeros(3), torch.zeros(3), "shapes"),
        (torch.zeros(1, 2), torch.tensor([[NAN, 0.0]]), "NaN in part"),
        (torch.tensor([[NAN, 0.0]]), torch.zeros(1, 2), "NaN or infinite"),
        (torch.tensor([[float("inf"), 0.0]]), torch.zeros(1, 2), "NaN or infinite"),
        (torch.tensor([[-torch.inf, -torch.inf]]), torch.zeros(1, 2), "excludes every class"),
    ],
)
def test_parts_that_do_not_fit_are_refused(image, location, said):
    with pytest.raises(SpecError, match="cannot put image and location together") as refusal:
        fuse(image, location)
    assert said in refusal.value.found


@pytest.mark.parametrize(
    ("location", "label", "said"),
    [
        (torch.full((2, 2), NAN), [0, 1], "0 of 2 with a location"),
        (torch.zeros(2, 2), [0], "1 labels"),
        (torch.zeros(2, 2), [0, 2], "labels 0 to 2"),
        (torch.zeros(2, 2), [-1, 0], "labels -1 to 0"),
    ],
)
def test_validation_that_cannot_choose_is_refused(location, label, said):
    with pytest.raises(SpecError, match="cannot fit the weights") as refusal:
        fit_fusion(torch.zeros(2, 2), location, torch.tensor(label))
    assert said in refusal.value.found


def test_a_true_class_of_probability_zero_is_refused():
    with pytest.raises(SpecError, match="true class of probability 0"):
        fit_fusion(torch.tensor([[0.0, -torch.inf]]), torch.zeros(1, 2), torch.tensor([1]))


@pytest.mark.parametrize("weights", [(0.0, 1.0), (1.0, -1.0), (NAN, 1.0), (1.0, float("inf"))])
def test_impossible_weights_are_refused(weights):
    with pytest.raises(SpecError, match="cannot weight image and location"):
        FusionWeights(*weights)
