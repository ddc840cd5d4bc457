"""Rankings from similarities, and from similarities and verified inliers together."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Real

# About as many inliers as unrelated photos reach by chance.
NOISE = 8
# So many inliers are no evidence, however few features there are; nor are fewer.
FEWEST = 6
# So many candidates are a background of their own.
_ENOUGH = 30
# Photos compared in the searches of `Calibration.surprise`.
_SEARCHED = 100


class Calibration(NamedTuple):
    """What inliers and similarities are worth as evidence that photos show one place.

    Fitted to photos whose truth is known, by evaluation/calibration.py. Inliers count
    by how far they stand out among those of the other candidates of the query, most of
    which have nothing to do with it: see `deviations`.
    """

    share: float
    """of the pairs that show one place, those that inliers tell from the others"""
    slope: float
    """of the log-likelihood ratio of those, over deviations"""
    middle: float
    """deviation at which such a pair and an unrelated one are as likely"""
    most: float
    """log-likelihood ratio at which it stays: more than the fit has seen"""
    background: tuple[int, ...]
    """inliers of unrelated pairs, some quantiles: they stand beside few candidates"""
    by_chance: tuple[int, int]
    """as of `VerificationSettings`"""
    surprise: tuple[float, float]
    """deviations that 1 % exceed, as `by_chance`"""
    similarity: float = 1.0
    """weight of how rare a similarity is among those of the candidates; 1: as if
    nothing but its rarity were known"""
    threshold: float = 20.0
    """pixels; of the verification that counted the inliers"""


def top_k(
    similarities: Float[np.ndarray, "*Q M"], k: int | None = None
) -> Int[np.ndarray, "*Q K"]:
    """Ids of the k most similar, best first; equals in the order of their ids.

    `k` of None, or of M and more, ranks all.
    """
    similarities = np.asarray(similarities)
    size = similarities.shape[-1]
    k = size if k is None else min(k, size)
    if 0 < k < size // 8 and similarities.ndim == 1:
        # Sorting the few that can be among the first k, ties at the border included.
        border = np.partition(similarities, -k)[-k]
        ids = np.flatnonzero(similarities >= border)
        order = ids[np.argsort(-similarities[ids], kind="stable")]
    else:
        order = np.argsort(-similarities, axis=-1, kind="stable")
    return order[..., :k].astype(np.int32)


def rerank(
    candidates: Int[np.ndarray, " K"],
    similarities: Float[np.ndarray, " K"],
    inliers: Int[np.ndarray, " K"],
    *,
    noise: int = NOISE,
    weight: float = 2.0,
    calibration: Calibration | None = None,
) -> Int[np.ndarray, " K"]:
    """The candidates, best first, by inliers and similarity together.

    Args:
      candidates: image ids, in any order.
      similarities: of the global descriptors, cosines in [-1, 1].
      weight: of the evidence, log2(1 + inliers / noise), against the cosine. At 2,
        twice the inliers outweigh any difference of cosines once they exceed the
        noise; below it both count. Infinite: inliers decide alone, similarity
        breaks ties, as in the released code.
      calibration: weighs both by `log_odds` instead, unless the weight is infinite.
    """
    inliers = np.asarray(inliers, np.float64)
    similarities = np.asarray(similarities, np.float64)
    if np.isinf(weight):
        order = np.lexsort((candidates, -similarities, -inliers))
    elif calibration is not None:
        order = np.lexsort((candidates, -log_odds(similarities, inliers, calibration)))
    else:
        evidence = np.log2(1 + inliers / noise)
        order = np.lexsort((candidates, -(similarities + weight * evidence)))
    return np.asarray(candidates)[order].astype(np.int32)


def log_odds(
    similarities: Float[np.ndarray, " K"],
    inliers: Real[np.ndarray, " K"],
    calibration: Calibration,
) -> Float[np.ndarray, " K"]:
    """Evidence that each candidate of a query shows its place, in nats."""
    return calibration.similarity * rarity(similarities) + log_likelihood_ratio(
        deviations(inliers, calibration.background), calibration
    )


def rarity(similarities: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """How rarely an unrelated photo is as similar, against the median: -log of shares.

    The upper tail of similarities of unrelated photos is taken for exponential; its
    scale is read from the lower half of the list, where most photos are unrelated. So
    neither the unit of the similarities matters nor how much alike all photos are.
    """
    if not len(similarities):
        return np.zeros(0)
    least, median = similarities.min(), np.median(similarities)
    # Half of an exponential tail lies within log 2 scales. ASMK has many zeros.
    scale = (median - least) / np.log(2) or similarities.mean() - least or 1.0
    return (similarities - median) / scale


def deviations(
    inliers: Real[np.ndarray, " K"], background: tuple[int, ...]
) -> Float[np.ndarray, " K"]:
    """How far the inliers of candidates stand out from those that are by chance.

    Chance differs from query to query: rows of equal windows agree with each other, and
    in small photos a threshold in pixels admits more. So its level and spread are those
    of the candidates themselves, in log(1 + inliers).
    """
    level, spread = _by_chance(inliers, background)
    return (_log_count(inliers) - level) / spread


def log_likelihood_ratio(
    deviations: Float[np.ndarray, "*K"], calibration: Calibration
) -> Float[np.ndarray, "*K"]:
    """Log of how much likelier a pair of one place deviates so than an unrelated one.

    Level where inliers are no more than chance, for there they say nothing more; then
    rising, and at last level again.
    """
    told = calibration.slope * (deviations - calibration.middle)
    told += np.log(calibration.share)
    return np.minimum(
        np.logaddexp(np.log1p(-calibration.share), told), calibration.most
    )


def most_by_chance(
    inliers: Real[np.ndarray, " K"], calibration: Calibration, least: int = 0
) -> int:
    """Inliers that the best of unrelated candidates like these exceeds in 1 % of cases.

    What one in n exceeds is taken to grow with the logarithm of n.

    Args:
      inliers: of all candidates, of which most are unrelated.
      least: fewer are never evidence.
    """
    level, spread = _by_chance(inliers, calibration.background)
    pair, search = calibration.surprise
    share = np.log(max(len(inliers), 1)) / np.log(_SEARCHED)
    deviation = pair + share * (search - pair)
    return max(least, int(np.expm1(level + spread * deviation)))


def _by_chance(
    inliers: Real[np.ndarray, " K"], background: tuple[int, ...]
) -> tuple[float, float]:
    """Level and spread of the logarithms, of the lower half: the upper is related.

    The spread has that of counts themselves in it, which vary by their square root.
    """
    few = len(inliers) < _ENOUGH
    logs = _log_count(np.concatenate([inliers, background]) if few else inliers)
    level = np.median(logs)
    lower = logs[logs <= level] - level
    counted = np.exp(-level)  # the variance of log(1 + n), about 1 / (1 + n)
    return float(level), float(np.sqrt(np.mean(lower**2) + counted))


def _log_count(inliers: Real[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    return np.log1p(np.maximum(inliers, FEWEST))
