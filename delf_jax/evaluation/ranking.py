"""All photos of a dataset ranked under each protocol, junk left out of verification.

Rankings that were made elsewhere are read here, too, and aggregated images compared.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from delf_jax.evaluation.datasets import Dataset, Photo, Protocol
from delf_jax.files import InputError, digest, read_json, sha256_of
from delf_jax.index import aggregated_files, inverted_builder
from delf_jax.index.aggregated_files import AggregatedFolder
from delf_jax.names import find_one, finder
from delf_jax.retrieval import ranking
from delf_jax.retrieval.nearest import Best
from delf_jax.retrieval.verification import VERIFICATION, VerificationSettings
from delf_jax.search import matching
from delf_jax.search.matching import Verified
from delf_jax.search.pipeline import Pipeline, RankingInputs, run_steps


def read_rankings(path: str | os.PathLike, dataset: Dataset) -> Int[np.ndarray, "Q M"]:
    """Rankings made elsewhere: JSON {query: [photo, ...]}, best first.

    Names are those of the ground truth, or fit them, see names.py. InputError unless
    each query ranks each photo once.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a dict {{query: [photo, ...]}}")
    find = finder([photo.name for photo in dataset.index])
    find_list, lists = finder([*content]), [*content.values()]
    rankings = np.zeros((len(dataset.queries), len(dataset.index)), np.int32)
    for query, photo in enumerate(dataset.queries):
        listed = find_list(photo.name)
        names = lists[listed[0]] if len(listed) == 1 else None
        if not isinstance(names, list):
            raise InputError(f"{path}: no ranking for query {photo.name!r}")
        row: list[int] = []
        for name in names:
            places = find(name) if isinstance(name, str) else []
            if len(places) != 1:
                why = "fits several photos of" if places else "is not in"
                raise InputError(
                    f"{path}: query {photo.name!r} ranks {name!r:.80}, which {why} "
                    "the index"
                )
            row += places
        if len(set(row)) < len(row):
            raise InputError(f"{path}: query {photo.name!r} ranks a photo twice")
        if len(row) < len(dataset.index):
            raise InputError(
                f"{path}: query {photo.name!r} ranks {len(row)} photos of "
                f"{len(dataset.index)}; rank all"
            )
        rankings[query] = row
    return rankings


def rank_aggregated(
    dataset: Dataset,
    index: str | os.PathLike,
    queries: str | os.PathLike,
    *,
    config: ConfigDict | None = None,
    progress: bool = True,
) -> tuple[str, Int[np.ndarray, "Q M"], list[Any]]:
    """(kind, all photos for each query, best first, what they depend on).

    Aggregated images lie in two folders, see index/aggregated_files.py; all pairs are
    compared as the original does, and of equals the first of the ground truth is first.

    Args:
      config: an AggregationConfig of the index, as `read_aggregation_config` gives it;
        None: the numbers of [D2R].
    """
    sides = aggregated_files.open_aggregated(index)
    others = aggregated_files.open_aggregated(queries)
    if sides.kind != others.kind:
        raise InputError(
            f"{queries}: has {others.suffix}, which does not compare with the "
            f"{sides.suffix} of {index}"
        )
    rule, dimension = inverted_builder.default_rule(sides.regional), None
    if config is not None:
        if (config.aggregation, config.regional) != (sides.kind, sides.regional):
            raise InputError(
                f"{index}: its {sides.suffix} are not of the config's type"
            )
        rule = rule._replace(
            alpha=config.alpha, tau=config.tau, normalize=config.normalize
        )
        dimension = config.dimension
    asked = [others.file(place) for place in _places(others, dataset.queries)]
    searched = [sides.file(place) for place in _places(sides, dataset.index)]
    found = aggregated_files.similarities_of_files(
        asked, searched, sides.kind, rule, dimension=dimension, progress=progress
    )
    digests = [[sha256_of(file) for file in each] for each in (asked, searched)]
    kind = sides.suffix.removeprefix(".")
    return kind, ranking.top_k(found), [repr(rule), dimension, digest(digests)]


def _places(folder: AggregatedFolder, photos: Sequence[Photo]) -> list[int]:
    """Where in a folder the photos are; InputError if one is not."""
    find = finder(folder.names)
    return [
        find_one(find, photo.name, f"{photo.name}{folder.suffix}", folder.path)
        for photo in photos
    ]


def rank(
    inputs: RankingInputs,
    pipelines: Sequence[Pipeline],
    protocols: dict[str, Protocol],
    *,
    verification: VerificationSettings = VERIFICATION["default"],
    progress: bool = True,
) -> list[dict[str, Int[np.ndarray, "Q M"]]]:
    """For each pipeline and protocol all photos, best first, for each query.

    Junk photos come last wherever there is verification: they are taken out before the
    candidates are chosen to be verified, as in the released code. A pair of photos is
    verified once for all pipelines and protocols.
    """
    lists = run_steps(inputs, pipelines)
    candidates = {
        (place, name): _candidates(lists[place], protocol.junk, verification.candidates)
        for place, pipeline in enumerate(pipelines)
        if pipeline[-1] == "verification"
        for name, protocol in protocols.items()
    }
    pairs = []
    for query in range(len(inputs.queries)):
        places = {id for each in candidates.values() for id in each[query][0]}
        pairs.append(np.array(sorted(places), np.int32))
    size = inputs.bounds
    found = matching.verify(
        inputs.queries, pairs, inputs.image, size, verification, progress=progress
    )
    verified = list(found)
    return [
        {
            name: _reranked(best.ids, candidates[place, name], verified, verification)
            if (place, name) in candidates
            else best.ids
            for name in protocols
        }
        for place, best in enumerate(lists)
    ]


def _candidates(
    best: Best, junk: Sequence[Int[np.ndarray, " _"]], count: int
) -> list[tuple[Int[np.ndarray, " _"], Float[np.ndarray, " _"]]]:
    """Of each query the first `count` that are not junk, and their similarities."""
    candidates = []
    for similarities, ids, left_out in zip(*best, junk, strict=True):
        kept = np.isfinite(similarities) & ~np.isin(ids, left_out)
        candidates.append((ids[kept][:count], similarities[kept][:count]))
    return candidates


def _reranked(
    ranked: Int[np.ndarray, "Q M"],
    candidates: Sequence[tuple[Int[np.ndarray, " _"], Float[np.ndarray, " _"]]],
    verified: Sequence[dict[int, Verified]],
    settings: VerificationSettings,
) -> Int[np.ndarray, "Q M"]:
    """Candidates by inliers and similarity, then the others as before."""
    rankings = []
    for row, (ids, values), known in zip(ranked, candidates, verified, strict=True):
        found = {id: known[id] for id in ids.tolist()}
        best = matching.rerank_verified(ids, values, found, settings)
        rankings.append(np.concatenate([best, row[~np.isin(row, best)]]))
    return np.stack(rankings)
