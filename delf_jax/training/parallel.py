"""A training divided among devices: the step by pmap, or by jit and a mesh.

The one module with meshes and placements, and batches that are on their way.
"""

import collections
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeGuard

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from delf_jax.data.loader import Batches
from delf_jax.data.tuples import TupleBatches
from delf_jax.training import sharded_classifier
from delf_jax.training.step import (
    Batch,
    Constants,
    Static,
    TrainState,
    create_state,
    train_step,
)

AXIS = "batch"
AHEAD = 2  # batches that lie on the devices before their step.


class Parallel(NamedTuple):
    """`train_step` over all devices, and functions that place what it takes."""

    step: Callable
    place_state: Callable[[TrainState], TrainState]
    place_batch: Callable[[Batch], Batch]
    """of this host's share of the batch"""
    place_constants: Callable[[Constants], Constants]


def over_pmap(static: Static, devices: list[jax.Device]) -> Parallel:
    """The batch and the pieces of a sharded classifier have an axis of devices."""
    axes, of_leaves = None, None
    if static.sharded:
        start = functools.partial(create_state, static, view_size=64)
        axes = sharded_classifier.axes(jax.eval_shape(start, jax.random.key(0)))
        of_leaves = tuple(jax.tree.leaves(axes, is_leaf=lambda axis: axis is None))

    def step_of_leaves(state: TrainState, *rest: Any) -> tuple[tuple, Any]:
        new, metrics = train_step(state, *rest, static=static, axis_name=AXIS)
        return tuple(jax.tree.leaves(new)), metrics

    # On several hosts pmap hashes `out_axes`: a tuple can be, a tree of dicts cannot.
    mapped = jax.pmap(
        step_of_leaves,
        axis_name=AXIS,
        in_axes=(axes, 0, None, None),
        out_axes=(of_leaves, None),
        devices=None if len(devices) == jax.local_device_count() else devices,
        donate_argnums=(0,),
    )

    def step(state: TrainState, *rest: Any) -> tuple[TrainState, Any]:
        leaves, metrics = mapped(state, *rest)
        return jax.tree.unflatten(jax.tree.structure(state), leaves), metrics

    everywhere, split = shardings(devices)

    def place_batch(batch: Batch) -> Batch:
        count = len(devices)
        arrays = {n: x.reshape(count, -1, *x.shape[1:]) for n, x in batch.items()}
        return jax.device_put(arrays, split)

    def place_state(state: TrainState) -> TrainState:
        if static.sharded:
            centers = static.loss.centers
            return sharded_classifier.split(state, everywhere, split, centers)
        return jax.device_put(state, everywhere)

    return Parallel(
        step, place_state, place_batch, lambda x: jax.device_put(x, everywhere)
    )


def over_jit(static: Static, devices: list[jax.Device]) -> Parallel:
    """The step of the whole batch, which the compiler shares out to all hosts' devices.

    The module has no axis name: means over the batch are over all devices as it is. But
    where the classifier is in pieces, each device has the step of its share.
    """
    count, hosts = len(devices), range(jax.process_count())
    chosen = [each for host in hosts for each in jax.local_devices(host)[:count]]
    everywhere, split = shardings(chosen)
    of_all: Callable = functools.partial(train_step, static=static)
    placed: Any = everywhere
    if static.sharded:
        of_all, placed = _in_pieces(static, everywhere)
    step = jax.jit(of_all, donate_argnums=(0,), out_shardings=(placed, everywhere))

    def place_state(state: TrainState) -> TrainState:
        if static.sharded:
            state = sharded_classifier.pad(state, len(chosen), static.loss.centers)
        return jax.device_put(jax.tree.map(np.asarray, state), placed)

    def place_batch(batch: Batch) -> Batch:
        place = functools.partial(jax.make_array_from_process_local_data, split)
        return jax.tree.map(place, batch)

    return Parallel(
        step, place_state, place_batch, lambda x: jax.device_put(x, everywhere)
    )


def _in_pieces(static: Static, everywhere: NamedSharding) -> tuple[Callable, Any]:
    """The step of a device's share and of its classes, and how the state is placed."""
    mesh, whole = everywhere.mesh, everywhere.spec
    start = functools.partial(create_state, static, view_size=64)
    shapes = jax.eval_shape(start, jax.random.key(0))
    specs = sharded_classifier.specs(shapes, AXIS)
    step = jax.shard_map(
        functools.partial(train_step, static=static, axis_name=AXIS),
        mesh=mesh,
        in_specs=(specs, PartitionSpec(AXIS), whole, whole),
        out_specs=(specs, whole),
        check_vma=False,  # As under pmap, the step itself takes means over devices.
    )
    return step, jax.tree.map(functools.partial(NamedSharding, mesh), specs)


PARALLEL = {"pmap": over_pmap, "jit": over_jit}


def axis_of(parallel: str, classifier: str) -> str | None:
    """The axis of devices that a step knows by name, if it does."""
    return AXIS if parallel == "pmap" or classifier == "sharded" else None


def shardings(devices: Sequence[jax.Device]) -> tuple[NamedSharding, NamedSharding]:
    """Placements: a copy on each device; the first axis divided among them."""
    mesh = Mesh(np.array(devices), (AXIS,))
    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    return NamedSharding(mesh, everywhere), NamedSharding(mesh, split)


class DeviceBatch(NamedTuple):
    """A batch whose arrays are on the devices."""

    batch: Batch
    host: Batch
    """the same on this host, where it can be looked at"""
    ids: np.ndarray
    position: dict[str, Any]
    """of the data after this batch"""


def prefetch(
    batches: Batches, place: Callable[[Batch], Batch]
) -> Iterator[DeviceBatch]:
    """Batches on the devices, the next ones already on their way there."""
    ahead: collections.deque[DeviceBatch] = collections.deque()
    while True:
        # An epoch of tuples is mined when its predecessor's steps are done.
        while len(ahead) < AHEAD and not (ahead and needs_mining(batches)):
            batch = dict(next(batches))
            ids = batch.pop("id")
            ahead.append(DeviceBatch(place(batch), batch, ids, batches.get_state()))
        yield ahead.popleft()


def needs_mining(batches: Batches) -> TypeGuard[TupleBatches]:
    """Whether the next batch is of tuples whose negatives are not mined yet."""
    return isinstance(batches, TupleBatches) and batches.due
