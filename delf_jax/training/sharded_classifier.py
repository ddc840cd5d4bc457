"""A classifier whose classes lie in pieces on the devices: its part of a state.

The step sees the piece of its device. Between steps what belongs to the kernel (its
weights, averages, moments of the optimiser) has an axis of devices in front under pmap,
and under jit the pieces are one array's columns; the rest is whole on each device. On
disk and before the first step the kernel is whole, too: [D, classes x centers].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from delf_jax.training.objective import LossSettings

Tree = Any


def _is_kernel(path: tuple) -> bool:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return name.endswith("/classifier/kernel")


def axes(state: Tree) -> Tree:
    """For pmap: the axis of devices of each leaf, 0 or None."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: 0 if _is_kernel(path) else None, state
    )


def specs(state: Tree, axis_name: str) -> Tree:
    """For jit: how each leaf lies on a mesh with this axis."""
    columns, everywhere = PartitionSpec(None, axis_name), PartitionSpec()
    return jax.tree_util.tree_map_with_path(
        lambda path, _: columns if _is_kernel(path) else everywhere, state
    )


def pad(state: Tree, pieces: int, centers: int) -> Tree:
    """The state with zeros after the last class, so that all pieces are as large."""

    def of(path: tuple, leaf: Any) -> Any:
        if not _is_kernel(path):
            return leaf
        columns = leaf.shape[1]
        width = -(-columns // (centers * pieces)) * centers
        return np.pad(leaf, ((0, 0), (0, pieces * width - columns)))

    return jax.tree_util.tree_map_with_path(of, state)


def split(
    state: Tree, everywhere: NamedSharding, pieces: NamedSharding, centers: int
) -> Tree:
    """The state on this host's devices: each has its piece, and all the rest.

    Classes are divided among the devices of all hosts; the last pieces are padded.

    Args:
      everywhere: puts a copy on each of this host's devices.
      pieces: divides the first axis among them.
    """
    devices = pieces.num_devices
    first, all_devices = jax.process_index() * devices, jax.process_count() * devices

    def place(path: tuple, leaf: Any) -> jax.Array:
        if not _is_kernel(path):
            return jax.device_put(leaf, everywhere)
        # [D, C K] as [pieces, D, c K].
        cut = np.moveaxis(leaf.reshape(len(leaf), all_devices, -1), 1, 0)
        return jax.device_put(cut[first : first + devices], pieces)

    padded = pad(state, all_devices, centers)
    return jax.tree_util.tree_map_with_path(place, padded)


def whole(state: Tree, loss: LossSettings) -> Tree:
    """The state, or a part of it, as it is kept: kernels in one piece, in numpy.

    All hosts call it together, and all get it. Without pieces it is kept as it is.
    """
    if loss.classifier != "sharded":
        return state
    columns = loss.classes * loss.centers

    def join(path: tuple, leaf: Any) -> np.ndarray:
        if not _is_kernel(path):
            return np.asarray(leaf)
        if leaf.ndim == 2:  # Columns of all hosts, under jit.
            if jax.process_count() > 1:
                leaf = multihost_utils.process_allgather(leaf, tiled=True)
            return np.asarray(leaf)[:, :columns]
        leaf = np.asarray(leaf)
        if jax.process_count() > 1:
            leaf = np.concatenate(multihost_utils.process_allgather(leaf))
        return np.moveaxis(leaf, 0, 1).reshape(leaf.shape[1], -1)[:, :columns]

    return jax.tree_util.tree_map_with_path(join, state)


def mean_gradients(gradients: Tree, axis_name: str, sharded: bool) -> Tree:
    """Means over the devices; of a piece, whose gradient is the sum over all of them
    already (every device's loss runs through it), that sum divided."""

    def mean(path: tuple, leaf: jax.Array) -> jax.Array:
        if sharded and _is_kernel(path):
            return leaf / jax.lax.axis_size(axis_name)
        return jax.lax.pmean(leaf, axis_name)

    return jax.tree_util.tree_map_with_path(mean, gradients)


def global_norm(tree: Tree, axis_name: str) -> jax.Array:
    """The norm of all that devices hold together, pieces once each."""

    def part(path: tuple, leaf: jax.Array) -> jax.Array:
        square = jnp.sum(jnp.square(leaf))
        return jax.lax.psum(square, axis_name) if _is_kernel(path) else square

    squares = jax.tree_util.tree_map_with_path(part, tree)
    return jnp.sqrt(optax.tree.sum(squares))
