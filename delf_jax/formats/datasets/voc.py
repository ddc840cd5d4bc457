"""Boxes in the .xml files of Pascal VOC [Everingham2010], one for each image."""

import pathlib
from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float32

from delf_jax.files import InputError, reading
from delf_jax.formats.datasets.coco import to_parts
from delf_jax.formats.tables import read_float

SUFFIX = ".xml"
_SIDES = ("ymin", "xmin", "ymax", "xmax")


def read_voc(
    folder: pathlib.Path, files: Sequence[pathlib.Path]
) -> dict[str, Float32[np.ndarray, "_N 4"]]:
    """The boxes of each image by the name of its .xml file, in parts of its sides.

    Of all classes. InputError, naming the file, if it is not of this form.
    """
    return {
        file.relative_to(folder).with_suffix("").as_posix(): _read(file)
        for file in files
    }


def _read(path: pathlib.Path) -> Float32[np.ndarray, "_N 4"]:
    try:
        with reading(path):
            root = ElementTree.fromstring(path.read_bytes())
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: not valid XML ({error})") from None
    height, width = (
        _number(root, f"size/{name}", path) for name in ("height", "width")
    )
    boxes = [
        [_number(each, f"bndbox/{name}", path) for name in _SIDES]
        for each in root.iter("object")
    ]
    if min(height, width) < 1:
        raise InputError(f"{path}: an image of {width:g} x {height:g} pixels is none")
    # pixels are counted from 1, and the last one belongs to the box
    first = [[y - 1, x - 1, y_max, x_max] for y, x, y_max, x_max in boxes]
    return to_parts(first, height, width)


def _number(element: ElementTree.Element, name: str, path: pathlib.Path) -> float:
    try:
        return read_float(element.findtext(name) or "")
    except ValueError:
        raise InputError(
            f"{path}: {element.tag} has no number {name}; expected a file of Pascal VOC"
        ) from None
