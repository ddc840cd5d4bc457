"""What inliers and similarities are worth with a model: read from its folder, written.

config.json of a model may have `calibration`: of its local features `inliers`, and of
its global descriptors `similarity`, so that two models can stand in for each other.
evaluation/calibration.py measures both.
"""

import os
import pathlib
from typing import Any

from delf_jax.extraction.model_folder import CONFIG, Model
from delf_jax.files import InputError
from delf_jax.manifests import Is, check, read_manifest, write_manifest
from delf_jax.retrieval.ranking import Calibration

FIELD = "calibration"
_REPAIR = "calibrate the model again"


def _numbers(low: float, high: float, words: str) -> Is:
    return Is(words, lambda v: type(v) in (int, float) and low < v < high)


_POSITIVE = _numbers(0.0, 1e9, "a number above 0")
_COUNT = Is("an integer of at least 0", lambda v: type(v) is int and 0 <= v < 2**31)
_PAIR = Is("two numbers", lambda v: isinstance(v, list) and len(v) == 2)
_SCHEMA = {
    "inliers?": {
        "share": _numbers(0.0, 1.0, "a number between 0 and 1"),
        "slope": _POSITIVE,
        "middle": float,
        "most": _POSITIVE,
        "background": [_COUNT],
        "by_chance": [_COUNT],
        "surprise": [float],
        "threshold?": _POSITIVE,
    },
    "similarity?": _numbers(-1e-9, 1e9, "a number of at least 0"),
    "fitted_to?": str,
}


def calibration_of(model: Model) -> Calibration | None:
    """That of a model; None if its inliers have none. InputError if it is damaged."""
    inliers = _read(model).get("inliers")
    if inliers is None:
        return None
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in inliers.items()
    }
    of_global = model.global_model or model
    return Calibration(**values, similarity=similarity_of(of_global))


def similarity_of(model: Model) -> float:
    """The weight of similarities of a model's global descriptors.

    Without a calibration it is 1, as if nothing but their rarity were known: that errs
    towards the similarities.
    """
    return _read(model).get("similarity", 1.0)


def write_calibration(
    directory: str | os.PathLike, fitted_to: str, **parts: Any
) -> None:
    """Adds parts of a calibration, `inliers` or `similarity`, to a model folder.

    Args:
      fitted_to: the photos that say so, in words.
    """
    path = pathlib.Path(directory, CONFIG)
    config = read_manifest(path, {}, "name the folder of a model")
    known = config.get(FIELD, {})
    config[FIELD] = {**known, **parts, "fitted_to": fitted_to}
    write_manifest(path, config)


def to_json(calibration: Calibration) -> dict[str, Any]:
    """The numbers of the local features, rounded, ready for JSON."""
    values = calibration._asdict()
    del values["similarity"]
    return {
        name: [round(x, 3) for x in v] if isinstance(v, tuple) else round(v, 3)
        for name, v in values.items()
    }


def _read(model: Model) -> dict[str, Any]:
    """What the folder of a model says, checked."""
    found = model.config.get(FIELD, {})
    where = f"{model.name}: {CONFIG}"
    check({FIELD: found}, {FIELD: _SCHEMA}, where, _REPAIR)
    for name in ("by_chance", "surprise"):
        if not _PAIR.test(found.get("inliers", {}).get(name, [0, 0])):
            raise InputError(f"{where}: {FIELD}.inliers.{name}: expected two numbers")
    return found
