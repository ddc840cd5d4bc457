"""Training: one pure step under pmap, and the loop around it.

`train(config, workdir)` leaves in the workdir: config.json, metrics.jsonl, events/,
checkpoints/ and, once finished, model/, the folder that every other command reads.
"""

import contextlib
import functools
import json
import pathlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics
from flax import linen as nn
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from delf_jax import checkpoints, objective, weights
from delf_jax.files import InputError, write_json
from delf_jax.optimizers import make_optimizer
from delf_jax.settings import ExtractionSettings, make_settings
from delf_jax.signals import stop_signals
from delf_jax.training_data import open_batches, open_sources, settings_tuple
from delf_jax.training_log import TrainingLog

AXIS = "batch"
Tree = Any
Batch = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """All that changes from step to step."""

    step: Any  # int32, an array of jax or, from a checkpoint, of numpy.
    params: Tree  # {"model": ..., "head": ...}; the head learns and is not exported.
    batch_stats: Tree
    opt_state: Tree
    ema: Tree  # {"params", "batch_stats"} of the model, averaged over steps.


class Static(NamedTuple):
    """What the step is made of and does not change."""

    module: nn.Module
    head: objective.TeacherHead | None
    optimizer: optax.GradientTransformation
    loss: objective.LossSettings
    ema_decay: float
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]


class Outcome(NamedTuple):
    """How a training ended."""

    step: int
    finished: bool
    metrics: dict[str, float]
    """means since the line before the last"""


def create_state(static: Static, key: jax.Array, *, view_size: int) -> TrainState:
    """The state before the first step."""
    images = jnp.zeros((2, view_size, view_size, 3), jnp.float32)
    module_key, head_key = jax.random.split(key)
    # Without a device axis there is nothing to average over.
    module = static.module.clone(backbone=static.module.backbone.clone(axis_name=None))
    outputs, variables = module.init_with_output(module_key, images, train=True)
    batch_stats = variables.get("batch_stats", {})
    params = {"model": variables["params"]}
    if static.head is not None:
        params["head"] = static.head.init(head_key, outputs["block3"])["params"]
    averaged = {"params": params["model"], "batch_stats": batch_stats}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=static.optimizer.init(params),
        ema=jax.tree.map(jnp.copy, averaged),  # donated: a buffer has one owner.
    )


def train_step(
    state: TrainState,
    batch: Batch,
    key: jax.Array,
    *,
    static: Static,
    axis_name: str | None = None,
) -> tuple[TrainState, clu_metrics.Collection]:
    """The state after one step on a batch, and its metrics.

    Pure. The only thing it knows about devices is the name of their axis: with one, the
    batch is a device's share, and gradients, statistics and metrics are means over all.
    """
    key = jax.random.fold_in(key, state.step)
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

    def loss_of(params: Tree) -> tuple[jax.Array, tuple]:
        outputs, taught, stats = _forward(static, params, state.batch_stats, batch, key)
        loss, parts = objective.evaluate(outputs, taught, batch, static.loss, axis_name)
        return loss, (stats, parts)

    (_, (stats, parts)), gradients = jax.value_and_grad(loss_of, has_aux=True)(
        state.params
    )
    if axis_name is not None:
        gradients, stats = jax.lax.pmean((gradients, stats), axis_name)
    parts["gradient_norm"] = optax.tree.norm(gradients)
    updates, opt_state = static.optimizer.update(
        gradients, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    new = state.replace(
        step=state.step + 1,
        params=params,
        batch_stats=stats,
        opt_state=opt_state,
        ema=_averaged(
            state.ema,
            {"params": params["model"], "batch_stats": stats},
            state.step,
            static.ema_decay,
        ),
    )
    collection = _collection(tuple(sorted(parts)))
    if axis_name is None:
        return new, collection.single_from_model_output(**parts)
    return new, collection.gather_from_model_output(axis_name=axis_name, **parts)


def _forward(
    static: Static, params: Tree, batch_stats: Tree, batch: Batch, key: jax.Array
) -> tuple[dict, jax.Array | None, Tree]:
    """Outputs of the model and of the teacher head, and the new running statistics."""
    views = batch["image"]
    images = views.reshape(-1, *views.shape[2:]).astype(jnp.float32)
    mean, std = (
        jnp.array(colour, jnp.float32)[None, None, None]
        for colour in (static.pixel_mean, static.pixel_std)
    )
    outputs, updated = static.module.apply(
        {"params": params["model"], "batch_stats": batch_stats},
        (images - mean) / std,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": key},
    )
    if static.loss.descriptors_train_backbone:
        # The model reduces a block3 without gradient, as [DELG] does; here it has one.
        reduce = params["model"]["local"]["autoencoder"]["reduce"]
        reduced = outputs["block3"] @ reduce["kernel"][0, 0]
        outputs["descriptors"] = reduced + reduce["bias"].reshape(1, 1, 1, -1)
    taught = None
    if static.head is not None:
        taught = static.head.apply({"params": params["head"]}, outputs["block3"])
    return outputs, taught, updated.get("batch_stats", {})


def _averaged(average: Tree, latest: Tree, step: jax.Array, decay: float) -> Tree:
    """The moving average; early on it forgets faster, so as not to hold the start."""
    count = step.astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + count) / (10 + count))
    return jax.tree.map(lambda a, b: keep * a + (1 - keep) * b, average, latest)


