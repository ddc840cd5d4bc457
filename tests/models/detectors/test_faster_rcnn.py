"""Faster R-CNN, and its crops beside loops over their points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from delf_jax.models.architecture import build, expected_shapes
from delf_jax.models.detectors.anchors import decode_boxes, grid_anchors
from delf_jax.models.detectors.faster_rcnn import SHAPES, crop_boxes
from tests.helpers.random_models import random_variables

PROPOSALS = 12
ARCHITECTURE = {
    "name": "faster_rcnn",
    "depth": 18,
    "width": 8,
    "image_size": 64,
    "proposals": PROPOSALS,
}


def at_point(features, y, x):
    """The value between four cells; outside of the map that of its border."""
    height, width = features.shape[:2]
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, over = y - top, x - left
    above = (1 - over) * features[top, left] + over * features[top, right]
    below = (1 - over) * features[bottom, left] + over * features[bottom, right]
    return (1 - down) * above + down * below


def naive_align(features, box):
    """[He2017] with four points in each of 7 x 7 cells, of half-pixel centres."""
    height, width = features.shape[:2]
    low = box[0] * height, box[1] * width
    step = (box[2] - box[0]) * height / 7, (box[3] - box[1]) * width / 7
    cells = np.zeros((7, 7, features.shape[2]))
    for i, j in np.ndindex(7, 7):
        for down in (0.25, 0.75):
            for over in (0.25, 0.75):
                y, x = low[0] + (i + down) * step[0], low[1] + (j + over) * step[1]
                cells[i, j] += at_point(features, y - 0.5, x - 0.5) / 4
    return cells


def naive_corners(features, box):
    """tf.image.crop_and_resize to 14 x 14, then the maxima of 2 x 2."""
    height, width = features.shape[:2]
    points = np.zeros((14, 14, features.shape[2]))
    for i, j in np.ndindex(14, 14):
        y = (box[0] + (box[2] - box[0]) * i / 13) * (height - 1)
        x = (box[1] + (box[3] - box[1]) * j / 13) * (width - 1)
        points[i, j] = at_point(features, y, x)
    return points.reshape(7, 2, 7, 2, -1).max((1, 3))


@pytest.mark.parametrize(
    ("crop", "naive"), [("align", naive_align), ("corners", naive_corners)]
)
def test_crops_are_those_of_a_loop_over_points(rng, crop, naive):
    features = rng.normal(size=(6, 9, 3)).astype(np.float32)
    low, sides = rng.uniform(0, 0.6, (4, 2)), rng.uniform(0.01, 0.4, (4, 2))
    boxes = np.concatenate([low, low + sides], 1).astype(np.float32)
    boxes[0], boxes[1] = [0, 0, 1, 1], [0.3, 0.3, 0.3, 0.3]
    found = crop_boxes(jnp.array(features), jnp.array(boxes), crop)
    expected = [naive(features, box) for box in boxes]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_anchors_are_the_released_detectors_at_640_pixels():
    sides = 640 * np.array(SHAPES)
    assert len(sides) == 12
    np.testing.assert_allclose(np.sqrt(sides.prod(1))[:4], [64, 128, 256, 512])
    np.testing.assert_allclose(sides[:, 1] / sides[:, 0], np.repeat([0.5, 1, 2], 4))


@pytest.fixture(scope="module")
def seen():
    """(outputs of two images, those of the second alone)."""
    module, variables = build(ARCHITECTURE), random_variables(ARCHITECTURE)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
    apply = jax.jit(module.apply)
    return apply(variables, images), apply(variables, images[[1, 1]])


def test_proposals_are_the_first_stages_boxes_apart_from_each_other(seen):
    outputs, _ = seen
    assert outputs["proposal_logits"].shape == (2, 4 * 4 * 12)
    assert outputs["box_logits"].shape == (2, PROPOSALS)
    assert outputs["offsets"].shape == outputs["anchors"].shape == (2, PROPOSALS, 4)
    anchors = grid_anchors((4, 4), SHAPES)
    np.testing.assert_allclose(outputs["proposal_anchors"], anchors)
    boxes = decode_boxes(outputs["proposal_offsets"][0], jnp.array(anchors))
    best = np.clip(boxes, 0, 1)[np.argmax(outputs["proposal_logits"][0])]
    np.testing.assert_allclose(outputs["anchors"][0, 0], best, atol=1e-6)


def test_images_of_a_batch_do_not_see_each_other(seen):
    both, alone = seen
    for name in ("box_logits", "offsets", "anchors"):
        np.testing.assert_allclose(both[name][1], alone[name][0], atol=1e-4)


def test_the_second_stage_has_the_fourth_block():
    module = build({**ARCHITECTURE, "depth": 50, "width": 64})
    names = expected_shapes(module)
    assert names["params/block4_unit1/conv3/kernel"] == (1, 1, 512, 2048)
    assert names["params/proposal_hidden/kernel"] == (3, 3, 1024, 512)
    assert not any(name.startswith("params/backbone/block4") for name in names)


def test_a_backbone_of_another_stride_is_refused():
    for backbone in ("compact", "mobilenet_v2", "efficientnet_lite2"):
        with pytest.raises(ValueError, match="faster_rcnn has no"):
            build({"name": "faster_rcnn", "backbone": backbone})
    with pytest.raises(ValueError, match="proposals: 0 is not allowed"):
        build({**ARCHITECTURE, "proposals": 0})
