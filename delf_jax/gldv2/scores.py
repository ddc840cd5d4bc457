"""What predictions for [GLDv2] are worth, with intervals, and by which solution."""

import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from delf_jax.files import InputError, digest, read_json, sha256_of, write_json
from delf_jax.formats import tables
from delf_jax.formats.datasets import gldv2
from delf_jax.formats.datasets.gldv2 import Predictions, Solution
from delf_jax.retrieval import bootstrap, gldv2_metrics
from delf_jax.retrieval.bootstrap import SAMPLES, Estimate

PARTS = ("Public", "Private")
_KEY = 10  # hex digits of digests that are shown.


class Row(NamedTuple):
    """What one file of predictions scores on one part of the solution."""

    part: str
    file: str
    settings: str
    """of all that the predictions depend on, as a short hex string"""
    images: int
    predicted: int
    values: dict[str, Estimate]


class Scores(NamedTuple):
    """All results of a task."""

    task: str
    solution: str
    version: str
    """SHA-256 of the solution"""
    seed: int
    notes: list[str]
    rows: list[Row]


def write_provenance(path: str | os.PathLike, values: Mapping[str, Any]) -> None:
    """Writes FILE.json beside a file of predictions: how it was made.

    "settings" are hashed to what is printed beside every number; "searched", "partial"
    and "excluded" are notes that are printed, too.
    """
    write_json(f"{path}.json", {**values, "sha256": sha256_of(path)})


def read_provenance(path: str | os.PathLike) -> dict[str, Any]:
    """What `write_provenance` wrote; nothing if the file has changed since."""
    if not os.path.exists(f"{path}.json"):
        return {}
    values = read_json(f"{path}.json")
    current = isinstance(values, dict) and values.get("sha256") == sha256_of(path)
    return values if current else {}


def read_known(path: str | os.PathLike) -> dict[str, int | None]:
    """Images of a table of [GLDv2] and, where it says so, what they show."""
    if "landmark_id" in tables.read_header(path):
        return {row.id: row.landmark_id for row in gldv2.read_train(path)}
    return {row.id: None for row in tables.read_rows(path, gldv2.ImageId)}


def seen_images(
    task: str,
    solution: Solution,
    exclude: Collection[int],
    known: Mapping[str, int | None],
) -> set[str]:
    """Test images that show a landmark to exclude; in retrieval `known` says what."""
    answers = solution.public | solution.private
    if task == "recognition":
        return {id for id, shown in answers.items() if set(shown) & set(exclude)}
    excluded = {id for id, landmark in known.items() if landmark in exclude}
    return {id for id, shown in answers.items() if not excluded.isdisjoint(shown)}


def check_ids(
    path: str | os.PathLike,
    task: str,
    predictions: Predictions,
    known: Mapping[str, int | None],
) -> None:
    """InputError if predictions name an image or a landmark that does not exist."""
    landmarks = set(known.values())
    for image_id, found in (predictions.public | predictions.private).items():
        if task == "recognition":
            bad = [] if found.landmark_id in landmarks else [found.landmark_id]
        else:
            bad = [id for id in found if id not in known]
        if bad:
            raise InputError(
                f"{path}: prediction {bad[0]!r:.80} of test image {image_id} is not "
                "among the known ids"
            )


def score(
    task: str,
    solution_path: str | os.PathLike,
    paths: Sequence[str | os.PathLike],
    *,
    exclude: Collection[int] = (),
    known: Mapping[str, int | None] | None = None,
    intervals: bool = True,
    seed: int = 0,
) -> Scores:
    """Scores of files of predictions, on what is public and what is private.

    As in the original, images without a prediction count as not found.

    Args:
      exclude: landmarks; a second row for each part leaves out test images of these.
      known: images, or landmarks, that may be predicted, as of `read_known`.
      intervals: draw test images, which takes a quarter of a minute on all of [GLDv2].
    """
    solution = gldv2.read_solution(solution_path, task)
    found = [gldv2.read_predictions(path, solution, task) for path in paths]
    for path, predictions in zip(paths, found, strict=True):
        if known is not None:
            check_ids(path, task, predictions, known)
    seen = seen_images(task, solution, exclude, known or {})
    if exclude and not seen:
        raise InputError(
            f"{solution_path}: no test image shows a landmark to exclude; in retrieval "
            "--known=index_image_to_landmark.csv says which images show which"
        )
    rows = []
    for part, left_out in itertools.product(PARTS, [(), seen] if seen else [()]):
        answers = getattr(solution, part.lower())
        kept = {id: shown for id, shown in answers.items() if id not in left_out}
        if kept:
            predicted = [
                {id: p for id, p in getattr(each, part.lower()).items() if id in kept}
                for each in found
            ]
            name = f"{part}, unseen" if left_out else part
            rng = np.random.default_rng(seed) if intervals else None
            rows += _rows(task, name, kept, predicted, paths, rng)
    if not rows:
        raise InputError(f"{solution_path}: no public or private images")
    notes = _notes(task, solution, found, paths)
    if seen:
        notes.append(
            f"unseen: without the {len(seen)} test images of landmarks to exclude"
        )
    return Scores(
        task=task,
        solution=pathlib.Path(solution_path).name,
        version=sha256_of(solution_path),
        seed=seed,
        notes=notes,
        rows=rows,
    )


