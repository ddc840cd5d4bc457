"""Weights of another training or model as the start of a new one."""

import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from delf_jax.extraction import model_folder
from delf_jax.extraction.model_folder import build_module
from delf_jax.extraction.settings import ExtractionSettings, make_settings
from delf_jax.files import InputError
from delf_jax.models.architecture import expected_shapes
from delf_jax.training import checkpoints
from delf_jax.training.config import description_of, start_folder
from delf_jax.training.step import TrainState

Weights = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]
_PIXELS = ("pixel_mean", "pixel_std")


class Row(NamedTuple):
    """Tensors of one part of the model that had the same outcome."""

    part: str
    tensors: int
    numbers: int
    outcome: str


def read_weights(config: ConfigDict) -> Weights:
    """The tensors that `init_from` names, by name, after a look at what they are.

    Cheap beside what a training does: to be called before anything else.

    InputError if they expect pixels that are normalised in another way, or if less than
    half of the model is there, unless `init_partial` says so.
    """
    source, partial = config.init_from, config.init_partial
    folder = start_folder(source)
    architecture, extraction = description_of(folder)
    if not _is_model(folder) and not (folder / "checkpoints").is_dir():
        raise InputError(
            f"init_from: {source}: neither a model folder nor a workdir with "
            "checkpoints"
        )
    _check_pixels(source, extraction, make_settings(config.extraction.to_dict()))
    ours = config.model.get("layout", "")
    layouts = architecture.get("layout", ours), ours
    if layouts[0] != layouts[1] and not partial:
        raise InputError(
            f"init_from: {source} has model.layout {layouts[0]!r}, in which the same "
            f"weights give other features than in {layouts[1]!r}: set model.layout to "
            "that, or init_partial=True to begin so"
        )
    theirs = _read(folder)
    module = build_module({**config.model.to_dict(), "num_classes": 0})
    expected = expected_shapes(module)
    loaded, wanted = share({n: x.shape for n, x in theirs.items()}, expected)
    if 2 * loaded < wanted and not partial:
        raise InputError(
            f"init_from: {source} has {loaded:,} of the {wanted:,} numbers of this "
            "model, less than half: set the fields of model as they are there (see "
            "`inspect`), or init_partial=True to begin so"
        )
    return theirs


def start_from(source: str, theirs: Weights, state: TrainState) -> TrainState:
    """The state with weights of `read_weights`, where they fit.

    Prints a table of what was loaded, what was not and why. InputError if nothing fits.
    """
    ours = flax.traverse_util.flatten_dict(state.ema, sep="/")
    shapes = [{n: x.shape for n, x in tree.items()} for tree in (ours, theirs)]
    print(*format_table(source, compare(*shapes)), sep="\n", flush=True)
    loaded, wanted = share(shapes[1], shapes[0])
    if not loaded:
        raise InputError(
            f"init_from: no tensor of {source} has the name and shape of one of this "
            "model; look at both with `inspect`"
        )
    print(f"loaded: {loaded:,} of {wanted:,} numbers, {loaded / wanted:.1%}")
    fits = {n for n, x in ours.items() if n in theirs and theirs[n].shape == x.shape}
    merged = {n: jnp.asarray(theirs[n]) if n in fits else x for n, x in ours.items()}
    ema = flax.traverse_util.unflatten_dict(merged, sep="/")
    copied = jax.tree.map(jnp.copy, ema)
    params = {**state.params, "model": copied["params"]}
    return state.replace(params=params, batch_stats=copied["batch_stats"], ema=ema)


def share(theirs: Shapes, ours: Shapes) -> tuple[int, int]:
    """(numbers of ours that they have in the same shape, numbers of ours)."""
    sizes = {name: math.prod(shape) for name, shape in ours.items()}
    fits = (size for name, size in sizes.items() if theirs.get(name) == ours[name])
    return sum(fits), sum(sizes.values())


def _check_pixels(
    source: str, extraction: Mapping[str, Any], ours: ExtractionSettings
) -> None:
    names = {*_PIXELS} & extraction.keys()
    theirs = make_settings({name: extraction[name] for name in names})
    for name in _PIXELS:
        if getattr(theirs, name) != getattr(ours, name):
            raise InputError(
                f"{source}: was trained with {name} {getattr(theirs, name)}; set "
                f"extraction.{name}, which is {getattr(ours, name)}, to that"
            )


def _is_model(folder: pathlib.Path) -> bool:
    return (folder / "model.safetensors").is_file()


def _read(source: pathlib.Path) -> Weights:
    """The tensors of a model folder, or the averages of a workdir."""
    if _is_model(source):
        variables = model_folder.read_model(source)[1]
    else:
        state = checkpoints.read_state(source / "checkpoints")
        variables = state["ema"]
    return flax.traverse_util.flatten_dict(variables, sep="/")


def compare(ours: Shapes, theirs: Shapes) -> list[Row]:
    """One row for the tensors of each part that have the same outcome."""
    found: dict[tuple[str, str], list[int]] = {}
    for name in [*ours, *(theirs.keys() - ours.keys())]:
        shape = ours.get(name, theirs.get(name, ()))
        outcome = _outcome(ours.get(name), theirs.get(name))
        found.setdefault((_part(name), outcome), []).append(int(np.prod(shape)))
    rows = [Row(part, len(n), sum(n), outcome) for (part, outcome), n in found.items()]
    return sorted(rows, key=lambda row: (row.part, row.outcome != "loaded"))


def _outcome(here: tuple | None, there: tuple | None) -> str:
    if here == there:
        return "loaded"
    if there is None:
        return "from scratch: not in the source"
    if here is None:
        return "not used: this model has no such part"
    sizes = ("x".join(map(str, shape)) or "a number" for shape in (there, here))
    return "from scratch: {} in the source, {} here".format(*sizes)


def _part(name: str) -> str:
    """params/backbone/block1_unit1/conv1/kernel -> backbone; local branch by layer."""
    parts = name.split("/")[1:-1]
    return "/".join(parts[: 1 if parts[:1] == ["backbone"] else 2]) or name


def format_table(source: str, rows: list[Row]) -> list[str]:
    """The table as lines."""
    width = max(len("part"), *(len(row.part) for row in rows))
    lines = [f"  {'part':<{width}}  tensors       numbers"]
    for row in rows:
        counts = f"{row.tensors:7d}  {row.numbers:12,}"
        lines.append(f"  {row.part:<{width}}  {counts}  {row.outcome}")
    return [f"weights of {source}:", *lines]
