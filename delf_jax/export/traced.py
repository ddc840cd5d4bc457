"""Extraction as one pure function of the pixels, whose sizes may be symbolic.

What `extraction` does for many images on the host, here for one image within a program:
pyramid, canvases, the network, selection. It gives the same features, and is what is
exported: another runtime needs nothing but the pixels.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from delf_jax.extraction.model_folder import Model
from delf_jax.extraction.pca import Whitening, check_projection
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.models.receptive_field import block3_cells
from delf_jax.ops import l2_normalize, normalize_pixels

# Sides of canvases are multiples of it: the network halves five times.
GRID = 32
# A scale as a fraction, for sizes of canvases: rounded up by less than a pixel in 1024.
_DENOMINATOR = 1024


class Cells(NamedTuple):
    """The cells of one level, or of several in a row; no cell has attention -1."""

    attention: Float[Array, "N"]
    descriptors: Float[Array, "N D"]
    locations: Float[Array, "N 2"]
    half_sizes: Float[Array, "N"]
    scales: Float[Array, "N"]


def extract_image(
    image: UInt8[Array, "H W 3"],
    size: Int[Array, "2"] | None = None,
    *,
    model: Model,
    settings: ExtractionSettings,
) -> dict[str, Array]:
    """The features of an image that has been brought to its size for extraction.

    | key | shape | |
    |---|---|---|
    | count | [] int32 | the first `count` features are real, the others zero |
    | locations | [N, 2] | (y, x) of the centres, in pixels of `image` |
    | boxes | [N, 4] | (y_min, x_min, y_max, x_max) of what a feature sees |
    | scales | [N] | |
    | descriptors | [N, D] | normalised, projected if the settings have a PCA |
    | attention | [N] | the largest first |
    | global_descriptors | [S, G] | of each of the global scales, raw |
    | global_descriptor | [G] | the normalised sum of the normalised |

    N is max_features. Zeros stand for a scale at which the network has no cell.

    Args:
      size: (h, w) if the image fills only the first rows and columns; the rest may hold
        anything.
    """
    pixels = normalize_pixels(image, settings.pixel_mean, settings.pixel_std)
    if size is None:
        size = jnp.stack(
            [jnp.asarray(side).astype(jnp.int32) for side in image.shape[:2]]
        )
    cells, descriptors = [], []
    for scale in range(len(settings.image_scales)):
        with_global = scale in settings.global_scales
        if settings.max_features or with_global:
            level, maps = _run_level(pixels, size, model, settings, scale, with_global)
        if settings.max_features:
            cells.append(_cells(maps, level, size, model, settings, scale))
        if with_global:
            stages = model.module.backbone.stage_sizes((level[0], level[1]))
            seen = jnp.minimum(*stages["block3"]) > 0
            descriptors.append(jnp.where(seen, maps["global_descriptor"][0], 0))
    features = _select(cells, settings) if cells else {}
    if descriptors:
        raw = jnp.stack(descriptors)
        projected = _project(l2_normalize(raw), settings.global_pca, "global_pca")
        features["global_descriptors"] = raw
        features["global_descriptor"] = l2_normalize(projected.sum(axis=0))
    return features


def _run_level(
    pixels: Float[Array, "H W 3"],
    size: Int[Array, "2"],
    model: Model,
    settings: ExtractionSettings,
    scale: int,
    with_global: bool,
) -> tuple[Int[Array, "2"], dict[str, Array]]:
    """((height, width) of a pyramid level, what the network gives for it)."""
    image_scale = np.float32(settings.image_scales[scale])
    level = jnp.round(size.astype(jnp.float32) * image_scale).astype(jnp.int32)
    offset = model.module.backbone.canvas_offset(level)
    canvas, half = pixels, settings.sampled_at
    for axis in (0, 1):
        side = canvas_side(pixels.shape[axis], float(image_scale))
        canvas = _stretch(
            canvas, axis, size[axis], level[axis], offset[axis], side, half
        )
    skipped: dict[str, Any] = {} if with_global else {"global_branch": False}
    maps: Any = model.module.apply(
        model.variables, canvas[None], level[None], **skipped
    )
    return level, maps


def canvas_side(side: Any, image_scale: float) -> Any:
    """A multiple of the grid that holds a level, its offset and a pixel of rounding.

    The side may be symbolic: only whole numbers can be computed with those.
    """
    numerator = math.ceil(image_scale * _DENOMINATOR)
    return GRID * ((side * numerator // _DENOMINATOR + 3 + GRID - 1) // GRID)


def _stretch(
    image: Float[Array, "H W 3"],
    axis: int,
    length: Int[Array, ""],
    new_length: Int[Array, ""],
    offset: Int[Array, ""],
    side: Any,
    half: float,
) -> Float[Array, "h w 3"]:
    """One axis resized from `length` pixels to `new_length`, on a canvas of zeros.

    As `images.resize_bilinear`: two taps, no antialiasing. half: where in a pixel.
    """
    place = jnp.arange(side, dtype=jnp.int32) - offset
    ratio = length.astype(jnp.float32) / new_length.astype(jnp.float32)
    centres = (place.astype(jnp.float32) + half) * ratio - half
    upper = jnp.clip(jnp.ceil(centres).astype(jnp.int32), 0, length - 1)
    lower = jnp.clip(jnp.floor(centres).astype(jnp.int32), 0, upper)
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    weight = (centres - jnp.floor(centres)).reshape(shape)
    first, second = (
        jnp.take(image, taps, axis=axis, mode="clip") for taps in (lower, upper)
    )
    inside = ((place >= 0) & (place < new_length)).reshape(shape)
    return jnp.where(inside, first + (second - first) * weight, 0)


def _cells(
    maps: dict[str, Array],
    level: Int[Array, "2"],
    size: Int[Array, "2"],
    model: Model,
    settings: ExtractionSettings,
    scale: int,
) -> Cells:
    """All cells of one level, row by row, in pixels of the image."""
    backbone = model.module.backbone
    valid = maps["valid"][0]
    places = [
        jax.lax.broadcasted_iota(jnp.float32, valid.shape, axis) for axis in (0, 1)
    ]
    cells = jnp.stack(places, axis=-1).reshape(-1, 2)
    released = None
    if settings.locations == "delf":
        released = jnp.float32(settings.image_scales[scale])
    locations, half_size, feature_scale = block3_cells(
        backbone,
        cells,
        level.astype(jnp.float32),
        size.astype(jnp.float32),
        sampled_at=settings.sampled_at,
        released_scale=released,
    )
    attention = jnp.where(valid, maps["attention"][0], -1).ravel()
    descriptors = maps["descriptors"][0]
    descriptors = descriptors.reshape(-1, descriptors.shape[-1])
    sizes = half_size, feature_scale
    half_sizes, scales = (jnp.full(cells.shape[0], size) for size in sizes)
    return Cells(attention, descriptors, locations, half_sizes, scales)


def _select(levels: list[Cells], settings: ExtractionSettings) -> dict[str, Array]:
    """The strongest cells of all levels that reach the threshold and do not overlap."""
    count = settings.max_features
    # Cells that are none behind them, so that there are always enough to choose from.
    cells = jax.tree.map(
        lambda *arrays: jnp.pad(
            jnp.concatenate(arrays), ((0, count),) + ((0, 0),) * (arrays[0].ndim - 1)
        ),
        *levels,
    )
    real = jnp.arange(cells.attention.shape[0]) < cells.attention.shape[0] - count
    threshold = np.float32(max(settings.attention_threshold, 0.0))
    good = real & (cells.attention >= threshold)
    if settings.nms_iou < 1:
        good = suppress(cells, good, settings.nms_iou, count)
    # Ties go to the lower index, as on the host.
    attention, index = jax.lax.top_k(jnp.where(good, cells.attention, -1), count)
    kept = attention >= 0
    best = jax.tree.map(lambda x: jnp.take(x, index, axis=0, mode="clip"), cells)
    descriptors = _project(l2_normalize(best.descriptors), settings.pca, "pca")
    half = best.half_sizes[:, None]
    boxes = [best.locations - half, best.locations + half]
    features = {
        "locations": best.locations,
        "boxes": jnp.concatenate(boxes, axis=1),
        "scales": best.scales,
        "descriptors": descriptors,
        "attention": attention,
    }
    for name, x in features.items():
        features[name] = jnp.where(kept.reshape(-1, *(1,) * (x.ndim - 1)), x, 0)
    return {"count": jnp.sum(kept, dtype=jnp.int32)} | features


def _project(
    descriptors: Float[Array, "N D"], pca: Whitening | None, setting: str
) -> Float[Array, "N E"]:
    """`pca.project` in a program; without a PCA, the descriptors themselves."""
    if pca is None:
        return descriptors
    check_projection(descriptors.shape[1], pca, setting)
    projected = (descriptors - pca.mean[None]) @ pca.projection.T
    if pca.variances is not None:
        projected = projected / np.sqrt(pca.variances)[None]
    return l2_normalize(projected)


def suppress(
    cells: Cells, good: Bool[Array, "N"], iou: float, count: int
) -> Bool[Array, "N"]:
    """Which good cells survive, `count` at most: as `postprocessing.suppress`."""
    half = cells.half_sizes[:, None]
    low, high = cells.locations - half, cells.locations + half
    areas = jnp.square(2 * cells.half_sizes)

    def keep_one(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        alive, kept = state
        best = jnp.argmax(jnp.where(alive, cells.attention, -1))
        sides = jnp.minimum(high, high[best][None]) - jnp.maximum(low, low[best][None])
        shared = jnp.prod(jnp.maximum(sides, 0), axis=1)
        overlaps = shared > iou * (areas + areas[best] - shared)
        here = jnp.arange(alive.shape[0]) == best
        return alive & ~overlaps & ~here, kept | (here & alive)

    nothing = jnp.zeros_like(good)
    return jax.lax.fori_loop(0, count, keep_one, (good, nothing))[1]
