"""Ways to rank: steps joined by "+", such as "alpha_qe+verification".

All ways start from "global", the similarities of global descriptors, unless they name
"asmk", those of ASMK*. The steps are those of ranking_steps.py, and verification.
`rank` takes all photos of a dataset, and `rerank` explicit candidates.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.index import neighbour_graph
from delf_jax.progress import track
from delf_jax.retrieval import ranking
from delf_jax.retrieval.verification import VERIFICATION, VerificationSettings
from delf_jax.search import matching
from delf_jax.search.steps import STEPS, RankingState, mask_out
from delf_jax.store.feature_store import FeatureStore

STARTS = ("global", "asmk")
# Similarities of a block of queries: 512 MB.
_BLOCK = 1 << 27
# Global descriptors read at once: 128 MB of 2048 dimensions.
_PIECE = 1 << 14


class RankingInputs(NamedTuple):
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


def parse_pipelines(text: str) -> list[tuple[str, ...]]:
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


def rerank(
    collection: RankingInputs,
    way: tuple[str, ...],
    candidates: Sequence[Int[np.ndarray, " _"]],
    *,
    verification: VerificationSettings = VERIFICATION["default"],
    progress: bool = True,
) -> list[Int[np.ndarray, " _"]]:
    """The candidates of each query in a better order, best first.

    candidates: places in the index, best first. Steps see of the index no more than
    these, except what they learn of the photos alone, which is of all. The order given
    decides between equals; if the way is verification alone, inliers come first and
    cosines, where there are global descriptors, are what they are weighed against.
    """
    values = _candidate_scores(collection, way, candidates)
    orders = [_descending(scores) for scores in values]
    if way == ("verification",):
        orders = [np.arange(len(ids)) for ids in candidates]
    if way[-1] != "verification":
        return [ids[order] for ids, order in zip(candidates, orders, strict=True)]
    wanted = [
        ids[order[: verification.candidates]].tolist()
        for ids, order in zip(candidates, orders, strict=True)
    ]
    inliers = count_inliers(collection, wanted, verification, progress=progress)
    as_given = way == ("verification",) and np.isinf(verification.weight)
    reranked = []
    for ids, order, scores, found in zip(
        candidates, orders, values, inliers, strict=True
    ):
        weight = verification.weight
        if scores is None or as_given:
            scores, weight = -np.arange(len(ids), dtype=np.float64), np.inf
        best, rest = np.split(order, [verification.candidates])
        counts = np.array([found[id] for id in ids[best].tolist()], np.int32)
        places = np.arange(len(best), dtype=np.int32)
        new = ranking.rerank(places, scores[best], counts, weight=weight)
        reranked.append(ids[np.concatenate([best[new], rest])])
    return reranked


def count_inliers(
    collection: RankingInputs,
    wanted: Sequence[Sequence[int]],
    verification: VerificationSettings = VERIFICATION["default"],
    *,
    progress: bool = True,
) -> list[dict[int, int]]:
    """For each query, the verified matches with the photos of the index wanted."""
    inliers: list[dict[int, int]] = [{} for _ in wanted]
    total = sum(map(len, wanted))
    with track("verify", total, "candidate", progress=progress) as advance:
        for query, ids in enumerate(wanted):
            images = (collection.store[int(collection.rows[id])] for id in ids)
            asked = collection.queries[query]
            for id, found in zip(
                ids,
                matching.verify_candidates(
                    asked, images, collection.max_image_size, verification
                ),
                strict=True,
            ):
                inliers[query][id] = found.inliers
                advance()
    return inliers


def follow(way: Sequence[str], state: RankingState, left_out: Any) -> RankingState:
    """What the steps of a way leave, verification aside.

    left_out: an index into the similarities, of what is no answer.
    """
    for step in way:
        if step in STEPS:
            change, options = STEPS[step]
            state = mask_out(change(state, **options), left_out)
    return state


def _candidate_scores(
    collection: RankingInputs,
    way: Sequence[str],
    candidates: Sequence[Int[np.ndarray, " _"]],
) -> list[Float[np.ndarray, " _"] | None]:
    """Similarities of the candidates of each query; None without descriptors."""
    if not _has_global(collection):
        if way != ("verification",):
            raise InputError(
                f"{'+'.join(way)} needs global descriptors; there are none"
            )
        return [None] * len(candidates)
    size = max(1, _BLOCK // max(1, len(collection.rows)))
    scores: list[Float[np.ndarray, " _"] | None] = []
    for first in range(0, len(candidates), size):
        part = slice(first, first + size)
        asked = collection._replace(
            queries=collection.queries[part], own=collection.own[part]
        )
        state = start_global(asked)
        others = _others(candidates[part], len(collection.rows))
        state = follow(way, mask_out(state, others), others)
        rows = zip(state.similarities, candidates[part], strict=True)
        scores += [row[ids] for row, ids in rows]
    return scores


def _has_global(collection: RankingInputs) -> bool:
    images = (collection.store[int(row)] for row in collection.rows[:1])
    return all(
        features.global_descriptor is not None
        for features in (*collection.queries, *images)
    )


def _others(
    candidates: Sequence[Int[np.ndarray, " _"]], count: int
) -> Bool[np.ndarray, "Q M"]:
    """What is no candidate."""
    others = np.ones((len(candidates), count), bool)
    for row, ids in zip(others, candidates, strict=True):
        row[ids] = False
    return others


def start_global(collection: RankingInputs, stepped: bool = True) -> RankingState:
    """Similarities of global descriptors; those of the index only if steps follow.

    One million of 2048 dimensions are 8 GB: they are read in pieces and held once.
    """
    store, rows = collection.store, collection.rows
    queries = np.stack([each.global_descriptor for each in collection.queries])
    index = np.empty((len(rows) if stepped else 0, queries.shape[1]), np.float32)
    similarities = np.empty((len(queries), len(rows)), np.float32)
    for first in range(0, len(rows), _PIECE):
        part = slice(first, first + _PIECE)
        descriptors = store.read_global(rows[part])
        similarities[:, part] = queries @ descriptors.T
        if stepped:
            index[part] = descriptors
    graph = neighbour_graph.graph_path(store)
    state = RankingState(queries, index, similarities, graph)
    return mask_out(state, own_pairs(collection.own))


def start_empty(collection: RankingInputs) -> RankingState:
    """Without global descriptors; their similarities are replaced."""
    sides = len(collection.queries), len(collection.rows)
    return RankingState(
        *(np.zeros((side, 0), np.float32) for side in sides), np.zeros(sides)
    )


def own_pairs(own: Int[np.ndarray, " Q"]) -> tuple[np.ndarray, np.ndarray]:
    asked = np.flatnonzero(own >= 0)
    return asked, own[asked]


def _descending(scores: Float[np.ndarray, " K"] | None) -> Int[np.ndarray, " K"] | None:
    return None if scores is None else ranking.top_k(scores)
