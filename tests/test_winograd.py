import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.models.convolution import convolve
from delf_jax.models.winograd import convolve_3x3


@pytest.mark.parametrize(
    ("shape", "tolerance"), [((2, 7, 6, 8), 1e-5), ((1, 9, 13, 72), 2e-4)]
)
def test_winograd_agrees_with_the_plain_convolution(rng, shape, tolerance):
    x = jnp.asarray(rng.normal(size=shape).astype(np.float32))
    kernel = rng.normal(size=(3, 3, shape[-1], 5)) / np.sqrt(9 * shape[-1])
    kernel = jnp.asarray(kernel.astype(np.float32))
    np.testing.assert_allclose(
        jax.jit(convolve_3x3)(x, kernel),
        convolve(x, kernel, 1, ((1, 1), (1, 1))),
        atol=tolerance,
    )
