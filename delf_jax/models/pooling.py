"""Global pooling of a feature map: MAC, SPoC, GeM."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from delf_jax.ops import masked_mean

Map = Float[Array, "B H W C"]
Mask = Bool[Array, "B H W"] | None
Pooled = Float[Array, "B C"]


def mac(x: Map, mask: Mask = None) -> Pooled:
    """Maximum of each channel over the map [Tolias2016]."""
    if mask is not None:
        x = jnp.where(mask[..., None], x, -jnp.inf)
    return jnp.max(x, axis=(1, 2))


def spoc(x: Map, mask: Mask = None) -> Pooled:
    """Mean of each channel over the map [Babenko2015]."""
    return masked_mean(x, mask)


def gem(
    x: Map, power: float | Float[Array, ""], mask: Mask = None, epsilon: float = 1e-6
) -> Pooled:
    """Generalised mean of each channel [Radenovic2018], of values raised to epsilon.

    A channel whose mean underflows gives 0, as in the original, and no gradient.
    """
    x = jnp.maximum(x, epsilon)
    # three factors are exact and far faster than pow, and 3 is the power of the papers
    three = not isinstance(power, jax.Array) and power == 3
    powered = x * x * x if three else jnp.power(x, power)
    # changes nothing, but keeps the product from fusing with the first sum: it would be
    # rounded once less then, for some cells and not for others
    mean = masked_mean(jnp.maximum(powered, 0), mask)
    positive = mean > 0
    root = jnp.power(jnp.where(positive, mean, 1), 1 / power)
    return jnp.where(positive, root, 0)
