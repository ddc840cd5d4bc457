"""Average precision, beside a loop over recalls and, where it is there, pycocotools."""

import contextlib
import importlib.util
import io
import json

import numpy as np
import pytest

from delf_jax.evaluation.detection import THRESHOLDS, Found, average_precision


def overlap(one, other):
    sides = [min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1)]
    both = max(sides[0], 0) * max(sides[1], 0)
    return both / (sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)) - both)


def naive_precision(images, threshold):
    """By [Lin2014]'s words: greedily, from the best score of all images on."""
    every = [(s, i, n) for i, x in enumerate(images) for n, s in enumerate(x.scores)]
    taken, right, wrong, curve = set(), 0, 0, []
    for _, i, n in sorted(every, key=lambda entry: -entry[0]):
        left = [m for m in range(len(images[i].truth)) if (i, m) not in taken]
        overlaps = {m: overlap(images[i].boxes[n], images[i].truth[m]) for m in left}
        best = max(overlaps, key=overlaps.get, default=None)
        if best is not None and overlaps[best] >= threshold:
            taken.add((i, best))
            right += 1
        else:
            wrong += 1
        curve.append((right / sum(len(x.truth) for x in images), right, wrong))
    reached = [
        max((r / (r + w) for recall, r, w in curve if recall >= at), default=0.0)
        for at in np.linspace(0, 1, 101)
    ]
    return np.mean(reached)


def random_images(rng, count=6):
    images = []
    for _ in range(count):
        low = rng.uniform(0, 60, (int(rng.integers(0, 4)), 2))
        truth = np.concatenate([low, low + rng.uniform(5, 40, low.shape)], 1)
        moved = truth + rng.normal(0, 3, truth.shape)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        stray = rng.uniform(0, 50, (2, 2))
        stray = np.concatenate([stray, stray + rng.uniform(5, 40, (2, 2))], 1)
        boxes = np.concatenate([moved, stray])
        images.append(Found(boxes, rng.random(len(boxes)), truth))
    return images


@pytest.mark.parametrize("seed", range(5))
def test_it_is_that_of_a_loop_over_recalls(seed):
    images = random_images(np.random.default_rng(seed))
    expected = [naive_precision(images, threshold) for threshold in THRESHOLDS]
    found = average_precision(images)
    assert found["AP"] == pytest.approx(np.mean(expected))
    assert found["AP50"] == pytest.approx(expected[0])
    assert found["AP75"] == pytest.approx(expected[5])


def test_perfect_boxes_are_worth_one_and_none_nothing(rng):
    images = [x for x in random_images(rng) if len(x.truth)]
    perfect = [Found(x.truth, np.ones(len(x.truth)), x.truth) for x in images]
    assert average_precision(perfect) == {"AP": 1.0, "AP50": 1.0, "AP75": 1.0}
    nothing, none = np.zeros((0, 4)), np.zeros(0)
    empty = [Found(nothing, none, x.truth) for x in images]
    assert average_precision(empty)["AP"] == 0
    assert average_precision([Found(nothing, none, nothing)])["AP"] == 0
    assert average_precision([])["AP"] == 0


def test_a_second_box_of_one_thing_is_wrong():
    truth = np.array([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    found = average_precision([Found(boxes, np.array([0.9, 0.8, 0.7]), truth)])
    # recall 0.5 at precision 1, recall 1 at 2/3
    assert found["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)


@pytest.mark.skipif(
    importlib.util.find_spec("pycocotools") is None, reason="no pycocotools"
)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_that_of_pycocotools(seed, tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def as_xywh(box):
        return [box[1], box[0], box[3] - box[1], box[2] - box[0]]

    images = random_images(np.random.default_rng(seed), 12)
    truth, results = [], []
    for i, each in enumerate(images, 1):
        for box in each.truth:
            area = float((box[2] - box[0]) * (box[3] - box[1]))
            entry = {"image_id": i, "category_id": 1, "iscrowd": 0, "area": area}
            truth.append(entry | {"id": len(truth) + 1, "bbox": as_xywh(box)})
        for box, score in zip(each.boxes, each.scores, strict=True):
            entry = {"image_id": i, "category_id": 1, "score": score}
            results.append(entry | {"bbox": as_xywh(box)})
    content = {
        "images": [{"id": i} for i in range(1, len(images) + 1)],
        "annotations": truth,
        "categories": [{"id": 1}],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(str(path))
        evaluation = COCOeval(dataset, dataset.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found = average_precision(images)
    expected = evaluation.stats[:3]
    np.testing.assert_allclose([*found.values()], expected, atol=1e-6)
