"""Configs of trainings: complete ones are read, and compared with a workdir's."""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from delf_jax.config import override_fields, run_config
from delf_jax.files import InputError

# What configs/common.py has beside the fields of extraction: model and extraction.
_OF_TRAINING = (
    "seed steps batch_size ema_decay log_every checkpoint_every keep_checkpoints "
    "images_every devices parallel accumulate precision init_from data views loss "
    "teacher optimizer validation train_only tuples"
).split()
# What may change in a workdir that has checkpoints, as configs/common.py says, too: how
# long, where and how watched a training runs, what its model is exported with, and the
# remedies for a loss that is not finite.
MAY_CHANGE = (
    "steps log_every checkpoint_every keep_checkpoints images_every devices parallel "
    "init_from validation data.directory data.threads optimizer.learning_rate "
    "optimizer.clip_norm extraction.image_scales extraction.global_scales "
    "extraction.max_image_size extraction.max_features extraction.attention_threshold"
).split()


def read_training_config(
    path: str | os.PathLike, overrides: Sequence[str] = ()
) -> ConfigDict:
    """What `read_config` returns; InputError if it is not a config of a training."""
    expected = "train expects one that starts from configs/common.py"
    if pathlib.Path(path).suffix == ".pbtxt":
        raise InputError(f"{path}: a text config of the original; {expected}")
    config = run_config(path)
    missing = [name for name in _OF_TRAINING if name not in config]
    if len(missing) == len(_OF_TRAINING):
        raise InputError(f"{path}: a config of extraction; {expected}")
    if missing:
        raise InputError(f"{path}: has no {', '.join(missing)}; {expected}")
    override_fields(config, overrides)
    return config.lock()


def check_same_run(
    before: Mapping[str, Any], now: Mapping[str, Any], where: str
) -> list[str]:
    """What differs between the config of the checkpoint `where` and that of now.

    InputError that names the first field that may not differ (see MAY_CHANGE).
    """
    fields = [dict(_fields(config)) for config in (before, now)]
    changes = []
    for name in sorted(fields[0].keys() | fields[1].keys()):
        there, here = (values.get(name, "absent") for values in fields)
        if there == here:
            continue
        if not any(name == may or name.startswith(f"{may}.") for may in MAY_CHANGE):
            raise InputError(
                f"{where}: was trained with {name} {there}, this config has {here}; "
                "choose another --workdir or the old value (configs/common.py lists "
                "what may change)"
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
