import numpy as np
import pytest

from delf_jax.synthetic import scenery
from delf_jax.synthetic.surfaces import normal, vertices


def test_the_ground_faces_up_and_reaches_the_horizon(rng):
    surfaces = scenery.ground(rng, 12.0, 8.0)
    points = np.concatenate([vertices(s) for s in surfaces])
    assert all(normal(s)[2] == pytest.approx(1) for s in surfaces)
    assert points[:, 2].max() < 0 and np.abs(points[:, :2]).max() > 60


def test_the_backdrop_leaves_the_building_free(rng):
    for _ in range(3):
        for surface in scenery.backdrop(rng, 12.0, 8.0):
            points = vertices(surface)
            beside = (points[:, 0] >= 6 - 1e-9).all() or (points[:, 0] <= -6).all()
            assert beside or points[:, 1].min() > 8


@pytest.mark.parametrize("kind", ["person", "lamp", "tree", "stall"])
def test_passers_stand_on_the_ground_and_leave_air_around(kind):
    level = scenery.passers(kind, 3).levels[0]
    assert (level.alpha[-6:] > 0).any()  # feet
    share = np.mean(level.alpha > 0)
    assert 0.08 < share < 0.99
    other = scenery.passers(kind, 4).levels[0]
    assert (level.colour != other.colour).any()
    assert scenery.passers(kind, 3) is scenery.passers(kind, 3)
