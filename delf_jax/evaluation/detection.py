"""Average precision of detected boxes, as COCO's evaluation measures it [Lin2014]."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
# Boxes of an image that count, and the recalls at which precision is read.
_MOST, _RECALLS = 100, np.linspace(0, 1, 101)


class Found(NamedTuple):
    """The boxes of one image, in any unit, and those that are there."""

    boxes: Float[np.ndarray, "_N 4"]
    scores: Float[np.ndarray, " _N"]
    truth: Float[np.ndarray, "_M 4"]


def average_precision(images: Sequence[Found]) -> dict[str, float]:
    """AP, the mean over THRESHOLDS of overlap, AP50 and AP75; of no truth at all 0."""
    ordered = [_best(each) for each in images]
    scores = np.concatenate([np.zeros(0), *(each.scores for each in ordered)])
    order = np.argsort(-scores, kind="stable")
    truths = sum(len(each.truth) for each in images)
    values = []
    for threshold in THRESHOLDS:
        hits = [_hits(each, threshold) for each in ordered]
        joined = np.concatenate([np.zeros(0, bool), *hits])
        values.append(_area(joined[order], truths))
    return {"AP": float(np.mean(values)), "AP50": values[0], "AP75": values[5]}


def _best(found: Found) -> Found:
    """The boxes that count, best first."""
    order = np.argsort(-found.scores, kind="stable")[:_MOST]
    return found._replace(boxes=found.boxes[order], scores=found.scores[order])


def _hits(found: Found, threshold: float) -> Bool[np.ndarray, " N"]:
    """Which boxes are right: each takes the truth left over that it overlaps most."""
    overlaps = _overlaps(found.boxes, found.truth)
    hits = np.zeros(len(found.boxes), bool)
    for number, row in enumerate(overlaps if len(found.truth) else ()):
        # of equal overlaps COCO takes the last
        best = len(row) - 1 - row[::-1].argmax()
        if row[best] >= min(threshold, 1 - 1e-10):
            hits[number] = True
            overlaps[:, best] = -1
    return hits


def _overlaps(
    boxes: Float[np.ndarray, "N 4"], others: Float[np.ndarray, "M 4"]
) -> Float[np.ndarray, "N M"]:
    """Intersection over union, in float64."""
    boxes, others = boxes.astype(float), others.astype(float)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = np.maximum(high - low, 0).prod(axis=-1)
    areas, theirs = (np.prod(b[:, 2:] - b[:, :2], axis=-1) for b in (boxes, others))
    union = areas[:, None] + theirs[None] - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def _area(hits: Bool[np.ndarray, " N"], truths: int) -> float:
    """The mean over recalls of the best precision at that recall or a higher one."""
    if not truths or not len(hits):
        return 0.0
    right = np.cumsum(hits)
    recall, precision = right / truths, right / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[places].mean())
