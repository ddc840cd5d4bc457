"""ResNet [He2015] as named stages, of images that fill their array or lie on a canvas.

Four layouts. "keras" is the one of the TensorFlow 2 DELF code: stride in the first 1x1
of a block, convolutions with bias, BatchNorm epsilon 1e-3, the pool without padding.
"v1" is the one of [He2015] and keras.applications: as "keras", but symmetric padding,
of the pool too, and epsilon 1e-5.
"v1.5" is the modern one: stride in the first 3x3, no bias, epsilon 1e-5, symmetric
padding. "slim" is the one of the TensorFlow 1 models: stride in the last 3x3 of a block
(so block1 halves, and block4 does not), a shortcut without weights there, no bias,
epsilon 1e-5, symmetric padding but for the pool, which pads as SAME does.

A canvas is an array with sides of a fixed grid that holds an image and zeros. Images of
many sizes then share one compiled program; what lies outside the image is zeroed before
each 3x3, as the padding of the unpadded image would be, so that results are equal.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from delf_jax.models.layers import ConvNorm, MaxPool
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
STRIDE_IN_FIRST = ("keras", "v1")
# epsilon and momentum of the Keras defaults, of torchvision and of slim's arg scope
_KERAS: dict[str, Any] = {
    "epsilon": 1e-3,
    "momentum": 0.99,
    "use_bias": True,
    "kernel_init": nn.initializers.glorot_uniform(),
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "keras": _KERAS,
    "v1": _KERAS | {"epsilon": 1e-5},
    "v1.5": {
        "epsilon": 1e-5,
        "momentum": 0.9,
        "use_bias": False,
        "kernel_init": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    },
    "slim": {
        "epsilon": 1e-5,
        "momentum": 0.997,
        "use_bias": False,
        "kernel_init": nn.initializers.he_normal(),
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
    stages = [half, pooled]
    for block in range(1, 5):
        stride = block_stride(layout, block, block3_strides)
        stages.append([-(-side // stride) for side in stages[-1]])
    if block3_strides:
        stages[4] = stages[5]
    return {name: tuple(sides) for name, sides in zip(STAGES, stages, strict=True)}


def pool_padding(layout: str, side: Any) -> tuple[Any, Any]:
    """(before, after) of the pool for a side of block0."""
    return {"keras": (0, 0), "slim": (side % 2, 1)}.get(layout, (1, 1))


def block_stride(layout: str, block: int, block3_strides: bool) -> int:
    """How much smaller block 1, 2, 3 or 4 makes its map."""
    if layout == "slim":
        return 2 if block < 3 or (block == 3 and block3_strides) else 1
    return 2 if block > 1 else 1


def unit_strides(
    depth: int, layout: str, block: int, block3_strides: bool
) -> list[int]:
    """The stride of each unit of a block."""
    strides = [1] * UNITS[depth][block - 1]
    strides[-1 if layout == "slim" else 0] = block_stride(layout, block, block3_strides)
    return strides


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with four times the width, and the shortcut."""

    width: int
    stride: int
    layout: str
    conv: partial
    dilation: int = 1

    @nn.compact
    def __call__(self, x: Map, before: Mask, after: Mask, train: bool) -> Map:
        first, second, inside = 1, self.stride, before
        if self.layout in STRIDE_IN_FIRST:
            first, second, inside = self.stride, 1, after
        y = nn.relu(self.conv(self.width, stride=first, name="conv1")(x, train))
        conv2 = self.conv(self.width, 3, second, dilation=self.dilation, name="conv2")
        y = conv2(zero_outside(y, inside), train)
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
    init = nn.initializers.zeros if unit.layout == "v1.5" else nn.initializers.ones
    last = f"conv{3 if kernel == 1 else 2}"
    y = unit.conv(features, kernel, scale_init=init, name=last)(y, train)
    if x.shape[-1] != features or (unit.stride != 1 and unit.layout != "slim"):
        x = unit.conv(features, stride=unit.stride, name="shortcut")(x, train)
    else:
        x = x[:, :: unit.stride, :: unit.stride]
    return nn.relu(x + y)


