"""Predictions for [GLDv2] from its images: features, search or recognition, a CSV.

Rows are in the order of the list of test images.
"""

import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError, digest
from delf_jax.formats.datasets import gldv2
from delf_jax.formats.datasets.gldv2 import Solution
from delf_jax.gldv2 import collection, recognition_task, retrieval_task, scores
from delf_jax.gldv2.collection import Images, Listing
from delf_jax.image_files import find_images
from delf_jax.progress import format_count
from delf_jax.retrieval import voting
from delf_jax.retrieval.verification import VERIFICATION
from delf_jax.search import matching, steps
from delf_jax.search.pipeline import Pipeline
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
    """leave out images that are missing"""


def retrieve(
    inputs: PredictionInputs,
    out: str | os.PathLike,
    pipeline: Pipeline,
    *,
    progress: bool = True,
) -> list[str]:
    """Writes the most similar index images of each test image; returns a summary."""
    verified = pipeline[-1] == "verification"
    opened = _open(inputs, "index", "retrieval", verified, progress)
    test, index = opened.test, opened.other
    size = inputs.settings.size_bounds
    how = matching.verification_settings(model=inputs.model)
    ranked = retrieval_task.rank(test, index, pipeline, size, how, progress=progress)
    predictions = dict(zip(test.ids, ranked, strict=True))
    numbered = [[step, steps.STEPS.get(step, (None, None))[1]] for step in pipeline]
    settings: dict[str, Any] = {"rerank": numbered}
    if verified:
        settings["verification"] = [list(how), CANDIDATES]
    return _write(inputs, out, "retrieval", predictions, settings, opened)


def recognise(
    inputs: PredictionInputs,
    out: str | os.PathLike,
    options: recognition_task.Options,
    non_landmarks: str | os.PathLike | None = None,
    *,
    progress: bool = True,
) -> list[str]:
    """Writes which landmark each test image shows; returns a summary.

    Non-landmarks are a folder of photos that show none.
    """
    others, verified = None, bool(options.verified)
    opened = _open(inputs, "train", "recognition", verified, progress)
    test, train = opened.test, opened.other
    if non_landmarks is not None:
        others = _open_non_landmarks(inputs, non_landmarks, test, progress)
        counts = f"{len(others.ids)} images, {len(others.store.failed)} failed"
        opened.summary.append(f"non-landmarks: {counts}")
    size = inputs.settings.size_bounds
    found = recognition_task.recognise(
        test, train, options, size, others, progress=progress
    )
    predictions = dict(zip(test.ids, found, strict=True))
    settings = {
        **options._asdict(),
        "verification": [list(VERIFICATION["default"]), voting.ENOUGH_INLIERS],
        "averaged": voting.NON_LANDMARKS,
        "non_landmarks": None if others is None else digest("\n".join(others.ids), 16),
    }
    return _write(inputs, out, "recognition", predictions, settings, opened)


class _Opened(NamedTuple):
    test: Images
    other: Images
    """of the index or training images"""
    partial: list[str]
    """notes on what is missing"""
    summary: list[str]
    searched: str
    """the line of the summary on `other`"""


def _open(
    inputs: PredictionInputs, split: str, task: str, verified: bool, progress: bool
) -> _Opened:
    """Test images and those they are compared with, extracted."""
    settings, model = inputs.settings, inputs.model
    if verified and not (settings.max_features and model.has_local):
        raise InputError(f"model {model.name} gives no local features to verify by")
    if not settings.global_scales:
        raise InputError("global descriptors are needed: set global_scales")
    listing = collection.list_images(inputs.data, "test", inputs.test_list)
    other = collection.list_images(
        inputs.data, split, inputs.other_list, exclude=inputs.exclude
    )
    partial, summary = [], []
    if inputs.solution is not None:
        solution = gldv2.read_solution(inputs.solution, task)
        ignored = set(solution.ignored) & set(listing.ids)
        if ignored:
            listing = collection.drop_images(listing, ignored)
            summary.append(f"test: {len(ignored)} images that the solution ignores")
        partial += _not_listed(inputs, solution, listing, other)
    opened = []
    for each in (listing, other):
        images, missing = collection.extract(
            each, inputs.data, inputs.features, model, settings, progress=progress
        )
        partial += collection.check_whole(
            each.split, len(each.ids), missing, partial=inputs.partial
        )
        left = f", {each.excluded} excluded" if each.excluded else ""
        if each.unlabelled:
            left += f", {each.unlabelled} without a landmark left out"
        summary.append(
            f"{each.split}: {len(images.ids)} images of {each.table.name}{left}"
        )
        opened.append(images)
    test, others = opened
    return _Opened(test, others, partial, summary, summary[-1])


def _not_listed(
    inputs: PredictionInputs, solution: Solution, listing: Listing, other: Listing
) -> list[str]:
    """What the solution needs and the lists leave out; InputError unless partial."""
    answers = solution.public | solution.private
    needed = {"test": (set(answers), set(listing.ids))}
    if other.split == "index" and not inputs.exclude:
        relevant = {id for ids in answers.values() for id in ids if id}
        needed["index"] = (relevant, set(other.ids))
    notes = []
    for split, (wanted, listed) in needed.items():
        absent = sorted(wanted - listed)
        if absent:
            notes.append(
                f"{split}: {len(absent)} of the {len(wanted)} images that the solution "
                f"counts are not listed, such as {absent[0]}"
            )
    if notes and not inputs.partial:
        raise InputError(f"{notes[0]}; list them, or score the others with --partial")
    return notes


def _open_non_landmarks(
    inputs: PredictionInputs, folder: str | os.PathLike, test: Images, progress: bool
) -> Images:
    photos = find_images([folder])
    shared = {path.stem for _, path in photos} & set(test.ids)
    if shared:
        raise InputError(
            f"{folder}: {min(shared)} is a test image; images that are known to show "
            "no landmark give the answer away: use other photos"
        )
    out = pathlib.Path(inputs.features, "non_landmarks")
    feature_store.extract_to_store(
        photos, out, inputs.model, inputs.settings, progress=progress
    )
    found = feature_store.open_store(out)
    names = [name for name, _ in photos if name not in found.failed]
    if not names:
        raise InputError(f"{folder}: none of the photos can be used")
    rows = np.array([found.row(name) for name in names])
    return Images(names, None, found, rows)


def _write(
    inputs: PredictionInputs,
    out: str | os.PathLike,
    task: str,
    predictions: dict[str, Any],
    settings: dict[str, Any],
    opened: _Opened,
) -> list[str]:
    """Writes predictions and how they were made; returns the summary."""
    gldv2.write_predictions(out, predictions, task)
    excluded = None
    if inputs.exclude:
        excluded = f"{len(inputs.exclude)} landmarks, as --exclude says"
    partial = sorted(opened.partial)
    settings = {
        "task": task,
        "model and extraction": feature_store.store_key(inputs.model, inputs.settings),
        **settings,
        "searched": digest("\n".join(opened.other.ids), 16),
        "excluded": sorted(inputs.exclude),
        "partial": partial,
    }
    provenance = {
        "model": inputs.model.name,
        "settings": settings,
        "searched": opened.searched,
        "excluded": excluded,
        "partial": partial,
    }
    scores.write_provenance(out, provenance)
    count = format_count(len(predictions), "prediction")
    return [*opened.summary, f"{out}: {count}", *opened.partial]
