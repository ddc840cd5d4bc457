"""Weights of another training or model as the start of a new one."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

from delf_jax.extraction import model_folder
from delf_jax.extraction.settings import make_settings
from delf_jax.files import InputError
from delf_jax.training import checkpoints
from delf_jax.training.step import Static, TrainState

Shapes = Mapping[str, tuple[int, ...]]
_PIXELS = ("pixel_mean", "pixel_std")


class Row(NamedTuple):
    """Tensors of one part of the model that had the same outcome."""

    part: str
    tensors: int
    numbers: int
    outcome: str


def start_from(source: str, state: TrainState, static: Static) -> TrainState:
    """The state with the weights of another training or model, where they fit.

    Prints a table of what was loaded, what was not and why. InputError if nothing fits,
    or if they expect pixels that are normalised in another way.
    """
    theirs = flax.traverse_util.flatten_dict(_read(source, static), sep="/")
    ours = flax.traverse_util.flatten_dict(state.ema, sep="/")
    shapes = [{n: x.shape for n, x in tree.items()} for tree in (ours, theirs)]
    rows = compare(*shapes)
    print(*format_table(source, rows), sep="\n", flush=True)
    fits = {n for n, x in ours.items() if n in theirs and theirs[n].shape == x.shape}
    if not fits:
        raise InputError(
            f"init_from: no tensor of {source} has the name and shape of one of this "
            "model; look at both with `inspect`"
        )
    merged = {n: jnp.asarray(theirs[n]) if n in fits else x for n, x in ours.items()}
    ema = flax.traverse_util.unflatten_dict(merged, sep="/")
    copied = jax.tree.map(jnp.copy, ema)
    params = {**state.params, "model": copied["params"]}
    return state.replace(params=params, batch_stats=copied["batch_stats"], ema=ema)


def _read(source: str, static: Static) -> dict[str, Any]:
    """{"params", "batch_stats"} of a model folder, or the averages of a workdir."""
    if not (pathlib.Path(source) / "model.safetensors").exists():
        return checkpoints.read_state(pathlib.Path(source) / "checkpoints")["ema"]
    config, variables = model_folder.read_model(source)
    names = {*_PIXELS} & config["extraction"].keys()
    theirs = make_settings({name: config["extraction"][name] for name in names})
    for name in _PIXELS:
        if getattr(theirs, name) != getattr(static, name):
            raise InputError(
                f"{source}: was trained with {name} {getattr(theirs, name)}; set "
                f"extraction.{name}, which is {getattr(static, name)}, to that"
            )
    return variables


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
