"""Ways to rank: steps joined by "+", such as "alpha_qe+verification".

Each step takes the similarities that the steps before it left, and leaves better ones.
All ways start from "global", the similarities of global descriptors, unless they name
"asmk", those of ASMK*.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax import pairs, progress
from delf_jax.datasets import Protocol
from delf_jax.files import InputError
from delf_jax.ops import Features
from delf_jax.retrieval import ranking, reranking
from delf_jax.search import CANDIDATES
from delf_jax.store import FeatureStore

# Of the global descriptors SuperGlobal looks at the first 400 [SuperGlobal], and so
# does k-reciprocal reranking here, whose cost grows with the square of their number.
_FIRST = 400


class Collection(NamedTuple):
    """The features of a dataset, in the order of its lists."""

    queries: list[Features]
    store: FeatureStore
    rows: Int[np.ndarray, " M"]
    """of the photos of the index, in the store"""
    own: Int[np.ndarray, " Q"]
    """place of each query in the index where it is no answer to itself; else -1"""
    max_image_size: int | None
    """at extraction"""
    asmk: Float[np.ndarray, "Q M"] | None = None
    """similarities of ASMK*, if a way starts from them"""


class State(NamedTuple):
    """What a step starts from: global descriptors and the similarities so far."""

    queries: Float[np.ndarray, "Q G"]
    index: Float[np.ndarray, "M G"]
    similarities: Float[np.ndarray, "Q M"]
    """-inf for a query itself where it is no answer"""


def parse_ways(text: str) -> list[tuple[str, ...]]:
    """The steps of each way of a list such as "global,alpha_qe+verification"."""
    ways = [tuple(way.strip().split("+")) for way in text.split(",")]
    for way in ways:
        for step in way:
            if step not in (*STARTS, *STEPS, "verification"):
                known = ", ".join((*STARTS, *STEPS, "verification"))
                raise InputError(f"--rerank: {step!r} is no way to rank; use {known}")
        if set(STARTS) & set(way[1:]) or "verification" in way[:-1]:
            raise InputError(
                f"--rerank={'+'.join(way)}: {' or '.join(STARTS)} comes first, "
                "verification last"
            )
    # What starts from the global descriptors need not say so.
    return list(
        dict.fromkeys(
            way[1:] if len(way) > 1 and way[0] == "global" else way for way in ways
        )
    )


def needs_global(way: Sequence[str]) -> bool:
    """Whether a way takes global descriptors."""
    return way[0] != "asmk" or any(step in STEPS for step in way)


def rank(
    collection: Collection,
    ways: Sequence[tuple[str, ...]],
    protocols: dict[str, Protocol],
    *,
    shown: bool = True,
) -> list[dict[str, Int[np.ndarray, "Q M"]]]:
    """For each way and protocol all photos, best first, for each query.

    Junk photos come last wherever there is verification: they are taken out before the
    first hundred are chosen to be verified, as in the released code. A pair of photos
    is verified once for all ways and protocols.
    """
    descriptors = any(map(needs_global, ways))
    start = _start(collection) if descriptors else _start_without(collection)
    scores = []
    for way in ways:
        state = start
        if way[0] == "asmk":
            state = state._replace(similarities=np.array(collection.asmk))
            state = _without_own(state, collection.own)
        for step in way:
            if step in STEPS:
                change, options = STEPS[step]
                state = _without_own(change(state, **options), collection.own)
        scores.append(state.similarities)
    candidates = {
        (place, name): _candidates(scores[place], protocol.junk)
        for place, way in enumerate(ways)
        if way[-1] == "verification"
        for name, protocol in protocols.items()
    }
    wanted = [
        sorted({int(id) for ids in candidates.values() for id in ids[query]})
        for query in range(len(collection.queries))
    ]
    inliers = count_inliers(collection, wanted, shown=shown)
    rankings = []
    for place, similarities in enumerate(scores):
        plain = ranking.top_k(similarities)
        rankings.append(
            {
                name: _reranked(plain, similarities, candidates[place, name], inliers)
                if (place, name) in candidates
                else plain
                for name in protocols
            }
        )
    return rankings


def count_inliers(
    collection: Collection, wanted: Sequence[Sequence[int]], *, shown: bool = True
) -> list[dict[int, int]]:
    """For each query, the verified matches with the photos of the index wanted."""
    inliers: list[dict[int, int]] = [{} for _ in wanted]
    total = sum(map(len, wanted))
    with progress.track("verify", total, shown=shown) as advance:
        for query, ids in enumerate(wanted):
            for id in ids:
                found = pairs.compare_features(
                    collection.queries[query],
                    collection.store[int(collection.rows[id])],
                    collection.max_image_size,
                )
                inliers[query][id] = found.inliers
                advance()
    return inliers


def _start(collection: Collection) -> State:
    queries = np.stack([each.global_descriptor for each in collection.queries])
    index = collection.store.global_descriptors[collection.rows]
    return _without_own(_compared(queries, index), collection.own)


def _start_without(collection: Collection) -> State:
    """Without global descriptors; their similarities are replaced."""
    sides = len(collection.queries), len(collection.rows)
    return State(*(np.zeros((side, 0), np.float32) for side in sides), np.zeros(sides))


def _compared(
    queries: Float[np.ndarray, "Q G"], index: Float[np.ndarray, "M G"]
) -> State:
    return State(queries, index, queries @ index.T)


def _without_own(state: State, own: Int[np.ndarray, " Q"]) -> State:
    asked = np.flatnonzero(own >= 0)
    state.similarities[asked, own[asked]] = -np.inf
    return state


def _expand(state: State, count: int, alpha: float) -> State:
    answers = np.isfinite(state.similarities).sum(axis=1).min()
    best = ranking.top_k(state.similarities, min(count, int(answers)))
    queries = reranking.expand_queries(state.queries, state.index, best, alpha=alpha)
    return _compared(queries, state.index)


def _augment(state: State, count: int, alpha: float) -> State:
    index = reranking.augment_index(state.index, count=count, alpha=alpha)
    return _compared(state.queries, index)


def _rescore(
    state: State, score: Callable[..., Float[np.ndarray, " K"]], first: int, **options
) -> State:
    """The first of each query scored again by the descriptors; the rest follow."""
    rows = []
    for query, row in zip(state.queries, state.similarities, strict=True):
        best = ranking.top_k(row, first)
        best = best[np.isfinite(row[best])]
        rows.append(_placed(row, best, score(query, state.index[best], **options)))
    return state._replace(similarities=np.stack(rows))


def _diffuse(state: State, graph: dict[str, Any], **options) -> State:
    made = reranking.neighbour_graph(state.index, **graph)
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


def _candidates(
    similarities: Float[np.ndarray, "Q M"], junk: Sequence[Int[np.ndarray, " _"]]
) -> list[Int[np.ndarray, " _"]]:
    """Of each query the first hundred that are not junk."""
    best = []
    for row, left_out in zip(similarities, junk, strict=True):
        row = row.copy()
        row[left_out] = -np.inf
        ids = ranking.top_k(row, CANDIDATES)
        best.append(ids[np.isfinite(row[ids])])
    return best


def _reranked(
    plain: Int[np.ndarray, "Q M"],
    similarities: Float[np.ndarray, "Q M"],
    candidates: Sequence[Int[np.ndarray, " _"]],
    inliers: Sequence[dict[int, int]],
) -> Int[np.ndarray, "Q M"]:
    """Candidates by inliers and similarity, then the others as before."""
    rankings = []
    for row, values, ids, found in zip(
        plain, similarities, candidates, inliers, strict=True
    ):
        counts = np.array([found[id] for id in ids.tolist()], np.int32)
        best = ranking.rerank(ids, values[ids], counts)
        rankings.append(np.concatenate([best, row[~np.isin(row, best)]]))
    return np.stack(rankings)


STARTS = ("global", "asmk")
# Steps by name: what they do, and with which numbers: those of their papers, except
# for how many photos average_qe and augmentation take: that is a choice made here.
STEPS: dict[str, tuple[Callable[..., State], dict[str, Any]]] = {
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
