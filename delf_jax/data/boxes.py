"""Boxes of training images, from whatever names them.

A CSV in pixels or a folder of .boxes files, as extraction/boxes.py reads them; a CSV of
Google Landmark Boxes; a COCO file; or a folder of the .xml files of Pascal VOC.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from delf_jax.data.image_lists import LabelledImage, read_record
from delf_jax.extraction import boxes as region_boxes
from delf_jax.files import InputError
from delf_jax.formats.datasets import coco, gld_boxes, voc
from delf_jax.image_files import walk
from delf_jax.images import read_size
from delf_jax.names import finder
from delf_jax.progress import add_note, format_count

Boxes = dict[str, Float32[np.ndarray, "_N 4"]]


def read_boxes(path: str | os.PathLike, records: Sequence[LabelledImage]) -> Boxes:
    """The boxes of images by id, in parts of their height and width.

    Only of images that the file names, or that have a file in the folder; one of these
    may have none. What lies outside of an image is cut off. InputError if no image has
    any box.
    """
    path = pathlib.Path(path)
    if path.suffix == ".json":
        found = _by_ids(coco.read_coco(path), records)
    elif path.is_dir() and (files := walk(path, [voc.SUFFIX])):
        found = _by_ids(voc.read_voc(path, sorted(files)), records)
    elif _is_csv(path) and gld_boxes.is_gld_boxes(path):
        found = _by_ids(gld_boxes.read_gld_boxes(path), records)
    else:
        found = _of_regions(path, records)
    inside = {id: _cut(boxes) for id, boxes in found.items()}
    outside = sum(len(found[id]) - len(boxes) for id, boxes in inside.items())
    if outside:
        where = "nothing of them is inside of their images"
        add_note(f"{path}: {format_count(outside, 'box')} left out: {where}")
    if not any(map(len, inside.values())):
        example = f", such as {records[0].id}" if records else ""
        raise InputError(f"{path}: has no box of the training images{example}")
    return inside


def _is_csv(path: pathlib.Path) -> bool:
    return path.is_file() and path.suffix != region_boxes.SUFFIX


def _by_ids(
    named: dict[str, Float32[np.ndarray, "N 4"]], records: Sequence[LabelledImage]
) -> Boxes:
    """The boxes by ids of images, each of which one name fits."""
    ids = [record.id for record in records]
    find, found = finder(ids), {}
    for name, boxes in named.items():
        if len(places := find(name)) == 1:
            found[ids[places[0]]] = boxes
    return found


def _of_regions(path: pathlib.Path, records: Sequence[LabelledImage]) -> Boxes:
    """Boxes of a CSV or of .boxes files."""
    opened = region_boxes.open_boxes(path)
    of_ids = region_boxes.of_images(opened, [record.id for record in records])
    found: Boxes = {}
    for record in records:
        sources = of_ids.table[record.id]
        if not sources:
            continue
        # files are in parts already
        size = (1, 1) if isinstance(sources[0], pathlib.Path) else _size(record)
        if size is not None:
            pixels = region_boxes.find_boxes(of_ids, record.id, size)[:, :4]
            found[record.id] = (pixels / [*size, *size]).astype(np.float32)
    return found


def _size(record: LabelledImage) -> tuple[int, int] | None:
    """(height, width); None of an image that cannot be used: preparing it says why."""
    try:
        if record.offset < 0:
            return read_size(record.path)
        height, width, _ = read_record(record).shape
        return height, width
    except InputError:
        return None


def _cut(boxes: Float32[np.ndarray, "N 4"]) -> Float32[np.ndarray, "M 4"]:
    inside = np.clip(boxes, 0, 1)
    return inside[(inside[:, :2] < inside[:, 2:]).all(axis=1)]
