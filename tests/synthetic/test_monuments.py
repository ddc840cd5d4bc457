import numpy as np
import pytest

from delf_jax.synthetic import monuments, surfaces

KINDS = ["castle", "arch", "clock_tower", "domed_church", "modern_block", "palace"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_monument_stands_on_the_ground_where_it_says(kind):
    building = getattr(monuments, kind)(np.random.default_rng(7))
    points = np.concatenate([surfaces.vertices(s) for s in building.surfaces])
    assert points[:, 2].min() == pytest.approx(0, abs=0.05)
    assert 0.7 * building.height < points[:, 2].max() < building.height + 8
    assert np.abs(points[:, 0]).max() < 0.5 * building.width + 5
    assert np.isfinite(points).all()


def test_one_looks_through_an_arch():
    building = monuments.arch(np.random.default_rng(2))
    front = building.surfaces[0]
    alpha = front.texture.levels[0].alpha
    height, width = alpha.shape
    assert (alpha[int(0.8 * height), int(0.45 * width) : int(0.55 * width)] == 0).all()
    assert (alpha[: int(0.2 * height)] == 255).all()
