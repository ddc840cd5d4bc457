"""Views and random crops: where they lie, what they show, and that a seed decides."""

import numpy as np
import pytest

from delf_jax.data import augment
from delf_jax.images import encode_jpeg

# As in the released training: no flip, no colours.
DELF = augment.ViewSettings(kind="crop", size=48, colour=0.0)
SETTINGS = augment.ViewSettings(size=96, resolutions=(120.0, 200.0), colour=0.0)


@pytest.fixture
def example(rng):
    image = rng.integers(0, 256, (12, 16, 3), np.uint8).repeat(12, 0).repeat(12, 1)
    return {"image": image, "label": 3, "id": "a"}


def pixel_coordinates(height, width):
    """An image whose colour says where a pixel is."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    return np.stack([y, x, 0 * x], -1)


def test_views_depend_on_the_generator_alone(example):
    first = augment.views(example, np.random.default_rng(1), SETTINGS)
    again = augment.views(example, np.random.default_rng(1), SETTINGS)
    other = augment.views(example, np.random.default_rng(2), SETTINGS)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert (first["image"] != other["image"]).any()
    assert first["image"].shape == (2, 96, 96, 3)
    assert first["coordinates"].shape == (2, 6, 6, 2)
    assert first["label"] == 3


def test_cells_at_equal_coordinates_show_the_same_place():
    """A ramp image tells for every cell of a view which source pixel it shows."""
    height, width = 160, 240
    image = (pixel_coordinates(height, width) * [255 / height, 255 / width, 0]).astype(
        np.uint8
    )
    example = {"image": image, "label": 0, "id": "a"}
    checked = 0
    for seed in range(8):
        output = augment.views(example, np.random.default_rng(seed), SETTINGS)
        for view, coordinates in zip(
            output["image"], output["coordinates"], strict=True
        ):
            colours = view[::16, ::16].astype(float)
            seen = colours[..., :2] * [height / 255, width / 255]
            # The shared frame is the image scaled; its scale is the same for all cells.
            scale = np.median(coordinates / np.maximum(seen, 1))
            inside = (coordinates > 12 * scale) & (
                coordinates < (np.array([height, width]) - 12) * scale
            )
            inside = inside.all(-1)
            outside = (coordinates == augment.OUTSIDE) | (
                coordinates == 2 * augment.OUTSIDE
            )
            assert (outside.any(-1) == outside.all(-1)).all()
            checked += inside.sum()
            assert np.abs(coordinates / scale - seen)[inside].max(initial=0) < 6
    assert checked > 200


def test_a_view_without_change_of_camera_is_the_image():
    still = augment.ViewSettings(
        size=96, resolutions=(96.0, 96.0), zoom=0, rotation=0, shear=0, perspective=0
    )
    still = still._replace(shift=0, colour=0.0)
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    example = {"image": image, "label": 0, "id": "a"}
    output = augment.views(example, np.random.default_rng(0), still)
    np.testing.assert_allclose(output["image"][0].astype(int), image, atol=1)
    cells = np.stack(np.mgrid[:6, :6], -1) * 16
    np.testing.assert_allclose(output["coordinates"][0], cells, atol=1e-3)


def test_colour_changes_keep_shape_and_type(example):
    settings = SETTINGS._replace(colour=2.0)
    for seed in range(10):
        output = augment.views(example, np.random.default_rng(seed), settings)
        assert output["image"].dtype == np.uint8
    plain = augment.views(example, np.random.default_rng(9), SETTINGS)
    assert (plain["image"] != output["image"]).any()


@pytest.fixture(scope="module")
def ramp():
    """A ramp: red tells the row of a pixel, green its column."""
    rows, columns = np.mgrid[:240, :250].astype(np.uint8)
    image = np.stack([rows, columns, np.full_like(rows, 128)], -1)
    return {"id": "a", "encoded": encode_jpeg(image, 100), "label": 3}


def test_a_seed_decides(ramp):
    first, again, other = (
        augment.crop(ramp, np.random.default_rng(seed), DELF) for seed in (1, 1, 2)
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
def test_a_crop_shows_its_box_however_much_the_jpeg_is_shrunk(ramp, size):
    settings = DELF._replace(size=size)
    for seed in range(10):
        found = augment.crop(ramp, np.random.default_rng(seed), settings)["image"][0]
        box = augment.draw_box(np.random.default_rng(seed), (240, 250), settings)
        ends = found[[0, -1], [0, -1]].astype(float)[:, :2]
        step = np.array([box[2] - box[0], box[3] - box[1]]) / size / 2 - 0.5
        corners = np.array([box[:2] + step, box[2:] - step - 1])
        # At 1/8 of its size a box lies on whole pixels of eight.
        np.testing.assert_allclose(ends, corners, atol=6)


def test_flips_mirror_every_second_crop(ramp):
    flips = 0
    for seed in range(40):
        plain, flipped = (
            augment.crop(ramp, np.random.default_rng(seed), settings)["image"][0]
            for settings in (DELF, DELF._replace(flip=True))
        )
        if (plain == flipped).all():
            continue
        np.testing.assert_array_equal(plain[:, ::-1], flipped)
        flips += 1
    assert 10 < flips < 30


def test_colours_change_what_is_seen(ramp):
    plain, coloured = (
        augment.crop(ramp, np.random.default_rng(0), settings)["image"]
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


def draw_square(size, box):
    """A black image that is white within a box in parts of it."""
    image = np.zeros((*size, 3), np.uint8)
    y_min, x_min, y_max, x_max = (np.array(box) * [*size, *size]).astype(int)
    image[y_min:y_max, x_min:x_max] = 255
    return {"image": image, "boxes": np.float32([box]), "label": 3}


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_follow_what_is_seen(flip):
    settings = augment.ViewSettings(
        kind="boxes", size=96, area=(0.3, 1.0), colour=0.0, flip=flip
    )
    example, seen = draw_square((120, 200), (0.25, 0.25, 0.75, 0.6)), 0
    for seed in range(60):
        view = augment.boxed(example, np.random.default_rng(seed), settings)
        assert view["image"].shape == (1, 96, 96, 3) and view["label"] == 3
        assert view["boxes"].shape == (32, 4) and not view["boxes"][1:].any()
        white = (view["image"][0] > 200).all(2)
        assert view["valid"].sum() <= 1
        if not view["valid"][0]:
            assert white.mean() < 0.3  # less than what counts is seen
            continue
        rows, columns = np.nonzero(white)
        found = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        np.testing.assert_allclose(view["boxes"][0] * 96, found, atol=1.6)
        seen += 1
    assert seen > 40


def test_beside_an_image_there_is_grey_and_without_boxes_no_box():
    settings = augment.ViewSettings(kind="boxes", size=64, area=(1.0, 1.0), zoom=2.0)
    settings = settings._replace(colour=0.0, aspect=(0.9, 1.1))
    example = draw_square((80, 80), (0, 0, 1, 1))
    views = [
        augment.boxed(example, np.random.default_rng(seed), settings)
        for seed in range(8)
    ]
    grey = [(view["image"] == 128).all(-1).mean() for view in views]
    assert max(grey) > 0.5
    for view, share in zip(views, grey, strict=True):
        area = np.prod(view["boxes"][0, 2:] - view["boxes"][0, :2])
        assert area == pytest.approx(1 - share, abs=0.1)
    nothing = {**example, "boxes": np.zeros((0, 4), np.float32)}
    assert not augment.boxed(nothing, np.random.default_rng(0), settings)["valid"].any()


def test_of_too_many_boxes_the_largest_are_kept_in_their_order():
    sides = np.linspace(0.1, 0.9, 50)
    boxes = np.float32([[0, 0, side, side] for side in sides])
    example = {"image": np.zeros((50, 50, 3), np.uint8), "boxes": boxes, "label": 0}
    settings = augment.ViewSettings(kind="boxes", size=50, area=(1.0, 1.0), zoom=0.0)
    view = augment.boxed(example, np.random.default_rng(0), settings)
    assert view["valid"].all()
    np.testing.assert_allclose(view["boxes"][:, 2], sides[18:], atol=0.03)
