"""Google Landmark Boxes [D2R]: the CSVs of landmarks in training images of GLDv1.

    id,box
    97c0a12e07ae8dd5,0.1 0.25 0.9 0.75

A box is top, left, bottom and right, in parts of its image.
"""

import operator
import os
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from delf_jax.files import InputError
from delf_jax.formats import tables


class _Row(NamedTuple):
    id: str
    box: str


def is_gld_boxes(path: str | os.PathLike) -> bool:
    """Whether a CSV has these columns."""
    return {*_Row._fields} <= {*tables.read_header(path)}


def read_gld_boxes(path: str | os.PathLike) -> dict[str, Float32[np.ndarray, "_N 4"]]:
    """The boxes of each image by its id; an empty box is none."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for number, row in enumerate(tables.read_rows(path, _Row), 1):
        boxes = found.setdefault(row.id, [])
        try:
            box = tuple(map(tables.read_float, row.box.split()))
        except ValueError:
            box = (0.0,)
        if len(box) not in (0, 4) or any(map(operator.ge, box[:2], box[2:])):
            raise InputError(
                f"{path}, row {number} ({row.id}): {row.box!r:.80} is not top, left, "
                "bottom, right"
            )
        boxes += [box] if box else []
    return {
        id: np.array(boxes, np.float32).reshape(-1, 4) for id, boxes in found.items()
    }
