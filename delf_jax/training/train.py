"""Training: one pure step over all devices, and the loop around it.

`train(config, workdir)` leaves in the workdir: config.json, metrics.jsonl, events/,
checkpoints/ and, once finished, model/, the folder that every other command reads.
"""

import contextlib
import functools
import pathlib
import threading
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from delf_jax.config import as_json
from delf_jax.data.loader import Batches, ImageSource
from delf_jax.data.tuples import TupleBatches
from delf_jax.files import InputError, check_utf8, write_json
from delf_jax.runtime import first_host_first, stop_signals
from delf_jax.training import checkpoints, mining, sharded_classifier, validation
from delf_jax.training.build import make_static
from delf_jax.training.config import check_same_run, check_sources, check_values
from delf_jax.training.inputs import (
    open_batches,
    open_constants,
    open_sources,
    view_settings,
)
from delf_jax.training.log import TrainingLog, look, watch
from delf_jax.training.parallel import (
    PARALLEL,
    Parallel,
    axis_of,
    needs_mining,
    prefetch,
)
from delf_jax.training.step import (
    Constants,
    Static,
    TrainState,
    create_state,
    with_views,
)
from delf_jax.training.warm_start import Weights, read_weights, start_from
from delf_jax.training.workdir import (
    Classes,
    check_classes,
    digest_classes,
    locked,
    write_classes,
)


class Run(NamedTuple):
    """What the loop works with and does not change."""

    config: ConfigDict
    static: Static
    manager: Any
    log: TrainingLog
    held_out: validation.HeldOut
    classes: Classes
    constants: Constants
    stopped: threading.Event


class Outcome(NamedTuple):
    """How a training ended."""

    step: int
    finished: bool
    metrics: dict[str, float]
    """means since the line before the last, and of the last validation"""


def train(config: ConfigDict, workdir: str) -> Outcome:
    """Trains as `config` says, from the newest checkpoint in `workdir` if there is one.

    SIGTERM and SIGINT end it after the current step, with a checkpoint; the same call
    then resumes, to the same numbers as if it had never stopped.
    """
    if not workdir:
        raise InputError("--workdir is empty: name a folder for checkpoints")
    check_utf8(pathlib.Path(workdir).absolute())
    check_values(config)
    check_sources(config)
    # All else that a config can have wrong, before hours of preparation; of any data.
    view_settings(config)
    make_static(config, 1, axis_of(config.parallel, config.loss.classifier))
    first = jax.process_index() == 0  # of several hosts that train together.
    folder = pathlib.Path(workdir)
    with locked(folder) if first else contextlib.nullcontext():
        begun = any((folder / "checkpoints").glob("[0-9]*"))
        weights = read_weights(config) if config.init_from and not begun else None
        return _train(config, folder, weights)


def _train(
    config: ConfigDict, folder: pathlib.Path, weights: Weights | None
) -> Outcome:
    """What `train` says, in a workdir that is this process' own.

    Args:
      weights: to start from, where it has no checkpoint.
    """
    parallelize = PARALLEL[config.parallel]
    axis_name = axis_of(config.parallel, config.loss.classifier)
    devices = jax.local_devices()
    if config.devices > len(devices):
        raise InputError(
            f"devices is {config.devices}, of which this host has {len(devices)}: use "
            "0 for all"
        )
    devices = devices[: config.devices or None]
    sources, batches, held_out = first_host_first(
        functools.partial(_open_data, config, len(devices))
    )
    constants = open_constants(config, sources)
    counts = [count for source in sources for count in source.counts]
    classes = {source.name: list(source.classes) for source in sources}
    static, schedule = make_static(config, len(counts), axis_name, counts)
    with contextlib.ExitStack() as stack:
        manager = checkpoints.open_checkpoints(
            folder / "checkpoints",
            keep=config.keep_checkpoints,
            best=held_out.chooses,
            every_hours=config.keep_every_hours,
        )
        stack.enter_context(manager)
        key = jax.random.key(config.seed)
        state = _resume(config, static, manager, batches, classes)
        if state is None:
            state = _first_state(config, static, batches, weights, key, devices)
        if jax.process_index() == 0:
            write_json(folder / "config.json", as_json(config))
            write_classes(folder, classes)
        log = TrainingLog(config, folder, schedule, int(state.step))
        stack.callback(log.close)
        stopped = stack.enter_context(stop_signals())
        run = Run(config, static, manager, log, held_out, classes, constants, stopped)
        with checkpoints.naming_last_good(manager):
            parallel = parallelize(static, devices)
            state, finished = _run(run, parallel, batches, state, key, devices)
        best = manager.best_step() if held_out.chooses else None
    whiten = None
    if config.tuples.whiten and isinstance(batches, TupleBatches):
        whiten = functools.partial(
            mining.write_whitening, batches, config, static, devices
        )
    if finished and jax.process_index() == 0:
        checkpoints.write_model(config, state, best, folder, whiten)
    return Outcome(int(state.step), finished, log.means)


