import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.models import pooling
from delf_jax.ops import l2_normalize, valid_cells


@pytest.fixture(scope="module")
def numbers(golden):
    with np.load(golden / "pooling.npz") as file:
        return dict(file)


@pytest.mark.golden
def test_mac_and_spoc_are_the_originals(numbers, golden):
    x = jnp.asarray(numbers["input"])
    np.testing.assert_array_equal(pooling.mac(x), numbers["mac"])
    tolerance = json.loads((golden / "tolerances.json").read_text())["pooling.npz"]
    np.testing.assert_allclose(
        pooling.spoc(x), numbers["spoc"], atol=tolerance["spoc"]["atol"], rtol=0
    )


@pytest.mark.golden
@pytest.mark.parametrize("power", ["1", "2", "3", "4.37", "10", "20"])
def test_gem_is_the_originals(numbers, golden, power):
    tolerances = json.loads((golden / "tolerances.json").read_text())["pooling.npz"]
    ours = np.asarray(pooling.gem(jnp.asarray(numbers["input"]), float(power)))
    expected = numbers[f"gem_power{power}"]
    tolerance = tolerances[f"gem_power{power} (channels above 1e-3)"]["atol"]
    above = expected > 1e-3
    np.testing.assert_allclose(ours[above], expected[above], atol=tolerance, rtol=0)
    # channels without a positive value: epsilon, or zero where the power underflows
    np.testing.assert_allclose(ours[~above], expected[~above], atol=1e-7)


@pytest.mark.golden
@pytest.mark.parametrize("power", ["1", "3"])
def test_gem_has_the_originals_gradient(numbers, power):
    def value(x):
        pooled = pooling.gem(x, float(power))
        return jnp.sum(pooled * numbers["gradient_weights"][None])

    gradient = jax.grad(value)(jnp.asarray(numbers["input"]))
    expected = numbers[f"gem_power{power}_gradient"]
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.golden
def test_gem_takes_another_epsilon(numbers):
    ours = pooling.gem(jnp.asarray(numbers["input"]), 3.0, epsilon=1e-2)
    expected = numbers["gem_axis12_eps1e-2_power3"]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.golden
def test_normalisation_is_the_originals(numbers):
    for case, epsilon in (("axis1", 1e-12), ("tiny", 1e-6)):
        x = jnp.asarray(numbers[f"l2_normalization_{case}_input"])
        expected = numbers[f"l2_normalization_{case}"]
        ours = l2_normalize(x, epsilon=epsilon)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", [pooling.mac, pooling.spoc, pooling.gem])
def test_a_mask_hides_all_else(rng, pool):
    x = jnp.asarray(rng.normal(size=(1, 4, 6, 3)).astype(np.float32))
    mask = np.zeros((1, 4, 6), bool)
    mask[:, :2, :5] = True
    args = (3.0,) if pool is pooling.gem else ()
    np.testing.assert_allclose(
        pool(x, *args, jnp.asarray(mask)), pool(x[:, :2, :5], *args), rtol=1e-6
    )


@pytest.mark.parametrize("power", [3.0, 2.5, 20.0])
def test_gem_of_what_is_not_positive_has_finite_gradients(power):
    x = jnp.array([[[[-1.0, 0.0, 1e-9, 2.0]]]])

    def total(x, power):
        return jnp.sum(pooling.gem(x, power))

    gradients = jax.grad(total, argnums=(0, 1))(x, jnp.float32(power))
    assert all(np.isfinite(g).all() for g in gradients)
    assert all(np.isfinite(jax.grad(total)(x, power)).ravel())


@pytest.mark.parametrize("power", [3.0, 2.5])
def test_gem_has_the_same_bits_on_any_canvas(rng, power):
    x = rng.normal(1, 1, size=(1, 3, 2, 32)).astype(np.float32)
    canvas = np.full((2, 8, 8, 32), 7, np.float32)
    canvas[:1, :3, :2] = x
    mask = valid_cells((8, 8), np.array([[3, 2], [8, 8]], np.int32))
    pool = jax.jit(pooling.gem, static_argnames="power")
    ours = pool(jnp.asarray(canvas), power=power, mask=mask)[0]
    np.testing.assert_array_equal(ours, pool(jnp.asarray(x), power=power)[0])


def naive_regional(x, side, mask):
    """Half the map, half the mean of power 2.5 of the valid cells around."""
    x, reach = np.maximum(np.asarray(x, np.float64), 1e-6), side // 2
    found = np.zeros_like(x)
    for b, row, column in np.argwhere(mask):
        around = np.zeros(mask.shape[1:], bool)
        rows = slice(max(row - reach, 0), row + reach + 1)
        around[rows, max(column - reach, 0) : column + reach + 1] = True
        mean = (x[b][around & mask[b]] ** 2.5).mean(0) ** 0.4
        found[b, row, column] = x[b, row, column] / 2 + mean / 2
    return found


