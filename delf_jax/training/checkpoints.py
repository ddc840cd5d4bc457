"""What a training leaves on disk: states, by orbax, and the model of the best one."""

import contextlib
import errno
import functools
import operator
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy as keeping

from delf_jax.config import as_json
from delf_jax.extraction import model_folder
from delf_jax.files import InputError
from delf_jax.training.step import TrainState

Tree = Any
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Messages of the library below orbax, whose errors have no number.
_FULL_WORDS = ("No space left", "ENOSPC", "EDQUOT", "quota exceeded", "File too large")


def open_checkpoints(
    directory: str | pathlib.Path, *, keep: int, best: str = ""
) -> ocp.CheckpointManager:
    """A manager of states under `directory`; close it in the end.

    It keeps the newest `keep`, and the one whose metric of the name `best` is largest.
    """
    policies: list[Any] = [keeping.LatestN(keep)]
    metric = operator.itemgetter(best)
    if best:
        chosen = keeping.BestN(
            get_metric_fn=metric, n=1, keep_checkpoints_without_metrics=False
        )
        policies.append(chosen)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=keeping.AnyPreservationPolicy(policies),
        best_fn=metric if best else None,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=True,
    )
    return _open(pathlib.Path(directory), options)


def save(
    manager: ocp.CheckpointManager,
    step: int,
    state: Tree,
    run: dict[str, Any],
    metrics: dict[str, float] | None = None,
) -> None:
    """Starts to write the state as `step`, with what describes the run.

    On disk for certain after `manager.wait_until_finished()`.

    Args:
      state: arrays, each in whole on every device.
      run: what JSON holds: the position in the data, the config, the git revision.
      metrics: of a validation at this step.
    """
    # Arrays of one host's devices cannot be saved by several hosts; numpy can.
    arrays = jax.tree.map(np.asarray, state)
    # One state is written at a time. Where a second has no room, nothing is begun:
    # orbax is noisy about what it cannot finish.
    manager.wait_until_finished()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    if shutil.disk_usage(manager.directory).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(arrays), run=ocp.args.JsonSave(run)
    )
    manager.save(step, args=items, metrics=metrics, force=True)


def read_run(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """What `save` was given as `run`; InputError if an older version saved it."""
    folder = pathlib.Path(manager.directory) / str(step)
    if not (folder / "run").is_dir():
        raise InputError(
            f"{folder}: was saved by an older version and cannot be resumed; choose "
            "another --workdir, and this one as init_from"
        )
    items = ocp.args.Composite(run=ocp.args.JsonRestore())
    return manager.restore(step, args=items).run


def restore(manager: ocp.CheckpointManager, shapes: Tree) -> Tree:
    """The newest state, as numpy arrays; `shapes`: as the training starts with."""
    step = manager.latest_step()
    trees = manager.item_metadata(step).state.tree, shapes
    stored, expected = map(_format_shapes, trees)
    for name in sorted(stored.keys() | expected.keys()):
        there, here = (x.get(name, "absent") for x in (stored, expected))
        if name.startswith("params/") and there != here:
            raise InputError(
                f"{manager.directory}/{step}: a checkpoint of another architecture: "
                f"expected {name} {here}, got {there}; choose another --workdir or the "
                "config that it was made with"
            )
    return _restore(manager, step, shapes)


def read_state(directory: str | pathlib.Path, step: int | None = None) -> Tree:
    """The newest state of any training, or that of a step, as dicts of numpy arrays."""
    folder = pathlib.Path(directory)
    if not folder.is_dir():
        raise InputError(f"{directory}: no such folder of checkpoints")
    options = ocp.CheckpointManagerOptions(read_only=True)
    with _quiet(), _open(folder, options) as manager:
        step = manager.latest_step() if step is None else step
        if step is None:
            raise InputError(f"{directory}: no checkpoint found")
        return _restore(manager, step, manager.item_metadata(step).state.tree)


@contextlib.contextmanager
def naming_last_good(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Waits for what is being written.

    Errors of input and of a full disk become an InputError that names the last
    checkpoint that is complete.
    """
    try:
        with _quiet():
            yield
            manager.wait_until_finished()
    except Exception as error:
        reason = _reason(error, manager)
        if reason is None:
            raise
        # What was begun before the error may still become whole.
        with contextlib.suppress(Exception), _quiet():
            manager.wait_until_finished()
        steps = ocp.utils.checkpoint_steps(manager.directory)
        last = "no checkpoint is complete yet"
        if steps:
            last = f"the last good checkpoint is {manager.directory}/{max(steps)}"
        raise InputError(f"{reason}; {last}") from error


def write_model(
    config: ConfigDict,
    state: TrainState,
    best: int | None,
    folder: pathlib.Path,
    whiten: Callable[[Any, pathlib.Path], dict[str, Any]] | None,
) -> None:
    """Writes the averaged model as the folder that every other command reads.

    Args:
      best: the step of the checkpoint to write instead, if a validation chose one.
      whiten: from averages and a folder to the whitening's files, if there is one.
    """
    step, averages = int(state.step), state.ema
    if best is not None and best != step:
        step, averages = best, read_state(folder / "checkpoints", best)["ema"]
    provenance = {"config": as_json(config), "steps": step, "revision": revision()}
    averages = jax.tree.map(np.asarray, averages)
    extraction = config.extraction.to_dict()
    if whiten is not None:
        extraction["global_pca"] = whiten(averages, folder / "model")
    model_folder.save_model(
        folder / "model", config.model.to_dict(), averages, extraction, provenance
    )
    print(f"model of step {step} written to {folder / 'model'}", flush=True)


@functools.cache
def revision() -> str:
    """The git revision of this code, empty where it is not a checkout."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return found.stdout.strip()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without orbax' log: what it calls an error is raised, too."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.FATAL)
    try:
        yield
    finally:
        absl.logging.set_verbosity(verbosity)


def _reason(error: Exception, manager: ocp.CheckpointManager) -> str | None:
    if isinstance(error, InputError):
        return str(error)
    numbered = isinstance(error, OSError) and error.errno in _FULL
    if numbered or any(words in str(error) for words in _FULL_WORDS):
        return (
            f"{manager.directory}: no space left on the disk to save; make room and "
            "run the same command again"
        )
    return None


def _open(
    folder: pathlib.Path, options: ocp.CheckpointManagerOptions
) -> ocp.CheckpointManager:
    state, run = ocp.StandardCheckpointHandler(), ocp.JsonCheckpointHandler()
    handlers = {"state": state, "run": run}
    return ocp.CheckpointManager(
        folder.absolute(), options=options, item_handlers=handlers
    )


def _restore(manager: ocp.CheckpointManager, step: int, shapes: Tree) -> Tree:
    example = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    items = ocp.args.Composite(state=ocp.args.StandardRestore(example))
    return manager.restore(step, args=items).state


def _format_shapes(tree: Tree) -> dict[str, str]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            "x".join(map(str, leaf.shape)) or "a number"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
