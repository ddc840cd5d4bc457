import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.data import device_views
from delf_jax.data.augment import OUTSIDE, ViewSettings
from delf_jax.files import InputError
from delf_jax.training.objective import LossSettings
from delf_jax.training.parallel import shardings
from delf_jax.training.step import Constants, Static, with_views

SETTINGS = ViewSettings(size=64, cell_stride=16, cell_offset=3.0, colour=0.0)
DRAW = jax.jit(device_views.draw_views, static_argnames="settings")
SIDES = (150, 230)


def ramp(height, width):
    """A photo whose red and green are the row and the column of a pixel."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)


def stored(photos):
    return device_views.make_store([lambda photo=photo: photo for photo in photos])


@pytest.fixture(scope="module")
def store():
    return stored([ramp(*SIDES), ramp(120, 90)])


@pytest.mark.parametrize("photo", [0, 1])
def test_cells_lie_where_their_coordinates_say(store, photo):
    height, width = store.sizes[photo]
    seen = 0
    for seed in range(10):
        views = DRAW(store, jnp.int32(photo), jax.random.key(seed), settings=SETTINGS)
        # One unit is a pixel of a view between both: so many of the photo's.
        units = np.asarray(views["coordinates"])
        pixels = np.asarray(views["image"])[:, 3::16, 3::16]
        inside = units[..., 0] > OUTSIDE / 2
        assert (units[~inside] <= OUTSIDE).all()
        found = pixels[..., :2][inside].astype(float)
        edge = (found > 1) & (found < [height - 2, width - 2])
        keep = edge.all(-1)
        ratio = found[keep].sum() / units[inside][keep].sum()
        assert np.abs(units[inside][keep] * ratio - found[keep]).max() < 1.5
        seen += keep.sum()
    assert seen > 150


def test_beside_its_border_a_photo_is_reflected():
    photo = np.full((20, 20, 3), 200, np.uint8)
    store = stored([photo, np.zeros((64, 64, 3), np.uint8)])
    views = DRAW(store, jnp.int32(0), jax.random.key(0), settings=SETTINGS)
    assert np.ptp(views["image"]) == 0 and views["image"][0, 0, 0, 0] == 200


def test_colours_change_and_can_be_turned_off(store):
    key = jax.random.key(3)
    coloured, plain = (
        DRAW(store, jnp.int32(0), key, settings=SETTINGS._replace(colour=colour))
        for colour in (1.0, 0.0)
    )
    assert (coloured["image"] != plain["image"]).any()
    np.testing.assert_array_equal(coloured["coordinates"], plain["coordinates"])


def test_draws_depend_on_the_key_alone(store):
    many = jax.jit(
        jax.vmap(device_views.draw_views, (None, 0, 0, None)),
        static_argnums=3,
    )
    keys = jax.random.split(jax.random.key(1), 3)
    batch = many(store, jnp.int32([0, 1, 0]), keys, SETTINGS)
    alone = DRAW(store, jnp.int32(1), keys[1], settings=SETTINGS)
    for name, value in alone.items():
        np.testing.assert_allclose(batch[name][1], value, atol=1.01)
    assert (batch["image"][0] != batch["image"][2]).any()


def test_the_second_view_may_be_of_another_photo(store):
    """What one shows at a place, the other shows where the map says."""
    affine = np.array([[0.8, 0.0, 0.15], [0.0, 0.7, 0.2]], np.float32)
    region = np.array([0.1, 0.2, 0.9, 0.8], np.float32)
    pair = device_views.Counterpart(jnp.int32(1), affine, region)
    sizes, seen = np.array([SIDES, (120, 90)]), 0
    for seed in range(10):
        views = DRAW(
            store,
            jnp.int32(0),
            jax.random.key(seed),
            settings=SETTINGS,
            counterpart=pair,
        )
        units = np.asarray(views["coordinates"])
        pixels = np.asarray(views["image"])[:, 3::16, 3::16, :2].astype(float)
        inside = (units[..., 0] > OUTSIDE / 2) & (pixels > 1).all(-1)
        inside &= (pixels < sizes[:, None, None] - 2).all(-1)
        if not inside[0].any():
            continue
        # Both have the first photo's frame, of which units are so many pixels.
        ratio = pixels[0][inside[0]].sum() / units[0][inside[0]].sum()
        places = (units[1][inside[1]] * ratio + 0.5) / SIDES
        assert (places > region[:2] - 0.02).all() and (places < region[2:] + 0.02).all()
        expected = (places @ affine[:, :2].T + affine[:, 2]) * sizes[1] - 0.5
        assert np.abs(expected - pixels[1][inside[1]]).max(initial=0) < 1.5
        seen += inside[1].sum()
    assert seen > 20


def test_a_photo_that_is_its_own_counterpart_is_seen_as_it_is_alone(store):
    whole = np.eye(2, 3, dtype=np.float32), np.float32([0, 0, 1, 1])
    pair = device_views.Counterpart(jnp.int32(0), *whole)
    key = jax.random.key(5)
    alone = DRAW(store, jnp.int32(0), key, settings=SETTINGS)
    views = DRAW(store, jnp.int32(0), key, settings=SETTINGS, counterpart=pair)
    np.testing.assert_allclose(
        views["coordinates"][0], alone["coordinates"][0], atol=0.01
    )
    difference = np.abs(np.float32(views["image"]) - np.float32(alone["image"]))
    assert difference.mean() < 0.5


def batch_of(order):
    """Three photos and seeds, in an order."""
    photos, seeds = np.int32([0, 1, 0, 1]), np.uint32([1, 2**32 - 1, 3, 4])
    labels = np.int32([5, 6, 7, 8])
    return {"photo": photos[order], "seed": seeds[order], "label": labels[order]}


def test_a_step_draws_the_same_views_on_all_devices_in_any_order(store):
    """Alone, of a batch, of a device's share under pmap, and shared out by jit."""
    settings = SETTINGS._replace(size=32)
    static = Static(
        None, None, LossSettings(), 0.0, (0.0,) * 3, (1.0,) * 3, views=settings
    )
    constants = Constants(photos=store)
    draw = functools.partial(with_views, static)
    whole = jax.jit(draw)(batch_of([0, 1, 2, 3]), constants)
    assert whole["image"].shape == (4, 2, 32, 32, 3)
    np.testing.assert_array_equal(whole["label"], [5, 6, 7, 8])
    everywhere, split = shardings(jax.devices())
    order = [2, 3, 1, 0]
    halves = {n: x.reshape(2, 2) for n, x in batch_of(order).items()}
    by_pmap = jax.pmap(draw, in_axes=(0, None))(halves, constants)
    placed = jax.device_put((batch_of(order), constants), (split, everywhere))
    by_jit = jax.jit(draw)(*placed)
    for name, value in whole.items():
        expected = np.asarray(value)[order].astype(np.float64)
        for found in (by_pmap, by_jit):
            shared = np.asarray(found[name]).reshape(expected.shape)
            # A compiler that fuses otherwise may round a grey level otherwise.
            difference = np.abs(shared - expected)
            assert difference.max() < 1.01 and difference.mean() < 0.01, name


def test_photos_that_are_too_many_for_the_accelerator_are_refused(monkeypatch):
    monkeypatch.setattr(device_views, "MOST_BYTES", 2 * 9 * 9 * 3)
    assert stored([ramp(9, 7), ramp(3, 4)]).pixels.shape == (2, 9, 9, 3)
    message = "data.on_device: 3 photos of up to 9 pixels .*; lower data.max_side"
    with pytest.raises(InputError, match=message):
        stored([ramp(9, 7), ramp(3, 4), ramp(1, 1)])
