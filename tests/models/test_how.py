"""HOW: smoothed and reduced cells, weighed by their lengths."""

import jax
import jax.numpy as jnp
import numpy as np

from delf_jax.models.how import HOW
from delf_jax.models.pooling import mean_around
from delf_jax.models.resnet import ResNet
from delf_jax.ops import l2_normalize


def naive_smooth(x, valid):
    found = np.zeros_like(x)
    for b, row, column in np.ndindex(valid.shape):
        cells = [
            x[b, r, c]
            for r in range(max(row - 1, 0), min(row + 2, x.shape[1]))
            for c in range(max(column - 1, 0), min(column + 2, x.shape[2]))
            if valid[b, r, c]
        ]
        if cells:
            found[b, row, column] = np.mean(cells, 0)
    return found


def test_smoothing_is_the_mean_of_neighbours_on_the_image(rng):
    x = rng.normal(size=(2, 5, 4, 3)).astype(np.float32)
    valid = np.ones((2, 5, 4), bool)
    valid[1, 3:], valid[1, :, 2:] = False, False
    found = mean_around(jnp.asarray(x), 3, jnp.asarray(valid))
    np.testing.assert_allclose(found, naive_smooth(x, valid), atol=1e-6)


def test_descriptors_attention_and_their_sum_on_images_and_canvases(rng):
    model = HOW(ResNet(18, 4, "v1.5", "frozen"), reduced_dimension=6)
    image = jnp.asarray(rng.normal(size=(1, 64, 48, 3)).astype(np.float32))
    variables = model.init(jax.random.key(0), image)
    apply = jax.jit(model.apply, static_argnames="train")
    alone = apply(variables, image)
    block3 = np.asarray(alone["block3"])
    np.testing.assert_allclose(
        alone["attention"], np.linalg.norm(block3, axis=-1), atol=1e-5
    )
    kernel = np.asarray(variables["params"]["reduce"]["kernel"])[0, 0]
    reduced = naive_smooth(block3, np.ones((1, 4, 3), bool)) @ kernel
    np.testing.assert_allclose(alone["descriptors"], reduced, atol=1e-5)
    total = (reduced * np.asarray(alone["attention"])[..., None]).sum((1, 2))
    np.testing.assert_allclose(
        alone["global_descriptor"], l2_normalize(total), atol=1e-5
    )
    canvas = jnp.zeros((1, 64, 64, 3)).at[:, :, :48].set(image)
    padded = apply(variables, canvas, jnp.array([[64, 48]]), train=True)
    np.testing.assert_allclose(
        padded["global_descriptor"], alone["global_descriptor"], atol=1e-5
    )
