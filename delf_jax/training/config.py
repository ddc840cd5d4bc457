"""Configs of trainings: complete ones are read, and compared with a workdir's."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from delf_jax import manifests
from delf_jax.config import (
    as_json,
    check_field,
    fields_of,
    override_fields,
    read_ranges,
    run_config,
)
from delf_jax.extraction.model_folder import BUNDLED, BUNDLED_DETECTOR
from delf_jax.files import InputError
from delf_jax.models.architecture import BACKBONE_FIELDS

# What may change in a workdir that has checkpoints, as configs/common.py says, too: how
# long, where and how watched a training runs, what its model is exported with, and the
# remedies for a loss that is not finite.
MAY_CHANGE = (
    "steps log_every checkpoint_every keep_checkpoints keep_every_hours images_every "
    "wandb_project devices parallel "
    "init_from init_partial init_share validation data.directory data.threads "
    "optimizer.learning_rate optimizer.clip_norm "
    "extraction.image_scales extraction.global_scales "
    "extraction.max_image_size extraction.min_image_size extraction.max_features "
    "extraction.attention_threshold extraction.nms_iou "
    "extraction.gem_power extraction.gem_region extraction.gem_floor "
    "extraction.scale_power"
).split()
# Of a version before, which did something with loss.distillation alone.
GONE = ("loss.distillation", "teacher.weights", "teacher.long_sides")
# Of a model, what other modules read: its network has defaults for the rest.
_OF_MODEL = ("model.name", "model.normalization")
_SOURCE = re.compile(r"(data\.sources)\.[^.]+")
# What a training chooses, whatever it starts from.
_OWN = ("name", "normalization", "num_classes")
# Of the config.json of a model folder, or of a workdir.
_FIELDS = {str: object}
_SCHEMA = {"architecture?": _FIELDS, "model?": _FIELDS, "extraction?": _FIELDS}
_REPAIR = "restore it, or choose another folder"
# Of `init_from`: no folders, but our own models.
_BUNDLED = {"bundled": BUNDLED, "bundled_detector": BUNDLED_DETECTOR}


def read_training_config(
    path: str | os.PathLike,
    overrides: Sequence[str] = (),
    workdir: str | os.PathLike = "",
) -> ConfigDict:
    """What `read_config` returns; InputError if it is not a config of a training.

    Fields of its model that neither the file nor the overrides change are those of the
    checkpoints in the workdir, where it has some, else of `init_from`; so are those of
    its extraction, where the model is of the same kind.
    """
    expected = "train expects one that starts from configs/common.py"
    if pathlib.Path(path).suffix == ".pbtxt":
        raise InputError(f"{path}: a text config of the original; {expected}")
    config = run_config(path)
    # Beside what configs of extraction have, too.
    needed = [n for n in read_ranges("common")[0] if n not in ("model", "extraction")]
    missing = [name for name in needed if name not in config]
    if missing == needed:
        raise InputError(f"{path}: a config of extraction; {expected}")
    if missing:
        raise InputError(f"{path}: has no {', '.join(missing)}; {expected}")
    override_fields(config, overrides)
    check_values(config)
    if config.init_from:
        begun = workdir and any(pathlib.Path(workdir).glob("checkpoints/[0-9]*"))
        source = pathlib.Path(workdir) if begun else start_folder(config.init_from)
        named = {each.split("=")[0].removeprefix("--config.") for each in overrides}
        architecture, extraction = description_of(source)
        _adopt_architecture(config, architecture, named)
        if architecture.get("name") == config.model.name:
            _adopt_extraction(config, extraction, named)
        check_values(config)
    return config.lock()


def check_values(config: ConfigDict) -> None:
    """InputError, naming the field, for a value that configs/common.py does not allow.

    Or for a field that is not there; those that it does not know are left alone.
    """
    common, ranges = read_ranges("common")
    fields = dict(fields_of(config))
    varies = "model.", "data.sources"
    needed = [name for name, _ in fields_of(common) if not name.startswith(varies)]
    for name in [*needed, *_OF_MODEL]:
        if name not in fields:
            raise InputError(f"the config has no {name}; configs/common.py has it")
    for name, value in fields.items():
        general = _SOURCE.sub(r"\1.*", name)
        if general in ranges:
            check_field(name, value, ranges[general])
        elif name.startswith("data.sources."):
            known = (n.split(".")[-1] for n in ranges if n.startswith("data.sources"))
            raise InputError(f"{name}: no such field; a source has {', '.join(known)}")


def check_sources(config: ConfigDict) -> None:
    """InputError if there is nothing to train on, or a source does not say where."""
    if not config.data.sources:
        raise InputError(
            "data.sources is empty: name photos to train on; "
            "configs/template_own_folder.py shows how"
        )
    for name, source in config.data.sources.items():
        if "landmarks" not in source and not source.get("path"):
            raise InputError(f"data.sources.{name}.path is empty: name a folder or CSV")


def _adopt_architecture(
    config: ConfigDict, architecture: Mapping[str, Any], named: set[str]
) -> None:
    """Sets fields of the model that are left open as another model has them.

    Of a model of another kind, those of the backbone.

    Args:
      named: fields that the command line sets.
    """
    defaults = read_ranges("common")[0].model

    def is_open(name: str) -> bool:
        chosen = f"model.{name}" in named or (
            name in config.model and config.model[name] != defaults.get(name)
        )
        return not chosen and name not in _OWN

    same_kind = architecture.get("name") == config.model.name
    # Of any type: values are checked after this.
    with config.unlocked(), config.ignore_type():
        for name, value in architecture.items():
            if is_open(name) and (same_kind or name in BACKBONE_FIELDS):
                config.model[name] = value
        if config.model.get("backbone", defaults.backbone) != defaults.backbone:
            # It may have no such field: those of another backbone are not its own.
            for name in BACKBONE_FIELDS:
                if name in config.model and name not in architecture and is_open(name):
                    del config.model[name]


def _adopt_extraction(
    config: ConfigDict, extraction: Mapping[str, Any], named: set[str]
) -> None:
    """Sets fields of the extraction that are left open as another model has them.

    Args:
      named: fields that the command line sets.
    """
    defaults = read_ranges("common")[0].extraction
    for name, value in extraction.items():
        is_open = name in defaults and config.extraction.get(name) == defaults[name]
        if is_open and f"extraction.{name}" not in named:
            value = tuple(value) if isinstance(value, list) else value
            with config.unlocked(), config.ignore_type():
                config.extraction[name] = value


def start_folder(init_from: str) -> pathlib.Path:
    """The folder that a config's `init_from` names."""
    return _BUNDLED.get(init_from, pathlib.Path(init_from))


