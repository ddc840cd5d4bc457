"""Geometric verification: one affine map that explains the matches of two images."""

import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from delf_jax.ops import LocalFeatures
from delf_jax.retrieval.matching import match_descriptors

# Maps between two upright photos of a building: beyond these bounds a fit is an
# accident. A square does not come out longer than 3 to 1, sizes differ by a factor of
# 8 at most, nothing is mirrored and nothing turned by more than 45 degrees (neither
# DELF nor DELG would recognise it). On real photos the last bound alone lowers the
# inliers that unrelated pairs reach from 7 to 6, of true pairs none.
_MAX_STRETCH = 3.0
_MAX_ZOOM = 8.0
_MAX_TURN = np.pi / 4
# Standard deviation across the line that fits inliers best, in thresholds.
_NARROWEST = 0.25
# Sampling: triples per round, maps refined per round, and the thresholds (relative) of
# the refinements one after the other: wide first, to gather what a rough map misses.
_CHUNK = 256
_REFINED = 4
_WIDENINGS = (2.0, 1.5, 1.0)


class Geometry(NamedTuple):
    """An affine map, index image to query image, and the matches that obey it.

    affine: applied to (y, x, 1). All NaN where no map was found.
    inliers: which of the matches obey it; none where no map was found.
    """

    affine: Float[np.ndarray, "2 3"]
    inliers: Bool[np.ndarray, " P"]


class PairMatch(NamedTuple):
    """What two images have in common.

    matches: (query feature, index feature) with similar descriptors.
    affine: maps (y, x, 1) of the index image to the query image; NaN if none does.
    inliers: matches that obey `affine`, at most one at any place of either image:
      their number is the score of the pair.
    """

    matches: Int[np.ndarray, "P 2"]
    affine: Float[np.ndarray, "2 3"]
    inliers: Bool[np.ndarray, " P"]


def verify_pair(
    query: LocalFeatures,
    index: LocalFeatures,
    *,
    max_distance: float | None = None,
    ratio: float | None = None,
    mutual: bool = True,
    threshold: float = 20.0,
    spacing: float | None = None,
    use_scales: bool = True,
    trials: int = 1000,
    seed: int = 0,
) -> PairMatch:
    """Matches of two images by descriptors, and those of them that geometry confirms.

    `spacing`, in pixels, is how far apart two inliers must be to count twice (default:
    half the threshold). The other arguments are those of match_descriptors and
    estimate_affine; `use_scales` adds the one-match hypotheses.
    """
    matches = match_descriptors(
        query.descriptors,
        index.descriptors,
        max_distance=max_distance,
        ratio=ratio,
        mutual=mutual,
    )
    query_locations = np.asarray(query.locations)[matches[:, 0]]
    index_locations = np.asarray(index.locations)[matches[:, 1]]
    affine, inliers = estimate_affine(
        query_locations,
        index_locations,
        threshold=threshold,
        seed=seed,
        trials=trials,
        query_scales=np.asarray(query.scales)[matches[:, 0]] if use_scales else None,
        index_scales=np.asarray(index.scales)[matches[:, 1]] if use_scales else None,
    )
    if inliers.any():
        errors = residuals(affine, query_locations, index_locations)
        inliers = inliers & keep_distinct(
            query_locations,
            index_locations,
            np.where(inliers, errors, np.inf),
            spacing=threshold / 2 if spacing is None else spacing,
        )
    return PairMatch(matches, affine, inliers)


