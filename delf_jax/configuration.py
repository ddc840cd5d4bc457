"""Configs as files: read by path, with single fields replaced on the command line."""

import contextlib
import json
import os
import pathlib
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from delf_jax.files import InputError

# What configs/common.py has beside the fields of extraction: model and extraction.
_OF_TRAINING = (
    *("seed", "steps", "batch_size", "ema_decay", "log_every", "checkpoint_every"),
    *("keep_checkpoints", "images_every", "devices", "parallel", "accumulate"),
    *("precision", "init_from", "data", "views", "loss", "teacher", "optimizer"),
    "validation",
    "train_only",
    "tuples",
)
# What may change in a workdir that has checkpoints, as configs/common.py says, too: how
# long, where and how watched a training runs, what its model is exported with, and the
# remedies for a loss that is no number.
MAY_CHANGE = (
    *("steps", "log_every", "checkpoint_every", "keep_checkpoints", "images_every"),
    *("devices", "parallel", "init_from", "validation", "data.directory"),
    *("data.threads", "optimizer.learning_rate", "optimizer.clip_norm"),
    *(f"extraction.{name}" for name in ("image_scales", "global_scales")),
    *(f"extraction.{name}" for name in ("max_image_size", "max_features")),
    "extraction.attention_threshold",
)


def read_training_config(
    path: str | os.PathLike, overrides: Sequence[str] = ()
) -> ConfigDict:
    """What `read_config` gives; InputError if it is no config of a training."""
    wanted = "train takes one that starts from configs/common.py"
    if pathlib.Path(path).suffix == ".pbtxt":
        raise InputError(f"{path}: a text config of the original; {wanted}")
    config = run_config(path)
    missing = [name for name in _OF_TRAINING if name not in config]
    if len(missing) == len(_OF_TRAINING):
        raise InputError(f"{path}: a config of extraction; {wanted}")
    if missing:
        raise InputError(f"{path}: has no {', '.join(missing)}; {wanted}")
    override_fields(config, overrides)
    return config.lock()


def read_config(path: str | os.PathLike, overrides: Sequence[str] = ()) -> ConfigDict:
    """The config of a file, with overrides such as `--config.seed=3`, locked.

    InputError if the file cannot be run, a field does not exist, or a value is of
    another type than the one it replaces.
    """
    config = run_config(path)
    override_fields(config, overrides)
    return config.lock()


def override_fields(config: ConfigDict, overrides: Sequence[str]) -> None:
    """Replaces fields of a config by overrides such as `--config.seed=3`."""
    for override in overrides:
        if not override.startswith("--config.") or "=" not in override:
            raise InputError(f"{override}: write --config.FIELD=VALUE (see --help)")
        _override(config, override)


def run_config(path: str | os.PathLike) -> ConfigDict:
    """What `get_config()` of the file returns."""
    with _running(path) as names:
        config = names["get_config"]()
    if not isinstance(config, ConfigDict):
        raise InputError(f"{path}: get_config() must return a ConfigDict")
    return config


def read_sweep(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The fields of each trial that `sweep(add)` of the file adds, in its order.

    InputError if the file has no `sweep`, or if that adds nothing.
    """
    trials: list[dict[str, Any]] = []
    with _running(path) as names:
        if "sweep" not in names:
            raise InputError(f"{path}: has no sweep(add); `train` runs a single config")
        names["sweep"](lambda **fields: trials.append(fields))
    if not trials:
        raise InputError(f"{path}: sweep(add) adds no trial")
    return trials


@contextlib.contextmanager
def _running(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """The names of a config file that was run; InputError for whatever goes wrong."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such config file")
    try:
        with _importable(path.resolve().parent.parent):
            yield runpy.run_path(str(path))
    except InputError:
        raise
    except Exception as error:  # A config is a program: it may fail in any way.
        raise InputError(f"{path}: {type(error).__name__}: {error}") from error


def _override(config: ConfigDict, override: str) -> None:
    """Replaces one field, by the rules of ml_collections' own flags."""
    values = flags.FlagValues()
    arguments = ["train", override]
    try:
        config_flags.DEFINE_config_dict(
            "config", config, flag_values=values, sys_argv=arguments
        )
        values(arguments)
    except (AttributeError, KeyError) as error:
        # The repr of a message of two lines: a name, and what it may have meant.
        name, _, hint = str(error).strip("'\" ").replace("\\'", "").partition("\\n")
        hint = f" ({hint})" if hint else ""
        raise InputError(f"{override}: there is no field {name}{hint}") from None
    except (flags.Error, TypeError, ValueError) as error:
        reason = str(error).removeprefix(f"flag {override}: ")
        raise InputError(f"{override}: {reason}") from None


@contextlib.contextmanager
def _importable(folder: pathlib.Path) -> Iterator[None]:
    """A config may import its neighbours, whatever the working directory is."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def check_same_run(
    before: Mapping[str, Any], now: Mapping[str, Any], where: str
) -> list[str]:
    """What differs between two configs, as far as it may.

    InputError that names the first field that may not differ (see MAY_CHANGE).

    before: the config of the checkpoint `where`, as JSON holds it, like `now`.
    """
    fields = [dict(_fields(config)) for config in (before, now)]
    changes = []
    for name in sorted(fields[0].keys() | fields[1].keys()):
        there, here = (values.get(name, "absent") for values in fields)
        if there == here:
            continue
        if not any(name == may or name.startswith(f"{may}.") for may in MAY_CHANGE):
            raise InputError(
                f"{where}: was trained with {name} {there}, and this config says "
                f"{here}; choose another --workdir or the old value "
                "(configs/common.py lists what may change on the way)"
            )
        changes.append(f"{name} {here} instead of {there}")
    return changes


def _fields(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of all fields."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def as_json(config: ConfigDict) -> dict[str, Any]:
    """The fields of a config as plain data."""
    return json.loads(config.to_json_best_effort())
