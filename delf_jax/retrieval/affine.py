"""Affine maps between two images: proposed by matches, bounded, scored and refined."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Maps between two upright photos of a building: beyond these bounds a fit is an
# accident. A square does not come out longer than 3 to 1, sizes differ by a factor of
# 8 at most, nothing is mirrored and nothing turned by more than 45 degrees (neither
# DELF nor DELG would recognise it). On real photos the last bound alone lowers the
# inliers that unrelated pairs reach from 7 to 6, of true pairs none.
_MAX_STRETCH = 3.0
_MAX_ZOOM = 8.0
_MAX_TURN = np.pi / 4
# Maps refined of each set of proposals, and the relative thresholds of the refinements,
# one after the other: wide first, to gather what a rough map misses.
_REFINED = 4
_WIDENINGS = (2.0, 1.5, 1.0)
# Maps scored together: their errors stay in the cache of a core.
_SCORED = 128


class Matches(NamedTuple):
    """Matches ready for many maps: centred points, moments for fits, columns."""

    query: Float[np.ndarray, "P 2"]
    index: Float[np.ndarray, "P 2"]  # type: ignore[assignment]  # hides tuple.index
    squares: Float[np.ndarray, "P 9"]
    """products of (y, x, 1) of the index location with itself"""
    products: Float[np.ndarray, "P 6"]
    """products of (y, x, 1) of the index location with the query location"""
    columns: Float[np.ndarray, "5 P"]
    """(y, x, 1) of the index location, (y, x) of the query location"""
    threshold: float


def prepare_matches(
    query: Float[np.ndarray, "P 2"], index: Float[np.ndarray, "P 2"], threshold: float
) -> Matches:
    """Matches between locations with zero mean (or small fits lose digits)."""
    homogeneous = np.concatenate([index, np.ones((len(index), 1))], axis=1)
    return Matches(
        query=query,
        index=index,
        squares=(homogeneous[:, :, None] * homogeneous[:, None, :]).reshape(-1, 9),
        products=(homogeneous[:, :, None] * query[:, None, :]).reshape(-1, 6),
        columns=np.concatenate([homogeneous, query], axis=1).T.astype(np.float32),
        threshold=threshold,
    )


def improve(
    best: Float[np.ndarray, "2 3"] | None,
    score: float,
    maps: Float[np.ndarray, "T 2 3"],
    matches: Matches,
) -> tuple[Float[np.ndarray, "2 3"] | None, float]:
    """The best map and its score: the one so far, a new one or a refined new one."""
    totals = _totals(maps, matches)
    # Refined maps win by much: a raw one of half the score may still overtake.
    promising = np.count_nonzero(totals > 0.5 * score)
    leaders = np.argsort(-totals, kind="stable")[: min(_REFINED, promising)]
    maps, totals = maps[leaders], totals[leaders]
    for widening in (*_WIDENINGS, None):
        if not len(maps):
            break
        first = np.argmax(totals)
        if totals[first] > score:
            best, score = maps[first], float(totals[first])
        if widening:
            maps = fit(maps, matches, widening)
            totals = _totals(maps, matches)
    return best, score


def score_matches(
    maps: Float[np.ndarray, "T 2 3"], matches: Matches, widening: float = 1.0
) -> Float[np.ndarray, "T P"]:
    """1 for a match that a map hits exactly, falling to 0 at the threshold [MSAC].

    The threshold holds in both images: where the index image shows the scene larger,
    its pixels are worth less in the query image.
    """
    count = len(maps)
    rows = np.empty((2, count, 5), np.float32)
    rows[:, :, :3] = maps.transpose(1, 0, 2)
    rows[:, :, 3:] = -np.eye(2)[:, None, :]
    errors = rows.reshape(2 * count, 5) @ matches.columns
    np.square(errors, out=errors)
    squares = errors[:count]
    squares += errors[count:]
    limits = (matches.threshold * widening) ** 2 * np.minimum(_areas(maps), 1)
    squares *= (-1 / limits[:, None]).astype(np.float32)
    squares += 1
    return np.maximum(squares, 0, out=squares)


def _totals(
    maps: Float[np.ndarray, "T 2 3"], matches: Matches
) -> Float[np.ndarray, " T"]:
    """The score of each map, summed over the matches."""
    parts = [
        score_matches(maps[start : start + _SCORED], matches).sum(axis=1)
        for start in range(0, len(maps), _SCORED)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def fit(
    maps: Float[np.ndarray, "T 2 3"], matches: Matches, widening: float
) -> Float[np.ndarray, "K 2 3"]:
    """Least-squares maps of the inliers of each map, those that are plausible."""
    weights = (score_matches(maps, matches, widening) > 0).astype(np.float64)
    squares = (weights @ matches.squares).reshape(-1, 3, 3)
    products = (weights @ matches.products).reshape(-1, 3, 2)
    # A touch of damping: collinear inliers give an implausible map, not an error.
    squares *= 1 + 1e-9 * np.eye(3)
    squares += 1e-30 * np.eye(3)
    return plausible(np.linalg.solve(squares, products).transpose(0, 2, 1))


def maps_of_triples(
    matches: Matches, triples: Int[np.ndarray, "T 3"]
) -> Float[np.ndarray, "K 2 3"]:
    """The plausible ones among the maps through three matches each."""
    query, index = matches.query[triples], matches.index[triples]
    a, b = index[:, 1] - index[:, 0], index[:, 2] - index[:, 0]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    # Smaller triangles than the uncertainty of their corners say nothing.
    valid = np.abs(area) > matches.threshold**2
    query, index, a, b, area = (x[valid] for x in (query, index, a, b, area))
    inverse = np.stack([b[:, ::-1], a[:, ::-1]], axis=1) * [[1, -1], [-1, 1]]
    inverse /= area[:, None, None]
    sides = np.stack([query[:, 1] - query[:, 0], query[:, 2] - query[:, 0]], axis=2)
    return plausible(_through(sides @ inverse, query[:, 0], index[:, 0]))


def maps_of_zooms(
    matches: Matches, zooms: Float[np.ndarray, " P"]
) -> Float[np.ndarray, "K 2 3"]:
    """The plausible ones among the maps of single matches, by scale and position."""
    linear = zooms[:, None, None] * np.eye(2)
    return plausible(_through(linear, matches.query, matches.index))


def _through(
    linear: Float[np.ndarray, "T 2 2"],
    query: Float[np.ndarray, "T 2"],
    index: Float[np.ndarray, "T 2"],
) -> Float[np.ndarray, "T 2 3"]:
    """Maps with the linear part given that take `index` to `query`."""
    shift = query - np.einsum("tij,tj->ti", linear, index)
    return np.concatenate([linear, shift[:, :, None]], axis=2)


def plausible(maps: Float[np.ndarray, "T 2 3"]) -> Float[np.ndarray, "K 2 3"]:
    """The maps that a change of viewpoint could cause."""
    area = _areas(maps)
    # Singular values s >= t: their squares add up to this sum, their product is area,
    # and s / t + t / s grows with the stretch s / t.
    squares = np.square(maps[:, :, :2]).sum(axis=(1, 2))
    stretched = squares > (_MAX_STRETCH + 1 / _MAX_STRETCH) * area
    zoomed = (area > _MAX_ZOOM**2) | (area < _MAX_ZOOM**-2)
    # The turn of the similarity nearest to the map; its cosine and sine, unscaled.
    cosine = maps[:, 0, 0] + maps[:, 1, 1]
    sine = maps[:, 1, 0] - maps[:, 0, 1]
    turned = cosine < np.cos(_MAX_TURN) * np.hypot(cosine, sine)
    return maps[~(stretched | zoomed | turned)]


def _areas(maps: Float[np.ndarray, "T 2 3"]) -> Float[np.ndarray, " T"]:
    """Determinants of the linear parts: the area that a unit square becomes."""
    return maps[:, 0, 0] * maps[:, 1, 1] - maps[:, 0, 1] * maps[:, 1, 0]
