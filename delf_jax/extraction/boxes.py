"""Boxes of the parts of images whose features are extracted, too, as [D2R] does.

They are given as a CSV with the columns image, y_min, x_min, y_max and x_max, in pixels
of the image, and score, if it has one; or as a folder of the original's .boxes files,
whose boxes are in parts of height and width. Images are named by their ids, with or
without extension.
"""

import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32

from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError
from delf_jax.formats import tables
from delf_jax.formats.delf import boxes

SUFFIX = ".boxes"


class _Row(NamedTuple):
    image: str
    y_min: float
    x_min: float
    y_max: float
    x_max: float


class _ScoredRow(NamedTuple):
    image: str
    y_min: float
    x_min: float
    y_max: float
    x_max: float
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
        raise InputError(f"{path}: of one image; give the folder of such files")
    kind = _ScoredRow if "score" in tables.read_header(path) else _Row
    table: dict[str, list[tuple[float, ...]]] = {}
    for number, row in enumerate(tables.read_rows(path, kind)):
        box = (*row[1:5], *(row[5:] or (1.0,)))
        _check(np.array([box]), f"{path}, row {number} ({row.image})")
        table.setdefault(row.image, []).append(box)
    found = {name: np.array(rows) for name, rows in table.items()}
    if found and max(rows[:, :4].max() for rows in found.values()) <= 1:
        raise InputError(
            f"{path}: its boxes are not in pixels: multiply them by the height and the "
            f"width of their images, or give a folder of {SUFFIX} files"
        )
    return RegionBoxes(path, found)


def format_coverage(given: RegionBoxes, ids: Sequence[str]) -> str:
    """Of how many images boxes are given; InputError if of none."""
    if given.table is None:
        count = sum(_file(given, id) is not None for id in ids)
        unknown = set()
    else:
        names = [_names(id).keys() & given.table.keys() for id in ids]
        count, unknown = sum(map(bool, names)), given.table.keys() - set().union(*names)
    if not count:
        raise InputError(
            f"{given.path}: names none of the images, such as {ids[0]}: boxes belong "
            "to the ids that images have in the store"
        )
    text = f"{given.path}: boxes of {count} of {len(ids)} images"
    if unknown:
        text += f"; {len(unknown)} names are of no image, such as {min(unknown)}"
    return text


def digest(given: RegionBoxes) -> str:
    """Another hex string where the boxes are others."""
    found = hashlib.sha256()
    if given.table is None:
        for path in sorted(given.path.rglob(f"*{SUFFIX}")):
            found.update(path.relative_to(given.path).as_posix().encode())
            found.update(path.read_bytes())
    else:
        for name, rows in sorted(given.table.items()):
            found.update(name.encode())
            found.update(rows.tobytes())
    return found.hexdigest()


def boxes_of(
    given: RegionBoxes, id: str, size: tuple[int, int], settings: ExtractionSettings
) -> Float32[np.ndarray, "R 4"]:
    """The boxes of an image of (height, width) in whole pixels, as they were given.

    Those below the threshold are left out, and the weakest, if there are too many. As
    in the released code they are rounded outwards; what lies outside of the image is
    cut off. InputError if nothing is left of one.
    """
    found = _find(given, id, size)
    kept = np.flatnonzero(np.float32(found[:, 4]) >= np.float32(settings.box_threshold))
    best = kept[np.argsort(-found[kept, 4], kind="stable")][: settings.max_boxes]
    chosen = found[np.sort(best), :4]
    height, width = size
    low = np.maximum(np.floor(chosen[:, :2]), 0)
    high = np.minimum(np.ceil(chosen[:, 2:]), [height, width])
    for number in np.flatnonzero((low >= high).any(axis=1))[:1].tolist():
        y_min, x_min, y_max, x_max = chosen[number].tolist()
        raise InputError(
            f"{given.path}: the box ({x_min:.0f}, {y_min:.0f}) to ({x_max:.0f}, "
            f"{y_max:.0f}) holds nothing of {id}, which has {width} x {height} pixels"
        )
    return np.concatenate([low, high], axis=1).astype(np.float32)


def _find(
    given: RegionBoxes, id: str, size: tuple[int, int]
) -> Float[np.ndarray, "R 5"]:
    """All boxes of an image in pixels, and their scores."""
    nothing = np.zeros((0, 5))
    if given.table is not None:
        rows = [given.table[name] for name in _names(id) if name in given.table]
        return np.concatenate([nothing, *rows])
    path = _file(given, id)
    if path is None:
        return nothing
    read = boxes.read_boxes(path)
    # In float32, as the original multiplies them: ceil and floor depend on it.
    pixels = read.boxes * np.float32([*size, *size])
    found = np.concatenate([pixels, read.scores[:, None]], axis=1)
    _check(found, str(path))
    return found


def _check(found: Float[np.ndarray, "R 5"], where: str) -> None:
    if not np.isfinite(found).all() or not (found[:, :2] < found[:, 2:4]).all():
        raise InputError(
            f"{where}: a box needs finite numbers, y_min < y_max and x_min < x_max"
        )


def _file(given: RegionBoxes, id: str) -> pathlib.Path | None:
    paths = (given.path / f"{name}{SUFFIX}" for name in _names(id))
    return next((path for path in paths if path.is_file()), None)


def _names(id: str) -> dict[str, None]:
    """What an image may be called, each once."""
    return dict.fromkeys([id, str(pathlib.PurePosixPath(id).with_suffix(""))])
