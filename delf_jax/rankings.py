"""Rankings that were made elsewhere."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from delf_jax.datasets import Dataset
from delf_jax.files import InputError, read_json


def read_rankings(path: str | os.PathLike, dataset: Dataset) -> Int[np.ndarray, "Q M"]:
    """Rankings that were made elsewhere: {query: [photo, ...]}, best first, as JSON.

    Names are those of the ground truth. InputError unless each query ranks each photo
    once.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: no rankings; it holds no dict of query to photos")
    places = {photo.name: place for place, photo in enumerate(dataset.index)}
    rankings = np.zeros((len(dataset.queries), len(places)), np.int32)
    for query, photo in enumerate(dataset.queries):
        names = content.get(photo.name)
        if not isinstance(names, list):
            raise InputError(f"{path}: has no ranking for query {photo.name!r}")
        unknown = [name for name in names if not _known(name, places)]
        if unknown:
            raise InputError(
                f"{path}: query {photo.name!r} ranks {unknown[0]!r:.80}, which is no "
                "photo of the index"
            )
        if len(set(names)) < len(names):
            raise InputError(f"{path}: query {photo.name!r} ranks a photo twice")
        if len(names) < len(places):
            raise InputError(
                f"{path}: query {photo.name!r} ranks {len(names)} photos of "
                f"{len(places)}; rank all"
            )
        rankings[query] = [places[name] for name in names]
    return rankings


def _known(name: Any, places: Mapping[str, int]) -> bool:
    return isinstance(name, str) and name in places
