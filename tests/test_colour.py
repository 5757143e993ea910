"""Colours: lightness falls all the way for every kind of sight, nothing is blue, nodata is clear."""

import numpy as np
import pytest

from geomap.colour import CLEAR, DEFAULT, RAMPS, STEPS, legend, levels, palette

# Severe deficiencies in linear RGB: Machado et al. 2009, A physiologically-based model for simulation of
# color vision deficiency, table of severity 1.0.
SIGHTS = {
    "full": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lightness(rgb, sight):
    """CIE L* (n,) of sRGB colours (n, 3) in 0..255 as seen by a kind of sight."""
    part = rgb / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    luminance = np.clip(linear @ SIGHTS[sight].T, 0, 1) @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("name", RAMPS)
def test_lightness_falls_for_every_sight(name, sight):
    seen = lightness(palette(name)[: STEPS + 1, :3].astype(float), sight)
    assert (np.diff(seen) < 0.1).all()  # rounding to 8 bits may hold a step
    assert seen[0] - seen[-1] > 55
    assert (np.diff(seen[::10]) < 0).all()


@pytest.mark.parametrize("name", RAMPS)
def test_nothing_is_blue(name):
    red, green, blue = palette(name)[: STEPS + 1, :3].astype(int).T
    assert (blue <= np.maximum(red, green)).all()


def test_default_is_the_ramp_that_titiler_has_under_its_name():
    from rio_tiler.colormap import cmap

    theirs = np.array([cmap.get(DEFAULT)[k] for k in range(256)])
    ours = palette()[np.rint(np.linspace(0, STEPS, 256)).astype(int)]
    assert np.abs(theirs[:, :3] - ours[:, :3].astype(int)).max() <= 4


def test_entries_beyond_the_values_are_clear():
    assert (palette()[: STEPS + 1, 3] == 255).all()
    assert (palette()[STEPS + 1 :, 3] == 0).all()


def test_levels_by_hand():
    values = np.array([[0, 0.004, 0.5], [1, np.nan, -9999]], np.float32)
    valid = np.array([[True, True, True], [True, False, False]])
    assert levels(values, valid).tolist() == [[0, 1, 125], [250, CLEAR, CLEAR]]


def test_legend_is_of_the_same_colours():
    stops = legend("orrd", 3)
    assert [value for value, _ in stops] == [0.0, 0.5, 1.0]
    assert [colour for _, colour in stops] == [
        "#" + bytes(palette("orrd")[k, :3]).hex() for k in (0, 125, 250)
    ]


def test_unknown_ramp_is_refused():
    with pytest.raises(ValueError, match="no colour ramp 'jet'"):
        palette("jet")