def _settings_key(path: str | os.PathLike) -> str:
    settings = read_provenance(path).get("settings")
    if settings is None:  # Made elsewhere.
        return f"file {sha256_of(path)[:_KEY]}"
    return digest(settings, _KEY)


def _rows(
    task: str,
    part: str,
    solution: Mapping[str, Sequence],
    predictions: Sequence[Mapping[str, Any]],
    paths: Sequence[str | os.PathLike],
    rng: np.random.Generator | None,
) -> list[Row]:
    values = measure(task, predictions, solution, rng)
    return [
        Row(
            part=part,
            file=pathlib.Path(path).name,
            settings=_settings_key(path),
            images=len(solution),
            predicted=len(each),
            values=found,
        )
        for path, each, found in zip(paths, predictions, values, strict=True)
    ]


def _notes(
    task: str,
    solution: Solution,
    found: Sequence[Predictions],
    paths: Sequence[str | os.PathLike],
) -> list[str]:
    """What the numbers do not say of themselves."""
    answers = solution.public | solution.private
    notes = [
        f"{len(solution.public)} public and {len(solution.private)} private images, "
        f"{len(solution.ignored)} ignored"
    ]
    empty = sum(shown in ([], [""]) for shown in answers.values())
    if empty and task == "retrieval":
        notes.append(
            f"{empty} images have no positives and count as 0, as in the original"
        )
    for path, predictions in zip(paths, found, strict=True):
        name = pathlib.Path(path).name
        predicted = predictions.public | predictions.private
        if len(predicted) < len(answers):
            notes.append(
                f"{name}: no prediction for {len(answers) - len(predicted)} of "
                f"{len(answers)} images, which count as not found"
            )
        if task == "retrieval":
            twice = sum(len(set(ids)) < len(ids) for ids in predicted.values())
            if twice:
                notes.append(f"{name}: {twice} rankings list an image twice")
        provenance = read_provenance(path)
        if provenance.get("searched"):
            notes.append(f"{name}: {provenance['searched']}")
        notes += [f"{name}: PARTIAL, {n}" for n in provenance.get("partial", ())]
        if provenance.get("excluded"):
            notes.append(f"{name}: made without {provenance['excluded']}")
    return notes


RANKS = (1, 5, 10, 50, 100)
# Draws for precisions over all predictions, each of which ranks 77 000 images: the ends
# of an interval are good to about a thirtieth of its width.
GAP_SAMPLES = 1000


def measure(
    task: str,
    predictions: Sequence[Mapping],
    solution: Mapping,
    rng: np.random.Generator | None,
) -> list[dict[str, Estimate]]:
    """The numbers of each of the predictions, by name; intervals if there is `rng`."""
    of_task = _recognition if task == "recognition" else _retrieval
    columns = of_task(predictions, solution, rng).items()
    return [
        {name: column[place] for name, column in columns}
        for place in range(len(predictions))
    ]


def _recognition(
    predictions: Sequence[Mapping], solution: Mapping, rng: np.random.Generator | None
) -> dict[str, list[Estimate]]:
    columns = {}
    for name, only in (("GAP", False), ("GAP of landmarks", True)):
        found = [
            gldv2_metrics.global_average_precision(p, solution, landmarks_only=only)
            for p in predictions
        ]
        draw = functools.partial(
            gldv2_metrics.resampled_global_average_precisions,
            predictions,
            solution,
            samples=GAP_SAMPLES,
            landmarks_only=only,
        )
        columns[name] = _with_intervals(found, draw, rng)
    hits = np.array([gldv2_metrics.top1_hits(p, solution) for p in predictions])
    columns["top-1"] = _with_intervals(
        [gldv2_metrics.top1_accuracy(p, solution) for p in predictions],
        functools.partial(bootstrap.resampled_means, hits, samples=SAMPLES),
        rng,
    )
    return columns


def _retrieval(
    predictions: Sequence[Mapping], solution: Mapping, rng: np.random.Generator | None
) -> dict[str, list[Estimate]]:
    values = np.array(
        [gldv2_metrics.average_precisions(p, solution) for p in predictions]
    )
    draw = functools.partial(bootstrap.resampled_means, values, samples=SAMPLES)
    columns = {"mAP@100": _with_intervals(values.mean(axis=1).tolist(), draw, rng)}
    precisions = [gldv2_metrics.mean_precisions(p, solution) for p in predictions]
    for k in RANKS:
        columns[f"P@{k}"] = [Estimate(float(each[k - 1])) for each in precisions]
    positions = [
        gldv2_metrics.mean_and_median_position(p, solution) for p in predictions
    ]
    columns["mean position"] = [Estimate(mean) for mean, _ in positions]
    columns["median position"] = [Estimate(median) for _, median in positions]
    return columns


def _with_intervals(
    values: Sequence[float],
    draw: Callable[..., Float[np.ndarray, "W B"]],
    rng: np.random.Generator | None,
) -> list[Estimate]:
    if rng is not None:
        drawn = draw(rng=rng)
        # Draws without a landmark say nothing.
        drawn = drawn[:, ~np.isnan(drawn).any(axis=0)]
        if drawn.shape[1]:
            return bootstrap.estimates(values, drawn)
    return [Estimate(float(value)) for value in values]
