import numpy as np
import pytest

from delf_jax.synthetic import conditions, correspondence, rendering
from delf_jax.synthetic.canvas import blank, cut, fill, finish, rectangle
from delf_jax.synthetic.surfaces import slab, wall

NOTHING = np.zeros((0, 4, 3))
SIZE = (60, 80)


@pytest.fixture
def camera():
    """Ten units before the origin, looking at it."""
    rotation = np.array([(1.0, 0, 0), (0, 0, -1), (0, 1, 0)])
    return correspondence.Camera(np.array([0.0, -10, 0]), rotation, 80.0, SIZE)


@pytest.fixture
def picture():
    shape = tuple(rendering.SUPERSAMPLING * n for n in SIZE)
    return rendering.Picture(
        np.zeros((*shape, 3), np.uint8),
        np.zeros(shape, np.float32),
        np.full(shape, -1, np.int16),
    )


def _board(colour, y, size=4.0):
    texture = finish(blank(size, size, 16, colour))
    left, right = (-size / 2, y), (size / 2, y)
    return wall(texture, left, right, -size / 2, size)


def _paint(picture, camera, *surfaces):
    return [
        rendering.paint(picture, s, i, camera, conditions.CLEAN, NOTHING)
        for i, s in enumerate(surfaces)
    ]


def test_a_board_covers_the_pixels_that_its_size_and_distance_say(camera, picture):
    _paint(picture, camera, _board((200, 0, 0), 0.0))
    rows, columns = np.nonzero(picture.surface == 0)
    # 4 units at 10 units' distance and focal 80: 32 pixels, 64 supersampled
    assert np.ptp(columns) + 1 == pytest.approx(64, abs=1)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(79.5, abs=0.5)
    assert (rows.min() + rows.max()) / 2 == pytest.approx(59.5, abs=0.5)


def test_a_returned_plane_gives_the_distance(camera, picture):
    (plane,) = _paint(picture, camera, _board((200, 0, 0), 2.0))
    assert plane @ (39.5, 29.5, 1) == pytest.approx(1 / 12)
    assert plane @ (10, 3, 1) == pytest.approx(1 / 12)
    progress = picture.inverse_depth[picture.surface == 0]
    np.testing.assert_allclose(progress, 1 / 12, rtol=1e-5)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_nearer_board_is_seen_in_any_order(camera, picture, order):
    boards = [_board((200, 0, 0), 0.0, 2.0), _board((0, 200, 0), 3.0, 6.0)]
    _paint(picture, camera, *(boards[i] for i in order))
    middle, beside = picture.colour[60, 80], picture.colour[60, 110]
    assert middle[0] > 100 and middle[1] < 20
    assert beside[1] > 100 and beside[0] < 20


def test_backs_are_not_painted_unless_two_sided(camera, picture):
    board = _board((200, 0, 0), 0.0)
    turned = board._replace(corner=board.corner + board.across, across=-board.across)
    assert _paint(picture, camera, turned) == [None]
    assert (picture.surface == -1).all()
    (plane,) = _paint(picture, camera, turned._replace(two_sided=True))
    assert plane is not None


def test_one_looks_through_openings(camera, picture):
    canvas = blank(4, 4, 16, (200, 0, 0))
    cut(canvas, rectangle(1, 1, 2, 2))
    board = wall(finish(canvas), (-2, 0), (2, 0), -2, 4)
    _paint(picture, camera, board)
    assert picture.surface[60, 80] == -1
    assert picture.surface[60, 80 + 26] == 0


def test_ground_that_reaches_behind_the_camera_is_cut_off(camera, picture):
    texture = finish(blank(40, 40, 4, (0, 0, 200)))
    _paint(picture, camera, slab(texture, -20, -20, 40, 40, -1.0))
    rows = np.nonzero((picture.surface == 0).any(1))[0]
    horizon = 59.5 + 160 * 1 / 30  # the far edge lies 30 units away
    assert rows.min() == pytest.approx(horizon, abs=1.5)
    assert rows.max() == 119


def test_the_texture_is_not_mirrored(camera, picture):
    canvas = blank(4, 4, 16, (0, 0, 0))
    fill(canvas, rectangle(0, 2, 2, 2), (220, 220, 220))
    board = wall(finish(canvas), (-2, 0), (2, 0), -2, 4)
    _paint(picture, camera, board)
    assert picture.colour[45, 65, 0] > 100  # upper left
    assert picture.colour[45, 95, 0] < 30 and picture.colour[75, 65, 0] < 30
