"""Explicit candidates in, rankings out: lists that were made elsewhere, reranked.

A file of candidates is JSON, {query: [photo, ...]} with the best first, or the CSV of a
GLDv2 submission, "id,images". Photos and queries are named by their ids in a feature
store, or by what fits one of these alone (see names.py).
"""

import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from delf_jax.extraction.extract import extract_features
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features
from delf_jax.files import InputError, read_json
from delf_jax.formats import tables
from delf_jax.image_files import find_images
from delf_jax.names import find_one, finder
from delf_jax.retrieval.verification import VerificationSettings
from delf_jax.search import steps
from delf_jax.search.learned import LEARNED, Reranker, check_reranker
from delf_jax.search.pipeline import Pipeline, RankingInputs
from delf_jax.search.pipeline import rerank as rerank_candidates
from delf_jax.store import feature_store
from delf_jax.store.feature_store import FeatureStore

Candidates = Mapping[str, Sequence[str]]

# What can be done with candidates alone.
STEPS = ("global", *steps.STEPS, LEARNED, "verification")


class CandidateRow(NamedTuple):
    """A row of a CSV of candidates."""

    id: str
    images: tuple[str, ...]


class Reranked(NamedTuple):
    """Rankings, and the queries whose list stayed as it was."""

    rankings: dict[str, list[str]]
    failed: dict[str, str]
    """query -> why its photo cannot be used"""


def read_candidates(path: str | os.PathLike) -> dict[str, list[str]]:
    """The photos listed for each query, best first; InputError if one comes twice."""
    lists: dict[str, list[str]] = {}
    if pathlib.Path(path).suffix.lower() == ".csv":
        for query, images in tables.read_rows(path, CandidateRow):
            if query in lists:
                raise InputError(f"{path}: duplicate query {query!r:.80}")
            lists[query] = list(images)
    else:
        lists = read_json(path)
    if not isinstance(lists, dict) or not all(map(_are_names, lists.values())):
        raise InputError(f"{path}: expected a dict {{query: [photo, ...]}}")
    for query, names in lists.items():
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{path}: query {query!r:.80} lists {twice!r:.80} twice")
    return lists


def open_features(path: str | os.PathLike) -> FeatureStore:
    """The feature store at `path`, or that of the index there."""
    inside = pathlib.Path(path) / "store"
    return feature_store.open_store(inside if inside.is_dir() else path)


def stored_queries(lists: Candidates, store: FeatureStore) -> dict[str, Features]:
    """The features of each query, from a store."""
    rows = finder(store.ids)
    return {
        query: store[find_one(rows, query, f"query {query!r:.80}", store.path)]
        for query in lists
    }


def extracted_queries(
    lists: Candidates,
    photos: Iterable[str | os.PathLike],
    images: FeatureStore,
    model: Model,
    settings: ExtractionSettings,
) -> dict[str, Features | InputError]:
    """The features of each query, from its photo, which must be among `photos`."""
    if feature_store.store_key(model, settings) != images.manifest["key"]:
        raise InputError(
            f"{images.path}: the model or the settings do not match those of the "
            "queries; name the index's with --model and --config"
        )
    found = find_images(photos)
    places = finder([id for id, _ in found])
    paths = [
        found[find_one(places, query, f"query {query!r:.80}", "--queries")][1]
        for query in lists
    ]
    return dict(zip(lists, extract_features(model, paths, settings), strict=True))


def rerank(
    lists: Candidates,
    images: FeatureStore,
    queries: Mapping[str, Features | InputError],
    pipeline: Pipeline,
    verification: VerificationSettings,
    *,
    first: int | None = None,
    reranker: Reranker | None = None,
    progress: bool = True,
) -> Reranked:
    """The photos listed for each query in a better order: those and no others.

    InputError for a photo that the store does not have, or a list shorter than `first`.

    Args:
      first: so many of each list are reranked, the others follow as they were; None:
        all.
      reranker: of the step "learned".
    """
    if reranker is not None:
        check_reranker(reranker, images.manifest)
    places = _places(lists, images, first)
    failed = {q: str(f) for q, f in queries.items() if isinstance(f, InputError)}
    usable = {q: f for q, f in queries.items() if not isinstance(f, InputError)}
    if pipeline[-1] == "verification" or LEARNED in pipeline:
        some = (*usable.values(), *(images[row] for row in range(min(1, len(images)))))
        if any(features.local is None for features in some):
            step = LEARNED if LEARNED in pipeline else "verification"
            raise InputError(f"{step} needs local features; there are none")
    inputs = RankingInputs(
        queries=list(usable.values()),
        store=images,
        rows=np.arange(len(images)),
        own=np.full(len(usable), -1),
        bounds=images.size_bounds,
        reranker=reranker,
    )
    reranked = rerank_candidates(
        inputs,
        pipeline,
        [places[query][:first] for query in usable],
        verification=verification,
        progress=progress,
    )
    rankings = {query: list(names) for query, names in lists.items()}
    for query, best in zip(usable, reranked, strict=True):
        names = dict(zip(places[query].tolist(), lists[query], strict=True))
        moved = [names[place] for place in best.tolist()]
        rankings[query] = moved + rankings[query][len(moved) :]
    return Reranked(rankings, failed)


def check_same_model(images: FeatureStore, queries: FeatureStore) -> None:
    """InputError if the features of two stores cannot be compared."""
    manifests = images.manifest, queries.manifest
    for name in ("model", "global_model"):
        a, b = (each.get(name, each.get("model", {})) for each in manifests)
        if a.get("fingerprint") != b.get("fingerprint"):
            raise InputError(
                f"{queries.path}: features of model {b.get('name')} cannot be compared "
                f"with those of {a.get('name')} in {images.path}"
            )


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _places(
    lists: Candidates, images: FeatureStore, first: int | None
) -> dict[str, Int[np.ndarray, " _"]]:
    known, found = finder(images.ids), {}
    for query, names in lists.items():
        of = f"query {query!r:.80}"
        if first is not None and len(names) < first:
            raise InputError(
                f"{of} lists {len(names)} candidates, fewer than --first={first}; use "
                "a smaller number, or leave it out for all"
            )
        places = [
            find_one(known, name, f"photo {name!r:.80} of {of}", images.path)
            for name in names
        ]
        if len(set(places)) < len(places):
            raise InputError(f"{of} lists one photo by two names")
        found[query] = np.array(places, np.int32)
    return found
