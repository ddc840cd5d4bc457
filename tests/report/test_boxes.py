"""Boxes drawn into photos."""

import numpy as np

from delf_jax.report.boxes import SIDE, draw_boxes


def coloured(image):
    return np.ptp(image.astype(int), axis=2) > 80


def test_boxes_are_drawn_where_they_are_with_their_scores():
    image = np.zeros((200, 300, 3), np.uint8)
    boxes = np.float32([[20, 30, 180, 200], [100, 100, 150, 290]])
    drawn = coloured(draw_boxes(image, boxes, np.float32([0.9, 0.4])))
    assert drawn.shape == (200, 300)
    assert drawn[20, 30:200].all() and drawn[179, 30:200].all()
    assert drawn[20:180, 30].all() and drawn[20:180, 199].all()
    assert drawn[149, 210:290].all() and not drawn[:, 291:].any()
    assert drawn[22:30, 32:40].mean() > 0.5  # The score's background.


def test_a_large_photo_is_shrunk_and_its_boxes_are():
    image = np.zeros((2 * SIDE, SIDE, 3), np.uint8)
    box = np.float32([[SIDE, SIDE // 2, 2 * SIDE, SIDE]])
    drawn = draw_boxes(image, box, np.float32([0.9]))
    assert drawn.shape == (SIDE, SIDE // 2, 3)
    rows, columns = np.nonzero(coloured(drawn))
    assert (rows.min(), columns.min()) == (SIDE // 2, SIDE // 4)
    assert (rows.max(), columns.max()) == (SIDE - 1, SIDE // 2 - 1)


def test_odd_boxes_and_photos_can_be_drawn():
    scores = np.float32([1, 0.5, 0.2])
    boxes = np.float32([[-5, -5, 50, 50], [0, 0, 0, 0], [40, 40, 60, 60]])
    for size in ((1, 1), (1, 3000), (10, 10)):
        drawn = draw_boxes(np.zeros((*size, 3), np.uint8), boxes, scores)
        assert min(drawn.shape[:2]) >= 1
    many = np.tile(boxes, (300, 1))
    draw_boxes(np.zeros((40, 40, 3), np.uint8), many, np.tile(scores, 300))
