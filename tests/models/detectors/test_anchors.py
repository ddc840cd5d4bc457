"""Boxes of detectors, beside loops over them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, strategies
from hypothesis.extra import numpy as arrays

from delf_jax.models.detectors import anchors


def naive_overlap(one, other):
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    both = max(height, 0) * max(width, 0)
    union = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)) - both
    return both / union if union else 0.0


def naive_match(overlaps, valid, positive, negative):
    """As the original's matcher: thresholds, then the best anchor of each box."""
    matched = []
    for column in overlaps.T:
        column = [x if v else -1 for x, v in zip(column, valid, strict=True)]
        best = int(np.argmax(column))
        if column[best] >= positive:
            matched.append(best)
        else:
            ignored = column[best] >= negative
            matched.append(anchors.IGNORED if ignored else anchors.BACKGROUND)
    for row in reversed(range(len(overlaps))):
        if valid[row]:
            matched[int(np.argmax(overlaps[row]))] = row
    return matched


def naive_suppression(boxes, scores, most, iou):
    kept = []
    for row in np.argsort(-scores, kind="stable"):
        apart = all(naive_overlap(boxes[row], boxes[k]) <= iou for k in kept)
        if apart and scores[row] > -np.inf and len(kept) < most:
            kept.append(int(row))
    return kept


def random_boxes(rng, count):
    low, sides = rng.uniform(0, 0.7, (count, 2)), rng.uniform(0.05, 0.5, (count, 2))
    return np.concatenate([low, low + sides], 1).astype(np.float32)


def test_overlaps_are_those_of_a_loop(rng):
    boxes, others = random_boxes(rng, 7), random_boxes(rng, 5)
    boxes[2] = others[3]
    found = anchors.intersection_over_union(jnp.array(boxes), jnp.array(others))
    expected = [[naive_overlap(a, b) for b in others] for a in boxes]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[2, 3] == 1


def test_empty_and_turned_boxes_overlap_nothing():
    boxes = jnp.array([[0.2, 0.2, 0.2, 0.2], [0.5, 0.5, 0.1, 0.1], [0, 0, 1, 1.0]])
    found = np.asarray(anchors.intersection_over_union(boxes, boxes))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, np.diag([0, 0, 1]))


@given(arrays.arrays(np.float32, (6, 4), elements=strategies.floats(0, 1, width=32)))
def test_what_is_coded_is_decoded(corners):
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:] + 0.01], 1)
    own = random_boxes(np.random.default_rng(1), 6)
    offsets = anchors.encode_boxes(jnp.array(boxes), jnp.array(own))
    again = anchors.decode_boxes(offsets, jnp.array(own))
    np.testing.assert_allclose(again, boxes, atol=2e-5)


def test_boxes_are_coded_as_in_the_released_detectors():
    """As FasterRcnnBoxCoder with scale factors 10, 10, 5, 5 codes these."""
    boxes = jnp.array([[10.0, 10.0, 20.0, 15.0], [0.2, 0.1, 0.5, 0.4]])
    own = jnp.array([[15.0, 12.0, 30.0, 18.0], [0.1, 0.0, 0.7, 0.9]])
    # the numbers of the original's own test, before its scale factors
    expected = [
        [-0.5, -0.416666, -0.405465, -0.182321],
        [-0.083333, -0.222222, -0.693147, -1.098612],
    ]
    found = anchors.encode_boxes(boxes, own) / jnp.array([[10.0, 10, 5, 5]])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_wild_offsets_stay_finite():
    wild = jnp.array([[1e4, -1e4, 1e6, -1e6]])
    found = anchors.decode_boxes(wild, jnp.array([[0.0, 0, 1, 1]]))
    assert np.isfinite(found).all()


