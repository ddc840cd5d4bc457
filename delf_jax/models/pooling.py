"""Pooling of a feature map: MAC, SPoC and GeM of all of it, RoIAlign of boxes."""

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


def roi_align(
    x: Float[Array, "H W C"],
    boxes: Float[Array, "R 4"],
    size: tuple[int, int],
    samples: int = 2,
) -> Float[Array, "R h w C"]:
    """Maps of one size of boxes [He2017]: means of samples between the cells.

    Two matrix products, as an interpolation between rows is one and so is that between
    columns. What is sampled more than a cell outside of the map is 0.

    Args:
      boxes: in cells of the map, the first of which reaches from 0 to 1.
      samples: along each side of a cell of the result.
    """
    rows = _row_weights(boxes[:, 0], boxes[:, 2], size[0], x.shape[0], samples)
    columns = _row_weights(boxes[:, 1], boxes[:, 3], size[1], x.shape[1], samples)
    return jnp.einsum("rhH,HWC,rwW->rhwC", rows, x, columns)


def _row_weights(
    low: Float[Array, " R"],
    high: Float[Array, " R"],
    size: int,
    cells: int,
    samples: int,
) -> Float[Array, "R size cells"]:
    """What each cell of a map counts for in each cell of a result, along one side."""
    count = size * samples
    places = (jnp.arange(count, dtype=low.dtype) + 0.5) / count
    # the centre of the first cell is at 0 from here on
    at = low[:, None] + (high - low)[:, None] * places[None] - 0.5
    inside = (at >= -1) & (at <= cells)
    at = jnp.clip(at, 0, cells - 1)
    distance = jnp.abs(at[..., None] - jnp.arange(cells, dtype=low.dtype)[None, None])
    weights = jnp.where(inside[..., None], jnp.maximum(1 - distance, 0), 0)
    return weights.reshape(-1, size, samples, cells).mean(axis=2)
