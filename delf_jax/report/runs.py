"""What the trainings of a sweep changed and measured, ready for a table or a figure."""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from delf_jax.files import InputError, read_json
from delf_jax.report.curves import Curve, read_curves


class Run(NamedTuple):
    """One training."""

    name: str
    """of its workdir"""
    fields: dict[str, Any]
    """fields of its config that are not the same in all, such as "loss.margin\""""
    curves: dict[str, Curve]
    """(steps, values) of each metric, such as "validation/mAP\""""


def read_runs(folder: str | os.PathLike) -> list[Run]:
    """The trainings whose workdirs lie in a folder, as `sweep` leaves them, by name.

    Those that have measured nothing yet are left out. InputError if there are none.
    """
    configs: dict[pathlib.Path, dict[str, Any]] = {}
    for path in sorted(pathlib.Path(folder).glob("*/metrics.jsonl")):
        config = read_json(path.parent / "config.json")
        if not isinstance(config, dict):
            raise InputError(
                f"{path.parent / 'config.json'}: not the config of a training"
            )
        configs[path.parent] = dict(_flat(config))
    if not configs:
        raise InputError(f"{folder}: no trainings; name the --workdir of a sweep")
    first, *others = configs.values()
    names = dict.fromkeys(name for config in configs.values() for name in config)
    absent = object()
    changed = [
        name
        for name in names
        if any(x.get(name, absent) != first.get(name, absent) for x in others)
    ]
    return [
        Run(
            path.name,
            {name: config[name] for name in changed if name in config},
            read_curves(path),
        )
        for path, config in configs.items()
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields by their dotted names."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
