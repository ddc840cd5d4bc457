"""The local descriptors of a feature store, in chunks or by number."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from delf_jax.features import features_per_region, whole_image
from delf_jax.files import InputError
from delf_jax.progress import track
from delf_jax.store.feature_store import FeatureStore, open_store

# Descriptors in memory at a time: 8 MB of 128 dimensions.
CHUNK = 16384


class LocalDescriptors(NamedTuple):
    """The local descriptors of a store, those of boxes left out, and their numbers."""

    store: FeatureStore
    counts: Int64[np.ndarray, "M"]
    dimension: int

    @property
    def total(self) -> int:
        return int(self.counts.sum())


def open_descriptors(path: str | os.PathLike) -> LocalDescriptors:
    """The local descriptors of a store; InputError if it has none."""
    store = open_store(path)
    counts, dimensions = [], set()
    for features in store:
        if features.local is None:
            raise InputError(f"{path}: has no local descriptors")
        counts.append(features_per_region(features)[0])
        dimensions.add(features.local.descriptors.shape[1])
    if not counts:
        raise InputError(f"{path}: an empty store, nothing to fit to")
    if len(dimensions) > 1:
        raise InputError(
            f"{path}: descriptors of several dimensions: extract them again"
        )
    return LocalDescriptors(store, np.array(counts, np.int64), dimensions.pop())


def gather(
    local: LocalDescriptors, rows: Int64[np.ndarray, " S"]
) -> Float32[np.ndarray, "S D"]:
    """Descriptors by their ascending numbers, counted through all images."""
    ends = np.cumsum(local.counts)
    of_rows = np.searchsorted(ends, rows, side="right")
    images, starts = np.unique(of_rows, return_index=True)
    parts = []
    for image, numbers in zip(images, np.split(rows, starts[1:]), strict=True):
        # Those of the whole image, of which the original makes its codebooks.
        found = whole_image(local.store[int(image)]).local
        assert found is not None  # See `open_descriptors`.
        start = ends[image] - local.counts[image]
        parts.append(np.asarray(found.descriptors)[numbers - start])
    sample = np.concatenate(parts)
    if not np.isfinite(sample).all():
        raise InputError(
            f"{local.store.path}: has descriptors that are not finite: extract them "
            "again"
        )
    return sample


def read_chunks(
    local: LocalDescriptors, label: str, progress: bool
) -> Iterator[Float32[np.ndarray, "N D"]]:
    """All descriptors, in the order of the images, CHUNK at a time."""
    ends, done = np.cumsum(local.counts), 0
    with track(label, len(local.store), progress=progress) as advance:
        for start in range(0, local.total, CHUNK):
            stop = min(start + CHUNK, local.total)
            yield gather(local, np.arange(start, stop))
            before, done = done, int(np.searchsorted(ends, stop, side="right"))
            advance(done - before)
