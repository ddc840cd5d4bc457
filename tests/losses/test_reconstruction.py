import jax
import jax.numpy as jnp
import numpy as np

from delf_jax.losses.reconstruction import reconstruction_loss


def test_reconstruction_is_the_mean_square_of_each_example(rng):
    block3, expanded = rng.normal(size=(2, 3, 4, 5, 6)).astype(np.float32)
    ours = reconstruction_loss(jnp.asarray(block3), jnp.asarray(expanded))
    naive = [np.mean((a - b) ** 2) for a, b in zip(block3, expanded, strict=True)]
    np.testing.assert_allclose(ours, naive, rtol=1e-5)


def test_reconstruction_does_not_bend_what_it_reconstructs(rng):
    maps = jnp.asarray(rng.normal(size=(2, 2, 3, 3, 4)).astype(np.float32))
    gradients = jax.grad(lambda a, b: jnp.sum(reconstruction_loss(a, b)), (0, 1))(*maps)
    assert not gradients[0].any() and gradients[1].any()
