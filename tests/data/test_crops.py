"""Random crops: where they lie, what they show, and that a seed decides."""

import numpy as np
import pytest

from delf_jax.data import augment
from delf_jax.data.augment import ViewSettings
from delf_jax.images import encode_jpeg

# As in the released training: no flip, no colours.
DELF = ViewSettings(kind="crop", size=48, colour=0.0)


@pytest.fixture(scope="module")
def example():
    """A ramp: red tells the row of a pixel, green its column."""
    rows, columns = np.mgrid[:240, :250].astype(np.uint8)
    image = np.stack([rows, columns, np.full_like(rows, 128)], -1)
    return {"id": "a", "encoded": encode_jpeg(image, 100), "label": 3}


def test_a_seed_decides(example):
    first, again, other = (
        augment.crop(example, np.random.default_rng(seed), DELF) for seed in (1, 1, 2)
    )
    assert first["image"].shape == (1, 48, 48, 3)
    assert first["image"].dtype == np.uint8
    assert first["label"] == 3
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (first["image"] != other["image"]).any()


def test_boxes_keep_to_area_and_aspect_and_lie_within_the_image(rng):
    boxes = np.array([augment.draw_box(rng, (300, 400), DELF) for _ in range(2000)])
    top, left, bottom, right = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (bottom <= 300).all()
    assert (right <= 400).all()
    heights, widths = bottom - top, right - left
    areas = heights * widths / (300 * 400)
    # At least a tenth is covered, by the second rule of the released code.
    assert areas.min() >= 0.1
    assert areas.min() < 0.12
    assert areas.max() > 0.9
    assert (widths / heights).min() > 0.74
    assert (widths / heights).max() < 1.35
    # What TensorFlow 2.21's op gave in 3000 draws: medians of top, left, height, width.
    medians = np.median([top, left, heights, widths], axis=1)
    np.testing.assert_allclose(medians, [35, 80, 207, 208], atol=9)


def test_an_image_too_long_for_any_box_is_taken_whole(rng):
    assert augment.draw_box(rng, (20, 2000), DELF) == (0, 0, 20, 2000)


@pytest.mark.parametrize("size", [24, 48, 200])
def test_a_crop_shows_its_box_however_much_the_jpeg_is_shrunk(example, size):
    settings = DELF._replace(size=size)
    for seed in range(10):
        found = augment.crop(example, np.random.default_rng(seed), settings)["image"][0]
        box = augment.draw_box(np.random.default_rng(seed), (240, 250), settings)
        ends = found[[0, -1], [0, -1]].astype(float)[:, :2]
        step = np.array([box[2] - box[0], box[3] - box[1]]) / size / 2 - 0.5
        corners = np.array([box[:2] + step, box[2:] - step - 1])
        # At 1/8 of its size a box lies on whole pixels of eight.
        np.testing.assert_allclose(ends, corners, atol=6)


def test_flips_mirror_every_second_crop(example):
    flips = 0
    for seed in range(40):
        plain, flipped = (
            augment.crop(example, np.random.default_rng(seed), settings)["image"][0]
            for settings in (DELF, DELF._replace(flip=True))
        )
        if (plain == flipped).all():
            continue
        np.testing.assert_array_equal(plain[:, ::-1], flipped)
        flips += 1
    assert 10 < flips < 30


def test_colours_change_what_is_seen(example):
    plain, coloured = (
        augment.crop(example, np.random.default_rng(0), settings)["image"]
        for settings in (DELF, DELF._replace(colour=1.0))
    )
    assert (plain != coloured).any()


@pytest.mark.parametrize("shape", [(50, 70), (20, 70), (70, 20), (10, 13), (30, 30)])
def test_a_pixel_of_a_resized_image_is_the_mean_of_what_it_covers(rng, shape):
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    size = 30
    found = augment.resize_area(image, size)
    fine = image.repeat(size, 0).repeat(size, 1).astype(np.float64)
    means = fine.reshape(size, shape[0], size, shape[1], 3).mean((1, 3))
    np.testing.assert_allclose(found, means, atol=0.502)
