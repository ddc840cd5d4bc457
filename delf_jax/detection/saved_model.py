"""The detectors that the original has released: SavedModels, run by TensorFlow.

d2r_frcnn_20190411 and d2r_mnetssd_20190411, as they are downloaded; the extra [tf] has
TensorFlow.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from delf_jax.files import InputError, digest, sha256_of

GRAPH = "saved_model.pb"
_INPUT = "input_images:0"
_OUTPUTS = ("detection_boxes:0", "detection_scores:0", "detection_classes:0")


class SavedDetector(NamedTuple):
    """A detector in the graph of another program."""

    run: Callable[[UInt8[np.ndarray, "1 H W 3"]], Any]
    """boxes [1, N, 4] in parts of the image, scores [1, N] and classes [1, N]"""
    name: str
    fingerprint: str
    folder: str
    """its absolute path"""


def open_saved_detector(path: str | os.PathLike) -> SavedDetector:
    """The detector of a SavedModel; InputError if it is none, or TensorFlow absent."""
    path = pathlib.Path(path)
    try:
        import tensorflow as tf
    except ImportError:
        raise InputError(
            f"{path}: a SavedModel, which TensorFlow runs: pip install 'delf_jax[tf]'"
        ) from None
    try:
        pruned = tf.saved_model.load(str(path)).prune(_INPUT, list(_OUTPUTS))
    except (AttributeError, KeyError, OSError, ValueError, tf.errors.OpError) as error:
        names = ", ".join(name.removesuffix(":0") for name in (_INPUT, *_OUTPUTS))
        raise InputError(
            f"{path}: no detector as the original's, which has the tensors {names} "
            f"({' '.join(str(error).split())[:100]})"
        ) from None

    def run(images: UInt8[np.ndarray, "1 H W 3"]) -> tuple[np.ndarray, ...]:
        return tuple(x.numpy() for x in pruned(tf.constant(images)))

    files = sorted(p for p in path.rglob("*") if p.is_file())
    fingerprint, whole = digest([*map(sha256_of, files)]), path.resolve()
    return SavedDetector(run, whole.name, fingerprint, str(whole))


def is_saved_model(path: Any) -> bool:
    """Whether this is the folder of one."""
    return isinstance(path, str | os.PathLike) and pathlib.Path(path, GRAPH).is_file()
