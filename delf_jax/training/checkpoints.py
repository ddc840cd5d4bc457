"""What a training leaves on disk: states, by orbax, and the model of the best one."""

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy as keeping

from delf_jax.config import as_json
from delf_jax.extraction import model_folder
from delf_jax.files import InputError, digest, read_json
from delf_jax.report import curves
from delf_jax.runtime import first_host_first
from delf_jax.training.config import start_folder
from delf_jax.training.step import TrainState, blend

Tree = Any
Found = TypeVar("Found")
# What orbax, the libraries below it and our own checks raise for damaged files. A disk
# that cannot be read, or is not there, is no damage.
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, FileNotFoundError)
# Items of a checkpoint.
_STATE, _RUN, _SUMS = "state", "run", "checksums"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Messages of the library below orbax, whose errors have no number.
_FULL_WORDS = ("No space left", "ENOSPC", "EDQUOT", "quota exceeded", "File too large")


def open_checkpoints(
    directory: str | pathlib.Path, *, keep: int, best: str = "", every_hours: float = 0
) -> ocp.CheckpointManager:
    """A manager of states under `directory`; close it in the end.

    It keeps the newest `keep`, the one whose metric of the name `best` is largest, and
    with `every_hours` the oldest and those that are so long after the one before.
    """
    policies: list[Any] = [keeping.LatestN(keep)]
    if every_hours:
        policies.append(keeping.EveryNSeconds(int(3600 * every_hours)))

    def metric(metrics: dict[str, float]) -> float:
        return metrics.get(best, -math.inf)  # another validation has measured others.

    if best:
        first_host_first(lambda: _drop_damaged_metrics(pathlib.Path(directory)))
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
    sums = {_STATE: _digest_arrays(arrays), _RUN: _digest_json(run)}
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(arrays),
        run=ocp.args.JsonSave(run),
        checksums=ocp.args.JsonSave(sums),
    )
    manager.save(step, args=items, metrics=metrics, force=True)


def newest_whole(
    manager: ocp.CheckpointManager,
    read: Callable[[int], Found],
    *,
    set_aside: bool = False,
) -> Found | None:
    """What `read` makes of the newest step that is not damaged; None without steps.

    Prints which are damaged and which is used. InputError if all are.

    Args:
      read: raises a ValueError or its like, but no InputError, for a damaged one.
      set_aside: damaged ones, so that the training can save these steps again.
    """
    damaged: dict[int, str] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            with _quiet():
                found = read(step)
        except InputError:
            raise
        except _DAMAGE as error:
            damaged[step] = _first_line(error)
            continue
        for bad, reason in damaged.items():
            kept = _set_aside(manager, bad) if set_aside else ""
            print(
                f"{manager.directory}/{bad}: damaged ({reason}){kept}; "
                f"{manager.directory}/{step} is used instead",
                flush=True,
            )
        return found
    if damaged:
        first, *others = damaged
        before = f", as are {', '.join(map(str, others))} before it" if others else ""
        raise InputError(
            f"{manager.directory}/{first}: damaged ({damaged[first]}){before}; no "
            "checkpoint is left to go on from, so choose another --workdir"
        )
    return None


