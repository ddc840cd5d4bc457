"""The few functions and types that every layer shares: the one leaf of the project."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped


def l2_normalize(
    x: Float[Array, "*shape"] | Float[np.ndarray, "*shape"],
    axis: int = -1,
    epsilon: float = 1e-12,
) -> Float[Array, "*shape"]:
    """x / sqrt(max(sum of squares, epsilon)): zero vectors stay zero."""
    x = jnp.asarray(x)
    squares = jnp.sum(jnp.square(x), axis=axis, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, epsilon))


def normalize_rows(x: Float[np.ndarray, "*shape D"]) -> Float[np.ndarray, "*shape D"]:
    """`l2_normalize` in numpy, of the last axis."""
    squares = np.square(x).sum(axis=-1, keepdims=True)
    return x / np.sqrt(np.maximum(squares, np.float32(1e-12)))


def normalize_pixels(
    images: Shaped[Array, "*batch H W 3"],
    mean: Sequence[float],
    std: Sequence[float],
    sizes: Int[Array, "B 2"] | None = None,
) -> Float[Array, "*batch H W 3"]:
    """float32 (images - mean) / std; zero beside images of `sizes` on a canvas."""
    shape = (1,) * (images.ndim - 1) + (3,)
    centre, spread = (jnp.array(x, jnp.float32).reshape(shape) for x in (mean, std))
    pixels = (images.astype(jnp.float32) - centre) / spread
    if sizes is not None:
        pixels = zero_outside(pixels, valid_cells(pixels.shape[-3:-1], sizes))
    return pixels


def valid_cells(
    shape: tuple[Any, ...], sizes: Int[Array, "B 2"] | Int[np.ndarray, "B 2"]
) -> Bool[Array, "B H W"]:
    """True where a cell lies within the first (h, w) rows and columns of its map.

    The shape may be symbolic.
    """
    sizes = jnp.asarray(sizes)
    rows = jnp.arange(shape[0])[None, :] < sizes[:, :1]
    columns = jnp.arange(shape[1])[None, :] < sizes[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def zero_outside(
    x: Shaped[Array, "B H W C"], mask: Bool[Array, "B H W"] | None
) -> Shaped[Array, "B H W C"]:
    """x with zeros where the mask is False; x itself without a mask."""
    return x if mask is None else jnp.where(mask[..., None], x, 0)


def masked_mean(
    x: Float[Array, "B H W C"], mask: Bool[Array, "B H W"] | None = None
) -> Float[Array, "B C"]:
    """Mean over the cells where the mask is True (0 if none is)."""
    total = _sum_in_halves(_sum_in_halves(zero_outside(x, mask), 1), 1)
    if mask is None:
        return total / (x.shape[1] * x.shape[2])
    cells = jnp.maximum(jnp.sum(mask, axis=(1, 2)), 1).astype(x.dtype)
    return total / cells[:, None]


def _sum_in_halves(x: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
    """The sum along an axis, to the same bits however many zeros follow at its end."""
    length = x.shape[axis]
    if not isinstance(length, int):  # Symbolic, as when a model is exported.
        return jnp.sum(x, axis)
    side = 1 << max(length - 1, 0).bit_length()
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, side - length)
    x = jnp.pad(x, widths)
    while x.shape[axis] > 1:
        first, second = jnp.split(x, 2, axis)
        x = first + second
    return jnp.squeeze(x, axis)
