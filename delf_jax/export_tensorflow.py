"""Models as SavedModels with the signatures of the original's exports [delf_spec 8].

The network is a StableHLO program within one TensorFlow operation, once for each branch
that is needed; pyramid and selection around it are TensorFlow's own operations.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export as jax_export
from jax.extend.mlir.dialects import stablehlo

from delf_jax.export import PLATFORMS, Wishes, Written, signature
from delf_jax.files import InputError
from delf_jax.models import resnet
from delf_jax.models.receptive_field import RELEASED_BLOCK3
from delf_jax.settings import ExtractionSettings
from delf_jax.weights import Model

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
try:
    import tensorflow as tf

    # Where JAX's own bridge finds the operation; tf.raw_ops does not list it.
    from tensorflow.compiler.tf2xla.python.xla import call_module
except ImportError:
    raise InputError(
        "a SavedModel is written by TensorFlow, which is not installed: "
        "pip install 'delf_jax[tf]'"
    ) from None

# A version that every TensorFlow with the operation reads. TensorFlow 2.21 knows 1.13,
# and what JAX 0.11 and 0.12 write if they are not told is newer.
STABLEHLO_VERSION = "1.0.0"
# XLA compiles the network for each size of a canvas: a coarse grid makes them few.
GRID = 64
INPUTS = {
    "input_image": tf.TensorSpec((None, None, 3), tf.uint8, "input_image"),
    "input_scales": tf.TensorSpec((None,), tf.float32, "input_scales"),
    "input_max_feature_num": tf.TensorSpec((), tf.int32, "input_max_feature_num"),
    "input_abs_thres": tf.TensorSpec((), tf.float32, "input_abs_thres"),
    "input_global_scales_ind": tf.TensorSpec(
        (None,), tf.int32, "input_global_scales_ind"
    ),
}


class Network(NamedTuple):
    """A model as TensorFlow runs it; each branch is compiled when it is first used."""

    branches: Mapping[str, Callable]
    """of `_OUTPUTS`: (canvas, size) -> its outputs"""
    backbone: resnet.ResNet
    dimensions: Mapping[str, int]
    """numbers of channels by output"""


_OUTPUTS = {
    "local": ("attention", "descriptors"),
    "both": ("attention", "descriptors", "global_descriptor"),
    "global": ("global_descriptor",),
}


def write(
    folder: pathlib.Path, model: Model, settings: ExtractionSettings, wishes: Wishes
) -> Written:
    """Writes a SavedModel with the one signature `serving_default`.

    Of the settings only `nms_iou` matters: the others are inputs, as in the original.
    With `wishes.scales` a global export takes the image alone.
    """
    module = tf.Module()
    leaves, tree = jax.tree.flatten(model.variables)
    module.weights = [tf.Variable(leaf, trainable=False) for leaf in leaves]
    branches = ("local", "both") if wishes.what == "both" else (wishes.what,)
    network = _network(model, module.weights, tree, branches)
    if wishes.what != "global":
        names = list(INPUTS)[: 5 if wishes.what == "both" else 4]
        run = functools.partial(extract_local, network, settings.nms_iou)
    elif wishes.scales is None:
        names = ["input_image", "input_scales", "input_global_scales_ind"]
        run = functools.partial(extract_global, network, wishes)
    else:
        names = ["input_image"]
        run = functools.partial(extract_fixed, network, wishes)
    inputs = [INPUTS[name] for name in names]
    module.extract = tf.function(run, autograph=False, input_signature=inputs)
    concrete = module.extract.get_concrete_function()
    tf.saved_model.save(module, os.fspath(folder), {"serving_default": concrete})
    outputs = concrete.structured_outputs
    return Written(
        ".",
        {name: signature(INPUTS[name]) for name in names},
        {name: signature(outputs[name]) for name in sorted(outputs)},
        (
            "tf.saved_model.load(folder).signatures['serving_default'](**inputs)",
            "extraction: what the model was made for; of it the export fixes nms_iou"
            + (" and image_scales" if wishes.scales else ""),
            "heights and widths are dynamic; XLA compiles the network for each size of "
            f"a level, rounded up to {GRID} pixels, once in a process",
            "needs a TensorFlow that has the operation XlaCallModule of version 10; "
            "written and read with 2.21",
        ),
        ("jax", "tensorflow"),
    )


def extract_local(
    network: Network,
    iou: float,
    image: tf.Tensor,
    scales: tf.Tensor,
    max_features: tf.Tensor,
    threshold: tf.Tensor,
    global_scales: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """The original's outputs: boxes, features, scales, scores [, global_descriptors].

    Descriptors are raw; a row of the global ones for each scale whose index is asked
    for, in the order of the scales.
    """
    pixels = _normalize(image)

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
    kept = tf.image.non_max_suppression(boxes, scores, count, iou)
    outputs = {
        "boxes": tf.gather(boxes, kept),
        "features": tf.gather(features, kept),
        "scales": tf.gather(sizes, kept),
        "scores": tf.gather(scores, kept)[:, None],
    }
    return outputs | ({"global_descriptors": whole[0]} if whole else {})


def extract_fixed(
    network: Network, wishes: Wishes, image: tf.Tensor
) -> dict[str, tf.Tensor]:
    """`extract_global` at scales that were fixed when it was exported."""
    scales = tf.constant(wishes.scales, tf.float32)
    return extract_global(network, wishes, image, scales, tf.range(tf.size(scales)))


def extract_global(
    network: Network,
    wishes: Wishes,
    image: tf.Tensor,
    scales: tf.Tensor,
    global_scales: tf.Tensor,
) -> dict[str, tf.Tensor]:
    """The original's outputs: global_descriptors, or pooled global_descriptor."""
    pixels = _normalize(image)
    asked = tf.range(tf.size(scales))[:, None] == global_scales[None]
    scales = tf.boolean_mask(scales, tf.reduce_any(asked, axis=1))

    def step(index: tf.Tensor) -> list[tf.Tensor]:
        return _run_level(network, "global", pixels, scales[index])

    shapes = [(None, network.dimensions["global_descriptor"])]
    (descriptors,) = _over(tf.size(scales), step, shapes)
    if wishes.pool == "none":
        if wishes.normalize:
            descriptors = tf.nn.l2_normalize(descriptors, axis=1)
        return {"global_descriptors": descriptors}
    pool = {"sum": tf.reduce_sum, "average": tf.reduce_mean}[wishes.pool]
    descriptor = pool(descriptors, axis=0)
    if wishes.normalize:
        descriptor = tf.nn.l2_normalize(descriptor, axis=0)
    return {"global_descriptor": descriptor}


