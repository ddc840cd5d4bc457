"""What runs a network on canvases: JAX on its device, or OpenVINO on the processor.

Both give the same but for rounding. OpenVINO has one graph for canvases of all sizes,
which it compiles in less than a second, and uses a processor's matrix units.
"""

import functools
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32

from delf_jax.extraction.canvases import Program, program
from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.files import InputError
from delf_jax.models.convolution import convolve, convolve_1x1
from delf_jax.models.pooling import UNCHANGED, GeMChanges
from delf_jax.progress import add_note


class Engine(NamedTuple):
    """A network, ready to run."""

    run: Callable[[np.ndarray, np.ndarray, int | None, bool], Mapping[str, Any]]
    """`canvases.extract_canvases` for canvases, sizes, keep and with_global"""
    prepare: Callable[[tuple[int, ...], int | None, bool], None]
    """compiles what will run on canvases of a shape, by any thread"""


LOCAL = ("attention", "valid", "descriptors")
# Models whose graphs are kept: one for local features and one for global ones, twice.
_MOST_MODELS = 4
_kept: list[tuple[Any, dict[Any, Callable]]] = []
_lock = threading.Lock()


def load(model: Model, settings: ExtractionSettings, changes: GeMChanges) -> Engine:
    """The network of a model, run by the engine that the settings name.

    InputError if it is not installed.
    """
    reduced = settings.precision == "bfloat16"
    if settings.engine == "jax":
        module = model.module
        if reduced and _bfloat16_pays():
            backbone = module.backbone.clone(compute_dtype="bfloat16")
            module = module.clone(backbone=backbone)
        variables = jax.device_put(model.variables)
        chosen = module, variables, changes
        return Engine(partial(_run_program, *chosen), partial(_prepare, *chosen))
    from delf_jax.extraction import openvino_graph

    core = openvino_graph.ov.Core()
    if reduced and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        reduced = False
        add_note("this processor has no instructions for bfloat16: float32 was used")
    return Engine(partial(_run_graph, core, model, reduced, changes), _skip)


def _bfloat16_pays() -> bool:
    """Whether JAX computes in bfloat16 faster than in float32; a note if not."""
    ratio = _bfloat16_seconds()
    if ratio < 1:
        return True
    add_note(
        f"bfloat16 takes JAX {ratio:.1f} times as long as float32 on this processor: "
        "float32 was used"
    )
    return False


@functools.cache
def _bfloat16_seconds() -> float:
    """Of layers of a network in bfloat16, by those in float32; 0 on accelerators."""
    if jax.default_backend() != "cpu":
        return 0.0
    return _probe(jnp.bfloat16) / _probe(jnp.float32)


def _probe(dtype: Any) -> float:
    """Seconds of a 3x3 and a 1x1 convolution of block3 at 512 x 512 pixels."""
    x, wide, narrow = (
        jnp.ones(shape, dtype)
        for shape in ((1, 32, 32, 256), (3, 3, 256, 256), (1, 1, 256, 1024))
    )

    @jax.jit
    def run(x: jax.Array) -> jax.Array:
        return convolve_1x1(convolve(x, wide, 1, ((1, 1), (1, 1))), narrow)

    jax.block_until_ready(run(x))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(run(x))
        times.append(time.perf_counter() - start)
    return min(times)


def batch_size(settings: ExtractionSettings) -> int:
    """How many canvases of one size are worth computing together."""
    on_processor = settings.engine != "jax" or jax.default_backend() == "cpu"
    return settings.batch_size or (1 if on_processor else 8)


def _run_program(
    module: Any,
    variables: Any,
    changes: GeMChanges,
    canvases: np.ndarray,
    sizes: np.ndarray,
    keep: int | None,
    with_global: bool,
) -> Mapping[str, Any]:
    chosen = _program(module, changes, canvases.shape, keep, with_global)
    return chosen(variables, canvases, sizes)


