"""What the anchors of a detector are to learn from the boxes of an image."""

from typing import NamedTuple

from jaxtyping import Array, Bool, Float

from delf_jax.models.detectors.anchors import (
    BACKGROUND,
    encode_boxes,
    intersection_over_union,
    match_anchors,
)


class Targets(NamedTuple):
    """Of each anchor of an image."""

    offsets: Float[Array, "A 4"]
    """from the anchor to its box; of one without a box, anything"""
    positive: Bool[Array, " A"]
    counted: Bool[Array, " A"]
    """False of those that are neither right nor wrong"""


def make_targets(
    boxes: Float[Array, "N 4"],
    valid: Bool[Array, " N"],
    anchors: Float[Array, "A 4"],
    positive: float = 0.5,
    negative: float = 0.5,
    forced: bool = True,
) -> Targets:
    """The targets of one image.

    Args:
      boxes: in parts of the image, as the anchors.
      valid: which boxes are no padding.
      positive: overlap from which on an anchor has a box, and
      negative: below which it is background, and
      forced: see `match_anchors`.
    """
    overlaps = intersection_over_union(boxes, anchors)
    rows = match_anchors(overlaps, valid, positive, negative, forced)
    offsets = encode_boxes(boxes[rows.clip(0)], anchors)
    return Targets(offsets, rows >= 0, rows >= BACKGROUND)
