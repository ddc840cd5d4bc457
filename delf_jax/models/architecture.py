"""Networks by name: built from an architecture, their BatchNorm folded."""

import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from delf_jax.models.compact import CompactNet
from delf_jax.models.delf import DELF
from delf_jax.models.delg import DELG
from delf_jax.models.detectors.faster_rcnn import FasterRCNN
from delf_jax.models.detectors.ssd import SSD, MobileNetV2
from delf_jax.models.efficientnet_lite import EfficientNetLite
from delf_jax.models.global_net import GlobalNet
from delf_jax.models.how import HOW
from delf_jax.models.resnet import BASIC_DEPTHS, LAYOUTS, UNITS, ResNet

# Fields of an architecture that are of its backbone.
BACKBONE_FIELDS = (
    "depth",
    "width",
    "layout",
    "normalization",
    "block3_strides",
    "block4_dilation",
)
BACKBONES = {
    "resnet": ResNet,
    "efficientnet_lite2": EfficientNetLite,
    "compact": CompactNet,
    "mobilenet_v2": MobileNetV2,
}
MODELS = {
    "delf": DELF,
    "delg": DELG,
    "global": GlobalNet,
    "how": HOW,
    "ssd": SSD,
    "faster_rcnn": FasterRCNN,
}
# Those that give boxes, not features.
DETECTORS = ("ssd", "faster_rcnn")
CHOICES = {
    "name": tuple(MODELS),
    "backbone": tuple(BACKBONES),
    "depth": tuple(UNITS),
    "layout": tuple(LAYOUTS),
    "normalization": ("batch", "frozen", "folded"),
    "block4_dilation": (1, 2),
    "pooling": ("gem", "spoc", "mac"),
    "crop": ("align", "corners"),
}
POSITIVE = ("width", "attention_width", "gem_power", "image_size", "proposals")


def build(
    architecture: Mapping[str, Any], *, axis_name: str | None = None
) -> nn.Module:
    """The network of an architecture: {"name": "delg", "depth": 26, "width": 32, ...}.

    Every other key is a field of the backbone (a `ResNet`, or what the key "backbone"
    names) or of the named model. ValueError, naming the field, if one is misspelt or
    out of range.
    """
    fields = {"name": None} | dict(architecture)
    for field, choices in CHOICES.items():
        if field in fields and fields[field] not in choices:
            raise ValueError(
                f"architecture.{field} is {fields[field]!r}: use one of "
                + ", ".join(map(str, choices))
            )
    _check_layout(fields)
    name, kind = fields.pop("name"), fields.pop("backbone", "resnet")
    of_kind = {
        "resnet": tuple(MODELS),
        "efficientnet_lite2": ("global", "ssd"),
        "compact": tuple(x for x in MODELS if x != "faster_rcnn"),
        "mobilenet_v2": ("ssd",),
    }
    if name not in of_kind[kind]:
        raise ValueError(
            f"architecture.backbone: {name} has no {kind}; use "
            + " or ".join(of_kind[kind])
        )
    if name in DETECTORS:  # There is one class: landmarks.
        fields.pop("num_classes", None)
    if kind != "resnet" and fields.get("block3_strides") is False:
        del fields["block3_strides"]  # As all the others have it.
    backbone: Any = BACKBONES[kind]
    hints = typing.get_type_hints(backbone) | typing.get_type_hints(MODELS[name])
    _check_types(fields, hints)
    settings = {key: fields.pop(key) for key in BACKBONE_FIELDS if key in fields}
    try:
        return MODELS[name](backbone(**settings, axis_name=axis_name), **fields)
    except TypeError as error:
        message = str(error).split("__init__() ")[-1]
        raise ValueError(f"architecture of {name}: {message}") from None


def _check_types(fields: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Texts, truth values, and numbers that are not below zero; some not zero."""
    for field, value in fields.items():
        good = is_of(value, hints.get(field, object))
        if good and isinstance(value, numbers.Real):
            good = float(value) > 0 if field in POSITIVE else float(value) >= 0
        if not good:
            raise ValueError(f"architecture.{field}: {value!r} is not allowed")


def is_of(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a field: text, numbers (of numpy, too), tuples.

    Numbers are finite; a whole one is also a float, a truth value is none.
    """
    kinds = {int: numbers.Integral, float: numbers.Real}
    if isinstance(hint, types.UnionType):
        return any(is_of(value, kind) for kind in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(is_of(x, kind) for x in value)
    if hint in kinds:
        number = isinstance(value, kinds[hint]) and not isinstance(value, bool)
        return number and math.isfinite(value)
    return isinstance(value, hint)


def _check_layout(architecture: Mapping[str, Any]) -> None:
    """ValueError for what only one of the layouts has."""
    slim = architecture.get("layout") == "slim"
    if slim and architecture.get("depth") in BASIC_DEPTHS:
        raise ValueError(
            f"architecture.depth is {architecture['depth']}: units of the slim layout "
            "have three convolutions; use 26, 50 or 101"
        )
    if not slim and architecture.get("block4_dilation", 1) != 1:
        raise ValueError("architecture.block4_dilation: only the slim layout has it")


def fold_batch_norm(
    module: nn.Module, variables: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """The same network without BatchNorm: kernels and biases contain it.

    Computed in float64, so that folding adds no error of its own.
    """
    flat = flatten_dict(variables, sep="/")
    flat = {name: np.asarray(x, np.float64) for name, x in flat.items()}
    epsilon = module.backbone.epsilon
    folded = {}
    for name, x in flat.items():
        scope, leaf = name.rsplit("/", 1)
        scope = scope.removeprefix("params/")  # a power of GeM is in no layer.
        if name.startswith("batch_stats/") or leaf in ("scale", "offset"):
            continue
        if f"params/{scope}/scale" in flat:
            if leaf == "bias":
                continue
            deviation = np.sqrt(flat[f"batch_stats/{scope}/var"] + epsilon)
            factor = flat[f"params/{scope}/scale"] / deviation
            shift = flat.get(f"params/{scope}/bias", 0)
            shift = (shift - flat[f"batch_stats/{scope}/mean"]) * factor
            folded[f"params/{scope}/bias"] = shift + flat[f"params/{scope}/offset"]
            x = x * factor
        folded[name] = x
    folded = {name: x.astype(np.float32) for name, x in folded.items()}
    backbone = module.backbone.clone(normalization="folded")
    return module.clone(backbone=backbone), unflatten_dict(folded, sep="/")


def expected_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every variable that extraction needs."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    key = jax.ShapeDtypeStruct((2,), jnp.uint32)
    shapes = jax.eval_shape(module.init, key, image)
    return {name: x.shape for name, x in flatten_dict(shapes, sep="/").items()}
