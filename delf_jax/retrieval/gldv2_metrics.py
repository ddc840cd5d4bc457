"""Metrics of recognition and retrieval on Google Landmarks v2, as [GLDv2] defines them.

`solution` and `predictions` are by test image: `formats.gldv2` reads them. In
recognition, a solution is the landmark ids that an image shows, none for an image of no
landmark, and a prediction is (landmark id, score). In retrieval both are ids of index
images, predictions best first. Images without a prediction may be absent.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from delf_jax.retrieval.metrics import mean_over_queries

LARGEST_RANK = 100  # what [GLDv2] looks at of a ranking.
Recognitions = Mapping[str, tuple[int, float]]
Landmarks = Mapping[str, Sequence[int]]
Rankings = Mapping[str, Sequence[str]]


def global_average_precision(
    predictions: Recognitions, solution: Landmarks, *, landmarks_only: bool = False
) -> float:
    """Micro average precision over all predictions, best score first.

    Of equal scores, smaller image ids come first. NaN if no image shows a landmark.
    landmarks_only: leave predictions out that are for images of no landmark.
    """
    correct, _ = _ranked(predictions, solution, landmarks_only)
    precisions = np.cumsum(correct) / np.arange(1, len(correct) + 1)
    shown = sum(len(landmark_ids) > 0 for landmark_ids in solution.values())
    return float(precisions[correct].sum() / shown) if shown else float("nan")


def resampled_global_average_precisions(
    predictions: Sequence[Recognitions],
    solution: Landmarks,
    rng: np.random.Generator,
    *,
    samples: int,
    landmarks_only: bool = False,
) -> Float[np.ndarray, "W B"]:
    """`global_average_precision` of W methods over B draws of test images [Efron].

    Images are drawn with replacement, the same ones for all methods, so that their
    differences are paired. One that is drawn n times counts as n images whose scores
    are equal. NaN where no image drawn shows a landmark.
    """
    shows = np.array([len(ids) > 0 for ids in solution.values()], bool)
    ranked = [_ranked(each, solution, landmarks_only) for each in predictions]
    found = np.full((len(predictions), samples), np.nan)
    for sample in range(samples):
        drawn = rng.integers(0, len(shows), len(shows))
        times = np.bincount(drawn, minlength=len(shows))
        shown = times[shows].sum()
        if shown:
            found[:, sample] = [_weighted(c, times[p]) / shown for c, p in ranked]
    return found


def top1_accuracy(predictions: Recognitions, solution: Landmarks) -> float:
    """Share of the images of landmarks that are recognised, whatever the score."""
    return mean_over_queries(top1_hits(predictions, solution))


def top1_hits(
    predictions: Recognitions, solution: Landmarks
) -> Float[np.ndarray, " Q"]:
    """1 for each image that is recognised, 0 else; NaN for one of no landmark."""
    _check_known(predictions, solution)
    hits = [
        float(image_id in predictions and predictions[image_id][0] in landmark_ids)
        if landmark_ids
        else np.nan
        for image_id, landmark_ids in solution.items()
    ]
    return np.array(hits, np.float64)


def mean_average_precision(
    predictions: Rankings, solution: Rankings, largest_rank: int = LARGEST_RANK
) -> float:
    """Mean over all images of the solution of the average precision.

    An image that is found a second time counts for nothing but takes up a place.
    """
    return mean_over_queries(average_precisions(predictions, solution, largest_rank))


def average_precisions(
    predictions: Rankings, solution: Rankings, largest_rank: int = LARGEST_RANK
) -> Float[np.ndarray, " Q"]:
    """The average precision of each image of the solution, in its order."""
    values = []
    for hits, relevant in _hits(predictions, solution, largest_rank):
        precisions = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        values.append(precisions[hits].sum() / max(1, min(relevant, largest_rank)))
    return np.array(values, np.float64)


def mean_precisions(
    predictions: Rankings, solution: Rankings, largest_rank: int = LARGEST_RANK
) -> Float[np.ndarray, " R"]:
    """Mean precision at ranks 1 to R; a shorter list is as if filled up wrongly."""
    found = [hits for hits, _ in _hits(predictions, solution, largest_rank)]
    if not found:
        return np.full(largest_rank, np.nan)
    return np.mean(np.cumsum(found, axis=1), axis=0) / np.arange(1, largest_rank + 1)


def mean_and_median_position(
    predictions: Rankings, solution: Rankings, largest_rank: int = LARGEST_RANK
) -> tuple[float, float]:
    """Mean and median of the rank, from 1, of the first hit; R + 1 if there is none."""
    positions = [
        int(hits.argmax()) + 1 if hits.any() else largest_rank + 1
        for hits, _ in _hits(predictions, solution, largest_rank)
    ]
    if not positions:
        return float("nan"), float("nan")
    return float(np.mean(positions)), float(np.median(positions))


def _ranked(
    predictions: Recognitions, solution: Landmarks, landmarks_only: bool
) -> tuple[Bool[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """Whether predictions are right, and their places in the solution; best first."""
    _check_known(predictions, solution)
    places = {image_id: place for place, image_id in enumerate(solution)}
    asked = [id for id in predictions if solution[id] or not landmarks_only]
    ranked = sorted(asked, key=lambda id: (-predictions[id][1], id))
    correct = np.array([predictions[id][0] in solution[id] for id in ranked], bool)
    return correct, np.array([places[id] for id in ranked], np.int64)


def _weighted(correct: Bool[np.ndarray, " P"], times: Int[np.ndarray, " P"]) -> float:
    """Sum of the precisions at right predictions that stand there several times."""
    right = np.where(correct, times, 0)
    before, right_before = np.cumsum(times) - times, np.cumsum(right) - right
    total = 0.0
    for time in range(1, int(right.max(initial=0)) + 1):
        again = right >= time
        total += ((right_before[again] + time) / (before[again] + time)).sum()
    return float(total)


def _hits(
    predictions: Rankings, solution: Rankings, largest_rank: int
) -> Iterator[tuple[np.ndarray, int]]:
    """For each image, which of its first predictions are right, and how many exist."""
    _check_known(predictions, solution)
    for image_id, relevant in solution.items():
        missing = set(relevant)
        hits = np.zeros(largest_rank, bool)
        for rank, found in enumerate(predictions.get(image_id, ())[:largest_rank]):
            hits[rank] = found in missing
            missing.discard(found)
        yield hits, len(relevant)


def _check_known(predictions: Mapping[str, object], solution: Mapping) -> None:
    for image_id in predictions:
        if image_id not in solution:
            raise ValueError(f"test image {image_id} is not part of the solution")
