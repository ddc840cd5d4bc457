"""Putative matches between the local descriptors of two images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

# Descriptor sets are padded to powers of two from here on, so that pairs of images
# with any numbers of features share a handful of compiled programs.
_SMALLEST_BUCKET = 64


def match_descriptors(
    query: Float[np.ndarray | Array, "N D"],
    index: Float[np.ndarray | Array, "M _"],
    *,
    max_distance: float | None = None,
    ratio: float | None = None,
    mutual: bool = False,
) -> Int[np.ndarray, "P 2"]:
    """Pairs (query feature, index feature), by increasing query feature.

    Each query descriptor is paired with its nearest index descriptor (Euclidean, ties
    to the lower id); the conditions given then drop pairs. As in the released code,
    several query features may share an index feature unless `mutual` is asked for.

    Args:
      max_distance: keeps distances strictly below it. The released code uses 0.9
        (Detect-to-Retrieve) and 1.0 (DELG).
      ratio: keeps distances strictly below `ratio` times the distance to the second
        nearest; with a single index descriptor the second is infinitely far.
      mutual: keeps pairs that are nearest to each other in both directions.
    """
    query, index = _as_float32(query), _as_float32(index)
    if query.shape[1] != index.shape[1]:
        raise ValueError(
            f"query descriptors have {query.shape[1]} dimensions and index descriptors "
            f"{index.shape[1]}: they come from different models"
        )
    if not len(query) or not len(index):
        return np.zeros((0, 2), np.int32)
    second = ratio is not None and len(index) > 1
    nearest, runner_up, back = _neighbours(
        _pad(query),
        _pad(index),
        np.int32(len(query)),
        np.int32(len(index)),
        second=second,
        mutual=mutual,
    )
    ids = np.arange(len(query), dtype=np.int32)
    nearest = np.asarray(nearest)[: len(query)]
    keep = np.ones(len(query), bool)
    if max_distance is not None or second:
        distances = _row_distances(query, index, nearest)
    if max_distance is not None:
        keep &= distances < max_distance
    if second:
        runner_up = np.asarray(runner_up)[: len(query)]
        keep &= distances < ratio * _row_distances(query, index, runner_up)
    if mutual:
        keep &= np.asarray(back)[nearest] == ids
    return np.stack([ids[keep], nearest[keep]], axis=1)


@functools.partial(jax.jit, static_argnames=("second", "mutual"))
def _neighbours(
    query: Float[Array, "N D"],
    index: Float[Array, "M D"],
    queries: Int[Array, ""],
    indices: Int[Array, ""],
    *,
    second: bool,
    mutual: bool,
) -> tuple[Int[Array, " N"], Int[Array, " N"] | None, Int[Array, " M"] | None]:
    """Nearest and second nearest index of each query, and nearest query of each index.

    Only the first `queries` and `indices` rows count, the others are padding.
    """
    # Distances fall as dot - norm/2 rises. The product is laid out [M, N]: reducing
    # the leading axis is what XLA vectorises well on a CPU.
    dots = lax.dot_general(
        index, query, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST
    )
    rows = lax.broadcasted_iota(jnp.int32, dots.shape, 0)
    half_norms = jnp.sum(index * index, axis=1, keepdims=True) / 2
    closeness = jnp.where(rows < indices, dots - half_norms, -jnp.inf)
    nearest = _first_maximum(closeness, 0)
    runner_up = back = None
    if second:
        others = jnp.where(rows == nearest[None, :], -jnp.inf, closeness)
        runner_up = _first_maximum(others, 0)
    if mutual:
        columns = lax.broadcasted_iota(jnp.int32, dots.shape, 1)
        half_norms = jnp.sum(query * query, axis=1)[None, :] / 2
        back = _first_maximum(
            jnp.where(columns < queries, dots - half_norms, -jnp.inf), 1
        )
    return nearest, runner_up, back


def _first_maximum(values: Float[Array, "M N"], axis: int) -> Int[Array, " K"]:
    """Place of the maximum, the first one of equals.

    Twice as fast on a CPU as jnp.argmax, which carries pairs through its reduction.
    """
    places = lax.broadcasted_iota(jnp.int32, values.shape, axis)
    top = jnp.max(values, axis=axis, keepdims=True)
    return jnp.min(
        jnp.where(values >= top, places, values.shape[axis] - 1), axis=axis
    ).astype(jnp.int32)


def _row_distances(
    query: Float[np.ndarray, "N D"],
    index: Float[np.ndarray, "M D"],
    partners: Int[np.ndarray, " N"],
) -> Float[np.ndarray, " N"]:
    """Distances by subtraction: exact where a difference of norms would cancel."""
    difference = query - index[partners]
    return np.sqrt(np.einsum("nd,nd->n", difference, difference))


def _as_float32(x: Float[np.ndarray | Array, "N D"]) -> Float[np.ndarray, "N D"]:
    return np.ascontiguousarray(x, np.float32)


def _pad(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "L D"]:
    rows = max(_SMALLEST_BUCKET, 1 << (len(x) - 1).bit_length())
    if rows == len(x):
        return x
    padded = np.zeros((rows, x.shape[1]), np.float32)
    padded[: len(x)] = x
    return padded
