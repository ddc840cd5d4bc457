"""ResNet [He2015] as named stages, of images that fill their array or lie on a canvas.

Two layouts. "keras" is the one of the TensorFlow 2 DELF code: stride in the first 1x1
of a block, convolutions with bias, BatchNorm epsilon 1e-3, the pool without padding.
"v1.5" is the modern one: stride in the 3x3, no bias, epsilon 1e-5, symmetric padding.

A canvas is an array with sides of a fixed grid that holds an image and zeros. Images of
many sizes then share one compiled program; what lies outside the image is zeroed before
each 3x3, as the padding of the unpadded image would be, so that results are equal.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from delf_jax.models.convolution import max_pool_3x3
from delf_jax.models.layers import ConvNorm
from delf_jax.ops import valid_cells, zero_outside

UNITS = {
    18: (2, 2, 2, 2),
    22: (2, 2, 4, 2),
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
}
BASIC_DEPTHS = (18, 22)
STAGES = ("block0", "block0mp", "block1", "block2", "block3", "block4")
# epsilon and momentum of the Keras defaults and of torchvision
LAYOUTS: dict[str, dict[str, Any]] = {
    "keras": {
        "epsilon": 1e-3,
        "momentum": 0.99,
        "use_bias": True,
        "kernel_init": nn.initializers.glorot_uniform(),
    },
    "v1.5": {
        "epsilon": 1e-5,
        "momentum": 0.9,
        "use_bias": False,
        "kernel_init": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    },
}

Images = Float[Array, "B H W 3"]
# Underscores: the maps in and out of one function differ in size.
Map = Float[Array, "B _h _w _C"]
Mask = Bool[Array, "B _h _w"] | None
Sizes = Int[Array, "B 2"]


def canvas_offset(layout: str, side: Any) -> Any:
    """First row (or column) of an image on its canvas; the side may be traced.

    TensorFlow's SAME pads odd sides by one more than even ones in front: the net pads
    its canvas by a fixed 2, and the image moves.
    """
    return side % 2 if layout == "keras" else 0 * side


def canvas_side(layout: str, side: int, grid: int) -> int:
    """Smallest multiple of the grid (itself one of 32) that holds an image side."""
    return -(-(side + canvas_offset(layout, side)) // grid) * grid


def stage_sizes(
    layout: str, size: tuple[Any, Any], block3_strides: bool = False
) -> dict[str, tuple[Any, Any]]:
    """(h, w) of each stage for an image size, of Python or of traced integers."""
    half = [(side + 1) // 2 for side in size]
    if layout == "keras":
        pooled = [(side - 1) // 2 for side in half]
    else:
        pooled = [(side + 1) // 2 for side in half]
    stages = [half, pooled, pooled]
    for _ in range(3):
        stages.append([(side + 1) // 2 for side in stages[-1]])
    if block3_strides:
        stages[4] = stages[5]
    return {name: tuple(sides) for name, sides in zip(STAGES, stages, strict=True)}


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with four times the width, and the shortcut."""

    width: int
    stride: int
    layout: str
    conv: partial

    @nn.compact
    def __call__(self, x: Map, before: Mask, after: Mask, train: bool) -> Map:
        first, second = 1, self.stride
        if self.layout == "keras":
            first, second = second, first
        y = nn.relu(self.conv(self.width, stride=first, name="conv1")(x, train))
        y = zero_outside(y, after if self.layout == "keras" else before)
        y = self.conv(self.width, 3, stride=second, name="conv2")(y, train)
        return _join(self, nn.relu(y), x, 4 * self.width, 1, train)


class Basic(nn.Module):
    """3x3, 3x3, and the shortcut."""

    width: int
    stride: int
    layout: str
    conv: partial

    @nn.compact
    def __call__(self, x: Map, before: Mask, after: Mask, train: bool) -> Map:
        y = zero_outside(x, before)
        y = self.conv(self.width, 3, stride=self.stride, name="conv1")(y, train)
        y = zero_outside(nn.relu(y), after)
        return _join(self, y, x, self.width, 3, train)


