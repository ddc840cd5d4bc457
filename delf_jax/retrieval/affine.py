"""Affine maps between two images: proposed by matches, bounded, scored and refined.

Two matches, or one with its scales, propose a similarity; the best of many become
affine maps, by least squares of the matches that obey them.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Complex, Float, Float32, Int

# Maps between two upright photos of a building: beyond these bounds a fit is an
# accident. A square does not come out longer than 3 to 1, sizes differ by a factor of
# 8 at most, nothing is mirrored and nothing turned by more than 45 degrees (neither
# DELF nor DELG would recognise it). On real photos the last bound alone lowers the
# inliers that unrelated pairs reach from 7 to 6, of true pairs none.
_MAX_STRETCH = 3.0
_MAX_ZOOM = 8.0
_MAX_TURN = np.pi / 4
# Two matches closer than so many thresholds say too little of zoom and turn.
_CLOSEST = 2.0
# One in so many of a set of proposals is refined, but at least the best few; and the
# relative thresholds of the refinements, one after the other: wide first, to gather
# what a similarity misses.
_REFINED, _FEWEST = 100, 4
_WIDENINGS = (2.5, 1.25)
# Maps scored together: their errors stay in the cache of a core.
_SCORED = 128
# A touch of damping: collinear inliers give an implausible map, not an error.
_DAMPING, _FLOOR = 1 + 1e-9 * np.eye(3), 1e-30 * np.eye(3)


class Matches(NamedTuple):
    """Matches ready for many maps."""

    ends: Float[np.ndarray, "P 4"]
    """(y, x) of the index location, (y, x) of the query location"""
    terms: Float[np.ndarray, "16 P"]
    """what squared errors and fits are sums of: products of (y, x, 1) of the index
    location with itself and with the query location, and that one's square"""
    rough: Float32[np.ndarray, "16 P"]
    """the same in float32"""
    threshold: float


class Best(NamedTuple):
    """The best map so far: at first none."""

    score: float = 0.0
    map: Float[np.ndarray, "2 3"] | None = None
    inliers: Bool[np.ndarray, " P"] | None = None


def prepare_matches(ends: Float[np.ndarray, "P 4"], threshold: float) -> Matches:
    """Matches between locations with zero mean (or small fits lose digits)."""
    columns = np.ones((5, len(ends)))
    columns[[0, 1, 3, 4]] = ends.T
    index, query = columns[:3], columns[3:]
    terms = np.empty((16, len(ends)))
    np.multiply(index[:, None], index, out=terms[:9].reshape(3, 3, -1))
    np.multiply(query[:, None], index, out=terms[9:15].reshape(2, 3, -1))
    np.add(query[0] ** 2, query[1] ** 2, out=terms[15])
    return Matches(ends, terms, terms.astype(np.float32), float(threshold))


