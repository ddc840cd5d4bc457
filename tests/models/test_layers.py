import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.models.layers import ConvNorm


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(2, 3, size=(4, 5, 6, 3)).astype(np.float32))


def started(layer, images):
    """Variables that no default could stand in for."""
    variables = layer.init(jax.random.key(0), images)
    keys = iter(jax.random.split(jax.random.key(1), 9))
    return jax.tree.map(
        lambda x: jax.random.uniform(next(keys), x.shape, minval=0.5, maxval=1.5),
        variables,
    )


def test_training_normalises_with_the_batch_and_remembers_it(images):
    layer = ConvNorm(7, momentum=0.8, epsilon=1e-3)
    variables = started(layer, images)
    y, after = layer.apply(variables, images, train=True, mutable=["batch_stats"])
    x = np.asarray(images) @ np.asarray(variables["params"]["kernel"])[0, 0]
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    params, stats = jax.tree.map(
        np.asarray, (variables["params"], variables["batch_stats"])
    )
    expected = (x - mean) / np.sqrt(var + 1e-3) * params["scale"] + params["offset"]
    np.testing.assert_allclose(y, expected, atol=2e-4)
    count = 4 * 5 * 6
    unbiased = var * count / (count - 1)
    after = after["batch_stats"]
    np.testing.assert_allclose(
        after["mean"], 0.8 * stats["mean"] + 0.2 * mean, rtol=1e-4
    )
    np.testing.assert_allclose(
        after["var"], 0.8 * stats["var"] + 0.2 * unbiased, rtol=1e-4
    )


def test_a_bias_that_the_statistics_take_out_is_still_in_the_average(images):
    layer = ConvNorm(7, momentum=0.8, use_bias=True)
    variables = started(layer, images)
    bias = np.asarray(variables["params"]["bias"])
    y, after = layer.apply(variables, images, train=True, mutable=["batch_stats"])
    x = np.asarray(images) @ np.asarray(variables["params"]["kernel"])[0, 0] + bias
    before, mean = np.asarray(variables["batch_stats"]["mean"]), x.mean((0, 1, 2))
    np.testing.assert_allclose(
        after["batch_stats"]["mean"], 0.8 * before + 0.2 * mean, rtol=1e-4
    )
    scale, offset = (np.asarray(variables["params"][n]) for n in ("scale", "offset"))
    expected = (x - mean) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * scale + offset
    np.testing.assert_allclose(y, expected, atol=2e-4)


def test_statistics_of_two_devices_are_those_of_one(images):
    layer = ConvNorm(7, axis_name="devices")
    alone = ConvNorm(7)
    variables = started(alone, images)

    def apply(x):
        return layer.apply(variables, x, train=True, mutable=["batch_stats"])

    halves = images.reshape(2, 2, 5, 6, 3)
    y, stats = jax.vmap(apply, axis_name="devices")(halves)
    expected, after = alone.apply(
        variables, images, train=True, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(y.reshape(expected.shape), expected, atol=1e-5)
    for ours, theirs in zip(
        jax.tree.leaves(stats), jax.tree.leaves(after), strict=True
    ):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-5)


def test_frozen_normalisation_learns_nothing(images):
    layer = ConvNorm(7, normalization="frozen")
    variables = started(layer, images)

    def loss(params):
        y, after = layer.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(y**2), after["batch_stats"]

    gradient, after = jax.grad(loss, has_aux=True)(variables["params"])
    assert not gradient["scale"].any() and not gradient["offset"].any()
    assert gradient["kernel"].any()
    jax.tree.map(np.testing.assert_array_equal, after, variables["batch_stats"])
