"""Pipelines of ranking steps joined by "+", such as "alpha_qe+verification".

All pipelines start from "global", the similarities of global descriptors, unless they
name those of local descriptors: "asmk", which is ASMK*, "float_asmk", which is ASMK, or
"vlad". The steps are those of steps.py, and verification.
`run_steps` ranks all photos or explicit candidates, which `rerank` also verifies.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.images import SizeBounds
from delf_jax.index import inverted_builder, neighbour_graph
from delf_jax.retrieval import ranking
from delf_jax.retrieval.nearest import Best
from delf_jax.retrieval.verification import VERIFICATION, VerificationSettings
from delf_jax.search import matching
from delf_jax.search.learned import LEARNED, Reranker, find_evidence
from delf_jax.search.steps import STEPS, DenseIndex, RankingState, follow
from delf_jax.store.feature_store import FeatureStore

Pipeline = tuple[str, ...]

AGGREGATED = inverted_builder.OF_INDEX
_STARTS = ("global", *AGGREGATED)
ALL_STEPS = (*_STARTS, *STEPS, LEARNED, "verification")
# Similarities of a block of queries: 512 MB.
_BLOCK = 1 << 27
# Global descriptors read at once: 128 MB of 2048 dimensions.
_CHUNK = 1 << 14


class RankingInputs(NamedTuple):
    """The features of a dataset, in the order of its lists."""

    queries: list[Features]
    store: FeatureStore
    rows: Int[np.ndarray, " M"]
    """of the photos of the index, in the store"""
    own: Int[np.ndarray, " Q"]
    """place of each query in the index where it is no answer to itself; else -1"""
    bounds: SizeBounds
    """at extraction"""
    aggregated: Mapping[str, Float[np.ndarray, "Q M"]] = {}
    """similarities of ASMK*, ASMK and VLAD, if a pipeline starts from them"""
    reranker: Reranker | None = None
    """of the step "learned", if a pipeline has it"""

    def image(self, place: int) -> Features:
        """The features of a photo of the index."""
        return self.store[int(self.rows[place])]


def parse_pipelines(
    text: str, option: str = "--rerank", allowed: Sequence[str] = ALL_STEPS
) -> list[Pipeline]:
    """The pipelines of a list such as "global,alpha_qe+verification".

    InputError, naming the option, for steps that are not among those allowed.
    """
    pipelines = [tuple(each.strip().split("+")) for each in text.split(",")]
    for pipeline in pipelines:
        for step in pipeline:
            if step not in allowed:
                known = ", ".join(allowed)
                raise InputError(f"{option}: expected steps of {known}; got {step!r}")
        if set(_STARTS) & set(pipeline[1:]) or "verification" in pipeline[:-1]:
            raise InputError(
                f"{option}={'+'.join(pipeline)}: {', '.join(_STARTS)} come first, "
                "verification last"
            )
    # What starts from the global descriptors need not say so.
    return list(
        dict.fromkeys(
            each[1:] if len(each) > 1 and each[0] == "global" else each
            for each in pipelines
        )
    )


def parse_pipeline(text: str, option: str, allowed: Sequence[str]) -> Pipeline:
    """The one pipeline of a text, as of `parse_pipelines`."""
    first, *others = parse_pipelines(text, option, allowed)
    if others:
        raise InputError(f"{option}={text}: expected one pipeline")
    return first


def needs_global(pipeline: Pipeline) -> bool:
    """Whether a pipeline takes global descriptors."""
    return pipeline[0] not in AGGREGATED or any(step in STEPS for step in pipeline)


def run_steps(
    inputs: RankingInputs,
    pipelines: Sequence[Pipeline],
    candidates: Sequence[Int[np.ndarray, " _"]] | None = None,
) -> list[Best]:
    """The lists that each pipeline leaves, verification aside; ids are places.

    All photos are ranked for each query, itself last where it is no answer, or of
    `candidates` these. What is no answer has a similarity of -inf.
    """
    if any(map(needs_global, pipelines)):
        stepped = any(step in STEPS for each in pipelines for step in each)
        queries, descriptors, similarities = _compare(inputs, stepped)
    else:
        shape = len(inputs.queries), len(inputs.rows)
        queries, descriptors = (np.zeros((side, 0), np.float32) for side in shape)
        similarities = np.zeros(shape)
    graph = neighbour_graph.graph_path(inputs.store)
    index = DenseIndex(descriptors, inputs.own, candidates, graph)
    start = index.rank(similarities)
    lists = []
    for pipeline in pipelines:
        given = inputs.aggregated.get(pipeline[0])
        best = start if given is None else index.rank(np.array(given))
        state = RankingState(queries, best, index, _evidence_of(inputs))
        lists.append(follow(pipeline, state).best)
    return lists


def _evidence_of(
    inputs: RankingInputs,
) -> Callable[[int, Int[np.ndarray, " K"]], Float[np.ndarray, " K"]] | None:
    """What the reranker, if there is one, says of a query and places in the index."""
    reranker = inputs.reranker
    if reranker is None:
        return None

    def evidence(query: int, ids: Int[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
        images = map(inputs.image, ids.tolist())
        return find_evidence(reranker, inputs.queries[query], images)

    return evidence


def rerank(
    inputs: RankingInputs,
    pipeline: Pipeline,
    candidates: Sequence[Int[np.ndarray, " _"]],
    *,
    verification: VerificationSettings = VERIFICATION["default"],
    progress: bool = True,
) -> list[Int[np.ndarray, " _"]]:
    """The candidates of each query in a better order, best first.

    Steps see of the index no more than the candidates, except what they learn of the
    photos alone, which is of all. If the pipeline is verification alone, inliers come
    first and cosines, where there are global descriptors, are what they are weighed
    against.

    Args:
      candidates: places in the index, best first, which decides between equals.
    """
    alone = pipeline == ("verification",)
    if not _has_global(inputs):
        if not alone:
            raise InputError(
                f"{'+'.join(pipeline)} needs global descriptors; there are none"
            )
        verification = verification._replace(weight=np.inf)
    if alone and np.isinf(verification.weight):
        scores = [-np.arange(len(ids), dtype=np.float64) for ids in candidates]
    else:
        scores = _candidate_scores(inputs, pipeline, candidates)
    if not alone:
        orders = [ranking.top_k(each) for each in scores]
        candidates = [ids[o] for ids, o in zip(candidates, orders, strict=True)]
        scores = [each[o] for each, o in zip(scores, orders, strict=True)]
    if pipeline[-1] != "verification":
        return list(candidates)
    count = verification.candidates
    verified = matching.verify(
        inputs.queries,
        [ids[:count] for ids in candidates],
        inputs.image,
        inputs.bounds,
        verification,
        progress=progress,
    )
    return [
        matching.rerank_verified(ids, values, found, verification)
        for ids, values, found in zip(candidates, scores, verified, strict=True)
    ]


def _candidate_scores(
    inputs: RankingInputs,
    pipeline: Pipeline,
    candidates: Sequence[Int[np.ndarray, " _"]],
) -> list[Float[np.ndarray, " _"]]:
    """What the steps of a pipeline leave of each candidate, in the order given."""
    size = max(1, _BLOCK // max(1, len(inputs.rows)))
    scores = []
    for first in range(0, len(candidates), size):
        part = slice(first, first + size)
        block = inputs._replace(queries=inputs.queries[part], own=inputs.own[part])
        (best,) = run_steps(block, [pipeline], candidates[part])
        for ids, values, ranked in zip(candidates[part], *best, strict=True):
            of_id = dict(zip(ranked.tolist(), values.tolist(), strict=True))
            scores.append(np.array([of_id[id] for id in ids.tolist()], np.float64))
    return scores


def _has_global(inputs: RankingInputs) -> bool:
    images = map(inputs.image, range(min(1, len(inputs.rows))))
    return all(
        features.global_descriptor is not None
        for features in (*inputs.queries, *images)
    )


def _compare(
    inputs: RankingInputs, stepped: bool
) -> tuple[
    Float[np.ndarray, "Q G"], Float[np.ndarray, "_ G"], Float[np.ndarray, "Q M"]
]:
    """Global descriptors and their similarities; the index's only if steps follow.

    One million of 2048 dimensions are 8 GB: they are read in chunks and held once.
    """
    store, rows = inputs.store, inputs.rows
    queries = np.stack([np.asarray(each.global_descriptor) for each in inputs.queries])
    index = np.empty((len(rows) if stepped else 0, queries.shape[1]), np.float32)
    similarities = np.empty((len(queries), len(rows)), np.float32)
    for first in range(0, len(rows), _CHUNK):
        part = slice(first, first + _CHUNK)
        descriptors = store.read_global(rows[part])
        similarities[:, part] = queries @ descriptors.T
        if stepped:
            index[part] = descriptors
    return queries, index, similarities
