"""Extraction as a TensorFlow graph: pyramid and selection around a network.

What `extraction` does on the host, with the inputs and outputs of the original's graphs
[delf_spec 7, 8]: scales, number and threshold are tensors, descriptors are raw.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf

from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.models.delf import Backbone
from delf_jax.models.receptive_field import RELEASED_BLOCK3

# XLA compiles the network for each size of a canvas: a coarse grid makes them few.
GRID = 64


class Network(NamedTuple):
    """A model as TensorFlow runs it; each branch is compiled when it is first used."""

    branches: Mapping[str, Callable]
    """"local", "global", "both": (canvas, size) -> maps and descriptors"""
    backbone: Backbone
    dimensions: Mapping[str, int]
    """numbers of channels by output"""
    settings: ExtractionSettings
    """of which the preprocessing of an image and `nms_iou` are part of the graph"""


def extract_local(
    network: Network,
    image: tf.Tensor,
    scales: tf.Tensor,
    max_features: tf.Tensor,
    threshold: tf.Tensor,
    global_scales: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """The original's outputs: boxes, features, scales, scores [, global_descriptors].

    Descriptors are raw; a row of the global ones for each scale in `global_scales`, in
    the order of the scales.
    """
    pixels = _normalize(image, network.settings)

    def step(index: tf.Tensor) -> list[tf.Tensor]:
        scale = scales[index]
        if global_scales is None:
            attention, descriptors = _run_level(network, "local", pixels, scale)
            whole = []
        else:
            attention, descriptors, *whole = tf.cond(
                tf.reduce_any(global_scales == index),
                lambda: _run_level(network, "both", pixels, scale),
                lambda: [
                    *_run_level(network, "local", pixels, scale),
                    tf.zeros((0, network.dimensions["global_descriptor"])),
                ],
            )
        cells = tf.where(attention >= threshold)
        boxes = _boxes(cells, network.backbone.block3_strides) / scale
        ones = tf.ones_like(boxes[:, 0])
        return [
            boxes,
            tf.gather_nd(descriptors, cells),
            ones / scale,
            tf.gather_nd(attention, cells),
            *whole,
        ]

    shapes = [(None, 4), (None, network.dimensions["descriptors"]), (None,), (None,)]
    if global_scales is not None:
        shapes.append((None, network.dimensions["global_descriptor"]))
    boxes, features, sizes, scores, *whole = _over(tf.size(scales), step, shapes)
    count = tf.minimum(max_features, tf.size(scores))
    kept = tf.image.non_max_suppression(boxes, scores, count, network.settings.nms_iou)
    outputs = {
        "boxes": tf.gather(boxes, kept),
        "features": tf.gather(features, kept),
        "scales": tf.gather(sizes, kept),
        "scores": tf.gather(scores, kept)[:, None],
    }
    return outputs | ({"global_descriptors": whole[0]} if whole else {})


def extract_global(
    network: Network,
    image: tf.Tensor,
    scales: tf.Tensor,
    global_scales: tf.Tensor | None = None,
    *,
    pool: str,
    normalize: bool,
) -> dict[str, tf.Tensor]:
    """The original's outputs: global_descriptors, or pooled the global_descriptor.

    Raw descriptors of the scales with these indices (None: of all); "average" or "sum"
    makes them one; then they are normalised or not.
    """
    pixels = _normalize(image, network.settings)
    if global_scales is not None:
        chosen = tf.range(tf.size(scales))[:, None] == global_scales[None]
        scales = tf.boolean_mask(scales, tf.reduce_any(chosen, axis=1))

    def step(index: tf.Tensor) -> list[tf.Tensor]:
        return _run_level(network, "global", pixels, scales[index])

    shapes = [(None, network.dimensions["global_descriptor"])]
    (found,) = _over(tf.size(scales), step, shapes)
    if pool != "none":
        found = {"sum": tf.reduce_sum, "average": tf.reduce_mean}[pool](found, axis=0)
    if normalize:
        found = tf.nn.l2_normalize(found, axis=-1)
    return {"global_descriptors" if pool == "none" else "global_descriptor": found}


def _normalize(image: tf.Tensor, settings: ExtractionSettings) -> tf.Tensor:
    return (tf.cast(image, tf.float32) - settings.pixel_mean) / settings.pixel_std


def _over(
    count: tf.Tensor, step: Callable[[tf.Tensor], list], shapes: list[tuple]
) -> list[tf.Tensor]:
    """step(0), step(1), ... one after another, each of its results concatenated."""
    arrays = [
        tf.TensorArray(tf.float32, count, infer_shape=False, element_shape=shape)
        for shape in shapes
    ]

    def body(index: tf.Tensor, arrays: list) -> tuple:
        found = zip(arrays, step(index), strict=True)
        return index + 1, [array.write(index, x) for array, x in found]

    _, arrays = tf.while_loop(
        lambda index, _: index < count,
        body,
        (tf.constant(0), arrays),
        parallel_iterations=1,
    )
    return [array.concat() for array in arrays]


def _boxes(cells: tf.Tensor, block3_strides: bool) -> tf.Tensor:
    """Boxes of cells in pixels of their level, as the released code has them."""
    size, stride, _ = RELEASED_BLOCK3
    centres = tf.cast(cells, tf.float32) * (stride * (2 if block3_strides else 1))
    half = (size - 1) / 2
    return tf.concat([centres - half, centres + half], axis=1)


def _run_level(
    network: Network, branch: str, pixels: tf.Tensor, scale: tf.Tensor
) -> list[tf.Tensor]:
    """What a branch gives for one pyramid level; maps without what is no cell."""
    sides = tf.cast(tf.shape(pixels)[:2], tf.float32)
    size = tf.cast(tf.round(sides * scale), tf.int32)
    if network.settings.resize == "legacy":
        level = tf.compat.v1.image.resize_bilinear(pixels[None], size)[0]
    else:
        level = tf.image.resize(pixels, size)
    before = network.backbone.canvas_offset(size)
    after = -(size + before) % GRID
    canvas = tf.pad(level, [[before[0], after[0]], [before[1], after[1]], [0, 0]])
    outputs = network.branches[branch](canvas, size)
    if branch == "global":
        return outputs
    rows, columns = network.backbone.stage_sizes((size[0], size[1]))["block3"]
    attention, descriptors, *whole = outputs
    return [attention[:rows, :columns], descriptors[:rows, :columns], *whole]
