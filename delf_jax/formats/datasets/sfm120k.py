"""Files of SfM-120k [GeM]: its training pairs, and whitening learned from them.

The pairs are in `retrieval-SfM-120k.pkl`, whitening of the global descriptors of
networks for ImageNet in `SFM120k_ResNet101_gem_learned_whitening_config.pkl`, ...
"""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from delf_jax.files import InputError
from delf_jax.formats.pickles import plain_data

_ID = re.compile(r"[A-Za-z0-9_-]{6,}")


class Pairs(NamedTuple):
    """Images, and pairs of them that show the same; ids are places in `images`."""

    images: list[str]
    clusters: Int[np.ndarray, "N"] | None
    """the 3D model that each image belongs to; None in files for whitening"""
    queries: Int[np.ndarray, "P"]
    positives: Int[np.ndarray, "P"]


def read_sfm120k(path: str | os.PathLike) -> dict[str, Pairs]:
    """The pairs of "train" and "val"; of "whiten" in a file that has one part only.

    A pickle may hold plain data and numpy arrays; all else in it is refused.
    """
    content = plain_data.read_pickle(path)
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: not the lists of SfM-120k")
    if "qidxs" in content:
        return {"whiten": _pairs(content, str(path))}
    return {str(part): _pairs(x, f"{path}, {part}") for part, x in content.items()}


def read_whitening(
    path: str | os.PathLike,
) -> tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, "E D"]]:
    """(mean, projection), which is applied to descriptors of unit length.

    The file is the config of a Dense layer of Keras, pickled. InputError if that is not
    a projection of differences from a mean.
    """
    content = plain_data.read_pickle(path)
    kernel, bias = (_constant(content, name, path) for name in ("kernel", "bias"))
    wrong = InputError(f"{path}: its kernel and bias are no whitening")
    if kernel.ndim != 2 or bias.shape != kernel.shape[1:] or 0 in kernel.shape:
        raise wrong
    projection = kernel.T
    try:
        if len(bias) == projection.shape[1]:
            mean = np.linalg.solve(projection, -bias)
        else:
            mean = np.linalg.lstsq(projection, -bias)[0]
    except np.linalg.LinAlgError:
        raise wrong from None
    if not np.allclose(projection @ mean, -bias, rtol=1e-3, atol=1e-3):
        raise wrong
    return mean, projection


def _constant(
    content: Any, name: str, path: str | os.PathLike
) -> Float64[np.ndarray, "..."]:
    """The value of a constant initializer in the config of a layer."""
    value = content
    for key in (f"{name}_initializer", "config", "value"):
        value = value.get(key) if isinstance(value, Mapping) else None
    shape = np.shape(value) if isinstance(value, np.ndarray | list) else ()
    if not shape:
        raise InputError(
            f"{path}: not the config of a layer whose {name}_initializer is a constant"
        )
    return plain_data.read_numbers(value, f"{path}, {name}").reshape(shape)


def image_path(root: str | os.PathLike, image_id: str) -> pathlib.Path:
    """root/ims/.., by the last six characters of the id, two by two from the end."""
    if not _ID.fullmatch(image_id):
        raise InputError(f"{image_id!r:.80} is not an id of SfM-120k")
    folders = image_id[-2:], image_id[-4:-2], image_id[-6:-4]
    return pathlib.Path(root, "ims", *folders, image_id)


def _pairs(content: Any, where: str) -> Pairs:
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: expected a dict of cids, qidxs and pidxs")
    images = content.get("cids", content.get("ids"))
    if not isinstance(images, list) or not all(isinstance(i, str) for i in images):
        raise InputError(f"{where}: cids is not a list of names of images")
    queries, positives = (
        plain_data.read_ids(content.get(name), f"{where}.{name}", 0, len(images))
        for name in ("qidxs", "pidxs")
    )
    if len(queries) != len(positives):
        raise InputError(f"{where}: {len(queries)} queries, {len(positives)} positives")
    clusters = None
    if "cluster" in content:
        numbers = plain_data.read_numbers(content["cluster"], f"{where}.cluster")
        if len(numbers) != len(images) or (np.abs(numbers) >= 2**31).any():
            raise InputError(f"{where}.cluster: not a small number for each image")
        clusters = numbers.astype(np.int32)
    return Pairs(images, clusters, queries, positives)
