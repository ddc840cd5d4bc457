"""Geometric verification: one affine map that explains the matches of two images."""

import math
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from delf_jax.features import LocalFeatures
from delf_jax.retrieval import affine
from delf_jax.retrieval.matching import match_descriptors
from delf_jax.retrieval.ranking import Calibration


class VerificationSettings(NamedTuple):
    """How two photos are compared, and what that is worth.

    The defaults are for DELF features, a cell every 16 pixels; for SIFT: ratio=0.9,
    threshold=10.0, spacing=5.0.
    """

    max_distance: float | None = None
    """as of `match_descriptors`, like the next two"""
    ratio: float | None = 0.95
    """instead of a largest distance: with delg_tiny, photos of landmarks kept out of
    its training rank better, and unrelated ones share 7 inliers"""
    mutual: bool = True
    threshold: float = 20.0
    """pixels; as of `estimate_affine`"""
    spacing: float | None = 16.0
    """pixels that two inliers must be apart to count twice; None: all count"""
    use_scales: bool = True
    """each match alone proposes a map, by its scales"""
    trials: int = 2000
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
    threshold=20.0,
    spacing=None,
    use_scales=False,
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

# Standard deviation across the line that fits inliers best, in thresholds.
_NARROWEST = 0.25
# Triples that are tried first; then as many as the best map so far makes necessary, all
# together, for where two photos have nothing in common it is all of them, and small
# rounds would cost more than what they try.
_ROUND = 256
# Photos verified in the searches of `by_chance`, and local features of each.
_CALIBRATED_PHOTOS, _CALIBRATED_FEATURES = 100, 1000
# So many inliers are no evidence, however few features there are.
FEWEST = 6


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
) -> PairMatch:
    """Matches of two images by descriptors, and those of them that geometry confirms.

    The estimate is seeded by `pair_seed`.
    """
    matches = match_descriptors(
        query.descriptors,
        index.descriptors,
        max_distance=settings.max_distance,
        ratio=settings.ratio,
        mutual=settings.mutual,
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
    trials: int = 2000,
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
      trials: most triples to sample; fewer once a better map is unlikely.
      query_scales, index_scales: feature scales. With them each match alone proposes
        a zoom and a shift, which finds maps among few inliers; those are tried first.
    """
    count = len(query_locations)
    if count < 3:
        return _no_map(count)
    zooms = None
    if query_scales is not None and index_scales is not None:
        zooms = np.asarray(query_scales) / np.asarray(index_scales)
    # In a canonical order the sampled triples do not depend on the order given.
    keys = [*np.transpose(index_locations), *np.transpose(query_locations)]
    order = np.lexsort(keys if zooms is None else [zooms, *keys])
    query = np.asarray(query_locations, np.float64)[order]
    index = np.asarray(index_locations, np.float64)[order]
    query_centre, index_centre = query.mean(axis=0), index.mean(axis=0)
    matches = affine.prepare_matches(
        query - query_centre, index - index_centre, threshold
    )
    best, score = None, 0.0
    if zooms is not None:
        proposed = affine.maps_of_zooms(matches, zooms[order])
        best, score = affine.improve(best, score, proposed, matches)
    triples = np.random.default_rng(seed).integers(count, size=(trials, 3))
    start, stop = 0, min(_ROUND, trials)
    while start < stop:
        proposed = affine.maps_of_triples(matches, triples[start:stop])
        best, score = affine.improve(best, score, proposed, matches)
        # Until one triple has inliers alone, with the confidence given.
        good = np.clip(score / count, 1e-6, 1 - 1e-6) ** 3
        needed = min(trials, np.log1p(-confidence) / np.log1p(-good))
        start, stop = stop, math.ceil(needed)
    if best is None:
        return _no_map(count)
    inliers = affine.score_matches(best[None], matches)[0] > 0
    ends = matches.query[inliers], matches.index[inliers]
    if not all(_spread_out(points, threshold) for points in ends):
        return _no_map(count)
    shift = best[:, 2] + query_centre - best[:, :2] @ index_centre
    unsorted = np.empty(count, bool)
    unsorted[order] = inliers
    return Geometry(np.column_stack([best[:, :2], shift]), unsorted)


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


def pair_seed(query: LocalFeatures, index: LocalFeatures) -> int:
    """A seed of the features of two images: whatever their names, order or process."""
    seed = 0
    for features in (query, index):
        locations = np.sort(np.asarray(features.locations, np.float64), axis=0)
        seed = zlib.crc32(locations.tobytes(), seed)
    return seed


def _no_map(matches: int) -> Geometry:
    return Geometry(np.full((2, 3), np.nan), np.zeros(matches, bool))


def _spread_out(points: Float[np.ndarray, "K 2"], threshold: float) -> bool:
    """Whether points are no mere spot or line: their narrow side is clearly wide."""
    if len(points) < 3:
        return False
    narrow = np.linalg.eigvalsh(np.cov(points.T, bias=True))[0]
    return bool(narrow > (_NARROWEST * threshold) ** 2)
