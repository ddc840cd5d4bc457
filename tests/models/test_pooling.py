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
