"""Retrieval on a dataset with ground truth: features, rankings, what they are worth."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax import files
from delf_jax.evaluation import datasets
from delf_jax.evaluation.datasets import Dataset
from delf_jax.evaluation.distractors import Distractors, add_distractors, extract_photos
from delf_jax.evaluation.overlap import UNSEEN
from delf_jax.evaluation.queries import extract_queries
from delf_jax.evaluation.ranking import rank
from delf_jax.extraction.boxes import RegionBoxes, digest
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError
from delf_jax.index import inverted_builder, inverted_file
from delf_jax.retrieval import bootstrap, metrics
from delf_jax.retrieval.bootstrap import SAMPLES, Estimate
from delf_jax.retrieval.verification import VERIFICATION, VerificationSettings
from delf_jax.search.learned import LEARNED, check_reranker, open_reranker
from delf_jax.search.pipeline import (
    AGGREGATED,
    Pipeline,
    RankingInputs,
    needs_global,
)
from delf_jax.search.steps import STEPS
from delf_jax.store import feature_store

RANKS = (1, 5, 10)


class Row(NamedTuple):
    """What one ranking scores under one protocol."""

    protocol: str
    ranking: str
    key: str
    """of all that the numbers depend on, as a short hex string"""
    metrics: metrics.RevisitedMetrics
    mean: Estimate
    macro: Estimate | None
    """over landmarks of the mean over their queries, where landmarks are known; its
    intervals are over draws of landmarks, whose queries are too alike to be drawn"""


class Evaluation(NamedTuple):
    """All results on a dataset."""

    dataset: Dataset
    """what was scored: without `missing`"""
    missing: dict[str, str]
    """photos that were left out: name -> reason"""
    ranks: tuple[int, ...]
    seed: int
    rows: list[Row]
    rankings: Mapping[str, Mapping[str, Int[np.ndarray, "Q M"]]]
    """by name, then by protocol"""
    inputs: RankingInputs | None = None
    """the features; None of rankings that were made elsewhere"""
    verification: VerificationSettings = VERIFICATION["default"]
    distractors: int = 0
    """photos at the end of the index that are not of the dataset"""


def evaluate(
    dataset: Dataset,
    directory: str | os.PathLike,
    model: Model,
    settings: ExtractionSettings,
    pipelines: Sequence[Pipeline],
    *,
    distractors: Distractors | None = None,
    verification: VerificationSettings = VERIFICATION["default"],
    partial: bool = False,
    codebook: str | os.PathLike | None = None,
    reranker: str | os.PathLike | None = None,
    boxes: RegionBoxes | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Scores of a model that ranks by pipelines (see search/pipeline.py).

    Features are kept in `directory`, an index as of `search` or a new folder; what is
    there and unchanged is not extracted again. InputError if photos are missing or
    damaged.

    Args:
      distractors: are searched, too.
      partial: score the others where photos are missing.
      codebook: of ASMK*, ASMK and VLAD; what was aggregated with it is kept as well.
      reranker: of the step "learned".
      boxes: of photos of the index, whose pipeline "asmk" is then R-ASMK*, and so on;
        verification takes whole photos, as queries are [D2R].
    """
    if any(map(needs_global, pipelines)) and not settings.global_scales:
        raise InputError("evaluate needs global descriptors: set global_scales")
    verified = any(each[-1] == "verification" for each in pipelines)
    starts = {pipeline[0] for pipeline in pipelines}
    aggregated = [kind for kind in AGGREGATED if kind in starts]
    compared = any(LEARNED in each for each in pipelines)
    local = settings.max_features and model.has_local
    if not local and (verified or aggregated or compared):
        what = "verify by" if verified else "aggregate" if aggregated else "compare"
        raise InputError(f"model {model.name} gives no local features to {what}")
    network = open_reranker(reranker, pipelines)
    missing = datasets.missing_photos(dataset)
    dataset = complete(dataset, missing, partial)
    dataset, inputs, failed = _extract(
        dataset, pathlib.Path(directory), model, settings, boxes, partial, progress
    )
    missing |= failed
    if distractors is not None:
        dataset, inputs = add_distractors(dataset, inputs, distractors)
    depends: dict[str, Any] = {}
    for kind in aggregated:
        inputs, depends[kind] = _with_aggregated(
            inputs, kind, directory, codebook, progress
        )
    if network is not None:
        check_reranker(network, inputs.store.manifest)
        inputs = inputs._replace(reranker=network)
        depends[LEARNED] = network.info["sha256"]
    protocols = dataset.protocols
    ranked = rank(
        inputs, pipelines, protocols, verification=verification, progress=progress
    )
    key = feature_store.store_key(model, settings, boxes is not None)
    depends["model and settings"] = key
    depends["verification"] = repr(verification)
    depends["missing"] = sorted(missing)
    if boxes is not None:
        depends["boxes"] = digest(boxes)
    if distractors is not None:
        listed = [distractors.store.ids, sorted(distractors.store.failed)]
        depends["distractors"] = files.digest(listed)
    rankings = dict(zip(map("+".join, pipelines), ranked, strict=True))
    scored = score(dataset, rankings, missing=missing, depends=depends, seed=seed)
    count = 0 if distractors is None else len(distractors.photos)
    return scored._replace(inputs=inputs, verification=verification, distractors=count)


