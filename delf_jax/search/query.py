"""Searching an index of photos: candidates by similarity, the best verified.

What is searched is made by index/photo_index.py.
"""

import itertools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from delf_jax.extraction.extract import extract_features
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features
from delf_jax.files import InputError
from delf_jax.index import global_index, global_search, inverted_builder, inverted_file
from delf_jax.index.global_search import GlobalIndex
from delf_jax.index.photo_index import Index, check_model, own_row
from delf_jax.index.vectors import find as tables
from delf_jax.retrieval.nearest import BLOCK, Best
from delf_jax.retrieval.verification import VERIFICATION, VerificationSettings
from delf_jax.search import matching, verdict
from delf_jax.search.matching import Verified
from delf_jax.search.verdict import Verdict
from delf_jax.store.feature_store import FeatureStore

# As many of the most similar photos are verified.
CANDIDATES = VERIFICATION["default"].candidates
# One more query for so many photos waits to be searched for together with others: a
# pass over the index for each would then take longer than its extraction.
_PHOTOS_PER_QUERY = 4096


class Result(NamedTuple):
    """One photo that was found."""

    image: str
    similarity: float
    inliers: int | None
    """verified matches; None if the photo was not among those verified"""
    lines: Float[np.ndarray, "P 4"]
    """inliers as (y, x) in the query and (y, x) here, in parts of height and width"""


# (similarities, rows), best first, of each query, from the queries and how many.
FirstStage = Callable[
    [Sequence[Features], int],
    Iterable[tuple[Float[np.ndarray, " K"], Int[np.ndarray, " K"]]],
]


class Answer(NamedTuple):
    """What was found for one query, best first."""

    image: str
    path: pathlib.Path
    results: list[Result]
    verdict: Verdict = Verdict()


