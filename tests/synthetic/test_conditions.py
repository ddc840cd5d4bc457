import numpy as np
import pytest

from delf_jax.synthetic import conditions, surfaces
from delf_jax.synthetic.canvas import blank, fill, finish, rectangle


@pytest.fixture(scope="module")
def grey():
    return finish(blank(4, 4, 16, (120, 120, 120)))


def _brightness(surface, weather):
    level = surface.texture.levels[0]
    return conditions.light(surface, level, weather, np.zeros((0, 4, 3))).mean()


def test_what_faces_the_sun_is_brighter(grey):
    towards = surfaces.wall(grey, (0, 0), (4, 0), 0, 4)  # the sun is behind the visitor
    away = surfaces.wall(grey, (4, 0), (0, 0), 0, 4)
    bright, dark = (_brightness(s, conditions.CLEAN) for s in (towards, away))
    assert bright > 1.15 * dark


def test_a_shadow_falls_where_the_sun_throws_it(grey):
    ground = surfaces.slab(grey, -8, -8, 16, 16, 0)
    sun = np.array([0.0, -1.0, 1.0]) / np.sqrt(2)  # from the front, 45 degrees high
    board = np.array([(-1, 0, 0), (1, 0, 0), (1, 0, 2), (-1, 0, 2)], float)
    mask = conditions.shadow(ground, sun, board[None], (160, 160))
    rows, columns = np.nonzero(mask)
    # the ground's texture has y = 8 in its first row; the shadow runs from y = 0 to 2
    assert (rows.min(), rows.max()) == pytest.approx((60, 80), abs=1)
    assert (columns.min(), columns.max()) == pytest.approx((70, 90), abs=1)


def test_what_lies_behind_a_wall_throws_no_shadow_on_it(grey):
    front = surfaces.wall(grey, (-4, 0), (4, 0), 0, 4)
    behind = np.array([(-1, 2, 0), (1, 2, 0), (1, 2, 3), (-1, 2, 3)], float)
    sun = np.array([0.0, -0.8, 0.6])
    assert conditions.shadow(front, sun, behind[None], (32, 32)) is None
    before = behind * (1, -1, 1)
    assert conditions.shadow(front, sun, before[None], (32, 32)).any()


def test_a_relief_turns_its_bright_side_to_the_sun():
    canvas = blank(6, 6, 10, (110, 110, 110))
    fill(canvas, rectangle(2, 2, 2, 2), None, 0.3)
    surface = surfaces.wall(finish(canvas), (0, 0), (6, 0), 0, 6)
    level = surface.texture.levels[0]
    for side, bright, dark in ((1, 40, 19), (-1, 19, 40)):
        sun = np.array([side * 0.7, -0.5, 0.5])
        weather = conditions.CLEAN._replace(sun=sun / np.linalg.norm(sun))
        lit = conditions.light(surface, level, weather, np.zeros((0, 4, 3)))
        assert int(lit[30, bright, 0]) > int(lit[30, dark, 0]) + 10


def test_a_clean_photo_is_what_stands_before_the_camera(rng):
    image = rng.integers(0, 200, (40, 60, 3), np.uint8)
    inverse = np.full((40, 60), 0.1, np.float32)
    developed = conditions.develop(rng, conditions.CLEAN, image, inverse)
    assert np.abs(developed.astype(int) - image).max() <= 1


def test_haze_takes_what_is_far_and_leaves_the_sky(rng):
    image = np.full((2, 3, 3), 50, np.uint8)
    inverse = np.array([[1.0, 0.01, 0.0]] * 2, np.float32)
    weather = conditions.CLEAN._replace(haze=0.02)
    near, far, sky = conditions.develop(rng, weather, image, inverse)[0, :, 2]
    assert near < 60 < 150 < far
    assert sky == 50


def test_blur_noise_and_jpeg_change_a_photo_but_not_its_mean(rng):
    image = (rng.random((96, 128, 3)) * 100 + 50).astype(np.uint8)
    inverse = np.full((96, 128), 0.1, np.float32)
    for change in (
        {"blur": 3.0},
        {"motion": (6.0, 3.0)},
        {"noise": 8.0},
        {"quality": 40},
    ):
        weather = conditions.CLEAN._replace(**change)
        photo = conditions.develop(np.random.default_rng(1), weather, image, inverse)
        again = conditions.develop(np.random.default_rng(1), weather, image, inverse)
        np.testing.assert_array_equal(photo, again)
        assert np.abs(photo.astype(int) - image).mean() > 1
        assert abs(photo.mean() - image.mean()) < 3


def test_sampled_conditions_stay_in_their_ranges(rng):
    sampled = [conditions.sample_conditions(rng) for _ in range(300)]
    assert all(np.linalg.norm(c.sun) == pytest.approx(1) for c in sampled)
    assert all(35 <= c.quality <= 95 and c.noise >= 0 for c in sampled)
    assert 0.1 < np.mean([c.lamps > 0 for c in sampled]) < 0.4
    assert all(not c.shadows for c in sampled if c.lamps > 0)


def test_the_sky_is_darker_above_than_at_the_horizon(rng):
    elevations = np.linspace(1, 0, 80, dtype=np.float32)[:, None].repeat(120, 1)
    weather = conditions.CLEAN._replace(cover=0.0)
    sky = conditions.paint_sky(rng, weather, elevations)
    assert sky.shape == (80, 120, 3)
    assert sky[:8].mean() + 20 < sky[-8:].mean()
