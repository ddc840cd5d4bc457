"""The steps of ways to rank: query expansion, augmentation, scoring again, diffusion.

Each step takes the similarities that the steps before it left, and leaves better ones.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax.index import neighbour_graph
from delf_jax.retrieval import ranking, reranking

# Of the global descriptors SuperGlobal looks at the first 400 [SuperGlobal], and so
# does k-reciprocal reranking here, whose cost grows with the square of their number.
_FIRST = 400


class RankingState(NamedTuple):
    """What a step starts from: global descriptors and the similarities so far."""

    queries: Float[np.ndarray, "Q G"]
    index: Float[np.ndarray, "M G"]
    similarities: Float[np.ndarray, "Q M"]
    """-inf for what is no answer: a query itself, what is no candidate"""
    graph: pathlib.Path | None = None
    """file that keeps the neighbour graph of the index, if it is of the photos alone"""


def compared(
    queries: Float[np.ndarray, "Q G"], index: Float[np.ndarray, "M G"]
) -> RankingState:
    """The similarities of other descriptors."""
    return RankingState(queries, index, queries @ index.T)


def mask_out(state: RankingState, left_out: Any) -> RankingState:
    """The state, changed in place, with no answer where `left_out` indexes."""
    state.similarities[left_out] = -np.inf
    return state


def _expand(state: RankingState, count: int, alpha: float) -> RankingState:
    queries = []
    for query, row in zip(state.queries, state.similarities, strict=True):
        best = ranking.top_k(row, count)
        best = best[np.isfinite(row[best])]
        queries.append(
            reranking.expand_queries(query[None], state.index, best[None], alpha=alpha)
        )
    return compared(np.concatenate(queries), state.index)._replace(graph=state.graph)


def _augment(state: RankingState, count: int, alpha: float) -> RankingState:
    index = reranking.augment_index(state.index, count=count, alpha=alpha)
    return compared(state.queries, index)


def _rescore(
    state: RankingState,
    score: Callable[..., Float[np.ndarray, " K"]],
    first: int,
    **options,
) -> RankingState:
    """The first of each query scored again by the descriptors; the rest follow."""
    rows = []
    for query, row in zip(state.queries, state.similarities, strict=True):
        best = ranking.top_k(row, first)
        best = best[np.isfinite(row[best])]
        rows.append(_placed(row, best, score(query, state.index[best], **options)))
    return state._replace(similarities=np.stack(rows))


def _diffuse(state: RankingState, graph: dict[str, Any], **options) -> RankingState:
    made = neighbour_graph.stored_graph(state.graph, state.index, **graph)
    rows = []
    for row in state.similarities:
        scores = reranking.diffuse(made, row, **options)
        reached = np.flatnonzero((scores > 0) & np.isfinite(row)).astype(np.int32)
        rows.append(_placed(row, reached, scores[reached]))
    return state._replace(similarities=np.stack(rows))


def _placed(
    row: Float[np.ndarray, " M"],
    ids: Int[np.ndarray, " K"],
    scores: Float[np.ndarray, " K"],
) -> Float[np.ndarray, " M"]:
    """The scores of some photos; below these the others, in the order they had."""
    row = np.array(row, np.float64)
    if len(ids):
        row += min(0.0, float(scores.min())) - max(0.0, float(row.max())) - 1
        row[ids] = scores
    return row


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
            **{"neighbours": 10, "gamma": 3.0, "alpha": 0.99, "iterations": 20},
        },
    ),
}
