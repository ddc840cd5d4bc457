"""From the nearest neighbours of a photo to the landmark that it shows."""

import numpy as np
from jaxtyping import Float, Int

# Neighbours that vote, as in the 2020 challenge's baseline and winning method [OOD].
VOTERS = 3
# So many inliers are as good as any larger number; [DELG] and its users take 30 to 70.
ENOUGH_INLIERS = 70
# Images of no landmark whose similarities are averaged [OOD].
NON_LANDMARKS = 5


def local_score(inliers: Int[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """The share of enough inliers, to be added to the cosine, as DELG's users do."""
    return np.minimum(inliers, ENOUGH_INLIERS) / ENOUGH_INLIERS


def penalty(similarities: Float[np.ndarray, "N K"]) -> Float[np.ndarray, " N"]:
    """How much images look like ones of no landmark: the mean over the most similar.

    It is taken off the score of training images, before they vote, and off the
    confidence of test images, after it [OOD]. 0 where nothing was compared.
    """
    if not similarities.shape[1]:
        return np.zeros(len(similarities), np.float32)
    return similarities.mean(axis=1)


def vote(
    landmarks: Int[np.ndarray, " K"],
    scores: Float[np.ndarray, " K"],
    voters: int = VOTERS,
) -> tuple[int, float]:
    """(landmark, confidence): the largest sum of scores among the best neighbours.

    Neighbours with equal scores vote in the order given; of landmarks with equal sums
    the smaller id wins. K must be 1 or more.
    """
    best = np.argsort(-np.asarray(scores), kind="stable")[:voters]
    ids, places = np.unique(np.asarray(landmarks)[best], return_inverse=True)
    sums = np.bincount(places, weights=np.asarray(scores, np.float64)[best])
    winner = int(np.argmax(sums))
    return int(ids[winner]), float(sums[winner])
