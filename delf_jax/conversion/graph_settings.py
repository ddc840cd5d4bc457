"""What a TensorFlow graph says of its network that the weights do not."""

import re
from collections.abc import Sequence
from typing import Any

from delf_jax.formats import graph_def, wire

# The last unit of slim's block3, in ResNet-50 or 101, halves the map, or does not.
LAST_OF_BLOCK3 = r"block3/unit_(?:6|23)/bottleneck_v1/conv2/Conv2D$"
BLOCK4 = r"block4/unit_\d+/bottleneck_v1/conv2/"
# tensorflow/core/framework/attr_value.proto
_BOOLEAN = 5


def architecture_of(nodes: Sequence[graph_def.Node]) -> dict[str, Any]:
    """block3_strides and block4_dilation as far as the nodes tell."""
    found: dict[str, Any] = {}
    pools = [node for node in nodes if node.op == "MaxPool"]
    slim = [node for node in nodes if re.search(LAST_OF_BLOCK3, node.name)]
    if slim:
        found["block3_strides"] = 2 in graph_def.integers(slim[0], "strides")
    elif pools:  # TensorFlow 2's DELF subsamples block3 with a pool of 1x1.
        sizes = [graph_def.integers(node, "ksize") for node in pools]
        found["block3_strides"] = (1, 1, 1, 1) in sizes
    block4 = [node for node in nodes if re.search(BLOCK4, node.name)]
    spread = any(
        node.op == "SpaceToBatchND" or 2 in graph_def.integers(node, "dilations")
        for node in block4
    )
    return found | ({"block4_dilation": 2} if spread else {})


def resize_of(nodes: Sequence[graph_def.Node]) -> dict[str, str]:
    """How the graph samples its pyramid: {"resize": ...}, or {} if it has none."""
    for node in nodes:
        if node.op == "ResizeBilinear":
            centred = graph_def.attribute(node, "half_pixel_centers")
            half_pixel = bool(wire.integer(centred, _BOOLEAN))
            return {"resize": "half_pixel" if half_pixel else "legacy"}
    return {}
