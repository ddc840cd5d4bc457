"""Reconstruction of a feature map from its reduced descriptors [DELG, Eq. 5]."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def reconstruction_loss(
    block3: Float[Array, "B h w C"], expanded: Float[Array, "B h w C"]
) -> Float[Array, " B"]:
    """Mean squared error of each map; no gradient reaches the backbone."""
    return jnp.mean((jax.lax.stop_gradient(block3) - expanded) ** 2, (1, 2, 3))
