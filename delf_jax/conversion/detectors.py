"""The original's detectors, by the names of TensorFlow's object-detection API.

Both say of two classes, nothing and landmark, how likely each is; ours says one number.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from delf_jax.conversion import names
from delf_jax.files import InputError
from delf_jax.models.detectors import faster_rcnn, ssd
from delf_jax.models.detectors.anchors import CENTRE_SCALE

Variables = dict[str, np.ndarray]

_UNIT = r"unit_(\d+)/bottleneck_v1/(shortcut|conv[123])"
_FIRST, _SECOND = "FirstStage", "SecondStage"
_RESNET = r"FeatureExtractor/resnet_v1_\d+"
FASTER_RCNN_SCOPES = {
    rf"{_FIRST}{_RESNET}/conv1": "backbone/conv1",
    rf"{_FIRST}{_RESNET}/block([123])/{_UNIT}": "backbone/block{}_unit{}/{}",
    rf"{_SECOND}{_RESNET}/block4/{_UNIT}": "block4_unit{}/{}",
    r"Conv": "proposal_hidden",
    rf"{_FIRST}BoxPredictor/ClassPredictor": "proposal_logits",
    rf"{_FIRST}BoxPredictor/BoxEncodingPredictor": "proposal_offsets",
    rf"{_SECOND}BoxPredictor/ClassPredictor": "logits",
    rf"{_SECOND}BoxPredictor/BoxEncodingPredictor": "offsets",
}
_MOBILENET = "FeatureExtractor/MobilenetV2/"
_SSD_LEAVES = names.SLIM_LEAVES | {"depthwise_weights": "params/{}/kernel"}
_PREDICTORS = {"Class": "logits", "BoxEncoding": "offsets"}
# Pixels of the photo's shorter side as the released Faster R-CNN sees it are 600; at
# 640 its anchors are ours. Its anchors are centred on the corners of cells of 16.
_SIDE, _STRIDE = 640, 16
# What the API's configs have, unless a --set says something else.
_PROPOSALS, _SSD_SIDE = 300, 300


def faster_rcnn_name(name: str) -> str | None:
    """Our name of a variable of a Faster R-CNN; None if it is not one."""
    theirs, leaf = _split(name)
    for pattern, ours in FASTER_RCNN_SCOPES.items():
        if (found := re.fullmatch(pattern, theirs)) and leaf in names.SLIM_LEAVES:
            return names.SLIM_LEAVES[leaf].format(ours.format(*found.groups()))
    return None


def ssd_name(name: str) -> str | None:
    """Our name of a variable of an SSD on MobileNetV2; None if it is not one."""
    theirs, leaf = _split(name)
    scope = _ssd_scope(theirs)
    return _SSD_LEAVES[leaf].format(scope) if scope and leaf in _SSD_LEAVES else None


def _split(name: str) -> tuple[str, str]:
    """(scope, leaf) of a variable."""
    found = re.fullmatch(r"(.+?)/((?:BatchNorm/)?[^/]+)", name.removesuffix(":0"))
    return (found[1], found[2]) if found else ("", "")


def _ssd_scope(theirs: str) -> str | None:
    inside = theirs.removeprefix(_MOBILENET)
    if inside != theirs:
        if inside in ("Conv", "Conv_1"):
            return "backbone/stem" if inside == "Conv" else "backbone/head"
        if unit := re.fullmatch(
            r"expanded_conv(?:_(\d+))?/(expand|depthwise|project)", inside
        ):
            return f"backbone/{_unit_of(int(unit[1] or 0), unit[2])}"
        if extra := re.fullmatch(
            r"layer_19_(1|2)_Conv2d_(\d)_(?:1x1|3x3_s2)_\d+(_depthwise)?", inside
        ):
            layer = "reduce" if extra[1] == "1" else "project"
            return f"map{int(extra[2]) + 1}_{'depthwise' if extra[3] else layer}"
    if found := re.fullmatch(
        r"BoxPredictor_(\d)/(Class|BoxEncoding)Predictor(_depthwise)?", theirs
    ):
        return f"map{int(found[1]) + 1}_{_PREDICTORS[found[2]]}{found[3] or ''}"
    return None


def _unit_of(block: int, layer: str) -> str:
    """The scope of a layer of a block that is counted through all stages."""
    for number, stage in enumerate(ssd.STAGES, 1):
        if block < stage.units:
            if (number, block + 1) == ssd.WIDENED and layer == "expand":
                return f"stage{number}_widen"
            return f"stage{number}_unit{block + 1}/{layer}"
        block -= stage.units
    return f"stage{len(ssd.STAGES)}_unit{ssd.STAGES[-1].units + block + 1}/{layer}"


def infer_architecture(shapes: Mapping[str, Any], depth: int | None) -> dict[str, Any]:
    """The detector that has variables of these names and shapes.

    InputError if it is an SSD of another kind than ours.

    Args:
      depth: of a Faster R-CNN's ResNet.
    """
    if depth is not None:
        width = shapes.get("params/backbone/conv1/kernel", (64,))[-1]
        return {
            "name": "faster_rcnn",
            "depth": depth,
            "width": width,
            "layout": "slim",
            "image_size": _SIDE,
            "proposals": _PROPOSALS,
            "crop": "corners",
        }
    if "params/map1_logits_depthwise/kernel" not in shapes:
        raise InputError(
            "an SSD whose boxes are predicted by plain convolutions, and ours are by "
            "one of each channel: use the folder of its SavedModel as it is as --model"
        )
    width = shapes.get("params/backbone/stem/kernel", (32,))[-1]
    return {
        "name": "ssd",
        "backbone": "mobilenet_v2",
        "width": width,
        "image_size": _SSD_SIDE,
    }


def adapt(variables: Variables, architecture: Mapping[str, Any]) -> Variables:
    """The same boxes and chances as our network computes them.

    InputError if there are other classes than landmarks.
    """
    if architecture["name"] == "ssd":
        return {name: _of_ssd(name, x) for name, x in variables.items()}
    return {name: _of_stages(name, x, architecture) for name, x in variables.items()}


def _of_ssd(name: str, x: np.ndarray) -> np.ndarray:
    if name.endswith("depthwise/kernel"):  # One of each channel.
        return x.swapaxes(2, 3)
    if re.search(r"map\d_logits/(kernel|bias)$", name):
        x = _of_two(name, x)[..., 1]  # Its chance is a sigmoid, of each class alone.
        return x - np.float32(ssd.PRIOR) if name.endswith("bias") else x
    return x


def _of_stages(name: str, x: np.ndarray, architecture: Mapping[str, Any]) -> np.ndarray:
    scope = name.split("/")[1]
    if scope in ("logits", "proposal_logits"):
        two = _of_two(name, x)  # A softmax of two is a sigmoid of their difference.
        x = two[..., 1] - two[..., 0]
    if scope in ("logits", "offsets") and x.ndim == 4:
        x = x[0, 0]
    if name == "params/proposal_offsets/bias" and x.size == 4 * len(faster_rcnn.SHAPES):
        # From the centres of cells to their corners.
        sides = architecture["image_size"] * np.array(faster_rcnn.SHAPES)
        moved = x.reshape(-1, 4).astype(np.float64)
        moved[:, :2] -= CENTRE_SCALE * _STRIDE / 2 / sides
        x = moved.reshape(-1).astype(np.float32)
    return x


def _of_two(name: str, x: np.ndarray) -> np.ndarray:
    """The numbers of each anchor for nothing and for a landmark, on the last axis."""
    anchors = 1
    if "map1_" in name:
        anchors = 3
    elif "map" in name:
        anchors = 6
    elif "proposal" in name:
        anchors = len(faster_rcnn.SHAPES)
    if x.shape[-1] != 2 * anchors:
        raise InputError(
            f"{name} has {x.shape[-1]} numbers a cell, expected {2 * anchors}: only "
            "detectors of one class, landmarks, are converted"
        )
    return x.reshape(*x.shape[:-1], anchors, 2)