def improve(best: Best, maps: Float[np.ndarray, "T 2 3"], matches: Matches) -> Best:
    """The best map: the one so far, or the best that refining the proposed ones gives.

    Its score is that of `score_matches`, summed.
    """
    leaders = np.argsort(-_totals(maps, matches), kind="stable")
    maps = maps[leaders[: max(_FEWEST, len(maps) // _REFINED)]]
    for widening in _WIDENINGS:
        maps = fit(_margins(maps, matches, widening) > 0, matches)
    maps = plausible(maps)
    if not len(maps):
        return best
    scores = score_matches(maps, matches)
    totals = scores.sum(axis=1)
    first = totals.argmax()
    if totals[first] <= best.score:
        return best
    return Best(float(totals[first]), maps[first], scores[first] > 0)


def score_matches(
    maps: Float[np.ndarray, "T 2 3"], matches: Matches
) -> Float[np.ndarray, "T P"]:
    """1 for a match that a map hits exactly, falling to 0 at the threshold [MSAC].

    The threshold holds in both images: where the index image shows the scene larger,
    its pixels are worth less in the query image.
    """
    return np.maximum(_margins(maps, matches, 1.0), 0)


def _margins(
    maps: Float[np.ndarray, "T 2 3"], matches: Matches, widening: float
) -> Float[np.ndarray, "T P"]:
    """The same, below 0 beyond the threshold, times `widening`."""
    return _weights(maps, matches.threshold * widening) @ matches.terms


def _totals(
    maps: Float[np.ndarray, "T 2 3"], matches: Matches
) -> Float32[np.ndarray, " T"]:
    """The score of each map summed over the matches, to a few digits."""
    weights = _weights(maps, matches.threshold).astype(np.float32)
    count = len(matches.ends)
    # Against an array, not a number, `maximum` uses the vector units.
    zeros = np.zeros((min(len(maps), _SCORED), count), np.float32)
    ones, totals = np.ones(count, np.float32), np.empty(len(maps), np.float32)
    for start in range(0, len(maps), _SCORED):
        scores = weights[start : start + _SCORED] @ matches.rough
        np.maximum(scores, zeros[: len(scores)], out=scores)
        np.matmul(scores, ones, out=totals[start : start + _SCORED])
    return totals


def _weights(
    maps: Float[np.ndarray, "T 2 3"], threshold: float
) -> Float[np.ndarray, "T 16"]:
    """Of the terms of matches in their scores: 1 less the square of error by limit."""
    rows = np.ascontiguousarray(maps.transpose(1, 2, 0))
    weights = np.empty((16, len(maps)))
    squares = rows[:, :, None] * rows[:, None]
    np.add(squares[0], squares[1], out=weights[:9].reshape(3, 3, -1))
    np.multiply(rows, -2, out=weights[9:15].reshape(2, 3, -1))
    weights[15] = 1
    # Of what is not plausible anyway, nothing is near a limit.
    areas = np.maximum(_areas(rows), _MAX_ZOOM**-2)
    weights /= -(threshold**2) * np.minimum(areas, 1)
    weights[8] += 1
    return weights.T


def fit(
    inliers: Bool[np.ndarray, "T P"], matches: Matches
) -> Float[np.ndarray, "T 2 3"]:
    """Least-squares maps of sets of inliers, plausible or not."""
    sums = inliers.astype(np.float64) @ matches.terms.T
    squares = sums[:, :9].reshape(-1, 3, 3) * _DAMPING + _FLOOR
    products = sums[:, 9:15].reshape(-1, 2, 3).transpose(0, 2, 1)
    return np.linalg.solve(squares, products).transpose(0, 2, 1)


def maps_of_pairs(
    matches: Matches, pairs: Int[np.ndarray, "2 T"]
) -> Float[np.ndarray, "K 2 3"]:
    """The plausible ones among the similarities through two matches each."""
    # As complex numbers a similarity takes z to factor * z + shift.
    points = matches.ends.view(np.complex128)
    first = points[pairs[0]]
    index, query = (points[pairs[1]] - first).T
    turned = query * index.conj()
    index_squares = index.real**2 + index.imag**2
    query_squares = query.real**2 + query.imag**2
    closest = (_CLOSEST * matches.threshold) ** 2
    kept = np.flatnonzero(
        (np.abs(turned.imag) <= math.tan(_MAX_TURN) * turned.real)
        & (np.minimum(index_squares, query_squares) > closest)
        & (query_squares < _MAX_ZOOM**2 * index_squares)
        & (index_squares < _MAX_ZOOM**2 * query_squares)
    )
    return _through(turned[kept] / index_squares[kept], first[kept])


def maps_of_zooms(
    matches: Matches, zooms: Float[np.ndarray, " P"]
) -> Float[np.ndarray, "K 2 3"]:
    """The plausible ones among the maps of single matches, by scale and position."""
    points = matches.ends.view(np.complex128)
    return plausible(_through(zooms.astype(np.complex128), points))


def _through(
    factors: Complex[np.ndarray, " T"], points: Complex[np.ndarray, "T 2"]
) -> Float[np.ndarray, "T 2 3"]:
    """Similarities that take the first of each two points to the second."""
    shifts = points[:, 1] - factors * points[:, 0]
    maps = np.empty((len(factors), 2, 3))
    maps[:, 0, 0] = maps[:, 1, 1] = factors.real
    maps[:, 1, 0], maps[:, 0, 1] = factors.imag, -factors.imag
    maps[:, 0, 2], maps[:, 1, 2] = shifts.real, shifts.imag
    return maps


def plausible(maps: Float[np.ndarray, "T 2 3"]) -> Float[np.ndarray, "K 2 3"]:
    """The maps that a change of viewpoint could cause."""
    rows = maps.transpose(1, 2, 0)
    area = _areas(rows)
    # The turn of the similarity nearest to the map; its cosine and sine, unscaled.
    cosine, sine = rows[0, 0] + rows[1, 1], rows[1, 0] - rows[0, 1]
    # Singular values s >= t: (s + t)^2 is the square of that similarity's, 4 s t the
    # difference to the square of (s - t); s / t is the stretch.
    square = cosine**2 + sine**2
    longest = (_MAX_STRETCH + 1) ** 2 / _MAX_STRETCH
    return maps[
        (square <= longest * area)
        & (np.abs(sine) <= math.tan(_MAX_TURN) * cosine)
        & (area < _MAX_ZOOM**2)
        & (area > _MAX_ZOOM**-2)
    ]


def _areas(rows: Float[np.ndarray, "2 3 T"]) -> Float[np.ndarray, " T"]:
    """Determinants of the linear parts: the area that a unit square becomes."""
    return rows[0, 0] * rows[1, 1] - rows[0, 1] * rows[1, 0]