def description_of(source: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(model, extraction): fields of a model folder or a workdir; {} if unknown."""
    if not source.is_dir():
        raise InputError(
            f"init_from: {source}: no such folder; name a model folder or the workdir "
            "of a training"
        )
    if not (source / "config.json").is_file():
        return {}, {}
    content = manifests.read_manifest(source / "config.json", _SCHEMA, _REPAIR)
    is_model = (source / "model.safetensors").is_file()
    model = content.get("architecture" if is_model else "model", {})
    return model, content.get("extraction", {})


def check_same_run(
    before: Mapping[str, Any], now: Mapping[str, Any], where: str
) -> list[str]:
    """What differs between the config of the checkpoint `where` and that of now.

    InputError that names the first field that may not differ (see MAY_CHANGE).
    """
    # What a version did not have, it did as the defaults say.
    defaults = dict(fields_of(as_json(read_ranges("common")[0])))
    old, new = (dict(fields_of(config)) for config in (before, now))
    changes = []
    for name in sorted(old.keys() | new.keys()):
        there = old.get(name, defaults.get(name, "absent"))
        here = new.get(name, "absent")
        if there == here or (name in GONE and not old.get("loss.distillation")):
            continue
        if not any(name == may or name.startswith(f"{may}.") for may in MAY_CHANGE):
            raise InputError(
                f"{where}: was trained with {name} {there}, this config has {here}; "
                "choose another --workdir or the old value (configs/common.py lists "
                "what may change)"
            )
        if there != "absent":  # of a version that did not have it.
            changes.append(f"{name} {here} instead of {there}")
    return changes
