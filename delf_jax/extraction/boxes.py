"""Boxes of the parts of images whose features are extracted, too, as [D2R] does.

They come as a CSV with the columns image, y_min, x_min, y_max and x_max, in pixels
of the image, and score, if it has one; or as a folder of the original's .boxes files,
whose boxes are in parts of height and width. Images are named by their ids, with or
without extension.
"""

import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError
from delf_jax.formats import tables
from delf_jax.formats.delf import boxes as delf_boxes

SUFFIX = ".boxes"


class _Row(NamedTuple):
    image: str
    y_min: float
    x_min: float
    y_max: float
    x_max: float


class _Score(NamedTuple):
    score: float


class RegionBoxes(NamedTuple):
    """Where the boxes of images are."""

    path: pathlib.Path
    table: dict[str, Float[np.ndarray, "R 5"]] | None
    """name -> boxes in pixels, and scores; None: they are in files of a folder"""


def open_boxes(path: str | os.PathLike) -> RegionBoxes:
    """The boxes of a CSV or of a folder; InputError, by line, if one makes no sense."""
    path = pathlib.Path(path)
    if path.is_dir():
        return RegionBoxes(path, None)
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
    return RegionBoxes(path, found)


def format_coverage(boxes: RegionBoxes, ids: Sequence[str]) -> str:
    """How many images have boxes; InputError if none has."""
    if boxes.table is None:
        count = sum(_file(boxes, id) is not None for id in ids)
        unknown: set[str] = set()
    else:
        names = [_names(id).keys() & boxes.table.keys() for id in ids]
        count, unknown = sum(map(bool, names)), boxes.table.keys() - set().union(*names)
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
    if boxes.table is None:
        for path in sorted(boxes.path.rglob(f"*{SUFFIX}")):
            found.update(os.fsencode(path.relative_to(boxes.path).as_posix()))
            found.update(path.read_bytes())
    else:
        for name, rows in sorted(boxes.table.items()):
            found.update(name.encode())
            found.update(rows.tobytes())
    return found.hexdigest()


def boxes_of(
    boxes: RegionBoxes, id: str, size: tuple[int, int], settings: ExtractionSettings
) -> Float32[np.ndarray, "R 4"]:
    """The boxes of an image of (height, width) in whole pixels, as they were boxes.

    Those below the threshold are left out, and the weakest, if there are too many. As
    in the released code they are rounded outwards; what lies outside of the image is
    cut off. InputError if nothing is left of one.
    """
    found = _find(boxes, id, size)
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


def _find(
    boxes: RegionBoxes, id: str, size: tuple[int, int]
) -> Float[np.ndarray, "R 5"]:
    """All boxes of an image in pixels, and their scores."""
    nothing = np.zeros((0, 5))
    if boxes.table is not None:
        rows = [boxes.table[name] for name in _names(id) if name in boxes.table]
        return np.concatenate([nothing, *rows])
    path = _file(boxes, id)
    if path is None:
        return nothing
    read = delf_boxes.read_boxes(path)
    # In float32, as the original multiplies them: ceil and floor depend on it.
    pixels = read.boxes * np.array([*size, *size], np.float32)
    found = np.concatenate([pixels, read.scores[:, None]], axis=1)
    _check(found, str(path))
    return found


def _check(found: Float[np.ndarray, "R 5"], where: str) -> None:
    if not np.isfinite(found).all() or not (found[:, :2] < found[:, 2:4]).all():
        raise InputError(
            f"{where}: a box needs finite numbers, y_min < y_max and x_min < x_max"
        )


def _file(boxes: RegionBoxes, id: str) -> pathlib.Path | None:
    paths = (boxes.path / f"{name}{SUFFIX}" for name in _names(id))
    return next((path for path in paths if path.is_file()), None)


def _names(id: str) -> dict[str, None]:
    """What an image may be called, each once."""
    return dict.fromkeys([id, str(pathlib.PurePosixPath(id).with_suffix(""))])
