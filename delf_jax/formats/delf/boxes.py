"""Detected boxes of one image as the original stores them: .boxes."""

import os
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from delf_jax.files import InputError, write_bytes
from delf_jax.formats.delf import messages
from delf_jax.formats.protos import box_pb2


class Boxes(NamedTuple):
    """Boxes with the scores and classes of a detector."""

    boxes: Float[np.ndarray, "N 4"]
    """(y_min, x_min, y_max, x_max) in parts of the image's height and width"""
    scores: Float[np.ndarray, "N"]
    class_indices: Int[np.ndarray, "N"]


def read_boxes(path: str | os.PathLike) -> Boxes:
    """The boxes of a file, float32 and int32; InputError if it is damaged."""
    found = messages.parse(messages.read_bytes(path), box_pb2.Boxes, path).box
    numbers = np.array([(b.ymin, b.xmin, b.ymax, b.xmax, b.score) for b in found])
    numbers = numbers.reshape(-1, 5).astype(np.float32)
    if not np.isfinite(numbers).all():
        raise InputError(f"{path}: a box needs finite numbers")
    classes = np.array([box.class_index for box in found], np.int32)
    return Boxes(numbers[:, :4], numbers[:, 4], classes)


def write_boxes(
    path: str | os.PathLike,
    boxes: Float[np.ndarray, "N 4"],
    scores: Float[np.ndarray, "N"],
    class_indices: Shaped[np.ndarray, "N"],
) -> None:
    """Writes boxes, to the same bytes as the original.

    class_indices may be floats, as detectors give them; InputError if one is not a
    whole number.
    """
    with np.errstate(invalid="ignore"):  # NaN is refused just below.
        classes = class_indices.astype(np.int32)
    if not np.array_equal(classes, class_indices):
        raise InputError(f"{path}: class indices must be whole numbers")
    message = box_pb2.Boxes()
    names = ("ymin", "xmin", "ymax", "xmax", "score")
    for box, score, index in zip(boxes, scores, classes, strict=True):
        numbers = dict(zip(names, [*box.tolist(), float(score)], strict=True))
        message.box.add(**numbers, class_index=int(index))
    write_bytes(path, message.SerializeToString())
