"""Geometric verification: one affine map that explains the matches of two images."""

import math
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from delf_jax.features import LocalFeatures
from delf_jax.retrieval import affine
from delf_jax.retrieval.matching import (
    Directions,
    match_descriptors,
    principal_directions,
)
from delf_jax.retrieval.ranking import FEWEST, Calibration


class VerificationSettings(NamedTuple):
    """How two photos are compared, and what that is worth.

    The defaults are for DELF features, a cell every 16 pixels; for SIFT: ratio=0.9,
    threshold=10.0, spacing=5.0.
    """

    max_distance: float | None = None
    """as of `match_descriptors`, like the next two"""
    ratio: float | None = 0.95
    """instead of a largest distance: with delg_tiny of 0.1, photos of landmarks kept
    out of its training rank better, and unrelated ones share 7 inliers"""
    mutual: bool = True
    energy: float | None = 0.98
    """share of the squares of the query's descriptors; similar ones are looked for in
    the directions that hold it, see `principal_directions`; None: in all"""
    threshold: float = 20.0
    """pixels; as of `estimate_affine`; a model's calibration has its own"""
    spacing: float | None = 16.0
    """pixels that two inliers must be apart to count twice; None: all count"""
    use_scales: bool = False
    """each match alone proposes a map, by its scales; on real photos that finds nothing
    that pairs of matches do not"""
    trials: int = 1000
    min_matches: int = 3
    """fewer confirm nothing"""
    at_extraction_size: bool = True
    """in pixels of the photos as they were extracted, not of the files"""
    candidates: int = 100
    """so many of the first of a ranking are verified [DELG, section 4]"""
    weight: float = 2.0
    """of inliers against similarity, see `ranking.rerank`; infinite: inliers alone"""
    by_chance: tuple[int, int] = (14, 24)
    """inliers that 1 % exceed, of pairs of unrelated photos, and of searches whose
    hundred verified photos are unrelated; measured by benchmarks/calibration.py"""
    calibration: Calibration | None = None
    """in place of `weight`, for models that were calibrated"""


_ORIGINAL = VerificationSettings(
    max_distance=1.0,
    ratio=None,
    mutual=False,
    energy=None,
    threshold=20.0,
    spacing=None,
    trials=1000,
    min_matches=4,
    at_extraction_size=False,
    candidates=100,
    weight=float("inf"),
    by_chance=(63, 116),
)
# By name. "delg" and "d2r" have the numbers of the perform_retrieval.py of DELG and of
# Detect-to-Retrieve, which differ in these alone; `by_chance` is measured. Their RANSAC
# is this project's: seeded by the pair, refined, and bound to maps that a change of
# viewpoint can cause.
VERIFICATION = {
    "default": VerificationSettings(),
    "delg": _ORIGINAL,
    "d2r": _ORIGINAL._replace(max_distance=0.9, threshold=10.0, by_chance=(25, 46)),
}

# Standard deviation across the line that fits inliers best, in thresholds. Unrelated
# photos share rows of windows and small patches: this refuses the maps of 37 % of 600
# such pairs (0.25: 3 %), and of 331 true pairs none with more inliers than by chance.
_NARROWEST = 0.75
# Pairs that are drawn first; then as many as the best map so far makes necessary, all
# together, for where two photos have nothing in common it is all of them, and small
# rounds would cost more than what they try.
_ROUND = 64
# Of so few matches all pairs are tried at once.
_FEW = 100
# Pairs drawn for each map that is tried: of random ones a quarter are plausible.
_DRAWN = 4
# Locations are put in order by this sum of theirs, which no two on a grid share.
_KEYS = np.sqrt([2.0, 3.0, 5.0, 7.0])
# Photos verified in the searches of `by_chance`, and local features of each.
_CALIBRATED_PHOTOS, _CALIBRATED_FEATURES = 100, 1000


class Geometry(NamedTuple):
    """An affine map, index image to query image, and which matches obey it."""

    affine: Float[np.ndarray, "2 3"]
    """applied to (y, x, 1); all NaN where no map was found"""
    inliers: Bool[np.ndarray, " P"]


class PairMatch(NamedTuple):
    """What two images have in common."""

    matches: Int[np.ndarray, "P 2"]
    """(query feature, index feature) with similar descriptors"""
    affine: Float[np.ndarray, "2 3"]
    """maps (y, x, 1) of the index image to the query image; NaN if none does"""
    inliers: Bool[np.ndarray, " P"]
    """matches that obey `affine`, at most one at any place of either image: their
    number is the score of the pair"""


def verify_pair(
    query: LocalFeatures,
    index: LocalFeatures,
    settings: VerificationSettings = VERIFICATION["default"],
    directions: Directions | None = None,
) -> PairMatch:
    """Matches of two images by descriptors, and those of them that geometry confirms.

    The estimate is seeded by `pair_seed`.

    Args:
      directions: of this query and these settings, found once for many images; None:
        found here.
    """
    if directions is None:
        directions = principal_directions(query.descriptors, settings.energy)
    matches = match_descriptors(
        query.descriptors,
        index.descriptors,
        max_distance=settings.max_distance,
        ratio=settings.ratio,
        mutual=settings.mutual,
        directions=directions,
    )
    if len(matches) < max(settings.min_matches, 3):
        return PairMatch(matches, *_no_map(len(matches)))
    use_scales, (of_query, of_index) = settings.use_scales, matches.T
    query_locations = np.asarray(query.locations)[of_query]
    index_locations = np.asarray(index.locations)[of_index]
    found, inliers = estimate_affine(
        query_locations,
        index_locations,
        threshold=settings.threshold,
        seed=pair_seed(query, index),
        trials=settings.trials,
        query_scales=np.asarray(query.scales)[of_query] if use_scales else None,
        index_scales=np.asarray(index.scales)[of_index] if use_scales else None,
    )
    if settings.spacing and inliers.any():
        errors = residuals(found, query_locations, index_locations)
        errors = np.where(inliers, errors, np.inf)
        inliers = inliers & keep_distinct(
            query_locations, index_locations, errors, spacing=settings.spacing
        )
    return PairMatch(matches, found, inliers)


