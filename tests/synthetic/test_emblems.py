import numpy as np
import pytest

from delf_jax.synthetic import emblems, ornaments
from delf_jax.synthetic.canvas import blank

WALL = (120, 118, 116)


def _style():
    return ornaments.draw_style(np.random.default_rng(5), WALL)


def _draw(name, seed):
    rng = np.random.default_rng(seed)
    canvas = blank(6, 6, 20, WALL)
    draw = {
        "statue": lambda: emblems.statue(canvas, rng, _style(), 3, 1, 4),
        "clock": lambda: emblems.clock(canvas, rng, _style(), 3, 3, 1.6),
        "sign": lambda: emblems.sign(canvas, rng, 3, 2.5, 4, 1),
        "banner": lambda: emblems.banner(canvas, rng, 3, 1, 2, 4),
        "mural": lambda: emblems.mural(canvas, rng, 3, 1.5, 3, 3),
        "shield": lambda: emblems.shield(canvas, rng, 3, 3, 3),
        "emblem": lambda: emblems.emblem(canvas, rng, _style(), 3, 3, 4),
    }[name]
    draw()
    return canvas.colour.astype(int)


@pytest.mark.parametrize(
    "name", ["statue", "clock", "sign", "banner", "mural", "shield", "emblem"]
)
def test_an_emblem_is_its_generator_s_alone(name):
    first, again, other = (_draw(name, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.5
    assert (first != WALL).any(-1).mean() > 0.08  # it can be seen
    assert (first[:4] == WALL).all()  # and stays off the edges of its place


def test_inscriptions_have_the_requested_length(rng):
    for letters in (2, 7, 20):
        for _ in range(20):
            text = emblems.words(rng, letters)
            assert letters - 1 <= len(text) <= letters
            assert set(text) <= set("ABCDEFGHILMNOPRSTUVZ ")


def test_letters_of_a_sign_can_be_read(rng):
    for seed in range(10):
        canvas = _draw("sign", seed)
        tones = canvas[50:70, 40:80].mean(-1)
        assert np.ptp(tones) > 40
