"""Training states on disk: the one file that knows orbax."""

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointHandler, CheckpointRestore, CheckpointSave

from delf_jax.files import InputError

Tree = Any


def open_checkpoints(
    directory: str | pathlib.Path, *, keep: int
) -> ocp.CheckpointManager:
    """A manager of the newest `keep` states under `directory`; close it in the end."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
    )
    handlers = {"state": ocp.StandardCheckpointHandler(), "data": CheckpointHandler()}
    folder = pathlib.Path(directory).absolute()
    return ocp.CheckpointManager(folder, options=options, item_handlers=handlers)


def save(manager: ocp.CheckpointManager, step: int, state: Tree, iterator: Any) -> None:
    """Starts to write the state and the iterator's position as `step`.

    On disk for certain after `manager.wait_until_finished()`.
    """
    # Arrays of one host's devices cannot be saved by several hosts; numpy can.
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(jax.tree.map(np.asarray, state)),
        data=CheckpointSave(iterator),
    )
    manager.save(step, args=items, force=True)


def restore(manager: ocp.CheckpointManager, state: Tree, iterator: Any) -> Tree:
    """The newest state, as numpy arrays, with the iterator moved to where it stood.

    Args:
      manager: one that has a `latest_step`.
      state: a tree of arrays as the training starts with: names and shapes.
      iterator: of the data; it is set.
    """
    step = manager.latest_step()
    folder = f"{manager.directory}/{step}"
    _check_shapes(_stored_shapes(manager, step), _shapes(state), folder)
    example = jax.tree.map(np.asarray, state)
    items = ocp.args.Composite(
        state=ocp.args.StandardRestore(example), data=CheckpointRestore(iterator)
    )
    return manager.restore(step, args=items).state


def read_state(directory: str | pathlib.Path, step: int | None = None) -> Tree:
    """The newest state of any training, or that of a step, as dicts of numpy arrays."""
    folder = pathlib.Path(directory)
    if not folder.is_dir():
        raise InputError(f"{directory}: no such folder of checkpoints to start from")
    with ocp.CheckpointManager(
        folder.absolute(),
        options=ocp.CheckpointManagerOptions(read_only=True),
        item_handlers={"state": ocp.StandardCheckpointHandler()},
    ) as manager:
        step = manager.latest_step() if step is None else step
        if step is None:
            raise InputError(f"{directory}: holds no checkpoint to start from")
        meta = manager.item_metadata(step).state.tree
        example = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), meta)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(example))
        return manager.restore(step, args=items).state


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _stored_shapes(
    manager: ocp.CheckpointManager, step: int
) -> dict[str, tuple[int, ...]]:
    return _shapes(manager.item_metadata(step).state.tree)


def _check_shapes(stored: dict, wanted: dict, folder: str) -> None:
    """InputError that names the first parameter that differs."""
    for name in sorted(stored.keys() | wanted.keys()):
        there, here = stored.get(name), wanted.get(name)
        if name.startswith("params/") and there != here:
            raise InputError(
                f"{folder}: a checkpoint of another architecture: {name} is "
                f"{_said(there)} there and {_said(here)} in this config; choose "
                "another --workdir or the config that it was made with"
            )


def _said(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "a number"
