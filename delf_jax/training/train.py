"""Training: one pure step over all devices, and the loop around it.

`train(config, workdir)` leaves in the workdir: config.json, metrics.jsonl, events/,
checkpoints/ and, once finished, model/, the folder that every other command reads.
"""

import contextlib
import functools
import pathlib
import threading
from collections.abc import Mapping
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
from delf_jax.training.log import TrainingLog, check_wandb, look, watch
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
    blend,
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
    start: Weights | None
    """of which `init_share` is in what is measured and exported"""
    stopped: threading.Event

    def averages(self, state: TrainState) -> Any:
        """The averaged weights as they are measured and exported."""
        ema = sharded_classifier.whole(state.ema, loss=self.static.loss)
        return blend(ema, self.start, self.config.init_share)


class Best(NamedTuple):
    """The first validation that none has been better than."""

    step: int
    metric: str
    value: float


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
    check_wandb(config)
    if config.init_share and not config.init_from:
        raise InputError(
            f"init_share is {config.init_share}, and init_from is empty: name the "
            "model that these weights are of, or set it to 0"
        )
    # All else that a config can have wrong, before hours of preparation; of any data.
    view_settings(config)
    make_static(config, 1, axis_of(config.parallel, config.loss.classifier))
    first = jax.process_index() == 0  # of several hosts that train together.
    folder = pathlib.Path(workdir)
    with locked(folder) if first else contextlib.nullcontext():
        found = (folder / "checkpoints").glob("[0-9]*")
        begun = any(path.name.isdigit() for path in found)  # others are half written.
        needed = config.init_from and (config.init_share or not begun)
        weights = read_weights(config) if needed else None
        return _train(config, folder, weights)


def _train(
    config: ConfigDict, folder: pathlib.Path, weights: Weights | None
) -> Outcome:
    """What `train` says, in a workdir that is this process' own.

    Args:
      weights: of `init_from`, where it has no checkpoint or they have a share.
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
        resumed = _resume(config, static, manager, batches, classes)
        if resumed is not None:
            state, earlier = resumed
        else:
            state = _first_state(config, static, batches, weights, key, devices)
            earlier = None
        if jax.process_index() == 0:
            write_json(folder / "config.json", as_json(config))
            write_classes(folder, classes)
        log = TrainingLog(config, folder, schedule, int(state.step))
        stack.callback(log.close)
        stopped = stack.enter_context(stop_signals())
        run = Run(
            config=config,
            static=static,
            manager=manager,
            log=log,
            held_out=held_out,
            classes=classes,
            constants=constants,
            start=weights,
            stopped=stopped,
        )
        with checkpoints.naming_last_good(manager):
            parallel = parallelize(static, devices)
            if resumed is None and weights is not None and config.validation.patience:
                earlier = _measure_start(run, batches, state)
            state, finished = _run(run, parallel, batches, state, earlier, key, devices)
        best = manager.best_step() if held_out.chooses else None
    whiten = None
    if config.tuples.whiten and isinstance(batches, TupleBatches):
        whiten = functools.partial(
            mining.write_whitening, batches, config, static, devices
        )
    if finished and jax.process_index() == 0:
        data = {
            source.name: {"images": len(source), "classes": len(source.classes)}
            for source in sources
        }
        checkpoints.write_model(
            config, state, best, folder, whiten, data=data, start=weights
        )
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
) -> tuple[TrainState, Best | None] | None:
    """The newest state that is whole, with the data moved to where it stood.

    Beside it the best validation until then.
    """
    start = functools.partial(create_state, static, view_size=config.views.size)
    workdir = pathlib.Path(manager.directory).parent

    def read(step: int) -> tuple[TrainState, Best | None, list[str]]:
        run = checkpoints.read_run(manager, step)
        where = f"{manager.directory}/{step}"
        changes = check_same_run(run["config"], as_json(config), where)
        check_classes(workdir, where, run.get("classes", ""), classes)
        shapes = jax.eval_shape(start, jax.random.key(config.seed))
        state = checkpoints.restore(manager, shapes, step)
        batches.set_state(run["position"])
        return state, Best(**run["best"]) if run.get("best") else None, changes

    found = checkpoints.newest_whole(manager, read, set_aside=True)
    if found is None:
        return None
    state, best, changes = found
    for change in changes:
        print(f"from step {int(state.step)} on: {change}", flush=True)
    return state, best


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


def _measure_start(run: Run, batches: Batches, state: TrainState) -> Best | None:
    """What the weights that the training starts from are worth, kept as step 0.

    If no step is better, they are the model. None if only classifiers are measured,
    which have yet to learn.
    """
    if run.held_out.dataset is None:
        return None
    measured = validation.measure(run.held_out, run.static, state.ema)
    run.log.add_validation(0, measured)
    best = _better(None, run.held_out.chooses, 0, measured)
    info = _describe(run, batches.get_state(), best)
    checkpoints.save(run.manager, 0, state, info, measured)
    return best


def _better(
    best: Best | None, metric: str, step: int, measured: Mapping[str, float]
) -> Best:
    """The best validation, this one counted, unless it was by another metric."""
    if best is None or best.metric != metric or measured[metric] > best.value:
        return Best(step, metric, measured[metric])
    return best


def _describe(run: Run, position: Any, best: Best | None) -> dict[str, Any]:
    """What a checkpoint says beside the state."""
    return {
        "position": position,
        "config": as_json(run.config),
        "revision": checkpoints.revision(),
        "classes": digest_classes(run.classes),
        "best": best and best._asdict(),
    }


def _is_exhausted(config: ConfigDict, best: Best | None, step: int) -> bool:
    """Whether `validation.patience` validations have found nothing better."""
    settings = config.validation
    if best is None or not (settings.patience and settings.every):
        return False
    return step - best.step >= settings.patience * settings.every


def _run(
    run: Run,
    parallel: Parallel,
    batches: Batches,
    state: TrainState,
    best: Best | None,
    key: jax.Array,
    devices: list[jax.Device],
) -> tuple[TrainState, bool]:
    """The state in the end, its averages whole, and whether the training is done.

    Args:
      best: of the validations before.
    """
    config, step = run.config, int(state.step)
    whole = functools.partial(sharded_classifier.whole, loss=run.static.loss)
    first = step
    state, ahead = parallel.place_state(state), prefetch(batches, parallel.place_batch)
    constants = parallel.place_constants(run.constants)
    position = batches.get_state()
    while step < config.steps and not _is_exhausted(config, best, step):
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
            measured = validation.measure(run.held_out, run.static, run.averages(state))
            run.log.add_validation(step, measured)
            best = _better(best, run.held_out.chooses, step, measured)
        if save:
            info = _describe(run, position, best)
            checkpoints.save(run.manager, step, whole(state), info, measured)
        if stop:
            print(f"stopped at step {step}; the same command resumes", flush=True)
            break
    exhausted = _is_exhausted(config, best, step)
    if exhausted and best is not None and step < config.steps:
        print(
            f"step {step}: no {best.metric} is better than that of step {best.step}, "
            "so the training ends (validation.patience)",
            flush=True,
        )
    return state.replace(ema=whole(state.ema)), exhausted or step >= config.steps