def test_there_are_as_many_anchors_as_in_the_released_ssd():
    shapes = anchors.ssd_shapes(6)
    maps = [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
    found = [anchors.grid_anchors(*each) for each in zip(maps, shapes, strict=True)]
    assert sum(map(len, found)) == 1917
    # the first three, about the centre of the first cell
    first, half = found[0][:3], 0.5 / 19
    np.testing.assert_allclose((first[:, :2] + first[:, 2:]) / 2, half, atol=1e-6)
    sides = [[0.1, 0.1], [0.1414214, 0.2828427], [0.2828427, 0.1414214]]
    np.testing.assert_allclose(first[:, 2:] - first[:, :2], sides, atol=1e-6)
    last = found[-1][:, 2:] - found[-1][:, :2]
    np.testing.assert_allclose(last[[0, -1]], [[0.95] * 2, [0.95**0.5] * 2], rtol=1e-6)


def test_anchors_follow_the_cells_row_by_row():
    found = anchors.grid_anchors((2, 4), [(0.1, 0.1), (0.2, 0.1)])
    centres = (found[:, :2] + found[:, 2:]) / 2
    np.testing.assert_allclose(centres[2], [0.25, 0.375], rtol=1e-6)
    np.testing.assert_allclose(centres[8], [0.75, 0.125], rtol=1e-6)


@pytest.mark.parametrize("thresholds", [(0.5, 0.5), (0.7, 0.3)])
def test_matches_are_those_of_a_loop(rng, thresholds):
    for _ in range(20):
        boxes, own = random_boxes(rng, 4), random_boxes(rng, 30)
        valid = rng.random(4) < 0.7
        overlaps = anchors.intersection_over_union(jnp.array(boxes), jnp.array(own))
        found = anchors.match_anchors(overlaps, jnp.array(valid), *thresholds)
        expected = naive_match(np.asarray(overlaps), valid, *thresholds)
        assert found.tolist() == expected


def test_every_box_has_an_anchor_however_small_and_padding_none():
    boxes = jnp.array([[0.5, 0.5, 0.501, 0.501], [0.0, 0.0, 0.0, 0.0]])
    own = jnp.array(anchors.grid_anchors((3, 3), [(0.5, 0.5)]))
    overlaps = anchors.intersection_over_union(boxes, own)
    found = anchors.match_anchors(overlaps, jnp.array([True, False]))
    assert found.tolist() == [-1] * 4 + [0] + [-1] * 4


def test_boxes_that_are_not_forced_may_have_no_anchor():
    own = jnp.array(anchors.grid_anchors((3, 3), [(0.5, 0.5)]))
    overlaps = anchors.intersection_over_union(jnp.array([[0.5, 0.5, 0.51, 0.51]]), own)
    found = anchors.match_anchors(overlaps, jnp.array([True]), forced=False)
    assert found.tolist() == [-1] * 9


@pytest.mark.parametrize("iou", [0.3, 0.6, 1.0])
def test_suppression_is_that_of_a_loop(rng, iou):
    suppress = jax.jit(functools.partial(anchors.suppress, most=12, iou=iou))
    for _ in range(10):
        boxes, scores = random_boxes(rng, 40), rng.random(40).astype(np.float32)
        scores[rng.random(40) < 0.3] = -np.inf
        scores[5] = scores[7]  # ties are broken by the order
        rows, valid = suppress(jnp.array(boxes), jnp.array(scores))
        expected = naive_suppression(boxes, scores, 12, iou)
        assert np.asarray(rows)[np.asarray(valid)].tolist() == expected
        assert np.asarray(valid).tolist() == [i < len(expected) for i in range(12)]


def test_images_of_a_batch_are_suppressed_each_by_itself(rng):
    boxes = np.stack([random_boxes(rng, 20) for _ in range(3)])
    scores = rng.random((3, 20)).astype(np.float32)
    scores[1] = -np.inf
    run = jax.jit(jax.vmap(functools.partial(anchors.suppress, most=5, iou=0.4)))
    rows, valid = map(np.asarray, run(boxes, scores))
    for i in range(3):
        expected = naive_suppression(boxes[i], scores[i], 5, 0.4)
        assert rows[i][valid[i]].tolist() == expected
    assert not valid[1].any()
