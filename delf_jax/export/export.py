"""Models in forms that run without this project: the command `export`.

Each export is a folder that is complete or absent, with an export.json that says what
goes in, what comes out, and what has to be done to an image before.
"""

import os
from typing import Any

from delf_jax import __version__
from delf_jax.export.options import ExportOptions, ExportSummary
from delf_jax.export.stablehlo import write_stablehlo
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import (
    ExtractionSettings,
    settings_for,
    settings_to_json,
)
from delf_jax.files import InputError, new_folder, write_json

FORMAT = 1


def export_model(
    model: Model, form: str, out: str | os.PathLike, wishes: ExportOptions
) -> ExportSummary:
    """Writes the folder `out`; InputError if it exists or the wishes do not fit."""
    with new_folder(out) as folder:
        _check(model, form, wishes)
        settings = _settings(model, form, wishes)
        if form == "savedmodel":
            from delf_jax.export import savedmodel

            written = savedmodel.write(folder, model, settings, wishes)
        elif form == "onnx":
            from delf_jax.export import onnx

            written = onnx.write(folder, model, settings, wishes)
        else:
            written = write_stablehlo(folder, model, settings)
        description = _describe(model, form, settings, wishes, written)
        write_json(folder / "export.json", description)
    return written


def _check(model: Model, form: str, wishes: ExportOptions) -> None:
    if wishes.what != "local" and not model.has_global:
        raise InputError(
            f"model {model.name} has no global branch: export it with --what=local"
        )
    if wishes.what != "global" and not model.has_local:
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


def _settings(model: Model, form: str, wishes: ExportOptions) -> ExtractionSettings:
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
    wishes: ExportOptions,
    written: ExportSummary,
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
        "extraction": settings_to_json(settings),
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
