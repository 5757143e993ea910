"""Pictures: every mode becomes upright RGB bytes; a missing or damaged one raises or is counted."""

from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from train.batch import collate
from train.data import images
from train.data.augment import AERIAL, GROUND, Augmentation, Augmented, augment, augment_batch, augmented
from train.data.images import CORRUPT, MISSING, PictureError, check_pictures, read_picture
from train.data.table import Selection
from train.errors import SpecError
from train.landscape import Landscape, World


def encoded(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def halves(size=(80, 60)):
    """Red on the left, blue on the right."""
    picture = Image.new("RGB", size, (250, 0, 0))
    picture.paste((0, 0, 250), (size[0] // 2, 0, *size))
    return picture


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, "JPEG") for mode in ("RGB", "L", "CMYK")),
        *((mode, "PNG") for mode in ("L", "P", "LA", "RGBA", "1")),
        ("CMYK", "TIFF"),
    ],
)
def test_every_mode_becomes_rgb(mode, kind):
    """Methods 3.6, defects 13 and 14: grey and CMYK pictures are read, and are themselves."""
    pixels = read_picture(encoded(Image.new("RGB", (50, 30), (255, 255, 255)).convert(mode), kind), 16)
    assert (pixels.shape, pixels.dtype) == ((3, 16, 16), np.uint8)
    assert pixels.min() > 250


def test_cmyk_colours_survive():
    red = read_picture(
        encoded(Image.new("RGB", (32, 32), (250, 10, 10)).convert("CMYK"), "JPEG", quality=95), 8
    )
    assert red[0].min() > 235 and red[1:].max() < 30


def test_palette_with_transparency_shows_white_where_there_is_nothing():
    picture = Image.new("RGBA", (20, 20), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 20, 10))
    for clear in (picture, picture.quantize(4)):
        pixels = read_picture(encoded(clear), 20)
        assert (pixels[:, 2, 10] > 250).all()
        assert pixels[0, 17, 10] > 240 and pixels[1, 17, 10] < 10


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[274] = 6  # to be turned by a quarter clockwise
    pixels = read_picture(encoded(halves((60, 60)), "JPEG", exif=exif, quality=95), 60)
    assert pixels[0, 5].mean() > 200 and pixels[2, 55].mean() > 200  # left became top


def test_the_middle_square_is_scaled_in_one_step():
    wide = halves((200, 50))
    pixels = read_picture(encoded(wide), 20)
    assert (pixels[0, :, :8] > 240).all() and (pixels[2, :, 12:] > 240).all()
    ramp = Image.fromarray(np.arange(240, dtype=np.uint8)[None, :].repeat(100, axis=0))
    found = read_picture(encoded(ramp), 50)[0].astype(float)  # columns 70..170
    np.testing.assert_allclose(found[25, 3:-3], (70 + 100 * (np.arange(50) + 0.5) / 50)[3:-3], atol=1.5)


def test_a_large_jpeg_decoded_at_a_fraction_is_the_same_picture():
    ramp = Image.fromarray(np.linspace(0, 255, 640).astype(np.uint8)[None, :].repeat(640, axis=0)).convert(
        "RGB"
    )
    whole = read_picture(encoded(ramp), 32).astype(int)
    drafted = read_picture(encoded(ramp, "JPEG", quality=95), 32).astype(int)
    assert np.abs(whole - drafted).max() <= 4


def test_cropping_keeps_the_size_of_a_pixel():
    pixels = read_picture(encoded(halves((101, 61))), 20, crop=True)
    assert (pixels[0, :, :9] == 250).all() and (pixels[2, :, 11:] == 250).all()
    with pytest.raises(PictureError, match="20 x 20 pixels, 32 wanted"):
        read_picture(encoded(Image.new("RGB", (20, 20))), 32, crop=True)


@pytest.mark.parametrize(
    "deep",
    [
        encoded(Image.fromarray(np.full((9, 9), 40_000, np.uint16))),
        encoded(Image.fromarray(np.full((9, 9), 0.5, np.float32)), "TIFF"),
    ],
)
def test_more_than_eight_bits_are_refused_with_words(deep):
    with pytest.raises(PictureError, match="more than 8 bits a channel") as refusal:
        read_picture(deep, 8)
    assert "Scale it to 8 bits" in refusal.value.change


