"""Matches of pairs of images that a file lists, for programs that go on with them."""

import os
from collections.abc import Iterator, Sequence

import numpy as np

from delf_jax.features import whole_image
from delf_jax.files import InputError, read_text
from delf_jax.names import find_one, finder
from delf_jax.progress import track
from delf_jax.retrieval.matching import match_descriptors
from delf_jax.retrieval.verification import VERIFICATION
from delf_jax.store.feature_store import FeatureStore
from delf_jax.store.interchange import Matched

Pair = tuple[str, str]


def read_pairs(path: str | os.PathLike, images: FeatureStore) -> list[Pair]:
    """The pairs of a file, "A B" in a line, as hloc and COLMAP list them.

    They come as ids, which names meet as names.py says; a repeated pair, either way
    round, is left out. InputError, naming the line, for an image that is not found.
    """
    pairs: dict[frozenset[str], Pair] = {}
    find = finder(images.ids)
    for number, line in enumerate(read_text(path, names=True).split("\n"), 1):
        names = line.split()
        where = f"{path}, line {number}"
        if not names:
            continue
        if len(names) != 2:
            raise InputError(f"{where}: {line!r:.200}: expected two images, A B")
        a, b = (
            images.ids[find_one(find, name, f"{where}: {name!r:.200}", images.path)]
            for name in names
        )
        if a == b:
            raise InputError(f"{where}: {line!r:.200}: expected two images, A B")
        pairs.setdefault(frozenset((a, b)), (a, b))
    if not pairs:
        raise InputError(f"{path}: no pairs; list one a line, as A B")
    return list(pairs.values())


def match_pairs(
    images: FeatureStore, pairs: Sequence[Pair], *, progress: bool = True
) -> Iterator[Matched]:
    """The matches of each pair by descriptors alone: the reader's geometry verifies.

    Matches are mutual nearest neighbours that pass the distance and ratio tests of the
    default verification.
    """
    how = VERIFICATION["default"]
    with track("match", len(pairs), "pair", progress=progress) as advance:
        for pair in pairs:
            a, b = (_descriptors(images, name) for name in pair)
            matches = match_descriptors(
                a, b, max_distance=how.max_distance, ratio=how.ratio, mutual=how.mutual
            )
            cosines = np.einsum("pd,pd->p", a[matches[:, 0]], b[matches[:, 1]])
            yield Matched(pair, len(a), matches, cosines)
            advance()


def _descriptors(images: FeatureStore, name: str) -> np.ndarray:
    local = whole_image(images[images.row(name)]).local
    if local is None:
        raise InputError(f"{images.path}: has no local features to match by")
    return np.asarray(local.descriptors)
