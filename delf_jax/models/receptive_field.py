"""Where in the image the cells of a feature map look, from the list of layers."""

from typing import Any, NamedTuple

from delf_jax.models.resnet import BASIC_DEPTHS, STAGES, UNITS


class ReceptiveField(NamedTuple):
    """Along one axis: cell j sees `size` pixels around pixel offset + stride * j."""

    size: int
    stride: int
    offset: Any
    """centre of cell 0, in pixels; traced if the image side is"""


# What the released DELF code uses for block3 of every layout [delf_spec 5.1]: the
# centres of a net that pads by half a receptive field, 2 to 3 pixels off in this one.
RELEASED_BLOCK3 = ReceptiveField(size=291, stride=16, offset=0)


def receptive_field(
    depth: int, layout: str, stage: str, side: Any, block3_strides: bool = False
) -> ReceptiveField:
    """The receptive field of a stage of `ResNet`, for an image side (traced or not)."""
    size, stride, start = 1, 1, 0
    for kernel, step, padding in _layers(depth, layout, stage, side, block3_strides):
        size += (kernel - 1) * stride
        start -= padding * stride
        stride *= step
    return ReceptiveField(size, stride, start + (size - 1) // 2)


def _layers(
    depth: int, layout: str, stage: str, side: Any, block3_strides: bool
) -> list[tuple[int, int, Any]]:
    """(kernel, stride, padding in front) of each layer up to the end of a stage."""
    symmetric = layout == "v1.5"
    layers = [(7, 2, 3 if symmetric else 2 + side % 2)]
    if stage != "block0":
        layers.append((3, 2, 1 if symmetric else 0))
    for block in range(1, STAGES.index(stage)):
        for unit in range(UNITS[depth][block - 1]):
            stride = 2 if block > 1 and unit == 0 else 1
            if depth in BASIC_DEPTHS:
                layers += [(3, stride, 1), (3, 1, 1)]
            elif symmetric:
                layers += [(1, 1, 0), (3, stride, 1), (1, 1, 0)]
            else:
                layers += [(1, stride, 0), (3, 1, 1), (1, 1, 0)]
    if block3_strides and stage == "block3":
        layers.append((1, 2, 0))
    return layers
