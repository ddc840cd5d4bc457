import numpy as np
import pytest

from delf_jax.synthetic import buildings, surfaces


@pytest.mark.parametrize("kind", ["town_houses", "cathedral", "temple"])
def test_a_building_stands_on_the_ground_where_it_says(kind):
    building = getattr(buildings, kind)(np.random.default_rng(7))
    points = np.concatenate([surfaces.vertices(s) for s in building.surfaces])
    assert points[:, 2].min() == pytest.approx(0, abs=0.05)
    assert points[:, 2].max() <= building.height + 8
    assert points[:, 2].max() >= 0.75 * building.height
    assert np.abs(points[:, 0]).max() < 0.5 * building.width + 5
    assert -4 < points[:, 1].min() and points[:, 1].max() < building.depth + 2


def test_the_front_has_more_to_see_than_the_sides():
    building = buildings.cathedral(np.random.default_rng(3))
    front = [s for s in building.surfaces if surfaces.normal(s)[1] < -0.99]
    assert len(front) >= 1
    detail = max(s.texture.levels[0].colour.shape[1] for s in front)
    assert detail > 200
