"""The most similar of many global descriptors: exactly, piece by piece, in few bytes.

The matrix products of a piece of the index with a block of queries are fast, and their
last bits depend on shapes, threads and devices. They only choose: somewhat more images
than are wanted are kept, and compared again by `compare`, whose result for a query and
an image depends on these two alone. `rounding` bounds what the product can be off.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

# How descriptors are kept. int8 has one factor a row: its largest entry becomes 127.
PRECISIONS = {"float32": np.float32, "bfloat16": jnp.bfloat16, "int8": np.int8}
# Numbers of queries that are multiplied together: few, so that few programs are
# compiled, and fast on a CPU. More gain nothing, and narrow types are slow with one.
_WIDTHS = (1, 16, 32, 64)
BLOCK = _WIDTHS[-1]
# So many more than are wanted are kept for the exact comparison: at 2048 dimensions
# their similarities differ by far more than rounding does, unless images are copies.
MARGIN = 32
# Rows compared at once, so that they stay in the cache.
_ROWS = 64


class Rows(NamedTuple):
    """Descriptors in one of the PRECISIONS: `values` times `scales`."""

    values: Num[np.ndarray, "M G"] | Num[Array, "M G"]
    scales: Float[np.ndarray, " M"] | Float[Array, " M"] | None = None


class Best(NamedTuple):
    """The most similar images of each query."""

    similarities: Float[np.ndarray, "Q K"]
    ids: Int[np.ndarray, "Q K"]


def quantize(rows: Float[np.ndarray, "M G"], precision: str) -> Rows:
    """The rows in one of the PRECISIONS; they must be finite."""
    if precision != "int8":
        return Rows(np.asarray(rows).astype(PRECISIONS[precision]))
    scales = np.abs(rows).max(axis=1, initial=0).astype(np.float32) / np.float32(127)
    scaled = rows / np.where(scales > 0, scales, np.float32(1))[:, None]
    return Rows(np.clip(np.rint(scaled), -127, 127).astype(np.int8), scales)


def take(rows: Rows, which: slice | Int[np.ndarray, " _"]) -> Rows:
    """Some of the rows."""
    scales = None if rows.scales is None else rows.scales[which]
    return Rows(rows.values[which], scales)


def precision_of(rows: Rows) -> str:
    """The name of the precision that the rows are in."""
    return np.dtype(rows.values.dtype).name


def pad_queries(queries: Rows) -> Rows:
    """The queries of a block, followed by zeros up to one of few numbers."""
    widths = _WIDTHS if precision_of(queries) == "float32" else _WIDTHS[1:]
    return pad(queries, next(w for w in widths if w >= len(queries.values)))


def pad(rows: Rows, count: int) -> Rows:
    """The rows followed by zeros: `count` in all."""
    more = count - len(rows.values)
    if not more:
        return rows
    scales = None if rows.scales is None else np.pad(rows.scales, (0, more))
    return Rows(np.pad(rows.values, ((0, more), (0, 0))), scales)


@jax.jit
def products(rows: Rows, queries: Rows) -> Float[Array, "R Q"]:
    """Similarities of rows and queries, with the rounding of the device.

    In this orientation products with few queries are up to twice as fast on a CPU.
    """
    found = jax.lax.dot_general(
        rows.values,
        queries.values,
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32 if rows.scales is None else jnp.int32,
    )
    if rows.scales is not None and queries.scales is not None:
        scales = rows.scales[:, None] * queries.scales[None, :]
        found = found.astype(jnp.float32) * scales
    return found


@functools.partial(jax.jit, static_argnames=("k", "shards"))
def best_products(
    rows: Rows, queries: Rows, counted: Int[Array, "2"], k: int, shards: int
) -> tuple[Float[Array, "S Q K"], Int[Array, "S Q K"]]:
    """The k largest `products` of each query with rows counted[0] to counted[1].

    With the places of these rows, and for each of the equal parts that the rows are
    divided into, one a device. Where rows are fewer, similarities are -inf.
    """
    found = products(rows, queries)
    places = jnp.arange(len(found), dtype=jnp.int32)[:, None]
    inside = (counted[0] <= places) & (places < counted[1])
    found = jnp.where(inside, found, -jnp.inf)
    parts = found.reshape(shards, -1, found.shape[1])
    values, places = jax.lax.top_k(jnp.swapaxes(parts, 1, 2), min(k, parts.shape[1]))
    offsets = jnp.arange(shards, dtype=jnp.int32) * parts.shape[1]
    return values, places + offsets[:, None, None]


def nothing_yet(queries: int, k: int) -> Best:
    """What is best before anything was compared: nothing, at -inf."""
    return Best(np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1))


def keep_best(best: Best, found: Float[np.ndarray, "R Q"], start: int) -> Best:
    """The best of what was known and of images `start` and following, in no order."""
    queries = len(best.ids)
    places = np.flatnonzero(found > best.similarities.min(axis=1, initial=np.inf))
    if not len(places):
        return best
    if len(places) > found.size // 8:
        columns, k = np.ascontiguousarray(found.T), best.ids.shape[1]
        kept = np.argpartition(columns, -min(k, len(found)), axis=1)[:, -k:]
        values = np.take_along_axis(columns, kept, axis=1)
        return merge_best(best, Best(values, kept + start))
    of, row = places % queries, places // queries
    order = np.argsort(of, kind="stable")
    counts = np.bincount(of, minlength=queries)
    column = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    more = nothing_yet(queries, int(counts.max()))
    more.similarities[of[order], column] = found.ravel()[places[order]]
    more.ids[of[order], column] = row[order] + start
    return merge_best(best, more)


def merge_best(best: Best, more: Best) -> Best:
    """As many as there are in `best` of both, in no order."""
    k = best.ids.shape[1]
    if k == 0:
        return best
    both = join(best, more)
    kept = np.argpartition(-both.similarities, k - 1, axis=1)[:, :k]
    return Best(*(np.take_along_axis(each, kept, axis=1) for each in both))


def order_best(
    similarities: Float[np.ndarray, "Q K"], ids: Int[np.ndarray, "Q K"], k: int
) -> Int[np.ndarray, "Q k"]:
    """Places of the k best, best first; of equals the lower id."""
    return np.lexsort((ids, -similarities), axis=1)[:, :k]


def sort_best(best: Best, k: int) -> Best:
    """The k best, best first; of equals the lower id."""
    order = order_best(best.similarities, best.ids, k)
    return Best(*(np.take_along_axis(each, order, axis=1) for each in best))


def join(best: Best, more: Best) -> Best:
    """All of both, in no order."""
    return Best(
        *(np.concatenate(each, axis=1) for each in zip(best, more, strict=True))
    )


def compare(query: Rows, rows: Rows) -> Float[np.ndarray, " K"]:
    """Similarities of one query to rows, each the same whatever the others are.

    Summed in double precision, in an order that depends on the dimension only, and
    rounded once: copies of an image are equal to the bit.
    """
    one = np.asarray(query.values[0], np.float64)
    found = np.empty(len(rows.values), np.float64)
    for start in range(0, len(found), _ROWS):
        part = np.array(rows.values[start : start + _ROWS], np.float64, order="C")
        part *= one
        found[start : start + _ROWS] = part.sum(axis=1)
    if rows.scales is not None and query.scales is not None:
        found *= np.asarray(rows.scales, np.float64) * float(query.scales[0])
    return found.astype(np.float32)


def norms(rows: Rows) -> Float[np.ndarray, " M"]:
    """The lengths of the rows as they are kept."""
    found = np.linalg.norm(np.asarray(rows.values, np.float32).astype(float), axis=1)
    return found if rows.scales is None else found * rows.scales


def rounding(queries: Rows, largest_norm: float) -> Float[np.ndarray, " Q"]:
    """How far `products` and `compare` can be apart, for each query.

    Each of G additions is off by half a unit in the last place of the product of the
    norms at most; by one where a device cuts off instead of rounding. Eight more are
    for scales and for the rounding of what is returned.
    """
    additions = queries.values.shape[1] + 8
    return additions * 2.0**-23 * largest_norm * norms(queries)


def recall(found: Int[np.ndarray, "Q _"], expected: Int[np.ndarray, "Q K"]) -> float:
    """Share of the expected images that were found, over all queries."""
    hits = [np.isin(e, f).sum() for f, e in zip(found, expected, strict=True)]
    return float(sum(hits)) / max(expected.size, 1)
