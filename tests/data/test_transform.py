"""From images of any shape to the encoder's squares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dualcap_jax.data.transform import ImageTransform
from dualcap_jax.errors import ConfigError

from .drawn import encode, noise, photograph


def torchvision_preprocess(image, size, resize):
    """`Resize(resize)` then `CenterCrop(size)` as torchvision 0.20 computes them for a PIL image."""
    width, height = image.size
    short, long = (width, height) if width <= height else (height, width)
    new_short, new_long = resize, int(resize * long / short)
    new_size = (new_short, new_long) if width <= height else (new_long, new_short)
    image = image.resize(new_size, Image.Resampling.BILINEAR)
    top, left = int(round((new_size[1] - size) / 2.0)), int(round((new_size[0] - size) / 2.0))  # noqa: RUF046
    return np.asarray(image.crop((left, top, left + size, top + size)))


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 80), st.integers(0, 40), st.integers(0, 99))
def test_preparing_is_torchvisions_resize_and_crop_up_to_rounding(width, height, size, extra, seed):
    image = noise(width, height, seed=seed)
    ours = ImageTransform(size, size + extra)(image)
    theirs = torchvision_preprocess(image, size, size + extra)
    assert ours.shape == (size, size, 3)
    assert ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs).max() <= 2


@pytest.mark.parametrize(("width", "height"), [(640, 480), (333, 500), (380, 380), (120, 90)])
def test_of_a_photograph_hardly_a_pixel_differs_from_torchvision(width, height):
    image = photograph(width, height)
    difference = ImageTransform(128, 128)(image).astype(int) - torchvision_preprocess(image, 128, 128)
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.03


def test_an_image_of_the_right_size_passes_unchanged():
    image = noise(48, 48)
    np.testing.assert_array_equal(ImageTransform(48, 48).decode(encode(image)), np.asarray(image))


def test_a_crop_without_resizing_takes_the_centre():
    image = noise(50, 60)
    np.testing.assert_array_equal(ImageTransform(40, 50)(image), np.asarray(image)[10:50, 5:45])


def test_an_image_of_any_shape_is_cropped_without_being_blown_up():
    assert ImageTransform(64, 64)(Image.new("RGB", (1, 20_000), "blue")).tolist()[0][0] == [0, 0, 255]


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (800, 100)])
@pytest.mark.parametrize("scale", [0.2, 0.9])
def test_random_crops_keep_the_share_and_the_aspect_asked_for(width, height, scale):
    ramps = np.stack(np.broadcast_arrays(np.arange(width), np.arange(height)[:, None], 0), -1) * 255
    image = Image.fromarray((ramps / [width, height, 1]).astype(np.uint8))
    places = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        crop = ImageTransform(32, 32).random_crop(image, scale, rng).astype(float)
        spans = np.ptp(crop[..., 0]) / 255 * width, np.ptp(crop[..., 1]) / 255 * height
        spans = [span * 32 / 31 for span in spans]  # from the first pixel's centre to the last's
        places.add((crop[0, 0, 0], crop[0, 0, 1]))
        share = spans[0] * spans[1] / (width * height)
        assert min(scale, 4 / 3 * min(width / height, height / width)) * 0.95 <= share <= 1.05
        assert 0.7 <= spans[0] / spans[1] <= 1.4
        np.testing.assert_array_equal(
            crop, ImageTransform(32, 32).random_crop(image, scale, np.random.default_rng(seed))
        )
    assert len(places) > 5 or scale == 0.9 or width == 8 * height  # where only the centre will do


@pytest.mark.parametrize(
    ("sides", "message"),
    [((0, 0), "image_size=0: must be at least 1"), ((9, 8), "resize=8: must be at least the image size")],
)
def test_impossible_sides_are_refused(sides, message):
    with pytest.raises(ConfigError, match=message):
        ImageTransform(*sides)