def _join(unit: Any, y: Map, x: Map, features: int, kernel: int, train: bool) -> Map:
    """relu(last convolution of y + shortcut of x)."""
    # a residual branch that starts at zero trains faster; the original starts at one
    init = nn.initializers.ones if unit.layout == "keras" else nn.initializers.zeros
    last = f"conv{3 if kernel == 1 else 2}"
    y = unit.conv(features, kernel, scale_init=init, name=last)(y, train)
    if unit.stride != 1 or x.shape[-1] != features:
        x = unit.conv(features, stride=unit.stride, name="shortcut")(x, train)
    return nn.relu(x + y)


class ResNet(nn.Module):
    """The stages of a ResNet; fields as in the header and in `ConvNorm`.

    width: channels of conv1; a bottleneck block1 puts out four times as many.
    block3_strides: halve block3 (and only it: block4 keeps its size), as TF2 DELF can.
    """

    depth: int = 50
    width: int = 64
    layout: str = "v1.5"
    normalization: str = "batch"
    block3_strides: bool = False
    axis_name: str | None = None
    conv3x3: str = "direct"

    @nn.compact
    def __call__(
        self,
        images: Images,
        sizes: Sizes | None = None,
        *,
        train: bool = False,
        last: str = "block4",
    ) -> dict[str, Map]:
        """Named stages up to `last`.

        images: normalised to [-1, 1). sizes: (h, w) of each image on its canvas, at
        `canvas_offset`; without, the images fill the array.
        """
        if train and sizes is not None:
            raise ValueError("sizes: batch statistics would count the empty canvas")
        conv = partial(
            ConvNorm,
            normalization=self.normalization,
            axis_name=self.axis_name,
            conv3x3=self.conv3x3,
            **LAYOUTS[self.layout],
        )
        x = self._conv1(conv, images, sizes is None, train)
        stages = {"block0": nn.relu(x)}
        x, mask = self._pool(x, sizes)
        stages["block0mp"] = x
        unit = Basic if self.depth in BASIC_DEPTHS else Bottleneck
        for block in range(1, STAGES.index(last)):
            width = self.width * 2 ** (block - 1)
            for number in range(1, UNITS[self.depth][block - 1] + 1):
                stride = 2 if block > 1 and number == 1 else 1
                after = mask if mask is None else mask[:, ::stride, ::stride]
                name = f"block{block}_unit{number}"
                x = unit(width, stride, self.layout, conv, name=name)(
                    x, mask, after, train
                )
                mask = after
            stages[f"block{block}"] = x
        if self.block3_strides and "block3" in stages:
            stages["block3"] = stages["block3"][:, ::2, ::2]
        return stages

    def _conv1(self, conv: partial, images: Images, fills: bool, train: bool) -> Map:
        """conv1 and its normalisation."""
        before = [3, 3]
        if self.layout == "keras":
            before = [2 + side % 2 if fills else 2 for side in images.shape[1:3]]
        padding = ((before[0], 3), (before[1], 3))
        return conv(self.width, 7, stride=2, padding=padding, name="conv1")(
            images, train
        )

    def _pool(self, x: Map, sizes: Sizes | None) -> tuple[Map, Mask]:
        """(block0mp, its valid cells). The maximum before the relu: same values."""
        padding = (1, 1) if self.layout == "v1.5" else (0, 0)
        if sizes is None:
            return nn.relu(max_pool_3x3(x, padding)), None
        stages = stage_sizes(self.layout, (sizes[:, 0], sizes[:, 1]))
        inside = valid_cells(x.shape[1:3], jnp.stack(stages["block0"], 1))
        x = jnp.where(inside[..., None], x, -jnp.inf)
        # one more cell than a canvas needs without padding, so that sides stay even
        x = nn.relu(max_pool_3x3(x, (padding[0], 1)))
        return x, valid_cells(x.shape[1:3], jnp.stack(stages["block0mp"], 1))
