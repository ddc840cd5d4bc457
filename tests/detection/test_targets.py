"""What anchors are to learn."""

import jax.numpy as jnp
import numpy as np

from delf_jax.detection.targets import make_targets
from delf_jax.models.detectors.anchors import decode_boxes, grid_anchors


def test_anchors_learn_the_boxes_that_they_overlap():
    anchors = jnp.asarray(grid_anchors((4, 4), [(0.5, 0.5)]))
    boxes = jnp.array([[0.1, 0.1, 0.62, 0.63], [0, 0, 0, 0]])
    targets = make_targets(boxes, jnp.array([True, False]), anchors)
    assert targets.counted.all() and 0 < targets.positive.sum() < 5
    learned = decode_boxes(targets.offsets, anchors)[targets.positive]
    np.testing.assert_allclose(
        learned, jnp.tile(boxes[:1], (len(learned), 1)), atol=1e-6
    )


def test_between_the_thresholds_nothing_is_learned():
    anchors = jnp.array([[0.0, 0, 1, 1], [0, 0, 0.5, 1], [0, 0, 0.1, 0.1]])
    boxes, valid = jnp.array([[0.0, 0, 1, 1]]), jnp.array([True])
    targets = make_targets(boxes, valid, anchors, positive=0.7, negative=0.3)
    assert targets.positive.tolist() == [True, False, False]
    assert targets.counted.tolist() == [True, False, True]


def test_without_boxes_everything_is_background():
    anchors = jnp.asarray(grid_anchors((2, 2), [(0.5, 0.5)]))
    targets = make_targets(jnp.zeros((3, 4)), jnp.zeros(3, bool), anchors)
    assert targets.counted.all() and not targets.positive.any()
    assert jnp.isfinite(targets.offsets).all()