def search(
    index: Index,
    queries: Sequence[pathlib.Path],
    model: Model,
    settings: ExtractionSettings,
    *,
    top: int = 10,
    rerank: bool = True,
    codebook: str | os.PathLike | None = None,
    aggregation: str | None = None,
    descriptors: GlobalIndex | None = None,
    where: str = "",
    progress: bool = True,
) -> Iterator[Answer | InputError]:
    """The answer to each query photo, in order; InputError where one is unusable.

    Under jax.distributed all processes call this; each searches its part of the global
    descriptors. InputError at once if the index was made by another model or with
    other settings.

    Args:
      top: results of each; 0: all.
      rerank: verify the best by geometry.
      codebook: compare by ASMK* with its visual words, not by global descriptors; the
        index keeps what that takes, so where there are no global descriptors it is
        named once.
      aggregation: one of inverted_builder.OF_INDEX: compare by these and not by global
        descriptors; the codebook is named once for each.
      descriptors: of the index as global_index.py opens them; by default those of its
        table, where it has one, else in float32.
      where: a condition on the photos found, as its table understands it.
    """
    check_model(index, model, settings)
    aggregated = codebook or aggregation or not settings.global_scales
    find = first_stage(
        index, settings, codebook, descriptors, where, aggregation, progress=progress
    )
    verification = matching.verification_settings(model=model)
    k = max(top, CANDIDATES + 1 if rerank else 0) if top else len(index.store)
    found = extract_features(model, queries, settings)
    size = 1 if aggregated else min(BLOCK, 1 + len(index.store) // _PHOTOS_PER_QUERY)
    extracted = zip(queries, found, strict=True)
    while block := list(itertools.islice(extracted, size)):
        usable = [each for _, each in block if not isinstance(each, InputError)]
        nearest = iter(find(usable, k))
        for path, features in block:
            if isinstance(features, InputError):
                yield features
                continue
            (values, rows), own = next(nearest), own_row(index, path)
            results = rank(
                *(index.store, features, rows, values, settings, verification),
                own=own,
                rerank=rerank,
            )
            found_itself = index.store.ids[own] if own >= 0 else None
            judged = judge_results(
                results, features, settings, found_itself, verification
            )
            shown = results[: top or None]
            yield Answer(str(path), pathlib.Path(path), shown, judged)


def first_stage(
    index: Index,
    settings: ExtractionSettings,
    codebook: str | os.PathLike | None = None,
    descriptors: GlobalIndex | None = None,
    where: str = "",
    aggregation: str | None = None,
    *,
    progress: bool = True,
) -> FirstStage:
    """What finds the candidates of queries; arguments as `search`."""
    by_words = codebook or aggregation or not settings.global_scales
    if where and (by_words or descriptors):
        raise InputError("--where: goes with the table of an index alone")
    if by_words:
        return _by_words(index, codebook, aggregation or "asmk", progress)
    return by_global_descriptors(index, descriptors, where)


def _by_words(
    index: Index, codebook: str | os.PathLike | None, aggregation: str, progress: bool
) -> FirstStage:
    """The k images of each query that ASMK* or another finds the most similar."""
    inverted = inverted_builder.inverted_file_of_index(
        index.directory, index.store, codebook, aggregation, progress=progress
    )

    def find(queries: Sequence[Features], k: int) -> Iterator[tuple]:
        for query in queries:
            aggregated = inverted_file.aggregate_query(inverted, query)
            rows, similarities = inverted_file.search(inverted, aggregated, k)
            yield similarities, rows

    return find


def by_global_descriptors(
    index: Index, descriptors: GlobalIndex | None = None, where: str = ""
) -> FirstStage:
    """The k images of each query that are globally most similar; see `search`."""
    if descriptors is None and (where or tables.has_table(index.directory)):
        table = tables.open_table(index.directory, index.store, where, index.update)
        return lambda queries, k: tables.find_nearest(table, _stack(queries), k)
    if descriptors is None:
        descriptors, _ = global_index.open_descriptors(index.store)
    part = jax.process_index(), jax.process_count()
    held = global_search.hold(global_search.take_part(descriptors, *part))
    return lambda queries, k: zip(*find_first(held, queries, k), strict=True)


def find_first(descriptors: GlobalIndex, queries: Sequence[Features], k: int) -> Best:
    """The first stage: for each query the k images that are globally most similar."""
    if not queries:
        return Best(np.zeros((0, 0), np.float32), np.zeros((0, 0), np.int64))
    return global_search.find_nearest(descriptors, _stack(queries), k)


def _stack(queries: Sequence[Features]) -> Float[np.ndarray, "Q G"]:
    """The global descriptors of queries."""
    if any(query.global_descriptor is None for query in queries):
        raise InputError("search needs global descriptors; set global_scales")
    if not queries:
        return np.zeros((0, 0), np.float32)
    return np.stack([np.asarray(query.global_descriptor) for query in queries])


def rank(
    images: FeatureStore,
    query: Features,
    rows: Int[np.ndarray, " K"],
    similarities: Float[np.ndarray, " K"],
    settings: ExtractionSettings,
    verification: VerificationSettings = VERIFICATION["default"],
    *,
    own: int = -1,
    rerank: bool = True,
) -> list[Result]:
    """What a first stage found, best first: the first hundred again by evidence.

    Args:
      rows, similarities: of images, the most similar first.
      own: row of the query photo itself, if it is in the index; it is verified, but is
        none of the hundred.
    """
    if not rerank:
        query = query._replace(local=None)
    *_, (results, _) = rank_in_steps(
        *(images, query, rows, similarities, settings, verification),
        CANDIDATES + 1,
        own=own,
    )
    return results


def rank_in_steps(
    images: FeatureStore,
    query: Features,
    rows: Int[np.ndarray, " K"],
    similarities: Float[np.ndarray, " K"],
    settings: ExtractionSettings,
    verification: VerificationSettings,
    step: int,
    *,
    own: int = -1,
) -> Iterator[tuple[list[Result], int]]:
    """The candidates, then after each `step` of them verified: (best first, how many).

    The last are the results of `rank`, whose arguments the others are.
    """
    count = int(np.count_nonzero(np.cumsum(rows != own) <= CANDIDATES))
    parts = [rows[start : min(start + step, count)] for start in range(0, count, step)]
    parts = [] if query.local is None else parts
    found = matching.verify(
        [query] * len(parts),
        parts,
        images.__getitem__,
        settings.size_bounds,
        verification,
    )
    known = dict(zip(rows.tolist(), similarities.tolist(), strict=True))
    unverified = None, np.zeros((0, 4))
    verified: dict[int, Verified] = {}
    for some in itertools.chain([{}], found):
        verified |= some
        ranked = matching.rerank_verified(rows, similarities, verified, verification)
        results = [
            Result(images.ids[row], known[row], *verified.get(row, unverified))
            for row in ranked.tolist()
        ]
        yield results, len(verified)


def judge_results(
    results: Sequence[Result],
    query: Features,
    settings: ExtractionSettings,
    own: str | None = None,
    verification: VerificationSettings = VERIFICATION["default"],
) -> Verdict:
    """The verdict on all results of a query, whose own photo may be among them."""
    place = next((n for n, each in enumerate(results) if each.image == own), None)
    count = 0 if query.local is None else len(query.local.scales)
    features = math.sqrt(count * settings.max_features)  # The others may have as many.
    inliers = [result.inliers for result in results]
    return verdict.judge(inliers, features, place, verification)


def to_json(answers: Iterable[Answer], index: Index | None = None) -> dict[str, Any]:
    """The answers, ready for JSON.

    Args:
      index: what was searched; that it is incomplete becomes a field.
    """
    incomplete = {}
    if index is not None and index.store.pending:
        photos, left = len(index.store), len(index.store.pending)
        why = {"photos": photos, "not_extracted_yet": left, "message": index.shortfall}
        incomplete["incomplete"] = why
    return {
        **incomplete,
        "queries": [
            {
                "image": answer.image,
                "confident": answer.verdict.confident,
                "inliers_by_chance": answer.verdict.by_chance,
                "results": [
                    {
                        "image": image,
                        "similarity": round(value, 6),
                        "inliers": inliers,
                        "confident": answer.verdict.of(inliers),
                    }
                    for image, value, inliers, _ in answer.results
                ],
            }
            for answer in answers
        ],
    }
