"""Which boxes of which index images the feature files of a regional index hold [D2R].

`index_mapping.csv` has a line for each feature file: its name without extension, the
index image (a place in the list of index images) and the box.
"""

import os
from collections.abc import Iterable
from typing import NamedTuple

from delf_jax.files import InputError
from delf_jax.formats import tables

WHOLE_IMAGE = -1  # the box id of the features of a whole image.


class IndexBox(NamedTuple):
    """A feature file of an index."""

    name: str
    index_image_id: int
    box_id: int
    """0, 1, ... or WHOLE_IMAGE"""


def read_index_mapping(path: str | os.PathLike) -> list[IndexBox]:
    """The lines of a mapping; InputError, by line, if a number is out of range."""
    boxes = list(tables.read_rows(path, IndexBox))
    for number, box in enumerate(boxes):
        if box.index_image_id < 0 or box.box_id < WHOLE_IMAGE:
            raise InputError(
                f"{path}, row {number} ({box.name}): image {box.index_image_id} and "
                f"box {box.box_id} must count from 0, and the whole image is box -1"
            )
    return boxes


def write_index_mapping(path: str | os.PathLike, boxes: Iterable[IndexBox]) -> None:
    """Writes a mapping as the original does."""
    tables.write_rows(path, IndexBox._fields, boxes)
