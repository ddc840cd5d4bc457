"""Models in forms that run without this project: the command `export`.

Each export is a folder that is complete or absent, with an export.json: the inputs, the
outputs, and the preprocessing of an image; beside it the card of the model. A folder
for the hub is a model folder, and has the card alone.
"""

import os
import pathlib
from typing import Any

from delf_jax import __version__
from delf_jax.export import hub_folder, onnx, stablehlo
from delf_jax.export.options import ExportOptions, ExportSummary
from delf_jax.extraction.card import CARD, format_card
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import (
    POOLING_FIELDS,
    ExtractionSettings,
    settings_for,
    settings_to_json,
)
from delf_jax.files import (
    InputError,
    atomic_write,
    new_folder,
    sha256_of,
    write_json,
)

FORMAT = 1


def export_model(
    model: Model, form: str, out: str | os.PathLike, options: ExportOptions
) -> ExportSummary:
    """Writes the folder `out`; InputError if it exists or the options do not match."""
    with new_folder(out) as folder:
        _check(model, form, options)
        if form == "hub-folder":
            return hub_folder.write(folder, model)
        settings = _settings(model, form, options)
        if form == "savedmodel":
            from delf_jax.export import savedmodel

            summary = savedmodel.write(folder, model, settings, options)
        elif form == "onnx":
            summary = onnx.write(folder, model, settings, options)
        else:
            summary = stablehlo.write(folder, model, settings)
        info = {
            "format": FORMAT,
            "export": form,
            "what": options.what,
            "file": summary.file,
            "beside": summary.beside,
            "inputs": summary.inputs,
            "outputs": summary.outputs,
            "before": _before(settings),
            "notes": summary.notes,
            "model": {
                "name": model.name,
                "fingerprint": model.fingerprint,
                "architecture": model.config.get("architecture"),
            },
            "extraction": settings_to_json(settings),
            "versions": {"delf_jax": __version__, **summary.versions},
        }
        write_json(folder / "export.json", info)
        _write_card(folder, model, summary)
    return summary


def _write_card(folder: pathlib.Path, model: Model, summary: ExportSummary) -> None:
    """Writes what the model is beside what it was exported as."""
    use = "\n".join(f"- {note}" for note in (*summary.notes, "see export.json"))
    names = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    files = {
        name.as_posix(): sha256_of(folder / name)
        for name in names
        if (folder / name).is_file() and name.name != "export.json"
    }
    with atomic_write(folder / CARD, "w") as file:
        file.write(format_card(model.name, model.config, use=use, files=files))


def _check(model: Model, form: str, options: ExportOptions) -> None:
    if form == "hub-folder":
        fields = zip(options._fields, options, ExportOptions(), strict=True)
        for name, chosen, default in fields:
            if chosen != default:
                raise InputError(f"--{name}: hub-folder takes the whole model as it is")
        return
    if options.what != "local" and not model.has_global:
        raise InputError(
            f"model {model.name} has no global branch: export it with --what=local"
        )
    if options.what != "global" and not model.has_local:
        raise InputError(
            f"model {model.name} has no local branch: export it with --what=global"
        )
    whole = form == "savedmodel" and options.what == "global"
    if (options.pool != "none" or options.normalize) and not whole:
        raise InputError(
            "--pool and --normalize are for --format=savedmodel --what=global"
        )
    if form == "savedmodel" and options.scales and not whole:
        raise InputError(
            "--scales: a SavedModel with local features takes the scales as an input"
        )
    if options.iou is not None and options.what == "global":
        raise InputError("--iou is of local features: leave it out with --what=global")
    if options.size and form != "onnx":
        raise InputError("--size is for --format=onnx: others take images of any size")


def _settings(model: Model, form: str, options: ExportOptions) -> ExtractionSettings:
    """The model's settings, without the branch that is not exported."""
    overrides: dict[str, Any] = {}
    if options.scales:
        overrides["image_scales"] = options.scales
        overrides["global_scales"] = tuple(range(len(options.scales)))
    if options.what != "local":
        _check_pooling(model, settings_for(model, **overrides))
    if options.iou is not None:
        overrides["nms_iou"] = options.iou
    if form == "savedmodel":  # Its inputs, which the user of the export chooses.
        return settings_for(model, **overrides)
    if options.what == "local":
        overrides["global_scales"] = ()
    if options.what == "global":
        overrides["max_features"] = 0
    settings = settings_for(model, **overrides)
    if options.what != "global" and not settings.max_features:
        raise InputError(
            f"the settings of model {model.name} have max_features 0: export it with "
            "--what=global"
        )
    if options.what != "local" and not settings.global_scales:
        raise InputError(
            f"the settings of model {model.name} have no global_scales: set --scales, "
            "or export it with --what=local"
        )
    return settings


def _check_pooling(model: Model, settings: ExtractionSettings) -> None:
    """InputError for what extraction changes of pooling, which exports do not do."""
    for name in POOLING_FIELDS:
        if getattr(settings, name) != ExtractionSettings._field_defaults[name]:
            raise InputError(
                f"model {model.name}: exports have no extraction.{name}: take it out "
                "of its config.json, or export it with --what=local"
            )


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
    if "longer" in text:
        text += (
            " (Pillow's Image.Resampling.BILINEAR); boxes and locations are pixels of "
            "the resized image"
        )
    return text