def read_run(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """What `save` was given as `run`; InputError if an older version saved it.

    ValueError, or its like, if it is damaged; so does `restore`.
    """
    folder = pathlib.Path(manager.directory) / str(step)
    if not (folder / _RUN).is_dir():
        raise InputError(
            f"{folder}: was saved by an older version and cannot be resumed; choose "
            "another --workdir, and this one as init_from"
        )
    items = ocp.args.Composite(run=ocp.args.JsonRestore())
    run = manager.restore(step, args=items).run
    if not all(isinstance(run.get(n), dict) for n in ("position", "config")):
        raise ValueError(f"{_RUN} lacks position or config")
    _check_sum(manager, step, _RUN, _digest_json(run))
    return run


def restore(
    manager: ocp.CheckpointManager, shapes: Tree, step: int | None = None
) -> Tree:
    """The newest state or that of a step, as numpy arrays.

    Args:
      shapes: as the training starts with; InputError if they differ.
    """
    step = manager.latest_step() if step is None else step
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
    """The state of a step of any training, as dicts of numpy arrays.

    By default of the newest one that is not damaged. InputError if there is none, or
    if the step that is named is damaged.
    """
    folder = pathlib.Path(directory)
    if not folder.is_dir():
        raise InputError(f"{directory}: no such folder of checkpoints")
    with _quiet(), _open_to_read(folder) as manager:

        def read(step: int) -> Tree:
            return _restore(manager, step, manager.item_metadata(step).state.tree)

        if step is None:
            if (state := newest_whole(manager, read)) is not None:
                return state
            raise InputError(f"{directory}: no checkpoint found")
        try:
            return read(step)
        except _DAMAGE as error:
            raise InputError(
                f"{directory}/{step}: damaged ({_first_line(error)})"
            ) from None


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
    *,
    data: Mapping[str, Any] | None = None,
    start: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes the averaged model as the folder that every other command reads.

    Args:
      best: the step of the checkpoint to write instead, if a validation chose one.
      whiten: from averages and a folder to the whitening's files, if there is one.
      data: what the model card says of each source.
      start: the weights of `init_from`, of which the model has a share.
    """
    step, averages = int(state.step), state.ema
    if best is not None and best != step:
        try:
            found = read_state(folder / "checkpoints", best)
            step, averages = best, found["ema"]
        except InputError as error:
            print(f"{error}; the model is that of step {step} instead", flush=True)
    provenance = {
        "config": as_json(config),
        "steps": step,
        "revision": revision(),
        "data": data or {},
        "figures": _figures(folder, step),
    }
    averages = blend(jax.tree.map(np.asarray, averages), start, config.init_share)
    extraction = config.extraction.to_dict()
    if whiten is not None:
        extraction["global_pca"] = whiten(averages, folder / "model")
    model_folder.save_model(
        folder / "model",
        config.model.to_dict(),
        averages,
        extraction,
        provenance,
        calibration=_kept_calibration(config),
    )
    print(f"model of step {step} written to {folder / 'model'}", flush=True)


def _figures(folder: pathlib.Path, step: int) -> dict[str, dict[str, float]]:
    """What validations measured at the start and at a step, by metric."""
    if not (folder / "metrics.jsonl").is_file():
        return {}
    found: dict[str, dict[str, float]] = {}
    for name, (steps, values) in curves.read_curves(folder).items():
        kind, _, metric = name.partition("/")
        at = dict(zip(steps, values, strict=True))
        if kind == "validation" and step in at:
            before = {"start": at[0]} if step and 0 in at else {}
            found[metric] = {**before, "model": at[step]}
    return found


def _kept_calibration(config: ConfigDict) -> dict[str, Any]:
    """What inliers are worth by the model of `init_from`, if they are as they were."""
    path = start_folder(config.init_from) / model_folder.CONFIG
    if not config.init_from or config.train_only != "global" or not path.is_file():
        return {}
    before = read_json(path)
    kept = before.get("calibration", {}).keys() & {"inliers", "fitted_to"}
    return {name: before["calibration"][name] for name in sorted(kept)}


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


@functools.cache
def _forget_closed_loops() -> None:
    """From now on: what threads of a read that failed tell its closed event loop.

    They may do so until the program ends.
    """
    hook = sys.unraisablehook

    def forget(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    sys.unraisablehook = forget


def _reason(error: Exception, manager: ocp.CheckpointManager) -> str | None:
    if isinstance(error, InputError):
        return str(error).partition("\n")[0]  # grain adds where it was.
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
    state, json_of = ocp.StandardCheckpointHandler(), ocp.JsonCheckpointHandler
    handlers = {_STATE: state, _RUN: json_of(), _SUMS: json_of()}
    return ocp.CheckpointManager(
        folder.absolute(), options=options, item_handlers=handlers
    )


def _open_to_read(folder: pathlib.Path) -> ocp.CheckpointManager:
    return _open(folder, ocp.CheckpointManagerOptions(read_only=True))


def _restore(manager: ocp.CheckpointManager, step: int, shapes: Tree) -> Tree:
    _forget_closed_loops()
    example = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    items = ocp.args.Composite(state=ocp.args.StandardRestore(example))
    state = manager.restore(step, args=items).state
    _check_sum(manager, step, _STATE, _digest_arrays(state))
    return state


def _check_sum(
    manager: ocp.CheckpointManager, step: int, item: str, found: str
) -> None:
    """ValueError if an item is not what was saved; older versions saved no sums."""
    if (pathlib.Path(manager.directory) / str(step) / _SUMS).is_dir():
        items = ocp.args.Composite(checksums=ocp.args.JsonRestore())
        if manager.restore(step, args=items).checksums[item] != found:
            raise ValueError(f"the checksum of its {item} differs")


def _digest_json(value: Any) -> str:
    """The digest of a value as JSON has it: whatever the order, tuples as lists."""
    return digest(json.dumps(value, sort_keys=True))


def _digest_arrays(tree: Tree) -> str:
    """The SHA-256 of the arrays of a tree, whether its parts are tuples or dicts."""
    named = {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    sha256 = hashlib.sha256()
    for name in sorted(named):
        array = np.asarray(named[name], order="C")
        sha256.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha256.update(array.reshape(-1).view(np.uint8).data)
    return sha256.hexdigest()


def _set_aside(manager: ocp.CheckpointManager, step: int) -> str:
    """Renames a damaged checkpoint; returns what to say of that."""
    folder = pathlib.Path(manager.directory) / str(step)
    earlier = len(list(folder.parent.glob(f"damaged-{step}-*")))
    name = f"damaged-{step}-{earlier + 1}"

    def rename() -> None:
        # The first of several hosts has done it for all.
        with contextlib.suppress(FileNotFoundError):
            folder.rename(folder.with_name(name))

    first_host_first(rename)
    manager.reload()
    return f" and kept as {name}"


def _drop_damaged_metrics(directory: pathlib.Path) -> None:
    """Renames metrics that are not JSON: orbax opens no folder that has some."""
    for path in sorted(directory.glob("[0-9]*/metrics/metrics")):
        try:
            if isinstance(json.loads(path.read_bytes()), dict):
                continue
        except ValueError:
            pass
        path.parent.rename(path.parent.with_name("damaged-metrics"))
        step = path.parents[1]
        print(f"{step}: what was measured is damaged, and left out", flush=True)


def _first_line(error: BaseException) -> str:
    return f"{str(error).strip().partition(chr(10))[0]:.150}" or type(error).__name__


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _format_shapes(tree: Tree) -> dict[str, str]:
    return {
        _name(path): "x".join(map(str, leaf.shape)) or "a number"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
