import jax
import jax.numpy as jnp
import numpy as np

from delf_jax import ops


def test_zero_vectors_stay_zero_with_finite_gradient():
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_allclose(ops.l2_normalize(x), [[0, 0], [0.6, 0.8]], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(ops.l2_normalize(x)))(x)
    assert np.isfinite(gradient).all()


def test_masked_mean_counts_the_image_alone(rng):
    x = rng.normal(size=(2, 5, 7, 3)).astype(np.float32)
    mask = ops.valid_cells((5, 7), np.array([[3, 4], [5, 7]], np.int32))
    mean = ops.masked_mean(jnp.asarray(x), mask)
    np.testing.assert_allclose(mean[0], x[0, :3, :4].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(mean[1], x[1].mean((0, 1)), rtol=1e-5, atol=1e-6)


def test_mean_over_nothing_is_zero():
    mask = ops.valid_cells((4, 4), np.array([[0, 3]], np.int32))
    assert not ops.masked_mean(jnp.ones((1, 4, 4, 2)), mask).any()


def test_masked_mean_has_the_same_bits_on_any_canvas(rng):
    x = rng.normal(size=(1, 9, 13, 6)).astype(np.float32)
    canvas = np.full((1, 32, 16, 6), 7, np.float32)
    canvas[:, :9, :13] = x
    mask = ops.valid_cells((32, 16), np.array([[9, 13]], np.int32))
    np.testing.assert_array_equal(
        ops.masked_mean(jnp.asarray(canvas), mask), ops.masked_mean(jnp.asarray(x))
    )


def test_pixels_are_normalised_by_colour_and_zero_beside_an_image(rng):
    images = rng.integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    mean, std = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)
    expected = (images - np.float32(mean)) / np.float32(std)
    found = ops.normalize_pixels(jnp.asarray(images), mean, std)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    one = ops.normalize_pixels(jnp.asarray(images[0]), mean, std)
    np.testing.assert_allclose(one, expected[0], rtol=1e-6)
    sizes = jnp.array([[4, 5], [2, 3]], jnp.int32)
    found = ops.normalize_pixels(jnp.asarray(images), mean, std, sizes)
    expected[1, 2:] = expected[1, :, 3:] = 0
    np.testing.assert_allclose(found, expected, rtol=1e-6)
