"""Ground truth of the original Oxford5k and Paris6k: four text files for each query.

all_souls_1_query.txt holds the name of a photo and a box in it, x_min y_min x_max
y_max; all_souls_1_good.txt, _ok.txt and _junk.txt hold names of photos, one a line.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from delf_jax.files import InputError, read_text

QUERY = "_query.txt"


class Query(NamedTuple):
    """One query; photos are named without ending."""

    name: str
    """such as all_souls_1: a landmark and a number"""
    photo: str
    box: Float[np.ndarray, "4"]
    """(y_min, x_min, y_max, x_max) in pixels"""
    good: list[str]
    ok: list[str]
    junk: list[str]


def read_ground_truth(folder: str | os.PathLike) -> list[Query]:
    """The queries of a folder, by name; InputError if a file is missing or broken."""
    folder = pathlib.Path(folder)
    queries = sorted(folder.glob(f"[!.]*{QUERY}"))
    if not queries:
        raise InputError(f"{folder}: holds no files *{QUERY} of Oxford5k or Paris6k")
    return [_read_query(path) for path in queries]


def _read_query(path: pathlib.Path) -> Query:
    name = path.name.removesuffix(QUERY)
    words = _read_lines(path)[:1]
    photo, *numbers = words[0].split() if words else [""]
    try:
        box = np.array([float(number) for number in numbers], np.float64)
    except ValueError:
        box = np.zeros(0)
    if len(box) != 4 or not np.isfinite(box).all():
        raise InputError(f"{path}: must hold a name and four numbers")
    files = (f"{name}_{kind}.txt" for kind in ("good", "ok", "junk"))
    lists = [_read_lines(path.with_name(file)) for file in files]
    photo = photo.removeprefix("oxc1_")  # Oxford's files have it before the name.
    return Query(name, photo, box[[1, 0, 3, 2]], *lists)


def _read_lines(path: pathlib.Path) -> list[str]:
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]
