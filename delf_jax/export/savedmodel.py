"""Models as SavedModels with the signatures of the original's exports [delf_spec 8].

The network is a StableHLO program within one TensorFlow operation, once for each branch
that is needed; what is around it are TensorFlow's own: `tf_extraction.py`.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import export as jax_export
from jax.extend.mlir.dialects import stablehlo

from delf_jax.export.options import PLATFORMS, ExportOptions, ExportSummary, signature
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError

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

from delf_jax.export.tf_extraction import GRID, Network, extract_global, extract_local

# A version that every TensorFlow with the operation reads. TensorFlow 2.21 knows 1.13,
# and what JAX 0.11 and 0.12 write by default is newer.
STABLEHLO_VERSION = "1.0.0"
INPUTS = {
    "input_image": tf.TensorSpec((None, None, 3), tf.uint8, "input_image"),
    "input_scales": tf.TensorSpec((None,), tf.float32, "input_scales"),
    "input_max_feature_num": tf.TensorSpec((), tf.int32, "input_max_feature_num"),
    "input_abs_thres": tf.TensorSpec((), tf.float32, "input_abs_thres"),
    "input_global_scales_ind": tf.TensorSpec(
        (None,), tf.int32, "input_global_scales_ind"
    ),
}
_OUTPUTS = {
    "local": ("attention", "descriptors"),
    "both": ("attention", "descriptors", "global_descriptor"),
    "global": ("global_descriptor",),
}


def write(
    folder: pathlib.Path,
    model: Model,
    settings: ExtractionSettings,
    options: ExportOptions,
) -> ExportSummary:
    """Writes a SavedModel with the one signature `serving_default`.

    Of the settings `nms_iou` and what an image goes through before the network matter;
    the others are inputs, as in the original.
    With `options.scales` a global export takes the image alone.
    """
    module = tf.Module()
    leaves, tree = jax.tree.flatten(model.variables)
    module.weights = [tf.Variable(leaf, trainable=False) for leaf in leaves]
    branches = ("local", "both") if options.what == "both" else (options.what,)
    network = _network(model, module.weights, tree, branches, settings)
    pooled = functools.partial(
        extract_global, network, pool=options.pool, normalize=options.normalize
    )
    run: Callable[..., dict[str, tf.Tensor]] = pooled
    if options.what != "global":
        names = list(INPUTS)[: 5 if options.what == "both" else 4]
        run = functools.partial(extract_local, network)
    elif options.scales is None:
        names = ["input_image", "input_scales", "input_global_scales_ind"]
    else:
        names = ["input_image"]

        def run(image: tf.Tensor) -> dict[str, tf.Tensor]:
            return pooled(image, tf.constant(options.scales, tf.float32))

    inputs = [INPUTS[name] for name in names]
    module.extract = tf.function(run, autograph=False, input_signature=inputs)
    concrete = module.extract.get_concrete_function()
    tf.saved_model.save(module, os.fspath(folder), {"serving_default": concrete})
    outputs = concrete.structured_outputs
    return ExportSummary(
        ".",
        {name: signature(INPUTS[name]) for name in names},
        {name: signature(outputs[name]) for name in sorted(outputs)},
        (
            "tf.saved_model.load(folder).signatures['serving_default'](**inputs)",
            "extraction: what the model was made for; of it the export fixes nms_iou, "
            "pixel_mean, pixel_std, resize"
            + (", image_scales" if options.scales else ""),
            "the original's extractor loads it if its DelfConfig says "
            "is_tf2_exported: true",
            "heights and widths are dynamic; XLA compiles the network for each size of "
            f"a level, rounded up to {GRID} pixels, once in a process",
            "needs a TensorFlow that has the operation XlaCallModule of version 10; "
            "written and read with 2.21",
        ),
        {"jax": jax.__version__, "tensorflow": tf.__version__},
    )


def _network(
    model: Model,
    weights: list[tf.Variable],
    tree: Any,
    branches: tuple[str, ...],
    settings: ExtractionSettings,
) -> Network:
    """The branches of a model over weights that are TensorFlow's variables."""
    specs = [jax.ShapeDtypeStruct(w.shape, jnp.float32) for w in weights]
    rows, columns = jax_export.symbolic_shape("a, b")
    specs += [
        jax.ShapeDtypeStruct((GRID * rows, GRID * columns, 3), jnp.float32),
        jax.ShapeDtypeStruct((2,), jnp.int32),
    ]
    calls: dict[str, Callable] = {}
    dimensions: dict[str, int] = {}
    for branch in branches:
        run = functools.partial(_run_branch, model.module, tree, branch)
        exported = jax_export.export(jax.jit(run), platforms=PLATFORMS)(*specs)
        calls[branch] = functools.partial(_call, exported, weights)
        names, shapes = _OUTPUTS[branch], [x.shape for x in exported.out_avals]
        dimensions |= {n: shape[-1] for n, shape in zip(names, shapes, strict=True)}
    return Network(calls, model.module.backbone, dimensions, settings)


def _run_branch(
    module: Any, tree: Any, branch: str, *arguments: jax.Array
) -> list[jax.Array]:
    """The outputs of a branch for (parameters one by one, canvas, size)."""
    *leaves, canvas, size = arguments
    skipped = {"global_branch": False} if branch == "local" else {}
    variables = jax.tree.unflatten(tree, leaves)
    maps = module.apply(variables, canvas[None], size[None], **skipped)
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