def estimate_affine(
    query_locations: Float[np.ndarray, "P 2"],
    index_locations: Float[np.ndarray, "P 2"],
    *,
    threshold: float,
    seed: int = 0,
    trials: int = 1000,
    confidence: float = 0.999,
    query_scales: Float[np.ndarray, " P"] | None = None,
    index_scales: Float[np.ndarray, " P"] | None = None,
) -> Geometry:
    """The plausible affine map that most matches obey (RANSAC with refinement).

    The result depends neither on the order of the matches nor on global random state.
    Fewer than three matches, or inliers on one line or in one spot, give no map.

    Args:
      query_locations, index_locations: (y, x) of the two ends of each match.
      threshold: largest error of an inlier, in pixels of the image that shows the
        scene smaller. Coarse features (DELF, a cell every 16 pixels) need about 20,
        keypoints 5 to 10.
      seed: of the sampled triples, see `pair_seed`.
      trials: most triples to sample; sampling stops earlier once a better map is
        unlikely at the given confidence.
      query_scales, index_scales: feature scales. With them each match alone proposes
        a zoom and a shift, which finds maps among few inliers; those are tried first.
    """
    count = len(query_locations)
    nothing = Geometry(np.full((2, 3), np.nan), np.zeros(count, bool))
    if count < 3:
        return nothing
    # In a canonical order the sampled triples do not depend on the order given.
    order = np.lexsort((*np.transpose(index_locations), *np.transpose(query_locations)))
    query = np.asarray(query_locations, np.float64)[order]
    index = np.asarray(index_locations, np.float64)[order]
    query_centre, index_centre = query.mean(axis=0), index.mean(axis=0)
    matches = _Matches.centred(query - query_centre, index - index_centre, threshold)

    best, score = None, 0.0
    if query_scales is not None and index_scales is not None:
        zooms = (np.asarray(query_scales) / np.asarray(index_scales))[order]
        best, score = _improve(best, score, _maps_of_zooms(matches, zooms), matches)
    triples = np.random.default_rng(seed).integers(count, size=(trials, 3))
    for start in range(0, trials, _CHUNK):
        if start >= _trials_needed(score / count, confidence):
            break
        maps = _maps_of_triples(matches, triples[start : start + _CHUNK])
        best, score = _improve(best, score, maps, matches)
    if best is None:
        return nothing
    inliers = _scores(best[None], matches)[0] > 0
    if not (
        _spread_out(matches.query[inliers], threshold)
        and _spread_out(matches.index[inliers], threshold)
    ):
        return nothing
    best[:, 2] += query_centre - best[:, :2] @ index_centre
    unsorted = np.empty(count, bool)
    unsorted[order] = inliers
    return Geometry(best, unsorted)


def residuals(
    affine: Float[np.ndarray, "2 3"],
    query_locations: Float[np.ndarray, "P 2"],
    index_locations: Float[np.ndarray, "P 2"],
) -> Float[np.ndarray, " P"]:
    """Distances, in pixels of the query image, between mapped and matched locations."""
    mapped = index_locations @ affine[:, :2].T + affine[:, 2]
    return np.linalg.norm(mapped - query_locations, axis=1)


def keep_distinct(
    query_locations: Float[np.ndarray, "P 2"],
    index_locations: Float[np.ndarray, "P 2"],
    errors: Float[np.ndarray, " P"],
    *,
    spacing: float,
) -> Bool[np.ndarray, " P"]:
    """The match of least error in each cell of either image; never an infinite one.

    A window seen at seven scales is one piece of evidence, not seven or forty-nine.
    Cells are squares of side `spacing`, in pixels.
    """
    kept = np.flatnonzero(np.isfinite(errors))
    kept = kept[np.lexsort((kept, errors[kept]))]
    for locations in (query_locations, index_locations):
        cells = np.floor(np.asarray(locations)[kept] / spacing).astype(np.int64)
        _, first = np.unique(cells, axis=0, return_index=True)
        kept = kept[np.sort(first)]
    distinct = np.zeros(len(errors), bool)
    distinct[kept] = True
    return distinct


def pair_seed(query_id: str, index_id: str) -> int:
    """A seed that the same two image ids give in every process."""
    return zlib.crc32(f"{query_id}\n{index_id}".encode())


class _Matches(NamedTuple):
    """Centred matches: as points, as moments for fits, as a matrix for residuals."""

    query: Float[np.ndarray, "P 2"]
    index: Float[np.ndarray, "P 2"]
    squares: Float[np.ndarray, "P 9"]
    products: Float[np.ndarray, "P 6"]
    columns: Float[np.ndarray, "5 P"]
    threshold: float

    @classmethod
    def centred(cls, query, index, threshold):
        ones = np.ones((len(index), 1))
        homogeneous = np.concatenate([index, ones], axis=1)
        return cls(
            query=query,
            index=index,
            squares=np.einsum("pi,pj->pij", homogeneous, homogeneous).reshape(-1, 9),
            products=np.einsum("pi,pj->pij", homogeneous, query).reshape(-1, 6),
            columns=np.concatenate([homogeneous, query], axis=1).T.astype(np.float32),
            threshold=threshold,
        )


