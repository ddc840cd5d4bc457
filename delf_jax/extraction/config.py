"""Configs of extraction: which model, and which of its settings are replaced.

A config file has `model`, a folder, and in `extraction` the fields of
`ExtractionSettings` that differ. A text config of the original works as well.
"""

import os
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from delf_jax.config import override_fields, run_config
from delf_jax.extraction import delf_config, pca
from delf_jax.extraction.model_folder import Model, load_model
from delf_jax.extraction.settings import (
    GLOBAL_FIELDS,
    PCA_FIELDS,
    ExtractionSettings,
    settings_for,
)
from delf_jax.files import InputError

# The section of a config that evaluation/experiment.py reads.
EXPERIMENT = "experiment"
# A number in which 0 is no bound.
BOUNDS = ("max_image_size", "min_image_size", "max_boxes")


def every_field() -> ConfigDict:
    """All fields of a config; None leaves one to the model.

    A bound of 0 is none. pca and global_pca are .datum files: the first `dimension`
    rows of a projection (0: all), with `use_whitening` divided by the root of the
    variances; a mean of "" is no projection.
    """
    extraction = {}
    for name, hint in typing.get_type_hints(ExtractionSettings).items():
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else [hint]
        kind = typing.get_origin(kinds[0]) or kinds[0]
        extraction[name] = config_dict.placeholder(kind)
    for name in PCA_FIELDS:
        fields = {path: config_dict.placeholder(str) for path in pca.FILES}
        extraction[name] = fields | {"dimension": 0, "use_whitening": False}
    return ConfigDict({"model": "", "extraction": extraction})


def read_extraction_config(
    path: str | os.PathLike | None,
    overrides: Sequence[str] = (),
    *,
    global_model: bool = False,
) -> tuple[ConfigDict, list[str]]:
    """The locked config of a .py or .pbtxt file, and lines to print about it.

    InputError for what is misspelt or of another type, in the file or in overrides such
    as `--config.extraction.max_features=500`.

    Args:
      global_model: leave out what a file says of global descriptors: another model
        than the file's gives them.
    """
    config = every_field()
    lines: list[str] = []
    if path is not None and pathlib.Path(path).suffix == ".pbtxt":
        fields, lines = delf_config.read_delf_config(path)
        merge(config, fields, path)
    elif path is not None:
        fields = run_config(path).items()
        merge(config, {name: v for name, v in fields if name != EXPERIMENT}, path)
    if global_model:
        for name in GLOBAL_FIELDS:
            config.extraction[name] = every_field().extraction[name]
    override_fields(config, overrides)
    return config.lock(), lines


def open_model(
    config: ConfigDict,
    folder: str | os.PathLike | None = None,
    command: str = "",
    *,
    global_model: str | os.PathLike | None = None,
) -> tuple[Model, ExtractionSettings]:
    """The model and the settings that a config chooses.

    Args:
      config: as `read_extraction_config` gives it, or one with further sections.
      folder: of a model, in place of the one that the config names.
      command: as for `model_path`.
      global_model: as of `load_model`.
    """
    model = load_model(folder or model_path(config, command), global_model)
    check_projections(config, model)
    return model, settings_for(model, **replaced_settings(config))


def model_path(config: ConfigDict, command: str = "") -> str | None:
    """The folder of the model that a config names; None is the bundled one.

    Args:
      command: what makes it, for messages.
    """
    if not config.model:
        return None
    if not pathlib.Path(config.model).exists():
        command = command or f"convert DOWNLOADED --out={config.model}"
        raise InputError(
            f"{config.model}: no such model; run `{command}` first, or name another "
            "folder with --model"
        )
    if not (pathlib.Path(config.model) / "config.json").is_file():
        raise InputError(
            f"{config.model}: not a converted model; run `convert {config.model} "
            "--out=MODEL` first, then give --model=MODEL"
        )
    return config.model


def replaced_settings(config: ConfigDict) -> dict[str, Any]:
    """The settings that a config replaces, projections loaded: for `settings_for`."""
    settings: dict[str, Any] = {}
    for name, value in config.extraction.items():
        if name in PCA_FIELDS:
            if value.mean is not None:
                settings[name] = pca.load_pca(value) if value.mean else None
            elif any(value.values()):
                raise InputError(f"extraction.{name}.mean: missing; set it, too")
        elif value is not None:
            settings[name] = None if name in BOUNDS and value == 0 else value
    return settings


def check_projections(config: ConfigDict, model: Model) -> None:
    """InputError if a projection was fitted to the features of another model."""
    made_by = {"pca": model, "global_pca": model.global_model or model}
    for name in PCA_FIELDS:
        for file in pca.FILES:
            if path := config.extraction[name][file]:
                pca.check_model(name, path, made_by[name])


def merge(
    config: ConfigDict,
    fields: ConfigDict | Mapping[str, Any],
    path: Any,
    prefix: str = "",
) -> None:
    """Sets fields of a config; InputError if it has no such field."""
    for name, value in fields.items():
        if name not in config:
            raise InputError(
                f"{path}: a config of extraction has no field {prefix}{name}; there "
                f"are {', '.join(config)}"
            )
        if isinstance(config[name], ConfigDict) != isinstance(value, ConfigDict):
            kind = "fields" if isinstance(config[name], ConfigDict) else "one value"
            raise InputError(f"{path}: {prefix}{name}: must be {kind}")
        if isinstance(config[name], ConfigDict):
            merge(config[name], value, path, f"{prefix}{name}.")
            continue
        try:
            config[name] = value
        except TypeError as error:
            raise InputError(f"{path}: {prefix}{name}: {error}") from None
