import numpy as np
import pytest

from delf_jax.synthetic import facades
from delf_jax.synthetic.canvas import Texture


@pytest.fixture
def look(rng):
    return facades.draw_look(rng, 30.0)


def test_looks_differ(rng):
    looks = [facades.draw_look(rng, 20.0) for _ in range(40)]
    assert len({look.material for look in looks}) >= 6
    walls = np.array([look.wall for look in looks])
    assert walls.std(0).min() > 15
    assert facades.draw_look(rng, 20.0, ("brick",)).material == "brick"


@pytest.mark.parametrize("material", ["brick", "rubble", "plaster", "timber"])
def test_a_bare_wall_keeps_the_colour_of_its_material(rng, look, material):
    canvas = facades.bare(rng, look._replace(material=material), 6, 5)
    assert canvas.colour.std() > 3
    share = 0.5 if material == "timber" else 0.75
    tone = np.median(canvas.colour.reshape(-1, 3), 0) / np.array(look.wall)
    assert (share < tone).all() and (tone < 1.3).all()


def test_a_facade_has_windows_in_every_storey_and_a_door(rng, look):
    canvas = facades.facade(
        rng, look, 10, 9, storeys=3, bays=5, decorated=0.0, entrance=True
    )
    glass = canvas.relief < -0.1
    thirds = np.array_split(glass, 3, axis=0)
    assert all(part.mean() > 0.02 for part in thirds)
    height, width = glass.shape
    middle = glass[int(0.8 * height) :, int(0.47 * width) : int(0.53 * width)]
    assert middle.mean() > 0.2


def test_a_gable_is_cut_above_the_eaves(rng, look):
    for steps in (0, 4):
        canvas = facades.gabled(facades.bare(rng, look, 6, 8), 5.0, steps)
        rows = (canvas.alpha > 0).mean(1)
        eaves = int(len(rows) * 3 / 8)
        assert rows[eaves + 3 :].min() == 1
        assert rows[2] < 0.4
        assert (np.diff(rows[:eaves]) >= -0.01).all()  # widens downwards


def test_battlements_are_notches_of_the_top(rng, look):
    canvas = facades.battlements(facades.bare(rng, look, 8, 4), 0.5, 1.0)
    top = canvas.alpha[3] > 0
    assert 0.3 < top.mean() < 0.7
    assert np.count_nonzero(np.diff(top.astype(int)) > 0) == 8
    assert (canvas.alpha[len(canvas.alpha) // 3 :] == 255).all()


@pytest.mark.parametrize("surface", [facades.roof, facades.metal, facades.plain])
def test_plain_parts_are_textures_of_their_size(rng, look, surface):
    texture = surface(rng, look, 4, 2)
    height, width = texture.levels[0].colour.shape[:2]
    assert width == pytest.approx(2 * height, abs=2)
    assert isinstance(texture, Texture)
