"""Local descriptors of an image, aggregated by visual word: VLAD, ASMK and ASMK*.

Their regional forms take the descriptors of several regions of the image, the first of
which usually is the whole of it, one region after the other [D2R].
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax import Array, lax
from jaxtyping import Float, Float32, Int, Int32, UInt8

# Words compared at a time: with 1024 descriptors the scores, 1 MB, stay in the cache.
_BLOCK = 256
# Of a group of words in a row the best score alone is kept; of the best groups the
# words are compared again. There are about so many groups, each of 4 to 32 words, a
# power of two: of 65,536 words groups of 16 make the first part longer, of 64 the
# second.
_GROUPS, _SMALLEST_GROUP, _LARGEST_GROUP = 1024, 4, 32
# Words compared again at a time: 2 MB stay in the cache.
_AGAIN = 4096
# Descriptors assigned at a time, so that memory is bounded; fewer are padded to a power
# of two or a multiple of 256, so that images share a handful of compiled programs.
_ROWS, _SMALLEST_BUCKET, _BUCKET = 1024, 64, 256
# Of the released code: norms are at least the root of the first; words whose residual
# is not longer than the second are dropped.
_EPSILON, _SHORTEST = 1e-12, 1e-6


class Aggregated(NamedTuple):
    """What an image keeps of its descriptors: one residual per visual word it has."""

    visual_words: Int32[np.ndarray, "W"]
    """ascending, each once"""
    residuals: Float32[np.ndarray, "W D"] | UInt8[np.ndarray, "W P"]
    """float, or P bytes of packed signs: the first dimension is the highest bit"""


def assign_words(
    descriptors: Float[np.ndarray | Array, "N D"],
    codebook: Float[np.ndarray | Array, "K _"],
    assignments: int = 1,
) -> Int32[np.ndarray, "N A"]:
    """The nearest visual words of each descriptor, nearest first (Euclidean).

    Of equal centroids the one of lower id comes first. ValueError if the codebook has
    fewer than `assignments` words or another dimension.
    """
    _check_codebook(descriptors, codebook, assignments)
    parts = [np.zeros((0, assignments), np.int32)]
    centroids = np.asarray(codebook, np.float32)
    size = max(1, len(codebook) // _GROUPS)
    size = 1 << min(max(size, _SMALLEST_GROUP), _LARGEST_GROUP).bit_length() - 1
    rows = np.ascontiguousarray(descriptors, np.float32)
    for begin in range(0, len(rows), _ROWS):
        part = rows[begin : begin + _ROWS]
        found = _best_groups(_pad(part), codebook, count=assignments, size=size)
        groups, halves = map(np.asarray, found)
        step = max(1, _AGAIN // (groups.shape[1] * size))
        for start in range(0, len(part), step):
            few = part[start : start + step]
            near = groups[start : start + len(few)]
            best = _best_words(few, near, centroids, halves, size, assignments)
            parts.append(best)
    return np.concatenate(parts)


def aggregate_vlad(
    descriptors: Float[np.ndarray, "N D"],
    visual_words: Int32[np.ndarray, "N A"],
    codebook: Float[np.ndarray, "K _"],
    *,
    features_per_region: Sequence[int] | None = None,
    normalize: bool = True,
) -> Float32[np.ndarray, " KD"]:
    """VLAD of an image, or with regions R-VLAD: residual sums of all words, in a row.

    With regions each region's VLAD is normalised, and they are averaged, where an empty
    one counts [D2R]. normalize: the whole to unit length; without features it is zero.
    """
    words, sums = sparse_vlad(
        descriptors,
        visual_words,
        codebook,
        features_per_region=features_per_region,
        normalize=normalize,
    )
    dense = np.zeros(codebook.shape, np.float32)
    dense[words] = sums
    return dense.reshape(-1)


def sparse_vlad(
    descriptors: Float[np.ndarray, "N D"],
    visual_words: Int32[np.ndarray, "N A"],
    codebook: Float[np.ndarray, "K _"],
    *,
    features_per_region: Sequence[int] | None = None,
    normalize: bool = True,
) -> Aggregated:
    """`aggregate_vlad` of the words that are present."""
    words, sums = _sums(descriptors, visual_words, codebook, features_per_region)
    if normalize:
        sums = sums / np.sqrt(np.maximum(np.sum(sums * sums), _EPSILON))
    return Aggregated(words, sums)


def aggregate_asmk(
    descriptors: Float[np.ndarray, "N D"],
    visual_words: Int32[np.ndarray, "N A"],
    codebook: Float[np.ndarray, "K _"],
    *,
    features_per_region: Sequence[int] | None = None,
) -> Aggregated:
    """ASMK of an image [ASMK], or with regions R-ASMK [D2R].

    The residual sum of each word is normalised; words whose sum vanishes are dropped.
    """
    words, sums = _sums(descriptors, visual_words, codebook, features_per_region)
    norms = np.sqrt(np.einsum("wd,wd->w", sums, sums))
    kept = norms > _SHORTEST
    if not kept.all():
        words, sums, norms = words[kept], sums[kept], norms[kept]
    return Aggregated(words, np.divide(sums, norms[:, None], out=sums))


def binarize(aggregated: Aggregated) -> Aggregated:
    """ASMK* of ASMK, and R-ASMK* of R-ASMK: the signs of the residuals, packed.

    A bit is set where the residual is positive; the last byte is filled up with zeros.
    """
    return aggregated._replace(residuals=np.packbits(aggregated.residuals > 0, axis=1))


def _sums(
    descriptors: Float[np.ndarray, "N D"],
    visual_words: Int32[np.ndarray, "N A"],
    codebook: Float[np.ndarray, "K _"],
    features_per_region: Sequence[int] | None,
) -> tuple[Int32[np.ndarray, " W"], Float32[np.ndarray, "W D"]]:
    """The words present, and of each the residual sum, or its mean over regions."""
    _check_codebook(descriptors, codebook, 1)
    centroids = np.asarray(codebook, np.float32)[visual_words]
    rows = np.asarray(descriptors, np.float32)[:, None]
    residuals = np.subtract(rows, centroids, out=centroids)
    residuals = residuals.reshape(-1, centroids.shape[-1])
    pairs = visual_words.reshape(-1)
    if features_per_region is None:
        return _sum_groups(pairs, residuals)
    counts, features = np.asarray(features_per_region, np.int64), len(descriptors)
    if counts.sum() != features or (counts < 0).any():
        raise ValueError(
            f"expected {counts.sum()} features, those of the regions, got {features}"
        )
    regions = np.repeat(np.arange(len(counts)), counts * visual_words.shape[1])
    keys, sums = _sum_groups(regions * len(codebook) + pairs, residuals)
    regions, pairs = np.divmod(keys, len(codebook))
    squares = np.bincount(regions, np.einsum("wd,wd->w", sums, sums))
    norms = np.sqrt(np.maximum(squares, _EPSILON)).astype(np.float32)
    words, sums = _sum_groups(pairs.astype(np.int32), sums / norms[regions, None])
    return words, sums / np.float32(max(len(features_per_region), 1))


def _sum_groups(
    keys: Int[np.ndarray, " P"], rows: Float32[np.ndarray, "P D"]
) -> tuple[Int[np.ndarray, " G"], Float32[np.ndarray, "G D"]]:
    """The distinct keys, ascending, and the sums of their rows, from the first row on.

    A sparse product is 2.5 times as fast as np.add.reduceat, 1.5 as jax's segment_sum.
    """
    # Sorting numbers is many times as fast as sorting places stably by numbers.
    ordered = keys.astype(np.int64) << 32 | np.arange(len(keys))
    ordered.sort()
    order, keys = ordered.astype(np.int32), (ordered >> 32).astype(keys.dtype)
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    ends = np.append(starts, len(keys)).astype(np.int32)
    ones = np.ones(len(rows), np.float32)
    members = scipy.sparse.csr_array((ones, order, ends), (len(starts), len(rows)))
    return keys[starts], members @ rows


def _check_codebook(
    descriptors: Float[np.ndarray | Array, "N D"],
    codebook: Float[np.ndarray | Array, "K _"],
    assignments: int,
) -> None:
    if descriptors.shape[1] != codebook.shape[1]:
        raise ValueError(
            f"descriptors have {descriptors.shape[1]} dimensions and the codebook "
            f"{codebook.shape[1]}: they come from different models"
        )
    if not 1 <= assignments <= len(codebook):
        raise ValueError(
            f"{assignments} assignments to a codebook of {len(codebook)} words"
        )


@functools.partial(jax.jit, static_argnames=("count", "size"))
def _best_groups(
    descriptors: Float[Array, "N D"],
    codebook: Float[Array, "K D"],
    *,
    count: int,
    size: int,
) -> tuple[Int[Array, "N G"], Float[Array, " K2"]]:
    """(groups, halves): where the nearest words are, and half squared norms of words.

    The `count` nearest words of a descriptor are in the `count` groups whose best words
    are nearest. Groups ascend. The codebook is filled up with words infinitely far.
    """
    codebook = codebook.astype(jnp.float32)
    words = len(codebook)
    codebook = jnp.pad(codebook, ((0, -words % _BLOCK), (0, 0)))
    columns = descriptors.T

    def step(_, start):
        centroids = lax.dynamic_slice_in_dim(codebook, start, _BLOCK)
        half = jnp.sum(centroids * centroids, 1) / 2
        if words % _BLOCK:
            places = start + jnp.arange(_BLOCK, dtype=jnp.int32)
            half = jnp.where(places < words, half, jnp.inf)
        # Distances fall as dot - norm/2 rises.
        dots = jnp.matmul(centroids, columns, precision=lax.Precision.HIGHEST)
        closeness = (dots - half[:, None]).reshape(-1, size, len(descriptors))
        # Maxima of halves are twice as fast on a CPU as one over the axis.
        while closeness.shape[1] > 1:
            low, high = jnp.split(closeness, 2, axis=1)
            closeness = jnp.maximum(low, high)
        return None, (closeness[:, 0], half)

    starts = jnp.arange(0, len(codebook), _BLOCK, dtype=jnp.int32)
    _, (closest, halves) = lax.scan(step, None, starts)
    closest = closest.reshape(-1, len(descriptors))
    # Of equals the lower group first, which holds the lower words.
    _, groups = lax.top_k(closest.T, min(count, -(-words // size)))
    return jnp.sort(groups, axis=1), halves.reshape(-1)


def _best_words(
    descriptors: Float32[np.ndarray, "N D"],
    groups: Int32[np.ndarray, "N G"],
    codebook: Float32[np.ndarray, "K D"],
    halves: Float32[np.ndarray, " K2"],
    size: int,
    count: int,
) -> Int32[np.ndarray, "N A"]:
    """The nearest words among those of the groups; of equals the lower id first.

    Numpy copies the rows five times as fast as XLA on a CPU.
    """
    ids = groups[:, :, None] * np.int32(size) + np.arange(size, dtype=np.int32)
    ids = ids.reshape(len(groups), -1)
    # Each to the same bits whatever the other rows: no BLAS.
    near = codebook[np.minimum(ids, len(codebook) - 1)]
    closeness = np.einsum("nd,nwd->nw", descriptors, near) - halves[ids]
    rows, found = np.arange(len(ids)), []
    for _ in range(count):
        best = np.argmax(closeness, axis=1)
        found.append(ids[rows, best])
        closeness[rows, best] = -np.inf
    return np.stack(found, axis=1)


def _pad(x: Float32[np.ndarray, "N D"]) -> Float32[np.ndarray, "L D"]:
    rows = max(_SMALLEST_BUCKET, 1 << (len(x) - 1).bit_length())
    if rows > _BUCKET:
        rows = -(-len(x) // _BUCKET) * _BUCKET
    return np.pad(x, ((0, rows - len(x)), (0, 0)))
