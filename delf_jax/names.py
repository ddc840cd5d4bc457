"""Names of variables in the checkpoints of the original code, and ours."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from delf_jax.files import InputError

# names in checkpoints of the TensorFlow 2 code -> ours
KERAS_SCOPES = {
    "backbone/conv1": "backbone/conv1",
    "backbone/bn_conv1": "backbone/conv1",
    "backbone/embedding_layer": "whitening",
    "attention/conv1": "local/attention/conv1",
    "attention/bn_conv1": "local/attention/conv1",
    "attention/conv2": "local/attention/conv2",
    "autoencoder/conv1": "local/autoencoder/reduce",
    "autoencoder/conv2": "local/autoencoder/expand",
    "attn_classification": "local/attention_classifier",
    "desc_classification": "classifier",
}
KERAS_LAYERS = {"2a": "conv1", "2b": "conv2", "2c": "conv3", "_shortcut": "shortcut"}
KERAS_LEAVES = {
    "kernel": "params/{}/kernel",
    "bias": "params/{}/bias",
    "gamma": "params/{}/scale",
    "beta": "params/{}/offset",
    "moving_mean": "batch_stats/{}/mean",
    "moving_variance": "batch_stats/{}/var",
}
# names in checkpoints of the TensorFlow 1 code (slim) -> ours
SLIM_SCOPES = {
    "attention_block/attention/compute/conv1": "local/attention/conv1",
    "attention_block/attention/compute/conv2": "local/attention/conv2",
    "attention_block/logits": "local/attention_classifier",
}
SLIM_LEAVES = {
    "weights": "params/{}/kernel",
    "biases": "params/{}/bias",
    "BatchNorm/gamma": "params/{}/scale",
    "BatchNorm/beta": "params/{}/offset",
    "BatchNorm/moving_mean": "batch_stats/{}/mean",
    "BatchNorm/moving_variance": "batch_stats/{}/var",
}


def variables_from_keras(named: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a "keras" layout net from those of the TensorFlow 2 code.

    named: checkpoint keys [delf_spec 9], with or without their suffix, to arrays. The
    constant scale_factor belongs to the loss and is left out.
    """
    flat = {}
    for key, array in named.items():
        name = key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")
        if name != "scale_factor":
            flat[_keras_name(name)] = np.asarray(array)
    return unflatten_dict(flat, sep="/")


def _keras_name(name: str) -> str:
    if name == "cosine_weights":
        return "params/classifier/kernel"
    scope, _, leaf = name.rpartition("/")
    unit = re.fullmatch(
        r"backbone/l([2-5])([a-z])/(?:conv|bn)(2[abc]|_shortcut)", scope
    )
    if unit:
        stage, letter, layer = unit.groups()
        number = ord(letter) - ord("a") + 1
        scope = f"backbone/block{int(stage) - 1}_unit{number}/{KERAS_LAYERS[layer]}"
    elif scope in KERAS_SCOPES:
        scope = KERAS_SCOPES[scope]
    else:
        raise InputError(f"{name}: not a variable of the TensorFlow 2 DELF or DELG")
    if leaf not in KERAS_LEAVES:
        raise InputError(f"{name}: not a variable of the TensorFlow 2 DELF or DELG")
    return KERAS_LEAVES[leaf].format(scope)


def variables_from_slim(named: Mapping[str, Any]) -> dict[str, Any]:
    """Variables of a "slim" layout net from those of the TensorFlow 1 code.

    named: checkpoint keys [delf_spec 9] to arrays. Classifiers are 1x1 convolutions
    there and matrices here; the counter global_step is left out.
    """
    flat = {}
    for key, array in named.items():
        if key == "global_step":
            continue
        name, array = _slim_name(key), np.asarray(array)
        if "classifier/kernel" in name and array.ndim == 4:
            array = array[0, 0]
        flat[name] = array
    return unflatten_dict(flat, sep="/")


def _slim_name(name: str) -> str:
    match = re.fullmatch(r"(.+?)/((?:BatchNorm/)?[^/]+)", name)
    scope, leaf = match.groups() if match else ("", "")
    unit = re.fullmatch(
        r"resnet_v1_\d+/block([1-4])/unit_(\d+)/bottleneck_v1/(shortcut|conv[123])",
        scope,
    )
    if unit:
        scope = "backbone/block{}_unit{}/{}".format(*unit.groups())
    elif re.fullmatch(r"resnet_v1_\d+/conv1", scope):
        scope = "backbone/conv1"
    elif re.fullmatch(r"resnet_v1_\d+/logits", scope):
        scope = "classifier"
    elif scope in SLIM_SCOPES:
        scope = SLIM_SCOPES[scope]
    else:
        raise InputError(f"{name}: not a variable of a slim ResNet or DELF")
    if leaf not in SLIM_LEAVES:
        raise InputError(f"{name}: not a variable of a slim ResNet or DELF")
    return SLIM_LEAVES[leaf].format(scope)
