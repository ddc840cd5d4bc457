"""What a training by tuples computes between its steps: descriptors of many images.

They choose an epoch's negatives, set the reduction of HOW before the first step, and
the whitening of global descriptors after the last.
"""

import functools
import pathlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from delf_jax.data import tuples
from delf_jax.formats.delf import datum
from delf_jax.ops import l2_normalize
from delf_jax.progress import track
from delf_jax.retrieval import whitening
from delf_jax.training.parallel import shardings
from delf_jax.training.step import Static, TrainState, predict, without_axis

PER_DEVICE = 4  # images at once: nothing is kept for gradients.
STRONGEST = 1000  # cells of an image that the reduction of [HOW] is fitted to.
Variables = Any


def mine(
    batches: tuples.TupleBatches,
    config: ConfigDict,
    static: Static,
    state: TrainState,
    devices: list[jax.Device],
) -> None:
    """Sets the negatives of the epoch that begins, by the weights as they are."""
    variables = {"params": state.params["model"], "batch_stats": state.batch_stats}
    describe = functools.partial(
        describe_images,
        batches.pool,
        config.views.size,
        static,
        variables,
        devices,
        label=f"negatives of epoch {batches.get_state()['epoch']}",
    )
    batches.mine(describe)


def describe_images(
    pool: tuples.Pool,
    size: int,
    static: Static,
    variables: Variables,
    devices: list[jax.Device],
    numbers: Int[np.ndarray, " N"],
    *,
    label: str,
) -> Float[np.ndarray, "N D"]:
    """Normalised global descriptors of images; hosts share the work."""
    host, hosts = jax.process_index(), jax.process_count()
    # As many for each host: the first are repeated.
    padded = np.resize(numbers, -(-len(numbers) // hosts) * hosts)
    mine = padded[host::hosts]
    rows = _over(_global, pool, size, static, variables, devices, mine, label)
    found = np.concatenate(list(rows))
    if hosts > 1:
        gathered = multihost_utils.process_allgather(found)
        found = np.moveaxis(gathered, 0, 1).reshape(-1, found.shape[1])
    return found[: len(numbers)]


def _over(
    function: Callable,
    pool: tuples.Pool,
    size: int,
    static: Static,
    variables: Variables,
    devices: list[jax.Device],
    numbers: Int[np.ndarray, " N"],
    label: str,
) -> Iterator[Any]:
    """What a function of (module, pixels, variables, images, sizes) gives of images.

    Batches over this host's devices; the rows of the last that are padding are cut.
    """
    everywhere, split = shardings(devices)
    variables = jax.device_put(jax.tree.map(np.asarray, variables), everywhere)
    module = without_axis(static.module).clone(num_classes=0)
    count = PER_DEVICE * len(devices)
    tracked = track(label, len(numbers))
    with futures.ThreadPoolExecutor() as threads, tracked as advance:
        for first in range(0, len(numbers), count):
            mine = numbers[first : first + count]
            read = functools.partial(tuples.read_canvas, pool, size=size)
            canvases = threads.map(read, np.resize(mine, count).tolist())
            images, sizes = (np.stack(x) for x in zip(*canvases, strict=True))
            placed = jax.device_put((images, sizes.astype(np.int32)), split)
            found = function(module, static.pixels, variables, *placed)
            leaves, tree = jax.tree.flatten(found)
            yield jax.tree.unflatten(tree, [np.asarray(x)[: len(mine)] for x in leaves])
            advance(len(mine))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _global(
    module: nn.Module, pixels: tuple, variables: Variables, images: Array, sizes: Array
) -> Float[Array, "B D"]:
    outputs = predict(module, pixels, variables, images, sizes)
    return l2_normalize(outputs["global_descriptor"])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _strongest(
    module: nn.Module, pixels: tuple, variables: Variables, images: Array, sizes: Array
) -> tuple[Float[Array, "B K D"], Array]:
    """(descriptors, whether they are cells) of the strongest attention."""
    outputs = predict(module, pixels, variables, images, sizes)
    valid = outputs["valid"].reshape(len(images), -1)
    attention = jnp.where(valid, outputs["attention"].reshape(valid.shape), -1)
    _, index = jax.lax.top_k(attention, min(STRONGEST, attention.shape[1]))
    descriptors = outputs["descriptors"].reshape(*valid.shape, -1)
    chosen = jnp.take_along_axis(descriptors, index[..., None], 1)
    return chosen, jnp.take_along_axis(valid, index, 1)


def set_reduction(
    pool: tuples.Pool,
    config: ConfigDict,
    static: Static,
    state: TrainState,
    devices: list[jax.Device],
) -> TrainState:
    """The state with HOW's reduction set to the PCA whitening of its descriptors.

    Of the first `tuples.reduce_images` images of a shuffle, the strongest cells.
    """
    model = state.params["model"]
    channels = model["reduce"]["kernel"].shape[2]
    # A reduction that changes nothing shows what goes into it.
    plain = {
        "kernel": np.eye(channels, dtype=np.float32)[None, None],
        "bias": np.zeros(channels, np.float32),
    }
    unreduced = static._replace(module=static.module.clone(reduced_dimension=channels))
    variables = {"params": {**model, "reduce": plain}, "batch_stats": state.batch_stats}
    order = np.random.default_rng(config.seed).permutation(len(pool.ids))
    numbers = order[: config.tuples.reduce_images]
    moments = whitening.Moments(0, np.zeros(channels), np.zeros((channels,) * 2))
    label, size = "descriptors for the reduction", config.views.size
    for descriptors, valid in _over(
        _strongest, pool, size, unreduced, variables, devices, numbers, label
    ):
        found = whitening.moments_of(descriptors[valid])
        moments = whitening.add_moments(moments, found)
    mean, rows, variances = whitening.fit_pca(moments, model["reduce"]["bias"].shape[0])
    rows = rows / np.sqrt(np.maximum(variances, 1e-12))[:, None]
    reduce = {
        "kernel": jnp.asarray(rows.T[None, None], jnp.float32),
        "bias": jnp.asarray(-rows @ mean, jnp.float32),
    }
    copied = jax.tree.map(jnp.copy, reduce)  # donated: a buffer has one owner.
    params = {**state.params, "model": {**model, "reduce": reduce}}
    averages = {**state.ema, "params": {**state.ema["params"], "reduce": copied}}
    return state.replace(params=params, ema=averages)


def write_whitening(
    batches: tuples.TupleBatches,
    config: ConfigDict,
    static: Static,
    devices: list[jax.Device],
    averages: Variables,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """The whitening learned from an epoch's pairs [GeM], as `global_pca` of a model."""
    pool, drawn = batches.pool, batches.drawn
    numbers, places = np.unique([drawn.queries, drawn.positives], return_inverse=True)
    # By the host that writes, alone.
    size = config.views.size
    rows = _over(_global, pool, size, static, averages, devices, numbers, "whitening")
    found = np.concatenate(list(rows))
    learned = whitening.learn_whitening(found, *places.reshape(2, -1))
    names = {"mean": "global_mean.datum", "projection": "global_projection.datum"}
    for name, array in zip(names.values(), learned, strict=True):
        datum.write_datum(folder / name, array.astype(np.float32))
    return names