def test_missing_and_damaged_pictures_raise(tmp_path):
    """Pitfall 11 and methods 2.6, defect 1: never noise, never the picture before."""
    whole = encoded(halves((300, 300)), "JPEG")
    bad = {
        "cut.jpg": whole[: len(whole) // 2],
        "text.jpg": b"not a picture",
        "empty.jpg": b"",
        "cut.png": encoded(halves())[:60],
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PictureError) as refusal:
            read_picture(tmp_path / name, 8)
        assert refusal.value.reason == CORRUPT
        assert name in refusal.value.found
    with pytest.raises(PictureError) as refusal:
        read_picture(tmp_path / "none.jpg", 8)
    assert refusal.value.reason == MISSING
    again = pickle.loads(pickle.dumps(refusal.value))  # as a worker of a loader hands it on
    assert (str(again), again.reason) == (str(refusal.value), MISSING)


def test_verdicts_are_kept_and_only_changed_files_are_decoded_again(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("good.png", "bad.png", "none.png")]
    paths[0].write_bytes(encoded(halves()))
    paths[1].write_bytes(b"no")
    cache = tmp_path / "checked.json"
    assert check_pictures(paths, cache) == ["", CORRUPT, MISSING]
    decoded = []
    real = images.check_picture
    monkeypatch.setattr(images, "check_picture", lambda path: decoded.append(path) or real(path))
    assert check_pictures(paths, cache) == ["", CORRUPT, MISSING]
    assert decoded == []
    paths[1].write_bytes(encoded(halves()))
    assert check_pictures(paths, cache) == ["", "", MISSING]
    assert decoded == [paths[1]]
    paths[0].unlink()
    assert check_pictures(paths, cache) == [MISSING, "", MISSING]
    cache.write_text(json.dumps([1]))
    with pytest.raises(SpecError, match="Delete it"):
        check_pictures(paths, cache)
    with pytest.raises(SpecError, match="cache = "):
        check_pictures(paths, tmp_path / "no folder" / "checked.json")


def test_augmentation_keeps_type_and_range_and_follows_the_seed():
    image = torch.randint(0, 256, (3, 24, 24), dtype=torch.uint8)
    torch.manual_seed(3)
    first = augment(image, GROUND)
    torch.manual_seed(3)
    assert torch.equal(augment(image, GROUND), first)
    assert (first.dtype, first.shape) == (torch.uint8, image.shape)
    assert not torch.equal(augment(image, GROUND), first)
    smaller = augment(image.float(), Augmentation(pixels=10))
    assert (smaller.dtype, smaller.shape) == (torch.float32, (3, 10, 10))
    dark, light = torch.zeros(4, 8, 8, dtype=torch.uint8), torch.full((4, 8, 8), 255, dtype=torch.uint8)
    for _ in range(20):  # no value wraps round
        assert augment(dark, AERIAL).max() == 0
        assert augment(light, AERIAL).min() > 200


def test_chips_from_above_are_turned_but_not_scaled():
    image = torch.arange(36, dtype=torch.float32).reshape(1, 6, 6)
    how = Augmentation(crop=1.0, stretch=0.0, turn=True, jitter=0.0)
    seen = {tuple(augment(image, how).flatten().tolist()) for _ in range(200)}
    assert len(seen) == 8  # turns and mirrors
    assert all(sorted(each) == list(range(36)) for each in seen)
    part = augment(image, Augmentation(pixels=4, crop=1.0, flip=False, jitter=0.0))
    assert part.shape == (1, 4, 4) and part[0, 0, 1] - part[0, 0, 0] == 1


def test_a_crop_shows_its_part_of_the_image():
    """Crops are rectangles of at least the asked area, upright, at even scale."""
    side = 64
    image = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).float() + 0.5
    how = Augmentation(crop=0.25, stretch=0.2, flip=False, jitter=0.0)
    for made in augment_batch(image.repeat(100, 1, 1, 1), how):
        down, right = made[0, :, 0].diff(), made[1, 0].diff()
        assert down[2:-2].std() < 1e-3 and right[2:-2].std() < 1e-3  # an even scale
        tall, wide = float(down[5]) * side, float(right[5]) * side
        assert 0.24 * side**2 < tall * wide < 1.01 * side**2
        assert 1 / 1.21 < tall / wide < 1.21
        assert made.min() >= 0.5 and made.max() <= side - 0.5


