"""Predictions for [GLDv2] from its images: features, search or recognition, a CSV."""

import os
import pathlib
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np

from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError, digest
from delf_jax.formats.datasets import gldv2
from delf_jax.formats.datasets.gldv2 import Solution
from delf_jax.gldv2 import collection, recognition_task, retrieval_task, scores
from delf_jax.gldv2.collection import Images, Listing
from delf_jax.images import find_images
from delf_jax.progress import format_count
from delf_jax.retrieval import verification, voting
from delf_jax.search import steps
from delf_jax.search.query import CANDIDATES
from delf_jax.store import feature_store


class PredictionInputs(NamedTuple):
    """What predictions are made of."""

    data: str | os.PathLike
    """the folder of the release"""
    features: str | os.PathLike
    """where stores are kept"""
    model: Model
    settings: ExtractionSettings
    test_list: str | os.PathLike | None = None
    """a table of the test images; None: test.csv"""
    other_list: str | os.PathLike | None = None
    """of the index or the training images"""
    exclude: frozenset[int] = frozenset()
    """landmarks whose images are left out of the index or the training images"""
    solution: str | os.PathLike | None = None
    """what it ignores is not predicted, and what it needs must be there"""
    partial: bool = False
    """go on although images are missing"""


def retrieve(
    sources: PredictionInputs,
    out: str | os.PathLike,
    way: tuple[str, ...],
    *,
    progress: bool = True,
) -> list[str]:
    """Writes the most similar index images of each test image; says what was done.

    Rows stand in the order of the list of test images.
    """
    if way[-1] == "verification":
        _check_local(sources)
    test, index, partial, said = _open(sources, "index", "retrieval", progress)
    size = sources.settings.max_image_size
    ranked = retrieval_task.rank(test, index, way, size, progress=progress)
    predictions = dict(zip(test.ids, ranked, strict=True))
    how = {"rerank": [_described(step) for step in way]}
    if way[-1] == "verification":
        how["verification"] = [list(verification.VERIFICATION["default"]), CANDIDATES]
    _write(sources, out, "retrieval", predictions, how, index, partial, said[-1])
    count = format_count(len(predictions), "prediction")
    return [*said, f"{out}: {count}", *partial]


def recognise(
    sources: PredictionInputs,
    out: str | os.PathLike,
    options: recognition_task.Options,
    non_landmarks: str | os.PathLike | None = None,
    *,
    progress: bool = True,
) -> list[str]:
    """Writes which landmark each test image shows; says what was done.

    Rows stand in the order of the list of test images.

    non_landmarks: a folder of photos that show no landmark.
    """
    if options.verified:
        _check_local(sources)
    test, train, partial, said = _open(sources, "train", "recognition", progress)
    searched, others = said[-1], None
    if non_landmarks is not None:
        others = _open_non_landmarks(sources, non_landmarks, test, progress)
        failed = len(others.store.failed)
        said.append(f"non-landmarks: {len(others.ids)} images, {failed} failed")
    size = sources.settings.max_image_size
    found = recognition_task.recognise(
        test, train, options, size, others, progress=progress
    )
    predictions = dict(zip(test.ids, found, strict=True))
    how = {
        **options._asdict(),
        "verification": [
            list(verification.VERIFICATION["default"]),
            voting.ENOUGH_INLIERS,
        ],
        "averaged": voting.NON_LANDMARKS,
        "non_landmarks": None if others is None else digest("\n".join(others.ids), 16),
    }
    _write(sources, out, "recognition", predictions, how, train, partial, searched)
    count = format_count(len(predictions), "prediction")
    return [*said, f"{out}: {count}", *partial]


def _described(step: str) -> Any:
    """A step of a way to rank with its numbers."""
    return [step, steps.STEPS.get(step, (None, None))[1]]


