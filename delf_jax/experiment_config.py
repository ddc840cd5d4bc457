"""Configs of experiments: a config of extraction with a section `experiment`."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from delf_jax import configuration, extraction_config, ways
from delf_jax.extraction_config import EXPERIMENT
from delf_jax.files import InputError

# Columns of `paper`.
_PAPER = (str, str, (int, float), (int, float))


def every_field() -> ConfigDict:
    """All that a section `experiment` can say; configs/experiment.py explains it."""
    codebook = {"words": 0, "iterations": 50, "seed": 0, "path": "", "learned_on": ()}
    names = {"weights": "", "datasets": (), "ways": (), "verification": "", "boxes": ""}
    return ConfigDict({**names, "codebook": codebook, "paper": ()})


def read_experiment_config(
    path: str | os.PathLike, overrides: Sequence[str] = ()
) -> ConfigDict:
    """The locked config of a file: model, extraction, experiment.

    InputError for what is misspelt or makes no sense, in the file or in overrides such
    as `--config.experiment.codebook.words=1024`.
    """
    wanted = "reproduce takes one with a section experiment, as in configs/"
    if pathlib.Path(path).suffix == ".pbtxt":
        raise InputError(f"{path}: a text config of the original; {wanted}")
    given = configuration.run_config(path)
    if EXPERIMENT not in given:
        raise InputError(f"{path}: says nothing of an experiment; {wanted}")
    config = extraction_config.every_field()
    config[EXPERIMENT] = every_field()
    extraction_config.merge(config, given, path)
    configuration.override_fields(config, overrides)
    _check(config.experiment, path)
    return config.lock()


def _check(experiment: ConfigDict, path: Any) -> None:
    """InputError, naming the field, if one has no meaning."""
    numbers = experiment.codebook
    allowed = {
        "datasets": bool(experiment.datasets) and _are(experiment.datasets, str),
        "ways": bool(experiment.ways) and _are(experiment.ways, str),
        "codebook.words": numbers.words >= 0,
        "codebook.iterations": numbers.iterations > 0,
        "codebook.seed": numbers.seed >= 0,
        "codebook.learned_on": _are_rows(numbers.learned_on, (str, str)),
        "paper": _are_rows(experiment.paper, _PAPER),
    }
    for name, good in allowed.items():
        if not good:
            raise InputError(f"{path}: {EXPERIMENT}.{name}: not allowed")
    chosen = ways.parse_ways(",".join(experiment.ways))
    if any(way[0] == "asmk" for way in chosen) and not (numbers.words or numbers.path):
        raise InputError(
            f"{path}: way asmk needs visual words: set {EXPERIMENT}.codebook.words, or "
            f"{EXPERIMENT}.codebook.path to a codebook that is there"
        )


def _are_rows(rows: Any, kinds: Sequence[Any]) -> bool:
    return all(
        isinstance(row, tuple)
        and len(row) == len(kinds)
        and all(map(isinstance, row, kinds))
        for row in rows
    )


def _are(values: Any, kind: type) -> bool:
    return all(isinstance(value, kind) for value in values)