def test_shrinking_crops_do_not_alias():
    checks = (torch.arange(128)[:, None] + torch.arange(128)) % 2 * 200.0
    made = augment(checks[None], Augmentation(pixels=16, crop=0.9, jitter=0.0))
    assert (made - 100).abs().max() < 10


def test_every_image_of_a_batch_changes_in_its_own_way():
    images = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8).repeat(20, 1, 1, 1)
    made = augment_batch(images, GROUND)
    assert len({tuple(each.flatten().tolist()) for each in made}) == 20
    flipped = augment_batch(images, Augmentation(crop=1.0, jitter=0.0))
    mirrored = sum(torch.equal(each, images[0].flip(-1)) for each in flipped)
    assert 0 < mirrored < 20
    assert mirrored + sum(torch.equal(each, images[0]) for each in flipped) == 20


def test_some_images_lose_their_colour_as_grey_files_have():
    colours = torch.randint(0, 256, (300, 3, 1, 1), dtype=torch.uint8).expand(-1, -1, 8, 8)
    how = Augmentation(crop=1.0, jitter=0.0, grey=0.3)
    made = augment_batch(colours, how)
    lost = torch.tensor([bool((each[0] == each).all()) for each in made])
    assert 0.2 < lost.float().mean() < 0.4
    assert torch.equal(made[~lost], colours[~lost])
    file = Image.fromarray(colours[lost][0].permute(1, 2, 0).numpy()).convert("L")
    assert abs(int(made[lost][0, 0, 0, 0]) - int(np.asarray(file)[0, 0])) <= 1
    bands = torch.randint(0, 256, (9, 4, 8, 8), dtype=torch.uint8)
    assert torch.equal(augment_batch(bands, Augmentation(crop=1.0, flip=False, jitter=0.0, grey=1.0)), bands)
    with pytest.raises(SpecError, match=r"grey in \[0, 1\]"):
        Augmentation(grey=1.5)


def test_batches_are_what_collated_items_are():
    data = Landscape(0, World(species=4, pixels=16)).observations(12)
    part = Selection(data, [7, 3, 9, 1])
    rows = np.array([2, 0])
    for of in (data, part, Augmented(part, {})):
        quick, slow = of.batch(rows), collate([of[int(row)] for row in rows])
        assert set(quick) == set(slow)
        for name, value in slow.items():
            assert torch.equal(quick[name], value) and quick[name].dtype == value.dtype
    torch.manual_seed(0)
    changed = Augmented(part, {"ground": GROUND}).batch(rows)
    assert not torch.equal(changed["ground"], part.batch(rows)["ground"])
    assert torch.equal(changed["aerial"], part.batch(rows)["aerial"])


def test_recipes_name_what_may_happen():
    data = Landscape(0, World(species=4, pixels=16)).observations(3)
    made = augmented(data, {"ground": {"crop": 0.5}, "aerial": {}})
    assert made.how == {"ground": Augmentation(crop=0.5), "aerial": AERIAL}
    with pytest.raises(SpecError, match="Its fields are: crop, flip"):
        augmented(data, {"ground": {"colour": 1}})


def test_nan_is_not_hidden_by_augmentation():
    image = torch.ones(2, 8, 8)
    image[0, 3, 3] = torch.nan
    assert augment(image, AERIAL).isnan().any()


def test_augmented_observations_leave_the_others_alone():
    plain = Landscape(0, World(species=4, pixels=16)).observations(6)
    changed = Augmented(plain, {"ground": GROUND})
    assert not torch.equal(changed[2]["ground"], plain[2]["ground"])
    assert torch.equal(changed[2]["aerial"], plain[2]["aerial"])
    assert torch.equal(changed.labels(), plain.labels()) and torch.equal(changed.lonlat(), plain.lonlat())
    assert (len(changed), changed.views, changed.classes) == (6, plain.views, plain.classes)
    with pytest.raises(SpecError, match="Name views that are images"):
        Augmented(plain, {"lonlat": GROUND})
    with pytest.raises(SpecError, match="cannot augment"):
        Augmentation(crop=0.0)
    with pytest.raises(SpecError, match="Ask for fewer pixels"):
        Augmented(plain, {"aerial": Augmentation(pixels=99, crop=1.0)})[0]
