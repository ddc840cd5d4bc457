"""Global pooling of a feature map: MAC, SPoC, GeM; and of the descriptors of scales."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from delf_jax.ops import masked_mean, zero_outside

Map = Float[Array, "B H W C"]
Mask = Bool[Array, "B H W"] | None
Pooled = Float[Array, "B C"]

# Of a neighbourhood's mean; the map has the same weight as these (both as released).
REGION_POWER = 2.5


class GeMChanges(NamedTuple):
    """How GeM differs at extraction from what a network was trained with [SuperGlobal].

    Every 0 leaves it as it is.
    """

    power: float = 0.0
    """GeM+: in place of the network's"""
    region: int = 0
    """regional-GeM: side of the neighbourhoods, in cells, an odd number"""
    floor: float = 0.0
    """ReLUP: smaller values of the map are raised to it"""


UNCHANGED = GeMChanges()


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


def changed_gem(
    x: Map, power: float | Float[Array, ""], mask: Mask, changes: GeMChanges
) -> Pooled:
    """`gem`, but for what extraction changes."""
    if changes.floor:
        x = jnp.maximum(x, changes.floor)
    if changes.region:
        x = regional(x, changes.region, mask)
    return gem(x, float(changes.power) or power, mask)


def regional(x: Map, side: int, mask: Mask = None, epsilon: float = 1e-6) -> Map:
    """Mean of the map and of the generalised means around its cells (regional-GeM).

    At the border those of the side x side cells count that lie on the image; the
    released code reflects the map there.
    """
    x = jnp.maximum(x, epsilon)
    mean = mean_around(jnp.power(x, REGION_POWER), side, mask)
    mean = jnp.maximum(mean, epsilon**REGION_POWER)  # Of no cell: has a gradient.
    return (x + jnp.power(mean, 1 / REGION_POWER)) / 2


def mean_around(x: Map, side: int, mask: Mask = None) -> Map:
    """Mean of the side x side cells around each, of those that lie on the image."""
    reach = side // 2
    borders = ((0, 0), (reach, reach), (reach, reach), (0, 0))

    def summed(x: Map) -> Map:
        return lax.reduce_window(x, 0.0, lax.add, (1, side, side, 1), (1,) * 4, borders)

    valid = jnp.ones(x.shape[:3], bool) if mask is None else mask
    cells = summed(valid[..., None].astype(x.dtype))
    return summed(zero_outside(x, valid)) / jnp.maximum(cells, 1)


def scale_gem(
    descriptors: Float[np.ndarray, "S D"], power: float | int
) -> Float[np.ndarray, "D"]:
    """Generalised mean of descriptors of scales above their least value (scale-GeM).

    power 1: their sum, which has the same direction; 0: the maximum, as released.
    """
    if power == 1:
        return descriptors.sum(axis=0)
    if power == 0:
        return descriptors.max(axis=0)
    least = descriptors.min()
    above = descriptors - least
    # In units of the largest of a dimension, so that no power of all underflows.
    most = np.maximum(above.max(axis=0), np.float32(1e-30))
    return ((above / most) ** power).mean(axis=0) ** (1 / power) * most + least