def most_by_chance(
    settings: VerificationSettings, features: float, compared: int = 1
) -> int:
    """Inliers that the best of so many unrelated photos exceeds in 1 % of all cases.

    Measured: they grow with the square root of the number of features. Few pairs share
    many, so that what one pair in n exceeds grows with the logarithm of n, and so does,
    with the number of photos, what the best of them exceeds.

    Args:
      features: local features of a photo, of two the geometric mean.
    """
    pair, search = settings.by_chance
    share = math.log(max(compared, 1)) / math.log(_CALIBRATED_PHOTOS)
    most = pair + share * (search - pair)
    return max(FEWEST, math.ceil(most * math.sqrt(features / _CALIBRATED_FEATURES)))


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
      seed: of the sampled pairs of matches, see `pair_seed`.
      trials: most maps to try; fewer once a better one is unlikely. A pair proposes
        one, unless it is none that a change of viewpoint could cause: of those, three
        are drawn for each that is tried.
      query_scales, index_scales: feature scales. With them each match alone proposes
        a zoom and a shift; those are tried first.
    """
    count = len(query_locations)
    if count < 3:
        return _no_map(count)
    ends = np.empty((count, 4))
    ends[:, :2], ends[:, 2:] = index_locations, query_locations
    zooms, keys = None, ends @ _KEYS
    if query_scales is not None and index_scales is not None:
        zooms = np.asarray(query_scales, np.float64) / index_scales
        keys += zooms
    # In a canonical order the sampled pairs do not depend on the order given.
    order = np.argsort(keys, kind="stable")
    ends = ends[order]
    centre = np.ones(count) @ ends / count
    matches = affine.prepare_matches(ends - centre, threshold)
    best = affine.Best()
    if zooms is not None:
        proposed = affine.maps_of_zooms(matches, zooms[order])
        best = affine.improve(best, proposed, matches)
    best = _sample(best, matches, seed, trials, confidence)
    if best.map is None or not _spread_out(matches.ends[best.inliers], threshold):
        return _no_map(count)
    found, inliers = best.map.copy(), np.empty(count, bool)
    found[:, 2] += centre[2:] - found[:, :2] @ centre[:2]
    inliers[order] = best.inliers
    return Geometry(found, inliers)


def _sample(
    best: affine.Best,
    matches: affine.Matches,
    seed: int,
    trials: int,
    confidence: float,
) -> affine.Best:
    """The best map: the one so far, or one that pairs of matches propose."""
    rng, count = np.random.default_rng(seed), len(matches.ends)
    most = min(_DRAWN * trials, max(_ROUND, count**2 // 2))
    start, stop = 0, most if count < _FEW else min(_ROUND, most)
    while start < stop:
        pairs = rng.integers(count, size=(2, stop - start))
        best = affine.improve(best, affine.maps_of_pairs(matches, pairs), matches)
        # Until one pair has inliers alone, with the confidence given.
        good = min(max(best.score / count, 1e-6), 1 - 1e-6) ** 2
        needed = min(most, math.log1p(-confidence) / math.log1p(-good))
        start, stop = stop, math.ceil(needed)
    return best


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
        cells = np.floor(np.asarray(locations)[kept] / spacing)
        # One complex number is told from others sooner than a row of two.
        _, first = np.unique(cells @ [1, 1j], return_index=True)
        kept = kept[np.sort(first)]
    distinct = np.zeros(len(errors), bool)
    distinct[kept] = True
    return distinct


def pair_seed(query: LocalFeatures, index: LocalFeatures) -> int:
    """A seed of the features of two images: whatever their names, order or process."""
    seed = 0
    for features in (query, index):
        y, x = np.asarray(features.locations, np.float64).T
        seed = zlib.crc32(np.sort(y * _KEYS[0] + x * _KEYS[1]).tobytes(), seed)
    return seed


def _no_map(matches: int) -> Geometry:
    return Geometry(np.full((2, 3), np.nan), np.zeros(matches, bool))


def _spread_out(ends: Float[np.ndarray, "K 4"], threshold: float) -> bool:
    """Whether matches are no mere spot or line in either image."""
    count = len(ends)
    if count < 3:
        return False
    ends = ends - np.ones(count) @ ends / count
    (a, b, *_), (_, c, *_), (*_, d, e), (*_, f) = (ends.T @ ends / count).tolist()
    narrow = min(
        (u + w) / 2 - math.hypot((u - w) / 2, v) for u, v, w in ((a, b, c), (d, e, f))
    )
    return narrow > (_NARROWEST * threshold) ** 2
