"""Boxes of the parts of images whose features are extracted, too, as [D2R] does.

They come as a CSV with the columns image, y_min, x_min, y_max and x_max, in pixels
of the image, and score, if it has one; or as a folder of the original's .boxes files,
whose boxes are in parts of height and width. Images are named by their ids, or by what
fits one of these alone (see names.py).
"""

import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError, encode_name
from delf_jax.formats import tables
from delf_jax.formats.delf import boxes as delf_boxes
from delf_jax.image_files import walk
from delf_jax.names import finder

SUFFIX = ".boxes"


class _Row(NamedTuple):
    image: str
    y_min: float
    x_min: float
    y_max: float
    x_max: float


class _Score(NamedTuple):
    score: float


Source = Float[np.ndarray, "R 5"] | pathlib.Path


class RegionBoxes(NamedTuple):
    """The boxes of images."""

    path: pathlib.Path
    table: dict[str, list[Source]]
    """by name: boxes in pixels with their scores, or a file of some"""


def open_boxes(path: str | os.PathLike) -> RegionBoxes:
    """The boxes of a CSV or of a folder; InputError, by line, if one makes no sense."""
    path = pathlib.Path(path)
    if path.is_dir():
        files = sorted(walk(path, [SUFFIX]))
        names = [file.relative_to(path).with_suffix("").as_posix() for file in files]
        return RegionBoxes(path, {n: [f] for n, f in zip(names, files, strict=True)})
    if path.suffix == SUFFIX:
        raise InputError(f"{path}: boxes of one image; name the folder of such files")
    scores: Iterator[tuple[float]] = itertools.repeat((1.0,))
    if "score" in tables.read_header(path):
        scores = tables.read_rows(path, _Score)
    rows = zip(tables.read_rows(path, _Row), scores, strict=False)
    table: dict[str, list[tuple[float, ...]]] = {}
    for number, (row, score) in enumerate(rows):
        box = (*row[1:], *score)
        _check(np.array([box]), f"{path}, row {number} ({row.image})")
        table.setdefault(row.image, []).append(box)
    found = {name: np.array(rows) for name, rows in table.items()}
    if found and max(numbers[:, :4].max() for numbers in found.values()) <= 1:
        raise InputError(
            f"{path}: its boxes are not in pixels: multiply them by the height and the "
            f"width of their images, or name a folder of {SUFFIX} files"
        )
    return RegionBoxes(path, {name: [rows] for name, rows in found.items()})


def of_images(boxes: RegionBoxes, ids: Sequence[str]) -> RegionBoxes:
    """The boxes by ids; those whose name fits none of these, or several, are left out.

    Each id is a key, also without boxes.
    """
    find = finder(ids)
    met: dict[str, list[Source]] = {id: boxes.table.get(id, []) for id in ids}
    for name, sources in boxes.table.items():
        places = find(name)
        if len(places) == 1 and (id := ids[places[0]]) != name:
            met[id] = met[id] + sources
    return boxes._replace(table=met)


def format_coverage(boxes: RegionBoxes, ids: Sequence[str]) -> str:
    """How many images have boxes; InputError if none has."""
    find, count = finder(ids), sum(map(bool, of_images(boxes, ids).table.values()))
    unknown = [name for name in boxes.table if len(find(name)) != 1]
    if not count:
        raise InputError(
            f"{boxes.path}: names none of the images, such as {ids[0]}: use the "
            "ids that images have in the store"
        )
    text = f"{boxes.path}: boxes of {count} of {len(ids)} images"
    if unknown:
        text += f"; {len(unknown)} names match no image, such as {min(unknown)}"
    return text


def digest(boxes: RegionBoxes) -> str:
    """Another hex string where the boxes are others."""
    found = hashlib.sha256()
    for name, sources in sorted(boxes.table.items(), key=_order):
        for source in sources:
            if isinstance(source, pathlib.Path):
                found.update(encode_name(source.relative_to(boxes.path).as_posix()))
                found.update(source.read_bytes())
            else:
                found.update(encode_name(name))
                found.update(source.tobytes())
    return found.hexdigest()


def _order(entry: tuple[str, list[Source]]) -> Any:
    """Files as paths sort, which is by folders; rows by names."""
    name, (first, *_) = entry
    return first if isinstance(first, pathlib.Path) else name


def boxes_of(
    boxes: RegionBoxes, id: str, size: tuple[int, int], settings: ExtractionSettings
) -> Float32[np.ndarray, "R 4"]:
    """The boxes of an image of (height, width) in whole pixels, in their order.

    `of_images` gives boxes by ids. Those below the threshold are left out, and the
    weakest, if there are too many. As in the released code they are rounded outwards;
    what lies outside of the image is cut off. InputError if nothing is left of one.
    """
    found = find_boxes(boxes, id, size)
    kept = np.flatnonzero(np.float32(found[:, 4]) >= np.float32(settings.box_threshold))
    best = kept[np.argsort(-found[kept, 4], kind="stable")][: settings.max_boxes]
    rows = found[np.sort(best), :4]
    height, width = size
    low = np.maximum(np.floor(rows[:, :2]), 0)
    high = np.minimum(np.ceil(rows[:, 2:]), [height, width])
    for number in np.flatnonzero((low >= high).any(axis=1))[:1].tolist():
        y_min, x_min, y_max, x_max = rows[number].tolist()
        raise InputError(
            f"{boxes.path}: the box ({x_min:.0f}, {y_min:.0f}) to ({x_max:.0f}, "
            f"{y_max:.0f}) lies outside of {id}, which has {width} x {height} pixels"
        )
    return np.concatenate([low, high], axis=1).astype(np.float32)


def find_boxes(
    boxes: RegionBoxes, id: str, size: tuple[int, int]
) -> Float[np.ndarray, "R 5"]:
    """All boxes of an image of (height, width) in pixels, and their scores."""
    found = [_read(source, size) for source in boxes.table.get(id, [])]
    return np.concatenate([np.zeros((0, 5)), *found])


def _read(source: Source, size: tuple[int, int]) -> Float[np.ndarray, "R 5"]:
    """Boxes in pixels of an image of that size, and their scores."""
    if not isinstance(source, pathlib.Path):
        return source
    read = delf_boxes.read_boxes(source)
    # In float32, as the original multiplies them: ceil and floor depend on it.
    pixels = read.boxes * np.array([*size, *size], np.float32)
    found = np.concatenate([pixels, read.scores[:, None]], axis=1)
    _check(found, str(source))
    return found


def _check(found: Float[np.ndarray, "R 5"], where: str) -> None:
    if not np.isfinite(found).all() or not (found[:, :2] < found[:, 2:4]).all():
        raise InputError(
            f"{where}: a box needs finite numbers, y_min < y_max and x_min < x_max"
        )
