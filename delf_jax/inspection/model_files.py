"""Our own model folders and trainings, recognised and read."""

import pathlib

import jax
import numpy as np

from delf_jax import extras
from delf_jax.conversion.weight_files import WeightFile, read_safetensors
from delf_jax.extraction import model_folder


def read(path: pathlib.Path) -> WeightFile | None:
    """The model or training at a path, None if it has neither; InputError if damaged.

    Names of tensors are those of the tree, with "/"; details: the config of a model.
    """
    if (path / "model.safetensors").is_file():
        return _read_model(path)
    states = _states(path) if path.is_dir() else None
    return _read_training(*states) if states else None


def _states(folder: pathlib.Path) -> tuple[pathlib.Path, int | None] | None:
    """(states of a training, step) of its workdir, of its states or of one of them."""
    if folder.name.isdecimal() and (folder / "state").is_dir():
        return folder.parent, int(folder.name)
    for inner in (folder / "checkpoints", folder):
        if any((step / "state").is_dir() for step in inner.glob("[0-9]*")):
            return inner, None
    return None


def _read_model(folder: pathlib.Path) -> WeightFile:
    config, _ = model_folder.read_model(folder)
    stored = read_safetensors(folder / "model.safetensors")
    return WeightFile("model", folder, stored.tensors, config)


def _read_training(directory: pathlib.Path, step: int | None) -> WeightFile:
    extras.require("train", f"{directory}: a state of training, which")
    from delf_jax.training import checkpoints

    state = checkpoints.read_state(directory, step)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    tensors = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }
    return WeightFile("training", directory, tensors, {})
