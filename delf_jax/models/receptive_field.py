"""Where in the image the cells of a feature map look, from the list of layers."""

from typing import Any, NamedTuple

from jaxtyping import Float

from delf_jax.models import compact, resnet


class ReceptiveField(NamedTuple):
    """Along one axis: cell j sees `size` pixels around pixel offset + stride * j."""

    size: int
    stride: int
    offset: Any
    """centre of cell 0, in pixels; an array or traced if the image side is"""


# What the released DELF code uses for block3 of every layout [delf_spec 5.1]: the
# centres of a net that pads by half a receptive field, 2 to 3 pixels off in this one.
RELEASED_BLOCK3 = ReceptiveField(size=291, stride=16, offset=0)


def receptive_field(
    depth: int,
    layout: str,
    stage: str,
    side: Any,
    block3_strides: bool = False,
    block4_dilation: int = 1,
) -> ReceptiveField:
    """The receptive field of a stage of `ResNet`, for a side (or sides) of an image."""
    return _follow(_layers(depth, layout, stage, side, block3_strides, block4_dilation))


def field_of_block3(
    backbone: resnet.ResNet | compact.CompactNet, side: Any
) -> ReceptiveField:
    """The receptive field of a backbone's block3, for a side (or sides) of an image."""
    if isinstance(backbone, resnet.ResNet):
        strides = backbone.block3_strides
        return receptive_field(backbone.depth, backbone.layout, "block3", side, strides)
    layers = [(3, 2, 0)]  # the stem, and the first unit, pad at the end alone
    for number, stage in compact.STAGES.items():
        if number > compact.LAST_OF_LOCAL:
            break
        for unit in range(stage.units):
            stride = stage.stride if unit == 0 else 1
            at_end = number == 2 and unit == 0
            layers.append(
                (stage.kernel_size, stride, 0 if at_end else stage.kernel_size // 2)
            )
    coarse = _follow(layers)
    # Enlarged twice, a cell lies where it did; the last convolution sees two more.
    return ReceptiveField(
        coarse.size + coarse.stride, coarse.stride // 2, coarse.offset
    )


def block3_cells(
    backbone: resnet.ResNet | compact.CompactNet,
    cells: Float[Any, "N 2"],
    level_size: Float[Any, "2"],
    image_size: Float[Any, "2"],
    *,
    sampled_at: float,
    released_scale: Any = None,
) -> tuple[Float[Any, "N 2"], Any, Any]:
    """Centres, half the side of a box, and scale of block3's cells, in image pixels.

    Args:
      backbone: of which the cells are; all arrays are of numpy, or all of JAX, with one
        floating type, which is also that of the results.
      cells: (row, column).
      level_size: (height, width) of the level that the network has seen.
      image_size: (height, width) of the image that the level is a resized copy of.
      sampled_at: where in a pixel resizing samples it: 0.5, or 0.0 at its corner.
      released_scale: the image scale of the level, for the released code's locations:
        its constants, and no half pixels. None: exact ones.
    """
    if released_scale is not None:
        side, stride, _ = RELEASED_BLOCK3
        strides = backbone.block3_strides
        locations = cells * (stride * (2 if strides else 1)) / released_scale
        scale = 1 / released_scale
    else:
        side, stride, offset = field_of_block3(backbone, level_size[None])
        ratio = image_size / level_size
        centres = cells * stride + offset + sampled_at
        locations = centres * ratio[None] - sampled_at
        scale = cells.__array_namespace__().sqrt(ratio[0] * ratio[1])
    return locations, (side - 1) / 2 * scale, scale


def _follow(layers: list[tuple[int, int, Any]]) -> ReceptiveField:
    """The field behind layers, each (kernel, stride, padding in front)."""
    size, stride, start = 1, 1, 0
    for kernel, step, padding in layers:
        size += (kernel - 1) * stride
        start = start - padding * stride
        stride *= step
    return ReceptiveField(size, stride, start + (size - 1) // 2)


def _layers(
    depth: int,
    layout: str,
    stage: str,
    side: Any,
    block3_strides: bool,
    block4_dilation: int,
) -> list[tuple[int, int, Any]]:
    """(kernel, stride, padding in front) of each layer up to the end of a stage.

    The kernel of a dilated convolution counts with the holes in it.
    """
    layers = [(7, 2, 2 + side % 2 if layout == "keras" else 3)]
    if stage != "block0":
        layers.append((3, 2, resnet.pool_padding(layout, (side + 1) // 2)[0]))
    for block in range(1, resnet.STAGES.index(stage)):
        dilation = block4_dilation if block == 4 else 1
        for stride in resnet.unit_strides(depth, layout, block, block3_strides):
            if depth in resnet.BASIC_DEPTHS:
                layers += [(3, stride, 1), (3, 1, 1)]
            elif layout in resnet.STRIDE_IN_FIRST:
                layers += [(1, stride, 0), (3, 1, 1), (1, 1, 0)]
            else:
                layers += [(1, 1, 0), (2 * dilation + 1, stride, dilation), (1, 1, 0)]
    if block3_strides and stage == "block3" and layout != "slim":
        layers.append((1, 2, 0))
    return layers