def _normalize(image: tf.Tensor) -> tf.Tensor:
    return (tf.cast(image, tf.float32) - 128) / 128


def _over(
    count: tf.Tensor, step: Callable[[tf.Tensor], list], shapes: list[tuple]
) -> list[tf.Tensor]:
    """step(0), step(1), ... one after another, each of its results concatenated."""
    arrays = [
        tf.TensorArray(tf.float32, count, infer_shape=False, element_shape=shape)
        for shape in shapes
    ]

    def body(index: tf.Tensor, arrays: list) -> tuple:
        found = step(index)
        return index + 1, [
            a.write(index, x) for a, x in zip(arrays, found, strict=True)
        ]

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
    layout = network.backbone.layout
    sides = tf.cast(tf.shape(pixels)[:2], tf.float32)
    size = tf.cast(tf.round(sides * scale), tf.int32)
    level = tf.image.resize(pixels, size)
    before = resnet.canvas_offset(layout, size)
    after = -(size + before) % GRID
    canvas = tf.pad(level, [[before[0], after[0]], [before[1], after[1]], [0, 0]])
    outputs = network.branches[branch](canvas, size)
    if branch == "global":
        return outputs
    strides = network.backbone.block3_strides
    stages = resnet.stage_sizes(layout, (size[0], size[1]), strides)
    rows, columns = stages["block3"]
    attention, descriptors, *whole = outputs
    return [attention[:rows, :columns], descriptors[:rows, :columns], *whole]


def _network(
    model: Model, weights: list[tf.Variable], tree: Any, branches: tuple[str, ...]
) -> Network:
    """The branches of a model over weights that are TensorFlow's variables."""
    specs = [jax.ShapeDtypeStruct(w.shape, jnp.float32) for w in weights]
    rows, columns = jax_export.symbolic_shape("a, b")
    specs += [
        jax.ShapeDtypeStruct((GRID * rows, GRID * columns, 3), jnp.float32),
        jax.ShapeDtypeStruct((2,), jnp.int32),
    ]
    calls, dimensions = {}, {}
    for branch in branches:
        run = functools.partial(_run_branch, model.module, tree, branch)
        exported = jax_export.export(jax.jit(run), platforms=PLATFORMS)(*specs)
        calls[branch] = functools.partial(_call, exported, weights)
        names, shapes = _OUTPUTS[branch], [x.shape for x in exported.out_avals]
        dimensions |= {n: shape[-1] for n, shape in zip(names, shapes, strict=True)}
    return Network(calls, model.module.backbone, dimensions)


def _run_branch(
    module: Any, tree: Any, branch: str, *arguments: jax.Array
) -> list[jax.Array]:
    """The outputs of a branch for (parameters one by one, canvas, size)."""
    *leaves, canvas, size = arguments
    maps = module.apply(
        jax.tree.unflatten(tree, leaves),
        canvas[None],
        size[None],
        global_branch=branch != "local",
    )
    # One descriptor of a batch of one stays a row; maps lose their batch.
    return [
        maps[name] if name == "global_descriptor" else maps[name][0]
        for name in _OUTPUTS[branch]
    ]


def _call(
    exported: jax_export.Exported,
    weights: list[tf.Variable],
    canvas: tf.Tensor,
    size: tf.Tensor,
) -> list[tf.Tensor]:
    """What an exported function gives, as one TensorFlow operation."""
    program = stablehlo.deserialize_portable_artifact_str(
        exported.mlir_module_serialized
    )
    arguments = [*weights, canvas, size]
    shapes = [
        [d if isinstance(d, int) else None for d in x.shape] for x in exported.out_avals
    ]
    return list(
        call_module(
            [arguments[index] for index in exported.module_kept_var_idx],
            version=exported.calling_convention_version,
            module=stablehlo.serialize_portable_artifact_str(
                program, STABLEHLO_VERSION
            ),
            Sout=shapes,
            Tout=[tf.float32] * len(shapes),
            platforms=[platform.upper() for platform in exported.platforms],
        )
    )
