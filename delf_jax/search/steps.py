"""The steps of pipelines: query expansion, augmentation, scoring again, diffusion.

Each step takes the ranked lists that the steps before it left, and leaves better ones.
The lists may hold the first images of each query or all of the index.
"""

import functools
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from delf_jax.index import neighbour_graph
from delf_jax.retrieval import nearest, ranking, reranking
from delf_jax.retrieval.nearest import Best
from delf_jax.search.learned import LEARNED

# Of the global descriptors SuperGlobal looks at the first 400 [SuperGlobal], and so
# does k-reciprocal reranking here, whose cost grows with the square of their number.
_FIRST = 400
# A reranker compares as many as verification does.
_COMPARED = 100


class SearchedIndex(Protocol):
    """Global descriptors of an index."""

    def read(self, ids: Int[np.ndarray, " K"]) -> Float[np.ndarray, "K G"]: ...

    def find(self, queries: Float[np.ndarray, "Q G"]) -> Best:
        """The most similar images of each query, best first; of equals the lower id."""
        ...


class DenseIndex(NamedTuple):
    """Global descriptors in memory, all of which are compared with each query."""

    descriptors: Float[np.ndarray, "M G"]
    own: Int[np.ndarray, " Q"]
    """id of each query where it is no answer to itself; else -1"""
    candidates: Sequence[Int[np.ndarray, " _"]] | None = None
    """of each query, the only answers; None: all are"""
    graph: pathlib.Path | None = None
    """file that keeps the neighbour graph of the index, if it is of the photos alone"""

    def read(self, ids: Int[np.ndarray, " K"]) -> Float[np.ndarray, "K G"]:
        return self.descriptors[ids]

    def find(self, queries: Float[np.ndarray, "Q G"]) -> Best:
        return self.rank(queries @ self.descriptors.T)

    def rank(self, similarities: Float[np.ndarray, "Q M"]) -> Best:
        """Lists by similarities, which are changed: -inf for what is no answer."""
        queries = np.flatnonzero(self.own >= 0)
        similarities[queries, self.own[queries]] = -np.inf
        if self.candidates is None:
            ids = ranking.top_k(similarities)
            return Best(np.take_along_axis(similarities, ids, axis=1), ids)
        longest = max(map(len, self.candidates), default=0)
        best = nearest.nothing_yet(len(similarities), longest)
        for query, candidates in enumerate(map(np.sort, self.candidates)):
            row = similarities[query, candidates]
            order = ranking.top_k(row)
            best.similarities[query, : len(order)] = row[order]
            best.ids[query, : len(order)] = candidates[order]
        return best


class RankingState(NamedTuple):
    """What a step starts from: global descriptors and the lists so far."""

    queries: Float[np.ndarray, "Q G"]
    best: Best
    """similarity -inf for what is no answer: a query itself, what is no candidate"""
    index: SearchedIndex  # type: ignore[assignment]  # hides tuple.index
    evidence: Callable[[int, Int[np.ndarray, " K"]], Float[np.ndarray, " K"]] | None = (
        None
    )
    """what a reranker finds in a query and some images, by their places and ids"""


def follow(pipeline: Iterable[str], state: RankingState) -> RankingState:
    """What the steps of a pipeline leave, verification aside."""
    for step in pipeline:
        if step in STEPS:
            change, options = STEPS[step]
            state = change(state, **options)
        elif step == LEARNED:
            state = _add_evidence(state)
    return state


def _add_evidence(state: RankingState) -> RankingState:
    """The first of each query by similarity and evidence; the rest follow."""
    if state.evidence is None:
        raise TypeError("this step needs a reranker")
    lists = []
    for query, (similarities, ids) in enumerate(zip(*state.best, strict=True)):
        chosen = np.isfinite(similarities) & (np.arange(len(ids)) < _COMPARED)
        scores = similarities[chosen] + state.evidence(query, ids[chosen])
        lists.append(_promote(similarities, ids, chosen, scores))
    return state._replace(best=_stack(lists))


def _expand(state: RankingState, count: int, alpha: float) -> RankingState:
    queries = []
    for query, similarities, ids in zip(state.queries, *state.best, strict=True):
        images = state.index.read(ids[:count][np.isfinite(similarities[:count])])
        order = np.arange(len(images), dtype=np.int32)[None]
        queries.append(
            reranking.expand_queries(query[None], images, order, alpha=alpha)
        )
    expanded = np.concatenate(queries)
    return state._replace(queries=expanded, best=state.index.find(expanded))


