"""Weights that Keras saved as .h5: layers with named weights, in the file's order."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from delf_jax.files import InputError

_MAX_NAMES = 100_000


def read_h5(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The weights as {"layer/weight": array} in the order of the file, without ":0".

    Where a weight's own name starts with its layer's, that stands once. Files without
    a list of layers, such as Keras 3's .weights.h5, give their arrays by path.
    InputError if the file holds anything but numbers, or not in itself.
    """
    try:
        import h5py
    except ImportError:
        raise InputError(
            f"{path}: .h5 files are read with h5py; pip install 'delf_jax[h5]'"
        ) from None
    path = pathlib.Path(path)
    weights: dict[str, np.ndarray] = {}
    left = path.stat().st_size if path.is_file() else 0
    try:
        with h5py.File(path, "r") as file:
            for name, dataset in _datasets(file, path):
                left = _take(name, dataset, left, path)
                if name in weights:
                    raise InputError(f"{path}: two weights are called {name}")
                weights[name] = np.asarray(dataset)
    except InputError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:
        raise InputError(f"{path}: not a valid HDF5 file ({error!s:.200})") from None
    if not weights:
        raise InputError(f"{path}: an HDF5 file without weights")
    return weights


def _datasets(file: Any, path: pathlib.Path) -> Iterator[tuple[str, Any]]:
    """Names and datasets of the weights, none of them read."""
    whole_model = "model_weights" in file
    top = _child(file, "model_weights", path) if whole_model else file
    layers = _texts(top, "layer_names", path)
    if not layers:
        found: list[tuple[str, Any]] = []
        # Follows no links, and meets every object once.
        top.visititems(lambda name, item: found.append((name, item)))
        yield from ((n.removesuffix(":0"), x) for n, x in found if hasattr(x, "shape"))
    for layer in layers:
        group = _child(top, layer, path)
        for weight in _texts(group, "weight_names", path):
            name = weight.removeprefix(f"{layer}/").removesuffix(":0")
            yield f"{layer}/{name}", _child(group, weight, path)


def _child(group: Any, name: str, path: pathlib.Path) -> Any:
    """What stands at a/b/c below the group, no link on the way."""
    for part in name.split("/"):
        link = group.get(part, getlink=True)
        if link is None:
            raise InputError(f"{path}: has no {name}")
        if type(link).__name__ != "HardLink":
            raise InputError(f"{path}: {name} is a link, which is not followed")
        group = group[part]
    return group


def _texts(group: Any, attribute: str, path: pathlib.Path) -> list[str]:
    """A list of names; Keras cuts one of more than 64 KB into several attributes."""
    parts = [attribute, *(f"{attribute}{i}" for i in range(len(group.attrs)))]
    texts: list[Any] = []
    for part in parts:
        if part in group.attrs:
            size = group.attrs.get_id(part).get_space().get_simple_extent_npoints()
            if size > _MAX_NAMES:
                raise InputError(f"{path}: {size} {attribute} in {group.name}")
            texts += list(np.atleast_1d(group.attrs[part]))
    return [x.decode("utf-8") if isinstance(x, bytes) else str(x) for x in texts]


def _take(name: str, dataset: Any, left: int, path: pathlib.Path) -> int:
    """The bytes left of the file once this dataset is read; InputError if too few."""
    if not hasattr(dataset, "shape") or dataset.dtype.kind not in "biuf":
        raise InputError(f"{path}: {name} is not an array of numbers")
    if dataset.external or dataset.is_virtual:
        raise InputError(f"{path}: {name} lies in another file, which is not read")
    if dataset.nbytes > left:
        raise InputError(f"{path}: {name} is compressed, or larger than the file")
    return left - dataset.nbytes
