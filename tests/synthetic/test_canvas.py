import numpy as np
import pytest

from delf_jax.synthetic.canvas import (
    blank,
    cut,
    fill,
    finish,
    keep,
    masonry,
    mottle,
    noise,
    opening,
    rectangle,
    split,
    write,
)


def test_noise_has_unit_variance_and_depends_on_its_generator_alone():
    first, again = (noise(np.random.default_rng(3), (300, 400), 0.5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (300, 400)
    assert first.std() == pytest.approx(1, abs=0.15)
    other = noise(np.random.default_rng(4), (300, 400), 0.5)
    assert np.abs(first - other).mean() > 0.5


def test_a_filled_rectangle_lies_where_its_units_say():
    canvas = blank(10, 6, 10, (0, 0, 0))
    fill(canvas, rectangle(2, 1, 3, 2), (200, 100, 50), 0.3)
    rows, columns = np.nonzero(canvas.colour[..., 0] > 100)
    assert (rows.min(), rows.max() + 1) == pytest.approx(
        (30, 50), abs=1
    )  # y upwards from the bottom
    assert (columns.min(), columns.max() + 1) == pytest.approx((20, 50), abs=1)
    assert canvas.relief[40, 30] == pytest.approx(0.3)


def test_glow_is_covered_by_what_is_drawn_over_it():
    canvas = blank(4, 4, 10, (0, 0, 0))
    fill(canvas, rectangle(0, 0, 4, 4), (9, 9, 9), None, (200, 200, 0))
    fill(canvas, rectangle(0, 0, 2, 4), (50, 50, 50))
    assert not canvas.glow[:, :18].any()
    assert (canvas.glow[:, 22:, 0] == 200).all()


def test_cutting_and_keeping_leave_openings():
    canvas = blank(4, 4, 10, (0, 0, 0))
    cut(canvas, rectangle(1, 1, 1, 1))
    assert canvas.alpha[25, 15] == 0 and canvas.alpha[5, 5] == 255
    keep(canvas, rectangle(0, 0, 3, 4))
    assert canvas.alpha[5, 35] == 0 and canvas.alpha[25, 15] == 0


@pytest.mark.parametrize("kind", ["square", "round", "pointed"])
@pytest.mark.parametrize("size", [(1.0, 2.0), (2.0, 1.0)])
def test_openings_fill_their_box(kind, size):
    outline = opening(kind, 5, 1, *size)
    np.testing.assert_allclose(outline.min(0), (5 - size[0] / 2, 1), atol=1e-9)
    np.testing.assert_allclose(outline.max(0), (5 + size[0] / 2, 1 + size[1]))


def test_masonry_has_joints_between_blocks_of_one_tone(rng):
    canvas = blank(8, 4, 20, (150, 140, 130))
    masonry(
        canvas,
        rng,
        block=(1.0, 0.5),
        mortar=0.1,
        variation=0.1,
        joint_colour=(10, 10, 10),
    )
    joints = (canvas.colour == 10).all(-1)
    assert 0.15 < joints.mean() < 0.45
    rows = joints.mean(1)
    assert 16 <= np.count_nonzero(rows == 1) <= 24  # two or three pixels a course
    assert len(np.unique(canvas.colour[~joints], axis=0)) <= 8 * 10


def test_relief_is_lit_from_above_and_slopes_to_both_sides():
    canvas = blank(6, 6, 10, (100, 100, 100))
    fill(canvas, rectangle(2, 2, 2, 2), None, 0.3)
    level = finish(canvas).levels[0]
    assert level.colour[20, 30, 0] > level.colour[28, 30, 0]  # upper edge
    assert level.colour[42, 30, 0] < 80  # its shadow below
    assert level.slope[30, 19, 0] < 128 < level.slope[30, 40, 0]


def test_levels_halve_and_keep_the_mean(rng):
    canvas = blank(8, 4, 16, (120, 80, 60))
    mottle(canvas, rng)
    levels = finish(canvas).levels
    assert [level.colour.shape[:2] for level in levels[:3]] == [
        (64, 128),
        (32, 64),
        (16, 32),
    ]
    means = [level.colour.mean() for level in levels]
    assert np.ptp(means) < 2
    assert levels[0].alpha is None and levels[0].glow is None


def test_strips_make_up_the_canvas(rng):
    canvas = blank(7, 2, 11, (120, 80, 60))
    mottle(canvas, rng)
    parts = split(canvas, 5)
    joined = np.concatenate([part.colour for part in parts], 1)
    np.testing.assert_array_equal(joined, canvas.colour)


def test_letters_stay_on_their_line():
    canvas = blank(10, 4, 20, (0, 0, 0))
    write(canvas, "EX", 5, 2, 1, (255, 255, 255))
    rows, columns = np.nonzero(canvas.colour[..., 0] > 128)
    assert 26 <= rows.min() and rows.max() < 54
    assert abs(columns.mean() - 100) < 8