def of_canvases(rng):
    """Maps of random values, half of them below zero, and what of them is valid."""
    x = rng.normal(0, 1, size=(2, 7, 9, 3)).astype(np.float32)
    return x, np.asarray(valid_cells((7, 9), np.array([[7, 9], [2, 4]], np.int32)))


@pytest.mark.parametrize("side", [3, 5])
def test_regional_gem_is_that_of_the_cells_on_the_image(rng, side):
    x, mask = of_canvases(rng)
    found = pooling.regional(jnp.asarray(x), side, jnp.asarray(mask))
    expected = naive_regional(x, side, mask)
    np.testing.assert_allclose(np.asarray(found)[mask], expected[mask], rtol=1e-5)
    whole = pooling.regional(jnp.asarray(x[:1]), side)
    np.testing.assert_array_equal(whole, found[:1])


@pytest.mark.parametrize(
    "changes",
    [
        pooling.GeMChanges(power=4.6),
        pooling.GeMChanges(region=5),
        pooling.GeMChanges(floor=0.5),
        pooling.GeMChanges(4.6, 3, 0.2),
    ],
)
def test_changed_gem_raises_mixes_and_pools_in_this_order(rng, changes):
    x, mask = of_canvases(rng)
    found = pooling.changed_gem(jnp.asarray(x), 3.0, jnp.asarray(mask), changes)
    x = np.maximum(x.astype(np.float64), max(changes.floor, 1e-6))
    if changes.region:
        x = naive_regional(x, changes.region, mask)
    power = changes.power or 3.0
    cells = [
        (each[valid] ** power).mean(0) for each, valid in zip(x, mask, strict=True)
    ]
    np.testing.assert_allclose(found, np.array(cells) ** (1 / power), rtol=2e-5)


def test_unchanged_gem_has_the_bits_of_gem(rng):
    x, mask = map(jnp.asarray, of_canvases(rng))
    found = pooling.changed_gem(x, 3.0, mask, pooling.UNCHANGED)
    np.testing.assert_array_equal(found, pooling.gem(x, 3.0, mask))


def test_changed_gem_has_the_same_bits_on_any_canvas(rng):
    x = rng.normal(1, 1, size=(1, 3, 2, 32)).astype(np.float32)
    canvas = np.full((2, 8, 8, 32), 7, np.float32)
    canvas[:1, :3, :2] = x
    mask = valid_cells((8, 8), np.array([[3, 2], [8, 8]], np.int32))
    changes = pooling.GeMChanges(4.6, 5, 0.1)
    pool = jax.jit(pooling.changed_gem, static_argnames=("power", "changes"))
    ours = pool(jnp.asarray(canvas), power=3.0, mask=mask, changes=changes)[0]
    alone = pool(jnp.asarray(x), power=3.0, mask=None, changes=changes)[0]
    np.testing.assert_array_equal(ours, alone)


def test_changed_gem_has_finite_gradients_outside_the_image_too(rng):
    x, mask = map(jnp.asarray, of_canvases(rng))

    def total(x):
        return pooling.changed_gem(x, 3.0, mask, pooling.GeMChanges(4.6, 3)).sum()

    assert np.isfinite(jax.grad(total)(x)).all()


@pytest.mark.parametrize("power", [2.0, 10.0, 1000.0])
def test_scale_gem_is_the_generalised_mean_above_the_least_value(rng, power):
    x = rng.normal(size=(3, 40)).astype(np.float32)
    found = pooling.scale_gem(x, power)
    above = x.astype(np.longdouble) - x.min()
    expected = (above**power).mean(0) ** (1 / power) + x.min()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.astype(float), rtol=1e-4, atol=1e-5)


def test_scale_gem_ends_in_the_sum_and_the_maximum(rng):
    x = rng.normal(size=(3, 40)).astype(np.float32)
    np.testing.assert_array_equal(pooling.scale_gem(x, 1), x.sum(axis=0))
    np.testing.assert_array_equal(pooling.scale_gem(x, 0), x.max(axis=0))
    nearly_one = pooling.scale_gem(x, 1.0001)
    np.testing.assert_allclose(nearly_one, x.mean(axis=0), atol=1e-3)
    np.testing.assert_array_equal(pooling.scale_gem(np.ones((2, 3)), 5), np.ones(3))
