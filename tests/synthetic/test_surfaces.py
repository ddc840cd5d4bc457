import numpy as np
import pytest

from delf_jax.synthetic import canvas, surfaces


@pytest.fixture(scope="module")
def texture():
    return canvas.finish(canvas.blank(2, 2, 8, (90, 90, 90)))


def test_the_walls_of_a_box_face_outwards(texture):
    walls = surfaces.box(texture, texture, texture, (-1, 2, 0), (4, 3, 5))
    middle = np.array([1, 3.5, 2.5])
    for surface in walls:
        outwards = surfaces.vertices(surface).mean(0) - middle
        assert surfaces.normal(surface) @ outwards > 0
    assert surfaces.normal(walls[0]) == pytest.approx((0, -1, 0))  # to the visitor


def test_a_prism_closes_around_its_ground(texture):
    ground = surfaces.ring(3, 4, 2, 7)
    walls = surfaces.prism([texture], ground, 1, 2)
    ends = np.array([s.corner + s.across for s in walls])
    starts = np.array([s.corner for s in walls])
    np.testing.assert_allclose(ends, np.roll(starts, -1, 0), atol=1e-9)
    assert {v[2] for s in walls for v in surfaces.vertices(s)} == {1.0, 3.0}


@pytest.mark.parametrize("top", [0.0, 0.5, 1.0, 3.0])
def test_a_facet_has_the_corners_it_was_given(texture, top):
    corners = np.array([(-1, 0, 0), (1, 0, 0), (top, 1, 2), (-top, 1, 2)], float)
    found = surfaces.vertices(surfaces.facet(texture, *corners))
    for corner in corners:
        assert np.linalg.norm(found - corner, axis=1).min() < 1e-9
    assert len(found) == (3 if top == 0 else 4)


def test_a_dome_closes_to_a_point(texture):
    dome = surfaces.lathe([texture], (1, 2), [(3, 0), (2, 2), (0, 3)], 6)
    assert len(dome) == 12
    tips = [v for s in dome[6:] for v in surfaces.vertices(s) if v[2] > 2.9]
    np.testing.assert_allclose(tips, np.tile((1, 2, 3), (6, 1)), atol=1e-9)
    for surface in dome:
        outwards = surfaces.vertices(surface).mean(0) - (1, 2, 0.5)
        assert surfaces.normal(surface) @ outwards > 0


@pytest.mark.parametrize("roof", [surfaces.saddle_roof, surfaces.hip_roof])
@pytest.mark.parametrize("size", [(4, 9), (9, 4), (5, 5)])
def test_roofs_face_the_sky_and_reach_their_height(texture, roof, size):
    slopes = roof(texture, surfaces.footprint(0, 0, *size), 3.0, 2.0, 0.0)
    for surface in slopes:
        assert surfaces.normal(surface)[2] > 0
    top = max(surfaces.vertices(s)[:, 2].max() for s in slopes)
    assert top == pytest.approx(5.0)


def test_the_cross_product_is_that_of_numpy(rng):
    a, b = rng.normal(size=(2, 3))
    np.testing.assert_allclose(surfaces.cross(a, b), np.cross(a, b))
