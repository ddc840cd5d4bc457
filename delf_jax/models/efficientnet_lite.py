"""EfficientNet-Lite2 [Tan2019]: inverted residuals without squeeze-and-excitation.

6 million parameters. Paddings are those of the released weights: those of an image of
even sides at every size. Images lie on canvases as in resnet.py.
"""

from functools import partial
from typing import Any, NamedTuple

from flax import linen as nn

from delf_jax.models.layers import ConvNorm
from delf_jax.models.resnet import Images, Map, Mask, Sizes
from delf_jax.ops import valid_cells, zero_outside


class Stage(NamedTuple):
    """Units of one width; the first may halve the map.

    The first `fused` of them convolve plainly.
    """

    units: int
    features: int
    kernel_size: int
    stride: int
    expansion: int = 6
    fused: int = 0


STAGES = (
    Stage(1, 16, 3, 1, expansion=1),
    Stage(3, 24, 3, 2),
    Stage(3, 48, 5, 2),
    Stage(4, 88, 3, 2),
    Stage(4, 120, 5, 1),
    Stage(5, 208, 5, 2),
    Stage(1, 352, 3, 1),
)
STEM, HEAD = 32, 1280
# The stage of stride 16 before the last stride, as block3 of a ResNet.
LAST_OF_BLOCK3 = 5
EPSILON, MOMENTUM = 1e-3, 0.99
AT_END = ((0, 1), (0, 1))


class InvertedResidual(nn.Module):
    """1x1 to a wider map, a convolution of each channel, 1x1 back; and the shortcut."""

    features: int
    kernel_size: int
    stride: int
    expansion: int
    pads_at_end: bool
    conv: partial

    @nn.compact
    def __call__(self, x: Map, mask: Mask, train: bool) -> Map:
        y, wide = x, self.expansion * x.shape[-1]
        if self.expansion != 1:
            y = nn.relu6(self.conv(wide, name="expand")(y, train))
        depthwise = self.conv(
            wide,
            self.kernel_size,
            self.stride,
            AT_END if self.pads_at_end else None,
            depthwise=True,
            name="depthwise",
        )
        y = nn.relu6(depthwise(zero_outside(y, mask), train))
        return project(self.conv, y, x, self.features, self.stride, train)


class FusedUnit(nn.Module):
    """A convolution to a wider map and 1x1 back; and the shortcut."""

    features: int
    kernel_size: int
    stride: int
    expansion: int
    pads_at_end: bool
    conv: partial

    @nn.compact
    def __call__(self, x: Map, mask: Mask, train: bool) -> Map:
        padding = AT_END if self.pads_at_end else None
        wide, side = self.expansion * x.shape[-1], self.kernel_size
        expand = self.conv(wide, side, self.stride, padding, name="expand")
        y = nn.relu6(expand(zero_outside(x, mask), train))
        return project(self.conv, y, x, self.features, self.stride, train)


class EfficientNetLite(nn.Module):
    """Stages of stride 16 and 32 as a ResNet names them; fields as in `ConvNorm`."""

    normalization: str = "batch"
    axis_name: str | None = None
    compute_dtype: str | None = None  # "bfloat16": of all maps; the stages are float32.

    layout = "lite"
    epsilon = EPSILON
    block3_strides = False
    title = "EfficientNet-Lite2"

    @nn.compact
    def __call__(
        self,
        images: Images,
        sizes: Sizes | None = None,
        *,
        train: bool = False,
        last: str = "block4",
    ) -> dict[str, Map]:
        """block3 [B, h, w, 120] and, unless it is the last, block4 [B, h, w, 1280].

        To train also the map of each stage, as "stage1" to "stage7".

        Args:
          images: normalised by ImageNet's mean and deviation.
          sizes: (h, w) of each image on its canvas; without, the images fill the array.
        """
        if train and sizes is not None and self.normalization == "batch":
            raise ValueError("sizes: batch statistics would count the empty canvas")
        conv = partial(
            ConvNorm,
            normalization=self.normalization,
            axis_name=self.axis_name,
            momentum=MOMENTUM,
            epsilon=EPSILON,
        )
        dtype = images.dtype
        x = images.astype(self.compute_dtype or dtype)
        stem = conv(STEM, 3, stride=2, padding=AT_END, name="stem")
        x = nn.relu6(stem(x, train))
        cells = None if sizes is None else sizes // 2
        stages = {}
        for number, stage in enumerate(STAGES, 1):
            x, cells = run_stage(conv, stage, number, x, cells, train)
            if train:
                stages[f"stage{number}"] = x
            if number == LAST_OF_BLOCK3:
                stages["block3"] = x
                if last == "block3":
                    break
        else:
            stages["block4"] = nn.relu6(conv(HEAD, name="head")(x, train))
        return {name: stage.astype(dtype) for name, stage in stages.items()}

    def channels(self, stage: str) -> int:
        """How many the maps of block3 or block4 have."""
        return {"block3": STAGES[LAST_OF_BLOCK3 - 1].features, "block4": HEAD}[stage]

    def stage_sizes(self, size: tuple[Any, Any]) -> dict[str, tuple[Any, Any]]:
        """(h, w) of block3 and block4 for an image size, Python's or traced."""
        quarter = [side // 2 // 2 for side in size]
        block3 = tuple(((side + 1) // 2 + 1) // 2 for side in quarter)
        return {"block3": block3, "block4": tuple((side + 1) // 2 for side in block3)}

    def canvas_offset(self, side: Any) -> Any:
        """First row or column of an image on its canvas."""
        return 0 * side


def project(
    conv: partial, y: Map, x: Map, features: int, stride: int, train: bool
) -> Map:
    """The map y back to few channels, added to x where the shapes are the same.

    What is added starts at 0: a unit begins as its shortcut [Goyal2017].
    """
    shortcut = stride == 1 and x.shape[-1] == features
    init = nn.initializers.zeros if shortcut else nn.initializers.ones
    y = conv(features, scale_init=init, name="project")(y, train)
    return x + y if shortcut else y


def run_stage(
    conv: Any, stage: Stage, number: int, x: Map, cells: Sizes | None, train: bool
) -> tuple[Map, Sizes | None]:
    """The map behind a stage, and the cells of each image on it."""
    for unit in range(1, stage.units + 1):
        stride = stage.stride if unit == 1 else 1
        kind = FusedUnit if unit <= stage.fused else InvertedResidual
        layer = kind(
            stage.features,
            stage.kernel_size,
            stride,
            stage.expansion,
            pads_at_end=number == 2 and unit == 1,
            conv=conv,
            name=f"stage{number}_unit{unit}",
        )
        mask = None if cells is None else valid_cells(x.shape[1:3], cells)
        x = layer(x, mask, train)
        if cells is not None and stride == 2:
            cells = cells // 2 if number == 2 else (cells + 1) // 2
    return x, cells
