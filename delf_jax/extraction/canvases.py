"""Canvases that images are laid on, and the programs compiled for them.

A coarse grid of sizes makes programs few; what the network finds does not depend on it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.models.pooling import UNCHANGED, GeMChanges
from delf_jax.runtime import return_freed_memory

# Up to so many grid steps canvases are multiples of the grid, then of twice the grid
# up to twice as many, and so on: a coarse grid makes few programs, a fine one wastes
# little area. At 1024 pixels this one wastes 4.5 % and 200 sizes of photos need 93
# programs; with 8 steps it would be 11 % and 51.
FINE_STEPS = 24
# Most settings ask for fewer features than this.
KEPT_STEP = 1024
# A program of ResNet-50 takes 15 MB. One that is needed again after it was forgotten
# comes from the persistent cache in half a second. Photos of three proportions, upright
# and lying, need 34.
MAX_PROGRAMS = 34


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


@functools.lru_cache(MAX_PROGRAMS)
def program(
    module: Any,
    shape: tuple[int, ...],
    keep: int | None,
    with_global: bool,
    changes: GeMChanges = UNCHANGED,
) -> Callable[..., dict[str, Array]]:
    """`extract_canvases` for canvases of one shape, compiled on its first call."""
    return_freed_memory()
    options = {"module": module, "keep": keep, "with_global": with_global}
    return jax.jit(functools.partial(extract_canvases, changes=changes, **options))


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
