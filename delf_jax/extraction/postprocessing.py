"""From the maps of all pyramid levels to the features of an image, on the host."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from delf_jax.extraction.pca import project
from delf_jax.extraction.settings import ExtractionSettings
from delf_jax.features import Features, LocalFeatures, is_finite
from delf_jax.files import InputError
from delf_jax.models.delf import Backbone
from delf_jax.models.efficientnet_lite import EfficientNetLite
from delf_jax.models.pooling import scale_gem
from delf_jax.models.receptive_field import block3_cells
from delf_jax.ops import normalize_rows


class NotFiniteError(InputError):
    """The features of an image are not finite."""


class Level(NamedTuple):
    """What the network gave for one pyramid level: `canvases.extract_canvases`."""

    scale: int
    """index of the image scale"""
    size: tuple[int, int]
    """(height, width) of the level in pixels"""
    maps: dict[str, np.ndarray]


def select_features(
    levels: Sequence[Level],
    original_size: tuple[int, int],
    resized_size: tuple[int, int],
    settings: ExtractionSettings,
    backbone: Backbone,
) -> Features:
    """The features of one image from its levels, in the order of the image scales.

    NotFiniteError if the model gives numbers for it that are not finite.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # It is refused below.
        features = _select(levels, original_size, resized_size, settings, backbone)
    # A location whose attention is NaN gives no feature: look at the maps, too.
    maps = [level.maps for level in levels] if settings.max_features else []
    attention = (np.isfinite(each["attention"]).all() for each in maps)
    if not is_finite(features) or not all(attention):
        raise NotFiniteError("the model gives numbers for it that are not finite")
    return features


def _select(
    levels: Sequence[Level],
    original_size: tuple[int, int],
    resized_size: tuple[int, int],
    settings: ExtractionSettings,
    backbone: Backbone,
) -> Features:
    local = None
    if settings.max_features:
        local = _select_local(levels, original_size, resized_size, settings, backbone)
    descriptor, maps = None, [level.maps for level in levels]
    if raw := [m["global_descriptor"] for m in maps if "global_descriptor" in m]:
        scaled = normalize_rows(np.stack(raw))
        if settings.global_pca is not None:
            scaled = project(scaled, settings.global_pca, "global_pca")
        descriptor = normalize_rows(scale_gem(scaled, settings.scale_power))
    return Features(local, descriptor, original_size)


def _select_local(
    levels: Sequence[Level],
    original_size: tuple[int, int],
    resized_size: tuple[int, int],
    settings: ExtractionSettings,
    backbone: Backbone,
) -> LocalFeatures:
    attention = np.concatenate([level.maps["attention"] for level in levels])
    geometry = [_geometry(level, resized_size, settings, backbone) for level in levels]
    locations, half_sizes, scales = map(np.concatenate, zip(*geometry, strict=True))
    # A place of the canvas that is no cell of the image has attention -1.
    threshold = max(settings.attention_threshold, 0.0)
    order = np.argsort(-attention, kind="stable")
    order = order[attention[order] >= np.float32(threshold)]
    if settings.nms_iou < 1:
        iou, count = settings.nms_iou, settings.max_features
        order = order[suppress(locations[order], half_sizes[order], iou, count)]
    order = order[: settings.max_features]
    descriptors = np.concatenate([level.maps["descriptors"] for level in levels])
    descriptors = normalize_rows(descriptors[order])
    if settings.pca is not None:
        descriptors = project(descriptors, settings.pca)
    locations, scales = locations[order], scales[order]
    if not settings.use_resized_coordinates:
        ratio = np.array(original_size, np.float64) / np.array(resized_size)
        if settings.locations == "delf":
            locations = locations * ratio
        else:
            locations = (locations + 0.5) * ratio - 0.5
            scales = scales * np.sqrt(ratio.prod())
    return LocalFeatures(
        locations.astype(np.float32),
        scales.astype(np.float32),
        descriptors,
        attention[order],
    )


def _geometry(
    level: Level,
    resized_size: tuple[int, int],
    settings: ExtractionSettings,
    backbone: Backbone,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each cell, in pixels of the resized image: centre, half box size, scale."""
    assert not isinstance(backbone, EfficientNetLite)  # It has no local features.
    cells = level.maps["cells"].astype(np.float64)
    released = None
    if settings.locations == "delf":
        released = np.float64(np.float32(settings.image_scales[level.scale]))
    locations, half_size, scale = block3_cells(
        backbone,
        cells,
        np.array(level.size, np.float64),
        np.array(resized_size, np.float64),
        sampled_at=settings.sampled_at,
        released_scale=released,
    )
    return locations, np.full(len(cells), half_size), np.full(len(cells), scale)


def suppress(
    locations: Float[np.ndarray, "N 2"],
    half_sizes: Float[np.ndarray, "N"],
    iou: float,
    count: int,
) -> Int[np.ndarray, "K"]:
    """Indices of at most `count` square boxes that survive non-maximum suppression.

    The boxes come best first; one goes if its intersection over union with a kept one
    is larger than `iou`.
    """
    low, high = locations - half_sizes[:, None], locations + half_sizes[:, None]
    areas = np.square(2 * half_sizes)
    alive = np.ones(len(areas), bool)
    kept = []
    for index in range(len(areas)):
        if not alive[index]:
            continue
        kept.append(index)
        if len(kept) == count:
            break
        sides = np.minimum(high, high[index]) - np.maximum(low, low[index])
        shared = np.maximum(sides, 0).prod(axis=1)
        alive &= shared <= iou * (areas + areas[index] - shared)
    return np.array(kept, np.int64)
