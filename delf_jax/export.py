"""Models in forms that run without this project: the command `export`.

Each export is a folder that is complete or absent, with an export.json that says what
goes in, what comes out, and what has to be done to an image before.
"""

import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from delf_jax import __version__
from delf_jax.extraction import MIN_SIDE, has_local
from delf_jax.files import InputError, new_folder, write_json
from delf_jax.settings import ExtractionSettings, describe_settings, settings_for
from delf_jax.traced_extraction import extract_image
from delf_jax.weights import Model

FORMAT = 1
PLATFORMS = ("cpu", "cuda", "tpu")


class Wishes(NamedTuple):
    """What a user asks for beyond the format."""

    what: str = "both"
    """"local", "global" or "both" """
    scales: tuple[float, ...] | None = None
    """image scales in place of the model's own; in a SavedModel they are inputs else"""
    pool: str = "none"
    """of a global SavedModel: raw descriptors "none", "average" or "sum" over scales"""
    normalize: bool = False
    """of the same: normalise what is left"""
    size: tuple[int, int] | None = None
    """of ONNX: (height, width) of the largest image"""


class Written(NamedTuple):
    """What a format says of its own export."""

    file: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    """of the packages that wrote it"""
    beside: tuple[str, ...] = ()
    """files that have to stay beside the first"""


def export_model(
    model: Model, form: str, out: str | os.PathLike, wishes: Wishes
) -> Written:
    """Writes the folder `out`; InputError if it exists or the wishes do not fit."""
    with new_folder(out) as folder:
        _check(model, form, wishes)
        settings = _settings(model, form, wishes)
        if form == "savedmodel":
            from delf_jax import export_tensorflow

            written = export_tensorflow.write(folder, model, settings, wishes)
        elif form == "onnx":
            from delf_jax import export_onnx

            written = export_onnx.write(folder, model, settings, wishes)
        else:
            written = write_stablehlo(folder, model, settings)
        description = _describe(model, form, settings, wishes, written)
        write_json(folder / "export.json", description)
    return written


def write_stablehlo(
    folder: pathlib.Path, model: Model, settings: ExtractionSettings
) -> Written:
    """Writes a serialised `jax.export.Exported` of the whole extraction."""
    sides = jax.export.symbolic_shape(
        "h, w", constraints=[f"h >= {MIN_SIDE}", f"w >= {MIN_SIDE}"]
    )
    image = jax.ShapeDtypeStruct((*sides, 3), jnp.uint8)
    extract = functools.partial(extract_image, model=model, settings=settings)
    exported = jax.export.export(jax.jit(extract), platforms=PLATFORMS)(image)
    (folder / "model.jaxexport").write_bytes(exported.serialize())
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    notes = (
        f"any height and width from {MIN_SIDE} pixels; each new size is compiled once",
        "jax.export.deserialize(open('model.jaxexport', 'rb').read()).call(image) "
        "runs it; .mlir_module() of the same is its StableHLO",
        "newer versions of JAX read it, older ones may not",
    )
    inputs = {"image": signature(image)}
    return Written(
        "model.jaxexport",
        inputs,
        {name: signature(value) for name, value in outputs.items()},
        notes,
        {"jax": jax.__version__},
    )


def signature(array: Any) -> str:
    """ "float32[n,4]" of anything with a shape and a dtype."""
    dtype = getattr(array.dtype, "name", array.dtype)
    return f"{dtype}[{','.join('n' if d is None else str(d) for d in array.shape)}]"


def _check(model: Model, form: str, wishes: Wishes) -> None:
    if wishes.what != "local" and not hasattr(model.module, "global_dimension"):
        raise InputError(
            f"model {model.name} has no global branch: export it with --what=local"
        )
    if wishes.what != "global" and not has_local(model):
        raise InputError(
            f"model {model.name} has no local branch: export it with --what=global"
        )
    whole = form == "savedmodel" and wishes.what == "global"
    if (wishes.pool != "none" or wishes.normalize) and not whole:
        raise InputError(
            "--pool and --normalize are for --format=savedmodel --what=global"
        )
    if form == "savedmodel" and wishes.scales and not whole:
        raise InputError(
            "--scales: a SavedModel with local features takes the scales as an input"
        )
    if wishes.size and form != "onnx":
        raise InputError("--size is for --format=onnx: others take images of any size")


def _settings(model: Model, form: str, wishes: Wishes) -> ExtractionSettings:
    """The model's settings, without the branch that is not asked for."""
    overrides: dict[str, Any] = {}
    if wishes.scales:
        overrides["image_scales"] = wishes.scales
        overrides["global_scales"] = tuple(range(len(wishes.scales)))
    if form == "savedmodel":  # Its inputs, which the user of the export chooses.
        return settings_for(model, **overrides)
    if wishes.what == "local":
        overrides["global_scales"] = ()
    if wishes.what == "global":
        overrides["max_features"] = 0
    settings = settings_for(model, **overrides)
    if wishes.what != "global" and not settings.max_features:
        raise InputError(
            f"the settings of model {model.name} have max_features 0: export it with "
            "--what=global"
        )
    if wishes.what != "local" and not settings.global_scales:
        raise InputError(
            f"the settings of model {model.name} have no global_scales: name --scales, "
            "or export it with --what=local"
        )
    return settings


def _describe(
    model: Model,
    form: str,
    settings: ExtractionSettings,
    wishes: Wishes,
    written: Written,
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "export": form,
        "what": wishes.what,
        "file": written.file,
        "beside": list(written.beside),
        "inputs": dict(written.inputs),
        "outputs": dict(written.outputs),
        "before": _before(settings),
        "notes": list(written.notes),
        "model": {
            "name": model.name,
            "fingerprint": model.fingerprint,
            "architecture": model.config.get("architecture"),
        },
        "extraction": describe_settings(settings),
        "versions": {"delf_jax": __version__} | dict(written.versions),
    }


def _before(settings: ExtractionSettings) -> str:
    """What the caller does to an image so that features equal those of `extract`."""
    text = "decode to upright RGB, uint8"
    bounds = (settings.max_image_size, settings.min_image_size)
    most, least = (f"{settings.resize_factor * (b or 0):.9g}" for b in bounds)
    if settings.max_image_size:
        text += f"; if the longer side exceeds {most}, shrink to it"
    if settings.min_image_size:
        text += f"; if the longer side is below {least}, enlarge to it"
    if settings.use_square_images:
        text += "; squeeze both sides to the longer one"
    if "longer" in text or "below" in text:
        text += (
            " (Pillow's Image.Resampling.BILINEAR); boxes and locations are pixels of "
            "the resized image"
        )
    return text
