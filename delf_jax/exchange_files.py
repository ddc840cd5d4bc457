"""The files of the original that hold the features of one image."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from delf_jax.files import InputError
from delf_jax.formats import datum, delf_features
from delf_jax.ops import Features, LocalFeatures

LOCAL, GLOBAL = "local", "global"
# What the files of an image are called, by layout.
SUFFIXES = {
    "delf": {LOCAL: ".delf"},
    "delg": {LOCAL: ".delg_local", GLOBAL: ".delg_global"},
}
Paths = Mapping[str, pathlib.Path]


class Kind(NamedTuple):
    """What every image of a store must have: lengths of descriptors; None: none."""

    local: int | None
    globe: int | None


def encode_image(features: Features, layout: str) -> dict[str, bytes]:
    """The bytes of each file of an image, by its ending."""
    suffixes, files = SUFFIXES[layout], {}
    if features.local is not None:
        local = delf_features.DelfFeatures(*map(np.asarray, features.local))
        files[suffixes[LOCAL]] = delf_features.encode_delf_features(local)
    if features.global_descriptor is not None and GLOBAL in suffixes:
        descriptor = np.asarray(features.global_descriptor, np.float32)
        files[suffixes[GLOBAL]] = datum.encode_datum(descriptor)
    return files


def common_kind(images: Any) -> Kind:
    """What the images have: branches of any, lengths of the first that say them.

    InputError if a branch has damaged files alone.
    """
    lengths: dict[str, int] = {}
    for branch in sorted({branch for paths in images for branch in paths}):
        damage = None
        for path in sorted(paths[branch] for paths in images if branch in paths):
            try:
                lengths[branch] = _read_branch(branch, path).shape[-1]
            except InputError as error:
                damage = damage or error
                continue
            if lengths[branch]:
                break
        if branch not in lengths:
            raise damage
    return Kind(lengths.get(LOCAL), lengths.get(GLOBAL))


def _read_branch(branch: str, path: pathlib.Path) -> np.ndarray:
    """The descriptors [N, D] or the global descriptor [D] of a file."""
    if branch == LOCAL:
        return delf_features.read_delf_features(path).descriptors
    descriptor = datum.read_datum(path)
    if descriptor.ndim != 1 or descriptor.dtype != np.float32 or not len(descriptor):
        raise InputError(f"{path}: holds no global descriptor")
    return descriptor


def read_image(paths: Paths, kind: Kind, size: tuple[int, int]) -> Features:
    """The features of an image; InputError if they are not of the common kind."""
    for branch, wanted in zip((LOCAL, GLOBAL), kind, strict=True):
        if wanted is not None and branch not in paths:
            other = next(iter(paths.values()))
            raise InputError(f"{other}: other images have {branch} features, too")
    local = descriptor = None
    if kind.local is not None:
        read = delf_features.read_delf_features(paths[LOCAL])
        descriptors = read.descriptors
        if not len(descriptors):
            descriptors = np.zeros((0, kind.local), np.float32)
        _check_length(paths[LOCAL], descriptors.shape[1], kind.local)
        local = LocalFeatures(read.locations, read.scales, descriptors, read.attention)
    if kind.globe is not None:
        descriptor = _read_branch(GLOBAL, paths[GLOBAL])
        _check_length(paths[GLOBAL], len(descriptor), kind.globe)
    return Features(local, descriptor, size)


def _check_length(path: pathlib.Path, length: int, wanted: int) -> None:
    if length != wanted:
        raise InputError(
            f"{path}: descriptors of {length} dimensions, where others have {wanted}"
        )
