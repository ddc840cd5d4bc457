"""Variables of ours from those of the original, name by name: oracles of tests."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from delf_jax.conversion.names import keras_name, slim_name


def variables_from_keras(named: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a "keras" layout net from those of the TensorFlow 2 code.

    named: checkpoint keys [delf_spec 9], with or without their suffix, to arrays. The
    constant scale_factor belongs to the loss and is left out.
    """
    flat = {}
    for key, array in named.items():
        name = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
        if name == "scale_factor":
            continue
        ours = keras_name(name)
        if ours is None:
            raise KeyError(name)
        flat[ours] = np.asarray(array)
    return unflatten_dict(flat, sep="/")


def variables_from_slim(named: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a "slim" layout net from those of the TensorFlow 1 code.

    named: checkpoint keys [delf_spec 9] to arrays. Classifiers are 1x1 convolutions
    there and matrices here; the counter global_step is left out.
    """
    flat = {}
    for key, array in named.items():
        if key == "global_step":
            continue
        name, array = slim_name(key), np.asarray(array)
        if name is None:
            raise KeyError(key)
        if "classifier/kernel" in name and array.ndim == 4:
            array = array[0, 0]
        flat[name] = array
    return unflatten_dict(flat, sep="/")