def _open(
    sources: PredictionInputs, split: str, task: str, progress: bool
) -> tuple[Images, Images, list[str], list[str]]:
    """Test images, those they are compared with, what is missing, and what was done."""
    if not sources.settings.global_scales:
        raise InputError("global descriptors are needed: set global_scales")
    listing = collection.list_images(sources.data, "test", sources.test_list)
    other = collection.list_images(
        sources.data, split, sources.other_list, exclude=sources.exclude
    )
    partial, said = [], []
    if sources.solution is not None:
        solution = gldv2.read_solution(sources.solution, task)
        ignored = set(solution.ignored) & set(listing.ids)
        if ignored:
            listing = collection.drop_landmarks(listing, ignored)
            said.append(f"test: {len(ignored)} images that the solution ignores")
        partial += _not_listed(sources, solution, listing, other)
    opened = []
    for each in (listing, other):
        images, missing = collection.extract(
            *(each, sources.data, sources.features, sources.model, sources.settings),
            progress=progress,
        )
        total = len(each.ids)
        partial += collection.check_whole(
            each.split, total, missing, partial=sources.partial
        )
        left = f", {each.excluded} excluded" if each.excluded else ""
        said.append(
            f"{each.split}: {len(images.ids)} images of {each.table.name}{left}"
        )
        opened.append(images)
    return *opened, partial, said


def _not_listed(
    sources: PredictionInputs, solution: Solution, listing: Listing, other: Listing
) -> list[str]:
    """What the solution needs and the lists leave out; InputError unless partial."""
    answers = solution.public | solution.private
    needed = {"test": (set(answers), set(listing.ids))}
    if other.split == "index" and not sources.exclude:
        relevant = {id for ids in answers.values() for id in ids if id}
        needed["index"] = (relevant, set(other.ids))
    said = []
    for split, (wanted, listed) in needed.items():
        absent = sorted(wanted - listed)
        if absent:
            said.append(
                f"{split}: {len(absent)} of the {len(wanted)} images that the solution "
                f"counts are not listed, such as {absent[0]}"
            )
    if said and not sources.partial:
        raise InputError(f"{said[0]}; list them, or score the others with --partial")
    return said


def _open_non_landmarks(
    sources: PredictionInputs, folder: str | os.PathLike, test: Images, progress: bool
) -> Images:
    photos = find_images([folder])
    told = {path.stem for _, path in photos} & set(test.ids)
    if told:
        raise InputError(
            f"{folder}: holds test image {min(told)}; to say which of the images to be "
            "recognised show no landmark is to tell the answer: use other photos"
        )
    out = pathlib.Path(sources.features, "non_landmarks")
    feature_store.extract_to_store(
        photos, out, sources.model, sources.settings, progress=progress
    )
    found = feature_store.open_store(out)
    names = [name for name, _ in photos if name not in found.failed]
    if not names:
        raise InputError(f"{folder}: none of the photos can be used")
    rows = np.array([found.row(name) for name in names])
    return Images(names, None, found, rows)


def _check_local(sources: PredictionInputs) -> None:
    if not (sources.settings.max_features and sources.model.has_local):
        raise InputError(
            f"model {sources.model.name} gives no local features to verify by"
        )


def _write(
    sources: PredictionInputs,
    out: str | os.PathLike,
    task: str,
    predictions: dict[str, Any],
    how: dict[str, Any],
    other: Images,
    partial: Collection[str],
    searched: str,
) -> None:
    gldv2.write_predictions(out, predictions, task)
    excluded = None
    if sources.exclude:
        excluded = f"{len(sources.exclude)} landmarks, as --exclude says"
    settings = {
        "task": task,
        "model and extraction": feature_store.store_key(
            sources.model, sources.settings
        ),
        **how,
        "searched": digest("\n".join(other.ids), 16),
        "excluded": sorted(sources.exclude),
        "partial": sorted(partial),
    }
    scores.write_made(
        out,
        {
            "model": sources.model.name,
            "settings": settings,
            "searched": searched,
            "excluded": excluded,
            "partial": sorted(partial),
        },
    )
