"""Boxes in the JSON of COCO [Lin2014]."""

import os

import numpy as np
from jaxtyping import Float32

from delf_jax.files import InputError, read_json
from delf_jax.manifests import POSITIVE, check

_REPAIR = "expected the instances of COCO"
_ID = (int, str)
_SCHEMA = {
    "images": [{"id": _ID, "file_name": str, "height": POSITIVE, "width": POSITIVE}],
    "annotations": [{"image_id": _ID, "bbox": [float], "iscrowd?": int}],
}


def read_coco(path: str | os.PathLike) -> dict[str, Float32[np.ndarray, "_N 4"]]:
    """The boxes of each image by the name of its file, in parts of height and width.

    Of all categories; a crowd is no box of one thing and left out. InputError if a
    field is not as it must be.
    """
    content = read_json(path)
    check(content, _SCHEMA, path, _REPAIR)
    images = {image["id"]: image for image in content["images"]}
    found: dict[int | str, list[list[float]]] = {id: [] for id in images}
    for number, annotation in enumerate(content["annotations"]):
        id, box = annotation["image_id"], annotation["bbox"]
        where = f"{path}: annotations[{number}]"
        if id not in images:
            raise InputError(f"{where}: image_id {id!r} is no image of this file")
        if len(box) != 4:
            raise InputError(f"{where}: bbox {box!r:.80} is not x, y, width, height")
        if not annotation.get("iscrowd", 0):
            x, y, width, height = box
            found[id].append([y, x, y + height, x + width])
    return {
        image["file_name"]: to_parts(found[id], image["height"], image["width"])
        for id, image in images.items()
    }


def to_parts(
    boxes: list, height: float | int, width: float | int
) -> Float32[np.ndarray, "_N 4"]:
    """Boxes in pixels of an image, in parts of it."""
    pixels = np.array(boxes, float).reshape(-1, 4)
    return (pixels / [height, width, height, width]).astype(np.float32)
