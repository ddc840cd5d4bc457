import numpy as np
import pytest

from delf_jax.synthetic import canvas, conditions, correspondence, landmarks
from delf_jax.synthetic.surfaces import wall

SIZE = (90, 120)


@pytest.fixture(scope="module")
def landmark():
    return landmarks.draw_landmark(landmarks.HELD_OUT + 1)


@pytest.fixture(scope="module")
def views(landmark):
    return [landmarks.draw_view(landmark, i, (180, 240), clean=True) for i in (2, 3)]


def _grid(size, step=3):
    y, x = np.mgrid[2 : size[0] - 2 : step, 2 : size[1] - 2 : step]
    return np.stack([y.ravel(), x.ravel()], -1).astype(float)


@pytest.mark.parametrize("kind", range(9))
def test_every_kind_fills_its_photo_with_detail(kind):
    landmark = landmarks.draw_landmark(landmarks.HELD_OUT // 9 * 9 + kind)
    view = landmarks.draw_view(landmark, 0, SIZE, clean=True)
    assert view.image.shape == (*SIZE, 3)
    building = len(landmark.surfaces) - len(landmark.hulls)
    assert 0.06 < np.mean(view.surface >= building)
    assert np.abs(np.diff(view.image.astype(int), axis=1)).mean() > 2


def test_a_view_depends_on_its_seed_and_number_alone(landmark):
    np.random.seed(0)  # noqa: NPY002  (must not matter)
    first = landmarks.draw_view(landmark, 5, SIZE)
    np.random.seed(1)  # noqa: NPY002
    landmarks.draw_view(landmark, 6, SIZE)
    again = landmarks.draw_view(landmarks.draw_landmark(landmark.seed), 5, SIZE)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.surface, again.surface)
    np.testing.assert_array_equal(first.planes, again.planes)


def test_other_numbers_and_other_seeds_give_other_photos(landmark):
    first, second = (landmarks.draw_view(landmark, i, SIZE).image for i in (0, 1))
    assert np.abs(first.astype(int) - second).mean() > 5
    sibling = landmarks.draw_landmark(landmark.seed + 9)  # of the same kind
    other = landmarks.draw_view(sibling, 0, SIZE).image
    assert np.abs(first.astype(int) - other).mean() > 5


def test_cameras_stay_in_front_of_the_landmark(landmark, rng):
    cameras = [landmarks.sample_camera(rng, landmark, SIZE) for _ in range(200)]
    yaws = [np.arctan2(-c.position[0], -c.position[1]) for c in cameras]
    assert 40 < np.rad2deg(np.abs(yaws)).max() < 60
    assert all(c.position[1] < -2 and c.position[2] > 1 for c in cameras)
    for camera in cameras[:20]:
        np.testing.assert_allclose(
            camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-9
        )
        assert np.linalg.det(camera.rotation) == pytest.approx(1)


def test_corresponding_points_look_alike(views):
    a, b = views
    points = _grid(a.camera.size)
    found, visible = correspondence.correspond(a, b, points)
    assert visible.mean() > 0.08
    rows, columns = np.round(found[visible]).astype(int).T
    there = b.image[rows, columns].astype(int)
    y, x = points[visible].astype(int).T
    here = a.image[y, x].astype(int)
    error = np.abs(here - there).mean()
    shifted = np.abs(a.image[y, np.maximum(x - 6, 0)].astype(int) - there).mean()
    assert error < 0.75 * shifted
    assert np.corrcoef(here.ravel(), there.ravel())[0, 1] > 0.8


def test_correspondences_lead_back(views):
    a, b = views
    points = _grid(a.camera.size)
    found, visible = correspondence.correspond(a, b, points)
    back, again = correspondence.correspond(b, a, found[visible])
    assert again.mean() > 0.9
    away = np.linalg.norm(back - points[visible], axis=1)[again]
    assert np.mean(away < 0.01) > 0.97  # at edges another surface may be nearest
    assert away.max() < 1


def test_a_view_corresponds_to_itself_except_for_the_sky(views):
    points = _grid(views[0].camera.size)
    found, visible = correspondence.correspond(views[0], views[0], points)
    y, x = points.astype(int).T
    np.testing.assert_array_equal(visible, views[0].surface[y, x] >= 0)
    np.testing.assert_allclose(found[visible], points[visible], atol=1e-6)


def _plain_scene(*boards):
    surfaces = tuple(
        wall(
            canvas.finish(canvas.blank(width, 4, 8, (150, 150, 150))),
            (x - width / 2, y),
            (x + width / 2, y),
            -2,
            4,
        )
        for x, y, width in boards
    )
    hulls = np.zeros((0, 4, 3))
    return landmarks.Landmark(0, surfaces, np.ones(3), hulls, np.zeros((0, 4)))


def _camera(x):
    rotation = np.array([(1.0, 0, 0), (0, 0, -1), (0, 1, 0)])
    return correspondence.Camera(np.array([x, -10.0, 0]), rotation, 80.0, (60, 80))


def test_planted_points_are_found_where_projection_puts_them():
    scene = _plain_scene((0, 0, 6))
    a, b = (landmarks.render(scene, _camera(x), conditions.CLEAN) for x in (0.0, 1.0))
    # The place (1, 0, 0.5): right of and above the middle, 8 pixels a unit.
    found, visible = correspondence.correspond(a, b, np.array([(29.5 - 4, 39.5 + 8)]))
    np.testing.assert_allclose(found, [(25.5, 39.5)], atol=1e-6)
    assert visible.all()


def test_what_a_nearer_board_hides_is_not_visible_but_still_projected():
    scene = _plain_scene((0, 0, 8), (2, -5, 1.0))
    a, b = (landmarks.render(scene, _camera(x), conditions.CLEAN) for x in (-1.0, 1.0))
    # The places (1, 0, 0) and (3, 0, 0); seen from b, the board covers the second.
    places = np.array([(29.5, 39.5 + 8 * 2), (29.5, 39.5 + 8 * 4)])
    found, visible = correspondence.correspond(a, b, places)
    np.testing.assert_allclose(found, [(29.5, 39.5), (29.5, 55.5)], atol=1e-6)
    assert visible.tolist() == [True, False]
    projected, known = correspondence.project(a, b, places)
    np.testing.assert_allclose(projected, found)
    assert known.all()


def test_passers_by_hide_the_landmark(landmark):
    weather = conditions.CLEAN._replace(passers=9)
    rng = np.random.default_rng(0)
    camera = landmarks.sample_camera(rng, landmark, SIZE)
    empty = landmarks.render(landmark, camera, conditions.CLEAN)
    crowded = landmarks.render(landmark, camera, weather)
    hidden = (empty.surface >= 0) & (crowded.surface < 0)
    assert 0.001 < hidden.mean() < 0.9
    rows, columns = np.nonzero(hidden)
    points = np.stack([rows, columns], -1).astype(float)
    assert not correspondence.correspond(empty, crowded, points)[1].any()


def test_the_box_is_about_what_shows_the_building():
    for seed in range(4):
        landmark = landmarks.draw_landmark(seed)
        view = landmarks.draw_view(landmark, 0, (60, 80))
        (box,) = landmarks.box_of(landmark, view) * [60, 80, 60, 80]
        first = len(landmark.surfaces) - len(landmark.hulls)
        rows, columns = np.nonzero(view.surface >= first)
        expected = [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]
        np.testing.assert_allclose(box, expected)
        hidden = view._replace(surface=np.full_like(view.surface, -1))
        assert landmarks.box_of(landmark, hidden).shape == (0, 4)
