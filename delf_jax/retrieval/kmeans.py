"""Steps of k-means: how it starts, what a pass gathers, how the centroids move.

A pass may see the descriptors in any number of chunks: what each chunk gives adds up.
In mini-batch k-means the centroids move after every batch, by what they have seen so
far [Sculley]. Empty clusters start again at descriptors far from their centroids.
"""

from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float, Float32, Float64, Int32, Int64

from delf_jax.retrieval.aggregation import assign_words

# Descriptors kept for clusters that turn out empty; more of these wait for a pass.
SPARES = 1024


class ClusterSums(NamedTuple):
    """What a pass over descriptors gives; those of two chunks can be added up."""

    sums: Float64[np.ndarray, "K D"]
    counts: Int64[np.ndarray, "K"]
    inertia: float
    """sum of the squared distances to the nearest centroids"""
    spares: Float32[np.ndarray, "S D"]
    """descriptors drawn with probabilities that grow as the squared distance"""
    spare_keys: Float64[np.ndarray, "S"]
    """ascending: of two chunks' spares those with the lowest keys are drawn"""


class Move(NamedTuple):
    """The centroids after a pass, and what happened to them."""

    codebook: Float32[np.ndarray, "K D"]
    empty: int
    """clusters without descriptors"""
    reseeded: int
    """of them, how many took a descriptor; the others stay where they were"""


# Squared distances that are so small a part of the squared norms have few digits left.
_CANCELLED = 1e-4


def kmeans_plus_plus(
    descriptors: Float[np.ndarray, "N D"], words: int, rng: np.random.Generator
) -> Float32[np.ndarray, "K D"]:
    """Centroids that are descriptors, each drawn far from those before it.

    The probability grows as the squared distance to the nearest [k-means++]. One
    product with all descriptors for every word. ValueError if there are too few.
    """
    if not 1 <= words <= len(descriptors):
        raise ValueError(f"{words} words from {len(descriptors)} descriptors")
    x = np.ascontiguousarray(descriptors, np.float32)
    norms = np.einsum("nd,nd->n", x, x)
    chosen = np.zeros(words, np.int64)
    chosen[0] = rng.integers(len(x))
    distances = np.full(len(x), np.inf, np.float32)
    for word in range(1, words):
        last = x[chosen[word - 1]]
        squares = np.maximum(norms - 2 * (x @ last) + last @ last, 0)
        # By subtraction where norms would cancel: rounding must not leave a chance to
        # what was drawn, or to its like.
        near = np.flatnonzero(squares < _CANCELLED * norms)
        squares[near] = np.square(x[near] - last).sum(axis=1)
        distances = np.minimum(distances, squares)
        ends = np.cumsum(distances, dtype=np.float64)
        if not ends[-1] > 0:
            raise ValueError(f"only {word} different descriptors for {words} words")
        place = np.searchsorted(ends, rng.random() * ends[-1], side="right")
        chosen[word] = min(place, len(x) - 1)
    return x[chosen]


def lloyd_pass(
    descriptors: Float[np.ndarray, "N D"],
    codebook: Float32[np.ndarray, "K D"],
    rng: np.random.Generator,
) -> ClusterSums:
    """What one chunk of descriptors gives to the pass."""
    x = np.ascontiguousarray(descriptors, np.float32)
    words = assign_words(x, codebook)[:, 0]
    counts = np.bincount(words, minlength=len(codebook)).astype(np.int64)
    ones, rows = np.ones(len(x)), np.arange(len(x))
    members = scipy.sparse.csr_array((ones, (words, rows)), (len(codebook), len(x)))
    # By subtraction: exact where a difference of norms would cancel.
    residuals = x - codebook[words]
    squares = np.einsum("nd,nd->n", residuals, residuals).astype(np.float64)
    # The lowest of exponential times are a weighted sample without replacement.
    times = rng.exponential(size=len(x))
    keys = np.divide(times, squares, out=np.full(len(x), np.inf), where=squares > 0)
    return ClusterSums(
        members @ x.astype(np.float64), counts, float(squares.sum()), *_lowest(x, keys)
    )


def add_sums(a: ClusterSums, b: ClusterSums) -> ClusterSums:
    """What both chunks give together."""
    spares = np.concatenate([a.spares, b.spares])
    keys = np.concatenate([a.spare_keys, b.spare_keys])
    sums, counts, inertia = a.sums + b.sums, a.counts + b.counts, a.inertia + b.inertia
    return ClusterSums(sums, counts, inertia, *_lowest(spares, keys))


def move_centroids(found: ClusterSums, codebook: Float32[np.ndarray, "K D"]) -> Move:
    """Each centroid at the mean of its descriptors, and empty ones at a spare each."""
    nothing = np.zeros(len(codebook), np.int64)
    return seed_again(found, *average_in(found, codebook, nothing))[0]


def average_in(
    found: ClusterSums,
    codebook: Float32[np.ndarray, "K D"],
    weights: Int64[np.ndarray, " K"],
) -> tuple[Float32[np.ndarray, "K D"], Int64[np.ndarray, " K"]]:
    """(codebook, weights) after a batch, of centroids that are means of so many.

    As if each in turn moved its centroid by one over its weight [Sculley].
    """
    after = weights + found.counts
    total = codebook.astype(np.float64) * weights[:, None] + found.sums
    seen = found.counts[:, None] > 0
    moved = np.where(seen, total / np.maximum(after, 1)[:, None], codebook)
    return moved.astype(np.float32), after


def seed_again(
    found: ClusterSums,
    codebook: Float32[np.ndarray, "K D"],
    weights: Int64[np.ndarray, " K"],
) -> tuple[Move, Int64[np.ndarray, " K"]]:
    """Empty centroids of several batches at a spare each, and the weights after it."""
    empty = np.flatnonzero(found.counts == 0)
    reseeded = empty[: len(found.spares)]
    moved, weights = codebook.copy(), weights.copy()
    moved[reseeded] = found.spares[: len(reseeded)]
    weights[reseeded] = 1
    return Move(moved, len(empty), len(reseeded)), weights


def imbalance(counts: Int64[np.ndarray, " K"] | Int32[np.ndarray, " K"]) -> float:
    """1 if all clusters are equally large; K if one has everything.

    A search of an inverted file takes so many times as long as with equal clusters.
    """
    shares = counts / max(counts.sum(), 1)
    return float(len(counts) * np.sum(shares * shares))


def _lowest(
    descriptors: Float32[np.ndarray, "N D"], keys: Float64[np.ndarray, " N"]
) -> tuple[Float32[np.ndarray, "S D"], Float64[np.ndarray, " S"]]:
    """The descriptors of the lowest finite keys, as many as are kept, and the keys."""
    order = np.argsort(keys, kind="stable")[:SPARES]
    order = order[np.isfinite(keys[order])]
    return descriptors[order], keys[order]
