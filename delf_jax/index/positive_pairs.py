"""Pairs of images that show the same: of a CSV, of SfM-120k's lists, or of folders."""

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from delf_jax.files import InputError, sha256_of
from delf_jax.formats import tables
from delf_jax.formats.datasets import sfm120k
from delf_jax.names import Finder, finder

# In a folder every image is paired with so many that follow it, so that folders of
# many images do not outweigh the others by the square of their number.
PARTNERS = 16
# So many missing images are named.
_NAMED = 5


class ImagePairs(NamedTuple):
    """Names of images, two by two."""

    pairs: list[tuple[str, str]]
    source: str
    sha256: str
    """of the file that lists them"""


class _Row(NamedTuple):
    query: str
    positive: str


def read_pairs(path: str | os.PathLike) -> ImagePairs:
    """The pairs of a CSV with columns query and positive, or of a .pkl of SfM-120k.

    Of the .pkl those of "whiten", or of "train", are taken, by the ids of the images.
    """
    path = pathlib.Path(path)
    if path.suffix == ".pkl":
        parts = sfm120k.read_sfm120k(path)
        part = parts.get("whiten", parts.get("train"))
        if part is None:
            raise InputError(
                f"{path}: expected pairs of whiten or train, got {list(parts)}"
            )
        ids = np.array(part.images)
        sides = ids[part.queries].tolist(), ids[part.positives].tolist()
        pairs = list(zip(*sides, strict=True))
    else:
        pairs = [(row.query, row.positive) for row in tables.read_rows(path, _Row)]
    if not pairs:
        raise InputError(f"{path}: lists no pairs")
    return ImagePairs(pairs, str(path), sha256_of(path))


def pairs_of_folders(ids: Sequence[str]) -> ImagePairs:
    """Pairs of images in one folder; not those whose names begin with "_"."""
    folders: dict[str, list[str]] = {}
    for id in sorted(ids):
        folder = str(pathlib.PurePosixPath(id).parent)
        if folder != "." and not folder.startswith("_"):
            folders.setdefault(folder, []).append(id)
    pairs = [
        (one, other)
        for inside in folders.values()
        for place, one in enumerate(inside, 1)
        for other in inside[place : place + PARTNERS]
    ]
    return ImagePairs(pairs, "images of one folder", "")


def locate(
    pairs: ImagePairs, ids: Sequence[str], where: str | os.PathLike
) -> tuple[Int[np.ndarray, "P 2"], int]:
    """(places of the pairs in `ids`, how many pairs were left out).

    Images are named by their ids, or by what fits one of these alone (see names.py).
    InputError, naming some, if no pair is there.
    """
    find = finder(ids)
    rows = [[*find(a), *find(b)] for a, b in pairs.pairs if _clear(find, a, b)]
    if not rows:
        missing = missing_names(pairs, ids)
        raise InputError(
            f"{where}: has no two images of the pairs ({pairs.source})"
            + (f"; {', '.join(missing[:_NAMED])} are missing" if missing else "")
        )
    return np.array(rows, np.int64), len(pairs.pairs) - len(rows)


def missing_names(pairs: ImagePairs, ids: Sequence[str]) -> list[str]:
    """The names in pairs that fit no image, or several."""
    find = finder(ids)
    names = dict.fromkeys(name for pair in pairs.pairs for name in pair)
    return [name for name in names if not _clear(find, name)]


def _clear(find: Finder, *names: str) -> bool:
    """Whether each name fits one image alone."""
    return all(len(find(name)) == 1 for name in names)
