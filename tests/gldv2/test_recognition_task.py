import numpy as np

from delf_jax.gldv2 import recognition_task
from delf_jax.gldv2.collection import Images
from delf_jax.images import SizeBounds
from delf_jax.ops import l2_normalize
from delf_jax.retrieval import voting
from tests.helpers.ranked_photos import Store


def drawn(rng, count):
    rows = np.array(l2_normalize(rng.normal(size=(count, 6)).astype(np.float32)))
    landmarks = rng.integers(0, 4, count)
    ids = [f"{place:016x}" for place in range(count)]
    return Images(ids, landmarks, Store(rows), np.arange(count)), rows


def test_it_is_a_vote_of_the_nearest_less_what_looks_like_no_landmark(rng):
    (test, queries), (train, index), (others, nothing) = (
        drawn(rng, count) for count in (8, 20, 7)
    )
    options = recognition_task.Options()

    def penalties(rows):
        best = np.sort(rows.astype(float) @ nothing.T, axis=1)[:, -5:]
        return best.mean(axis=1)

    cosines = queries.astype(float) @ index.T
    cases = [
        (None, cosines, np.zeros(8)),
        (others, cosines - penalties(index), penalties(queries)),
    ]
    for non_landmarks, scores, off in cases:
        found = recognition_task.recognise(
            test, train, options, SizeBounds(), non_landmarks, progress=False
        )
        for each, row, less in zip(found, scores, off, strict=True):
            landmark, confidence = voting.vote(train.landmarks, row)
            assert each.landmark_id == landmark
            np.testing.assert_allclose(each.score, confidence - less, atol=1e-5)