def _augment(state: RankingState, count: int, alpha: float) -> RankingState:
    index = _in_memory(state)
    rows = reranking.augment_index(index.descriptors, count=count, alpha=alpha)
    index = index._replace(descriptors=rows, graph=None)
    return state._replace(best=index.find(state.queries), index=index)


def _rescore(
    state: RankingState,
    score: Callable[..., Float[np.ndarray, " K"]],
    first: int,
    **options,
) -> RankingState:
    """The first of each query scored again by the descriptors; the rest follow."""
    lists = []
    for query, similarities, ids in zip(state.queries, *state.best, strict=True):
        chosen = np.isfinite(similarities) & (np.arange(len(ids)) < first)
        scores = score(query, state.index.read(ids[chosen]), **options)
        lists.append(_promote(similarities, ids, chosen, scores))
    return state._replace(best=_stack(lists))


def _diffuse(state: RankingState, graph: dict[str, Any], **options) -> RankingState:
    index = _in_memory(state)
    neighbours = neighbour_graph.stored_graph(index.graph, index.descriptors, **graph)
    lists = []
    for similarities, ids in zip(*state.best, strict=True):
        known = np.isfinite(similarities)
        row = np.full(len(index.descriptors), -np.inf, similarities.dtype)
        row[ids[known]] = similarities[known]
        scores = reranking.diffuse(neighbours, row, **options)[ids]
        reached = known & (scores > 0)
        lists.append(_promote(similarities, ids, reached, scores[reached]))
    return state._replace(best=_stack(lists))


def _in_memory(state: RankingState) -> DenseIndex:
    if not isinstance(state.index, DenseIndex):
        raise TypeError("this step compares all images of an index with each other")
    return state.index


def _promote(
    similarities: Float[np.ndarray, " K"],
    ids: Int[np.ndarray, " K"],
    chosen: Bool[np.ndarray, " K"],
    scores: Float[np.ndarray, " C"],
) -> tuple[Float[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """A list with some by their scores; below these the others, in the order they had.

    Of equal scores the lower id comes first.
    """
    scores = np.asarray(scores, np.float64)
    below = np.array(similarities, np.float64)
    if len(scores):
        below += min(0.0, scores.min()) - max(0.0, below.max()) - 1
    order = np.lexsort((ids[chosen], -scores))
    return (
        np.concatenate([scores[order], below[~chosen]]),
        np.concatenate([ids[chosen][order], ids[~chosen]]),
    )


def _stack(lists: Sequence[tuple[np.ndarray, np.ndarray]]) -> Best:
    similarities, ids = map(np.stack, zip(*lists, strict=True))
    return Best(similarities, ids)


# Steps by name: what they do, and with which numbers: those of their papers, except
# for how many photos average_qe and augmentation take: that is a choice made here.
STEPS: dict[str, tuple[Callable[..., RankingState], dict[str, Any]]] = {
    # [AQE]; so few because a photo that is wrong weighs as much as one that is right.
    "average_qe": (_expand, {"count": 3, "alpha": 0.0}),
    # [GeM] takes 50 of the Oxford and Paris photos.
    "alpha_qe": (_expand, {"count": 50, "alpha": 3.0}),
    "augmentation": (_augment, {"count": 10, "alpha": 3.0}),
    "superglobal": (
        functools.partial(_rescore, score=reranking.rerank_superglobal),
        {"first": _FIRST, "neighbours": 9, "beta": 0.15},
    ),
    "k_reciprocal": (
        functools.partial(_rescore, score=reranking.rerank_k_reciprocal),
        {"first": _FIRST, "neighbours": 20, "averaged": 6, "weight": 0.3},
    ),
    "diffusion": (
        _diffuse,
        {
            "graph": {"neighbours": 50, "gamma": 3.0},
            "neighbours": 10,
            "gamma": 3.0,
            "alpha": 0.99,
            "iterations": 20,
        },
    ),
}
# These compare all images of the index with each other; lists are enough for the rest.
WHOLE_INDEX = ("augmentation", "diffusion")
