"""Whitening of descriptors: PCA from their moments, or learned from matching pairs."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

# What is added to a norm before it divides, in the released code.
_EPSILON = 1e-6


class Moments(NamedTuple):
    """Sums over descriptors that a PCA needs; those of two sets can be added up."""

    count: int  # type: ignore[assignment]  # hides tuple.count
    sums: Float64[np.ndarray, "D"]
    products: Float64[np.ndarray, "D D"]
    """sum of the outer products"""


def moments_of(descriptors: Float[np.ndarray, "N D"]) -> Moments:
    """The moments of some descriptors, in float64."""
    x = np.asarray(descriptors, np.float64)
    return Moments(len(x), x.sum(axis=0), x.T @ x)


def add_moments(a: Moments, b: Moments) -> Moments:
    """The moments of both sets together."""
    return Moments(a.count + b.count, a.sums + b.sums, a.products + b.products)


def fit_pca(
    moments: Moments, dimension: int
) -> tuple[
    Float64[np.ndarray, " D"], Float64[np.ndarray, "E D"], Float64[np.ndarray, " E"]
]:
    """(mean, projection, variances): the E directions of most variance, most first.

    Rows of the projection are unit vectors whose largest entry is positive. ValueError
    if there are fewer dimensions than asked for, or no descriptors.
    """
    if not 1 <= dimension <= len(moments.sums) or not moments.count:
        raise ValueError(
            f"{dimension} components of {moments.count} descriptors of "
            f"{len(moments.sums)} dimensions"
        )
    mean = moments.sums / moments.count
    covariance = moments.products / moments.count - np.outer(mean, mean)
    variances, vectors = np.linalg.eigh(covariance)
    variances, projection = variances[::-1][:dimension], vectors.T[::-1][:dimension]
    return mean, _with_fixed_signs(projection), np.maximum(variances, 0)


def learn_whitening(
    descriptors: Float[np.ndarray, "N D"],
    query: Int[np.ndarray, " P"],
    positive: Int[np.ndarray, " P"],
) -> tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, "D D"]]:
    """(mean, projection) learned from pairs of descriptors that match, by rows [GeM].

    The projection makes the differences of pairs white, and then turns what remains so
    that its first rows hold most of the variance of all descriptors. As in the released
    code the mean is that of the queries. Largest entries of rows are positive.
    """
    x = np.asarray(descriptors, np.float64)
    mean = x[query].mean(axis=0)
    differences = x[query] - x[positive]
    covariance = differences.T @ differences / len(differences)
    whitener = np.linalg.inv(robust_cholesky(covariance))
    white = (x - mean) @ whitener.T
    _, vectors = np.linalg.eigh(white.T @ white)
    return mean, _with_fixed_signs(vectors.T[::-1] @ whitener)


def apply_whitening(
    descriptors: Float[np.ndarray, "N D"],
    mean: Float[np.ndarray, " D"],
    projection: Float[np.ndarray, "E D"],
    dimension: int | None = None,
) -> Float[np.ndarray, "N E2"]:
    """Projected descriptors of unit length; of the first `dimension` rows, if given."""
    projected = (descriptors - mean) @ projection[:dimension].T
    norms = np.linalg.norm(projected, axis=1, keepdims=True)
    return projected / (norms + _EPSILON)


def robust_cholesky(matrix: Float[np.ndarray, "D D"]) -> Float64[np.ndarray, "D D"]:
    """The lower triangular factor of a covariance matrix, even of deficient rank.

    As in the released code: if it has none, 1e-10 is added to the diagonal, then ten
    times as much until it has one. ValueError if no such number helps.
    """
    matrix = np.asarray(matrix, np.float64)
    added = 0.0
    while np.isfinite(matrix).all() and added <= np.abs(matrix).max() + 1:
        try:
            return np.linalg.cholesky(matrix + added * np.eye(len(matrix)))
        except np.linalg.LinAlgError:
            added = max(1e-10, 10 * added)
    raise ValueError("not a covariance matrix: it has no Cholesky factor")


def _with_fixed_signs(rows: Float[np.ndarray, "E D"]) -> Float[np.ndarray, "E D"]:
    """The rows, each with its largest entry positive: eigenvectors have no sign."""
    largest = np.argmax(np.abs(rows), axis=1)
    return rows * np.sign(rows[np.arange(len(rows)), largest])[:, None]
