"""Search among the images of [GLDv2]: as many as there are, in bounded memory."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax.files import InputError
from delf_jax.gldv2.collection import Images, descriptors
from delf_jax.index import global_search
from delf_jax.progress import track
from delf_jax.retrieval import nearest, ranking, reranking
from delf_jax.retrieval.gldv2_metrics import LARGEST_RANK
from delf_jax.retrieval.nearest import Best
from delf_jax.search import matching, pipeline
from delf_jax.search.query import CANDIDATES
from delf_jax.search.steps import STEPS

# Bytes of global descriptors that are looked at together.
MEMORY = 2**28
# Queries whose neighbours' descriptors are read together.
_TOGETHER = 256
# Ways that look at a query and its first candidates alone.
_RESCORES: dict[str, Callable[..., Float[np.ndarray, " K"]]] = {
    "superglobal": reranking.rerank_superglobal,
    "k_reciprocal": reranking.rerank_k_reciprocal,
}
_EXPANSIONS = ("average_qe", "alpha_qe")


class _State(NamedTuple):
    queries: Float[np.ndarray, "Q G"]
    best: Best
    """ids are places in the index"""


def parse_pipeline(text: str) -> tuple[str, ...]:
    """The steps of a way to rank, as of `ways`, that can be taken among millions."""
    parsed = pipeline.parse_pipelines(text)
    if len(parsed) > 1:
        raise InputError(f"--rerank={text}: name one way for one file of predictions")
    known = ("global", *_EXPANSIONS, *_RESCORES, "verification")
    for step in parsed[0]:
        if step not in known:
            raise InputError(
                f"--rerank: {step} compares all images of the index with each other; "
                f"here use {', '.join(known)}"
            )
    return parsed[0]


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

    penalties: taken off the similarities with each image of the index.
    """
    if penalties is not None:  # One more dimension, in which all queries are 1.
        queries = np.concatenate([queries, np.ones((len(queries), 1))], axis=1)
    queries = np.asarray(queries, np.float32)
    best = nearest.nothing_yet(len(queries), 0)
    with track("search", len(index.ids), progress=progress) as advance:
        for part in _parts(len(index.ids), 4 * queries.shape[1], memory):
            rows = descriptors(index, part)
            if penalties is not None:
                rows = np.column_stack([rows, -penalties[part].astype(np.float32)])
            found = global_search.find_nearest(
                global_search.from_array(rows, "float32"), queries, k
            )
            best = _merged(best, found._replace(ids=found.ids + part.start), k)
            advance(len(rows))
    return best


def rank(
    test: Images,
    index: Images,
    way: tuple[str, ...],
    max_image_size: int | None,
    *,
    progress: bool = True,
) -> Iterator[list[str]]:
    """For each test image the first hundred images of the index, best first.

    Of equals the one that the index lists first comes first.

    max_image_size: at extraction.
    """
    rescored = [STEPS[step][1]["first"] for step in way if step in _RESCORES]
    k = max([LARGEST_RANK, CANDIDATES, *rescored])
    queries = descriptors(test)
    state = _State(queries, find_nearest(index, queries, k, progress=progress))
    for step in way:
        if step in _EXPANSIONS:
            queries = _expanded(state, index, **STEPS[step][1])
            state = _State(queries, find_nearest(index, queries, k, progress=progress))
        elif step in _RESCORES:
            state = _rescored(state, index, step)
    best = state.best
    verified = way[-1] == "verification"
    total = len(test.ids) if verified else 0
    with track("verify", total, progress=progress) as advance:
        for place, (ids, values) in enumerate(
            zip(best.ids, best.similarities, strict=True)
        ):
            if verified:
                first = ids[:CANDIDATES]
                counts = count_inliers(test, place, index, first, max_image_size)
                ids = ranking.rerank(first, values[:CANDIDATES], counts)
                advance()
            yield [index.ids[id] for id in ids[:LARGEST_RANK].tolist()]


def count_inliers(
    test: Images,
    place: int,
    index: Images,
    ids: Int[np.ndarray, " K"],
    max_image_size: int | None,
) -> Int[np.ndarray, " K"]:
    """Verified matches of a test image with images of the index."""
    query = test.store[int(test.rows[place])]
    found = [
        matching.compare_features(query, index.store[int(row)], max_image_size).inliers
        for row in index.rows[ids]
    ]
    return np.array(found, np.int32)


def _parts(count: int, row_bytes: int, memory: int) -> Iterator[slice]:
    size = max(1, memory // row_bytes)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _merged(best: Best, more: Best, k: int) -> Best:
    values, ids = (
        np.concatenate(both, axis=1) for both in zip(best, more, strict=True)
    )
    order = nearest.order_best(values, ids, k)
    return Best(*(np.take_along_axis(each, order, axis=1) for each in (values, ids)))


def _expanded(
    state: _State, index: Images, count: int, alpha: float
) -> Float[np.ndarray, "Q G"]:
    found = []
    for start in range(0, len(state.queries), _TOGETHER):
        ids = state.best.ids[start : start + _TOGETHER, :count]
        known, places = np.unique(ids, return_inverse=True)
        images = descriptors(index, known)
        queries = state.queries[start : start + _TOGETHER]
        ranked = places.reshape(ids.shape).astype(np.int32)
        found.append(reranking.expand_queries(queries, images, ranked, alpha=alpha))
    return np.concatenate(found)


def _rescored(state: _State, index: Images, step: str) -> _State:
    """The first of each query scored again; those that are not follow, as they were."""
    options = dict(STEPS[step][1])
    first = options.pop("first")
    similarities = state.best.similarities.astype(np.float64)
    ids = state.best.ids.copy()
    for place, query in enumerate(state.queries):
        part = ids[place, :first]
        candidates = descriptors(index, part)
        scores = np.asarray(_RESCORES[step](query, candidates, **options), np.float64)
        order = np.lexsort((part, -scores))
        ids[place, :first] = part[order]
        similarities[place, :first] = scores[order]
        rest = similarities[place, first:]  # stays below, whatever the scores are.
        rest += scores.min() - rest.max(initial=0.0) - 1
    return state._replace(best=Best(similarities, ids))
