"""Search among the images of [GLDv2]: as many as there are, in bounded memory."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax.gldv2.collection import Images, descriptors
from delf_jax.images import SizeBounds
from delf_jax.index import global_search
from delf_jax.progress import track
from delf_jax.retrieval import nearest
from delf_jax.retrieval.gldv2_metrics import LARGEST_RANK
from delf_jax.retrieval.nearest import Best
from delf_jax.retrieval.verification import VERIFICATION, VerificationSettings
from delf_jax.search import matching, steps
from delf_jax.search.matching import Verified
from delf_jax.search.pipeline import AGGREGATED, ALL_STEPS, Pipeline
from delf_jax.search.query import CANDIDATES
from delf_jax.search.steps import STEPS, RankingState

# Bytes of global descriptors that are looked at together.
MEMORY = 2**28
# Steps that can be taken among millions of images.
_NOT_HERE = (*AGGREGATED, "learned", *steps.WHOLE_INDEX)
ALLOWED = tuple(step for step in ALL_STEPS if step not in _NOT_HERE)


class StoredIndex(NamedTuple):
    """Global descriptors in a store, of which lists of the first are found."""

    images: Images
    length: int
    """of the lists"""
    progress: bool = False

    def read(self, ids: Int[np.ndarray, " K"]) -> Float[np.ndarray, "K G"]:
        return descriptors(self.images, ids)

    def find(self, queries: Float[np.ndarray, "Q G"]) -> Best:
        return find_nearest(self.images, queries, self.length, progress=self.progress)


def find_nearest(
    index: Images,
    queries: Float[np.ndarray, "Q G"],
    k: int,
    penalties: Float[np.ndarray, " N"] | None = None,
    *,
    memory: int = MEMORY,
    progress: bool = False,
) -> Best:
    """The k most similar images of each query, exactly: places in the index, in order.

    Penalties are taken off the similarities with each image of the index.
    """
    if penalties is not None:  # One more dimension, in which all queries are 1.
        queries = np.concatenate([queries, np.ones((len(queries), 1))], axis=1)
    queries = np.asarray(queries, np.float32)
    best = nearest.nothing_yet(len(queries), 0)
    with track("search", len(index.ids), progress=progress) as advance:
        size = max(1, memory // (4 * queries.shape[1]))
        for start in range(0, len(index.ids), size):
            part = slice(start, start + size)
            rows = descriptors(index, part)
            if penalties is not None:
                rows = np.column_stack([rows, -penalties[part].astype(np.float32)])
            held = global_search.from_array(rows, "float32")
            found = global_search.find_nearest(held, queries, k)
            found = found._replace(ids=found.ids + start)
            best = nearest.sort_best(nearest.join(best, found), k)
            advance(len(rows))
    return best


def rank(
    test: Images,
    index: Images,
    pipeline: Pipeline,
    bounds: SizeBounds,
    verification: VerificationSettings = VERIFICATION["default"],
    *,
    progress: bool = True,
) -> Iterator[list[str]]:
    """For each test image the first hundred images of the index, best first.

    Of equals the one that the index lists first comes first.
    """
    rescored = [STEPS[step][1].get("first", 0) for step in pipeline if step in STEPS]
    length = max([LARGEST_RANK, CANDIDATES, *rescored])
    searched = StoredIndex(index, length, progress)
    queries = descriptors(test)
    start = RankingState(queries, searched.find(queries), searched)
    best = steps.follow(pipeline, start).best
    count = CANDIDATES if pipeline[-1] == "verification" else 0
    verified = verify(test, index, best.ids[:, :count], bounds, progress)
    for similarities, ids, found in zip(*best, verified, strict=True):
        ranked = matching.rerank_verified(ids, similarities, found, verification)
        yield [index.ids[id] for id in ranked[:LARGEST_RANK].tolist()]


def verify(
    test: Images,
    index: Images,
    candidates: Int[np.ndarray, "Q K"],
    bounds: SizeBounds,
    progress: bool,
) -> Iterator[dict[int, Verified]]:
    """What geometry confirms of the candidates of each test image; K may be 0."""
    if not candidates.size:
        return itertools.repeat({}, len(test.ids))
    queries = map(test.image, range(len(test.ids)))
    return matching.verify(
        queries, list(candidates), index.image, bounds, progress=progress
    )
