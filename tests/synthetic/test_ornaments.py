import numpy as np
import pytest

from delf_jax.synthetic import ornaments
from delf_jax.synthetic.canvas import blank, rectangle

WALL = (120, 118, 116)


@pytest.fixture
def canvas():
    return blank(8, 6, 20, WALL)


@pytest.fixture
def style(rng):
    return ornaments.draw_style(rng, WALL)


def _drawn(canvas):
    """Bounds (left, bottom, right, top) in units of what is not bare wall."""
    rows, columns = np.nonzero((canvas.colour != WALL).any(-1))
    height = canvas.relief.shape[0]
    edges = columns.min(), height - rows.max(), columns.max(), height - rows.min()
    return np.array(edges) / canvas.density


@pytest.mark.parametrize("head", ["none", "lintel", "pediment", "arch", "keystone"])
def test_a_window_stays_at_its_place(canvas, style, rng, head):
    style = style._replace(head=head, shutters=True, flowers=True)
    ornaments.window(canvas, rng, style, 4.0, 2.0, 1.0, 2.0)
    left, bottom, right, top = _drawn(canvas)
    assert 2.7 < left < 3.4 and 4.6 < right < 5.3
    assert 1.6 < bottom < 2.0 and 4.0 < top < 5.0
    assert canvas.relief.min() < -0.1 < 0.1 < canvas.relief.max()


def test_some_windows_are_lit_at_night(style, rng):
    lit = []
    for _ in range(20):
        canvas = blank(3, 3, 20, WALL)
        ornaments.window(canvas, rng, style, 1.5, 0.5, 1.0, 1.5)
        lit.append(canvas.glow.any())
    assert 2 < sum(lit) < 18


@pytest.mark.parametrize("kind", ["square", "round", "pointed"])
def test_a_door_stands_on_the_ground(canvas, style, rng, kind):
    ornaments.door(canvas, rng, style, 4.0, 1.6, 3.0, kind)
    left, bottom, right, top = _drawn(canvas)
    assert bottom < 0.1 and 2.9 < top < 4.0
    assert (left + right) / 2 == pytest.approx(4, abs=0.1)


def test_a_motif_decides_its_rosette():
    drawn = []
    for motif in (1, 1, 2, 3):
        canvas = blank(4, 4, 20, WALL)
        ornaments.rosette(canvas, motif, 2, 2, 1.5)
        drawn.append(canvas.colour.astype(int))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    for other in drawn[2:]:
        assert np.abs(drawn[0] - other).mean() > 5


def test_a_rose_window_glows_within_its_ring(canvas, style):
    ornaments.rose_window(canvas, style, 4, 3, 1.5)
    rows, columns = np.nonzero(canvas.glow.any(-1))
    assert 49 <= columns.min() and columns.max() <= 111
    assert 29 <= rows.min() and rows.max() <= 91


@pytest.mark.parametrize(
    "name", ["dentils", "triangles", "discs", "waves", "diamonds", "swags"]
)
def test_a_frieze_repeats_between_its_ends(canvas, style, name):
    ornaments.frieze(canvas, style._replace(frieze=name), 1.0, 7.0, 2.0, 0.5)
    left, bottom, right, top = _drawn(canvas)
    assert 0.9 < left < 1.5 and 6.5 < right < 7.1
    assert 1.9 < bottom and top < 2.65


def test_a_pilaster_and_a_cornice_stand_out(canvas, style):
    ornaments.pilaster(canvas, style, 2.0, 0.0, 0.4, 4.0)
    ornaments.cornice(canvas, style, 5.0, 0.6)
    assert canvas.relief[60, 40] > 0.1  # in the shaft
    assert canvas.relief[9, :].min() > 0.3  # along the top of the cornice
    assert canvas.relief[60, 120] == 0


def test_growing_an_outline_moves_every_side():
    grown = ornaments.scaled(rectangle(1, 1, 2, 4), 0.5)
    np.testing.assert_allclose(grown.min(0), (0.5, 0.5))
    np.testing.assert_allclose(grown.max(0), (3.5, 5.5))
