"""Which landmark test images of [GLDv2] show: a vote of their nearest training images.

The score of a training image is its cosine less its penalty, plus min(inliers, 70) / 70
where it is among the first, which are verified. The landmark with the largest sum of
scores among the three best wins, and this sum less the penalty of the test image is the
confidence. A penalty is the mean cosine to the five most similar images of no landmark.
The vote and the penalties are those of the 2020 challenge's winner [OOD], the inliers
those of its baseline with DELG.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from delf_jax.formats.datasets.gldv2 import Recognition
from delf_jax.gldv2 import retrieval_task
from delf_jax.gldv2.collection import Images, descriptors
from delf_jax.images import SizeBounds
from delf_jax.progress import track
from delf_jax.retrieval import voting

# Images whose similarities to images of no landmark are computed together.
_TOGETHER = 2**16


class Options(NamedTuple):
    """How test images are recognised."""

    voters: int = voting.VOTERS
    verified: int = 0
    """of the nearest training images"""


def recognise(
    test: Images,
    train: Images,
    options: Options,
    bounds: SizeBounds,
    non_landmarks: Images | None = None,
    *,
    progress: bool = True,
) -> Iterator[Recognition]:
    """The landmark of each test image, and how sure that is."""
    if train.landmarks is None:
        raise ValueError("training images need landmarks")
    labels, queries = train.landmarks, descriptors(test)
    train_penalties, test_penalties = None, np.zeros(len(test.ids))
    if non_landmarks is not None:
        train_penalties = _penalties(non_landmarks, train, progress)
        test_penalties = _penalties(non_landmarks, test, progress=False)
    k = max(options.voters, options.verified)
    best = retrieval_task.find_nearest(
        train, queries, k, train_penalties, progress=progress
    )
    verified = retrieval_task.verify(
        test, train, best.ids[:, : options.verified], bounds, progress
    )
    for similarities, ids, found, penalty in zip(
        *best, verified, test_penalties, strict=True
    ):
        inliers = np.array([each.inliers for each in found.values()], np.int32)
        scores = np.array(similarities, np.float64)
        scores[: len(inliers)] += voting.local_score(inliers)
        landmark, confidence = voting.vote(labels[ids], scores, options.voters)
        yield Recognition(landmark, confidence - float(penalty))


def _penalties(
    non_landmarks: Images, images: Images, progress: bool
) -> Float[np.ndarray, " N"]:
    found = []
    with track("non-landmarks", len(images.ids), progress=progress) as advance:
        for start in range(0, len(images.ids), _TOGETHER):
            rows = descriptors(images, slice(start, start + _TOGETHER))
            k = voting.NON_LANDMARKS
            best = retrieval_task.find_nearest(non_landmarks, rows, k)
            found.append(voting.penalty(best.similarities))
            advance(len(rows))
    return np.concatenate(found)
