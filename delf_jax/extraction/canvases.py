"""Canvases that images are laid on, and the programs compiled for them.

A coarse grid of sizes makes programs few; what the network finds does not depend on it.
"""

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, Int

from delf_jax import progress, runtime
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.models.pooling import UNCHANGED, GeMChanges

# Up to so many grid steps canvases are multiples of the grid, then of twice the grid
# up to twice as many, and so on: a coarse grid makes few programs, a fine one wastes
# little area. 200 photos of 200 sizes up to 1024 pixels, at seven scales, take 289
# programs and 6 % more area; with 8 steps it would be 138 and 14 %.
FINE_STEPS = 24
# Most settings ask for fewer features than this.
KEPT_STEP = 1024
# A program of ResNet-50 takes 15 MB. One that is needed again after it was forgotten
# comes from the persistent cache in half a second. Photos of three proportions, upright
# and lying, need 34.
MAX_PROGRAMS = 34
# Programs are compiled ahead by the threads that open photos, so many at once: each
# takes a core, and memory.
_compiling = threading.BoundedSemaphore(2)


def bucket_side(side: int, grid: int) -> int:
    """The side of the canvas for an image side; see `FINE_STEPS`."""
    step = grid
    while side > FINE_STEPS * step:
        step *= 2
    return -(-side // step) * step


def kept_cells(settings: ExtractionSettings) -> int | None:
    """How many cells of each level may be needed: None is all.

    Rounded up, so that another number of features is not another program.
    """
    if settings.max_features and settings.nms_iou < 1:
        return None
    return -(-settings.max_features // KEPT_STEP) * KEPT_STEP


class Program:
    """`extract_canvases` for canvases of one shape, compiled once, by any thread."""

    def __init__(self, module: Any, shape: tuple[int, ...], **options: Any):
        self._run = functools.partial(extract_canvases, module=module, **options)
        self._inputs = (
            jax.ShapeDtypeStruct(shape, np.float32),
            jax.ShapeDtypeStruct((shape[0], 2), np.int32),
        )
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        self._of = f"{module!r} {shape} {options} {precision} {jax.default_backend()}"
        self._lock = threading.Lock()
        self._compiled: Callable[..., dict[str, Array]] | None = None

    def __call__(self, variables: Any, canvases: Any, sizes: Any) -> dict[str, Array]:
        start = time.monotonic()
        with self._lock:  # That another thread compiles it is no work of this one.
            progress.leave_out(time.monotonic() - start)
        return self.compile(variables)(variables, canvases, sizes)

    def compile(self, variables: Any) -> Callable[..., dict[str, Array]]:
        """What runs on such canvases; at its first call made, or from the cache."""
        with self._lock:
            if self._compiled is None:
                with _compiling:
                    self._compiled = self._make(variables)
            return self._compiled

    def _make(self, variables: Any) -> Callable[..., dict[str, Array]]:
        """Compiled, of what JAX traced: to trace takes longer than to load the rest."""
        inputs = variables, *self._inputs
        traced = runtime.keep(
            "program",
            self._of,
            lambda: bytes(export.export(jax.jit(self._run))(*inputs).serialize()),
        )
        call = export.deserialize(bytearray(traced)).call

        def extract_canvases(*inputs: Any) -> dict[str, Array]:  # runtime.py knows it.
            return call(*inputs)

        runtime.return_freed_memory()
        return jax.jit(extract_canvases).lower(*inputs).compile()


@functools.lru_cache(MAX_PROGRAMS)
def program(
    module: Any,
    shape: tuple[int, ...],
    keep: int | None,
    with_global: bool,
    changes: GeMChanges = UNCHANGED,
) -> Program:
    """The program for canvases of one shape, the same for all who ask."""
    options = {"keep": keep, "with_global": with_global, "changes": changes}
    return Program(module, shape, **options)


def extract_canvases(
    variables: Any,
    canvases: Float[Array, "B H W 3"],
    sizes: Int[Array, "B 2"],
    *,
    module: Any,
    keep: int | None,
    with_global: bool,
    changes: GeMChanges = UNCHANGED,
) -> dict[str, Array]:
    """The strongest `keep` cells of each canvas (None: all) and global descriptors.

    attention [B, K], -1 where there is no cell; cells [B, K, 2] (row, column) of the
    map; descriptors [B, K, D]; with_global also global_descriptor [B, G]; all raw.
    """
    branch = {"changes": changes} if with_global else {"global_branch": False}
    maps = module.apply(variables, canvases, sizes, **branch)
    result = {"global_descriptor": maps["global_descriptor"]} if with_global else {}
    if keep == 0:
        return result
    count, _, width = maps["attention"].shape
    attention = jnp.where(maps["valid"], maps["attention"], -1).reshape(count, -1)
    keep = attention.shape[1] if keep is None else min(keep, attention.shape[1])
    # Ties go to the lower index, as in the original's selection.
    result["attention"], index = jax.lax.top_k(attention, keep)
    descriptors = maps["descriptors"].reshape(count, -1, maps["descriptors"].shape[-1])
    result["cells"] = jnp.stack([index // width, index % width], axis=-1)
    result["descriptors"] = jnp.take_along_axis(descriptors, index[..., None], axis=1)
    return result