def _open_data(
    config: ConfigDict, devices: int
) -> tuple[list[ImageSource], Batches, validation.HeldOut]:
    """Sources, batches, and what is held out; prepared where they are not yet."""
    sources = open_sources(config)
    batches = open_batches(config, sources, devices)
    return sources, batches, validation.open_held_out(config, sources)


def _resume(
    config: ConfigDict,
    static: Static,
    manager: Any,
    batches: Batches,
    classes: Classes,
) -> TrainState | None:
    """The newest state that is whole, with the data moved to where it stood."""
    start = functools.partial(create_state, static, view_size=config.views.size)
    workdir = pathlib.Path(manager.directory).parent

    def read(step: int) -> tuple[TrainState, list[str]]:
        run = checkpoints.read_run(manager, step)
        where = f"{manager.directory}/{step}"
        changes = check_same_run(run["config"], as_json(config), where)
        check_classes(workdir, where, run.get("classes", ""), classes)
        shapes = jax.eval_shape(start, jax.random.key(config.seed))
        state = checkpoints.restore(manager, shapes, step)
        batches.set_state(run["position"])
        return state, changes

    found = checkpoints.newest_whole(manager, read, set_aside=True)
    if found is None:
        return None
    state, changes = found
    for change in changes:
        print(f"from step {int(state.step)} on: {change}", flush=True)
    return state


def _first_state(
    config: ConfigDict,
    static: Static,
    batches: Batches,
    weights: Weights | None,
    key: jax.Array,
    devices: list[jax.Device],
) -> TrainState:
    """The state to start from."""
    start = functools.partial(create_state, static, view_size=config.views.size)
    state = jax.jit(start)(key)  # one program; eagerly, a hundred small ones.
    if weights is not None:
        state = start_from(config.init_from, weights, state)
    if config.model.name == "how" and isinstance(batches, TupleBatches):
        state = mining.set_reduction(batches.pool, config, static, state, devices)
    return state


def _run(
    run: Run,
    parallel: Parallel,
    batches: Batches,
    state: TrainState,
    key: jax.Array,
    devices: list[jax.Device],
) -> tuple[TrainState, bool]:
    """The state in the end, its averages whole, and whether all steps are done."""
    config, step = run.config, int(state.step)
    whole = functools.partial(sharded_classifier.whole, loss=run.static.loss)
    first = step
    state, ahead = parallel.place_state(state), prefetch(batches, parallel.place_batch)
    constants = parallel.place_constants(run.constants)
    position = batches.get_state()
    while step < config.steps:
        if needs_mining(batches) and position == batches.get_state():
            mining.mine(batches, config, run.static, state, devices)
        batch, host, ids, position = next(ahead)
        if step == first:
            run.log.print_model(run.static, state, host, run.constants)
        state, metrics = parallel.step(state, batch, key, constants)
        step += 1
        run.log.add(step, ids, metrics)
        stop = run.stopped.is_set() or run.manager.reached_preemption(step)
        last = stop or step == config.steps

        def due(every: int, step: int = step, last: bool = last) -> bool:
            return bool(every) and (step % every == 0 or last)

        measure = run.held_out.chooses and due(config.validation.every) and not stop
        save = measure or due(config.checkpoint_every)
        pictured = due(config.images_every) and not stop
        if pictured:
            seen = with_views(run.static, host, run.constants)
            shown = run.static, whole(state.ema), seen
            # Raises if a loss is not finite: it is not saved.
            run.log.flush(functools.partial(watch, *shown))
            run.log.add_images(step, look(*shown))
        elif save or due(config.log_every):
            run.log.flush()
        measured = None
        if measure:
            measured = validation.measure(run.held_out, run.static, whole(state.ema))
            run.log.add_validation(step, measured)
        if save:
            info = {
                "position": position,
                "config": as_json(config),
                "revision": checkpoints.revision(),
                "classes": digest_classes(run.classes),
            }
            checkpoints.save(run.manager, step, whole(state), info, measured)
        if stop:
            print(f"stopped at step {step}; the same command resumes", flush=True)
            break
    return state.replace(ema=whole(state.ema)), step >= config.steps