def score(
    dataset: Dataset,
    rankings: Mapping[str, Mapping[str, Int[np.ndarray, "Q M"]]],
    *,
    missing: dict[str, str] | None = None,
    depends: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Scores of rankings: by name, then by protocol, all photos for each query.

    Protocols under which no query has positives have no rows; InputError if all do.

    Args:
      depends: what the rankings depend on, to become part of the keys.
    """
    ranks = tuple(k for k in RANKS if k <= len(dataset.index))
    rows = []
    for protocol, (positives, junk) in dataset.protocols.items():
        if not any(map(len, positives)):
            continue
        found = [
            metrics.revisited_metrics(each[protocol], positives, junk, ranks)
            for each in rankings.values()
        ]
        values = [each.average_precisions for each in found]
        means = _means(np.array(values), seed)
        macros: Sequence[Estimate | None] = [None] * len(found)
        if dataset.landmarks is not None:
            by_landmark = [metrics.group_means(v, dataset.landmarks) for v in values]
            macros = _means(np.array(by_landmark), seed)
        scored = zip(rankings, found, means, macros, strict=True)
        for name, result, mean, macro in scored:
            key = _key(dataset, protocol, name, depends or {}, seed)
            rows.append(Row(protocol, name, key, result, mean, macro))
    if not rows:
        raise InputError(f"{dataset.name}: no query has a positive among the photos")
    return Evaluation(dataset, missing or {}, ranks, seed, rows, rankings)


def _key(
    dataset: Dataset, protocol: str, name: str, depends: Mapping[str, Any], seed: int
) -> str:
    """The hash of all that a result depends on."""
    numbered = [(step, STEPS.get(step, (None, None))[1]) for step in name.split("+")]
    concerning = _concerning(name, depends)
    parts = [concerning, dataset.version, protocol, numbered, SAMPLES, seed]
    if protocol.endswith(UNSEEN):
        parts.append(dataset.seen)
    return files.digest(parts, 10)


def _concerning(name: str, depends: Mapping[str, Any]) -> dict[str, Any]:
    """What a ranking depends on: of steps, those that it has."""
    left_out = {*AGGREGATED, LEARNED, "verification"} - set(name.split("+"))
    return {key: value for key, value in depends.items() if key not in left_out}


def complete(dataset: Dataset, missing: Mapping[str, str], partial: bool) -> Dataset:
    """The dataset without what is missing; InputError for that unless `partial`."""
    if not missing:
        return dataset
    if not partial:
        why = next(iter(missing.values()))
        raise InputError(
            f"{dataset.name}: {datasets.format_missing(missing)}, first: {why}; add "
            "them (evaluate: see --images), or score the others with --partial"
        )
    return datasets.drop_missing(dataset, missing)


def _extract(
    dataset: Dataset,
    directory: pathlib.Path,
    model: Model,
    settings: ExtractionSettings,
    boxes: RegionBoxes | None,
    partial: bool,
    progress: bool,
) -> tuple[Dataset, RankingInputs, dict[str, str]]:
    """The dataset without what failed, its features, and what failed."""
    photos, store = datasets.index_files(dataset), directory / "store"
    images = extract_photos(photos, store, model, settings, boxes, progress=progress)
    found = extract_queries(
        dataset, images, directory, model, settings, progress=progress
    )
    queries = [*zip(dataset.queries, found, strict=True)]
    failed = {p.name: str(f) for p, f in queries if isinstance(f, InputError)}
    known = set(images.ids)
    for photo in dataset.index:
        if photo.id not in known:
            failed[photo.name] = images.failed.get(photo.id, "cannot be used")
    kept = complete(dataset, failed, partial)
    inputs = RankingInputs(
        queries=[
            features
            for photo, features in queries
            if photo.name not in failed and not isinstance(features, InputError)
        ],
        store=images,
        rows=np.array([images.row(photo.id) for photo in kept.index]),
        own=_own_places(kept),
        bounds=settings.size_bounds,
    )
    return kept, inputs, failed


def _with_aggregated(
    inputs: RankingInputs,
    kind: str,
    directory: str | os.PathLike,
    codebook: str | os.PathLike | None,
    progress: bool,
) -> tuple[RankingInputs, Any]:
    """The inputs with similarities of a kind, and what these depend on."""
    index = inverted_builder.inverted_file_of_index(
        directory, inputs.store, codebook, kind, progress=progress
    )
    queries = [inverted_file.aggregate_query(index, q) for q in inputs.queries]
    found = [inverted_file.similarities(index, query) for query in queries]
    known = {**inputs.aggregated, kind: np.stack(found)[:, inputs.rows]}
    depends = [index.info["key"], index.info["rule"]]
    return inputs._replace(aggregated=known), depends


def _own_places(dataset: Dataset) -> Int[np.ndarray, " Q"]:
    """Where each query is itself in the index as junk of all protocols; else -1."""
    places = {photo.id: place for place, photo in enumerate(dataset.index)}
    own = []
    for query, photo in enumerate(dataset.queries):
        place = places.get(photo.id, -1)
        junk = (protocol.junk[query] for protocol in dataset.protocols.values())
        own.append(place if all(place in ids for ids in junk) else -1)
    return np.array(own)


def _means(values: Float[np.ndarray, "W _"], seed: int) -> list[Estimate]:
    """The mean of each ranking over queries or landmarks, with the same draws."""
    rng = np.random.default_rng(seed)
    drawn = bootstrap.resampled_means(values, rng, samples=SAMPLES)
    return bootstrap.estimates(
        [metrics.mean_over_queries(row) for row in values], drawn
    )