def _prepare(
    module: Any,
    variables: Any,
    changes: GeMChanges,
    shape: tuple[int, ...],
    keep: int | None,
    with_global: bool,
) -> None:
    _program(module, changes, shape, keep, with_global).compile(variables)


def _program(
    module: Any,
    changes: GeMChanges,
    shape: tuple[int, ...],
    keep: int | None,
    with_global: bool,
) -> Program:
    changes = changes if with_global else UNCHANGED
    return program(module, shape, keep, with_global, changes)


def _skip(*_: Any) -> None:
    """Graphs are for canvases of all shapes."""


def _run_graph(
    core: Any,
    model: Model,
    reduced: bool,
    changes: GeMChanges,
    canvases: np.ndarray,
    sizes: np.ndarray,
    keep: int | None,
    with_global: bool,
) -> Mapping[str, Any]:
    branch = {"changes": changes} if with_global else {"global_branch": False}
    names = [*(() if keep == 0 else LOCAL), *(["global_descriptor"] * with_global)]
    with _lock:  # A graph has memory for one batch.
        run = _graph(core, model, len(canvases), tuple(names), reduced, branch)
        found = dict(zip(names, run([canvases, sizes]).values(), strict=True))
    result = {"global_descriptor": found["global_descriptor"]} if with_global else {}
    if keep != 0:
        attention, valid, descriptors = (found[name] for name in LOCAL)
        result |= strongest(attention, valid, descriptors, keep)
    return result


def strongest(
    attention: Float32[np.ndarray, "B h w"],
    valid: Bool[np.ndarray, "B h w"],
    descriptors: Float32[np.ndarray, "B h w D"],
    keep: int | None,
) -> dict[str, np.ndarray]:
    """The strongest `keep` cells of maps, as `canvases.extract_canvases` has them."""
    count, _, width = attention.shape
    attention = np.where(valid, attention, np.float32(-1)).reshape(count, -1)
    # Largest first, ties to the lower index, and first of all what is not a number.
    order = np.argsort(attention[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :keep]
    index = attention.shape[1] - 1 - order
    descriptors = descriptors.reshape(count, -1, descriptors.shape[-1])
    return {
        "attention": np.take_along_axis(attention, index, axis=1),
        "cells": np.stack([index // width, index % width], axis=-1).astype(np.int32),
        "descriptors": np.take_along_axis(descriptors, index[..., None], axis=1),
    }


def _graph(
    core: Any,
    model: Model,
    batch: int,
    names: Sequence[str],
    reduced: bool,
    branch: Mapping[str, Any],
) -> Callable:
    """A compiled graph of the model, kept for the next call."""
    graphs = next((graphs for v, graphs in _kept if v is model.variables), None)
    if graphs is None:
        _kept.append((model.variables, graphs := {}))
        del _kept[:-_MOST_MODELS]
    key = batch, names, reduced, tuple(branch.items())
    if key not in graphs:
        graphs[key] = _compiled(core, model, batch, names, reduced, branch)
    return graphs[key]


def _compiled(
    core: Any,
    model: Model,
    batch: int,
    names: Sequence[str],
    reduced: bool,
    branch: Mapping[str, Any],
) -> Callable:
    from delf_jax.extraction.openvino_graph import UntranslatedError, make_graph

    try:
        graph = make_graph(model.module, model.variables, batch, names, **branch)
    except UntranslatedError as error:
        raise InputError(
            f"model {model.name}: the engine openvino lacks its operation {error}; "
            "leave out --engine"
        ) from None
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if reduced else "f32",
        "INFERENCE_NUM_THREADS": _allowed_cores(),
        # What runs beside it on the same cores would wait otherwise.
        "ENABLE_CPU_PINNING": False,
        "PERFORMANCE_HINT": "LATENCY",
    }
    return core.compile_model(graph, "CPU", settings)


def _allowed_cores() -> int:
    """Those that this process may use, where the system says so."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
