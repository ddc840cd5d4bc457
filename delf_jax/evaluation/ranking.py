"""Rankings that were made elsewhere."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from delf_jax.evaluation.datasets import Dataset, Protocol
from delf_jax.files import InputError, read_json
from delf_jax.retrieval import ranking
from delf_jax.retrieval.verification import VERIFICATION, VerificationSettings
from delf_jax.search.pipeline import (
    RankingInputs,
    count_inliers,
    follow,
    needs_global,
    own_pairs,
    start_empty,
    start_global,
)
from delf_jax.search.steps import STEPS, mask_out


def read_rankings(path: str | os.PathLike, dataset: Dataset) -> Int[np.ndarray, "Q M"]:
    """Rankings that were made elsewhere: {query: [photo, ...]}, best first, as JSON.

    Names are those of the ground truth. InputError unless each query ranks each photo
    once.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: no rankings; it holds no dict of query to photos")
    places = {photo.name: place for place, photo in enumerate(dataset.index)}
    rankings = np.zeros((len(dataset.queries), len(places)), np.int32)
    for query, photo in enumerate(dataset.queries):
        names = content.get(photo.name)
        if not isinstance(names, list):
            raise InputError(f"{path}: has no ranking for query {photo.name!r}")
        unknown = [name for name in names if not _known(name, places)]
        if unknown:
            raise InputError(
                f"{path}: query {photo.name!r} ranks {unknown[0]!r:.80}, which is no "
                "photo of the index"
            )
        if len(set(names)) < len(names):
            raise InputError(f"{path}: query {photo.name!r} ranks a photo twice")
        if len(names) < len(places):
            raise InputError(
                f"{path}: query {photo.name!r} ranks {len(names)} photos of "
                f"{len(places)}; rank all"
            )
        rankings[query] = [places[name] for name in names]
    return rankings


def _known(name: Any, places: Mapping[str, int]) -> bool:
    return isinstance(name, str) and name in places


def rank(
    collection: RankingInputs,
    ways: Sequence[tuple[str, ...]],
    protocols: dict[str, Protocol],
    *,
    verification: VerificationSettings = VERIFICATION["default"],
    progress: bool = True,
) -> list[dict[str, Int[np.ndarray, "Q M"]]]:
    """For each way and protocol all photos, best first, for each query.

    Junk photos come last wherever there is verification: they are taken out before the
    candidates are chosen to be verified, as in the released code. A pair of photos
    is verified once for all ways and protocols.
    """
    own = own_pairs(collection.own)
    descriptors = any(map(needs_global, ways))
    stepped = any(step in STEPS for way in ways for step in way)
    start = (
        start_global(collection, stepped) if descriptors else start_empty(collection)
    )
    scores = []
    for way in ways:
        state = start
        if way[0] == "asmk":
            state = state._replace(similarities=np.array(collection.asmk))
            state = mask_out(state, own)
        scores.append(follow(way, state, own).similarities)
    count = verification.candidates
    candidates = {
        (place, name): _candidates(scores[place], protocol.junk, count)
        for place, way in enumerate(ways)
        if way[-1] == "verification"
        for name, protocol in protocols.items()
    }
    wanted = [
        sorted({int(id) for ids in candidates.values() for id in ids[query]})
        for query in range(len(collection.queries))
    ]
    inliers = count_inliers(collection, wanted, verification, progress=progress)
    weight = verification.weight
    rankings = []
    for place, similarities in enumerate(scores):
        plain = ranking.top_k(similarities)
        rankings.append(
            {
                name: _reranked(
                    plain, similarities, candidates[place, name], inliers, weight
                )
                if (place, name) in candidates
                else plain
                for name in protocols
            }
        )
    return rankings


def _candidates(
    similarities: Float[np.ndarray, "Q M"],
    junk: Sequence[Int[np.ndarray, " _"]],
    count: int,
) -> list[Int[np.ndarray, " _"]]:
    """Of each query the first `count` that are not junk."""
    best = []
    for row, left_out in zip(similarities, junk, strict=True):
        row = row.copy()
        row[left_out] = -np.inf
        ids = ranking.top_k(row, count)
        best.append(ids[np.isfinite(row[ids])])
    return best


def _reranked(
    plain: Int[np.ndarray, "Q M"],
    similarities: Float[np.ndarray, "Q M"],
    candidates: Sequence[Int[np.ndarray, " _"]],
    inliers: Sequence[dict[int, int]],
    weight: float,
) -> Int[np.ndarray, "Q M"]:
    """Candidates by inliers and similarity, then the others as before."""
    rankings = []
    for row, values, ids, found in zip(
        plain, similarities, candidates, inliers, strict=True
    ):
        counts = np.array([found[id] for id in ids.tolist()], np.int32)
        best = ranking.rerank(ids, values[ids], counts, weight=weight)
        rankings.append(np.concatenate([best, row[~np.isin(row, best)]]))
    return np.stack(rankings)
