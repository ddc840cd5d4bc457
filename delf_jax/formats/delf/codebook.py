"""Codebooks of Detect-to-Retrieve [D2R], which are TensorFlow checkpoints."""

import os

import numpy as np
from jaxtyping import Float32

from delf_jax.files import InputError
from delf_jax.formats import lazy_arrays
from delf_jax.formats.tensorflow import tensorbundle

# How the original writes it with TensorFlow 2; how its clustering does, in the style of
# TensorFlow 1.
_KEYS = ("codebook/.ATTRIBUTES/VARIABLE_VALUE", "clusters")


def read_codebook(path: str | os.PathLike) -> Float32[np.ndarray, "K D"]:
    """The centroids; InputError if the checkpoint has none, which the original allows.

    `path` is whatever `tensorbundle.find_bundle` takes.
    """
    bundle = tensorbundle.read_bundle(path)
    key = next((key for key in _KEYS if key in bundle), None)
    if key is None:
        raise InputError(
            f"{path}: no codebook, which would be called {' or '.join(_KEYS)}; there is"
            f" {lazy_arrays.format_arrays(bundle)}"
        )
    entry = bundle.entries[key]
    if entry.dtype != np.float32 or len(entry.shape) != 2 or 0 in entry.shape:
        raise InputError(
            f"{path}: {key} is {entry.dtype} {list(entry.shape)}, and a codebook is"
            " float32 [words, dimensions]"
        )
    centroids = entry.read()
    if not np.isfinite(centroids).all():
        raise InputError(f"{path}: {key} has numbers that are not finite")
    return centroids