@functools.cache
def _collection(names: tuple[str, ...]) -> type[clu_metrics.Collection]:
    """A clu collection of the averages of `names`."""
    averages = {name: clu_metrics.Average.from_output(name) for name in names}
    return clu_metrics.Collection.create(**averages)


def parallel_step(static: Static, devices: list[jax.Device]) -> Callable:
    """`train_step` over `devices`: only the batch has an axis for them, in front."""
    return jax.pmap(
        functools.partial(train_step, static=static, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(None, 0, None),
        out_axes=None,
        devices=None if len(devices) == jax.local_device_count() else devices,
        donate_argnums=(0,),
    )


def on_all(devices: list[jax.Device]) -> jax.sharding.NamedSharding:
    """The sharding of what every device holds in whole: the state."""
    mesh = jax.sharding.Mesh(np.array(devices), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def train(config: ConfigDict, workdir: str) -> Outcome:
    """Trains as `config` says, from the newest checkpoint in `workdir` if there is one.

    SIGTERM and SIGINT end it after the current step, with a checkpoint; the same call
    then goes on, to the same numbers as if it had never stopped.
    """
    if config.distributed:
        jax.distributed.initialize()
        # Hosts connect while they are together: later, one that compiles keeps the
        # others waiting for longer than they would.
        multihost_utils.sync_global_devices("start")
    devices = jax.local_devices()[: config.devices or None]
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    sources = open_sources(config)
    batches = open_batches(config, sources, len(devices))
    static, schedule = _make_static(config, sum(len(s.classes) for s in sources))
    key = jax.random.key(config.seed)
    start = functools.partial(create_state, static, view_size=config.views.size)
    state = jax.jit(start)(key)  # one program; eagerly, a hundred small ones.
    if config.init_from:
        state = _started_from(config.init_from, state, static)
    with contextlib.ExitStack() as stack:
        manager = checkpoints.open_checkpoints(
            folder / "checkpoints", keep=config.keep_checkpoints
        )
        stack.enter_context(manager)
        if manager.latest_step() is not None:
            state = checkpoints.restore(manager, state, batches)
        write_json(folder / "config.json", json.loads(config.to_json_best_effort()))
        log = TrainingLog(config, folder, schedule, int(state.step))
        stack.callback(log.close)
        log.describe(state.params["model"])
        stopped = stack.enter_context(stop_signals())
        state, finished = _run(
            config, static, devices, batches, state, key, manager, log, stopped
        )
        manager.wait_until_finished()
    if finished and jax.process_index() == 0:
        _export(config, static, state, folder)
    return Outcome(int(state.step), finished, log.means)


def _run(
    config: ConfigDict,
    static: Static,
    devices: list[jax.Device],
    batches: Iterator[Batch],
    state: TrainState,
    key: jax.Array,
    manager: Any,
    log: TrainingLog,
    stopped: threading.Event,
) -> tuple[TrainState, bool]:
    """The state in the end, and whether it is the end that the config names."""
    step, state = int(state.step), jax.device_put(state, on_all(devices))
    run_step = parallel_step(static, devices)
    while step < config.steps:
        batch = next(batches)
        identifiers = batch.pop("id")
        state, metrics = run_step(state, _split(batch, len(devices)), key)
        step += 1
        log.add(step, identifiers, metrics)
        stop = stopped.is_set() or manager.reached_preemption(step)
        last = stop or step == config.steps
        save = last or step % config.checkpoint_every == 0
        if save or step % config.log_every == 0:
            log.flush()  # raises on a loss that is no number: it is not kept.
        if save:
            checkpoints.save(manager, step, state, batches)
        if stop:
            print(f"stopped at step {step}; the same command goes on", flush=True)
            break
    return state, step >= config.steps


def _split(batch: Batch, devices: int) -> Batch:
    """The batch with an axis for the devices in front."""
    return {n: x.reshape(devices, -1, *x.shape[1:]) for n, x in batch.items()}


def _make_static(config: ConfigDict, classes: int) -> tuple[Static, optax.Schedule]:
    """The modules, the optimiser and its learning rate."""
    loss = settings_tuple(objective.LossSettings, config.loss, "loss")
    if not loss.active():
        raise InputError("config.loss: every weight is 0, so there is nothing to learn")
    chosen = make_settings(config.extraction.to_dict())
    if config.model.name == "global":
        _check_nothing_local(loss, chosen)
    classify = bool(loss.arcface or loss.attention)
    if classify and not classes:
        raise InputError(
            "data.sources: no image has a class, so arcface and attention need 0"
        )
    architecture = {**config.model.to_dict(), "num_classes": classes if classify else 0}
    dimension = config.teacher.dimension
    if loss.global_distillation and config.model.global_dimension != dimension:
        raise InputError(
            f"model.global_dimension is {config.model.global_dimension}: for "
            f"loss.global_distillation it must be teacher.dimension, {dimension}"
        )
    head = objective.TeacherHead(dimension) if loss.distillation else None
    optimizer, schedule = make_optimizer(config.optimizer, config.steps)
    module = weights.build_module(architecture, axis_name=AXIS)
    pixels = chosen.pixel_mean, chosen.pixel_std
    return Static(module, head, optimizer, loss, config.ema_decay, *pixels), schedule


def _check_nothing_local(
    loss: objective.LossSettings, chosen: ExtractionSettings
) -> None:
    """InputError if something needs the local branch that a global model lacks."""
    wrong = [f"loss.{name}" for name in objective.LOCAL if getattr(loss, name)]
    if chosen.max_features:
        wrong.append("extraction.max_features")
    if wrong:
        raise InputError(
            f"model.name global has no local branch: {', '.join(wrong)} must be 0"
        )


def _started_from(source: str, state: TrainState, static: Static) -> TrainState:
    """The state with the weights of another training or model, where they fit.

    InputError if they expect pixels that are normalised in another way.
    """
    if (pathlib.Path(source) / "model.safetensors").exists():
        config, averages = weights.read_model(source)
        names = {"pixel_mean", "pixel_std"} & config["extraction"].keys()
        theirs = make_settings({name: config["extraction"][name] for name in names})
        for name in ("pixel_mean", "pixel_std"):
            if getattr(theirs, name) != getattr(static, name):
                raise InputError(
                    f"{source}: was trained with {name} {getattr(theirs, name)}, so "
                    f"extraction.{name} must be that, not {getattr(static, name)}"
                )
    else:
        averages = checkpoints.read_state(pathlib.Path(source) / "checkpoints")["ema"]
    ours = flax.traverse_util.flatten_dict(state.ema)
    theirs = flax.traverse_util.flatten_dict(averages)
    fits = {n for n, x in ours.items() if n in theirs and theirs[n].shape == x.shape}
    for name in sorted(set(ours) - fits):
        print(f"not in {source}, from scratch: {'/'.join(name)}", flush=True)
    merged = {n: jnp.asarray(theirs[n]) if n in fits else x for n, x in ours.items()}
    ema = flax.traverse_util.unflatten_dict(merged)
    copied = jax.tree.map(jnp.copy, ema)
    params = {**state.params, "model": copied["params"]}
    return state.replace(params=params, batch_stats=copied["batch_stats"], ema=ema)


def _export(config: ConfigDict, static: Static, state: TrainState, folder: Any) -> None:
    """Writes the averaged model as the folder that every other command reads."""
    provenance = {
        "config": json.loads(config.to_json_best_effort()),
        "steps": int(state.step),
        "revision": _revision(),
    }
    weights.save_model(
        folder / "model",
        config.model.to_dict(),
        jax.tree.map(np.asarray, state.ema),
        config.extraction.to_dict(),
        provenance,
    )
    print(f"model written to {folder / 'model'}", flush=True)


def _revision() -> str:
    """The git revision of this code, empty where it is not a checkout."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return found.stdout.strip()