class ResNet(nn.Module):
    """The stages of a ResNet; fields as in the header and in `ConvNorm`.

    width: channels of conv1; a bottleneck block1 puts out four times as many.
    block3_strides: halve block3, as DELF does, to stride 32. In "slim" its last unit
    does so and block4 keeps that size; elsewhere block3 is subsampled for those who ask
    for it, and block4 is the same either way.
    block4_dilation: 2 spreads the 3x3 of slim's block4, whose stride is 16 without
    block3_strides, as in a net of stride 32.
    """

    depth: int = 50
    width: int = 64
    layout: str = "v1.5"
    normalization: str = "batch"
    block3_strides: bool = False
    block4_dilation: int = 1
    axis_name: str | None = None
    compute_dtype: str | None = None  # "bfloat16": of all maps; the stages are float32.

    @nn.compact
    def __call__(
        self,
        images: Images,
        sizes: Sizes | None = None,
        *,
        train: bool = False,
        last: str = "block4",
    ) -> dict[str, Map]:
        """Named stages up to `last`; to train, batch statistics are used.

        Args:
          images: normalised to [-1, 1).
          sizes: (h, w) of each image on its canvas, at `canvas_offset`; without, the
            images fill the array.
        """
        if train and sizes is not None and self.normalization == "batch":
            raise ValueError("sizes: batch statistics would count the empty canvas")
        conv = partial(
            ConvNorm,
            normalization=self.normalization,
            axis_name=self.axis_name,
            **LAYOUTS[self.layout],
        )
        dtype = images.dtype
        images = images.astype(self.compute_dtype or dtype)
        x = self._conv1(conv, images, sizes is None, train)
        stages = {"block0": nn.relu(x)}
        x, mask = self._pool(x, sizes)
        stages["block0mp"] = x
        unit: Any = Basic if self.depth in BASIC_DEPTHS else Bottleneck
        for block in range(1, STAGES.index(last)):
            width = self.width * 2 ** (block - 1)
            if block == 4 and self.block4_dilation != 1:
                unit = partial(Bottleneck, dilation=self.block4_dilation)
            strides = unit_strides(self.depth, self.layout, block, self.block3_strides)
            for number, stride in enumerate(strides, 1):
                after = mask if mask is None else mask[:, ::stride, ::stride]
                name = f"block{block}_unit{number}"
                layer = unit(width, stride, self.layout, conv, name=name)
                x, mask = layer(x, mask, after, train), after
            stages[f"block{block}"] = x
        subsample = self.block3_strides and self.layout != "slim"
        if subsample and "block3" in stages:
            stages["block3"] = stages["block3"][:, ::2, ::2]
        return {name: stage.astype(dtype) for name, stage in stages.items()}

    @property
    def epsilon(self) -> float:
        """Of BatchNorm."""
        return LAYOUTS[self.layout]["epsilon"]

    @property
    def title(self) -> str:
        """What people call it."""
        return f"ResNet-{self.depth} of width {self.width}"

    def channels(self, stage: str) -> int:
        """How many the maps of a block have."""
        expansion = 1 if self.depth in BASIC_DEPTHS else 4
        return expansion * self.width * 2 ** (STAGES.index(stage) - 2)

    def stage_sizes(self, size: tuple[Any, Any]) -> dict[str, tuple[Any, Any]]:
        """(h, w) of each stage for an image size, of Python or of traced integers."""
        return stage_sizes(self.layout, size, self.block3_strides)

    def canvas_offset(self, side: Any) -> Any:
        """First row (or column) of an image on its canvas; the side may be traced."""
        return canvas_offset(self.layout, side)

    def _conv1(self, conv: partial, images: Images, fills: bool, train: bool) -> Map:
        """conv1 and its normalisation."""
        before = [3, 3]
        if self.layout == "keras":
            before = [2 + side % 2 if fills else 2 for side in images.shape[1:3]]
        padding = ((before[0], 3), (before[1], 3))
        conv1 = conv(self.width, 7, stride=2, padding=padding, name="conv1")
        return conv1(images, train)

    def _pool(self, x: Map, sizes: Sizes | None) -> tuple[Map, Mask]:
        """(block0mp, its valid cells). The maximum before the relu: same values."""
        if sizes is None:
            height, width = (pool_padding(self.layout, side) for side in x.shape[1:3])
            return nn.relu(MaxPool((height, width))(x)), None
        stages = stage_sizes(self.layout, (sizes[:, 0], sizes[:, 1]))
        inside = valid_cells(x.shape[1:3], jnp.stack(stages["block0"], 1))
        x = jnp.where(inside[..., None], x, -jnp.inf)
        if self.layout == "slim":
            for axis, side in enumerate(stages["block0"], 1):
                x = _moved(x, side % 2, axis)
        # one more cell than a canvas needs without padding, so that sides stay even
        border = pool_padding(self.layout, 0)[0], 1
        x = nn.relu(MaxPool((border, border))(x))
        return x, valid_cells(x.shape[1:3], jnp.stack(stages["block0mp"], 1))


def _moved(x: Map, odd: Int[Array, "B"], axis: int) -> Map:
    """x one cell further along an axis where `odd` is 1: SAME pads those in front."""
    before = [(0, 0, 0)] * 4
    before[axis] = (1, -1, 0)
    moved = lax.pad(x, jnp.array(-jnp.inf, x.dtype), before)
    return jnp.where(odd[:, None, None, None] == 1, moved, x)