def _improve(
    best: Float[np.ndarray, "2 3"] | None,
    score: float,
    maps: Float[np.ndarray, "T 2 3"],
    matches: _Matches,
) -> tuple[Float[np.ndarray, "2 3"] | None, float]:
    """The better of the best map so far and the best of the new ones, refined.

    The scores of all maps are of one kind: near misses count less than exact hits.
    """
    if not len(maps):
        return best, score
    totals = _scores(maps, matches).sum(axis=1)
    leaders = np.argsort(-totals, kind="stable")[:_REFINED]
    leaders = leaders[totals[leaders] > 0.5 * score]
    maps, totals = maps[leaders], totals[leaders]
    for widening in _WIDENINGS:
        if len(maps) and totals[0] > score:
            best, score = maps[0], float(totals[0])
        maps = _fit(maps, matches, widening)
        totals = _scores(maps, matches).sum(axis=1)
        order = np.argsort(-totals, kind="stable")
        maps, totals = maps[order], totals[order]
    if len(maps) and totals[0] > score:
        best, score = maps[0], float(totals[0])
    return best, score


def _scores(
    maps: Float[np.ndarray, "T 2 3"], matches: _Matches, widening: float = 1.0
) -> Float[np.ndarray, "T P"]:
    """1 for a match that a map hits exactly, falling to 0 at the threshold.

    The threshold holds in both images: where the index image shows the scene larger,
    its pixels are worth less in the query image.
    """
    count = len(maps)
    rows = np.empty((2, count, 5), np.float32)
    rows[:, :, :3] = maps.transpose(1, 0, 2)
    rows[:, :, 3:] = -np.eye(2)[:, None, :]
    errors = (rows.reshape(2 * count, 5) @ matches.columns).reshape(2, count, len(matches.query))
    np.square(errors, out=errors)
    squares = errors[0]
    squares += errors[1]
    areas = np.abs(_areas(maps))
    limits = (matches.threshold * widening) ** 2 * np.minimum(areas, 1)
    squares *= (-1 / limits[:, None]).astype(np.float32)
    squares += 1
    return np.maximum(squares, 0, out=squares)


def _fit(
    maps: Float[np.ndarray, "T 2 3"], matches: _Matches, widening: float
) -> Float[np.ndarray, "K 2 3"]:
    """Least-squares maps of the inliers of each map, those that are plausible."""
    weights = (_scores(maps, matches, widening) > 0).astype(np.float64)
    squares = (weights @ matches.squares).reshape(-1, 3, 3)
    products = (weights @ matches.products).reshape(-1, 3, 2)
    # A touch of damping: collinear inliers give an implausible map, not an error.
    damping = 1e-9 * np.trace(squares, axis1=1, axis2=2) + 1e-30
    squares += damping[:, None, None] * np.eye(3)
    return _plausible(np.linalg.solve(squares, products).transpose(0, 2, 1))


def _maps_of_triples(
    matches: _Matches, triples: Int[np.ndarray, "T 3"]
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
    return _plausible(_through(sides @ inverse, query[:, 0], index[:, 0]))


def _maps_of_zooms(
    matches: _Matches, zooms: Float[np.ndarray, " P"]
) -> Float[np.ndarray, "K 2 3"]:
    """The plausible ones among the maps of single matches, by scale and position."""
    linear = zooms[:, None, None] * np.eye(2)
    return _plausible(_through(linear, matches.query, matches.index))


def _through(
    linear: Float[np.ndarray, "T 2 2"],
    query: Float[np.ndarray, "T 2"],
    index: Float[np.ndarray, "T 2"],
) -> Float[np.ndarray, "T 2 3"]:
    """Maps with the linear part given that take `index` to `query`."""
    shift = query - np.einsum("tij,tj->ti", linear, index)
    return np.concatenate([linear, shift[:, :, None]], axis=2)


def _plausible(maps: Float[np.ndarray, "T 2 3"]) -> Float[np.ndarray, "K 2 3"]:
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


def _trials_needed(share: float, confidence: float) -> float:
    """Triples to draw until one has inliers alone, with the confidence given."""
    good = np.clip(share, 1e-6, 1 - 1e-6) ** 3
    return np.log1p(-confidence) / np.log1p(-good)


def _spread_out(points: Float[np.ndarray, "K 2"], threshold: float) -> bool:
    """Whether points are no mere spot or line: their narrow side is clearly wide."""
    if len(points) < 3:
        return False
    narrow = np.linalg.eigvalsh(np.cov(points.T, bias=True))[0]
    return bool(narrow > (_NARROWEST * threshold) ** 2)
